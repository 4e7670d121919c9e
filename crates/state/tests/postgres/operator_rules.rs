//! What an operator's rule sets aside is counted, and comes back with the rule's removal.

use proto::topology::Stage;
use state::Kind;
use state::diff_stage::CaseComparison;
use state::operator_rules::{Ignored, IgnoredCount};
use state::records::RecordTable;
use state::records::{RecordFilter, Shorter};

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
    assert!(
        state
            .add_rules(&driven.lease, &rules, &crate::fixture::operator())
            .await
            .unwrap()
            .is_empty()
    );
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
    state.request_diff(&driven.lease, Some(&strings(&["b"]))).await.unwrap();
    let claim = fixture.claimed(&driven, Stage::Diff, &["b"]).await;
    state.finish_diffs(&claim, &[comparison("b", None)]).await.unwrap();
    assert_eq!(state.ignored_counts(driven.id).await.unwrap(), [count("known", 1, 1)]);
}

#[tokio::test]
async fn a_removed_rule_gives_back_what_it_had_set_aside() {
    let (fixture, driven) = with_ignored().await;
    let state = &fixture.state;
    assert_eq!(
        state
            .remove_rules(&driven.lease, &strings(&["known"]), &crate::fixture::operator())
            .await
            .unwrap(),
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
    assert_eq!(
        state
            .remove_rules(&driven.lease, &strings(&["old"]), &crate::fixture::operator())
            .await
            .unwrap(),
        1
    );
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
    let taken = fixture
        .state
        .add_rules(&driven.lease, &rules, &crate::fixture::operator())
        .await
        .unwrap();
    assert_eq!(taken, ["old"]);
    assert_eq!(fixture.state.operator_rules(driven.id).await.unwrap().len(), 2);
    // What was refused is not in the audit log; what was done is.
    let told = |log: Vec<state::report::AuditRecord>| log.into_iter().map(|entry| entry.action + &entry.detail);
    let log = fixture.state.audit_records(&driven.domain, 10).await.unwrap();
    assert!(told(log).all(|entry| !entry.contains("new")));
    fixture
        .state
        .remove_rules(&driven.lease, &strings(&["old"]), &crate::fixture::operator())
        .await
        .unwrap();
    let log = fixture.state.audit_records(&driven.domain, 10).await.unwrap();
    assert_eq!(told(log).next_back().unwrap(), r#"rules remove{"rules": ["old"]}"#);
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
    state
        .remove_rules(&driven.lease, &strings(&["known"]), &crate::fixture::operator())
        .await
        .unwrap();
    assert_eq!(on_record(&fixture, &driven, table).await, ["a [2,1] ", "b [3] "]);
}

/// A worker had read the rules before one was removed.
#[tokio::test]
async fn a_comparison_by_a_rule_that_is_gone_is_made_again() {
    let (fixture, driven) = with_ignored().await;
    let state = &fixture.state;
    state.request_diff(&driven.lease, Some(&strings(&["a"]))).await.unwrap();
    let claim = fixture.claimed(&driven, Stage::Diff, &["a"]).await;
    let found = [comparison("a", None)];
    let set_aside = [ignored("a", "known", "[1]", None)];
    state
        .remove_rules(&driven.lease, &strings(&["known"]), &crate::fixture::operator())
        .await
        .unwrap();
    let before = on_record(&fixture, &driven, RecordTable::Diffs).await;
    let refused = state
        .finish_diffs_ignoring(&claim, &found, &set_aside)
        .await
        .unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (Kind::Retry, "C2S-2391"));
    assert_eq!(on_record(&fixture, &driven, RecordTable::Diffs).await, before);
    assert_eq!(state.finish_diffs(&claim, &found).await.unwrap(), 0, "the claim stands");
}

/// A worker is about to end while the rule is removed: one of the two waits, and nothing stays set aside.
#[tokio::test]
async fn the_removal_of_a_rule_waits_for_what_is_set_aside_by_it() {
    let (fixture, driven) = with_ignored().await;
    let mut worker = fixture.sql.begin().await.unwrap();
    sqlx::query("select 1 from operator_rule where name = 'old' for share")
        .execute(&mut *worker)
        .await
        .unwrap();
    let names = strings(&["old"]);
    let operator = crate::fixture::operator();
    let removal = fixture.state.remove_rules(&driven.lease, &names, &operator);
    let ending = async {
        fixture.until_waiting(1).await;
        let late = "insert into ignored_diff (migration_id, kind, doc_id, rule, is_change, diffs, diff_count)
                    values ($1, 'CommCareCase', 'a', 'old', false, '[5]', 1)";
        sqlx::query(late).bind(driven.id.0).execute(&mut *worker).await.unwrap();
        worker.commit().await.unwrap();
    };
    let (removed, ()) = tokio::join!(removal, ending);
    assert_eq!(removed.unwrap(), 2);
    assert_eq!(fixture.state.obstacles(driven.id).await.unwrap().without_rule, 0);
    assert_eq!(on_record(&fixture, &driven, RecordTable::Diffs).await, ["a [1,5] "]);
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
    state
        .remove_rules(&driven.lease, &strings(&["known"]), &crate::fixture::operator())
        .await
        .unwrap();
    assert_eq!(without_rule().await, 0);
}
