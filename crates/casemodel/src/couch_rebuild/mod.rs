//! A Couch case as Couch's own processor would make it anew from the case's forms: the *hard rebuild*.
//!
//! What operators altered by hand, what late or lost forms did, and what old faults of Couch left in a document goes away in
//! a rebuild. A comparison therefore rebuilds a case that differs, in memory only: where the rebuilt case equals SQL's, the
//! forms agree with SQL, and the differences are a *change*.
//!
//! Couch keeps what each block did as *actions*, sorts them (`actions`), resets the document and applies them. This is not
//! how SQL replays forms: the order is another one, and so is what an action may write.
//!
//! Source: `hard_rebuild_case` of HQ's `backends/couch/processor.py`, `CouchCaseUpdateStrategy` of `update_strategy.py`.

mod actions;
mod draft;
mod python_sort;

use chrono::{DateTime, Utc};
use proto::effects::CaseUpdate;
use serde_json::{Map, Value, json};

use actions::Kind;
use draft::Draft;

/// A normal form of a case, as Couch has it; one that carries a problem, or was never processed, too.
#[derive(Clone, Debug, PartialEq)]
pub struct CouchForm {
    /// Its id.
    pub form_id: String,
    /// When it was received.
    pub received_on: DateTime<Utc>,
    /// The user that its metadata name: that of blocks without one.
    pub user_id: Option<String>,
    /// Its blocks for the case, in the order in which HQ applies them.
    pub updates: Vec<CaseUpdate>,
    /// It changes ledgers of the case.
    pub changes_ledgers: bool,
    /// Its attachments, with their lengths where they are known.
    pub attachments: Vec<(String, Option<u64>)>,
}

/// Why Couch could not rebuild a case. HQ keeps the case as it is then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CouchRebuildError {
    /// The document is not a JSON object.
    #[error("the case document is not an object")]
    NotAnObject,
    /// A block writes a value that the field of its name cannot hold.
    #[error("a case block writes a value that the case's field cannot hold")]
    BadValue,
    /// A block takes an attachment that its form does not have.
    #[error("a case block takes an attachment that its form does not have")]
    AttachmentNotFound,
}

/// Rebuilds a case from its forms, which are given in any order. Its `actions` are left with no more than their types and
/// forms, and hold one for the rebuild itself.
///
/// # Errors
/// [`CouchRebuildError`], where Couch's processor fails.
pub fn rebuild(case: &Value, mut forms: Vec<CouchForm>) -> Result<Value, CouchRebuildError> {
    let case = case.as_object().ok_or(CouchRebuildError::NotAnObject)?;
    forms.sort_by(|one, other| (one.received_on, &one.form_id).cmp(&(other.received_on, &other.form_id)));
    let actions = actions::in_couch_order(&forms);
    let mut draft = Draft::reset(case, &actions);
    for action in &actions {
        draft.apply(action)?;
    }
    let (mut xform_ids, mut seen) = (Vec::new(), std::collections::HashSet::new());
    for action in &actions {
        if seen.insert(action.form.form_id.as_str()) {
            xform_ids.push(Value::from(action.form.form_id.as_str()));
        }
    }
    let is_deleted = xform_ids.is_empty();
    let listed = actions
        .iter()
        .map(|action| json!({"action_type": action.kind.as_str(), "xform_id": action.form.form_id}))
        .chain([json!({"action_type": Kind::REBUILD, "xform_id": null})]);
    draft.put("actions", listed.collect());
    draft.put("xform_ids", Value::Array(xform_ids));
    if is_deleted {
        draft.put("doc_type", Value::from("CommCareCase-Deleted"));
    }
    Ok(Value::Object(draft.into_document()))
}

/// The types of the actions that a document holds.
fn action_types(case: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let actions = case.get("actions").and_then(Value::as_array).into_iter().flatten();
    actions.filter_map(|action| action.get("action_type").and_then(Value::as_str))
}

#[cfg(test)]
mod tests;
