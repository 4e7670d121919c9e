//! What is said of a case beside the differences of its JSON.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::diff::{Diff, DiffType, PathElement, Side};
use crate::json::ANY_INDEX;
use crate::reason::ChangeReason;

/// Which side lacks a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbsentFrom {
    /// Couch has it, SQL does not.
    Sql,
    /// SQL has it, Couch does not.
    Couch,
}

/// The diff that says that a whole document is missing: at the path `*`, with a word in place of the document that is
/// there.
pub fn missing_document(absent_from: AbsentFrom) -> Diff {
    let (old, new) = match absent_from {
        AbsentFrom::Sql => (Side::text("*"), Side::Missing),
        AbsentFrom::Couch => (Side::Missing, Side::text("present")),
    };
    Diff {
        diff_type: DiffType::Missing,
        path: vec![PathElement::key("*")],
        old,
        new,
    }
}

/// The diff of a case that neither side has, though these forms name it: SQL has them, processed, or has them not at all.
pub fn missing_with_forms<'a>(form_ids: impl IntoIterator<Item = &'a str>) -> Diff {
    let mut form_ids: Vec<String> = form_ids.into_iter().map(|id| format!("'{id}'")).collect();
    form_ids.sort_unstable();
    form_ids.dedup();
    Diff {
        new: Side::text(format!("missing with forms {{{}}}", form_ids.join(", "))),
        ..missing_document(AbsentFrom::Couch)
    }
}

/// What becomes of a form that a Couch case lists, where the case is not in SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormInCase {
    /// SQL has the form, soft-deleted.
    pub is_deleted: bool,
    /// Its case blocks or ledgers name the case. A form that is not in Couch, or has no XML, counts as naming it.
    pub names_case: bool,
}

/// Why it is expected that SQL lacks a case: all forms that the Couch case lists are deleted, which is so of a case without
/// any, or none of them names the case.
pub fn reason_of_absence(forms: &[FormInCase]) -> Option<ChangeReason> {
    if forms.iter().all(|form| form.is_deleted) {
        Some(ChangeReason::DeletedForms)
    } else if !forms.iter().any(|form| form.names_case) {
        Some(ChangeReason::OrphanedCase)
    } else {
        None
    }
}

/// Where a form is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormState {
    /// There.
    Present,
    /// Not there.
    Missing,
    /// Not there, but the blob of its XML is.
    MissingBlobPresent,
}

impl FormState {
    /// Its name in diffs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Missing => "missing",
            Self::MissingBlobPresent => "missing, blob present",
        }
    }
}

/// The forms that the Couch case's actions name and the SQL case's do not, with their states in Couch and in SQL, if Couch
/// itself lacks one of them. `state_of` is asked once for each such form.
pub fn form_check(
    couch_case: &Value,
    sql_case: &Value,
    state_of: &dyn Fn(&str) -> (FormState, FormState),
) -> Option<Diff> {
    let known: HashSet<&str> = action_forms(sql_case).collect();
    let mut seen = HashSet::new();
    let mut absent = false;
    let (mut old, mut new) = (Map::new(), Map::new());
    for form_id in action_forms(couch_case).filter(|id| !known.contains(id)) {
        if !seen.insert(form_id) {
            continue;
        }
        let (in_couch, in_sql) = state_of(form_id);
        absent |= in_couch != FormState::Present;
        old.insert(form_id.to_owned(), Value::from(in_couch.as_str()));
        new.insert(form_id.to_owned(), Value::from(in_sql.as_str()));
    }
    let forms = |states: Map<String, Value>| {
        let mut forms = Map::new();
        forms.insert("forms".to_owned(), Value::Object(states));
        Side::Value(Value::Object(forms))
    };
    absent.then(|| Diff {
        diff_type: DiffType::Diff,
        path: vec![PathElement::key("?")],
        old: forms(old),
        new: forms(new),
    })
}

fn action_forms(case: &Value) -> impl Iterator<Item = &str> {
    let actions = case
        .get("actions")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    actions
        .iter()
        .filter_map(|action| action.get("xform_id").and_then(Value::as_str))
}

/// Takes forms without action out of what only SQL has in `xform_ids`. With none left the diff goes, even if Couch has
/// forms that SQL lacks; a diff whose SQL side was empty from the start stays. Changed diffs come last.
pub(crate) fn without_no_action_forms(diffs: Vec<Diff>, no_action_forms: &HashSet<String>) -> Vec<Diff> {
    if no_action_forms.is_empty() {
        return diffs;
    }
    let (mut kept, mut changed) = (Vec::with_capacity(diffs.len()), Vec::new());
    for mut diff in diffs {
        let form_ids = match &diff.new {
            Side::Value(Value::String(form_ids)) if is_xform_ids(&diff) => form_ids,
            _ => {
                kept.push(diff);
                continue;
            }
        };
        let left: Vec<&str> = form_ids
            .split(',')
            .filter(|id| !no_action_forms.contains(*id))
            .collect();
        if !left.is_empty() {
            diff.new = Side::text(left.join(","));
            changed.push(diff);
        }
    }
    kept.append(&mut changed);
    kept
}

fn is_xform_ids(diff: &Diff) -> bool {
    diff.diff_type == DiffType::SetMismatch && diff.path == [PathElement::key("xform_ids"), PathElement::key(ANY_INDEX)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_missing_document_as_it_is_stored() {
        let stored = |absent_from| missing_document(absent_from).to_json();
        assert_eq!(
            stored(AbsentFrom::Sql),
            json!({"type": "missing", "path": ["*"], "old_value": "*"})
        );
        assert_eq!(
            stored(AbsentFrom::Couch),
            json!({"type": "missing", "path": ["*"], "new_value": "present"})
        );
        assert_eq!(
            missing_with_forms(["b", "a", "b"]).to_json(),
            json!({"type": "missing", "path": ["*"], "new_value": "missing with forms {'a', 'b'}"})
        );
    }

    #[test]
    fn why_a_case_may_be_absent_from_sql() {
        let form = |is_deleted, names_case| FormInCase { is_deleted, names_case };
        for (forms, expected) in [
            (vec![], Some(ChangeReason::DeletedForms)),
            (
                vec![form(true, true), form(true, false)],
                Some(ChangeReason::DeletedForms),
            ),
            (
                vec![form(true, false), form(false, false)],
                Some(ChangeReason::OrphanedCase),
            ),
            (vec![form(true, true), form(false, false)], None),
            (vec![form(false, true)], None),
        ] {
            assert_eq!(reason_of_absence(&forms), expected, "{forms:?}");
        }
    }

    #[test]
    fn forms_that_couch_lacks() {
        let couch = json!({"actions": [
            {"xform_id": "a"}, {"xform_id": "b"}, {"xform_id": "b"}, {"xform_id": null}, {}, {"xform_id": "c"}]});
        let sql = json!({"actions": [{"xform_id": "a"}, {"xform_id": null}]});
        let states = |id: &str| match id {
            "b" => (FormState::MissingBlobPresent, FormState::Missing),
            "c" => (FormState::Present, FormState::Missing),
            other => panic!("{other} is in both"),
        };
        assert_eq!(
            form_check(&couch, &sql, &states).unwrap().to_json(),
            json!({"type": "diff", "path": ["?"],
                "old_value": {"forms": {"b": "missing, blob present", "c": "present"}},
                "new_value": {"forms": {"b": "missing", "c": "missing"}}})
        );
        let present = |_: &str| (FormState::Present, FormState::Missing);
        assert_eq!(form_check(&couch, &sql, &present), None);
        assert_eq!(form_check(&json!({}), &json!({}), &states), None);
    }
}
