//! One worker at a time, and only with its token.

use proto::ids::Epoch;
use proto::topology::Stage;
use state::form_stage::FormResults;
use state::{Kind, StateError};

use crate::database::soon;
use crate::fixture::{Fixture, LONG, intent, message, staged_form};

#[tokio::test]
async fn of_many_workers_one_gets_the_batch() {
    let (fixture, driven) = Fixture::with_domain().await;
    let batch_id = fixture.batch(&driven, Stage::Form, &["a", "b"]).await;
    let claims: Vec<_> = (0..8)
        .map(|worker| {
            let (state, message) = (fixture.state.clone(), message(&driven, Stage::Form, batch_id));
            tokio::spawn(async move { state.claim(&message, &format!("w{worker}"), LONG).await.unwrap() })
        })
        .collect();
    let mut won = Vec::new();
    for claim in claims {
        won.extend(soon("a claim", claim).await.unwrap());
    }
    assert_eq!(won.len(), 1);
    assert_eq!(
        (won[0].attempt, won[0].ids.as_slice()),
        (1, ["a".to_owned(), "b".to_owned()].as_slice())
    );
    let row = fixture.batch_row(batch_id).await.unwrap();
    assert_eq!((row.state.as_str(), row.attempt), ("claimed", 1));
}

#[tokio::test]
async fn a_message_of_another_epoch_stage_or_domain_claims_nothing() {
    let (fixture, driven) = Fixture::with_domain().await;
    let other = fixture.drive("other").await;
    let batch_id = fixture.batch(&driven, Stage::Form, &["a"]).await;
    let good = message(&driven, Stage::Form, batch_id);
    let mut wrong_epoch = good.clone();
    wrong_epoch.epoch = Epoch(driven.epoch.0 + 1);
    let mut wrong_domain = good.clone();
    wrong_domain.domain = other.domain.clone();
    let wrong_stage = message(&driven, Stage::Case, batch_id);
    for wrong in [wrong_epoch, wrong_domain, wrong_stage] {
        assert!(
            fixture.state.claim(&wrong, "worker", LONG).await.unwrap().is_none(),
            "{wrong:?}"
        );
    }
    assert_eq!(
        fixture.batch_row(batch_id).await.unwrap().attempt,
        0,
        "a refused claim is no attempt"
    );
    assert!(fixture.state.claim(&good, "worker", LONG).await.unwrap().is_some());
}

#[tokio::test]
async fn a_batch_that_is_not_due_or_is_done_cannot_be_claimed() {
    let (fixture, driven) = Fixture::with_domain().await;
    let batch_id = fixture.batch(&driven, Stage::Form, &["a"]).await;
    fixture
        .execute("update batch set next_at = now() + interval '1 hour'")
        .await;
    assert!(fixture.claim(&driven, Stage::Form, batch_id).await.is_none());
    fixture.execute("update batch set next_at = now()").await;
    let claim = fixture.claim(&driven, Stage::Form, batch_id).await.unwrap();
    fixture
        .state
        .finish_forms(&claim, &FormResults::default())
        .await
        .unwrap();
    assert!(fixture.claim(&driven, Stage::Form, batch_id).await.is_none());
}

#[tokio::test]
async fn renewing_moves_the_lease_of_the_holder_only() {
    let (fixture, driven) = Fixture::with_domain().await;
    let claim = fixture.claimed(&driven, Stage::Form, &["a"]).await;
    fixture.let_expire(claim.batch_id).await;
    fixture.state.renew_claim(&claim, LONG).await.unwrap();
    assert_eq!(
        fixture.state.expire_claims(driven.id, 3).await.unwrap(),
        0,
        "renewed in time"
    );
    let mut thief = claim.clone();
    thief.token = uuid::Uuid::new_v4();
    let error = fixture.state.renew_claim(&thief, LONG).await.unwrap_err();
    assert!(matches!(error, StateError::LostClaim));
    assert_eq!(error.kind(), Kind::Lost);
}

#[tokio::test]
async fn a_lost_claim_changes_nothing() {
    let (fixture, driven) = Fixture::with_domain().await;
    let lost = fixture.claimed(&driven, Stage::Form, &["f"]).await;
    let standings = fixture
        .state
        .begin_forms(&lost, &[intent("f", "1-a")], &[])
        .await
        .unwrap();
    let results = FormResults {
        forms: vec![staged_form("f", "1-a", &["c"], &standings["f"])],
        ..FormResults::default()
    };
    fixture.let_expire(lost.batch_id).await;
    fixture.state.expire_claims(driven.id, 3).await.unwrap();
    let holder = fixture.claim_next(&driven, Stage::Form).await.unwrap();
    assert_eq!(holder.batch_id, lost.batch_id);

    for error in [
        fixture.state.finish_forms(&lost, &results).await.unwrap_err(),
        fixture
            .state
            .fail_claim(&lost, "C2S-1", "late", 1)
            .await
            .map(|_| ())
            .unwrap_err(),
        fixture
            .state
            .begin_forms(&lost, &[intent("g", "1-a")], &[])
            .await
            .map(|_| ())
            .unwrap_err(),
        fixture.state.stale_forms(&lost, &[]).await.map(|_| ()).unwrap_err(),
        fixture.state.case_inputs(&lost, &[]).await.map(|_| ()).unwrap_err(),
        fixture.state.renew_claim(&lost, LONG).await.unwrap_err(),
    ] {
        assert!(matches!(error, StateError::LostClaim), "{error}");
    }
    fixture.state.release_claim(&lost).await.unwrap();
    fixture.state.retry_later(&lost, "C2S-1", "late", LONG).await.unwrap();

    let row = fixture.batch_row(holder.batch_id).await.unwrap();
    assert_eq!((row.state.as_str(), row.attempt, row.retries), ("claimed", 2, 0));
    assert!(fixture.dirty(&driven).await.is_empty());
    assert!(fixture.staged(&driven).await.is_empty());
    assert!(fixture.errors(&driven).await.is_empty());
    fixture.state.finish_forms(&holder, &results).await.unwrap();
    assert_eq!(fixture.staged(&driven).await, ["c/f"]);
}

#[tokio::test]
async fn releasing_gives_the_batch_back_untried() {
    let (fixture, driven) = Fixture::with_domain().await;
    let claim = fixture.claimed(&driven, Stage::Form, &["a"]).await;
    fixture.state.mark_published(&[claim.batch_id]).await.unwrap();
    fixture.state.release_claim(&claim).await.unwrap();
    let row = fixture.batch_row(claim.batch_id).await.unwrap();
    assert_eq!((row.state.as_str(), row.attempt, row.published), ("ready", 0, false));
    assert!(row.next_at <= fixture.state.now().await.unwrap(), "due at once");
}
