//! SQL rows as JSON.

use chrono::{DateTime, Utc};
use docdiff::sqljson::{case_json, form_json};
use proto::effects::Relationship;
use proto::rows::{AttachmentRow, CaseBundle, CaseRow, FormBundle, FormRow, IndexRow, OperationRow, TransactionRow};
use serde_json::{Value, json};

fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

fn form(state: i16) -> FormBundle {
    FormBundle {
        form: FormRow {
            form_id: "f".to_owned(),
            domain: "demo".to_owned(),
            app_id: Some("app".to_owned()),
            xmlns: "x".to_owned(),
            user_id: Some("u".to_owned()),
            orig_id: None,
            deprecated_form_id: None,
            server_modified_on: Some(at("2019-03-02T08:15:01Z")),
            received_on: at("2019-03-02T08:15:00.12Z"),
            edited_on: None,
            deleted_on: Some(at("2019-04-01T00:00:00Z")),
            deletion_id: Some("d".to_owned()),
            auth_context: r#"{"doc_type":"AuthContext"}"#.to_owned(),
            openrosa_headers: "{}".to_owned(),
            partial_submission: false,
            submit_ip: Some("10.0.0.9".to_owned()),
            last_sync_token: None,
            problem: None,
            date_header: None,
            build_id: None,
            state,
            initial_processing_complete: true,
        },
        operations: vec![OperationRow {
            user_id: None,
            operation: "archive".to_owned(),
            date: at("2019-03-03T00:00:00Z"),
        }],
    }
}

#[test]
fn a_form() {
    let expected = json!({
        "_id": "f", "doc_type": "XFormInstance", "domain": "demo", "app_id": "app", "xmlns": "x", "user_id": "u",
        "orig_id": null, "deprecated_form_id": null, "server_modified_on": "2019-03-02T08:15:01.000000Z",
        "received_on": "2019-03-02T08:15:00.120000Z", "edited_on": null, "auth_context": {"doc_type": "AuthContext"},
        "openrosa_headers": {}, "partial_submission": false, "submit_ip": "10.0.0.9", "last_sync_token": null,
        "problem": null, "date_header": null, "build_id": null, "state": 1, "initial_processing_complete": true,
        "form": {"a": "1"},
        "history": [{"user": null, "operation": "archive", "date": "2019-03-03T00:00:00.000000Z"}],
        "backend_id": "sql"});
    assert_eq!(form_json(&form(1), &json!({"a": "1"})), expected);
}

#[test]
fn doc_types_of_forms() {
    for (state, doc_type) in [
        (1, "XFormInstance"),
        (2, "XFormArchived"),
        (4, "XFormDeprecated"),
        (8, "XFormDuplicate"),
        (16, "XFormError"),
        (32, "SubmissionErrorLog"),
        (65, "XFormInstance-Deleted"),
        (66, "XFormInstance-Deleted"),
        (3, "XFormInstance"),
    ] {
        let json = form_json(&form(state), &json!({}));
        assert_eq!(json["doc_type"], doc_type, "{state}");
        let deletion = (json.get("deleted_on").is_some(), json.get("deletion_id").is_some());
        let deleted = state & 64 != 0;
        assert_eq!(deletion, (deleted, deleted), "{state}");
    }
}

fn transaction(form_id: Option<&str>, minute: u32, kind: i16) -> TransactionRow {
    TransactionRow {
        form_id: form_id.map(str::to_owned),
        sync_log_id: None,
        server_date: at(&format!("2019-03-02T08:{minute:02}:00Z")),
        client_date: None,
        kind,
        revoked: false,
        details: "{}".to_owned(),
    }
}

fn case() -> CaseBundle {
    CaseBundle {
        case: CaseRow {
            case_id: "c".to_owned(),
            domain: "demo".to_owned(),
            case_type: "child".to_owned(),
            name: Some("Mina".to_owned()),
            owner_id: "o".to_owned(),
            opened_on: Some(at("2019-02-01T10:00:00Z")),
            opened_by: Some("u".to_owned()),
            modified_on: at("2019-03-02T08:10:00Z"),
            server_modified_on: at("2019-03-02T08:15:00.000001Z"),
            modified_by: "m".to_owned(),
            closed: false,
            closed_on: None,
            closed_by: None,
            deleted: false,
            deleted_on: None,
            deletion_id: None,
            external_id: None,
            location_id: None,
            case_json: r#"{"weight":"11.5","name":"a property","backend_id":"x","id":"y"}"#.to_owned(),
        },
        indices: vec![IndexRow {
            identifier: "parent".to_owned(),
            referenced_id: "h".to_owned(),
            referenced_type: "household".to_owned(),
            relationship: Relationship::Extension,
        }],
        attachments: vec![AttachmentRow {
            attachment_id: "6ba7b812-9dad-11d1-80b4-00c04fd430c8".parse().unwrap(),
            name: "photo".to_owned(),
            content_type: Some("image/jpeg".to_owned()),
            content_length: Some(7),
            properties: "{}".to_owned(),
            blob_id: "k".to_owned(),
            blob_bucket: Some(String::new()),
            md5: String::new(),
        }],
        transactions: vec![
            TransactionRow {
                client_date: Some(at("2019-03-02T08:00:00Z")),
                sync_log_id: Some("s".to_owned()),
                ..transaction(Some("second"), 20, 1)
            },
            transaction(Some("first"), 10, 129),
            TransactionRow {
                revoked: true,
                ..transaction(Some("revoked"), 11, 1)
            },
            transaction(None, 30, 2),
        ],
        ledger_values: Vec::new(),
        ledger_transactions: Vec::new(),
    }
}

#[test]
fn a_case() {
    let action = |form: Value, minute: &str, date: &str, sync: Value| {
        json!({
            "xform_id": form,
            "server_date": format!("2019-03-02T08:{minute}:00.000000Z"),
            "date": format!("2019-03-02T08:{date}:00.000000Z"),
            "sync_log_id": sync})
    };
    let expected = json!({
        "_id": "c", "case_id": "c", "doc_type": "CommCareCase", "user_id": "m", "domain": "demo", "type": "child",
        "name": "Mina", "owner_id": "o", "opened_on": "2019-02-01T10:00:00.000000Z", "opened_by": "u",
        "modified_on": "2019-03-02T08:10:00.000000Z", "server_modified_on": "2019-03-02T08:15:00.000001Z",
        "modified_by": "m", "closed": false, "closed_on": null, "closed_by": null, "deleted": false,
        "external_id": null, "location_id": null,
        "indices": [{"case_id": "c", "identifier": "parent", "referenced_id": "h", "referenced_type": "household",
            "relationship": "extension"}],
        "actions": [
            action(json!("first"), "10", "10", json!(null)),
            action(json!("second"), "20", "00", json!("s")),
            action(json!(null), "30", "30", json!(null))],
        "xform_ids": ["first", "second"],
        "case_attachments": {"photo": {"content_type": "image/jpeg", "content_length": 7, "name": "photo"}},
        "backend_id": "sql", "weight": "11.5", "id": "y"});
    assert_eq!(case_json(&case()), expected);
}

#[test]
fn a_deleted_case() {
    let mut bundle = case();
    bundle.case.deleted = true;
    bundle.case.deleted_on = Some(at("2019-04-01T00:00:00Z"));
    let json = case_json(&bundle);
    assert_eq!(json["doc_type"], "CommCareCase-Deleted");
    assert_eq!(json["deleted_on"], "2019-04-01T00:00:00.000000Z");
    assert_eq!(json["deletion_id"], Value::Null);
    assert!(json.get("deletion_id").is_some());
}
