//! The comparison of one case, from what was read of both sides.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use docdiff::{Diff, DiffType, FormState, PathElement, Side};
use proto::ids::Domain;
use proto::rows::{CaseBundle, FormBundle};
use serde_json::{Value, json};
use service::worker::BatchFailure;
use state::diff_stage::{CaseComparison, CaseToDiff};

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
    /// SQL forms that the Couch case names; read only when there are differences.
    pub(crate) forms: HashMap<String, FormBundle>,
    /// Forms that the Couch case names and that Couch has; read only when there are differences.
    pub(crate) couch_forms: HashSet<String>,
}

/// Ids of the forms that a Couch case names, in its list and in its actions.
pub(crate) fn form_ids(couch: &Value) -> Vec<String> {
    let listed = couch.get("xform_ids").and_then(Value::as_array).into_iter().flatten();
    let acted = couch
        .get("actions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|a| a.get("xform_id"));
    let mut ids: Vec<String> = listed
        .chain(acted)
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
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

/// Compares a case.
pub(crate) fn compare(
    case: &CaseToDiff,
    sides: &Sides<'_>,
    no_action: &HashSet<String>,
) -> Result<CaseComparison, BatchFailure> {
    let kind = sides
        .couch
        .and_then(|doc| doc.get("doc_type"))
        .and_then(Value::as_str)
        .unwrap_or("CommCareCase");
    let mut comparison = CaseComparison {
        case_id: case.case_id.clone(),
        generation: case.generation,
        couch_rev: sides
            .couch
            .and_then(|doc| doc.get("_rev"))
            .and_then(Value::as_str)
            .map(str::to_owned),
        kind: kind.to_owned(),
        diffs: None,
        changes: None,
    };
    if is_foreign(sides) {
        return Ok(comparison);
    }
    let mut diffs = Vec::new();
    match (sides.couch, sides.sql) {
        (None, None) => {}
        (Some(couch), Some(sql)) => diffs = both(couch, sql, sides, no_action)?,
        (Some(couch), None) => {
            let missing = missing(Side::Value(json!("*")), Side::Missing);
            if all_forms_deleted(couch, sides) {
                comparison.changes = Some((encode(&[missing], Some("deleted forms")), "deleted forms".to_owned()));
            } else {
                diffs.push(missing);
            }
        }
        (None, Some(sql)) if sql.case.deleted => comparison.kind = "CommCareCase-Deleted".to_owned(),
        (None, Some(_)) => {}
    }
    if sides.couch.is_none() && sides.sql.is_some() {
        diffs.push(missing(Side::Missing, Side::Value(json!("present"))));
    }
    if !diffs.is_empty() {
        comparison.diffs = Some(encode(&diffs, None));
    }
    Ok(comparison)
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
        let state_of = |form_id: &str| {
            let couch = if sides.couch_forms.contains(form_id) {
                FormState::Present
            } else {
                FormState::Missing
            };
            let sql = if sides.forms.contains_key(form_id) {
                FormState::Present
            } else {
                FormState::Missing
            };
            (couch, sql)
        };
        diffs.extend(docdiff::form_check(couch, &sql_json, &state_of));
    }
    Ok(diffs)
}

/// Whether the forms that the Couch case names are all soft-deleted in SQL. A case that names none counts.
fn all_forms_deleted(couch: &Value, sides: &Sides<'_>) -> bool {
    let listed = couch.get("xform_ids").and_then(Value::as_array).into_iter().flatten();
    listed.filter_map(Value::as_str).all(|id| {
        sides
            .forms
            .get(id)
            .is_some_and(|form| form.form.state & FORM_DELETED != 0)
    })
}

fn missing(old: Side, new: Side) -> Diff {
    Diff {
        diff_type: DiffType::Missing,
        path: vec![PathElement::Key("*".into())],
        old,
        new,
    }
}

fn domain_diff(old: &str, new: &str) -> Diff {
    Diff {
        diff_type: DiffType::Diff,
        path: vec![PathElement::Key("domain".into())],
        old: Side::Value(json!(old)),
        new: Side::Value(json!(new)),
    }
}

fn encode(diffs: &[Diff], reason: Option<&str>) -> String {
    let list: Vec<Value> = diffs
        .iter()
        .map(|diff| {
            let mut entry = diff.to_json();
            if let (Some(reason), Some(map)) = (reason, entry.as_object_mut()) {
                map.insert("reason".to_owned(), json!(reason));
            }
            entry
        })
        .collect();
    Value::Array(list).to_string()
}
