//! Which column of the SQL form comes from which key of the Couch document.

use casemodel::pyjson;
use chrono::{DateTime, Utc};
use proto::doctype::DocType;
use proto::ids::Domain;
use proto::rows::{FormBundle, FormRow, OperationRow};
use serde_json::{Map, Value};

use crate::{FormFailure, dates, swapped};

type Doc = Map<String, Value>;

/// The form's rows. `doc_type` is the type it is migrated as: a normal document with a problem is an error form.
pub(crate) fn bundle(domain: &Domain, doc_type: DocType, doc: &Doc) -> Result<FormBundle, FormFailure> {
    let state = doc_type.form_state().ok_or(FormFailure::Unexpected("doc_type"))?;
    let is_error = doc_type != DocType::XFormInstance;
    let processed = doc_type == DocType::XFormInstance;
    let (xmlns, user_id) = if processed {
        from_form(doc)?
    } else {
        from_document(doc)?
    };
    let form = FormRow {
        form_id: text(doc, "_id")?.ok_or(FormFailure::Absent("_id"))?,
        domain: domain.as_str().to_owned(),
        app_id: text(doc, "app_id")?,
        xmlns,
        user_id,
        orig_id: if is_error { text(doc, "orig_id")? } else { None },
        deprecated_form_id: text(doc, "deprecated_form_id")?,
        server_modified_on: date(doc, "server_modified_on")?,
        received_on: date(doc, "received_on")?.ok_or(FormFailure::Absent("received_on"))?,
        edited_on: edited_on(doc_type, doc)?,
        deleted_on: date(doc, "-deletion_date")?,
        deletion_id: text(doc, "-deletion_id")?,
        auth_context: object(doc, "auth_context")?,
        openrosa_headers: object(doc, "openrosa_headers")?,
        partial_submission: flag(doc, "partial_submission")?.unwrap_or(false),
        submit_ip: text(doc, "submit_ip")?,
        last_sync_token: text(doc, "last_sync_token")?,
        problem: if is_error { text(doc, "problem")? } else { None },
        // An unreadable Date header is kept as text in Couch and has no place in SQL: the form's diff shows it.
        date_header: doc.get("date_header").and_then(Value::as_str).and_then(dates::parse),
        build_id: text(doc, "build_id")?,
        state,
        // Absent and null mean complete.
        initial_processing_complete: flag(doc, "initial_processing_complete")?.unwrap_or(true),
    };
    Ok(FormBundle {
        form,
        operations: operations(doc)?,
    })
}

/// `xmlns` and user of a processed form: from the form JSON.
fn from_form(doc: &Doc) -> Result<(String, Option<String>), FormFailure> {
    let form = doc.get("form").unwrap_or(&Value::Null);
    Ok((xform::root_xmlns(form), xform::extract_meta_user_id(form)?))
}

/// `xmlns` and user of an unprocessed form: from the document's own keys, the user from the form's metadata.
fn from_document(doc: &Doc) -> Result<(String, Option<String>), FormFailure> {
    let user_id = doc.get("form").and_then(xform::metadata_user_id);
    Ok((text(doc, "xmlns")?.unwrap_or_default(), user_id))
}

/// A deprecated form's date of deprecation stands in for the date of its edit. Where both are absent, the column stays
/// NULL: the time of the migration, which HQ would take, says nothing about the form.
fn edited_on(doc_type: DocType, doc: &Doc) -> Result<Option<DateTime<Utc>>, FormFailure> {
    if doc_type == DocType::XFormDeprecated
        && let Some(deprecated) = date(doc, "deprecated_date")?
    {
        return Ok(Some(deprecated));
    }
    date(doc, "edited_on")
}

fn operations(doc: &Doc) -> Result<Vec<OperationRow>, FormFailure> {
    let history = match doc.get("history") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(history)) => history,
        Some(_) => return Err(FormFailure::Unexpected("history")),
    };
    history
        .iter()
        .map(|entry| {
            let entry = entry.as_object().ok_or(FormFailure::Unexpected("history"))?;
            Ok(OperationRow {
                user_id: text(entry, "user")?,
                operation: text(entry, "operation")?
                    .map(|operation| swapped::cut(&operation))
                    .ok_or(FormFailure::Absent("operation of a history entry"))?,
                date: date(entry, "date")?.ok_or(FormFailure::Absent("date of a history entry"))?,
            })
        })
        .collect()
}

/// Truth as Python has it, for the `problem` key.
pub(crate) fn is_truthy(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::Bool(true)) => true,
    }
}

pub(crate) fn text(doc: &Doc, key: &'static str) -> Result<Option<String>, FormFailure> {
    match doc.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(FormFailure::Unexpected(key)),
    }
}

fn flag(doc: &Doc, key: &'static str) -> Result<Option<bool>, FormFailure> {
    match doc.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(FormFailure::Unexpected(key)),
    }
}

fn date(doc: &Doc, key: &'static str) -> Result<Option<DateTime<Utc>>, FormFailure> {
    match doc.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => dates::parse(text).map(Some).ok_or(FormFailure::Unexpected(key)),
        Some(_) => Err(FormFailure::Unexpected(key)),
    }
}

fn object(doc: &Doc, key: &'static str) -> Result<String, FormFailure> {
    match doc.get(key) {
        None | Some(Value::Null) => Ok("{}".to_owned()),
        Some(value @ Value::Object(_)) => Ok(pyjson::dumps(value)),
        Some(_) => Err(FormFailure::Unexpected(key)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn rows(doc_type: DocType, doc: &Value) -> Result<FormBundle, FormFailure> {
        bundle(&Domain::new("demo"), doc_type, doc.as_object().unwrap())
    }

    fn minimal() -> Value {
        json!({"_id": "f", "domain": "demo", "received_on": "2019-03-02T08:15:00.120000Z", "form": {}})
    }

    #[test]
    fn absent_and_null_processing_flags_count_as_complete() {
        let mut doc = minimal();
        assert!(
            rows(DocType::XFormInstance, &doc)
                .unwrap()
                .form
                .initial_processing_complete
        );
        doc["initial_processing_complete"] = Value::Null;
        assert!(
            rows(DocType::XFormInstance, &doc)
                .unwrap()
                .form
                .initial_processing_complete
        );
        doc["initial_processing_complete"] = json!(false);
        assert!(
            !rows(DocType::XFormInstance, &doc)
                .unwrap()
                .form
                .initial_processing_complete
        );
    }

    #[test]
    fn problem_and_orig_id_belong_to_error_types_only() {
        let mut doc = minimal();
        doc["problem"] = json!("broken");
        doc["orig_id"] = json!("o");
        let normal = rows(DocType::XFormInstance, &doc).unwrap().form;
        assert_eq!((normal.problem, normal.orig_id), (None, None));
        let error = rows(DocType::XFormError, &doc).unwrap().form;
        assert_eq!(
            (error.problem.as_deref(), error.orig_id.as_deref()),
            (Some("broken"), Some("o"))
        );
        assert_eq!(error.state, 16);
    }

    #[test]
    fn a_deprecated_form_was_edited_when_it_was_deprecated() {
        let mut doc = minimal();
        doc["edited_on"] = json!("2019-04-01T00:00:00Z");
        doc["deprecated_date"] = json!("2019-05-01T00:00:00Z");
        assert_eq!(
            rows(DocType::XFormDeprecated, &doc).unwrap().form.edited_on,
            dates::parse("2019-05-01T00:00:00Z")
        );
        assert_eq!(
            rows(DocType::XFormInstance, &doc).unwrap().form.edited_on,
            dates::parse("2019-04-01T00:00:00Z")
        );
        doc.as_object_mut().unwrap().remove("deprecated_date");
        assert_eq!(
            rows(DocType::XFormDeprecated, &doc).unwrap().form.edited_on,
            dates::parse("2019-04-01T00:00:00Z")
        );
    }

    #[test]
    fn user_and_xmlns_come_from_the_form_when_processed_and_from_the_document_otherwise() {
        let mut doc = minimal();
        doc["xmlns"] = json!("http://document");
        doc["form"] = json!({"@xmlns": "http://form", "meta": {"userID": "u1"}});
        let normal = rows(DocType::XFormInstance, &doc).unwrap().form;
        assert_eq!(
            (normal.xmlns.as_str(), normal.user_id.as_deref()),
            ("http://form", Some("u1"))
        );
        let archived = rows(DocType::XFormArchived, &doc).unwrap().form;
        assert_eq!(
            (archived.xmlns.as_str(), archived.user_id.as_deref()),
            ("http://document", Some("u1"))
        );
    }

    #[test]
    fn history_becomes_operations_and_odd_documents_are_refused() {
        let mut doc = minimal();
        doc["history"] = json!([{"doc_type": "XFormOperation", "user": "u", "date": "2019-04-01T00:00:00Z", "operation": "archive"}]);
        assert_eq!(
            rows(DocType::XFormArchived, &doc).unwrap().operations[0].operation,
            "archive"
        );
        for (key, value, code) in [
            ("history", json!("x"), "C2S-2303"),
            ("received_on", Value::Null, "C2S-2302"),
            ("received_on", json!("yesterday"), "C2S-2303"),
            ("app_id", json!(7), "C2S-2303"),
        ] {
            let mut odd = doc.clone();
            odd[key] = value;
            assert_eq!(rows(DocType::XFormArchived, &odd).unwrap_err().code(), code, "{key}");
        }
    }
}
