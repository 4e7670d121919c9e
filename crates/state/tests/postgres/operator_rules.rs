//! What an operator's rule sets aside is counted, and comes back with the rule's removal.

use proto::topology::Stage;
use state::diff_stage::CaseComparison;
use state::operator_rules::{Ignored, IgnoredCount};
use state::records::{RecordFilter, Shorter};
use state::stats::RecordTable;

use crate::fixture::{Driven, Fixture, strings};

fn ignored(doc_id: &str, rule: &str, diffs: &str, reason: Option<&str>) -> Ignored {
    Ignored {
        kind: "CommCareCase".to_owned(),
        doc_id: doc_id.to_owned(),
        rule: rule.to_owned(),
        diffs: diffs.to_owned(),
        count: 1,
        reason: reason.map(str::to_owned),
    }
}

fn comparison(case_id: &str, diffs: Option<&str>) -> CaseComparison {
    CaseComparison {
        case_id: case_id.to_owned(),
        generation: 1,
        couch_rev: Some("1-a".to_owned()),
        kind: "CommCareCase".to_owned(),
        diffs: diffs.map(str::to_owned),
        changes: None,
        order: state::case_order::FormOrder::Agreed,
    }
}

/// Cases `a` and `b`, of which `a` has a diff that is recorded and one that is set aside, and `b` two set aside.
async fn with_ignored() -> (Fixture, Driven) {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let rules = [
        ("known".to_owned(), "{}".to_owned()),
        ("old".to_owned(), "{}".to_owned()),
    ];
    assert!(state.add_rules(&driven.lease, &rules, "ada").await.unwrap().is_empty());
    fixture.stage(&driven, &[("f", "1-a", &["a", "b"])]).await;
    fixture.replay(&driven, &["a", "b"]).await;
    let claim = fixture.claimed(&driven, Stage::Diff, &["a", "b"]).await;
    state
        .finish_diffs_ignoring(
            &claim,
            &[comparison("a", Some("[1]")), comparison("b", None)],
            &[
                ignored("a", "known", "[2]", None),
                ignored("b", "known", "[3]", None),
                ignored("b", "old", "[4]", Some("rebuild case")),
                ignored("not of this batch", "known", "[9]", None),
            ],
        )
        .await
        .unwrap();
    (fixture, driven)
}

async fn on_record(fixture: &Fixture, driven: &Driven, table: RecordTable) -> Vec<String> {
    let all = RecordFilter::default();
    let records = fixture
        .state
        .records_after(driven.id, table, &all, None, 10)
        .await
        .unwrap();
    records
        .into_iter()
        .map(|record| {
            format!(
                "{} {} {}",
                record.doc_id,
                record.diffs,
                record.reason.unwrap_or_default()
            )
        })
        .collect()
}

#[tokio::test]
async fn what_is_set_aside_is_counted_by_rule_and_replaced_with_the_next_comparison() {
    let (fixture, driven) = with_ignored().await;
    let state = &fixture.state;
    let count = |rule: &str, documents, diffs| IgnoredCount {
        rule: rule.to_owned(),
        kind: "CommCareCase".to_owned(),
        documents,
        diffs,
    };
    assert_eq!(
        state.ignored_counts(driven.id).await.unwrap(),
        [count("known", 2, 2), count("old", 1, 1)]
    );
    state.request_diff(driven.id, Some(&strings(&["b"]))).await.unwrap();
    let claim = fixture.claimed(&driven, Stage::Diff, &["b"]).await;
    state.finish_diffs(&claim, &[comparison("b", None)]).await.unwrap();
    assert_eq!(state.ignored_counts(driven.id).await.unwrap(), [count("known", 1, 1)]);
}

#[tokio::test]
async fn a_removed_rule_gives_back_what_it_had_set_aside() {
    let (fixture, driven) = with_ignored().await;
    let state = &fixture.state;
    assert_eq!(
        state.remove_rules(&driven.lease, &strings(&["known"])).await.unwrap(),
        2
    );
    assert_eq!(
        on_record(&fixture, &driven, RecordTable::Diffs).await,
        ["a [1,2] ", "b [3] "]
    );
    assert!(on_record(&fixture, &driven, RecordTable::Changes).await.is_empty());
    let names: Vec<String> = state
        .operator_rules(driven.id)
        .await
        .unwrap()
        .into_iter()
        .map(|rule| format!("{} by {}", rule.name, rule.added_by))
        .collect();
    assert_eq!(names, ["old by ada"]);
    assert_eq!(state.remove_rules(&driven.lease, &strings(&["old"])).await.unwrap(), 1);
    assert_eq!(
        on_record(&fixture, &driven, RecordTable::Changes).await,
        ["b [4] rebuild case"]
    );
    assert!(state.ignored_counts(driven.id).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_name_is_given_once() {
    let (fixture, driven) = with_ignored().await;
    let rules = [("new".to_owned(), "{}".to_owned()), ("old".to_owned(), "{}".to_owned())];
    let taken = fixture.state.add_rules(&driven.lease, &rules, "bob").await.unwrap();
    assert_eq!(taken, ["old"]);
    assert_eq!(fixture.state.operator_rules(driven.id).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_record_gets_shorter_only_if_nobody_has_touched_it_since() {
    let (fixture, driven) = with_ignored().await;
    let state = &fixture.state;
    let shorter = |before: &str, after: Option<&str>| Shorter {
        kind: "CommCareCase".to_owned(),
        doc_id: "a".to_owned(),
        before: before.to_owned(),
        after: after.map(str::to_owned),
        reason: None,
    };
    let of = |diffs: &str| [ignored("a", "known", diffs, None)];
    let table = RecordTable::Diffs;
    let stale = state
        .shorten_records(driven.id, table, &[shorter("[7]", None)], &of("[7]"))
        .await
        .unwrap();
    assert_eq!(stale, 0);
    assert_eq!(on_record(&fixture, &driven, table).await, ["a [1] "]);
    let written = state
        .shorten_records(driven.id, table, &[shorter("[1]", None)], &of("[1]"))
        .await
        .unwrap();
    assert_eq!(written, 1);
    assert!(on_record(&fixture, &driven, table).await.is_empty());
    // Both differences of the case that the rule has set aside come back together.
    state.remove_rules(&driven.lease, &strings(&["known"])).await.unwrap();
    assert_eq!(on_record(&fixture, &driven, table).await, ["a [2,1] ", "b [3] "]);
}

/// The removal of a rule was interrupted: what it had set aside stands against COMMIT, though no record shows it.
#[tokio::test]
async fn what_a_rule_has_set_aside_that_is_no_more_is_an_obstacle() {
    let (fixture, driven) = with_ignored().await;
    let state = &fixture.state;
    let without_rule = async || state.obstacles(driven.id).await.unwrap().without_rule;
    assert_eq!(without_rule().await, 0);
    sqlx::query("delete from operator_rule where name = 'known'")
        .execute(&fixture.sql)
        .await
        .unwrap();
    assert_eq!(without_rule().await, 2);
    state.remove_rules(&driven.lease, &strings(&["known"])).await.unwrap();
    assert_eq!(without_rule().await, 0);
}
