//! The comparison of one case, from what was read of both sides.

use std::collections::{BTreeSet, HashSet};

use chrono::{DateTime, Utc};
use docdiff::{AbsentFrom, ChangeReason, Diff, DiffType, PathElement, RecordedDiff, Side, missing_document};
use proto::ids::Domain;
use proto::rows::CaseBundle;
use serde_json::{Value, json};
use service::worker::BatchFailure;
use state::diff_stage::{CaseComparison, CaseToDiff};

use crate::lookup::Forms;

/// The state of a soft-deleted form, a bit of its `state` column.
const FORM_DELETED: i16 = 64;

/// What was read of a case.
pub(crate) struct Sides<'a> {
    /// Domain that is migrated.
    pub(crate) domain: &'a Domain,
    /// The Couch document.
    pub(crate) couch: Option<&'a Value>,
    /// The SQL rows.
    pub(crate) sql: Option<&'a CaseBundle>,
    /// Forms that the Couch case names; looked up only when there are differences.
    pub(crate) forms: &'a Forms,
}

/// Ids of the forms that a Couch case names, in its list and in its actions.
pub(crate) fn form_ids(couch: &Value) -> impl Iterator<Item = &str> {
    let list = |key: &str| couch.get(key).and_then(Value::as_array).into_iter().flatten();
    let acted = list("actions").filter_map(|action| action.get("xform_id"));
    list("xform_ids").chain(acted).filter_map(Value::as_str)
}

/// Whether Couch has changed this case since the cut-off. A case without a readable date counts as old.
pub(crate) fn is_later(couch: &Value, cutoff: Option<DateTime<Utc>>) -> bool {
    let modified = couch.get("server_modified_on").and_then(Value::as_str);
    match (
        modified.and_then(|text| DateTime::parse_from_rfc3339(text).ok()),
        cutoff,
    ) {
        (Some(modified), Some(cutoff)) => modified > cutoff,
        _ => false,
    }
}

/// Compares a case; its ledgers are compared apart.
pub(crate) fn compare(sides: &Sides<'_>, no_action: &HashSet<String>) -> Result<Vec<RecordedDiff>, BatchFailure> {
    if is_foreign(sides) {
        return Ok(Vec::new());
    }
    let as_diffs = |diffs: Vec<Diff>| {
        diffs
            .into_iter()
            .map(|diff| RecordedDiff::of_case(diff, None))
            .collect()
    };
    Ok(match (sides.couch, sides.sql) {
        (None, None) => Vec::new(),
        (Some(couch), Some(sql)) => as_diffs(both(couch, sql, sides, no_action)?),
        (Some(couch), None) => {
            let reason = all_forms_deleted(couch, sides).then_some(ChangeReason::DeletedForms);
            vec![RecordedDiff::of_case(missing_document(AbsentFrom::Sql), reason)]
        }
        (None, Some(_)) => as_diffs(vec![missing_document(AbsentFrom::Couch)]),
    })
}

/// What is recorded of a case and its ledgers: differences without a reason are diffs, the others changes.
pub(crate) fn recorded(
    case: &CaseToDiff,
    couch: Option<&Value>,
    sql: Option<&CaseBundle>,
    records: Vec<RecordedDiff>,
) -> CaseComparison {
    let text = |key: &str| couch.and_then(|doc| doc.get(key)).and_then(Value::as_str);
    let kind = match (text("doc_type"), sql) {
        (None, Some(bundle)) if bundle.case.deleted => "CommCareCase-Deleted",
        (doc_type, _) => doc_type.unwrap_or("CommCareCase"),
    };
    let (diffs, changes): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| record.reason.is_none());
    let reasons: BTreeSet<&str> = changes.iter().filter_map(|change| change.reason.as_deref()).collect();
    let reasons = reasons.into_iter().collect::<Vec<_>>().join(", ");
    CaseComparison {
        case_id: case.case_id.clone(),
        generation: case.generation,
        couch_rev: text("_rev").map(str::to_owned),
        kind: kind.to_owned(),
        diffs: (!diffs.is_empty()).then(|| RecordedDiff::list_to_text(&diffs)),
        changes: (!changes.is_empty()).then(|| (RecordedDiff::list_to_text(&changes), reasons)),
    }
}

/// A case of another domain, which a form of this one names: the form is on record for it, and the case is not ours to
/// compare.
fn is_foreign(sides: &Sides<'_>) -> bool {
    let domain = Some(sides.domain.as_str());
    let couch_is_ours = sides
        .couch
        .is_some_and(|doc| doc.get("domain").and_then(Value::as_str) == domain);
    let sql_is_ours = sides
        .sql
        .is_some_and(|bundle| Some(bundle.case.domain.as_str()) == domain);
    !couch_is_ours && !sql_is_ours
}

fn both(
    couch: &Value,
    sql: &CaseBundle,
    sides: &Sides<'_>,
    no_action: &HashSet<String>,
) -> Result<Vec<Diff>, BatchFailure> {
    let couch_domain = couch.get("domain").and_then(Value::as_str).unwrap_or_default();
    let domain = sides.domain.as_str();
    if couch_domain != domain {
        return Ok(vec![domain_diff(couch_domain, domain)]);
    }
    if sql.case.domain != domain {
        return Ok(vec![domain_diff(domain, &sql.case.domain)]);
    }
    let sql_json = docdiff::sqljson::case_json(sql);
    let mut diffs = docdiff::diff_case(couch, &sql_json, no_action)
        .map_err(|_| BatchFailure::defect("a case document of an unknown type was compared"))?;
    if !diffs.is_empty() {
        diffs.extend(docdiff::form_check(couch, &sql_json, &|form_id| {
            sides.forms.states(form_id)
        }));
    }
    Ok(diffs)
}

/// Whether the forms that the Couch case names are all soft-deleted in SQL. A case that names none counts.
fn all_forms_deleted(couch: &Value, sides: &Sides<'_>) -> bool {
    let listed = couch.get("xform_ids").and_then(Value::as_array).into_iter().flatten();
    listed.filter_map(Value::as_str).all(|id| {
        sides
            .forms
            .sql
            .get(id)
            .is_some_and(|form| form.form.state & FORM_DELETED != 0)
    })
}

fn domain_diff(old: &str, new: &str) -> Diff {
    Diff {
        diff_type: DiffType::Diff,
        path: vec![PathElement::Key("domain".into())],
        old: Side::Value(json!(old)),
        new: Side::Value(json!(new)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn record(ledger: Option<&str>, reason: Option<ChangeReason>) -> RecordedDiff {
        RecordedDiff {
            ledger: ledger.map(str::to_owned),
            ..RecordedDiff::of_case(domain_diff("a", "b"), reason)
        }
    }

    #[test]
    fn differences_with_a_reason_are_changes_and_ledgers_stand_with_their_case() {
        let case = CaseToDiff {
            case_id: "c".to_owned(),
            generation: 3,
        };
        let couch = json!({"_id": "c", "_rev": "7-x", "doc_type": "CommCareCase"});
        let found = recorded(
            &case,
            Some(&couch),
            None,
            vec![
                record(None, None),
                record(Some("c/stock/p"), None),
                record(Some("c/stock/q"), Some(ChangeReason::DuplicateStockTransaction)),
                record(Some("c/stock/r"), Some(ChangeReason::MissingCouchStockTransaction)),
                record(Some("c/stock/s"), Some(ChangeReason::DuplicateStockTransaction)),
            ],
        );
        assert_eq!(
            (found.kind.as_str(), found.generation, found.couch_rev.as_deref()),
            ("CommCareCase", 3, Some("7-x"))
        );
        let diffs: Value = serde_json::from_str(&found.diffs.unwrap()).unwrap();
        assert_eq!(diffs[0]["path"], json!(["domain"]));
        assert_eq!(diffs[1]["path"], json!({"stock_id": "c/stock/p", "path": ["domain"]}));
        assert_eq!(diffs.as_array().unwrap().len(), 2);
        let (changes, reason) = found.changes.unwrap();
        let changes: Value = serde_json::from_str(&changes).unwrap();
        assert_eq!(changes[1]["reason"], json!("missing couch stock transaction"));
        assert_eq!(changes.as_array().unwrap().len(), 3);
        assert_eq!(reason, "duplicate stock transaction, missing couch stock transaction");

        let equal = recorded(&case, Some(&couch), None, Vec::new());
        assert_eq!((equal.diffs, equal.changes), (None, None));
    }

    #[test]
    fn a_case_names_forms_in_its_list_and_in_its_actions() {
        let couch = json!({"xform_ids": ["a", "b", null], "actions": [{"xform_id": "b"}, {"xform_id": "c"}, {}]});
        assert_eq!(form_ids(&couch).collect::<Vec<_>>(), ["a", "b", "b", "c"]);
        assert_eq!(form_ids(&json!({})).count(), 0);
    }
}
