//! The end of a migration: its forecast, a limit of downtime, a commit within the run, and the commit taken back.

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use couch_standin::{Action, FaultRule, OpKind, Predicate};
use e2e::program::Output;
use e2e::world::{Options, World};

use crate::hook::Hook;
use crate::live::{arrivals, quiet_moment, up_to};
use crate::{assert_clean, domain, migrate_cleanly};

/// HQ's status of the domain, and since when.
async fn flag(world: &World, name: &str) -> Result<(String, Option<DateTime<Utc>>)> {
    let row = world
        .target()
        .query_one(
            "select migration_status, started_on from domain_migration_flags_domainmigrationprogress
             where domain = $1 and migration_slug = 'couch_to_sql'",
            &[&name],
        )
        .await?;
    Ok((row.get(0), row.get(1)))
}

async fn configured(world: &mut World, configuration: &str, arguments: &[&str]) -> Result<Output> {
    let mut all = vec!["--config", configuration];
    all.extend(arguments);
    world.coordinator_bare(&all, &[]).await
}

const MIGRATE: &str = "migrate_domain_from_couch_to_sql";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_downtime_that_cannot_be_kept_ends_in_time_and_one_that_can_ends_in_a_commit() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (hook, staff) = (
        Hook::create(folder.path().join("hook"))?,
        Hook::create(folder.path().join("staff"))?,
    );
    let options = Options::in_process()
        .with("hq.cache_hook", &hook.setting())
        .with("hq.committed_hook", &staff.setting());
    let mut world = World::start(options).await?;
    let generated = domain("brief", 400);
    let arrivals = arrivals(&generated)?;
    let middle = quiet_moment(&arrivals, 50);
    world.load(&generated).await?;

    let configuration = up_to(&world, middle)?;
    configured(&mut world, &configuration, &[MIGRATE, "brief", "MIGRATE", "--live"]).await?;
    let later = arrivals.iter().filter(|(date, _)| *date > middle).count();
    let forecast = world.coordinator(&["forecast", "brief", "--json"]).await?.ok();
    let forecast: serde_json::Value = serde_json::from_str(&forecast.stdout)?;
    let documents = forecast["work"][0]["documents"]["low"].as_u64().context("a number")?;
    ensure!(documents >= later as u64, "{documents} of at least {later}: {forecast}");
    ensure!(forecast["unmeasured"] == serde_json::json!([]), "{forecast}");
    // Nobody follows the domain: all cases of both sides are listed, and all documents looked up.
    let is_case = |doc: &&serde_json::Value| {
        doc["doc_type"]
            .as_str()
            .is_some_and(|kind| kind.starts_with("CommCareCase"))
    };
    let (all, cases) = (generated.docs.len(), generated.docs.iter().filter(is_case).count());
    let to_do = |work: usize| &forecast["work"][work]["documents"];
    ensure!(
        to_do(2)["low"] == 2 * cases && to_do(4)["low"] == all,
        "{all}, {cases}: {forecast}"
    );
    ensure!(forecast["commit_snapshot"]["documents"] == all, "{all}: {forecast}");
    let high = |span: &serde_json::Value| span["high"].as_f64().context("an upper end");
    let without_snapshot =
        high(&forecast["finish_seconds"])? + forecast["commit_wait_seconds"].as_f64().context("a wait")?;
    ensure!(high(&forecast["downtime_seconds"])? > without_snapshot, "{forecast}");
    let stats = world.stats("brief").await?;
    ensure!(stats["forecast"]["work"] == forecast["work"], "{stats}");
    ensure!(stats["submissions_stopped_seconds"].is_null(), "{stats}");

    // Twice ten minutes for HQ's caches alone: refused at once.
    let slow = world.configuration_with("slow.toml", &[("hq.cache_wait", "\"10m\"")])?;
    let finish = [MIGRATE, "brief", "MIGRATE", "--finish", "--max-downtime"];
    let refused = configured(&mut world, &slow, &[&finish[..], &["19m"]].concat())
        .await?
        .ended_with(1);
    ensure!(refused.stderr.contains("C2S-4090"), "{}", refused.told());
    ensure!(
        refused.stdout.contains("Without submissions, in all"),
        "{}",
        refused.told()
    );
    ensure!(flag(&world, "brief").await?.0 == "dry_run");
    ensure!(world.number("select count(*) from run where state = 'queued'").await? == 0);

    // The forecast fits, but Couch does not answer.
    let calls = hook.calls()?;
    let faults = world.source().stand_in().faults();
    let mute = faults.add(FaultRule::always(Predicate::op(OpKind::BulkGet), Action::Hold));
    let command = world.begin_domain("brief", "MIGRATE", &["--finish", "--max-downtime", "15s"])?;
    world
        .until("submissions are off", async |world| {
            Ok(flag(world, "brief").await?.0 == "in_progress")
        })
        .await?;
    let (_, off) = flag(&world, "brief").await?;
    world
        .until("submissions are on again", async |world| {
            Ok(flag(world, "brief").await?.0 == "dry_run")
        })
        .await?;
    let (_, on) = flag(&world, "brief").await?;
    faults.remove(mute);
    let ended = command.end(crate::PATIENCE).await?.ended_with(3);
    ensure!(ended.stderr.contains("C2S-4091"), "{}", ended.told());
    let off_for = on.context("a start")? - off.context("a start")?;
    ensure!(
        off_for.num_milliseconds() <= 15_000,
        "submissions were off for {off_for}"
    );
    ensure!(world.stats("brief").await?["status"] == "dry_run");
    ensure!(hook.calls()? == calls + 2, "HQ is told of both changes");
    ensure!(staff.calls()? == 0);

    // Couch answers: the same order is carried out to the end.
    let done = world
        .domain(
            "brief",
            "MIGRATE",
            &["--finish", "--max-downtime", "15m", "--commit-if-clean"],
        )
        .await?
        .ok();
    ensure!(done.stdout.contains("clean and committed"), "{}", done.told());
    ensure!(world.source().domain_doc("brief").await?["use_sql_backend"] == true);
    ensure!(flag(&world, "brief").await?.0 == "complete");
    ensure!(staff.calls()? == 1, "staff is told once");
    let measured = "select count(*) from pace where work = 'snapshot' and documents > 0";
    ensure!(world.number(measured).await? == 1, "the snapshot was not measured");
    assert_clean(&world.stats("brief").await?, &generated.model)?;
    world.assert_same_rows("brief", &generated.model).await?;
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_not_clean_commits_nothing_and_with_a_limit_goes_back_to_live() -> Result<()> {
    let mut world = World::start(Options::in_process()).await?;
    let mut generated = domain("spotted", 60);
    ensure!(!generator::damage::change_property(&mut generated, 1).is_empty());
    world.load(&generated).await?;
    let misuse = world.domain("spotted", "MIGRATE", &["--live"]).await?;
    ensure!(misuse.status == Some(1), "{}", misuse.told());
    let misuse = world
        .domain("spotted", "MIGRATE", &["--commit-if-clean"])
        .await?
        .ended_with(1);
    ensure!(misuse.stderr.contains("C2S-4092"), "{}", misuse.told());

    let limited = ["--finish", "--commit-if-clean", "--max-downtime", "10m"];
    let back = world.domain("spotted", "MIGRATE", &limited).await?.ended_with(3);
    ensure!(back.stderr.contains("C2S-4041"), "{}", back.told());
    ensure!(flag(&world, "spotted").await?.0 == "dry_run");

    let left = world.domain("spotted", "MIGRATE", &limited[..2]).await?.ended_with(1);
    ensure!(left.stdout.contains("not committed: C2S-4041"), "{}", left.told());
    ensure!(flag(&world, "spotted").await?.0 == "in_progress");
    ensure!(world.source().domain_doc("spotted").await?["use_sql_backend"] == false);
    let stats = world.stats("spotted").await?;
    ensure!(stats["submissions_stopped_seconds"].as_f64() > Some(0.0), "{stats}");

    let accepted = ["--commit-if-clean", "--accept-diffs", "CommCareCase"];
    let done = world.domain("spotted", "MIGRATE", &accepted).await?.ok();
    ensure!(done.stdout.contains("clean and committed"), "{}", done.told());
    ensure!(flag(&world, "spotted").await?.0 == "complete");
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_downtime_holds_for_the_start_and_for_the_commit() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let hook = Hook::create(folder.path().to_path_buf())?;
    let mut world = World::start(Options::in_process().with("hq.cache_hook", &hook.setting())).await?;
    let generated = domain("brief", 60);
    world.load(&generated).await?;
    world.domain("brief", "MIGRATE", &["--live"]).await?.ok();
    let finish = ["--finish", "--commit-if-clean", "--max-downtime", "10s"];

    // The start: submissions are off, and HQ's hook does not come back.
    let calls = hook.calls()?;
    let hold = hook.hold(calls + 1)?;
    let back = world.domain("brief", "MIGRATE", &finish).await?.ended_with(3);
    ensure!(back.stderr.contains("C2S-4091"), "{}", back.told());
    ensure!(flag(&world, "brief").await?.0 == "dry_run");
    ensure!(hook.calls()? == calls + 2, "HQ is told that it may go on");
    std::fs::remove_file(hold)?;

    // The commit: its snapshot waits for a table.
    let lock = "begin; lock table commit_snapshot in access exclusive mode";
    world.state().batch_execute(lock).await?;
    let back = world.domain("brief", "MIGRATE", &finish).await?.ended_with(3);
    world.state().batch_execute("rollback").await?;
    ensure!(
        back.stderr.contains("C2S-4091") && back.stderr.contains("C2S-4147"),
        "{}",
        back.told()
    );
    ensure!(flag(&world, "brief").await?.0 == "dry_run");
    ensure!(world.source().domain_doc("brief").await?["use_sql_backend"] == false);
    ensure!(world.text("select commit_step from migration").await?.is_none());
    let fences = "select count(*) from couch_sql_migration_fence where not open";
    ensure!(world.target().query_one(fences, &[]).await?.get::<_, i64>(0) == 0);

    world.domain("brief", "MIGRATE", &finish[..2]).await?.ok();
    ensure!(flag(&world, "brief").await?.0 == "complete");
    world.assert_same_rows("brief", &generated.model).await?;
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_fails_behind_its_switch_goes_forward_only() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let hook = Hook::create(folder.path().to_path_buf())?;
    let mut world = World::start(Options::in_process().with("hq.cache_hook", &hook.setting())).await?;
    let generated = domain("onward", 60);
    world.load(&generated).await?;
    // Once for HQ's flag, then for each attempt.
    for call in 2..=4 {
        hook.fail(call)?;
    }
    let failed = world
        .domain("onward", "MIGRATE", &["--commit-if-clean"])
        .await?
        .ended_with(1);
    ensure!(
        failed.stderr.contains("C2S-4146") && failed.stderr.contains("run COMMIT again"),
        "{}",
        failed.told()
    );
    ensure!(hook.calls()? == 4);
    ensure!(world.source().domain_doc("onward").await?["use_sql_backend"] == true);
    ensure!(flag(&world, "onward").await?.0 == "in_progress");
    // The run is not over: whoever drives next goes on with it.
    ensure!(world.number("select count(*) from run where state = 'running'").await? == 1);
    world.domain("onward", "COMMIT", &[]).await?.ok();
    ensure!(flag(&world, "onward").await?.0 == "complete");
    world.assert_same_rows("onward", &generated.model).await?;
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_that_comes_too_late_for_the_commit_ends_the_run_with_1() -> Result<()> {
    let mut world = World::start(Options::in_process()).await?;
    let generated = domain("belated", 60);
    let (newest, id) = arrivals(&generated)?.pop().context("a form")?;
    let mut late = generated
        .docs
        .iter()
        .find(|doc| doc["_id"] == id.as_str())
        .context("the form")?
        .clone();
    late["_id"] = "late".into();
    late["received_on"] = (newest + chrono::Duration::days(1))
        .format("%Y-%m-%dT%H:%M:%S%.6fZ")
        .to_string()
        .into();
    world.load(&generated).await?;
    let faults = world.source().stand_in().faults();
    // Revisions are looked up long after the start, which reads HQ's row too.
    let held = faults.add(FaultRule::once(Predicate::op(OpKind::AllDocs), Action::Hold));
    let command = world.begin_domain("belated", "MIGRATE", &["--commit-if-clean"])?;
    ensure!(world.source().stand_in().faults().reached(held, 1).await);
    // The run goes through all phases, and COMMIT's first question waits.
    let holder = world.another_target().await?;
    holder
        .batch_execute("begin; lock table domain_migration_flags_domainmigrationprogress in access exclusive mode")
        .await?;
    world.source().stand_in().faults().remove(held);
    let waiting = "select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock' and query like '%domainmigrationprogress%'";
    world
        .until("COMMIT waits for HQ's row", async |world| {
            Ok(world.target().query_one(waiting, &[]).await?.get::<_, i64>(0) > 0)
        })
        .await?;
    world.load_documents(vec![late]).await?;
    holder.batch_execute("rollback").await?;
    let ended = command.end(crate::PATIENCE).await?.ended_with(1);
    ensure!(ended.stdout.contains("not committed: C2S-4042"), "{}", ended.told());
    ensure!(world.source().domain_doc("belated").await?["use_sql_backend"] == false);
    world.end()
}

/// Begins an uncommit and kills it while the hook runs for the so-manieth time.
async fn die_in_hook(world: &mut World, hook: &Hook, call: usize) -> Result<()> {
    let wanted = hook.calls()? + call;
    let hold = hook.hold(wanted)?;
    let command = world.begin(&["uncommit", "regretted", "--no-input"])?;
    world
        .until("the hook is called", async |_| Ok(hook.calls()? >= wanted))
        .await?;
    command.kill().await?;
    std::fs::remove_file(hold)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_taken_back_unless_something_has_changed_since() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let hook = Hook::create(folder.path().to_path_buf())?;
    let mut world = World::start(Options::in_process().with("hq.cache_hook", &hook.setting())).await?;
    let generated = domain("regretted", 120);
    world.load(&generated).await?;
    let uncommit = ["uncommit", "regretted", "--no-input"];
    let refused = world.coordinator(&uncommit).await?.ended_with(1);
    ensure!(refused.stderr.contains("C2S-4093"), "{}", refused.told());
    migrate_cleanly(&mut world, "regretted", &generated.model).await?;
    let refused = world.coordinator(&uncommit).await?.ended_with(1);
    ensure!(refused.stderr.contains("C2S-4093"), "{}", refused.told());
    world.domain("regretted", "COMMIT", &[]).await?.ok();

    let final_ = world.configuration_with("final.toml", &[("hq.uncommit_window", "\"1ms\"")])?;
    let refused = configured(&mut world, &final_, &uncommit).await?.ended_with(1);
    ensure!(refused.stderr.contains("C2S-4094"), "{}", refused.told());

    // What HQ does with a domain that is on SQL.
    let calls = hook.calls()?;
    let form = world
        .target()
        .query_one(
            "select min(form_id) from form_processor_xforminstancesql where domain = 'regretted'",
            &[],
        )
        .await?
        .get::<_, String>(0);
    for (change, way_back, told) in [
        (
            format!("update form_processor_xforminstancesql set server_modified_on = now() where form_id = '{form}'"),
            format!("update form_processor_xforminstancesql f set server_modified_on = k.server_modified_on from kept k where k.id = f.id and f.form_id = '{form}'"),
            format!("form {form} was changed since the COMMIT"),
        ),
        (
            "insert into form_processor_xforminstancesql select (k).* from (select jsonb_populate_record(f, '{\"id\": 1000000, \"form_id\": \"new\"}') as k
             from form_processor_xforminstancesql f where domain = 'regretted' limit 1) k".to_owned(),
            "delete from form_processor_xforminstancesql where form_id = 'new'".to_owned(),
            "form new was added since the COMMIT".to_owned(),
        ),
        (
            "delete from form_processor_xformoperationsql where form_id = (select min(form_id) from kept);
             delete from form_processor_xforminstancesql where form_id = (select min(form_id) from kept)".to_owned(),
            "insert into form_processor_xforminstancesql select * from kept order by form_id limit 1;
             insert into form_processor_xformoperationsql select * from kept_operations".to_owned(),
            format!("form {form} was deleted since the COMMIT"),
        ),
    ] {
        world
            .target()
            .batch_execute(&format!(
                "drop table if exists kept, kept_operations;
                 create table kept as select * from form_processor_xforminstancesql where domain = 'regretted';
                 create table kept_operations as select * from form_processor_xformoperationsql where form_id = '{form}';
                 {change}"
            ))
            .await
            .with_context(|| change.clone())?;
        let refused = world.coordinator(&uncommit).await?.ended_with(1);
        ensure!(
            refused.stderr.contains("C2S-4095") && refused.stdout.contains(&told),
            "{}",
            refused.told()
        );
        world.target().batch_execute(&way_back).await.with_context(|| way_back.clone())?;
    }
    ensure!(hook.calls()? == calls, "what is refused does not touch HQ");
    ensure!(flag(&world, "regretted").await?.0 == "complete");

    // Whatever is refused once submissions are blocked, they are given back, and the commit stands.
    hook.fail(calls + 1)?;
    let failed = world.coordinator(&uncommit).await?.ended_with(1);
    ensure!(failed.stderr.contains("C2S-4030"), "{}", failed.told());
    ensure!(hook.calls()? == calls + 2, "HQ is told that it may go on");
    ensure!(flag(&world, "regretted").await?.0 == "complete");
    ensure!(world.text("select uncommit_step from migration").await?.is_none());

    // It dies at each step; whoever runs it again waits for the dead one's lease by itself.
    for (call, step, on_sql) in [(1, "intent", true), (2, "blocked", false), (2, "switched", false)] {
        die_in_hook(&mut world, &hook, call).await?;
        let found = world.text("select uncommit_step from migration").await?;
        ensure!(found.as_deref() == Some(step), "{found:?} at {step}");
        ensure!(
            world.source().domain_doc("regretted").await?["use_sql_backend"] == on_sql,
            "{step}"
        );
        ensure!(flag(&world, "regretted").await?.0 == "in_progress", "{step}");
        for action in ["reset", "MIGRATE", "COMMIT"] {
            let refused = world.domain("regretted", action, &[]).await?.ended_with(1);
            ensure!(refused.stderr.contains("C2S-4096"), "{}", refused.told());
        }
    }
    let taken_back = world.coordinator(&uncommit).await?.ok();
    ensure!(taken_back.stdout.contains("on Couch again"), "{}", taken_back.told());
    ensure!(world.source().domain_doc("regretted").await?["use_sql_backend"] == false);
    let zones = world
        .target()
        .query_one(
            "select count(*) from domain_migration_flags_domainmigrationprogress where migration_status = 'complete'",
            &[],
        )
        .await?;
    ensure!(zones.get::<_, i64>(0) == 0, "HQ's time-zone row is as it was");
    world.domain("regretted", "unfinish", &[]).await?.ok();
    ensure!(flag(&world, "regretted").await?.0 == "dry_run");

    // And it can be committed again.
    world
        .domain("regretted", "MIGRATE", &["--finish", "--commit-if-clean"])
        .await?
        .ok();
    world.assert_same_rows("regretted", &generated.model).await?;
    ensure!(world.source().domain_doc("regretted").await?["use_sql_backend"] == true);
    world.end()
}
