//! The order of a case's forms: proposed by a comparison, tried by a replay, kept or withdrawn by the next comparison.

use proto::topology::Stage;
use state::case_order::FormOrder;
use state::diff_stage::CaseComparison;
use state::records::RecordTable;

use crate::fixture::{Driven, Fixture};

async fn with_a_case() -> (Fixture, Driven) {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", &["c"])]).await;
    fixture.replay(&driven, &["c"]).await;
    (fixture, driven)
}

fn wanted(order: &str) -> FormOrder {
    FormOrder::Wanted(order.as_bytes().to_vec())
}

/// Compares the case at a generation. Gives whether the comparison counts.
async fn compare(fixture: &Fixture, driven: &Driven, generation: i64, order: FormOrder) -> bool {
    let claim = fixture.claimed(driven, Stage::Diff, &["c"]).await;
    let found = CaseComparison {
        case_id: "c".to_owned(),
        generation,
        couch_rev: Some("1-c".to_owned()),
        kind: "CommCareCase".to_owned(),
        diffs: (order != FormOrder::Agreed).then(|| "[1]".to_owned()),
        changes: None,
        order,
    };
    fixture.state.finish_diffs(&claim, &[found]).await.unwrap() == 0
}

/// The orders that a replay is given.
async fn events(fixture: &Fixture, driven: &Driven) -> Vec<String> {
    let claim = fixture.claimed(driven, Stage::Case, &["c"]).await;
    let inputs = fixture.state.case_inputs(&claim, &claim.ids).await.unwrap();
    let payloads = inputs.events.into_iter();
    payloads
        .map(|(_, payload)| String::from_utf8(payload).unwrap())
        .collect()
}

async fn diffs(fixture: &Fixture, driven: &Driven) -> usize {
    fixture.records(driven, RecordTable::Diffs).await.len()
}

#[tokio::test]
async fn an_order_that_helps_stays() {
    let (fixture, driven) = with_a_case().await;
    let pending = || async { fixture.state.pending_cases(driven.id).await.unwrap() };
    assert!(!compare(&fixture, &driven, 1, wanted("ab")).await);
    assert_eq!(pending().await, (1, 1), "to be replayed, then compared again");
    assert_eq!(diffs(&fixture, &driven).await, 0, "nothing is recorded meanwhile");
    assert_eq!(events(&fixture, &driven).await, ["ab"]);

    fixture.replay(&driven, &["c"]).await;
    assert!(compare(&fixture, &driven, 2, FormOrder::Agreed).await);
    assert_eq!(pending().await, (0, 0));

    // Whatever a later comparison finds: the order has been kept.
    fixture.stage(&driven, &[("g", "1-a", &["c"])]).await;
    fixture.replay(&driven, &["c"]).await;
    assert!(compare(&fixture, &driven, 3, FormOrder::Unresolved).await);
    assert_eq!(events(&fixture, &driven).await, ["ab"]);
}

#[tokio::test]
async fn an_order_that_does_not_help_is_withdrawn_and_not_proposed_again() {
    let (fixture, driven) = with_a_case().await;
    assert!(!compare(&fixture, &driven, 1, wanted("ab")).await);
    fixture.replay(&driven, &["c"]).await;
    assert!(!compare(&fixture, &driven, 2, FormOrder::Unresolved).await);
    assert_eq!(
        events(&fixture, &driven).await,
        [""; 0],
        "the next replay is in the ordinary order"
    );
    assert_eq!(fixture.dirty(&driven).await, ["c"]);

    fixture.replay(&driven, &["c"]).await;
    assert!(compare(&fixture, &driven, 3, wanted("ab")).await, "tried before");
    assert_eq!(diffs(&fixture, &driven).await, 1);
    assert_eq!(fixture.state.pending_cases(driven.id).await.unwrap(), (0, 0));

    fixture.state.request_diff(&driven.lease, None).await.unwrap();
    assert!(
        !compare(&fixture, &driven, 3, wanted("ba")).await,
        "another order is tried"
    );
    assert_eq!(events(&fixture, &driven).await, ["ba"]);
}

#[tokio::test]
async fn an_order_that_a_replay_cannot_take_is_withdrawn() {
    let (fixture, driven) = with_a_case().await;
    assert!(!compare(&fixture, &driven, 1, wanted("ab")).await);
    fixture.replay(&driven, &["c"]).await;
    assert!(!compare(&fixture, &driven, 2, wanted("ab")).await);
    assert_eq!(events(&fixture, &driven).await, [""; 0]);
    fixture.replay(&driven, &["c"]).await;
    assert!(compare(&fixture, &driven, 3, wanted("ab")).await);
}

#[tokio::test]
async fn a_comparison_of_older_rows_proposes_nothing() {
    let (fixture, driven) = with_a_case().await;
    fixture.replay(&driven, &["c"]).await;
    assert!(!compare(&fixture, &driven, 1, wanted("ab")).await);
    assert_eq!(events(&fixture, &driven).await, [""; 0]);
    assert_eq!(fixture.state.pending_cases(driven.id).await.unwrap(), (0, 1));
}
