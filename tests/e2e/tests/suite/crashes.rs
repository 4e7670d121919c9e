//! Processes that die, and a broker that goes away: the run goes on, and does not begin anew.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use couch_standin::{Action, FaultRule, OpKind, Predicate, RuleId};
use e2e::environment;
use e2e::program::RunningCommand;
use e2e::world::{Options, World};

use crate::{PATIENCE, assert_clean, couch_cases, domain, staged};

/// Forms of one batch, as the settings for tests have it: what may be read again for each process that dies.
const BATCH: usize = 100;

/// Rows of a page of a view, as the settings for tests have it.
const PAGE: usize = 200;

/// Holds one request of this kind, after `skip` others.
fn hold(world: &World, matches: Predicate, skip: u32) -> RuleId {
    world
        .source()
        .stand_in()
        .faults()
        .add(FaultRule::once(matches, Action::Hold).after(skip))
}

async fn held(world: &World, rule: RuleId) -> Result<()> {
    let faults = world.source().stand_in().faults();
    let reached = tokio::time::timeout(PATIENCE, faults.reached(rule, 1)).await;
    ensure!(reached == Ok(true), "the request that was to be held never came");
    Ok(())
}

fn release(world: &World, rule: RuleId) {
    world.source().stand_in().faults().remove(rule);
}

/// Documents that workers have read so far.
fn read(world: &World) -> usize {
    usize::try_from(world.source().stand_in().requests().of(OpKind::BulkGet).documents).unwrap_or(usize::MAX)
}

async fn items_done(world: &World, stage: &str) -> Result<i64> {
    let sql = format!(
        "select (coalesce((select sum(items) from stage_total where stage = '{stage}'), 0)
            + coalesce((select sum(item_count) from batch where stage = '{stage}' and state = 'done'), 0))::bigint"
    );
    world.number(&sql).await
}

/// Kills the only worker of a kind while it works, lets go whatever held it, and starts another one.
async fn replace_worker(world: &mut World, kind: &str, let_go: impl AsyncFnOnce(&World) -> Result<()>) -> Result<()> {
    let pid = *world.pids(kind).first().context("no worker")?;
    world
        .wait_until(&format!(
            "select count(*) > 0 from batch where state = 'claimed' and worker like '%pid {pid}'"
        ))
        .await?;
    world.take_program(pid)?.kill().await?;
    let_go(world).await?;
    world.start_workers(kind, 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill9_of_each_worker_mid_run() -> Result<()> {
    let generated = domain("mortal", 1200);
    let options = Options::default().workers(1).with("worker.concurrency", "1");
    let mut world = World::start(options).await?;
    world.load(&generated).await?;
    let reading = hold(&world, Predicate::op(OpKind::BulkGet), 5);
    // Case workers will have to wait in the middle of their transaction.
    let holder = world.another_target().await?;
    holder
        .batch_execute("begin; lock table form_processor_casetransaction in share row exclusive mode")
        .await?;
    let command = world.begin_domain("mortal", "MIGRATE", &[])?;

    held(&world, reading).await?;
    ensure!(
        items_done(&world, "form").await? > 0,
        "no form batch was done before the kill"
    );
    replace_worker(&mut world, "form-worker", async |world| {
        release(world, reading);
        Ok(())
    })
    .await?;

    world.wait_until("select phase = 'replay' from migration").await?;
    let forms_read = read(&world);
    // From here on, only diff workers read in bulk.
    let comparing = hold(&world, Predicate::op(OpKind::BulkGet), 1);
    replace_worker(&mut world, "case-worker", async |_| {
        Ok(holder.batch_execute("rollback").await?)
    })
    .await?;

    held(&world, comparing).await?;
    replace_worker(&mut world, "diff-worker", async |world| {
        release(world, comparing);
        Ok(())
    })
    .await?;

    command.end(PATIENCE).await?.ok();
    assert_clean(&world.stats("mortal").await?, &generated.model)?;
    world.assert_same_rows("mortal", &generated.model).await?;
    let (forms, cases) = (staged(&generated.model), couch_cases(&generated.model));
    ensure!(
        items_done(&world, "form").await? == i64::try_from(forms)?,
        "forms were done more than once"
    );
    ensure!(
        forms_read <= forms + BATCH,
        "{forms_read} documents were read for {forms}"
    );
    let compared = read(&world) - forms_read;
    ensure!(
        compared <= cases + BATCH,
        "{compared} documents were compared for {cases} cases"
    );
    world.end()
}

/// Waits until a run is well under way, and is held there by a request of the driver.
async fn scan_half_way(world: &mut World, name: &str) -> Result<(RunningCommand, RuleId)> {
    let rule = hold(world, Predicate::op(OpKind::ViewPage).on("by_domain_doc_type_date"), 4);
    let command = world.begin_domain(name, "MIGRATE", &[])?;
    held(world, rule).await?;
    Ok((command, rule))
}

/// How many rows of the view each scan and each look has listed.
async fn listed_by_scan(world: &World) -> Result<BTreeMap<String, usize>> {
    let sql = "select scan, scanned from scan_cursor
               where scan not in ('replay', 'diff') and scan not like 'sql:%' and scan not like 'missing:sql-%'";
    let rows = world.state().query(sql, &[]).await?;
    rows.iter()
        .map(|row| Ok((row.get(0), usize::try_from(row.get::<_, i64>(1))?)))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill9_of_the_driver_mid_run() -> Result<()> {
    let generated = domain("headless", 1500);
    let mut world = World::start(Options::default()).await?;
    world.load(&generated).await?;
    let (command, rule) = scan_half_way(&mut world, "headless").await?;
    world.wait_until("select count(*) > 0 from staged_update").await?;
    command.kill().await?;
    release(&world, rule);
    let before = listed_by_scan(&world).await?;
    let scanned: usize = before.values().sum();
    ensure!(scanned > 0, "no cursor was kept");
    let read_before = read(&world);
    world.source().stand_in().reset_requests();

    let output = world.domain("headless", "MIGRATE", &[]).await?.ok();
    ensure!(output.stdout.contains("clean"), "{}", output.told());
    assert_clean(&world.stats("headless").await?, &generated.model)?;
    world.assert_same_rows("headless", &generated.model).await?;

    let (forms, cases) = (staged(&generated.model), couch_cases(&generated.model));
    let all = forms + cases;
    // Rows of the view in the second run: the rest of the scan, all cases for the diff, everything for the missing
    // documents. A page also gives the row that the one before ended with, and one that tells that it is not the last. Every
    // other request counts, or finds that nothing follows: it gives one row at most.
    let expected = (forms - scanned) + cases + all;
    let (mut pages, mut twice) = (0, 0);
    for (scan, rows) in listed_by_scan(&world).await? {
        let from = before.get(&scan).copied().unwrap_or_default();
        if rows > from {
            let of_scan = (rows - from).div_ceil(PAGE);
            pages += of_scan;
            twice += 2 * (of_scan - 1) + usize::from(from > 0);
        }
    }
    let views = world.source().stand_in().requests().of(OpKind::ViewPage);
    let (listed, requests) = (usize::try_from(views.rows)?, usize::try_from(views.requests)?);
    ensure!(
        (expected + twice..=expected + twice + (requests - pages)).contains(&listed),
        "{listed} rows were listed by {requests} requests where {expected} are new: {pages} pages list {twice} of them \
         twice, and {scanned} of {forms} had been scanned"
    );
    let read_again = read_before + read(&world);
    ensure!(
        read_again <= all + 2 * BATCH,
        "{read_again} documents were read of {all}"
    );
    ensure!(
        items_done(&world, "form").await? == i64::try_from(forms)?,
        "forms were done more than once"
    );
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_restart_mid_run() -> Result<()> {
    let generated = domain("deaf", 1500);
    let mut world = World::start(Options::default()).await?;
    world.load(&generated).await?;
    let (command, rule) = scan_half_way(&mut world, "deaf").await?;
    world
        .wait_until("select count(*) > 0 from batch where state <> 'done'")
        .await?;
    let restart = format!("{} restart", environment::rabbit_control()?);
    let status = tokio::process::Command::new("sh")
        .args(["-c", &restart])
        .status()
        .await?;
    ensure!(status.success(), "`{restart}` failed");
    world.reconnect_queues().await?;
    release(&world, rule);

    command.end(PATIENCE).await?.ok();
    assert_clean(&world.stats("deaf").await?, &generated.model)?;
    world.assert_same_rows("deaf", &generated.model).await?;
    let forms = staged(&generated.model);
    ensure!(
        items_done(&world, "form").await? == i64::try_from(forms)?,
        "forms were done more than once"
    );
    world.end()
}
