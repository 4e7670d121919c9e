//! SQL documents as the JSON that HQ makes of them, which is what Couch documents are compared with.
//!
//! Dates have six digits of a fraction and a `Z`. Keys are always there unless said otherwise.

use chrono::{DateTime, Datelike, Timelike, Utc};
use proto::doctype::DocType;
use proto::rows::{CaseBundle, FormBundle, TransactionRow};
use serde_json::{Map, Value, json};

/// Bit of a form's state: soft-deleted, whatever it was before.
const DELETED: i16 = 64;
/// Bit of a transaction's type: a form touched the case.
const FORM_TRANSACTION: i16 = 1;

/// The form; `form_body` is what its XML says. `deleted_on` and `deletion_id` are there only when it is deleted.
pub fn form_json(bundle: &FormBundle, form_body: &Value) -> Value {
    let form = &bundle.form;
    let history: Vec<Value> = bundle
        .operations
        .iter()
        .map(|row| json!({"user": row.user_id, "operation": row.operation, "date": date(row.date)}))
        .collect();
    let mut out = Map::with_capacity(27);
    let mut put = |key: &str, value: Value| {
        out.insert(key.to_owned(), value);
    };
    put("_id", text(&form.form_id));
    put("doc_type", text(form_doc_type(form.state)));
    put("domain", text(&form.domain));
    put("app_id", nullable(form.app_id.as_deref()));
    put("xmlns", text(&form.xmlns));
    put("user_id", nullable(form.user_id.as_deref()));
    put("orig_id", nullable(form.orig_id.as_deref()));
    put("deprecated_form_id", nullable(form.deprecated_form_id.as_deref()));
    put("server_modified_on", nullable_date(form.server_modified_on));
    put("received_on", date(form.received_on));
    put("edited_on", nullable_date(form.edited_on));
    if form.state & DELETED != 0 {
        put("deleted_on", nullable_date(form.deleted_on));
        put("deletion_id", nullable(form.deletion_id.as_deref()));
    }
    put("auth_context", stored_json(&form.auth_context));
    put("openrosa_headers", stored_json(&form.openrosa_headers));
    put("partial_submission", Value::Bool(form.partial_submission));
    put("submit_ip", nullable(form.submit_ip.as_deref()));
    put("last_sync_token", nullable(form.last_sync_token.as_deref()));
    put("problem", nullable(form.problem.as_deref()));
    put("date_header", nullable_date(form.date_header));
    put("build_id", nullable(form.build_id.as_deref()));
    put("state", Value::from(form.state));
    put(
        "initial_processing_complete",
        Value::Bool(form.initial_processing_complete),
    );
    put("form", form_body.clone());
    put("history", Value::Array(history));
    put("backend_id", text("sql"));
    Value::Object(out)
}

/// The case, with its dynamic properties beside its fixed keys; a fixed key wins over a property of that name.
/// `deleted_on` and `deletion_id` are there only when it is deleted.
pub fn case_json(bundle: &CaseBundle) -> Value {
    let case = &bundle.case;
    let properties = match serde_json::from_str(&case.case_json) {
        Ok(Value::Object(properties)) => properties,
        // Nobody writes anything else; if it happens, the properties are missing and every one of them is a diff.
        _ => Map::new(),
    };
    let mut out = Map::with_capacity(26 + properties.len());
    let mut put = |key: &str, value: Value| {
        out.insert(key.to_owned(), value);
    };
    put("_id", text(&case.case_id));
    put("case_id", text(&case.case_id));
    put(
        "doc_type",
        text(if case.deleted {
            "CommCareCase-Deleted"
        } else {
            "CommCareCase"
        }),
    );
    put("user_id", text(&case.modified_by));
    put("domain", text(&case.domain));
    put("type", text(&case.case_type));
    put("name", nullable(case.name.as_deref()));
    put("owner_id", text(&case.owner_id));
    put("opened_on", nullable_date(case.opened_on));
    put("opened_by", nullable(case.opened_by.as_deref()));
    put("modified_on", date(case.modified_on));
    put("server_modified_on", date(case.server_modified_on));
    put("modified_by", text(&case.modified_by));
    put("closed", Value::Bool(case.closed));
    put("closed_on", nullable_date(case.closed_on));
    put("closed_by", nullable(case.closed_by.as_deref()));
    put("deleted", Value::Bool(case.deleted));
    put("external_id", nullable(case.external_id.as_deref()));
    put("location_id", nullable(case.location_id.as_deref()));
    if case.deleted {
        put("deleted_on", nullable_date(case.deleted_on));
        put("deletion_id", nullable(case.deletion_id.as_deref()));
    }
    put("indices", indices(bundle));
    let transactions = live_transactions(bundle);
    put("actions", transactions.iter().map(|row| action(row)).collect());
    let of_form = transactions.iter().filter(|row| row.kind & FORM_TRANSACTION != 0);
    put(
        "xform_ids",
        of_form.map(|row| nullable(row.form_id.as_deref())).collect(),
    );
    put("case_attachments", attachments(bundle));
    put("backend_id", text("sql"));
    for (key, value) in properties {
        out.entry(key).or_insert(value);
    }
    Value::Object(out)
}

fn indices(bundle: &CaseBundle) -> Value {
    let index = |row: &proto::rows::IndexRow| {
        json!({
            "case_id": bundle.case.case_id,
            "identifier": row.identifier,
            "referenced_id": row.referenced_id,
            "referenced_type": row.referenced_type,
            "relationship": row.relationship.as_str(),
        })
    };
    bundle.indices.iter().map(index).collect()
}

fn attachments(bundle: &CaseBundle) -> Value {
    let attachments = bundle.attachments.iter().map(|row| {
        let attachment = json!({
            "content_type": row.content_type,
            "content_length": row.content_length,
            "name": row.name,
        });
        (row.name.clone(), attachment)
    });
    Value::Object(attachments.collect())
}

/// Transactions that count, by server date; those of one date stay in the bundle's order.
fn live_transactions(bundle: &CaseBundle) -> Vec<&TransactionRow> {
    let mut rows: Vec<&TransactionRow> = bundle.transactions.iter().filter(|row| !row.revoked).collect();
    rows.sort_by_key(|row| row.server_date);
    rows
}

fn action(row: &TransactionRow) -> Value {
    json!({
        "xform_id": row.form_id,
        "server_date": date(row.server_date),
        "date": date(row.client_date.unwrap_or(row.server_date)),
        "sync_log_id": row.sync_log_id,
    })
}

/// The doc type that HQ shows for a state: any deleted form is a deleted normal form, an unknown state is normal.
/// The doc type that HQ shows for a form with this `state`.
pub fn form_doc_type(state: i16) -> &'static str {
    if state & DELETED != 0 {
        return DocType::XFormInstanceDeleted.as_str();
    }
    let doc_type = DocType::FORMS
        .into_iter()
        .find(|doc_type| doc_type.form_state() == Some(state));
    doc_type.unwrap_or(DocType::XFormInstance).as_str()
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn nullable(column: Option<&str>) -> Value {
    column.map_or(Value::Null, text)
}

pub(crate) fn date(date: DateTime<Utc>) -> Value {
    Value::String(format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        date.year(),
        date.month(),
        date.day(),
        date.hour(),
        date.minute(),
        date.second(),
        date.timestamp_subsec_micros(),
    ))
}

fn nullable_date(column: Option<DateTime<Utc>>) -> Value {
    column.map_or(Value::Null, date)
}

/// JSON text of a column. Text that is no JSON shows as null, and so as a diff.
fn stored_json(column: &str) -> Value {
    serde_json::from_str(column).unwrap_or(Value::Null)
}
