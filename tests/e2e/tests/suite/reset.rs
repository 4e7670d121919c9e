//! `reset`, at the worst of times.

use std::time::Duration;

use anyhow::{Result, ensure};
use couch_standin::{Action, FaultRule, OpKind, Predicate};
use e2e::program::Signal;
use e2e::world::{Options, World};

use crate::{PATIENCE, domain, migrate_cleanly};

/// Longer than a worker may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(15);

/// Rows of the domain in the target, child tables included, and in the tables of the state schema.
async fn rows_left(world: &World, name: &str) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for client in world.shards().clients() {
        for table in [
            "form_processor_xforminstancesql",
            "form_processor_commcarecasesql",
            "form_processor_commcarecaseindexsql",
        ] {
            let sql = format!("select count(*) from {table} where domain = $1");
            let count: i64 = client.query_one(&sql, &[&name]).await?.get(0);
            if count > 0 {
                left.push(format!("{count} rows in {table}"));
            }
        }
        // These have no domain; nobody else's rows are in this database.
        for table in [
            "form_processor_xformoperationsql",
            "form_processor_casetransaction",
            "form_processor_caseattachmentsql",
            "form_processor_ledgervalue",
            "form_processor_ledgertransaction",
        ] {
            let count: i64 = client
                .query_one(&format!("select count(*) from {table}"), &[])
                .await?
                .get(0);
            if count > 0 {
                left.push(format!("{count} rows in {table}"));
            }
        }
    }
    for table in [
        "batch",
        "staged_update",
        "dirty_case",
        "case_state",
        "doc_revision",
        "scan_cursor",
        "blob_change",
        "stage_total",
    ] {
        let count = world.number(&format!("select count(*) from {table}")).await?;
        if count > 0 {
            left.push(format!("{count} rows in {table}"));
        }
    }
    Ok(left)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_during_a_run_with_workers_stopped() -> Result<()> {
    let generated = domain("undone", 600);
    let mut world = World::start(Options::default().workers(1)).await?;
    world.load(&generated).await?;
    let (blobmeta, blobs) = (world.blobmeta_dump().await?, world.blob_count()?);

    // A worker that has read documents and not written them.
    let reading = FaultRule::once(Predicate::op(OpKind::BulkGet), Action::Hold).after(3);
    let rule = world.source().stand_in().faults().add(reading);
    let run = world.begin_domain("undone", "MIGRATE", &[])?;
    ensure!(world.source().stand_in().faults().reached(rule, 1).await);
    world.wait_until("select count(*) > 0 from staged_update").await?;
    world.program("form-worker")?.signal(Signal::Stop)?;
    world.source().stand_in().faults().remove(rule);
    let reset = world.domain("undone", "reset", &[]).await?.ok();
    ensure!(
        reset.stderr.contains("its work ends with the reset"),
        "{}",
        reset.told()
    );
    world.program("form-worker")?.signal(Signal::Continue)?;
    let ended = run.end(PATIENCE).await?;
    ensure!(
        ended.status != Some(0),
        "the run must not claim success: {}",
        ended.told()
    );

    // A worker in the middle of its transaction: the reset waits until PostgreSQL gives the transaction up.
    let holder = world.another_target().await?;
    holder
        .batch_execute("begin; lock table form_processor_xforminstancesql in share row exclusive mode")
        .await?;
    let run = world.begin_domain("undone", "MIGRATE", &[])?;
    let waiting =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    world
        .until("a form worker waits in its transaction", async |world| {
            Ok(world.target().query_one(waiting, &[]).await?.get::<_, i64>(0) > 0)
        })
        .await?;
    world.program("form-worker")?.signal(Signal::Stop)?;
    holder.batch_execute("rollback").await?;
    world.domain("undone", "reset", &[]).await?.ok();
    world.program("form-worker")?.signal(Signal::Continue)?;
    let ended = run.end(PATIENCE).await?;
    ensure!(
        ended.status != Some(0),
        "the run must not claim success: {}",
        ended.told()
    );

    // Workers that end in good order have done all they ever would.
    for kind in ["form-worker", "case-worker"] {
        let pid = world.program(kind)?.pid();
        let mut worker = world.take_program(pid)?;
        worker.signal(Signal::Terminate)?;
        ensure!(worker.ended_within(GRACE).await?.success(), "{kind}: {}", worker.log());
    }
    let left = rows_left(&world, "undone").await?;
    ensure!(left.is_empty(), "{left:?}");
    ensure!(
        world.blobmeta_dump().await? == blobmeta,
        "blob metadata is not as it was"
    );
    ensure!(world.blob_count()? == blobs, "blobs are not as they were");

    // And it can start anew.
    world.start_workers("form-worker", 1).await?;
    world.start_workers("case-worker", 1).await?;
    migrate_cleanly(&mut world, "undone", &generated.model).await?;
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_asks_first_and_leaves_everything_else() -> Result<()> {
    let (generated, neighbour) = (domain("regretted", 200), domain("neighbour", 120));
    let mut world = World::start(Options::in_process()).await?;
    world.load(&generated).await?;
    world.load(&neighbour).await?;
    migrate_cleanly(&mut world, "neighbour", &neighbour.model).await?;
    let (blobmeta, blobs) = (world.blobmeta_dump().await?, world.blob_count()?);
    migrate_cleanly(&mut world, "regretted", &generated.model).await?;

    let before = world.row_counts().await?;
    let asked = world
        .coordinator(&["migrate_domain_from_couch_to_sql", "regretted", "reset"])
        .await?
        .ended_with(1);
    ensure!(
        asked.stderr.contains("C2S-0103") && asked.stderr.contains("--no-input"),
        "{}",
        asked.told()
    );
    ensure!(
        world.row_counts().await? == before,
        "a reset that was not confirmed has changed something"
    );

    world.domain("regretted", "reset", &[]).await?.ok();
    let gone = world.actual("regretted").await?;
    ensure!(gone.forms.is_empty() && gone.cases.is_empty(), "rows are left");
    ensure!(
        world.blobmeta_dump().await? == blobmeta,
        "blob metadata is not as it was"
    );
    ensure!(world.blob_count()? == blobs, "blobs are not as they were");
    world.assert_same_rows("neighbour", &neighbour.model).await?;
    let stats = world.stats("regretted").await?;
    ensure!(stats["status"] == "not_started", "{stats}");
    let audited = world
        .number("select count(*) from audit_log where domain = 'regretted' and action = 'reset'")
        .await?;
    ensure!(audited == 1, "{audited} resets in the audit log");
    world.end()
}
