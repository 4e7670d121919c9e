//! Forms that replaced a duplicate of themselves, and were left with a problem that is none.
//!
//! A repair of the past (HQ's `swap_duplicate_xforms`) put a complete copy of a form in the place of one that lacked its
//! attachments, and said so in the copy's `problem`. A problem makes an error form of it, which touches no case. HQ's
//! migrator mends the Couch document before it migrates the form, and so do we.

use chrono::{DateTime, Utc};
use proto::doctype::DocType;
use serde_json::{Map, Value, json};

/// How the problem of such a form begins; the id of the replaced form and ` on <date>` follow.
pub const REPLACED_PREFIX: &str = "This document was an xform duplicate that replaced ";
/// How the operation begins that the repair adds to the history; the problem follows.
pub const OPERATION_PREFIX: &str = "Resolved bad duplicate form during couch-to-sql migration. Original problem: ";
/// Characters that the SQL column of an operation holds.
pub(crate) const OPERATION_LENGTH: usize = 255;

/// The id of the form that this document replaced, if it is one to be mended.
pub fn replaced_form(doc_type: DocType, document: &Value) -> Option<&str> {
    if doc_type != DocType::XFormInstance {
        return None;
    }
    let rest = document.get("problem")?.as_str()?.strip_prefix(REPLACED_PREFIX)?;
    let id = rest.split_once(" on ").map_or(rest, |(id, _)| id);
    (!id.is_empty()).then_some(id)
}

/// The document, mended: it names the form that it replaced, its problem has moved into the history, and it counts as
/// processed if the replaced form does. `replaced` is the replaced form's document, `None` when there is none; `now` is the
/// date of the history entry. `None` if there is nothing to mend, or the document's history is no list.
pub fn repaired(doc_type: DocType, document: &Value, replaced: Option<&Value>, now: DateTime<Utc>) -> Option<Value> {
    let replaced_id = replaced_form(doc_type, document)?.to_owned();
    let mut mended: Map<String, Value> = document.as_object()?.clone();
    let problem = mended.insert("problem".to_owned(), Value::Null)?;
    let entry = json!({
        "doc_type": "XFormOperation",
        "user": "system",
        "date": now.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
        "operation": cut(&format!("{OPERATION_PREFIX}{}", problem.as_str()?)),
    });
    match mended.entry("history").or_insert(Value::Null) {
        Value::Array(history) => history.push(entry),
        absent @ Value::Null => *absent = json!([entry]),
        _ => return None,
    }
    mended.insert("deprecated_form_id".to_owned(), Value::String(replaced_id));
    let complete = replaced.and_then(|form| form.get("initial_processing_complete"));
    if complete == Some(&Value::Bool(true)) {
        mended.insert("initial_processing_complete".to_owned(), Value::Bool(true));
    }
    Some(Value::Object(mended))
}

/// An operation of the repair, as long as its SQL column holds it; others as they are.
pub(crate) fn cut(operation: &str) -> String {
    if operation.starts_with(OPERATION_PREFIX) {
        operation.chars().take(OPERATION_LENGTH).collect()
    } else {
        operation.to_owned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PROBLEM: &str = "This document was an xform duplicate that replaced f-old on 2016-05-04 10:00:00";

    fn document() -> Value {
        json!({"_id": "f-new", "_rev": "3-x", "problem": PROBLEM, "initial_processing_complete": false,
               "history": [{"user": "u", "operation": "edit", "date": "2015-01-01T00:00:00Z"}], "form": {"a": "1"}})
    }

    fn now() -> DateTime<Utc> {
        "2020-06-01T02:03:04.000500Z".parse().unwrap()
    }

    #[test]
    fn the_replaced_form_is_named_by_the_problem() {
        assert_eq!(replaced_form(DocType::XFormInstance, &document()), Some("f-old"));
        assert_eq!(replaced_form(DocType::XFormError, &document()), None);
        for problem in [
            Value::Null,
            json!("Form is a duplicate of another! (f)"),
            json!(REPLACED_PREFIX),
        ] {
            assert_eq!(
                replaced_form(DocType::XFormInstance, &json!({ "problem": problem })),
                None
            );
        }
    }

    #[test]
    fn the_problem_moves_into_the_history_and_the_form_counts_as_processed_if_the_old_one_does() {
        let old = json!({"initial_processing_complete": true});
        let mended = repaired(DocType::XFormInstance, &document(), Some(&old), now()).unwrap();
        let mut expected = document();
        expected["problem"] = Value::Null;
        expected["deprecated_form_id"] = json!("f-old");
        expected["initial_processing_complete"] = json!(true);
        expected["history"].as_array_mut().unwrap().push(json!({
            "doc_type": "XFormOperation", "user": "system", "date": "2020-06-01T02:03:04.000500Z",
            "operation": "Resolved bad duplicate form during couch-to-sql migration. Original problem: \
                This document was an xform duplicate that replaced f-old on 2016-05-04 10:00:00",
        }));
        assert_eq!(mended, expected);
        assert_eq!(
            repaired(DocType::XFormInstance, &mended, Some(&old), now()),
            None,
            "once"
        );
        for old in [
            None,
            Some(json!({"initial_processing_complete": false})),
            Some(json!({})),
        ] {
            let mended = repaired(DocType::XFormInstance, &document(), old.as_ref(), now()).unwrap();
            assert_eq!(mended["initial_processing_complete"], json!(false));
        }
    }

    #[test]
    fn an_absent_history_begins_with_the_repair_and_an_odd_one_is_left_alone() {
        let mut doc = document();
        doc["history"] = Value::Null;
        let mended = repaired(DocType::XFormInstance, &doc, None, now()).unwrap();
        assert_eq!(mended["history"].as_array().unwrap().len(), 1);
        doc["history"] = json!("x");
        assert_eq!(repaired(DocType::XFormInstance, &doc, None, now()), None);
    }

    #[test]
    fn the_operation_is_no_longer_than_its_column() {
        let mut doc = document();
        doc["problem"] = json!(format!("{REPLACED_PREFIX}{} on a day", "é".repeat(300)));
        let mended = repaired(DocType::XFormInstance, &doc, None, now()).unwrap();
        let operation = mended["history"][1]["operation"].as_str().unwrap();
        assert_eq!(operation.chars().count(), 255);
        assert!(operation.ends_with('é'));
        assert_eq!(cut(&"x".repeat(300)).len(), 300, "other operations are never cut");
    }
}
