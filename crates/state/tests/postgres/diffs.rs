//! Comparisons count for the rows and the inputs that they were made with.

use proto::topology::Stage;
use state::batch::Claim;
use state::diff_stage::CaseComparison;
use state::records::{RecordFilter, RecordTable};

use crate::fixture::{Driven, Fixture, strings};

fn comparison(case_id: &str, generation: i64, diffs: Option<&str>) -> CaseComparison {
    CaseComparison {
        case_id: case_id.to_owned(),
        generation,
        couch_rev: Some("3-c".to_owned()),
        kind: "CommCareCase".to_owned(),
        diffs: diffs.map(str::to_owned),
        changes: None,
        order: state::case_order::FormOrder::Agreed,
    }
}

async fn with_replayed_cases(case_ids: &[&str]) -> (Fixture, Driven, Claim) {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", case_ids)]).await;
    fixture.replay(&driven, case_ids).await;
    let claim = fixture.claimed(&driven, Stage::Diff, case_ids).await;
    (fixture, driven, claim)
}

#[tokio::test]
async fn the_cases_to_compare_come_with_their_generations() {
    let (fixture, driven, claim) = with_replayed_cases(&["a", "b"]).await;
    fixture.replay(&driven, &["b"]).await;
    let cases = fixture.state.cases_to_diff(&claim).await.unwrap().cases;
    let told: Vec<_> = cases
        .iter()
        .map(|case| (case.case_id.as_str(), case.generation))
        .collect();
    assert_eq!(told, [("a", 1), ("b", 2)]);
}

#[tokio::test]
async fn workers_learn_whether_there_is_stock_with_the_cases_of_their_batch() {
    let (fixture, driven, claim) = with_replayed_cases(&["a"]).await;
    let state = &fixture.state;
    assert!(!state.cases_to_diff(&claim).await.unwrap().couch_stock);
    state.record_couch_stock(&driven.lease, true).await.unwrap();
    assert!(state.cases_to_diff(&claim).await.unwrap().couch_stock);
    state.record_couch_stock(&driven.lease, false).await.unwrap();
    assert!(!state.cases_to_diff(&claim).await.unwrap().couch_stock);
}

#[tokio::test]
async fn a_comparison_settles_its_case_and_replaces_what_was_found_before() {
    let (fixture, driven, claim) = with_replayed_cases(&["a", "b"]).await;
    let state = &fixture.state;
    let mut changed = comparison("b", 1, None);
    changed.changes = Some(("[1]".to_owned(), "rebuild case".to_owned()));
    changed.kind = "CommCareCase-Deleted".to_owned();
    assert_eq!(
        state
            .finish_diffs(&claim, &[comparison("a", 1, Some("[2]")), changed])
            .await
            .unwrap(),
        0
    );
    assert_eq!(state.pending_cases(driven.id).await.unwrap(), (0, 0));
    assert_eq!(
        state.cases_with_records(driven.id, RecordTable::Diffs).await.unwrap(),
        ["a"]
    );
    assert_eq!(
        state.cases_with_records(driven.id, RecordTable::Changes).await.unwrap(),
        ["b"]
    );
    let deleted = RecordFilter {
        kinds: strings(&["CommCareCase-Deleted"]),
        documents: Vec::new(),
    };
    let changes = state
        .records_after(driven.id, RecordTable::Changes, &deleted, None, 5)
        .await
        .unwrap();
    assert_eq!(
        (changes[0].doc_id.as_str(), changes[0].reason.as_deref()),
        ("b", Some("rebuild case"))
    );
    assert_eq!(
        fixture
            .strings("select diffed_rev from case_state where migration_id = $1", &driven)
            .await,
        ["3-c", "3-c"]
    );

    assert_eq!(state.request_diff(&driven.lease, None).await.unwrap(), 2);
    assert_eq!(state.pending_cases(driven.id).await.unwrap(), (0, 2));
    let claim = fixture.claimed(&driven, Stage::Diff, &["a", "b"]).await;
    assert_eq!(
        state
            .finish_diffs(&claim, &[comparison("a", 1, None), comparison("b", 1, None)])
            .await
            .unwrap(),
        0
    );
    assert!(fixture.records(&driven, RecordTable::Diffs).await.is_empty());
    assert!(fixture.records(&driven, RecordTable::Changes).await.is_empty());
}

#[tokio::test]
async fn a_comparison_is_dropped_when_its_case_was_replayed_meanwhile() {
    let (fixture, driven, claim) = with_replayed_cases(&["a", "b"]).await;
    fixture.replay(&driven, &["a"]).await;
    let found = [comparison("a", 1, Some("[1]")), comparison("b", 1, Some("[1]"))];
    assert_eq!(fixture.state.finish_diffs(&claim, &found).await.unwrap(), 1);
    assert_eq!(
        fixture
            .state
            .cases_with_records(driven.id, RecordTable::Diffs)
            .await
            .unwrap(),
        ["b"]
    );
    assert_eq!(
        fixture.state.pending_cases(driven.id).await.unwrap(),
        (0, 1),
        "it stays pending"
    );
}

#[tokio::test]
async fn a_comparison_is_dropped_when_its_case_is_dirty() {
    let (fixture, driven, claim) = with_replayed_cases(&["a", "b"]).await;
    fixture.stage(&driven, &[("g", "1-a", &["a"])]).await;
    let found = [comparison("a", 1, Some("[1]")), comparison("b", 1, None)];
    assert_eq!(fixture.state.finish_diffs(&claim, &found).await.unwrap(), 1);
    assert_eq!(fixture.state.pending_cases(driven.id).await.unwrap(), (1, 1));
    assert!(
        fixture
            .state
            .cases_with_records(driven.id, RecordTable::Diffs)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn diffs_of_forms_are_not_those_of_cases() {
    let (fixture, driven, claim) = with_replayed_cases(&["same-id"]).await;
    fixture
        .execute(&format!(
            "insert into doc_diff (migration_id, kind, doc_id, diffs) values ({}, 'XFormInstance', 'same-id', '[9]')",
            driven.id.0
        ))
        .await;
    fixture
        .state
        .finish_diffs(&claim, &[comparison("same-id", 1, None)])
        .await
        .unwrap();
    let left = fixture.records(&driven, RecordTable::Diffs).await;
    assert_eq!((left.len(), left[0].kind.as_str()), (1, "XFormInstance"));
}

#[tokio::test]
async fn a_diff_can_be_asked_for_cases_that_nobody_has_seen() {
    let (fixture, driven, _) = with_replayed_cases(&["a"]).await;
    assert_eq!(
        fixture
            .state
            .request_diff(&driven.lease, Some(&strings(&["a", "new"])))
            .await
            .unwrap(),
        2
    );
    assert_eq!(fixture.state.pending_cases(driven.id).await.unwrap(), (0, 2));
}

#[tokio::test]
async fn only_cases_that_are_named_are_cut_and_those_that_are_nowhere_are_forgotten() {
    let (fixture, driven, _) = with_replayed_cases(&["a", "b"]).await;
    let state = &fixture.state;
    let named = strings(&["a", "typo", "couch", "a"]);
    assert_eq!(state.unknown_cases(driven.id, &named).await.unwrap(), 2);
    assert_eq!(
        state.unknown_forms(driven.id, &strings(&["f", "typo"])).await.unwrap(),
        1
    );
    state.request_diff(&driven.lease, Some(&named)).await.unwrap();
    let before = fixture.strings(
        "select array_to_string(ids, ',') from batch where migration_id = $1 order by id",
        &driven,
    );
    let before = before.await.len();
    assert_eq!(state.cut_diffs_of(&driven.lease, &named, 2).await.unwrap(), 2);
    let batches = fixture.strings(
        "select array_to_string(ids, ',') from batch where migration_id = $1 order by id",
        &driven,
    );
    let mut cut: Vec<String> = batches.await[before..]
        .join(",")
        .split(',')
        .map(str::to_owned)
        .collect();
    cut.sort_unstable();
    assert_eq!(cut, ["a", "couch", "typo"], "and not b, which is pending too");

    let claim = fixture.claimed(&driven, Stage::Diff, &["a", "typo", "couch"]).await;
    let mut nowhere = comparison("typo", 0, None);
    nowhere.couch_rev = None;
    let found = [comparison("a", 1, None), nowhere, comparison("couch", 0, None)];
    assert_eq!(state.finish_diffs(&claim, &found).await.unwrap(), 0);
    assert_eq!(
        state.cut_diffs_of(&driven.lease, &named, 2).await.unwrap(),
        0,
        "all are compared"
    );
    assert_eq!(state.forget_unknown_cases(&driven.lease, &named).await.unwrap(), 1);
    let left = "select case_id from case_state where migration_id = $1 order by case_id";
    assert_eq!(fixture.strings(left, &driven).await, ["a", "b", "couch"]);
}

#[tokio::test]
async fn without_the_lease_no_comparison_is_asked_for() {
    let (fixture, driven, claim) = with_replayed_cases(&["a"]).await;
    let state = &fixture.state;
    state.finish_diffs(&claim, &[comparison("a", 1, None)]).await.unwrap();
    state.drop_lease(&driven.lease).await.unwrap();
    for ids in [None, Some(strings(&["a", "new"]))] {
        let refused = state.request_diff(&driven.lease, ids.as_deref()).await;
        assert!(matches!(refused, Err(state::StateError::LostLease)), "{refused:?}");
    }
    assert_eq!(state.pending_cases(driven.id).await.unwrap(), (0, 0));
}

#[tokio::test]
async fn records_are_paged_by_kind_and_document() {
    let (fixture, driven) = Fixture::with_domain().await;
    for (kind, doc_id) in [("B", "1"), ("A", "2"), ("A", "1"), ("B", "0"), ("C", "7")] {
        sqlx::query("insert into doc_diff (migration_id, kind, doc_id, diffs) values ($1, $2, $3, '[]')")
            .bind(driven.id.0)
            .bind(kind)
            .bind(doc_id)
            .execute(&fixture.sql)
            .await
            .unwrap();
    }
    let mut seen = Vec::new();
    let mut after: Option<(String, String)> = None;
    loop {
        let place = after.as_ref().map(|(kind, id)| (kind.as_str(), id.as_str()));
        let page = fixture
            .state
            .records_after(driven.id, RecordTable::Diffs, &RecordFilter::default(), place, 2)
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        after = Some((last.kind.clone(), last.doc_id.clone()));
        seen.extend(page.into_iter().map(|record| record.kind + &record.doc_id));
    }
    assert_eq!(seen, ["A1", "A2", "B0", "B1", "C7"]);
    let named = RecordFilter {
        kinds: strings(&["C"]),
        documents: vec![("B".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())],
    };
    let some = fixture
        .state
        .records_after(driven.id, RecordTable::Diffs, &named, None, 9)
        .await
        .unwrap();
    let some: Vec<String> = some.into_iter().map(|record| record.kind + &record.doc_id).collect();
    assert_eq!(some, ["B1", "C7"]);
}
