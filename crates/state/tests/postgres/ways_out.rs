//! Live and back: cut-offs, what a finish forgets, and the ways out of a run and of the downtime.

use chrono::{DateTime, Duration, Utc};
use proto::doctype::DocType;
use serde_json::json;
use state::migration::CommitStep;
use state::run::{Giver, RunState, Stopping};
use state::scan::Cursor;
use state::{Phase, Status};

use crate::fixture::{Driven, Fixture, looked_at, operator};

async fn run_of(fixture: &Fixture, driven: &Driven, mode: &str) -> i64 {
    let (run, new) = fixture
        .state
        .queue_run(driven.id, "MIGRATE", &json!({ "mode": mode }), &operator())
        .await
        .unwrap();
    assert!(new, "a run is open already");
    run.id
}

/// What the driver of a run does first.
async fn begin(fixture: &Fixture, driven: &Driven, run: i64, status: Status, cutoff: Option<DateTime<Utc>>) {
    let state = &fixture.state;
    state
        .mark_started(&driven.lease, status, "0", &json!({}))
        .await
        .unwrap();
    state.set_cutoff(&driven.lease, run, cutoff).await.unwrap();
    state.set_run_state(run, RunState::Running, None).await.unwrap();
}

async fn cutoff(fixture: &Fixture, driven: &Driven) -> Option<DateTime<Utc>> {
    sqlx::query_scalar("select live_cutoff from migration where id = $1")
        .bind(driven.id.0)
        .fetch_one(&fixture.sql)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_domain_taken_back_to_live_has_its_cutoff_again_and_no_run_that_would_end_that() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let earlier = state.now().await.unwrap() - Duration::hours(2);
    let later = earlier + Duration::hours(1);
    for at in [earlier, later] {
        let live = run_of(&fixture, &driven, "live").await;
        begin(&fixture, &driven, live, Status::DryRun, Some(at)).await;
        state.set_run_state(live, RunState::Finished, None).await.unwrap();
    }
    let finish = run_of(&fixture, &driven, "finish").await;
    begin(&fixture, &driven, finish, Status::InProgress, None).await;
    assert_eq!(cutoff(&fixture, &driven).await, None, "a finish takes everything");

    // Its driver died; somebody else holds the lease now.
    state.unfinish(&driven.lease).await.unwrap();
    let migration = state.migration(&driven.domain).await.unwrap().unwrap();
    assert_eq!((migration.status, migration.phase), (Status::DryRun, Phase::Idle));
    assert_eq!(cutoff(&fixture, &driven).await, Some(later));
    assert_eq!(state.run(finish).await.unwrap().state, RunState::Stopped);
    assert!(state.open_run(driven.id).await.unwrap().is_none());
}

#[tokio::test]
async fn what_was_never_live_is_compared_as_of_its_start() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let run = run_of(&fixture, &driven, "as_it_is").await;
    begin(&fixture, &driven, run, Status::InProgress, None).await;
    state.go_back_to_live(&driven.lease, run).await.unwrap();
    let started = state.migration(&driven.domain).await.unwrap().unwrap().started_at;
    assert!(started.is_some());
    assert_eq!(cutoff(&fixture, &driven).await, started);
    assert_eq!(
        state.run(run).await.unwrap().state,
        RunState::Running,
        "it is on its way back, and ends itself"
    );
}

#[tokio::test]
async fn a_run_that_nobody_drives_ends_when_it_is_asked_to_stop() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    assert_eq!(state.stop_run(driven.id).await.unwrap(), Stopping::NoRun);
    let run = run_of(&fixture, &driven, "as_it_is").await;
    assert_eq!(
        state.stop_run(driven.id).await.unwrap(),
        Stopping::Asked,
        "it is driven"
    );
    state.drop_lease(&driven.lease).await.unwrap();
    assert_eq!(state.stop_run(driven.id).await.unwrap(), Stopping::Ended);
    let ended = state.run(run).await.unwrap();
    assert_eq!(ended.state, RunState::Stopped);
    assert!(ended.outcome.is_some());
    assert!(
        state.orphaned_runs().await.unwrap().is_empty(),
        "nobody begins it only to stop"
    );
    assert_eq!(state.stop_run(driven.id).await.unwrap(), Stopping::NoRun);
}

#[tokio::test]
async fn a_run_that_has_something_to_finish_is_asked_even_if_nobody_drives_it() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let returning = run_of(&fixture, &driven, "finish").await;
    begin(&fixture, &driven, returning, Status::InProgress, None).await;
    state.go_back_to_live(&driven.lease, returning).await.unwrap();
    state.drop_lease(&driven.lease).await.unwrap();
    assert_eq!(state.stop_run(driven.id).await.unwrap(), Stopping::Asked);

    let other = fixture.drive("other").await;
    let committing = run_of(&fixture, &other, "finish").await;
    begin(&fixture, &other, committing, Status::InProgress, None).await;
    sqlx::query("update migration set commit_step = $2 where id = $1")
        .bind(other.id.0)
        .bind(CommitStep::Switched.as_str())
        .execute(&fixture.sql)
        .await
        .unwrap();
    state.drop_lease(&other.lease).await.unwrap();
    assert_eq!(state.stop_run(other.id).await.unwrap(), Stopping::Asked);
}

#[tokio::test]
async fn a_list_that_is_run_again_gives_its_runs_their_new_priority() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let weight = async |run: i64| -> i16 {
        sqlx::query_scalar("select weight from run where id = $1")
            .bind(run)
            .fetch_one(&fixture.sql)
            .await
            .unwrap()
    };
    let give = async |giver| {
        state
            .queue_run_of(driven.id, "MIGRATE", &json!({}), &operator(), giver)
            .await
            .unwrap()
            .0
            .id
    };
    let run = give(Giver::List { weight: 1 }).await;
    assert_eq!(give(Giver::List { weight: 4 }).await, run);
    assert_eq!(weight(run).await, 4);
    assert_eq!(give(Giver::Command).await, run);
    assert_eq!(weight(run).await, 4, "a command does not change what a list has begun");
    state.set_run_state(run, RunState::Finished, None).await.unwrap();
    let own = give(Giver::Command).await;
    let usual = weight(own).await;
    assert_eq!(give(Giver::List { weight: usual + 1 }).await, own);
    assert_eq!(weight(own).await, usual, "nor the other way round");
}

#[tokio::test]
async fn finishing_a_live_migration_and_taking_that_back_forget_what_was_finished() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let lease = &driven.lease;
    let now = || async { state.migration(&driven.domain).await.unwrap().unwrap() };
    let begin = |status| async move {
        state.mark_started(lease, status, "1", &json!({})).await.unwrap();
        state.mark_progress_set(lease).await.unwrap();
    };
    begin(Status::DryRun).await;
    state.set_phase(lease, Phase::Finished).await.unwrap();
    let live = now().await;
    begin(Status::DryRun).await;
    let again = now().await;
    assert_eq!(
        (again.phase, again.finished_at, again.progress_set_at),
        (Phase::Finished, live.finished_at, live.progress_set_at),
        "another live run leaves them as they are"
    );

    // A driver that dies right here leaves nothing that a COMMIT could take for a finished run.
    state
        .mark_started(lease, Status::InProgress, "1", &json!({}))
        .await
        .unwrap();
    let finishing = now().await;
    assert_eq!(
        (finishing.phase, finishing.finished_at, finishing.progress_set_at),
        (Phase::Idle, None, None)
    );

    state.mark_progress_set(lease).await.unwrap();
    state.set_phase(lease, Phase::Finished).await.unwrap();
    let cursor = Cursor {
        complete: true,
        ..Cursor::default()
    };
    state
        .record_looks(lease, &[looked_at(DocType::XFormInstance, cursor, &[])])
        .await
        .unwrap();
    state.unfinish(lease).await.unwrap();
    let unfinished = now().await;
    assert_eq!(unfinished.status, Status::DryRun);
    assert_eq!(
        (unfinished.phase, unfinished.finished_at, unfinished.progress_set_at),
        (Phase::Idle, None, None)
    );
    assert_eq!(
        state.cursor(driven.id, "missing:XFormInstance").await.unwrap(),
        Cursor::default()
    );
}

#[tokio::test]
async fn all_drivers_of_a_run_share_its_cutoff() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let at = |second| chrono::DateTime::from_timestamp(second, 0);
    let operator = state::run::Operator {
        who: "asha".to_owned(),
        host: "here".to_owned(),
        pid: 1,
    };
    let queue = || async {
        let queued = state
            .queue_run(driven.id, "MIGRATE", &json!({"mode": "live"}), &operator)
            .await;
        let (run, new) = queued.unwrap();
        assert!(new);
        assert_eq!(run.arguments, json!({"mode": "live"}));
        run.id
    };
    let end = |run| state.set_run_state(run, state::run::RunState::Finished, None);
    let first = queue().await;
    assert_eq!(state.set_cutoff(&driven.lease, first, at(10)).await.unwrap(), at(10));
    assert_eq!(state.set_cutoff(&driven.lease, first, at(20)).await.unwrap(), at(10));
    end(first).await.unwrap();
    let second = queue().await;
    assert_eq!(state.set_cutoff(&driven.lease, second, at(30)).await.unwrap(), at(30));
    let found = state.migration(&driven.domain).await.unwrap().unwrap();
    assert_eq!(found.live_cutoff, at(30));
    end(second).await.unwrap();
    let last = queue().await;
    assert_eq!(state.set_cutoff(&driven.lease, last, None).await.unwrap(), None);
    let found = state.migration(&driven.domain).await.unwrap().unwrap();
    assert_eq!(found.live_cutoff, None);
}
