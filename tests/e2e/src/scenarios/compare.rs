//! Compares what was found with what was expected, each difference a line.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::expected::{Record, Row};

/// Expected value of a column that must hold something, whatever it is.
const SET: &str = "$set";
/// Expected value of a date that must be within the run.
const NOW: &str = "$now";

/// Compares lists of rows, paired by a column.
pub(crate) fn by_key(kind: &str, key: &str, expected: &[Row], found: &[Row], began: &str) -> Vec<String> {
    let index =
        |rows: &[Row]| -> BTreeMap<String, Row> { rows.iter().map(|row| (text(row.get(key)), row.clone())).collect() };
    let (wanted, present) = (index(expected), index(found));
    let mut differences = Vec::new();
    if present.len() != found.len() {
        differences.push(format!("{kind}: two rows with one {key}"));
    }
    let ids: BTreeSet<&String> = wanted.keys().chain(present.keys()).collect();
    for id in ids {
        match (wanted.get(id), present.get(id)) {
            (Some(wanted), Some(found)) => {
                let label = format!("{kind} {id}");
                differences.extend(columns(&label, wanted, found, began));
            }
            (Some(_), None) => differences.push(format!("{kind} {id}: is not there")),
            (None, _) => differences.push(format!("{kind} {id}: was not expected")),
        }
    }
    differences
}

/// Compares two rows with the lists that belong to them.
fn columns(label: &str, expected: &Row, found: &Row, began: &str) -> Vec<String> {
    let mut differences = Vec::new();
    let names: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    for name in names {
        let (wanted, present) = (expected.get(name), found.get(name));
        if is_list_of_rows(wanted) && is_list_of_rows(present) {
            let label = format!("{label} {name}");
            differences.extend(in_any_order(&label, &rows(wanted), &rows(present), began));
        } else if !holds(wanted, present, began) {
            differences.push(format!(
                "{label}: {name}: expected {}, found {}",
                shown(wanted),
                shown(present)
            ));
        }
    }
    differences
}

fn is_list_of_rows(value: Option<&Value>) -> bool {
    value.is_some_and(|value| value.as_array().is_some_and(|items| items.iter().all(Value::is_object)))
}

fn rows(value: Option<&Value>) -> Vec<Row> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_object).cloned().collect()
}

/// Compares rows that no single column tells apart: those that are equal go first, the rest is paired as it stands.
pub(crate) fn in_any_order(label: &str, expected: &[Row], found: &[Row], began: &str) -> Vec<String> {
    let mut left = found.to_vec();
    let mut unequal = Vec::new();
    for wanted in expected {
        match left.iter().position(|row| columns("", wanted, row, began).is_empty()) {
            Some(place) => {
                left.remove(place);
            }
            None => unequal.push(wanted),
        }
    }
    let mut differences = Vec::new();
    let paired = unequal.len().min(left.len());
    for (wanted, present) in unequal.iter().zip(&left) {
        differences.extend(columns(label, wanted, present, began));
    }
    for wanted in &unequal[paired..] {
        differences.push(format!("{label}: is not there: {}", Value::Object((*wanted).clone())));
    }
    for present in &left[paired..] {
        differences.push(format!("{label}: was not expected: {}", Value::Object(present.clone())));
    }
    differences
}

/// Whether a value is as expected. `began` is the start of the run, as columns show times.
fn holds(expected: Option<&Value>, found: Option<&Value>, began: &str) -> bool {
    match expected.and_then(Value::as_str) {
        Some(SET) => found.is_some_and(|found| !found.is_null()),
        Some(NOW) => found.and_then(Value::as_str).is_some_and(|found| found >= began),
        _ => expected.is_some() && expected == found,
    }
}

/// Compares recorded differences.
pub(crate) fn records(list: &str, expected: &[Record], found: &[Record]) -> Vec<String> {
    let mut differences = Vec::new();
    let of = |records: &[Record]| -> BTreeMap<(String, String), Record> {
        records
            .iter()
            .map(|record| ((record.kind.clone(), record.doc_id.clone()), record.clone()))
            .collect()
    };
    let (wanted, present) = (of(expected), of(found));
    let ids: BTreeSet<_> = wanted.keys().chain(present.keys()).collect();
    for id in ids {
        let label = format!("{list}: {} {}", id.0, id.1);
        match (wanted.get(id), present.get(id)) {
            (Some(wanted), Some(present)) => {
                if wanted.reason != present.reason {
                    differences.push(format!(
                        "{label}: reason {:?}, found {:?}",
                        wanted.reason, present.reason
                    ));
                }
                for diff in wanted.diffs.iter().filter(|diff| !present.diffs.contains(diff)) {
                    differences.push(format!("{label}: is not there: {diff}"));
                }
                for diff in present.diffs.iter().filter(|diff| !wanted.diffs.contains(diff)) {
                    differences.push(format!("{label}: was not expected: {diff}"));
                }
            }
            (Some(_), None) => differences.push(format!("{label}: is not there")),
            (None, present) => {
                let diffs = present
                    .map(|record| Value::Array(record.diffs.clone()))
                    .unwrap_or_default();
                differences.push(format!("{label}: was not expected: {diffs}"));
            }
        }
    }
    differences
}

/// Compares lists of texts.
pub(crate) fn sets<T: Ord + std::fmt::Debug>(list: &str, expected: &[T], found: &[T]) -> Vec<String> {
    let (wanted, present): (BTreeSet<&T>, BTreeSet<&T>) = (expected.iter().collect(), found.iter().collect());
    let mut differences: Vec<String> = wanted
        .difference(&present)
        .map(|item| format!("{list}: is not there: {item:?}"))
        .collect();
    differences.extend(
        present
            .difference(&wanted)
            .map(|item| format!("{list}: was not expected: {item:?}")),
    );
    differences
}

fn text(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "no such column".to_owned(), Value::to_string)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    const BEGAN: &str = "2020-01-01T00:00:00.000000Z";

    fn row(value: Value) -> Row {
        let Value::Object(row) = value else {
            panic!("a row is an object")
        };
        row
    }

    #[test]
    fn every_column_counts() {
        let expected = [row(json!({"id": "a", "x": null, "when": NOW, "key": SET}))];
        let good = row(json!({"id": "a", "x": null, "when": "2020-01-02T00:00:00.000000Z", "key": "k"}));
        assert!(by_key("form", "id", &expected, std::slice::from_ref(&good), BEGAN).is_empty());
        for (column, value) in [
            ("x", json!(1)),
            ("when", json!("2019-12-31T00:00:00.000000Z")),
            ("key", json!(null)),
            ("new", json!(null)),
        ] {
            let mut bad = good.clone();
            bad.insert(column.to_owned(), value);
            assert_eq!(by_key("form", "id", &expected, &[bad], BEGAN).len(), 1, "{column}");
        }
        let mut short = good.clone();
        short.remove("x");
        assert_eq!(by_key("form", "id", &expected, &[short], BEGAN).len(), 1);
        assert_eq!(by_key("form", "id", &expected, &[], BEGAN), ["form a: is not there"]);
        assert_eq!(by_key("form", "id", &[], &[good], BEGAN), ["form a: was not expected"]);
    }

    #[test]
    fn rows_that_belong_to_a_row_are_compared_in_any_order() {
        let expected = [row(json!({"id": "a", "parts": [{"x": 1}, {"x": 2}]}))];
        let found = |parts: Value| [row(json!({"id": "a", "parts": parts}))];
        assert!(by_key("case", "id", &expected, &found(json!([{"x": 2}, {"x": 1}])), BEGAN).is_empty());
        assert_eq!(
            by_key("case", "id", &expected, &found(json!([{"x": 2}, {"x": 3}])), BEGAN),
            ["case a parts: x: expected 1, found 3"]
        );
        assert_eq!(
            by_key("case", "id", &expected, &found(json!([{"x": 2}])), BEGAN).len(),
            1
        );
    }

    #[test]
    fn records_are_compared_diff_by_diff() {
        let record = |diffs: Value| Record {
            kind: "CommCareCase".to_owned(),
            doc_id: "c".to_owned(),
            reason: None,
            diffs: serde_json::from_value(diffs).unwrap(),
        };
        let one = [record(json!([{"type": "diff", "path": ["a"]}]))];
        assert!(records("diffs", &one, &one).is_empty());
        assert_eq!(records("diffs", &one, &[record(json!([]))]).len(), 1);
        assert_eq!(records("diffs", &[], &one).len(), 1);
        assert_eq!(records("diffs", &one, &[]).len(), 1);
    }
}
