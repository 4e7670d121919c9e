//! What the predecessor's state file promised, where no other test here says it. `docs/architecture.md` tells which of its
//! scenarios are covered where, and which have no counterpart.

use proto::doctype::DocType;
use proto::topology::Stage;
use state::State;
use state::diff_stage::CaseComparison;
use state::form_stage::FormResults;
use state::records::RecordTable;
use state::stats::TypeStats;

use crate::fixture::{Driven, Fixture, intent, staged_form, strings};

/// A diff of a case, and one of a ledger, as they are recorded.
const CASE_DIFF: &str = r#"{"type":"diff","path":["age"],"old_value":1,"new_value":2}"#;
const LEDGER_DIFF: &str =
    r#"{"type":"diff","path":{"stock_id":"a/stock/p","path":["balance"]},"old_value":1,"new_value":2}"#;

/// Compares cases, as (case, diffs), with the outcome given.
async fn compare(fixture: &Fixture, driven: &Driven, found: &[(&str, Option<String>)]) {
    let ids: Vec<&str> = found.iter().map(|(id, _)| *id).collect();
    let claim = fixture.claimed(driven, Stage::Diff, &ids).await;
    let comparisons: Vec<CaseComparison> = found
        .iter()
        .map(|(id, diffs)| CaseComparison {
            case_id: (*id).to_owned(),
            generation: 1,
            couch_rev: None,
            kind: "CommCareCase".to_owned(),
            diffs: diffs.clone(),
            changes: None,
            order: state::case_order::FormOrder::Agreed,
        })
        .collect();
    assert_eq!(fixture.state.finish_diffs(&claim, &comparisons).await.unwrap(), 0);
}

async fn with_cases(case_ids: &[&str]) -> (Fixture, Driven) {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", case_ids)]).await;
    fixture.replay(&driven, case_ids).await;
    (fixture, driven)
}

#[tokio::test]
async fn statedb_8_asking_for_a_case_twice_or_for_none_is_fine_and_a_compared_case_is_not_pending() {
    let (fixture, driven) = with_cases(&["a", "b"]).await;
    let state = &fixture.state;
    compare(&fixture, &driven, &[("a", None), ("b", None)]).await;
    assert_eq!(state.pending_cases(driven.id).await.unwrap(), (0, 0));
    state.request_diff(&driven.lease, Some(&[])).await.unwrap();
    assert_eq!(state.pending_cases(driven.id).await.unwrap(), (0, 0));
    for _ in 0..2 {
        state
            .request_diff(&driven.lease, Some(&strings(&["a", "a"])))
            .await
            .unwrap();
        assert_eq!(state.pending_cases(driven.id).await.unwrap(), (0, 1));
    }
    compare(&fixture, &driven, &[("a", None)]).await;
    assert_eq!(state.pending_cases(driven.id).await.unwrap(), (0, 0));
}

#[tokio::test]
async fn statedb_9_to_11_lists_of_forms_outlive_the_process_and_hold_each_form_once() {
    let (fixture, driven) = Fixture::with_domain().await;
    for _ in 0..2 {
        let claim = fixture.claimed(&driven, Stage::Form, &["f"]).await;
        let standings = fixture
            .state
            .begin_forms(&claim, &[intent("f", "1-a")], &[])
            .await
            .unwrap();
        let mut form = staged_form("f", "1-a", &[], &standings["f"]);
        form.is_problem_form = true;
        form.has_noop_block = true;
        let results = FormResults {
            forms: vec![form],
            ..FormResults::default()
        };
        fixture.state.finish_forms(&claim, &results).await.unwrap();
    }
    let reopened = State::connect(&fixture.database.config()).await.unwrap();
    let found = reopened
        .no_action_forms(driven.id, &strings(&["f", "g"]))
        .await
        .unwrap();
    assert_eq!(found, ["f"]);
    let problems = "select form_id from problem_form where migration_id = $1";
    assert_eq!(fixture.strings(problems, &driven).await, ["f"]);
}

#[tokio::test]
async fn statedb_13_and_14_a_case_and_its_ledgers_are_one_record() {
    let (fixture, driven) = with_cases(&["a", "b", "c"]).await;
    let state = &fixture.state;
    let list = |entries: &[&str]| Some(format!("[{}]", entries.join(",")));
    let both = list(&[CASE_DIFF, LEDGER_DIFF]);
    compare(
        &fixture,
        &driven,
        &[("a", both), ("b", list(&[CASE_DIFF])), ("c", list(&[CASE_DIFF]))],
    )
    .await;
    let with_diffs = async || state.cases_with_records(driven.id, RecordTable::Diffs).await.unwrap();
    assert_eq!(with_diffs().await, ["a", "b", "c"]);

    // A ledger alone counts for its case and takes the place of the whole record; nothing deletes it; others stay.
    state
        .request_diff(&driven.lease, Some(&strings(&["a", "b"])))
        .await
        .unwrap();
    compare(&fixture, &driven, &[("a", list(&[LEDGER_DIFF])), ("b", None)]).await;
    assert_eq!(with_diffs().await, ["a", "c"]);
    let diffs = "select diffs from doc_diff where migration_id = $1 and doc_id = 'a'";
    assert_eq!(fixture.strings(diffs, &driven).await, [format!("[{LEDGER_DIFF}]")]);
}

#[tokio::test]
async fn statedb_16_documents_are_counted_by_kind_and_not_their_differences() {
    let (fixture, driven) = with_cases(&["a", "b"]).await;
    compare(
        &fixture,
        &driven,
        &[("a", Some(format!("[{CASE_DIFF},{LEDGER_DIFF}]"))), ("b", None)],
    )
    .await;
    fixture
        .execute(&format!(
            "insert into doc_change (migration_id, kind, doc_id, diffs, reason) values ({0}, 'CommCareCase', 'b', '[]', 'why');
             insert into missing_doc (migration_id, kind, doc_id) values ({0}, 'XFormError', 'x'), ({0}, 'XFormError', 'y');
             insert into doc_count (migration_id, kind, value) values ({0}, 'XFormError', 9)",
            driven.id.0
        ))
        .await;
    let stats = fixture.state.type_stats(driven.id).await.unwrap();
    let of = |kind: DocType| stats.iter().find(|(of, _)| *of == kind).unwrap().1;
    assert_eq!(
        of(DocType::CommCareCase),
        TypeStats {
            docs: 2,
            diffs: 1,
            missing: 0,
            changes: 1
        }
    );
    assert_eq!(
        of(DocType::XFormError),
        TypeStats {
            docs: 9,
            diffs: 0,
            missing: 2,
            changes: 0
        }
    );
}
