//! Lists of domains: whose turn a domain is, what a list has begun, and shares.

use std::time::Duration;

use proto::ids::Domain;
use serde_json::json;
use state::lists::{ListedDomain, Share, Turn};
use state::run::{Giver, RunState};
use state::{Kind, Phase, Status};

use crate::fixture::{Driven, Fixture, LONG, operator};

const CLINIC: &str = "clinic";

async fn take(fixture: &Fixture, holder: &str, began: chrono::DateTime<chrono::Utc>) -> Turn {
    fixture
        .state
        .take_listed(&Domain::from(CLINIC), holder, began, LONG)
        .await
        .unwrap()
}

fn mine(turn: Turn) -> ListedDomain {
    match turn {
        Turn::Mine(held) => held,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_domain_is_one_lists_at_a_time_and_its_end_is_known_to_lists_that_began_before() {
    let fixture = Fixture::new().await;
    let began = fixture.state.now().await.unwrap();
    let first = mine(take(&fixture, "first", began).await);
    assert!(matches!(take(&fixture, "second", began).await, Turn::Held { by } if by == "first"));
    fixture.state.keep_listed(&first, LONG).await.unwrap();

    fixture.state.end_listed(&first, Some("+migrated")).await.unwrap();
    assert!(matches!(
        take(&fixture, "second", began).await,
        Turn::Ended { by, outcome } if by == "first" && outcome == "+migrated"
    ));
    let later = fixture.state.now().await.unwrap();
    mine(take(&fixture, "a list of the next day", later).await);
}

#[tokio::test]
async fn a_list_that_is_silent_loses_its_domain_and_one_without_an_outcome_is_anybodys() {
    let fixture = Fixture::new().await;
    let began = fixture.state.now().await.unwrap();
    let first = mine(take(&fixture, "first", began).await);
    fixture
        .execute("update listed_domain set until = now() - interval '1 second'")
        .await;
    let second = mine(take(&fixture, "second", began).await);
    let lost = fixture.state.keep_listed(&first, LONG).await.unwrap_err();
    assert_eq!(lost.kind(), Kind::Lost);
    // Whoever has lost it cannot end it for the other.
    fixture.state.end_listed(&first, Some("-failed")).await.unwrap();
    assert!(matches!(take(&fixture, "third", began).await, Turn::Held { by } if by == "second"));
    fixture.state.end_listed(&second, None).await.unwrap();
    mine(take(&fixture, "third", began).await);
}

async fn give(fixture: &Fixture, driven: &Driven, giver: Giver) -> i64 {
    let (run, new) = fixture
        .state
        .queue_run_of(driven.id, "MIGRATE", &json!({}), &operator(), giver)
        .await
        .unwrap();
    assert!(new);
    run.id
}

async fn end(fixture: &Fixture, run: i64) {
    fixture
        .state
        .set_run_state(run, RunState::Finished, None)
        .await
        .unwrap();
}

const LISTED: Giver = Giver::List { weight: 1 };

#[tokio::test]
async fn a_migration_is_a_lists_when_no_other_command_had_a_hand_in_it() {
    let (fixture, driven) = Fixture::with_domain().await;
    let begun = async || fixture.state.begun_by_list(driven.id).await.unwrap();
    assert!(!begun().await, "nobody has begun it");

    // Of an earlier life of the migration.
    let refused = give(&fixture, &driven, Giver::Command).await;
    fixture
        .state
        .set_run_state(refused, RunState::Failed, None)
        .await
        .unwrap();
    fixture
        .execute("update run set ended_at = now() - interval '1 hour'")
        .await;
    let listed = give(&fixture, &driven, LISTED).await;
    fixture
        .state
        .mark_started(&driven.lease, Status::InProgress, "1", &json!({}))
        .await
        .unwrap();
    assert!(begun().await);
    end(&fixture, listed).await;
    assert!(begun().await);

    let by_hand = give(&fixture, &driven, Giver::Command).await;
    assert!(!begun().await);
    end(&fixture, by_hand).await;
    assert!(!begun().await, "its data is not the list's to delete");
}

#[tokio::test]
async fn a_list_ends_the_epoch_of_what_lists_alone_have_begun() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    state
        .mark_started(&driven.lease, Status::InProgress, "1", &json!({}))
        .await
        .unwrap();
    let listed = give(&fixture, &driven, LISTED).await;
    end(&fixture, listed).await;
    // The operator's command came after the list had looked, and before its reset.
    let by_hand = give(&fixture, &driven, Giver::Command).await;
    assert_eq!(state.begin_reset_of_list(driven.id).await.unwrap(), None);
    let untouched = state.migration(&driven.domain).await.unwrap().unwrap();
    assert_eq!(
        (untouched.epoch, untouched.status),
        (driven.lease.epoch, Status::InProgress)
    );
    assert!(!state.run(by_hand).await.unwrap().state.is_over());

    fixture.execute("update run set from_list = true").await;
    let epoch = state.begin_reset_of_list(driven.id).await.unwrap();
    assert!(epoch.is_some_and(|epoch| epoch > driven.lease.epoch), "{epoch:?}");
    assert_eq!(state.run(by_hand).await.unwrap().state, RunState::Stopped);
}

#[tokio::test]
async fn a_migration_was_live_when_a_run_of_it_was() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let was_live = async || state.was_live(driven.id).await.unwrap();
    let begin = async |mode: &str| {
        let (run, _) = state
            .queue_run(driven.id, "MIGRATE", &json!({ "mode": mode }), &operator())
            .await
            .unwrap();
        run.id
    };
    state
        .mark_started(&driven.lease, Status::InProgress, "1", &json!({}))
        .await
        .unwrap();
    for mode in ["as_it_is", "finish"] {
        let run = begin(mode).await;
        assert!(!was_live().await, "{mode} takes a migration with downtime as well");
        end(&fixture, run).await;
    }
    let run = begin("live").await;
    assert!(was_live().await);
    end(&fixture, run).await;
    assert!(was_live().await);
    // Of an earlier life.
    fixture
        .execute("update run set ended_at = now() - interval '1 hour'")
        .await;
    assert!(!was_live().await);
    let run = begin("as_it_is").await;
    let cutoff = state.set_cutoff(&driven.lease, run, Some(chrono::Utc::now())).await;
    assert!(cutoff.unwrap().is_some() && was_live().await, "it stayed live");
}

#[tokio::test]
async fn shares_are_by_weight_among_those_that_work() {
    let fixture = Fixture::new().await;
    let small = fixture.drive("small").await;
    let share = async || fixture.state.share(small.id).await.unwrap();
    assert_eq!(share().await, Share { own: 4, all: 4 });

    let large = fixture.drive("large").await;
    assert_eq!(share().await, Share { own: 4, all: 4 }, "its driver has not begun");
    fixture.state.set_phase(&large.lease, Phase::Scan).await.unwrap();
    assert_eq!(share().await, Share { own: 4, all: 8 });
    give(&fixture, &large, Giver::List { weight: 16 }).await;
    assert_eq!(share().await, Share { own: 4, all: 20 });
    give(&fixture, &small, LISTED).await;
    assert_eq!(share().await, Share { own: 1, all: 17 });

    fixture.state.set_phase(&large.lease, Phase::Settle).await.unwrap();
    assert_eq!(share().await, Share { own: 1, all: 1 }, "it only waits");
    fixture.state.set_phase(&large.lease, Phase::Diff).await.unwrap();
    fixture.state.renew_lease(&large.lease, Duration::ZERO).await.unwrap();
    assert_eq!(share().await, Share { own: 1, all: 1 }, "its driver is gone");
}

#[tokio::test]
async fn runs_of_greater_weight_are_adopted_first() {
    let fixture = Fixture::new().await;
    for (domain, giver) in [
        ("low", LISTED),
        ("usual", Giver::Command),
        ("high", Giver::List { weight: 16 }),
        ("usual too", Giver::Command),
    ] {
        let driven = fixture.drive(domain).await;
        give(&fixture, &driven, giver).await;
        fixture.state.drop_lease(&driven.lease).await.unwrap();
    }
    let runs = fixture.state.orphaned_runs().await.unwrap();
    let names: Vec<&str> = runs.iter().map(|run| run.domain.as_str()).collect();
    assert_eq!(names, ["high", "usual", "usual too", "low"]);
}
