//! Measures a whole migration, beside what the servers under it can do at best.
//!
//! The same generated documents are read and written three times on the same machine: migrated by the real processes;
//! read raw (view keys and bodies, nothing done with them); written raw (as many rows of text, by COPY, into a table
//! without indexes). Everything runs at the same time on this machine: source, PostgreSQL, RabbitMQ, driver, workers.

mod raw;
mod report;
mod stages;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use e2e::load::Loaded;
use e2e::settings::Settings;
use e2e::source::SourceKind;
use e2e::world::{Options, World};

use report::Report;
use stages::Watch;

const DOMAIN: &str = "bench";

/// Measures a migration stage by stage, and process by process.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Forms to migrate
    #[arg(long, default_value_t = 20_000)]
    forms: usize,
    /// `stand-in`, or the URL of a CouchDB with its administrator's name and password
    #[arg(long, default_value = "stand-in")]
    source: String,
    /// The same seed gives the same documents
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Workers of each kind
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// A setting in TOML, such as driver.window=32; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("bench: failed ({error:#})");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let source = match arguments.source.as_str() {
        "stand-in" => SourceKind::StandIn,
        url => SourceKind::Server(url.parse().context("--source is neither stand-in nor a URL")?),
    };
    let mut settings = Settings::for_measurements();
    for setting in &arguments.settings {
        let (key, value) = setting
            .split_once('=')
            .with_context(|| format!("--set {setting}: KEY=VALUE is expected"))?;
        settings.set(key.trim(), value.trim());
    }
    let options = Options {
        source,
        settings,
        workers: arguments.workers,
        ..Options::default()
    };
    let mut world = World::start(options).await?;
    let loaded = load_domain(&world, arguments).await?;

    let report = Report {
        loaded,
        run: migrate(&mut world).await?,
        raw: raw::measure(&world, DOMAIN, loaded).await?,
    };
    report.print(&arguments.source, arguments.workers);
    world.end()
}

/// Generates the domain and loads it, piece by piece.
async fn load_domain(world: &World, arguments: &Arguments) -> Result<Loaded> {
    let started = Instant::now();
    let loaded = world
        .load_streamed(&generator::Options::new(DOMAIN, arguments.forms, arguments.seed))
        .await?;
    world
        .target()
        .batch_execute("analyze blobs_blobmeta; checkpoint")
        .await?;
    eprintln!(
        "{} documents loaded in {:.0} s",
        loaded.documents(),
        started.elapsed().as_secs_f64()
    );
    Ok(loaded)
}

/// Runs MIGRATE, and watches it. What it finds must be clean, or the figures mean nothing.
async fn migrate(world: &mut World) -> Result<stages::Run> {
    let command = world.begin_domain(DOMAIN, "MIGRATE", &[])?;
    let watch = Watch::start(world, command.pid()).await?;
    let run = watch.until_the_end(world, command).await?;
    let stats = world.stats(DOMAIN).await?;
    for row in stats["doc_types"].as_array().into_iter().flatten() {
        ensure!(
            row["diffs"] == 0 && row["missing"] == 0 && row["changes"] == 0,
            "the migration is not clean: {row}"
        );
    }
    ensure!(stats["errors"] == 0, "the migration is not clean: {stats}");
    Ok(run)
}
