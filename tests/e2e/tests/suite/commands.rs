//! Several commands on one domain at once.

use anyhow::{Result, ensure};
use couch_standin::{Action, FaultRule, OpKind, Predicate};
use e2e::world::{Options, World};

use crate::{PATIENCE, assert_clean, domain};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_migrate_commands_at_once_and_stats_at_any_time() -> Result<()> {
    let generated = domain("busy", 800);
    let mut world = World::start(Options::default()).await?;
    world.load(&generated).await?;
    // Neither may end before the other has begun. The first bulk read is the start's own look at the blob store.
    let rule = world
        .source()
        .stand_in()
        .faults()
        .add(FaultRule::once(Predicate::op(OpKind::BulkGet), Action::Hold).after(1));
    let first = world.begin_domain("busy", "MIGRATE", &[])?;
    ensure!(world.source().stand_in().faults().reached(rule, 1).await);
    let second = world.begin_domain("busy", "MIGRATE", &[])?;
    world
        .until("the second command says whom it follows", async |_| {
            Ok(second.stderr().contains("is being migrated already"))
        })
        .await?;
    let commit = world.domain("busy", "COMMIT", &[]).await?.ended_with(1);
    ensure!(
        commit.stderr.contains("C2S-4007"),
        "COMMIT during a run: {}",
        commit.told()
    );
    let early = world.stats("busy").await?;
    ensure!(early["status"] == "in_progress", "{early}");
    world.source().stand_in().faults().remove(rule);

    let mut ended = Box::pin(async { tokio::try_join!(first.end(PATIENCE), second.end(PATIENCE)) });
    let mut looks = 0;
    let (first, second) = loop {
        tokio::select! {
            both = &mut ended => break both?,
            stats = world.stats("busy") => {
                ensure!(stats?["status"] == "in_progress");
                looks += 1;
            }
        }
    };
    ensure!(looks > 0, "the run was over before anybody looked");
    for output in [first.ok(), second.ok()] {
        ensure!(output.stdout.contains("clean"), "{}", output.told());
    }
    ensure!(
        world.number("select count(*) from run").await? == 1,
        "both commands follow one run"
    );
    assert_clean(&world.stats("busy").await?, &generated.model)?;
    world.assert_same_rows("busy", &generated.model).await?;
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_stopped_and_goes_on() -> Result<()> {
    let generated = domain("pausing", 600);
    let mut world = World::start(Options::default().workers(1)).await?;
    world.load(&generated).await?;
    let rule = world
        .source()
        .stand_in()
        .faults()
        .add(FaultRule::once(Predicate::op(OpKind::BulkGet), Action::Hold).after(2));
    let run = world.begin_domain("pausing", "MIGRATE", &[])?;
    ensure!(world.source().stand_in().faults().reached(rule, 1).await);
    world.coordinator(&["stop", "pausing"]).await?.ok();
    world.source().stand_in().faults().remove(rule);
    let stopped = run.end(PATIENCE).await?.ended_with(130);
    ensure!(
        stopped.stderr.contains("MIGRATE goes on from here"),
        "{}",
        stopped.told()
    );
    let commit = world.domain("pausing", "COMMIT", &[]).await?.ended_with(1);
    ensure!(commit.stderr.contains("C2S-4040"), "{}", commit.told());
    world.domain("pausing", "MIGRATE", &[]).await?.ok();
    assert_clean(&world.stats("pausing").await?, &generated.model)?;
    world.assert_same_rows("pausing", &generated.model).await?;
    world.end()
}
