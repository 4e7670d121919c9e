//! Everything in one process, several domains at once, several databases.

use anyhow::{Result, ensure};
use e2e::world::{Options, World};

use crate::{assert_clean, domain, migrate_cleanly};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_in_the_process_gives_the_same_rows_on_two_shards() -> Result<()> {
    let generated = domain("sharded", 500);
    let mut world = World::start(Options {
        shards: 2,
        ..Options::in_process()
    })
    .await?;
    world.load(&generated).await?;
    migrate_cleanly(&mut world, "sharded", &generated.model).await?;
    for client in world.shards().clients() {
        let count: i64 = client
            .query_one("select count(*) from form_processor_xforminstancesql", &[])
            .await?
            .get(0);
        ensure!(count > 100, "{count} forms on one shard");
    }
    let blobmeta = world.blobmeta_dump().await?;
    world.domain("sharded", "reset", &[]).await?.ok();
    ensure!(
        world.blobmeta_dump().await?.len() < blobmeta.len(),
        "what the migration added is gone"
    );
    migrate_cleanly(&mut world, "sharded", &generated.model).await?;
    world.domain("sharded", "COMMIT", &[]).await?.ok();
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standalone_takes_a_run_that_a_command_left_to_it() -> Result<()> {
    let generated = domain("detached", 300);
    let mut world = World::start(Options::in_process()).await?;
    world.load(&generated).await?;
    let nobody = world.domain("detached", "MIGRATE", &["--detach"]).await?.ended_with(1);
    ensure!(nobody.stderr.contains("C2S-4008"), "{}", nobody.told());
    world.start_program("standalone", "coordinator", &["standalone"])?;
    world
        .wait_until("select count(*) > 0 from instance where kind = 'serve'")
        .await?;
    world.domain("detached", "MIGRATE", &["--detach"]).await?.ok();
    world
        .wait_until("select count(*) > 0 from run where state = 'finished'")
        .await?;
    assert_clean(&world.stats("detached").await?, &generated.model)?;
    world.assert_same_rows("detached", &generated.model).await?;
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_domains_is_migrated_side_by_side_and_committed() -> Result<()> {
    let mut world = World::start(Options::default()).await?;
    let domains = ["first", "second", "third"].map(|name| (name, domain(name, 250)));
    for (_, generated) in &domains {
        world.load(generated).await?;
    }
    let list = world.folder().join("domain-list.txt");
    std::fs::write(&list, "first\n# a comment\n\nsecond\nthird\n")?;
    let output = world
        .coordinator(&["migrate_multiple_domains_from_couch_to_sql", &list.to_string_lossy()])
        .await?
        .ok();
    ensure!(
        output.stdout.contains("All migrations successful!"),
        "{}",
        output.told()
    );
    for (name, generated) in &domains {
        let stats = world.stats(name).await?;
        ensure!(stats["status"] == "complete", "{stats}");
        assert_clean(&stats, &generated.model)?;
        world.assert_same_rows(name, &generated.model).await?;
        ensure!(world.source().domain_doc(name).await?["use_sql_backend"] == true);
    }
    let overlapping = world
        .number("select count(*) from run a join run b on a.id < b.id and a.started_at < b.ended_at and b.started_at < a.ended_at")
        .await?;
    ensure!(overlapping == 3, "{overlapping} pairs of runs were on at the same time");
    world.end()
}
