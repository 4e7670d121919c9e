//! The ledgers of a case.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use docdiff::{CaseLedgers, FormState, LedgerDifference, RecordedDiff, compare_ledgers, diff_ledger};
use proto::rows::LedgerValueRow;
use proto::stock::{LedgerRef, StockStateRow, StockTransactionRow};
use serde_json::{Value, json};

fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

fn ledger() -> LedgerRef {
    LedgerRef {
        case_id: "c".to_owned(),
        section_id: "stock".to_owned(),
        entry_id: "p".to_owned(),
    }
}

fn value(balance: i32) -> LedgerValueRow {
    LedgerValueRow {
        entry_id: "p".to_owned(),
        section_id: "stock".to_owned(),
        balance,
        last_modified: at("2020-01-02T03:04:05.678Z"),
        last_modified_form_id: Some("f".to_owned()),
    }
}

fn state(stock_on_hand: &str) -> StockStateRow {
    StockStateRow {
        id: 17,
        ledger: ledger(),
        stock_on_hand: stock_on_hand.to_owned(),
        daily_consumption: None,
        last_modified_date: at("2020-01-02T03:04:05.678Z"),
        last_modified_form_id: Some("f".to_owned()),
        location_id: None,
        domain: None,
    }
}

fn transaction(stock_on_hand: &str) -> StockTransactionRow {
    StockTransactionRow {
        ledger: ledger(),
        form_id: "f".to_owned(),
        kind: "stockonhand".to_owned(),
        server_date: Some(at("2020-01-02T03:04:05.678Z")),
        quantity: None,
        stock_on_hand: stock_on_hand.to_owned(),
    }
}

/// Rows of case `c`.
#[derive(Default)]
struct Rows {
    values: Vec<LedgerValueRow>,
    consumptions: HashMap<LedgerRef, String>,
    foreign: HashMap<LedgerRef, String>,
    states: Vec<StockStateRow>,
    latest: Vec<StockTransactionRow>,
    location_id: Option<&'static str>,
}

impl Rows {
    fn compare(&self) -> Vec<LedgerDifference> {
        compare_ledgers(&CaseLedgers {
            case_id: "c",
            couch_domain: "demo",
            sql_domain: "demo",
            foreign: &self.foreign,
            values: &self.values,
            consumptions: &self.consumptions,
            states: &self.states,
            latest: &self.latest,
            location_id: self.location_id,
        })
    }

    /// What is stored, for a form that is in these states and ledgers that have duplicates or not.
    fn stored(&self, form: Option<(FormState, FormState)>, duplicates: bool) -> Vec<Value> {
        let verdicts = self.compare().into_iter().map(|found| found.judge(form, duplicates));
        let records: Vec<RecordedDiff> = verdicts.flat_map(docdiff::LedgerVerdict::into_records).collect();
        records.iter().map(RecordedDiff::to_json).collect()
    }
}

const PRESENT: Option<(FormState, FormState)> = Some((FormState::Present, FormState::Present));

fn stored(path: &[&str], diff_type: &str, old: impl Into<Value>, new: impl Into<Value>) -> Value {
    let (old, new): (Value, Value) = (old.into(), new.into());
    json!({"type": diff_type, "path": {"stock_id": "c/stock/p", "path": path}, "old_value": old, "new_value": new})
}

fn with_reason(mut stored: Value, reason: &str) -> Value {
    stored["reason"] = json!(reason);
    stored
}

fn sql_json(balance: i32) -> Value {
    json!({"_id": "c/stock/p", "domain": "demo", "case_id": "c", "section_id": "stock", "entry_id": "p",
        "balance": balance, "last_modified": "2020-01-02T03:04:05.678000Z", "last_modified_form_id": "f",
        "daily_consumption": null, "location_id": null})
}

#[test]
fn the_rules_drop_ids_and_absent_locations_and_nothing_else() {
    let couch = json!({"_id": "17", "domain": "demo", "case_id": "c", "section_id": "stock", "entry_id": "p",
        "balance": 3, "last_modified": "2020-01-02T03:04:05.678000Z", "last_modified_form_id": "f"});
    assert_eq!(
        diff_ledger(&couch, &sql_json(3))
            .iter()
            .map(docdiff::Diff::path_text)
            .collect::<Vec<_>>(),
        ["daily_consumption"]
    );
    let mut couch = sql_json(34);
    couch["_id"] = json!("17");
    couch["last_modified"] = json!("2020-01-01T00:00:00.000000Z");
    couch["location_id"] = json!("here");
    let diffs = diff_ledger(&couch, &sql_json(3));
    let shown: Vec<(&str, String)> = diffs
        .iter()
        .map(|diff| (diff.diff_type.as_str(), diff.path_text()))
        .collect();
    assert_eq!(
        shown,
        [
            ("diff", "balance".to_owned()),
            ("diff", "last_modified".to_owned()),
            ("type", "location_id".to_owned())
        ]
    );
}

#[test]
fn equal_ledgers_have_no_differences() {
    let rows = Rows {
        values: vec![value(3)],
        // The fraction is cut, on either side.
        states: vec![state("3.90000")],
        ..Rows::default()
    };
    assert_eq!(rows.compare(), []);
    assert_eq!(Rows::default().compare(), []);
}

#[test]
fn another_value_is_a_diff_of_the_ledger() {
    let rows = Rows {
        values: vec![value(1)],
        states: vec![state("2.00000")],
        ..Rows::default()
    };
    assert_eq!(
        rows.stored(None, false),
        [stored(&["balance"], "diff", json!(2), json!(1))]
    );
}

#[test]
fn every_column_is_compared() {
    let mut couch = state("2.00000");
    couch.daily_consumption = Some("1.50000".to_owned());
    couch.last_modified_date = at("2020-01-02T03:04:06Z");
    couch.last_modified_form_id = None;
    couch.location_id = Some("here".to_owned());
    couch.domain = Some("other".to_owned());
    let rows = Rows {
        values: vec![value(2)],
        states: vec![couch],
        ..Rows::default()
    };
    let mut found = rows.stored(None, false);
    found.sort_by_key(Value::to_string);
    let mut expected = vec![
        stored(&["domain"], "diff", json!("other"), json!("demo")),
        stored(
            &["last_modified"],
            "diff",
            json!("2020-01-02T03:04:06.000000Z"),
            json!("2020-01-02T03:04:05.678000Z"),
        ),
        stored(&["last_modified_form_id"], "type", json!(null), json!("f")),
        stored(&["daily_consumption"], "type", json!("1.50000"), json!(null)),
        stored(&["location_id"], "type", json!("here"), json!(null)),
    ];
    expected.sort_by_key(Value::to_string);
    assert_eq!(found, expected);
}

#[test]
fn consumption_and_location_of_sql_are_shown() {
    let mut couch = state("2.00000");
    couch.daily_consumption = Some("1.50000".to_owned());
    couch.location_id = Some("here".to_owned());
    let rows = Rows {
        values: vec![value(2)],
        states: vec![couch],
        consumptions: HashMap::from([(ledger(), "1.50000".to_owned())]),
        location_id: Some("here"),
        ..Rows::default()
    };
    assert_eq!(rows.compare(), []);
}

#[test]
fn a_value_of_another_domain_than_its_case_is_a_diff() {
    let rows = Rows {
        values: vec![value(2)],
        states: vec![state("2.00000")],
        foreign: HashMap::from([(ledger(), "other".to_owned())]),
        ..Rows::default()
    };
    assert_eq!(rows.stored(None, false), [stored(&["domain"], "diff", "demo", "other")]);
}

#[test]
fn without_a_state_the_latest_transaction_stands_in() {
    let mut rows = Rows {
        values: vec![value(2)],
        latest: vec![transaction("2.00000")],
        location_id: Some("here"),
        ..Rows::default()
    };
    assert_eq!(rows.compare(), []);
    rows.latest = vec![transaction("5.00000")];
    rows.latest[0].server_date = None;
    assert_eq!(
        rows.stored(None, false),
        [
            stored(&["balance"], "diff", json!(5), json!(2)),
            stored(
                &["last_modified"],
                "type",
                json!(null),
                json!("2020-01-02T03:04:05.678000Z")
            ),
        ]
    );
    // A state wins over it.
    rows.states = vec![state("2.00000")];
    rows.location_id = None;
    assert_eq!(rows.compare(), []);
}

#[test]
fn a_ledger_that_couch_lacks() {
    let rows = Rows {
        values: vec![value(1)],
        ..Rows::default()
    };
    let missing = |couch: &str, sql: &str| {
        stored(
            &["*"],
            "missing",
            json!({"form_state": couch}),
            json!({"form_state": sql, "ledger": sql_json(1)}),
        )
    };
    let form = Some((FormState::MissingBlobPresent, FormState::Missing));
    assert_eq!(rows.compare()[0].form_id(), Some("f"));
    assert_eq!(rows.stored(form, false), [missing("missing, blob present", "missing")]);
    let form = Some((FormState::Missing, FormState::Present));
    assert_eq!(rows.stored(form, false), [missing("missing", "present")]);
    assert_eq!(
        rows.stored(PRESENT, true),
        [with_reason(
            missing("present", "present"),
            "missing couch stock transaction"
        )]
    );
}

#[test]
fn a_ledger_that_sql_lacks() {
    let mut rows = Rows {
        states: vec![state("2.00000")],
        ..Rows::default()
    };
    let mut couch = sql_json(2);
    couch["_id"] = json!("17");
    let missing = |couch: Value, old: &str, new: &str| {
        stored(
            &["*"],
            "missing",
            json!({"form_state": old, "ledger": couch}),
            json!({"form_state": new}),
        )
    };
    assert_eq!(rows.compare()[0].form_id(), Some("f"));
    // There is no reason that would explain it.
    assert_eq!(
        rows.stored(PRESENT, true),
        [missing(couch.clone(), "present", "present")]
    );
    rows.states[0].last_modified_form_id = None;
    couch["last_modified_form_id"] = Value::Null;
    assert_eq!(rows.compare()[0].form_id(), None);
    assert_eq!(rows.stored(None, false), [missing(couch, "unknown", "unknown")]);
}

/// HQ has applied one form three times, and counts 2 where the form says 1.
#[test]
fn duplicate_transactions_explain_a_difference() {
    let rows = Rows {
        values: vec![value(1)],
        states: vec![state("2.00000")],
        ..Rows::default()
    };
    assert!(rows.compare()[0].may_be_duplicate());
    assert_eq!(
        rows.stored(None, true),
        [with_reason(
            stored(&["balance"], "diff", json!(2), json!(1)),
            "duplicate stock transaction"
        )]
    );
}

#[test]
fn ledgers_are_matched_by_section_and_entry() {
    let mut other = value(9);
    other.section_id = "emergency".to_owned();
    let rows = Rows {
        values: vec![other, value(2)],
        states: vec![state("2.00000")],
        ..Rows::default()
    };
    let found = rows.compare();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].ledger.to_string(), "c/emergency/p");
}
