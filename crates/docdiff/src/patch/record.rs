//! The `diff` element: what a patch form records of the differences it was made for.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{LedgerStock, xml};
use crate::diff::{Diff, PathElement, Side};
use crate::patched::{is_ledger_patchable, is_patchable, transactions_json};
use crate::record::RecordedDiff;

/// The element. Its text is JSON without other characters than ASCII, escaped once more than XML asks for.
pub(super) fn element(
    case_id: &str,
    of_case: &[&RecordedDiff],
    of_ledgers: &[&RecordedDiff],
    stock: &HashMap<String, LedgerStock>,
) -> String {
    let mut said = Map::new();
    said.insert("case_id".to_owned(), Value::from(case_id));
    if !of_case.is_empty() {
        let entries = by_path(of_case)
            .into_iter()
            .map(|record| entry(record, is_patchable(&record.diff)));
        said.insert("diffs".to_owned(), entries.collect());
    }
    if !of_ledgers.is_empty() {
        let mut ledgers: Map<String, Value> = Map::new();
        for record in by_path(of_ledgers) {
            let ledger = record.ledger.as_deref().unwrap_or_default();
            let known = stock.get(ledger);
            let mut said = entry(record, is_patchable_ledger(record, stock));
            if let (true, Some(object)) = (record.diff.path == [PathElement::key("balance")], said.as_object_mut()) {
                let transactions = known.map_or(&[][..], |stock| &stock.transactions);
                object.insert("couch_transactions".to_owned(), transactions_json(transactions));
            }
            if let Value::Array(list) = ledgers.entry(ledger).or_insert_with(|| Value::Array(Vec::new())) {
                list.push(said);
            }
        }
        said.insert("ledgers".to_owned(), Value::Object(ledgers));
    }
    let json = xml::escaped(&xml::ascii_json(&Value::Object(said)));
    format!("<diff>{}</diff>", xml::escaped(&json))
}

/// Paths of what is recorded and cannot be changed.
pub(super) fn unpatched(records: &[RecordedDiff], stock: &HashMap<String, LedgerStock>) -> Vec<String> {
    records
        .iter()
        .filter_map(|record| match &record.ledger {
            None => (!is_patchable(&record.diff)).then(|| record.diff.path_text()),
            Some(ledger) => {
                (!is_patchable_ledger(record, stock)).then(|| format!("{ledger} {}", record.diff.path_text()))
            }
        })
        .collect()
}

fn is_patchable_ledger(record: &RecordedDiff, stock: &HashMap<String, LedgerStock>) -> bool {
    let known = record.ledger.as_deref().and_then(|ledger| stock.get(ledger));
    is_ledger_patchable(&record.diff, known.is_some_and(|stock| stock.state_changed.is_some()))
}

fn by_path<'a>(records: &[&'a RecordedDiff]) -> Vec<&'a RecordedDiff> {
    let mut sorted = records.to_vec();
    sorted.sort_by(|a, b| a.diff.path.cmp(&b.diff.path));
    sorted
}

fn entry(record: &RecordedDiff, patch: bool) -> Value {
    let Diff { path, old, new, .. } = &record.diff;
    let path = path.iter().map(|element| match element {
        PathElement::Key(name) => Value::from(name.as_ref()),
        PathElement::Index(position) => Value::from(*position),
    });
    let mut entry = Map::new();
    entry.insert("path".to_owned(), path.collect());
    entry.insert("patch".to_owned(), Value::Bool(patch));
    for (key, side) in [("old", old), ("new", new)] {
        if let Side::Value(value) = side {
            entry.insert(key.to_owned(), value.clone());
        }
    }
    if let Some(reason) = record.reason.as_deref().filter(|reason| !reason.is_empty()) {
        entry.insert("reason".to_owned(), Value::from(reason));
    }
    Value::Object(entry)
}
