//! A run on record, and the driver that leads it.

use serde_json::json;
use state::StateError;
use state::run::{Giver, Operator, RunState};

use crate::fixture::{Fixture, LONG};

fn operator() -> Operator {
    Operator {
        who: "ada".to_owned(),
        host: "h".to_owned(),
        pid: 1,
    }
}

#[tokio::test]
async fn a_run_that_somebody_drives_is_ended_by_nobody_else() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let (run, _) = state
        .queue_run_of(driven.id, "MIGRATE", &json!({}), &operator(), Giver::Command)
        .await
        .unwrap();
    let end = || state.end_undriven_run(run.id, RunState::Failed, "no broker");
    assert!(!end().await.unwrap());
    assert_eq!(state.run(run.id).await.unwrap().state, RunState::Queued);
    state.drop_lease(&driven.lease).await.unwrap();
    assert!(end().await.unwrap());
    let ended = state.run(run.id).await.unwrap();
    assert_eq!(
        (ended.state, ended.outcome.as_deref()),
        (RunState::Failed, Some("no broker"))
    );
    assert!(!end().await.unwrap(), "it is over");
}

#[tokio::test]
async fn a_run_is_begun_by_the_holder_of_the_lease_and_not_after_its_end() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let (run, _) = state
        .queue_run_of(driven.id, "MIGRATE", &json!({}), &operator(), Giver::Command)
        .await
        .unwrap();
    // The first driver was suspended between taking the lease and beginning; another one has it now.
    fixture
        .execute("update migration set driver_until = now() - interval '1 second'")
        .await;
    let second = state.take_lease(driven.id, "second", LONG).await.unwrap().unwrap();
    let refused = state.begin_run(&driven.lease, run.id).await.unwrap_err();
    assert!(matches!(refused, StateError::LostLease), "{refused}");
    assert_eq!(state.run(run.id).await.unwrap().state, RunState::Queued);

    assert!(state.begin_run(&second, run.id).await.unwrap());
    assert_eq!(state.run(run.id).await.unwrap().state, RunState::Running);
    state.stop_run(driven.id).await.unwrap();
    assert!(state.begin_run(&second, run.id).await.unwrap(), "it has to be ended");
    assert_eq!(state.run(run.id).await.unwrap().state, RunState::Stopping);
    state
        .end_run(&second, run.id, RunState::Stopped, "stopped")
        .await
        .unwrap();
    assert!(!state.begin_run(&second, run.id).await.unwrap());
    assert_eq!(state.run(run.id).await.unwrap().state, RunState::Stopped);
}
