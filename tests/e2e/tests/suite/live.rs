//! Live migration: submissions go on, what is too young waits, and the last run takes the rest.

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Duration, Utc};
use e2e::world::{Options, World};
use generator::GeneratedDomain;
use serde_json::Value;

use crate::{assert_clean, domain};

/// Ids of the main forms with the time of their arrival, in its order.
pub(crate) fn arrivals(generated: &GeneratedDomain) -> Result<Vec<(DateTime<Utc>, String)>> {
    let mut found = Vec::new();
    for doc in &generated.docs {
        if doc["doc_type"] == "XFormInstance" {
            let date = doc["received_on"].as_str().context("a form has a date")?;
            let id = doc["_id"].as_str().context("a document has an id")?;
            found.push((DateTime::parse_from_rfc3339(date)?.with_timezone(&Utc), id.to_owned()));
        }
    }
    found.sort();
    Ok(found)
}

/// A moment in the middle of the widest of the gaps between arrivals around this share of them: the test takes some seconds,
/// and a cut-off moves with the clock.
pub(crate) fn quiet_moment(arrivals: &[(DateTime<Utc>, String)], share: usize) -> DateTime<Utc> {
    let (middle, reach) = (arrivals.len() * share / 100, arrivals.len() / 8);
    let around = &arrivals[middle - reach..middle + reach];
    let widest = around.windows(2).max_by_key(|pair| pair[1].0 - pair[0].0);
    let pair = widest.expect("there are hundreds of forms");
    assert!(
        pair[1].0 - pair[0].0 > Duration::minutes(2),
        "the forms come too close together for this test"
    );
    pair[0].0 + Duration::seconds(1)
}

/// A configuration whose minimum age puts the cut-off right after this moment.
pub(crate) fn up_to(world: &World, moment: DateTime<Utc>) -> Result<String> {
    let age = (Utc::now() - moment).num_seconds();
    world.configuration_with("live.toml", &[("live.minimum_age", &format!("\"{age}s\""))])
}

async fn run(world: &mut World, configuration: &str, action: &str, flags: &[&str]) -> Result<e2e::program::Output> {
    let mut arguments = vec![
        "--config",
        configuration,
        "migrate_domain_from_couch_to_sql",
        "living",
        action,
        "--no-input",
    ];
    arguments.extend(flags);
    world.coordinator_bare(&arguments, &[]).await
}

async fn flag(world: &World) -> Result<String> {
    let row = world
        .target()
        .query_one(
            "select migration_status from domain_migration_flags_domainmigrationprogress
             where domain = 'living' and migration_slug = 'couch_to_sql'",
            &[],
        )
        .await?;
    Ok(row.get(0))
}

/// Those of these forms that are in SQL.
async fn in_sql(world: &World, arrivals: &[(DateTime<Utc>, String)]) -> Result<Vec<String>> {
    let ids: Vec<&str> = arrivals.iter().map(|(_, id)| id.as_str()).collect();
    let rows = world
        .target()
        .query(
            "select form_id from form_processor_xforminstancesql
             where domain = 'living' and form_id = any($1) order by form_id collate \"C\"",
            &[&ids],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn ids_up_to(arrivals: &[(DateTime<Utc>, String)], moment: DateTime<Utc>) -> Vec<String> {
    let mut ids: Vec<String> = arrivals
        .iter()
        .filter(|(date, _)| *date <= moment)
        .map(|(_, id)| id.clone())
        .collect();
    ids.sort();
    ids
}

fn nothing_differs(stats: &Value) -> Result<()> {
    for row in stats["doc_types"].as_array().into_iter().flatten() {
        for column in ["diffs", "missing", "changes"] {
            ensure!(row[column] == 0, "{column} in {row}");
        }
    }
    ensure!(stats["errors"] == 0, "{stats}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_migration_takes_what_is_old_enough_and_finish_the_rest() -> Result<()> {
    let generated = domain("living", 800);
    let arrivals = arrivals(&generated)?;
    let (early, late) = (quiet_moment(&arrivals, 40), quiet_moment(&arrivals, 80));
    let mut world = World::start(Options::default().workers(1)).await?;
    world.load(&generated).await?;

    let refused = world.domain("living", "MIGRATE", &["--finish"]).await?.ended_with(1);
    ensure!(refused.stderr.contains("C2S-4053"), "{}", refused.told());

    let configuration = up_to(&world, early)?;
    // Cases that wait for their time are no differences.
    let first = run(&mut world, &configuration, "MIGRATE", &["--live"]).await?.ok();
    ensure!(first.stdout.contains("live up to"), "{}", first.told());
    ensure!(in_sql(&world, &arrivals).await? == ids_up_to(&arrivals, early));
    ensure!(flag(&world).await? == "dry_run", "HQ goes on taking submissions");
    let stats = world.stats("living").await?;
    ensure!(stats["status"] == "dry_run", "{stats}");
    nothing_differs(&stats)?;
    ensure!(
        stats["pending_case_diffs"].as_i64() > Some(0) && stats["cases_after_cutoff"] == stats["pending_case_diffs"],
        "cases with later forms are not compared: {stats}"
    );
    for (action, flags, code) in [("COMMIT", &[][..], "C2S-4005"), ("unfinish", &[], "C2S-4054")] {
        let refused = world.domain("living", action, flags).await?.ended_with(1);
        ensure!(refused.stderr.contains(code), "{}", refused.told());
    }
    let listed = world.coordinator(&["show_started_migrations"]).await?.ok();
    ensure!(listed.stdout.starts_with("dry_run\n  living ("), "{}", listed.told());

    // Without a switch it stays live.
    let configuration = up_to(&world, late)?;
    let second = run(&mut world, &configuration, "MIGRATE", &[]).await?.ok();
    ensure!(second.stdout.contains("live up to"), "{}", second.told());
    ensure!(in_sql(&world, &arrivals).await? == ids_up_to(&arrivals, late));
    ensure!(flag(&world).await? == "dry_run");
    nothing_differs(&world.stats("living").await?)?;

    // Finishing can be taken back, and done again.
    world.domain("living", "MIGRATE", &["--finish"]).await?.ok();
    ensure!(flag(&world).await? == "in_progress");
    let refused = world.domain("living", "MIGRATE", &["--live"]).await?.ended_with(1);
    ensure!(refused.stderr.contains("C2S-4052"), "{}", refused.told());
    world.domain("living", "unfinish", &[]).await?.ok();
    ensure!(flag(&world).await? == "dry_run");
    let refused = world.domain("living", "COMMIT", &[]).await?.ended_with(1);
    ensure!(refused.stderr.contains("C2S-4005"), "{}", refused.told());
    // The scans are past the cut-off now; that is the end of them.
    let configuration = up_to(&world, late)?;
    let third = run(&mut world, &configuration, "MIGRATE", &[]).await?;
    ensure!(third.stdout.contains("live up to"), "{}", third.told());
    let finish = world.domain("living", "MIGRATE", &["--finish"]).await?.ok();
    ensure!(finish.stdout.contains("clean"), "{}", finish.told());

    // Forms that somebody began to compare, while nothing else is to be compared.
    world
        .state()
        .execute(
            "insert into batch (migration_id, stage, doc_type, ids, item_count)
             select id, 'diff', 'XFormInstance', $1::text[], 1 from migration",
            &[&vec![&arrivals[0].1]],
        )
        .await?;
    world.domain("living", "MIGRATE", &[]).await?.ok();
    ensure!(world.number("select count(*) from batch where state <> 'done'").await? == 0);
    assert_clean(&world.stats("living").await?, &generated.model)?;
    world.assert_same_rows("living", &generated.model).await?;
    world.domain("living", "COMMIT", &[]).await?.ok();
    let listed = world.coordinator(&["show_started_migrations"]).await?.ok();
    ensure!(listed.stdout.is_empty(), "{}", listed.told());
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_domains_is_begun_live_and_left_live() -> Result<()> {
    let mut world = World::start(Options::default().workers(1)).await?;
    for name in ["one", "two"] {
        world.load(&domain(name, 60)).await?;
    }
    let output = world
        .coordinator(&["migrate_multiple_domains_from_couch_to_sql", "--live", ":one:two"])
        .await?
        .ok();
    for name in ["one", "two"] {
        ensure!(output.stderr.contains(&format!("{name}: live")), "{}", output.told());
        ensure!(world.stats(name).await?["status"] == "dry_run");
    }
    world.end()
}
