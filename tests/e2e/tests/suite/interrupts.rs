//! Ctrl-C, once and twice, and drivers that die: real processes, real signals.

use anyhow::{Result, ensure};
use couch_standin::{Action, FaultRule, OpKind, Predicate, RuleId};
use e2e::program::{RunningCommand, Signal};
use e2e::world::{Options, World};

use crate::{PATIENCE, assert_clean, domain};

/// Begins a MIGRATE and gives it when a worker waits for documents in the midst of it.
async fn begin_and_hold(world: &mut World, name: &str) -> Result<(RunningCommand, RuleId)> {
    // The first bulk read of a first run is the start's own look at the blob store.
    let skip = u32::from(world.number("select count(*) from run").await? == 0) + 1;
    let rule = world
        .source()
        .stand_in()
        .faults()
        .add(FaultRule::once(Predicate::op(OpKind::BulkGet), Action::Hold).after(skip));
    let command = world.begin_domain(name, "MIGRATE", &[])?;
    ensure!(world.source().stand_in().faults().reached(rule, 1).await);
    Ok((command, rule))
}

fn release(world: &World, rule: RuleId) {
    world.source().stand_in().faults().remove(rule);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_stops_after_the_batches_in_flight_and_once_more_at_once() -> Result<()> {
    let generated = domain("impatient", 900);
    let mut world = World::start(Options::default().workers(1)).await?;
    world.load(&generated).await?;

    let (mut command, rule) = begin_and_hold(&mut world, "impatient").await?;
    command.signal(Signal::Interrupt)?;
    // It waits for the worker that holds a batch: the run is not over before that is.
    world
        .wait_until("select count(*) > 0 from batch where state = 'claimed'")
        .await?;
    ensure!(command.is_running(), "it did not wait: {}", command.stderr());
    release(&world, rule);
    let stopped = command.end(PATIENCE).await?.ended_with(130);
    ensure!(
        stopped.stderr.contains("MIGRATE goes on from here"),
        "{}",
        stopped.told()
    );
    ensure!(world.text("select state from run").await?.as_deref() == Some("stopped"));
    ensure!(
        world
            .number("select count(*) from batch where state = 'claimed'")
            .await?
            == 0
    );

    let (command, rule) = begin_and_hold(&mut world, "impatient").await?;
    command.signal(Signal::Interrupt)?;
    // Two signals of a kind at once are one.
    world
        .until("it says that it stops", async |_| {
            Ok(command.stderr().contains("once more stops at once"))
        })
        .await?;
    command.signal(Signal::Interrupt)?;
    // The worker still waits for its documents: nobody has waited for it.
    command.end(PATIENCE).await?.ended_with(130);
    ensure!(
        world
            .number("select count(*) from batch where state = 'claimed'")
            .await?
            > 0
    );
    release(&world, rule);

    world.domain("impatient", "MIGRATE", &[]).await?.ok();
    assert_clean(&world.stats("impatient").await?, &generated.model)?;
    world.assert_same_rows("impatient", &generated.model).await?;
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_takes_up_the_run_of_a_driver_that_died_and_ctrl_c_leaves_it_its_runs() -> Result<()> {
    let generated = domain("orphan", 600);
    let mut world = World::start(Options::default().workers(1)).await?;
    world.load(&generated).await?;
    let (command, rule) = begin_and_hold(&mut world, "orphan").await?;
    command.kill().await?;
    world.start_program("serve", "coordinator", &["serve"])?;
    world
        .wait_until(
            "select count(*) > 0 from migration m join instance i on i.kind = 'serve'
             where m.driver_until > now() and m.driver_name like '%pid ' || i.pid",
        )
        .await?;

    // Another command follows the run; Ctrl-C ends the command and not the run.
    let follower = world.begin_domain("orphan", "MIGRATE", &[])?;
    world
        .until("it says whom it follows", async |_| {
            Ok(follower.stderr().contains("is being migrated already"))
        })
        .await?;
    follower.signal(Signal::Interrupt)?;
    let left = follower.end(PATIENCE).await?.ended_with(130);
    ensure!(
        left.stderr.contains("the run goes on without this command"),
        "{}",
        left.told()
    );
    ensure!(world.text("select state from run").await?.as_deref() == Some("running"));
    release(&world, rule);
    world.wait_until("select state = 'finished' from run").await?;
    ensure!(world.number("select count(*) from run").await? == 1, "it is one run");
    assert_clean(&world.stats("orphan").await?, &generated.model)?;
    world.assert_same_rows("orphan", &generated.model).await?;
    world.end()
}
