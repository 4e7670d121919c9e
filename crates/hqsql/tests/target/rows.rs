//! Rows to write.

use chrono::{DateTime, TimeZone, Utc};
use proto::effects::Relationship;
use proto::rows::*;
use uuid::Uuid;

pub fn at(second: i64) -> DateTime<Utc> {
    Utc.timestamp_opt(1_500_000_000 + second, 123_456_000).unwrap()
}

pub fn form(id: &str) -> FormBundle {
    FormBundle {
        form: FormRow {
            form_id: id.to_owned(),
            domain: "clinic".to_owned(),
            app_id: Some("app".to_owned()),
            xmlns: "http://example.org/visit".to_owned(),
            user_id: Some("nurse".to_owned()),
            orig_id: None,
            deprecated_form_id: None,
            server_modified_on: Some(at(2)),
            received_on: at(1),
            edited_on: None,
            deleted_on: None,
            deletion_id: None,
            auth_context: "{}".to_owned(),
            openrosa_headers: r#"{"HTTP_X_OPENROSA_VERSION":"1.0"}"#.to_owned(),
            partial_submission: false,
            submit_ip: Some("10.0.0.1".to_owned()),
            last_sync_token: None,
            problem: None,
            date_header: Some(at(0)),
            build_id: Some("build".to_owned()),
            state: 1,
            initial_processing_complete: true,
        },
        operations: Vec::new(),
    }
}

pub fn operation(what: &str, second: i64) -> OperationRow {
    OperationRow {
        user_id: Some("admin".to_owned()),
        operation: what.to_owned(),
        date: at(second),
    }
}

pub fn index(identifier: &str, referenced: &str) -> IndexRow {
    IndexRow {
        identifier: identifier.to_owned(),
        referenced_id: referenced.to_owned(),
        referenced_type: "household".to_owned(),
        relationship: Relationship::Child,
    }
}

pub fn transaction(form_id: Option<&str>, second: i64, kind: i16) -> TransactionRow {
    TransactionRow {
        form_id: form_id.map(str::to_owned),
        sync_log_id: None,
        server_date: at(second),
        client_date: form_id.map(|_| at(second - 1)),
        kind,
        revoked: false,
        details: "{}".to_owned(),
    }
}

pub fn attachment(name: &str, number: u128) -> AttachmentRow {
    AttachmentRow {
        attachment_id: Uuid::from_u128(number),
        name: name.to_owned(),
        content_type: Some("image/jpeg".to_owned()),
        content_length: Some(1234),
        properties: "{}".to_owned(),
        blob_id: format!("key-{number}"),
        blob_bucket: Some(String::new()),
        md5: String::new(),
    }
}

pub fn ledger_value(entry: &str, balance: i32) -> LedgerValueRow {
    LedgerValueRow {
        entry_id: entry.to_owned(),
        section_id: "stock".to_owned(),
        balance,
        last_modified: at(3),
        last_modified_form_id: Some("f1".to_owned()),
    }
}

pub fn ledger_transaction(entry: &str, delta: i64) -> LedgerTransactionRow {
    LedgerTransactionRow {
        form_id: "f1".to_owned(),
        server_date: at(3),
        report_date: at(2),
        kind: 1,
        entry_id: entry.to_owned(),
        section_id: "stock".to_owned(),
        user_defined_type: None,
        delta,
        updated_balance: delta,
    }
}

/// A case with rows in every child table.
pub fn case(id: &str) -> CaseBundle {
    CaseBundle {
        case: CaseRow {
            case_id: id.to_owned(),
            domain: "clinic".to_owned(),
            case_type: "person".to_owned(),
            name: Some("Ünïcode 名前".to_owned()),
            owner_id: "owner".to_owned(),
            opened_on: Some(at(0)),
            opened_by: Some("nurse".to_owned()),
            modified_on: at(1),
            server_modified_on: at(2),
            modified_by: "nurse".to_owned(),
            closed: false,
            closed_on: None,
            closed_by: None,
            deleted: false,
            deleted_on: None,
            deletion_id: None,
            external_id: None,
            location_id: None,
            case_json: r#"{"age":"7"}"#.to_owned(),
        },
        indices: vec![index("parent", "p1"), index("host", "p2")],
        attachments: Vec::new(),
        transactions: vec![
            transaction(Some("f1"), 1, 129),
            transaction(Some("f2"), 2, 1),
            transaction(None, 3, 2),
            transaction(None, 3, 2),
        ],
        ledger_values: vec![ledger_value("aspirin", 5), ledger_value("gauze", 2)],
        ledger_transactions: vec![
            ledger_transaction("aspirin", 5),
            ledger_transaction("gauze", 2),
            ledger_transaction("gauze", 2),
        ],
    }
}

pub fn blob(parent: &str, key: &str, type_code: i16) -> BlobMetaRow {
    BlobMetaRow {
        domain: "clinic".to_owned(),
        parent_id: parent.to_owned(),
        name: if type_code == BLOB_FORM_XML {
            "form.xml".to_owned()
        } else {
            "photo.jpg".to_owned()
        },
        key: key.to_owned(),
        type_code,
        content_length: 300,
        compressed_length: None,
        content_type: Some("text/xml".to_owned()),
        properties: None,
        created_on: at(5),
    }
}

pub fn ids(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}
