//! Judgements of cases that only SQL has.

use std::collections::HashMap;

use proto::topology::Stage;
use serde_json::json;
use state::forced::Ruling;
use state::only_in_sql::Judgements;

use crate::fixture::{Fixture, operator, strings};

#[tokio::test]
async fn a_judgement_makes_its_case_dirty_and_stands_in_the_audit_log() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    fixture.stage(&driven, &[("f", "1-a", &["a", "b"])]).await;
    fixture.replay(&driven, &["a", "b"]).await;
    assert!(fixture.dirty(&driven).await.is_empty());
    assert_eq!(
        state.cases_named(driven.id, &strings(&["f", "g"])).await.unwrap(),
        [("f".to_owned(), "a".to_owned()), ("f".to_owned(), "b".to_owned())]
    );
    let judged = Judgements {
        cases: vec![("a".to_owned(), b"first".to_vec())],
        forms: strings(&["f", "g"]),
        not_applied: strings(&["f"]),
    };
    let detail = json!({"removed": ["a"]});
    let audit = (&operator(), &detail);
    state.judge(&driven.lease, &judged, audit, 500).await.unwrap();
    assert_eq!(fixture.dirty(&driven).await, ["a"]);
    let claim = fixture.claim_next(&driven, Stage::Form).await.unwrap();
    assert_eq!(claim.ids, ["f", "g"]);
    let rulings = state.forced_forms(&claim).await.unwrap();
    assert_eq!(rulings, HashMap::from([("f".to_owned(), Ruling::NotApplied)]));
    let records = state.audit_records(&driven.domain, 9).await.unwrap();
    assert!(records.iter().any(|record| record.action == "judge_cases_only_in_sql"));

    let again = Judgements {
        cases: vec![("a".to_owned(), b"second".to_vec())],
        ..Judgements::default()
    };
    state.judge(&driven.lease, &again, audit, 500).await.unwrap();
    let known = state.judgements(driven.id, &strings(&["a", "b"])).await.unwrap();
    assert_eq!(known, [("a".to_owned(), b"second".to_vec())]);
    assert_eq!(state.judged_after(driven.id, "", 9).await.unwrap(), ["a"]);
    assert!(state.judged_after(driven.id, "a", 9).await.unwrap().is_empty());

    // A case that has the form proves more than the judgement.
    state
        .requeue_forms(&driven.lease, &strings(&["f"]), true, 500)
        .await
        .unwrap();
    let rulings = state.forced_forms(&claim).await.unwrap();
    assert_eq!(rulings, HashMap::from([("f".to_owned(), Ruling::Applied)]));
}

#[tokio::test]
async fn a_judgement_that_is_withdrawn_has_its_case_replayed() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    fixture.stage(&driven, &[("f", "1-a", &["a", "b"])]).await;
    let judged = Judgements {
        cases: vec![("a".to_owned(), b"first".to_vec())],
        ..Judgements::default()
    };
    let audit = (&operator(), &json!({}));
    state.judge(&driven.lease, &judged, audit, 500).await.unwrap();
    fixture.replay(&driven, &["a", "b"]).await;
    state
        .withdraw_judgements(&driven.lease, &strings(&["a", "b"]))
        .await
        .unwrap();
    assert_eq!(fixture.dirty(&driven).await, ["a"], "none was on record of the other");
    assert!(state.judged_after(driven.id, "", 9).await.unwrap().is_empty());
}
