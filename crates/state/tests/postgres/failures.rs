//! What failing batches come to: again, split, parked; and what does not count as a failure.

use std::time::Duration;

use proto::topology::Stage;
use state::batch::AfterFailure;
use state::form_stage::FormResults;

use crate::fixture::{Fixture, LONG, strings};

/// Attempts of a single document, as workers are configured.
const MAX_ATTEMPTS: i32 = 5;

#[tokio::test]
async fn an_expired_claim_counts_as_a_failure() {
    let (fixture, driven) = Fixture::with_domain().await;
    let claim = fixture.claimed(&driven, Stage::Form, &["a"]).await;
    assert_eq!(
        fixture.state.expire_claims(driven.id, MAX_ATTEMPTS).await.unwrap(),
        0,
        "its lease still runs"
    );
    fixture.let_expire(claim.batch_id).await;
    let before = fixture.state.now().await.unwrap();
    assert_eq!(fixture.state.expire_claims(driven.id, MAX_ATTEMPTS).await.unwrap(), 1);
    let row = fixture.batch_row(claim.batch_id).await.unwrap();
    assert_eq!((row.state.as_str(), row.attempt, row.published), ("ready", 1, false));
    assert!(row.next_at > before, "a failed batch waits before it is tried again");
    let again = fixture.claim_next(&driven, Stage::Form).await.unwrap();
    assert_eq!((again.batch_id, again.attempt), (claim.batch_id, 2));
}

/// The worker's renewal and the driver's round meet: the renewal comes first by a hair.
#[tokio::test]
async fn a_claim_that_is_renewed_at_the_last_moment_is_not_expired() {
    let (fixture, driven) = Fixture::with_domain().await;
    let claim = fixture.claimed(&driven, Stage::Form, &["a"]).await;
    fixture.let_expire(claim.batch_id).await;
    let mut renewal = fixture.sql.begin().await.unwrap();
    sqlx::query("update batch set lease_until = now() + interval '1 hour' where id = $1")
        .bind(claim.batch_id.0)
        .execute(&mut *renewal)
        .await
        .unwrap();
    let (state, id) = (fixture.state.clone(), driven.id);
    let expiring = tokio::spawn(async move { state.expire_claims(id, MAX_ATTEMPTS).await.unwrap() });
    fixture.until_waiting(1).await;
    renewal.commit().await.unwrap();
    assert_eq!(expiring.await.unwrap(), 0);
    fixture
        .state
        .finish_forms(&claim, &FormResults::default())
        .await
        .unwrap();
}

/// One bad document does not take its neighbours with it, however impatient the workers are.
#[tokio::test]
async fn of_several_documents_none_is_set_aside_at_the_only_attempt() {
    let (fixture, driven) = Fixture::with_domain().await;
    let claim = fixture.claimed(&driven, Stage::Form, &["good", "poison"]).await;
    let after = fixture.state.fail_claim(&claim, "C2S-1", "boom", 1).await.unwrap();
    assert_eq!(after, AfterFailure::Split);
    assert!(fixture.errors(&driven).await.is_empty());
    for id in ["good", "poison"] {
        let claim = fixture.claim_next(&driven, Stage::Form).await.unwrap();
        assert_eq!(claim.ids, [id]);
        let after = fixture.state.fail_claim(&claim, "C2S-1", "boom", 1).await.unwrap();
        assert_eq!(after, AfterFailure::Parked);
    }
    assert_eq!(fixture.errors(&driven).await.len(), 2);
}

#[tokio::test]
async fn a_batch_that_fails_twice_is_split_in_parts_of_all_its_documents() {
    let (fixture, driven) = Fixture::with_domain().await;
    let ids: Vec<String> = (0..20).map(|n| format!("f{n:02}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let claim = fixture.claimed(&driven, Stage::Form, &ids).await;
    let after = fixture
        .state
        .fail_claim(&claim, "C2S-1", "boom", MAX_ATTEMPTS)
        .await
        .unwrap();
    assert_eq!(after, AfterFailure::Again, "one failure may be chance");
    let claim = fixture.claim_next(&driven, Stage::Form).await.unwrap();
    let after = fixture
        .state
        .fail_claim(&claim, "C2S-1", "boom", MAX_ATTEMPTS)
        .await
        .unwrap();
    assert_eq!(after, AfterFailure::Split);
    assert!(fixture.batch_row(claim.batch_id).await.is_none());

    let parts: Vec<(Vec<String>, i32, i32, i64)> =
        sqlx::query_as("select ids, item_count, attempt, split_from from batch where migration_id = $1 order by id")
            .bind(driven.id.0)
            .fetch_all(&fixture.sql)
            .await
            .unwrap();
    let together: Vec<String> = parts.iter().flat_map(|(ids, ..)| ids.clone()).collect();
    assert_eq!(together, strings(&ids), "no document is lost or doubled");
    assert!(parts.len() > 1);
    for (ids, count, attempt, split_from) in parts {
        assert_eq!(
            (i32::try_from(ids.len()).unwrap(), attempt, split_from),
            (count, 0, claim.batch_id.0)
        );
    }
    assert!(fixture.errors(&driven).await.is_empty());
}

#[tokio::test]
async fn a_bad_document_ends_alone_with_its_error_and_its_neighbours_go_through() {
    let (fixture, driven) = Fixture::with_domain().await;
    let ids: Vec<String> = (0..100).map(|n| format!("f{n:03}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    fixture.batch(&driven, Stage::Form, &ids).await;
    let mut rounds = 0;
    while let Some(claim) = fixture.claim_next(&driven, Stage::Form).await {
        rounds += 1;
        assert!(rounds < 60, "it ends");
        if claim.ids.contains(&"f042".to_owned()) {
            fixture
                .state
                .fail_claim(&claim, "C2S-2301", "a bad document", MAX_ATTEMPTS)
                .await
                .unwrap();
        } else {
            fixture
                .state
                .finish_forms(&claim, &FormResults::default())
                .await
                .unwrap();
        }
    }
    assert_eq!(fixture.errors(&driven).await, ["XFormInstance/f042/C2S-2301"]);
    let open = fixture.state.open_batches(driven.id, Stage::Form).await.unwrap();
    assert!(open.is_drained(), "a parked document does not hold up the stage");
    assert_eq!(open.parked, 1);
    assert_eq!(
        fixture
            .number(
                "select sum(item_count) from batch where migration_id = $1 and state = 'done'",
                &driven
            )
            .await,
        99
    );
}

#[tokio::test]
async fn a_single_document_is_parked_after_its_last_attempt_and_not_before() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.batch(&driven, Stage::Case, &["c"]).await;
    for attempt in 1..=MAX_ATTEMPTS {
        let claim = fixture.claim_next(&driven, Stage::Case).await.unwrap();
        assert_eq!(claim.attempt, attempt);
        let after = fixture
            .state
            .fail_claim(&claim, "C2S-3002", "boom", MAX_ATTEMPTS)
            .await
            .unwrap();
        let expected = if attempt == MAX_ATTEMPTS {
            AfterFailure::Parked
        } else {
            AfterFailure::Again
        };
        assert_eq!(after, expected, "attempt {attempt}");
    }
    assert!(fixture.claim_next(&driven, Stage::Case).await.is_none());
    assert_eq!(fixture.errors(&driven).await, ["CommCareCase/c/C2S-3002"]);
}

#[tokio::test]
async fn a_document_whose_workers_die_is_parked_like_one_that_fails() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.batch(&driven, Stage::Form, &["f"]).await;
    for _ in 0..2 {
        let claim = fixture.claim_next(&driven, Stage::Form).await.unwrap();
        fixture.let_expire(claim.batch_id).await;
        assert_eq!(fixture.state.expire_claims(driven.id, 2).await.unwrap(), 1);
    }
    assert_eq!(
        fixture.state.open_batches(driven.id, Stage::Form).await.unwrap().parked,
        1
    );
    assert_eq!(fixture.errors(&driven).await, ["XFormInstance/f/C2S-3001"]);
}

#[tokio::test]
async fn a_transient_failure_is_no_attempt_and_waits_longer_each_time() {
    let (fixture, driven) = Fixture::with_domain().await;
    let batch_id = fixture.batch(&driven, Stage::Form, &["a"]).await;
    for retry in 0..12_i32 {
        let claim = fixture.claim_next(&driven, Stage::Form).await.unwrap();
        assert_eq!(claim.attempt, 1, "attempts do not add up");
        fixture.state.mark_published(&[batch_id]).await.unwrap();
        let before = fixture.state.now().await.unwrap();
        fixture
            .state
            .retry_later(&claim, "C2S-1001", "Couch is away", Duration::from_secs(60))
            .await
            .unwrap();
        let after = fixture.state.now().await.unwrap();
        let row = fixture.batch_row(batch_id).await.unwrap();
        assert_eq!((row.state.as_str(), row.attempt, row.retries), ("ready", 0, retry + 1));
        assert!(!row.published);
        assert_eq!(row.error_code.as_deref(), Some("C2S-1001"));
        // A quarter of a second doubling up to the longest, the second half of each wait being random.
        let whole = 250 * 2_i64.pow(u32::try_from(retry).unwrap());
        let whole = chrono::Duration::milliseconds(whole.min(60_000));
        assert!(
            row.next_at >= before + whole / 2 && row.next_at <= after + whole,
            "retry {retry}: {row:?}"
        );
    }
    assert!(fixture.errors(&driven).await.is_empty());
}

#[tokio::test]
async fn a_success_after_retries_leaves_no_error() {
    let (fixture, driven) = Fixture::with_domain().await;
    let claim = fixture.claimed(&driven, Stage::Form, &["a"]).await;
    fixture
        .state
        .retry_later(&claim, "C2S-1001", "Couch is away", LONG)
        .await
        .unwrap();
    let claim = fixture.claim_next(&driven, Stage::Form).await.unwrap();
    fixture
        .state
        .finish_forms(&claim, &FormResults::default())
        .await
        .unwrap();
    let row = fixture.batch_row(claim.batch_id).await.unwrap();
    assert_eq!((row.state.as_str(), row.error_code), ("done", None));
}

#[tokio::test]
async fn unpark_starts_from_the_first_attempt_and_forgets_the_error() {
    let (fixture, driven) = Fixture::with_domain().await;
    let claim = fixture.claimed(&driven, Stage::Diff, &["c"]).await;
    fixture.state.fail_claim(&claim, "C2S-3002", "boom", 1).await.unwrap();
    // An error of a replay, which a diff that succeeds does not mend.
    fixture.stage(&driven, &[("f", "1-a", &["d"])]).await;
    let replay = fixture.claimed(&driven, Stage::Case, &["d"]).await;
    let failed = state::case_stage::FailedCase {
        case_id: "d".to_owned(),
        code: "C2S-2210".to_owned(),
        message: "too long".to_owned(),
    };
    let results = state::case_stage::CaseResults {
        replayed: strings(&["d"]),
        failed: vec![failed],
        ..state::case_stage::CaseResults::default()
    };
    fixture.state.finish_cases(&replay, &[], &results).await.unwrap();
    assert_eq!(
        fixture.errors(&driven).await,
        ["CommCareCase/c/C2S-3002", "CommCareCase/d/C2S-2210"]
    );

    assert_eq!(fixture.state.unpark(driven.id).await.unwrap(), 1);
    assert_eq!(fixture.errors(&driven).await, ["CommCareCase/d/C2S-2210"]);
    let again = fixture.claim_next(&driven, Stage::Diff).await.unwrap();
    assert_eq!((again.batch_id, again.attempt), (claim.batch_id, 1));
}
