//! Before a migration: `domains`, `plan`, `support-request`. They write nothing anywhere.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use e2e::world::{Options, World};
use serde_json::Value;
use tokio_postgres::Client;

use crate::domain;

/// Nothing listens there.
const NOWHERE: &str = "\"amqp://guest@127.0.0.1:9/\"";

/// Number and digest of the rows of every table of a schema.
async fn contents(client: &Client, schema: &str) -> Result<BTreeMap<String, (i64, Option<String>)>> {
    let tables = client
        .query(
            "select tablename::text from pg_tables where schemaname = $1 order by 1",
            &[&schema],
        )
        .await?;
    let mut found = BTreeMap::new();
    for table in tables {
        let table: String = table.get(0);
        let sql =
            format!("select count(*), md5(string_agg(t::text, E'\\n' order by t::text)) from {schema}.\"{table}\" t");
        let row = client.query_one(&sql, &[]).await?;
        found.insert(table, (row.get(0), row.get(1)));
    }
    Ok(found)
}

type Contents = BTreeMap<String, (i64, Option<String>)>;

/// Everything that a command could have written to.
async fn everything(world: &World) -> Result<(Contents, Contents, String, String, Vec<std::path::PathBuf>)> {
    let mut blobs: Vec<_> = std::fs::read_dir(world.folder().join("blobs"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    blobs.sort();
    Ok((
        contents(world.state(), "couch_sql_migration").await?,
        contents(world.target(), "public").await?,
        world.source().forms().info().await?.update_seq,
        world.source().domains().info().await?.update_seq,
        blobs,
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_leaves_no_trace_anywhere() -> Result<()> {
    let mut world = World::start(Options::in_process()).await?;
    world.load(&domain("planned", 60)).await?;
    // With a broker that is not there: whoever spoke to it would fail.
    let configuration = world.configuration_with("no-broker.toml", &[("broker.url", NOWHERE)])?;
    let before = everything(&world).await?;
    for arguments in [
        &["plan", "planned"][..],
        &["plan", "planned", "--json"],
        &["support-request", "planned"],
        &["domains"],
        &["domains", "--json"],
    ] {
        let mut all = vec!["--config", &configuration];
        all.extend(arguments);
        let output = world.coordinator_bare(&all, &[]).await?.ok();
        ensure!(!output.stdout.is_empty(), "{}", output.told());
    }
    let unknown = world
        .coordinator_bare(&["--config", &configuration, "plan", "no-such"], &[])
        .await?
        .ended_with(1);
    ensure!(unknown.stderr.contains("C2S-4010"), "{}", unknown.told());
    let after = everything(&world).await?;
    ensure!(before == after, "before: {before:#?}\nafter: {after:#?}");
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_are_learnt_from_past_runs_and_domains_on_sql_are_not_listed() -> Result<()> {
    let mut world = World::start(Options::in_process()).await?;
    let (done, small) = (domain("done", 200), domain("not-yet", 60));
    world.load(&done).await?;
    world.load(&small).await?;
    let unknown = plan(&mut world, "not-yet").await?;
    ensure!(unknown["seconds"].is_null() && unknown["ready"] == true, "{unknown}");
    let forms = small.model.doc_counts.get("XFormInstance").copied().unwrap_or_default();
    ensure!(unknown["documents"]["XFormInstance"] == forms, "{unknown}");

    world.domain("done", "MIGRATE", &[]).await?.ok();
    world.domain("done", "COMMIT", &[]).await?.ok();
    let known = plan(&mut world, "not-yet").await?;
    let seconds = |which: &str| known["seconds"][which].as_f64().unwrap_or_default();
    ensure!(
        0.0 < seconds("low") && seconds("low") < seconds("likely") && seconds("likely") < seconds("high"),
        "{known}"
    );
    let on_sql = world.coordinator(&["plan", "done"]).await?.ended_with(1);
    ensure!(
        on_sql.stdout.contains("C2S-4002") && on_sql.stdout.ends_with("Not ready.\n"),
        "{}",
        on_sql.told()
    );

    let folder = world.folder().join("domains");
    let listed = world
        .coordinator(&["domains", "-o", &folder.to_string_lossy(), "--json"])
        .await?
        .ok();
    let listed: Value = serde_json::from_str(&listed.stdout).with_context(|| listed.told())?;
    let domains = listed["domains"].as_array().context("a list")?;
    ensure!(domains.len() == 1 && domains[0]["domain"] == "not-yet", "{listed}");
    ensure!(domains[0]["forms"] == forms, "{listed}");
    let last = small
        .docs
        .iter()
        .filter(|doc| doc["doc_type"] == "XFormInstance")
        .filter_map(|doc| doc["received_on"].as_str())
        .max();
    ensure!(domains[0]["last_submission"].as_str() == last, "{listed}, not {last:?}");
    let class = domains[0]["class"].as_str().context("a class")?.to_owned();
    let names = std::fs::read_to_string(folder.join(format!("{class}.txt")))?;
    ensure!(names == "not-yet\n", "{names}");
    let csv = std::fs::read_to_string(folder.join("domains.csv"))?;
    ensure!(
        csv.lines().count() == 2 && csv.contains(&format!("{class},not-yet,{forms},")),
        "{csv}"
    );
    world.end()
}

async fn plan(world: &mut World, name: &str) -> Result<Value> {
    let output = world.coordinator(&["plan", name, "--json"]).await?.ok();
    serde_json::from_str(&output.stdout).with_context(|| output.told())
}
