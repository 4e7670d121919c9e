//! Compares the rows found in a target with the model.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::model::{ExpectedBlobMeta, ExpectedCase, ExpectedForm, Model};

/// A form row as found.
pub type ActualForm = ExpectedForm;
/// A case row with its children as found.
pub type ActualCase = ExpectedCase;
/// A blob metadata row as found.
pub type ActualBlobMeta = ExpectedBlobMeta;

/// The rows of a domain as found.
#[derive(Clone, Debug, Default)]
pub struct Actual {
    /// Forms by id.
    pub forms: BTreeMap<String, ActualForm>,
    /// Cases by id.
    pub cases: BTreeMap<String, ActualCase>,
    /// Blob metadata.
    pub blobmeta: Vec<ActualBlobMeta>,
    /// What cannot be told with the other fields: rows that occur twice, children without a parent.
    pub faults: Vec<String>,
}

impl Actual {
    /// Adds the rows of another shard.
    pub fn merge(&mut self, other: Self) {
        for (id, form) in other.forms {
            if self.forms.insert(id.clone(), form).is_some() {
                self.faults.push(format!("form {id}: on two shards"));
            }
        }
        for (id, case) in other.cases {
            if self.cases.insert(id.clone(), case).is_some() {
                self.faults.push(format!("case {id}: on two shards"));
            }
        }
        self.blobmeta.extend(other.blobmeta);
        self.faults.extend(other.faults);
    }
}

/// The differences between a model and the rows found, each one line, at most `limit` of them. Empty: all is equal.
pub fn compare(model: &Model, actual: &Actual, limit: usize) -> Vec<String> {
    let mut differences = actual.faults.clone();
    compare_maps("form", &model.forms, &actual.forms, &mut differences, form_fields);
    compare_maps("case", &model.cases, &actual.cases, &mut differences, case_fields);
    let mut blobmeta: BTreeMap<&str, &ExpectedBlobMeta> = BTreeMap::new();
    for row in &actual.blobmeta {
        if blobmeta.insert(&row.key, row).is_some() {
            differences.push(format!("blob metadata {}: two rows", row.key));
        }
    }
    let expected = model.blobmeta_after.iter().map(|row| (row.key.as_str(), row)).collect();
    compare_maps("blob metadata", &expected, &blobmeta, &mut differences, |row| {
        (fields(row), open_ended(row.created_on.is_none(), "created_on"))
    });
    differences.truncate(limit);
    differences
}

/// Columns of a row, and those whose value the model leaves open.
type Fields = (Vec<(String, Value)>, Option<&'static str>);

fn compare_maps<K: Ord + AsRef<str>, T>(
    kind: &str,
    expected: &BTreeMap<K, T>,
    actual: &BTreeMap<K, T>,
    differences: &mut Vec<String>,
    columns: impl Fn(&T) -> Fields,
) {
    let ids: BTreeSet<&K> = expected.keys().chain(actual.keys()).collect();
    for id in ids {
        let label = id.as_ref();
        match (expected.get(id), actual.get(id)) {
            (Some(_), None) => differences.push(format!("{kind} {label}: missing")),
            (None, Some(_)) => differences.push(format!("{kind} {label}: not expected")),
            (Some(expected), Some(actual)) => {
                let (wanted, open) = columns(expected);
                let (found, _) = columns(actual);
                for ((column, wanted), (_, found)) in wanted.into_iter().zip(found) {
                    if open == Some(column.as_str()) {
                        if found.is_null() {
                            differences.push(format!("{kind} {label}: {column} is null"));
                        }
                    } else if wanted != found {
                        differences.push(difference(kind, label, &column, &wanted, &found));
                    }
                }
            }
            (None, None) => {}
        }
    }
}

/// Of two lists or objects only what they do not share is shown.
fn difference(kind: &str, id: &str, column: &str, wanted: &Value, found: &Value) -> String {
    let (wanted, found) = match (wanted, found) {
        (Value::Array(a), Value::Array(b)) => (
            Value::Array(a.iter().filter(|item| !b.contains(item)).cloned().collect()),
            Value::Array(b.iter().filter(|item| !a.contains(item)).cloned().collect()),
        ),
        (Value::Object(a), Value::Object(b)) => (
            Value::Object(
                a.iter()
                    .filter(|(key, value)| b.get(*key) != Some(value))
                    .map(own)
                    .collect(),
            ),
            Value::Object(
                b.iter()
                    .filter(|(key, value)| a.get(*key) != Some(value))
                    .map(own)
                    .collect(),
            ),
        ),
        _ => (wanted.clone(), found.clone()),
    };
    format!("{kind} {id}: {column}: expected {wanted}, found {found}")
}

fn own((key, value): (&String, &Value)) -> (String, Value) {
    (key.clone(), value.clone())
}

fn open_ended(open: bool, column: &'static str) -> Option<&'static str> {
    open.then_some(column)
}

fn form_fields(form: &ExpectedForm) -> Fields {
    let mut form = form.clone();
    form.operations.sort();
    (fields(&form), None)
}

fn case_fields(case: &ExpectedCase) -> Fields {
    let mut case = case.clone();
    case.indices.sort();
    case.transactions
        .sort_by(|a, b| (a.server_date, &a.form_id, a.kind).cmp(&(b.server_date, &b.form_id, b.kind)));
    case.attachments.sort_by(|a, b| a.name.cmp(&b.name));
    case.ledger_values.sort();
    // Within one ledger the order counts.
    case.ledger_transactions
        .sort_by(|a, b| (&a.section_id, &a.entry_id).cmp(&(&b.section_id, &b.entry_id)));
    (
        fields(&case),
        open_ended(case.server_modified_on.is_none(), "server_modified_on"),
    )
}

fn fields(row: &impl Serialize) -> Vec<(String, Value)> {
    match serde_json::to_value(row) {
        Ok(Value::Object(map)) => map.into_iter().collect(),
        other => vec![("row".to_owned(), other.unwrap_or(Value::Null))],
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::{Options, generate};

    fn found(model: &Model) -> Actual {
        let mut actual = Actual {
            forms: model.forms.clone(),
            cases: model.cases.clone(),
            blobmeta: model.blobmeta_after.clone(),
            faults: Vec::new(),
        };
        let now = Some(chrono::DateTime::UNIX_EPOCH);
        for case in actual.cases.values_mut() {
            case.server_modified_on = case.server_modified_on.or(now);
        }
        for row in &mut actual.blobmeta {
            row.created_on = row.created_on.or(now);
        }
        actual
    }

    #[test]
    fn equal_rows_have_no_differences_whatever_their_order() {
        let model = generate(&Options::new("compared", 120, 3)).model;
        let mut actual = found(&model);
        actual.cases.values_mut().for_each(|case| case.transactions.reverse());
        assert_eq!(compare(&model, &actual, 10), Vec::<String>::new());
    }

    #[test]
    fn every_kind_of_difference_is_told() {
        let model = generate(&Options::new("compared", 120, 3)).model;
        let mut actual = found(&model);
        let (form_id, form) = actual
            .forms
            .iter_mut()
            .next()
            .map(|(id, form)| (id.clone(), form))
            .unwrap();
        form.state += 64;
        let (gone, _) = actual.cases.pop_first().unwrap();
        let (case_id, case) = actual
            .cases
            .iter_mut()
            .next()
            .map(|(id, case)| (id.clone(), case))
            .unwrap();
        case.transactions[0].kind = 7;
        actual.blobmeta[0].type_code = 9;
        let key = actual.blobmeta[0].key.clone();
        actual.blobmeta.push(actual.blobmeta[1].clone());
        let differences = compare(&model, &actual, 100).join("\n");
        for part in [
            format!("form {form_id}: state: expected"),
            format!("case {gone}: missing"),
            format!("case {case_id}: transactions: expected"),
            format!("blob metadata {key}: type_code"),
            "two rows".to_owned(),
        ] {
            assert!(differences.contains(&part), "{part} not in\n{differences}");
        }
        assert_eq!(compare(&model, &actual, 2).len(), 2);
    }
}
