//! What the end of a migration rests on: measurements, the way back to live, the snapshot of a commit.

use std::time::Duration;

use proto::topology::Stage;
use serde_json::json;
use state::migration::CommitStep;
use state::pace::{Pace, Work};
use state::run::RunState;
use state::snapshot::{DocKind, SnapshotPart, UncommitStep};
use state::{Kind, Phase, Status};

use crate::fixture::{Fixture, LONG, operator, strings};

fn pace(work: Work, documents: i64, seconds: f64) -> Pace {
    Pace {
        work,
        documents,
        seconds,
    }
}

#[tokio::test]
async fn snapshots_of_all_domains_count_the_nearest_on_either_side() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    assert!(state.snapshot_paces(10).await.unwrap().is_empty());
    let other = fixture.drive("other").await;
    for number in 1..=20 {
        let lease = if number % 2 == 0 { &driven.lease } else { &other.lease };
        let found = pace(Work::Snapshot, number, 0.5);
        state.record_pace(lease, None, found).await.unwrap();
    }
    let found = state.snapshot_paces(12).await.unwrap();
    let mut documents: Vec<i64> = found.iter().map(|pace| pace.documents).collect();
    documents.sort_unstable();
    assert_eq!(documents, (9..=16).collect::<Vec<_>>());
    assert!(found.iter().all(|pace| pace.work == Work::Snapshot));
    assert!(
        state.paces(driven.id).await.unwrap().is_empty(),
        "no run has measured anything"
    );
}

#[tokio::test]
async fn the_newest_measurements_of_each_work_count() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    assert!(state.paces(driven.id).await.unwrap().is_empty());
    assert_eq!(state.cases_per_document(driven.id).await.unwrap(), None);
    let other = fixture.drive("other").await;
    state
        .record_pace(&other.lease, None, pace(Work::Diff, 9, 9.0))
        .await
        .unwrap();
    let mut runs = Vec::new();
    for _ in 0..2 {
        let (run, _) = state
            .queue_run(driven.id, "MIGRATE", &json!({}), &operator())
            .await
            .unwrap();
        state.set_run_state(run.id, RunState::Finished, None).await.unwrap();
        runs.push(run.id);
    }
    for (number, run) in [(100, runs[0]), (10, runs[1])] {
        state
            .record_pace(&driven.lease, Some(run), pace(Work::Forms, number, 1.0))
            .await
            .unwrap();
        state
            .record_pace(&driven.lease, Some(run), pace(Work::Replay, 30, 1.0))
            .await
            .unwrap();
    }
    // Of ten documents thirty cases: more than of a hundred.
    assert_eq!(state.cases_per_document(driven.id).await.unwrap(), Some(3.0));
    for number in 0..20 {
        state
            .record_pace(&driven.lease, None, pace(Work::Missing, number, 0.5))
            .await
            .unwrap();
    }
    let found = state.paces(driven.id).await.unwrap();
    assert_eq!(
        found
            .iter()
            .filter(|pace| pace.work == Work::Forms)
            .copied()
            .collect::<Vec<_>>(),
        [pace(Work::Forms, 100, 1.0), pace(Work::Forms, 10, 1.0)]
    );
    let missing: Vec<i64> = found
        .iter()
        .filter(|pace| pace.work == Work::Missing)
        .map(|pace| pace.documents)
        .collect();
    assert_eq!(missing, (8..20).collect::<Vec<_>>());
    assert!(found.iter().all(|pace| pace.work != Work::Diff), "{found:?}");
}

#[tokio::test]
async fn work_is_counted_by_batches_done() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    fixture
        .stage(&driven, &[("f", "1-a", &["a", "b"]), ("g", "1-a", &["a"])])
        .await;
    fixture.replay(&driven, &["a", "b"]).await;
    fixture.batch(&driven, Stage::Form, &["x", "y", "z"]).await;
    for (work, done) in [
        (Work::Forms, 2),
        (Work::Replay, 2),
        (Work::Diff, 0),
        (Work::List, 0),
        (Work::Missing, 0),
    ] {
        assert_eq!(state.documents_done(driven.id, work).await.unwrap(), done, "{work}");
    }
    assert_eq!(state.documents_waiting(driven.id).await.unwrap(), 3);
}

#[tokio::test]
async fn a_run_that_goes_back_to_live_is_on_record_with_the_status() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    state
        .mark_started(&driven.lease, Status::InProgress, "1", &json!({}))
        .await
        .unwrap();
    state.mark_progress_set(&driven.lease).await.unwrap();
    state.set_phase(&driven.lease, Phase::Diff).await.unwrap();
    let (run, _) = state
        .queue_run(driven.id, "MIGRATE", &json!({}), &operator())
        .await
        .unwrap();
    assert!(!state.goes_back_to_live(run.id).await.unwrap());
    // Whoever takes it up after a crash does it once more.
    for _ in 0..2 {
        state.go_back_to_live(&driven.lease, run.id).await.unwrap();
        assert!(state.goes_back_to_live(run.id).await.unwrap());
        let now = state.migration(&driven.domain).await.unwrap().unwrap();
        assert_eq!(
            (now.status, now.phase, now.progress_set_at),
            (Status::DryRun, Phase::Idle, None)
        );
    }
    let mut stale = driven.lease.clone();
    stale.token = uuid::Uuid::from_u128(1);
    assert_eq!(
        state.go_back_to_live(&stale, run.id).await.unwrap_err().kind(),
        Kind::Lost
    );
}

#[tokio::test]
async fn a_lease_has_a_holder_until_it_runs_out() {
    let (fixture, driven) = Fixture::with_domain().await;
    let held = fixture.state.holder(driven.id).await.unwrap().unwrap();
    assert_eq!((held.name.as_str(), held.token), ("test", driven.lease.token));
    assert!(held.left > LONG / 2 && held.left <= LONG, "{held:?}");
    fixture.execute("update migration set driver_until = now()").await;
    assert_eq!(fixture.state.holder(driven.id).await.unwrap(), None);
}

#[tokio::test]
async fn a_snapshot_is_kept_for_its_time_and_goes_with_the_commit() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let part = |id: &str, digest| SnapshotPart {
        ids: strings(&[id]),
        digests: vec![digest],
    };
    // A commit that was interrupted takes it again.
    for digest in [1, 2] {
        state
            .store_snapshot_part(&driven.lease, DocKind::Form, 0, 0, &part("f", digest))
            .await
            .unwrap();
    }
    state
        .store_snapshot_part(&driven.lease, DocKind::Case, 1, 3, &part("c", 7))
        .await
        .unwrap();
    let read = |kind, shard, number| state.snapshot_part(driven.id, kind, shard, number);
    assert_eq!(read(DocKind::Form, 0, 0).await.unwrap(), Some(part("f", 2)));
    assert_eq!(read(DocKind::Case, 1, 3).await.unwrap(), Some(part("c", 7)));
    assert_eq!(read(DocKind::Case, 0, 0).await.unwrap(), None);
    assert_eq!(state.committed(driven.id).await.unwrap().at, None);

    state.note_time_zones(&driven.lease, true).await.unwrap();
    // Found complete by the commit that goes on after a crash: it was still that commit which had done it.
    state.note_time_zones(&driven.lease, false).await.unwrap();
    state
        .set_commit_step(&driven.lease, CommitStep::Done, None)
        .await
        .unwrap();
    let committed = state.committed(driven.id).await.unwrap();
    assert!(
        committed.at.is_some() && committed.time_zones && committed.snapshot,
        "{committed:?}"
    );
    assert_eq!(state.forget_old_snapshots(LONG).await.unwrap(), 0);

    fixture
        .execute("update migration set committed_at = now() - interval '2 hours', uncommit_step = 'intent'")
        .await;
    // An uncommit that has begun still needs it.
    assert_eq!(state.forget_old_snapshots(LONG).await.unwrap(), 0);
    state.set_uncommit_step(&driven.lease, None).await.unwrap();
    assert_eq!(state.forget_old_snapshots(LONG).await.unwrap(), 2);
    assert!(!state.committed(driven.id).await.unwrap().snapshot);
}

#[tokio::test]
async fn an_uncommit_leaves_a_migration_in_progress_that_must_run_again() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    state.set_phase(&driven.lease, Phase::Finished).await.unwrap();
    state
        .set_commit_step(&driven.lease, CommitStep::Done, Some("5-x"))
        .await
        .unwrap();
    let late = [("XFormInstance".to_owned(), "l".to_owned())];
    // Recorded twice, when a commit goes on after a crash.
    for _ in 0..2 {
        state.record_late_forms(driven.id, &late).await.unwrap();
    }
    assert_eq!(state.late_forms(driven.id, 5).await.unwrap(), (1, strings(&["l"])));
    for step in [UncommitStep::Intent, UncommitStep::Blocked, UncommitStep::Switched] {
        state.set_uncommit_step(&driven.lease, Some(step)).await.unwrap();
        let now = state.migration(&driven.domain).await.unwrap().unwrap();
        assert_eq!((now.uncommit_step, now.status), (Some(step), Status::Complete));
    }
    // A run whose driver died in the commit would commit again.
    let (run, _) = state
        .queue_run(driven.id, "MIGRATE", &json!({}), &operator())
        .await
        .unwrap();
    state.uncommitted(&driven.lease).await.unwrap();
    assert_eq!(state.run(run.id).await.unwrap().state, RunState::Stopped);
    let now = state.migration(&driven.domain).await.unwrap().unwrap();
    assert_eq!((now.status, now.phase), (Status::InProgress, Phase::Idle));
    assert_eq!((now.commit_step, now.commit_rev, now.uncommit_step), (None, None, None));
    assert!(now.progress_set_at.is_some() && now.finished_at.is_none());
    assert_eq!(state.late_forms(driven.id, 5).await.unwrap().0, 0);
    let again = state
        .take_lease(driven.id, "other", Duration::from_secs(1))
        .await
        .unwrap();
    assert!(again.is_none(), "the lease is still held");
}

#[tokio::test]
async fn a_lease_is_checked_against_whoever_has_it_now() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let (run, _) = state
        .queue_run(driven.id, "MIGRATE", &json!({}), &operator())
        .await
        .unwrap();
    // It has run out, and nobody else was faster.
    fixture.execute("update migration set driver_until = now()").await;
    state.check_lease(&driven.lease).await.unwrap();
    let other = state.take_lease(driven.id, "other", LONG).await.unwrap().unwrap();
    assert_eq!(state.check_lease(&driven.lease).await.unwrap_err().kind(), Kind::Lost);
    let ended = state.end_runs(&driven.lease, "aborted").await;
    assert_eq!(ended.unwrap_err().kind(), Kind::Lost);
    assert_eq!(state.run(run.id).await.unwrap().state, RunState::Queued);
    state.end_runs(&other, "aborted").await.unwrap();
    let run = state.run(run.id).await.unwrap();
    assert_eq!(
        (run.state, run.outcome.as_deref()),
        (RunState::Stopped, Some("aborted"))
    );

    state.check_lease(&other).await.unwrap();
    state.begin_reset(driven.id).await.unwrap();
    assert_eq!(state.check_lease(&other).await.unwrap_err().kind(), Kind::Lost);
}

#[tokio::test]
async fn the_wait_for_caches_counts_from_the_first_switch() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    for step in [CommitStep::Intent, CommitStep::Fenced] {
        state.set_commit_step(&driven.lease, step, Some("1-a")).await.unwrap();
        assert_eq!(state.switched_for(driven.id).await.unwrap(), Duration::ZERO);
    }
    state
        .set_commit_step(&driven.lease, CommitStep::Switched, None)
        .await
        .unwrap();
    sqlx::query("update migration set switched_at = switched_at - interval '1 hour' where id = $1")
        .bind(driven.id.0)
        .execute(&fixture.sql)
        .await
        .unwrap();
    // Whoever goes on with it records the step again.
    state
        .set_commit_step(&driven.lease, CommitStep::Switched, None)
        .await
        .unwrap();
    assert!(state.switched_for(driven.id).await.unwrap() >= Duration::from_secs(3600));
    state.clear_commit(&driven.lease).await.unwrap();
    assert_eq!(state.switched_for(driven.id).await.unwrap(), Duration::ZERO);
}
