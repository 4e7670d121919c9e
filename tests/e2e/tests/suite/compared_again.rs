//! A comparison that dies goes on where it was, and writes nothing but what it finds.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use couch_standin::{Action, FaultRule, OpKind, Predicate, RuleId};
use e2e::program::RunningCommand;
use e2e::world::{Options, World};
use generator::damage;

use crate::{PATIENCE, domain};

/// Holds one request of this kind, after `skip` others.
fn hold(world: &World, matches: Predicate, skip: u32) -> RuleId {
    let rule = FaultRule::once(matches, Action::Hold).after(skip);
    world.source().stand_in().faults().add(rule)
}

async fn held(world: &World, rule: RuleId) -> Result<()> {
    let faults = world.source().stand_in().faults();
    let reached = tokio::time::timeout(PATIENCE, faults.reached(rule, 1)).await;
    ensure!(
        reached == Ok(true),
        "request {rule:?}, which was to be held, never came"
    );
    Ok(())
}

/// Kills a command, and waits until its hold on the domain has run out: the next command is refused before.
async fn kill(world: &World, command: RunningCommand) -> Result<()> {
    command.kill().await?;
    world
        .wait_until("select count(*) > 0 from migration where driver_until is null or driver_until < now()")
        .await
}

/// Kills the only diff worker, lets go what held it, and starts another one.
async fn replace_worker(world: &mut World, let_go: impl AsyncFnOnce(&World) -> Result<()>) -> Result<()> {
    let pid = *world.pids("diff-worker").first().context("no worker")?;
    world.take_program(pid)?.kill().await?;
    let_go(world).await?;
    world.start_workers("diff-worker", 1).await
}

/// Cases that were compared so far, each as often as it was.
async fn compared(world: &World) -> Result<i64> {
    world
        .number(
            "select (coalesce((select sum(items) from stage_total where stage = 'diff'), 0)
                + coalesce((select sum(item_count) from batch where stage = 'diff' and state = 'done'), 0))::bigint",
        )
        .await
}

/// What a comparison leaves alone: every table of the target, and where the migration and its cases stand.
async fn left_alone(world: &World) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let tables = "select table_name::text from information_schema.tables where table_type = 'BASE TABLE'
                  and (table_name like 'form\\_processor\\_%' or table_name in ('blobs_blobmeta', 'commtrack_stockstate'))";
    for row in world.target().query(tables, &[]).await? {
        let table: String = row.get(0);
        let digest = format!("select md5(coalesce(string_agg(t::text, ',' order by t::text), '')) from {table} t");
        let digest = world.target().query_one(&digest, &[]).await?.get(0);
        found.insert(table, digest);
    }
    ensure!(
        found.contains_key("form_processor_commcarecasesql"),
        "no table of cases in {found:?}"
    );
    let standing = "select (to_jsonb(m) - array['epoch', 'driver_token', 'driver_until', 'driver_name'])::text
                    || (select sum(generation) from case_state)::text from migration m";
    let standing = world.text(standing).await?.context("no migration")?;
    found.insert("migration".to_owned(), standing);
    Ok(found)
}

/// What is on record of documents that differ.
async fn on_record(world: &World) -> Result<Option<String>> {
    let sql = "select string_agg(kind || doc_id || diffs, ',' order by kind, doc_id) from
               (select kind, doc_id, diffs from doc_diff union all select kind, doc_id, diffs from doc_change) r";
    world.text(sql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diff_killed_at_any_point_goes_on_where_it_was_and_changes_no_case() -> Result<()> {
    let mut generated = domain("again", 600);
    for seed in 0..3 {
        damage::change_property(&mut generated, seed);
        damage::extra_index(&mut generated, seed);
    }
    let options = Options::default().workers(1).with("worker.concurrency", "1");
    let mut world = World::start(options).await?;
    world.load(&generated).await?;
    world.domain("again", "MIGRATE", &[]).await?.ended_with(1);
    let (alone, records) = (left_alone(&world).await?, on_record(&world).await?);
    ensure!(records.is_some(), "nothing differs");
    let cases = world.number("select count(*) from case_state").await?;
    let before = compared(&world).await?;

    // The command dies while it lists the cases.
    let listing = hold(&world, Predicate::op(OpKind::ViewPage).on("by_domain_doc_type_date"), 0);
    let command = world.begin(&["couch_sql_diff", "again", "cases"])?;
    held(&world, listing).await?;
    kill(&world, command).await?;
    world.source().stand_in().faults().remove(listing);

    // The next one and the worker die in the midst of it.
    let reading = hold(&world, Predicate::op(OpKind::BulkGet), 8);
    let small = ["couch_sql_diff", "again", "cases", "--batch-size=10"];
    let command = world.begin(&small)?;
    held(&world, reading).await?;
    kill(&world, command).await?;
    replace_worker(&mut world, async |world| {
        world.source().stand_in().faults().remove(reading);
        Ok(())
    })
    .await?;
    let done = compared(&world).await? - before;
    ensure!(done > 0 && done < cases, "{done} of {cases} were compared");

    // And a worker dies while it records what it has found.
    world
        .state()
        .batch_execute("begin; lock table doc_diff in exclusive mode")
        .await?;
    let command = world.begin(&["couch_sql_diff", "again", "cases", "--select=pending"])?;
    world
        .wait_until("select count(*) > 0 from pg_locks where not granted and relation = 'doc_diff'::regclass")
        .await?;
    replace_worker(&mut world, async |world| {
        Ok(world.state().batch_execute("rollback").await?)
    })
    .await?;
    command.end(PATIENCE).await?.ended_with(1);

    let done = compared(&world).await? - before;
    ensure!(done == cases, "{done} comparisons of {cases} cases");
    ensure!(on_record(&world).await? == records, "other differences are on record");
    ensure!(left_alone(&world).await? == alone, "a comparison has written");
    let stats = world.stats("again").await?;
    ensure!(
        stats["pending_case_diffs"] == 0 && stats["parked_batches"] == 0,
        "{stats}"
    );

    // Forms alike, which are read back from both sides.
    let file = world.folder().join("forms.txt");
    let ids: Vec<String> = world
        .target()
        .query("select form_id from form_processor_xforminstancesql order by 1", &[])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    std::fs::write(&file, ids.join("\n"))?;
    let select = format!("--select={}", file.display());
    let reading = hold(&world, Predicate::op(OpKind::BulkGet), 4);
    let command = world.begin(&["couch_sql_diff", "again", "forms", &select])?;
    held(&world, reading).await?;
    kill(&world, command).await?;
    replace_worker(&mut world, async |world| {
        world.source().stand_in().faults().remove(reading);
        Ok(())
    })
    .await?;
    // What the dead command had asked for is compared with what the next one asks for.
    world
        .coordinator(&["couch_sql_diff", "again", "forms", "--select=with-diffs"])
        .await?
        .ended_with(1);
    let open = "select count(*) from batch where stage = 'diff' and state <> 'done'";
    ensure!(world.number(open).await? == 0, "batches are left");
    ensure!(on_record(&world).await? == records, "other differences are on record");
    ensure!(left_alone(&world).await? == alone, "a comparison has written");
    world.end()
}
