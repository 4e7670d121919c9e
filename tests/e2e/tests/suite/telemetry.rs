//! What the processes say of themselves.

use anyhow::{Context, Result, ensure};
use e2e::program::Program;
use e2e::world::{Options, World};
use proto::topology::Stage;
use serde_json::Value;

use crate::{domain, migrate_cleanly};

/// Where a process serves its pages: its log says so.
fn address(program: &Program) -> Option<String> {
    program
        .log()
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|line| {
            let message = line["message"].as_str()?;
            let address = line["address"].as_str()?;
            message.starts_with("serving /metrics").then(|| address.to_owned())
        })
}

async fn page(address: &str, path: &str) -> Result<String> {
    let answer = reqwest::get(format!("http://{address}{path}"))
        .await
        .context("ask for a page")?;
    ensure!(
        answer.status() == reqwest::StatusCode::OK,
        "{path} answers {}",
        answer.status()
    );
    Ok(answer.text().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_service_answers_with_metrics_and_health() -> Result<()> {
    let generated = domain("measured", 200);
    let mut world = World::start(Options {
        serve: true,
        ..Options::default().workers(1)
    })
    .await?;
    world.load(&generated).await?;
    migrate_cleanly(&mut world, "measured", &generated.model).await?;
    for (name, metric) in [
        ("form-worker", "c2s_batches_total{stage=\"form\",outcome=\"done\"}"),
        ("case-worker", "c2s_batches_total{stage=\"case\",outcome=\"done\"}"),
        ("diff-worker", "c2s_batches_total{stage=\"diff\",outcome=\"done\"}"),
        ("serve", "c2s_batches_published_total"),
    ] {
        world
            .until(&format!("{name} says where its pages are"), async |world| {
                Ok(address(world.program(name)?).is_some())
            })
            .await?;
        let address = address(world.program(name)?).context("address")?;
        let metrics = page(&address, "/metrics").await.with_context(|| name.to_owned())?;
        ensure!(metrics.contains(metric), "{name} has no {metric}:\n{metrics}");
        ensure!(
            !metrics.contains("measured"),
            "a domain's name among the metrics of {name}"
        );
        page(&address, "/healthz").await.with_context(|| name.to_owned())?;
        page(&address, "/readyz").await.with_context(|| name.to_owned())?;
    }
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trace_of_a_command_travels_with_its_messages() -> Result<()> {
    let generated = domain("traced", 60);
    // Nobody collects the spans; they are made all the same.
    let options = Options::default()
        .workers(0)
        .with("telemetry.otlp_endpoint", "\"http://127.0.0.1:9\"");
    let mut world = World::start(options).await?;
    world.load(&generated).await?;
    let command = world.begin_domain("traced", "MIGRATE", &[])?;
    let queue = Stage::Form.queue();
    world
        .until("a batch is published", async |world| {
            Ok(world.queues().depth(queue).await.is_some_and(|depth| depth > 0))
        })
        .await?;
    let message = world.queues().take(queue).await?.context("a message")?;
    let parent = message
        .headers
        .get("traceparent")
        .with_context(|| format!("headers {:?}", message.headers))?;
    // version-trace-span-flags
    let parts: Vec<&str> = parent.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    ensure!(
        lengths == [2, 32, 16, 2] && parts[1].bytes().any(|digit| digit != b'0'),
        "{parent}"
    );
    command.kill().await?;
    world.end()
}
