//! One driver per domain, one open run per domain, and who gave which command.

use proto::doctype::DocType;
use proto::ids::Domain;
use serde_json::json;
use state::run::{RunState, Stopping};
use state::scan::{Cursor, Scanned, form_scan};
use state::{Kind, Phase, StateError, Status};

use crate::database::soon;
use crate::fixture::{Fixture, LONG, looked_at, operator, strings};

async fn let_lease_expire(fixture: &Fixture) {
    fixture
        .execute("update migration set driver_until = now() - interval '1 second'")
        .await;
}

#[tokio::test]
async fn ensuring_a_migration_many_times_at_once_records_one() {
    let fixture = Fixture::new().await;
    let ensured: Vec<_> = (0..8)
        .map(|_| {
            let state = fixture.state.clone();
            tokio::spawn(async move { state.ensure_migration(&Domain::from("clinic")).await.unwrap() })
        })
        .collect();
    let mut found = Vec::new();
    for one in ensured {
        let migration = soon("a migration", one).await.unwrap();
        assert_eq!((migration.status, migration.phase), (Status::NotStarted, Phase::Idle));
        found.push((migration.id.0, migration.epoch));
    }
    found.dedup();
    assert_eq!(found.len(), 1);
    assert!(
        fixture.state.started_migrations().await.unwrap().is_empty(),
        "recorded is not started"
    );
}

/// A driver whose lease has run out is in the middle of a transaction: whoever takes the lease next sees what it wrote.
#[tokio::test]
async fn nobody_takes_the_lease_while_a_transaction_of_the_driver_is_on() {
    let (fixture, driven) = Fixture::with_domain().await;
    let_lease_expire(&fixture).await;
    let mut obstacle = fixture.sql.begin().await.unwrap();
    sqlx::query("lock table scan_cursor in access exclusive mode")
        .execute(&mut *obstacle)
        .await
        .unwrap();
    let (state, lease) = (fixture.state.clone(), driven.lease.clone());
    let slow = tokio::spawn(async move {
        let cursor = Cursor {
            after_key: Some("slow".to_owned()),
            ..Cursor::default()
        };
        state.record_cases(&lease, "cases", &cursor, &[]).await
    });
    fixture.until_waiting(1).await;
    let (state, id) = (fixture.state.clone(), driven.id);
    let next = tokio::spawn(async move {
        let lease = state.take_lease(id, "next", LONG).await.unwrap();
        (lease, state.cursor(id, "cases").await.unwrap())
    });
    fixture.until_waiting(2).await;
    obstacle.rollback().await.unwrap();
    soon("the slow driver", slow).await.unwrap().unwrap();
    let (lease, cursor) = soon("the next driver", next).await.unwrap();
    assert!(lease.is_some());
    assert_eq!(cursor.after_key.as_deref(), Some("slow"));
}

#[tokio::test]
async fn of_many_drivers_one_gets_the_lease() {
    let fixture = Fixture::new().await;
    let id = fixture
        .state
        .ensure_migration(&Domain::from("clinic"))
        .await
        .unwrap()
        .id;
    let takers: Vec<_> = (0..8)
        .map(|n| {
            let state = fixture.state.clone();
            tokio::spawn(async move { state.take_lease(id, &format!("driver {n}"), LONG).await.unwrap() })
        })
        .collect();
    let mut held = Vec::new();
    for taker in takers {
        held.extend(soon("a lease", taker).await.unwrap());
    }
    assert_eq!(held.len(), 1);
    let migration = fixture.state.migration(&Domain::from("clinic")).await.unwrap().unwrap();
    assert!(migration.driver.unwrap().starts_with("driver "));
}

#[tokio::test]
async fn a_lease_that_ran_out_goes_to_another_driver_and_the_first_can_write_nothing() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let first = &driven.lease;
    state.renew_lease(first, LONG).await.unwrap();
    let_lease_expire(&fixture).await;
    let second = state
        .take_lease(driven.id, "second", LONG)
        .await
        .unwrap()
        .expect("the lease is free");
    let scan = form_scan(DocType::XFormInstance);
    let cursor = Cursor {
        scanned: 1,
        ..Cursor::default()
    };
    let limits = state::scan::CutLimits {
        cases: 1,
        weight: 1,
        batches: 1,
    };
    let ids = strings(&["a"]);
    let scanned = Scanned {
        doc_type: DocType::XFormInstance,
        cursor: cursor.clone(),
        batches: vec![ids.clone()],
    };
    let looked = looked_at(DocType::XFormInstance, cursor.clone(), &[]);
    let looks = [(looked.look, strings(&[".."]))];
    let (run, _) = state
        .queue_run(driven.id, "MIGRATE", &json!({}), &operator())
        .await
        .unwrap();
    for (what, error) in [
        ("renew", state.renew_lease(first, LONG).await.err()),
        (
            "start",
            state.mark_started(first, Status::DryRun, "1", &json!({})).await.err(),
        ),
        ("flag", state.mark_progress_set(first).await.err()),
        ("phase", state.set_phase(first, Phase::Scan).await.err()),
        (
            "scan",
            state.insert_scanned(first, std::slice::from_ref(&scanned)).await.err(),
        ),
        ("cases", state.record_cases(first, &scan, &cursor, &ids).await.err()),
        ("begin looks", state.begin_looks(first, &looks).await.err()),
        (
            "missing",
            state.record_looks(first, std::slice::from_ref(&looked)).await.err(),
        ),
        ("cut", state.cut_case_batches(first, &limits).await.err()),
        ("cut diffs", state.cut_diff_batches(first, &limits).await.err()),
        (
            "reopen",
            state.reopen_scans(first, std::slice::from_ref(&scan)).await.err(),
        ),
        ("restart", state.restart_scan(first, &scan).await.err()),
        ("requeue", state.requeue_failed(first, 10).await.err()),
        (
            "commit",
            state
                .set_commit_step(first, state::migration::CommitStep::Intent, None)
                .await
                .err(),
        ),
        ("abort", state.clear_commit(first).await.err()),
        (
            "end",
            state.end_run(first, run.id, RunState::Failed, "lost").await.err(),
        ),
        (
            "unusable",
            state.record_unusable(first, DocType::XFormInstance, &ids).await.err(),
        ),
    ] {
        let error = error.unwrap_or_else(|| panic!("{what} must be refused"));
        assert!(matches!(error, StateError::LostLease), "{what}: {error}");
        assert_eq!(error.kind(), Kind::Lost);
    }
    let migration = state.migration(&driven.domain).await.unwrap().unwrap();
    assert_eq!((migration.status, migration.phase), (Status::NotStarted, Phase::Idle));
    assert_eq!(state.cursor(driven.id, &scan).await.unwrap(), Cursor::default());
    assert_eq!(state.run(run.id).await.unwrap().state, RunState::Queued);
    assert!(fixture.errors(&driven).await.is_empty());
    state
        .end_run(&second, run.id, RunState::Finished, "clean")
        .await
        .unwrap();
    let ended = state.run(run.id).await.unwrap();
    assert_eq!(
        (ended.state, ended.outcome.as_deref()),
        (RunState::Finished, Some("clean"))
    );
    state.drop_lease(first).await.unwrap();
    state.renew_lease(&second, LONG).await.unwrap();
    state.drop_lease(&second).await.unwrap();
    assert!(
        state.take_lease(driven.id, "third", LONG).await.unwrap().is_some(),
        "given back at once"
    );
}

#[tokio::test]
async fn options_and_start_are_those_of_the_first_start() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    state
        .mark_started(&driven.lease, Status::DryRun, "12-x", &json!({"toggles": ["a\u{e9}"]}))
        .await
        .unwrap();
    let first = state.migration(&driven.domain).await.unwrap().unwrap();
    state
        .mark_started(&driven.lease, Status::InProgress, "99-y", &json!({"toggles": []}))
        .await
        .unwrap();
    let second = state.migration(&driven.domain).await.unwrap().unwrap();
    assert_eq!(first.status, Status::DryRun);
    assert_eq!(second.status, Status::InProgress);
    assert_eq!(second.started_at, first.started_at);
    assert!(first.started_at.is_some());
    assert_eq!(state.options(driven.id).await.unwrap(), json!({"toggles": ["a\u{e9}"]}));
    assert_eq!(
        fixture
            .strings("select source_seq from migration where id = $1", &driven)
            .await,
        ["12-x"]
    );
    assert_eq!(state.started_migrations().await.unwrap().len(), 1);

    state.mark_progress_set(&driven.lease).await.unwrap();
    let flagged = state.migration(&driven.domain).await.unwrap().unwrap().progress_set_at;
    state.mark_progress_set(&driven.lease).await.unwrap();
    assert_eq!(
        state.migration(&driven.domain).await.unwrap().unwrap().progress_set_at,
        flagged
    );
    assert!(flagged.unwrap() <= state.now().await.unwrap());
}

#[tokio::test]
async fn only_the_last_phase_says_when_it_finished() {
    let (fixture, driven) = Fixture::with_domain().await;
    for (phase, finished) in [(Phase::Diff, false), (Phase::Finished, true), (Phase::Scan, false)] {
        fixture.state.set_phase(&driven.lease, phase).await.unwrap();
        let migration = fixture.state.migration(&driven.domain).await.unwrap().unwrap();
        assert_eq!((migration.phase, migration.finished_at.is_some()), (phase, finished));
    }
}

#[tokio::test]
async fn two_commands_at_once_give_one_run() {
    let (fixture, driven) = Fixture::with_domain().await;
    let queued: Vec<_> = (0..6)
        .map(|_| {
            let (state, id) = (fixture.state.clone(), driven.id);
            tokio::spawn(async move { state.queue_run(id, "MIGRATE", &json!({}), &operator()).await.unwrap() })
        })
        .collect();
    let mut runs = Vec::new();
    for one in queued {
        runs.push(soon("a run", one).await.unwrap());
    }
    assert_eq!(runs.iter().filter(|(_, new)| *new).count(), 1);
    assert!(runs.iter().all(|(run, _)| run.id == runs[0].0.id));
    let run = &runs[0].0;
    assert_eq!(
        (run.state, run.operator.who.as_str(), &run.domain),
        (RunState::Queued, "ada", &driven.domain)
    );
}

/// Workers hold their migration's row for as long as a transaction lasts; commands must not queue up behind them.
#[tokio::test]
async fn a_command_does_not_wait_for_workers() {
    let (fixture, driven) = Fixture::with_domain().await;
    let mut worker = fixture.sql.begin().await.unwrap();
    sqlx::query("select 1 from migration where id = $1 for key share")
        .bind(driven.id.0)
        .execute(&mut *worker)
        .await
        .unwrap();
    let arguments = json!({});
    let (_, new) = soon(
        "the run",
        fixture.state.queue_run(driven.id, "MIGRATE", &arguments, &operator()),
    )
    .await
    .unwrap();
    assert!(new);
    soon("the renewal", fixture.state.renew_lease(&driven.lease, LONG))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_run_that_is_over_stays_over_and_makes_room_for_another() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let (run, _) = state
        .queue_run(driven.id, "MIGRATE", &json!({"live": true}), &operator())
        .await
        .unwrap();
    state.set_run_state(run.id, RunState::Running, None).await.unwrap();
    assert_eq!(state.stop_run(driven.id).await.unwrap(), Stopping::Asked);
    assert_eq!(state.run(run.id).await.unwrap().state, RunState::Stopping);
    assert_eq!(
        state.stop_run(driven.id).await.unwrap(),
        Stopping::Asked,
        "asked already"
    );
    state.set_run_state(run.id, RunState::Running, None).await.unwrap();
    assert_eq!(
        state.run(run.id).await.unwrap().state,
        RunState::Stopping,
        "a driver that takes it up now stops too"
    );
    state
        .set_run_state(run.id, RunState::Stopped, Some("by hand"))
        .await
        .unwrap();
    state
        .set_run_state(run.id, RunState::Finished, Some("too late"))
        .await
        .unwrap();
    let over = state.run(run.id).await.unwrap();
    assert_eq!(
        (over.state, over.outcome.as_deref()),
        (RunState::Stopped, Some("by hand"))
    );
    assert_eq!(
        fixture
            .number(
                "select count(*) from run where migration_id = $1 and ended_at is not null",
                &driven
            )
            .await,
        1
    );
    let (next, new) = state
        .queue_run(driven.id, "MIGRATE", &json!({}), &operator())
        .await
        .unwrap();
    assert!(new && next.id != run.id);
}

#[tokio::test]
async fn runs_without_a_driver_are_orphans() {
    let (fixture, driven) = Fixture::with_domain().await;
    let (run, _) = fixture
        .state
        .queue_run(driven.id, "MIGRATE", &json!({}), &operator())
        .await
        .unwrap();
    assert!(
        fixture.state.orphaned_runs().await.unwrap().is_empty(),
        "it has a driver"
    );
    let_lease_expire(&fixture).await;
    let orphans = fixture.state.orphaned_runs().await.unwrap();
    assert_eq!(orphans.iter().map(|run| run.id).collect::<Vec<_>>(), [run.id]);
    fixture
        .state
        .set_run_state(run.id, RunState::Failed, Some("x"))
        .await
        .unwrap();
    assert!(fixture.state.orphaned_runs().await.unwrap().is_empty());
}

#[tokio::test]
async fn processes_are_alive_while_they_say_so() {
    let fixture = Fixture::new().await;
    let (one, two) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    for id in [one, two, one] {
        fixture.state.heartbeat(id, "serve", &operator()).await.unwrap();
    }
    fixture
        .state
        .heartbeat(uuid::Uuid::new_v4(), "form-worker", &operator())
        .await
        .unwrap();
    assert_eq!(fixture.state.alive("serve").await.unwrap(), 2);
    fixture
        .execute("update instance set seen_at = now() - interval '1 minute' where kind = 'form-worker'")
        .await;
    assert_eq!(fixture.state.alive("form-worker").await.unwrap(), 0);
    fixture.state.sign_off(one).await.unwrap();
    assert_eq!(fixture.state.alive("serve").await.unwrap(), 1);
}

#[tokio::test]
async fn the_audit_log_keeps_every_entry_in_order() {
    let (fixture, driven) = Fixture::with_domain().await;
    for action in ["reset", "show-values"] {
        fixture
            .state
            .audit(&driven.domain, &operator(), action, &json!({"kind": "CommCareCase"}))
            .await
            .unwrap();
    }
    let entries: Vec<(String, String, String, String, String)> =
        sqlx::query_as("select domain, who, host, action, detail ->> 'kind' from audit_log order by id")
            .fetch_all(&fixture.sql)
            .await
            .unwrap();
    let entry = |action: &str| {
        (
            "clinic".to_owned(),
            "ada".to_owned(),
            "lab".to_owned(),
            action.to_owned(),
            "CommCareCase".to_owned(),
        )
    };
    assert_eq!(entries, [entry("reset"), entry("show-values")]);
}
