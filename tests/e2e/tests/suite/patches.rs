//! Patch forms: a worker that dies while it writes them leaves no half of one and no second one; a reset takes them back.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use e2e::world::{Options, World};
use generator::damage;

use crate::{PATIENCE, domain};

/// What is in the target of patch forms: forms, operations, rows of blob metadata.
async fn patch_rows(world: &World) -> Result<(i64, i64, i64)> {
    let sql = "with patches as (
                   select form_id from form_processor_xforminstancesql
                   where xmlns = 'http://commcarehq.org/couch-to-sql/patch-case-diff')
               select (select count(*) from patches),
                      (select count(*) from form_processor_xformoperationsql o join patches using (form_id)
                       where o.operation = 'Couch to SQL case patch'),
                      (select count(*) from blobs_blobmeta b join patches p on p.form_id = b.parent_id)";
    let row = world.target().query_one(sql, &[]).await?;
    Ok((row.get(0), row.get(1), row.get(2)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill9_of_a_form_worker_while_it_patches() -> Result<()> {
    let mut generated = domain("patched", 200);
    let mut cases = BTreeSet::new();
    for seed in 0..4 {
        let reported = damage::change_property(&mut generated, seed);
        cases.extend(reported.into_iter().map(|report| report.doc_id));
    }
    let count = i64::try_from(cases.len())?;
    ensure!(count > 1, "too little damage");
    let mut world = World::start(Options::default().workers(1)).await?;
    world.load(&generated).await?;
    let before = world.blobmeta_dump().await?;
    world.domain("patched", "MIGRATE", &[]).await?.ended_with(1);

    // The worker commits the target, and then waits to put its results on record.
    world
        .state()
        .batch_execute("begin; lock table patched_case in exclusive mode")
        .await?;
    let command = world.begin(&["couch_sql_diff", "patched", "patch"])?;
    world
        .wait_until("select count(*) > 0 from pg_locks where not granted and relation = 'patched_case'::regclass")
        .await?;
    ensure!(
        patch_rows(&world).await? == (count, count, count),
        "the target was not written yet"
    );
    let pid = *world.pids("form-worker").first().context("no worker")?;
    world.take_program(pid)?.kill().await?;
    world.state().batch_execute("rollback").await?;
    world.start_workers("form-worker", 1).await?;

    command.end(PATIENCE).await?.ok();
    ensure!(
        patch_rows(&world).await? == (count, count, count),
        "a patch form was made twice"
    );
    let stats = world.stats("patched").await?;
    ensure!(stats["patched_cases"] == count, "{stats}");
    for obstacle in [
        "errors",
        "parked_batches",
        "cases_to_replay",
        "pending_case_diffs",
        "patch_refusals",
    ] {
        ensure!(stats[obstacle] == 0, "{obstacle} in {stats}");
    }
    // A further run must neither miss the patch forms in Couch nor patch once more.
    world.domain("patched", "MIGRATE", &["--patch"]).await?.ok();
    ensure!(
        patch_rows(&world).await? == (count, count, count),
        "patch forms did not stay"
    );

    world.domain("patched", "reset", &[]).await?.ok();
    ensure!(
        patch_rows(&world).await? == (0, 0, 0),
        "patch forms are left after a reset"
    );
    ensure!(world.blobmeta_dump().await? == before, "blob metadata is not as it was");
    world.end()
}
