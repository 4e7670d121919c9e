//! `COMMIT`: when it is refused, what it accepts, and how it is mended after a crash.

use anyhow::{Context, Result, ensure};
use couch_standin::{Action, FaultRule, OpKind, Predicate};
use e2e::program::RunningCommand;
use e2e::world::{Options, World};
use generator::damage;
use serde_json::Value;

use crate::hook::Hook;
use crate::{domain, migrate_cleanly};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_is_refused_unless_finished_and_clean_and_accepted_diffs_are_recorded() -> Result<()> {
    let mut generated = domain("doubtful", 200);
    let damaged = damage::change_property(&mut generated, 1);
    let mut world = World::start(Options::in_process()).await?;
    world.load(&generated).await?;
    let refused = world.domain("doubtful", "COMMIT", &[]).await?.ended_with(1);
    ensure!(refused.stderr.contains("C2S-4006"), "{}", refused.told());

    world.domain("doubtful", "MIGRATE", &[]).await?.ended_with(1);
    let refused = world.domain("doubtful", "COMMIT", &[]).await?.ended_with(1);
    ensure!(
        refused.stderr.contains("C2S-4041") && refused.stderr.contains("1 CommCareCase with"),
        "{}",
        refused.told()
    );
    let other_kind = world
        .domain("doubtful", "COMMIT", &["--accept-diffs", "XFormInstance"])
        .await?
        .ended_with(1);
    ensure!(other_kind.stderr.contains("C2S-4041"), "{}", other_kind.told());
    let no_kind = world
        .domain("doubtful", "COMMIT", &["--accept-diffs", "Everything"])
        .await?
        .ended_with(2);
    ensure!(no_kind.stderr.contains("C2S-0104"), "{}", no_kind.told());
    ensure!(world.source().domain_doc("doubtful").await?["use_sql_backend"] == false);

    // Somebody gave submissions back in HQ itself: Couch may have more than was compared.
    let in_hq = |from: &str, to: &str| {
        format!(
            "update domain_migration_flags_domainmigrationprogress set migration_status = '{to}'
             where migration_slug = 'couch_to_sql' and migration_status = '{from}'"
        )
    };
    world.target().batch_execute(&in_hq("in_progress", "dry_run")).await?;
    let open = world
        .domain("doubtful", "COMMIT", &["--accept-diffs", "CommCareCase"])
        .await?
        .ended_with(1);
    ensure!(open.stderr.contains("C2S-4097"), "{}", open.told());
    ensure!(world.source().domain_doc("doubtful").await?["use_sql_backend"] == false);
    ensure!(world.text("select commit_step from migration").await?.is_none());
    world.target().batch_execute(&in_hq("dry_run", "in_progress")).await?;

    world
        .domain("doubtful", "COMMIT", &["--accept-diffs", "CommCareCase"])
        .await?
        .ok();
    ensure!(world.source().domain_doc("doubtful").await?["use_sql_backend"] == true);
    let detail = world
        .text("select detail::text from audit_log where action = 'COMMIT'")
        .await?;
    ensure!(
        detail.as_deref().is_some_and(|detail| detail.contains("CommCareCase")),
        "audit log: {detail:?}"
    );

    // The domain is on SQL: nothing may touch it.
    let before = world.row_counts().await?;
    for action in ["reset", "MIGRATE", "COMMIT"] {
        let refused = world.domain("doubtful", action, &[]).await?.ended_with(1);
        ensure!(refused.stderr.contains("C2S-4002"), "{}", refused.told());
    }
    ensure!(
        world.row_counts().await? == before,
        "a refused command has changed something"
    );
    ensure!(!damaged.is_empty());
    world.end()
}

/// An edit, an archive or a deletion keeps the document's date, so that no scan by date meets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_is_refused_when_documents_were_changed_in_couch_since_the_last_look() -> Result<()> {
    let (generated, foreign) = (domain("edited", 100), domain("foreign", 20));
    let mut world = World::start(Options::in_process()).await?;
    world.load(&generated).await?;
    world.domain("edited", "MIGRATE", &[]).await?.ok();

    let of_type = |docs: &[Value], doc_type: &str| -> Result<(String, Value)> {
        let doc = docs
            .iter()
            .find(|doc| doc["doc_type"] == doc_type)
            .context("a document")?;
        Ok((doc["_id"].as_str().unwrap_or_default().to_owned(), doc.clone()))
    };
    let (form, saved) = of_type(&generated.docs, "XFormInstance")?;
    let (case, saved_case) = of_type(&generated.docs, "CommCareCase")?;
    let (log, _) = of_type(&generated.docs, "SubmissionErrorLog")?;
    let (other, saved_other) = of_type(&foreign.docs, "XFormInstance")?;
    let forms = world.source().forms().name().to_owned();
    let older = world.source().stand_in().back_up(&forms).context("a database")?;
    world.load_documents(vec![saved, saved_case, saved_other]).await?;
    ensure!(world.source().stand_in().delete(&forms, &log));
    let refused = world.domain("edited", "COMMIT", &[]).await?.ended_with(1);
    for told in ["C2S-4131", "3 documents", &form, &case, &log] {
        ensure!(refused.stderr.contains(told), "{told}: {}", refused.told());
    }
    ensure!(!refused.stderr.contains(&other), "{}", refused.told());
    ensure!(world.source().domain_doc("edited").await?["use_sql_backend"] == false);

    world.domain("edited", "MIGRATE", &[]).await?.ok();
    world
        .state()
        .execute("update migration set looked_identity = 'another'", &[])
        .await?;
    let refused = world.domain("edited", "COMMIT", &[]).await?.ended_with(1);
    ensure!(refused.stderr.contains("C2S-4130"), "{}", refused.told());
    world.domain("edited", "MIGRATE", &[]).await?.ok();

    // The same database, as it was before: its feed has nothing to tell.
    let newer = world.source().stand_in().back_up(&forms).context("a database")?;
    world.source().stand_in().restore(&forms, &older)?;
    let refused = world.domain("edited", "COMMIT", &[]).await?.ended_with(1);
    ensure!(refused.stderr.contains("C2S-4130"), "{}", refused.told());
    world.source().stand_in().restore(&forms, &newer)?;
    change_during_the_switch(&mut world, &form).await?;
    world.end()
}

/// Commits while somebody edits a form, after COMMIT has asked what has changed.
async fn change_during_the_switch(world: &mut World, form: &str) -> Result<()> {
    let forms = world.source().forms().name().to_owned();
    let faults = world.source().stand_in().faults();
    let switch = faults.add(FaultRule::once(
        Predicate::op(OpKind::Put).on("_domains/"),
        Action::Hold,
    ));
    let command = world.begin_domain("edited", "COMMIT", &[])?;
    ensure!(world.source().stand_in().faults().reached(switch, 1).await);
    let mut edited = world.source().stand_in().get(&forms, form).context("the form")?;
    edited["submit_ip"] = "10.9.9.9".into();
    world.source().stand_in().put(&forms, &edited)?;
    world.source().stand_in().faults().remove(switch);
    let ended = command.end(crate::PATIENCE).await?.ended_with(1);
    ensure!(
        ended.stderr.contains("C2S-4132: 1 documents") && ended.stderr.contains(form),
        "{}",
        ended.told()
    );
    ensure!(world.source().domain_doc("edited").await?["use_sql_backend"] == true);
    let stats = world.stats("edited").await?;
    ensure!(stats["status"] == "complete" && stats["late_forms"] == 1, "{stats}");
    let listed = world.domain("edited", "stats", &["--verbose"]).await?.ok();
    ensure!(listed.stdout.contains(form), "{}", listed.told());
    Ok(())
}

/// Where a COMMIT dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// The decision is on record; the fences are open.
    AfterIntent,
    /// The fences are closed; the Domain document says Couch.
    BeforeTheSwitch,
    /// The Domain document says SQL; our record does not know.
    AfterTheSwitch,
    /// The switch is on record; HQ's flag still blocks submissions.
    BeforeTheFlag,
    /// HQ's flag says complete; our record does not know.
    AfterTheFlag,
}

impl Death {
    const ALL: [Self; 5] = [
        Self::AfterIntent,
        Self::BeforeTheSwitch,
        Self::AfterTheSwitch,
        Self::BeforeTheFlag,
        Self::AfterTheFlag,
    ];

    fn domain(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// The step that is on record when it dies.
    const fn step(self) -> &'static str {
        match self {
            Self::AfterIntent => "intent",
            Self::BeforeTheSwitch | Self::AfterTheSwitch => "fenced",
            Self::BeforeTheFlag | Self::AfterTheFlag => "switched",
        }
    }

    const fn is_on_sql(self) -> bool {
        !matches!(self, Self::AfterIntent | Self::BeforeTheSwitch)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_point_of_commit_is_mended_by_running_it_again() -> Result<()> {
    let hooks = tempfile::tempdir()?;
    let hook = Hook::create(hooks.path().to_path_buf())?;
    let mut world = World::start(Options::in_process().with("hq.cache_hook", &hook.setting())).await?;
    for death in Death::ALL {
        let name = death.domain();
        let generated = domain(&name, 60);
        world.load(&generated).await?;
        migrate_cleanly(&mut world, &name, &generated.model).await?;

        die_at(&mut world, &hook, death).await.with_context(|| name.clone())?;
        let step = world
            .text(&format!("select commit_step from migration where domain = '{name}'"))
            .await?;
        ensure!(step.as_deref() == Some(death.step()), "{death:?} leaves {step:?}");
        let on_sql = world.source().domain_doc(&name).await?["use_sql_backend"] == true;
        ensure!(on_sql == death.is_on_sql(), "{death:?}");
        // Nothing may delete or write what may be HQ's only data.
        for action in ["reset", "MIGRATE"] {
            let refused = world.domain(&name, action, &[]).await?.ended_with(1);
            ensure!(refused.stderr.contains("C2S-4001"), "{death:?}: {}", refused.told());
        }
        world.assert_same_rows(&name, &generated.model).await?;

        lease_runs_out(&world, &name).await?;
        world.domain(&name, "COMMIT", &[]).await?.ok();
        ensure!(
            world.source().domain_doc(&name).await?["use_sql_backend"] == true,
            "{death:?}"
        );
        let stats = world.stats(&name).await?;
        ensure!(stats["status"] == "complete", "{death:?}: {stats}");
        let complete: i64 = world
            .target()
            .query_one(
                "select count(*) from domain_migration_flags_domainmigrationprogress
                 where domain = $1 and migration_status = 'complete'",
                &[&name],
            )
            .await?
            .get(0);
        ensure!(
            complete == 2,
            "{death:?}: {complete} of HQ's progress rows are complete"
        );
        world.assert_same_rows(&name, &generated.model).await?;
    }
    world.end()
}

/// Begins a COMMIT, holds it at a point, and kills it there.
async fn die_at(world: &mut World, hook: &Hook, death: Death) -> Result<()> {
    let name = death.domain();
    let calls = hook.calls()?;
    match death {
        Death::AfterIntent | Death::BeforeTheSwitch | Death::BeforeTheFlag => {
            let holder = world.another_target().await?;
            let lock = match death {
                Death::BeforeTheFlag => format!(
                    "select 1 from domain_migration_flags_domainmigrationprogress
                     where domain = '{name}' and migration_slug = 'couch_to_sql' for update"
                ),
                _ => format!("select 1 from couch_sql_migration_fence where domain = '{name}' for share"),
            };
            holder.batch_execute(&format!("begin; {lock}")).await?;
            let command = world.begin_domain(&name, "COMMIT", &[])?;
            let waiting = "select count(*) from pg_stat_activity
                where datname = current_database() and wait_event_type = 'Lock'";
            world
                .until("COMMIT waits for a row", async |world| {
                    Ok(world.target().query_one(waiting, &[]).await?.get::<_, i64>(0) > 0)
                })
                .await?;
            if death == Death::BeforeTheSwitch {
                // The fence closes, and the Domain document is read once more before it is written.
                let faults = world.source().stand_in().faults();
                let next_read = FaultRule::once(Predicate::op(OpKind::Get).on("_domains/"), Action::Hold);
                let rule = faults.add(next_read);
                holder.batch_execute("rollback").await?;
                ensure!(faults.reached(rule, 1).await);
                command.kill().await?;
                faults.remove(rule);
            } else {
                command.kill().await?;
                holder.batch_execute("rollback").await?;
            }
        }
        Death::AfterTheSwitch => die_in_hook(world, hook, &name, calls + 1).await?,
        Death::AfterTheFlag => die_in_hook(world, hook, &name, calls + 2).await?,
    }
    Ok(())
}

/// A dead command's hold on the domain lasts until its lease is over.
async fn lease_runs_out(world: &World, name: &str) -> Result<()> {
    let over = "select driver_until is null or driver_until < now() from migration where domain = ";
    world.wait_until(&format!("{over}'{name}'")).await
}

async fn die_in_hook(world: &mut World, hook: &Hook, name: &str, call: usize) -> Result<()> {
    let hold = hook.hold(call)?;
    let command: RunningCommand = world.begin_domain(name, "COMMIT", &[])?;
    world
        .until("the hook is called", async |_| Ok(hook.calls()? >= call))
        .await?;
    command.kill().await?;
    std::fs::remove_file(hold)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_commit_is_aborted_back_to_couch() -> Result<()> {
    let hooks = tempfile::tempdir()?;
    let hook = Hook::create(hooks.path().to_path_buf())?;
    let mut world = World::start(Options::in_process().with("hq.cache_hook", &hook.setting())).await?;
    let generated = domain("afterall", 60);
    world.load(&generated).await?;
    migrate_cleanly(&mut world, "afterall", &generated.model).await?;
    let nothing = world.domain("afterall", "COMMIT", &["--abort"]).await?.ended_with(1);
    ensure!(nothing.stderr.contains("C2S-4004"), "{}", nothing.told());
    let calls = hook.calls()?;
    die_in_hook(&mut world, &hook, "afterall", calls + 1).await?;
    ensure!(world.source().domain_doc("afterall").await?["use_sql_backend"] == true);
    lease_runs_out(&world, "afterall").await?;
    world.domain("afterall", "COMMIT", &["--abort"]).await?.ok();
    ensure!(world.source().domain_doc("afterall").await?["use_sql_backend"] == false);
    migrate_cleanly(&mut world, "afterall", &generated.model).await?;
    world.domain("afterall", "COMMIT", &[]).await?.ok();
    ensure!(world.source().domain_doc("afterall").await?["use_sql_backend"] == true);
    world.end()
}
