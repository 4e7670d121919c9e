//! A domain from its first stats to COMMIT.

use anyhow::{Result, ensure};
use e2e::environment;
use e2e::settings::Settings;
use e2e::source::SourceKind;
use e2e::world::{Options, World};
use generator::GeneratedDomain;

use crate::{assert_clean, domain, migrate_cleanly};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_domain_of_20000_forms_migrates_to_the_model() -> Result<()> {
    let generated = domain("demo", 20_000);
    let mut settings = Settings::for_measurements();
    settings.set("telemetry.log_filter", "\"warn\"");
    let mut world = World::start(Options {
        settings,
        ..Options::default()
    })
    .await?;
    from_stats_to_commit(&mut world, "demo", &generated).await?;
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_on_pouchdb_server_migrates_to_the_model() -> Result<()> {
    let generated = domain("pouch", 1500);
    let source = SourceKind::Server(environment::pouchdb()?);
    let mut world = World::start(
        Options {
            source,
            ..Options::default()
        }
        .workers(1),
    )
    .await?;
    from_stats_to_commit(&mut world, "pouch", &generated).await?;
    world.end()
}

/// What an operator does with a domain, and what is true after each step.
async fn from_stats_to_commit(world: &mut World, name: &str, generated: &GeneratedDomain) -> Result<()> {
    world.load(generated).await?;
    let before = world.stats(name).await?;
    ensure!(before["status"] == "not_started", "{before}");
    assert_clean(&before, &generated.model)?;

    migrate_cleanly(world, name, &generated.model).await?;
    ensure!(world.stats(name).await?["status"] == "in_progress");
    ensure!(progress(world, name, "couch_to_sql").await?.as_deref() == Some("in_progress"));
    ensure!(world.source().domain_doc(name).await?["use_sql_backend"] == false);

    world.domain(name, "COMMIT", &[]).await?.ok();
    let after = world.stats(name).await?;
    ensure!(after["status"] == "complete", "{after}");
    assert_clean(&after, &generated.model)?;
    let doc = world.source().domain_doc(name).await?;
    ensure!(doc["use_sql_backend"] == true, "{doc}");
    ensure!(
        doc["hr_name"] == generated.domain_doc["hr_name"],
        "the rest of the Domain document stays: {doc}"
    );
    for slug in ["couch_to_sql", "tzmigration"] {
        ensure!(
            progress(world, name, slug).await?.as_deref() == Some("complete"),
            "{slug}"
        );
    }
    world.assert_same_rows(name, &generated.model).await
}

/// HQ's progress flag.
async fn progress(world: &World, name: &str, slug: &str) -> Result<Option<String>> {
    let row = world
        .target()
        .query_opt(
            "select migration_status from domain_migration_flags_domainmigrationprogress
             where domain = $1 and migration_slug = $2",
            &[&name, &slug],
        )
        .await?;
    Ok(row.map(|row| row.get(0)))
}
