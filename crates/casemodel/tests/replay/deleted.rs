//! Cases that are deleted in Couch.

use crate::forms::{at, block, form, ledger, minute, run, stock, update};
use casemodel::{CaseError, FieldProblem};
use proto::effects::{CaseEvent, LedgerKind, Relationship};
use proto::rows::{CaseRow, RejectReason, TransactionRow};
use serde_json::{Value, json};

fn staged_on() -> chrono::DateTime<chrono::Utc> {
    minute(900)
}

fn event(doc: &Value) -> CaseEvent {
    CaseEvent::CopiedDeleted {
        doc: doc.to_string(),
        staged_on: staged_on(),
    }
}

fn copied(doc: &Value) -> crate::forms::Run {
    let mut replay = run(Vec::new());
    replay.events = vec![event(doc)];
    replay
}

fn doc() -> Value {
    json!({
        "_id": "c-1", "_rev": "5-cd", "doc_type": "CommCareCase-Deleted", "domain": "demo", "type": "child",
        "name": "Mina", "owner_id": "o", "user_id": "u", "external_id": "", "version": "2.0",
        "opened_on": "2019-02-01T10:00:00.000000Z", "opened_by": "ob", "closed": true,
        "closed_on": "2019-03-01T10:00:00Z", "closed_by": "cb", "modified_on": "2019-03-02T08:10:00+00:00Z",
        "server_modified_on": "2019-03-02T08:15:01.5Z", "xform_ids": ["f-1", "f-2"],
        "-deletion_id": "d-1", "-deletion_date": "2019-04-01T00:00:00.000000Z",
        "weight": "11.5", "village": {"#text": "north", "@code": "7"}, "age": 2.50, "été": "x",
        "@xmlns": "x", "#export_tag": "x", "1st": "x", "case_id": "c-1", "referrals": [], "location_": [],
        "computed_": {}, "computed_modified_on_": null, "initial_processing_complete": true, "export_tag": "x",
        "location_id": "loc",
        "indices": [
            {"doc_type": "CommCareCaseIndex", "identifier": "parent", "referenced_type": "household", "referenced_id": "h"},
            {"identifier": "host", "referenced_type": "t", "referenced_id": "", "relationship": "extension"}],
        "case_attachments": {"photo": {"identifier": "photo", "server_mime": "image/png", "server_md5": "md5",
            "attachment_properties": {"width": 10, "height": 20}}},
        "external_blobs": {"photo": {"doc_type": "BlobMetaRef", "key": "k", "content_length": 77}},
        "actions": [
            {"action_type": "create", "xform_id": "f-1", "user_id": "a", "date": "2019-02-01T09:00:00Z",
             "server_date": "2019-02-01T10:02:00Z", "sync_log_id": "s-1"},
            {"action_type": "update", "xform_id": "f-1", "server_date": "2019-02-01T10:03:00Z"},
            {"action_type": "rebuild", "date": "2019-02-02T00:00:00Z", "server_date": "2019-02-02T00:00:00Z"},
            {"action_type": "index", "xform_id": "f-2", "server_date": "2019-02-03T00:00:00Z", "sync_log_id": null},
            {"action_type": "commtrack", "xform_id": "f-2", "server_date": "2019-02-04T00:00:00Z"},
            {"action_type": "close", "xform_id": null, "date": "2019-02-05T00:00:00Z"},
            {"action_type": "attachment", "xform_id": "f-1", "server_date": "2019-02-06T00:00:00Z"}]})
}

#[test]
fn columns_come_from_the_document() {
    let bundle = copied(&doc()).bundle();
    let expected = CaseRow {
        case_id: "c-1".to_owned(),
        domain: "demo".to_owned(),
        case_type: "child".to_owned(),
        name: Some("Mina".to_owned()),
        owner_id: "o".to_owned(),
        opened_on: Some(at("2019-02-01T10:00:00Z")),
        opened_by: Some("ob".to_owned()),
        modified_on: at("2019-03-02T08:10:00Z"),
        server_modified_on: at("2019-03-02T08:15:01.5Z"),
        modified_by: "u".to_owned(),
        closed: true,
        closed_on: Some(at("2019-03-01T10:00:00Z")),
        closed_by: Some("cb".to_owned()),
        deleted: true,
        deleted_on: Some(at("2019-04-01T00:00:00Z")),
        deletion_id: Some("d-1".to_owned()),
        external_id: Some(String::new()),
        location_id: Some("loc".to_owned()),
        case_json: r##"{"age":2.5,"village":{"#text":"north","@code":"7"},"weight":"11.5"}"##.to_owned(),
    };
    assert_eq!(bundle.case, expected);
}

#[test]
fn absent_columns_fall_back() {
    let bare = json!({"_id": "c-1", "domain": "demo", "doc_type": "CommCareCase-Deleted", "user_id": "u",
        "actions": [{"action_type": "create", "xform_id": "f", "user_id": "a", "date": "2019-02-01T09:00:00Z"}]});
    let bundle = copied(&bare).bundle();
    assert_eq!(bundle.case.case_type, "");
    assert_eq!(bundle.case.name, None);
    assert_eq!(bundle.case.owner_id, "u");
    assert_eq!(bundle.case.opened_on, Some(at("2019-02-01T09:00:00Z")));
    assert_eq!(bundle.case.opened_by.as_deref(), Some("a"));
    assert_eq!(bundle.case.modified_on, at("2019-02-01T09:00:00Z"));
    assert_eq!(bundle.case.server_modified_on, staged_on());
    assert_eq!(bundle.case.deleted_on, None);
    assert_eq!(bundle.transactions[0].server_date, at("2019-02-01T09:00:00Z"));

    let barer = json!({"_id": "c-1", "domain": "demo"});
    let bundle = copied(&barer).bundle();
    assert_eq!(
        (bundle.case.owner_id.as_str(), bundle.case.modified_by.as_str()),
        ("", "")
    );
    assert_eq!((bundle.case.opened_on, bundle.case.modified_on), (None, staged_on()));
    assert_eq!(bundle.transactions, []);
}

#[test]
fn transactions_come_from_actions() {
    let row = |form_id: Option<&str>, sync: Option<&str>, date: &str, kind, details: &str| TransactionRow {
        form_id: form_id.map(str::to_owned),
        sync_log_id: sync.map(str::to_owned),
        server_date: at(date),
        client_date: None,
        kind,
        revoked: false,
        details: details.to_owned(),
    };
    let expected = [
        row(None, None, "2019-02-02T00:00:00Z", 2, r#"{"reason":"Unknown"}"#),
        row(None, None, "2019-02-05T00:00:00Z", 256, "{}"),
        row(Some("f-1"), Some("s-1"), "2019-02-01T10:02:00Z", 1 | 128 | 1024, "{}"),
        row(Some("f-2"), None, "2019-02-03T00:00:00Z", 1 | 512, "{}"),
    ];
    assert_eq!(copied(&doc()).bundle().transactions, expected);
}

#[test]
fn indices_and_attachments_are_copied() {
    let bundle = copied(&doc()).bundle();
    let indices: Vec<_> = bundle
        .indices
        .iter()
        .map(|row| (row.identifier.as_str(), row.referenced_id.as_str(), row.relationship))
        .collect();
    assert_eq!(
        indices,
        [
            ("parent", "h", Relationship::Child),
            ("host", "", Relationship::Extension)
        ]
    );
    let [row] = bundle.attachments.as_slice() else {
        panic!("{:?}", bundle.attachments)
    };
    assert_eq!(row.name, "photo");
    assert_eq!(row.content_type.as_deref(), Some("image/png"));
    assert_eq!(row.content_length, Some(77));
    assert_eq!(row.md5, "md5");
    assert_eq!(row.properties, r#"{"width":10,"height":20}"#);
    assert_eq!((row.blob_id.as_str(), row.blob_bucket.as_deref()), ("k", Some("")));
}

/// (actions, transactions as form, type, date)
#[test]
fn odd_actions() {
    let with = |actions: Value| {
        let doc = json!({"_id": "c-1", "domain": "demo", "modified_on": "2019-03-01T00:00:00Z", "actions": actions});
        let rows = copied(&doc).bundle().transactions;
        rows.into_iter()
            .map(|row| (row.form_id, row.kind, row.server_date))
            .collect::<Vec<_>>()
    };
    let form = |id: &str| Some(id.to_owned());
    // A rebuild that names a form is exactly of type 2, whatever that form did besides.
    let rebuilt = with(json!([
        {"action_type": "create", "xform_id": "f", "server_date": "2019-02-01T00:00:00Z"},
        {"action_type": "rebuild", "xform_id": "f", "server_date": "2019-02-02T00:00:00Z"},
        {"action_type": "close", "xform_id": "f", "server_date": "2019-02-03T00:00:00Z"}]));
    assert_eq!(rebuilt, [(form("f"), 2, at("2019-02-01T00:00:00Z"))]);
    // Neither date, and an empty form id, which is none.
    let bare = with(json!([{"action_type": "update", "xform_id": ""}, {"action_type": "index"}, {}]));
    let modified_on = at("2019-03-01T00:00:00Z");
    assert_eq!(
        bare,
        [(None, 0, modified_on), (None, 512, modified_on), (None, 0, modified_on)]
    );
    // Actions of one form need not stand together.
    let apart = with(json!([
        {"action_type": "create", "xform_id": "f", "server_date": "2019-02-03T00:00:00Z"},
        {"action_type": "close", "xform_id": "g", "server_date": "2019-02-02T00:00:00Z"},
        {"action_type": "index", "xform_id": "f", "server_date": "2019-02-01T00:00:00Z"}]));
    assert_eq!(
        apart,
        [
            (form("f"), 1 | 128 | 512, at("2019-02-03T00:00:00Z")),
            (form("g"), 1 | 256, at("2019-02-02T00:00:00Z"))
        ]
    );
}

#[test]
fn a_copy_is_the_same_every_time_and_in_both_modes() {
    let mut replay = copied(&doc());
    let bundle = replay.bundle();
    assert_eq!(replay.bundle(), bundle, "with the same attachment ids");
    replay.mode = casemodel::Mode::AsRebuilt;
    assert_eq!(replay.bundle(), bundle);

    let mut unnamed = doc();
    unnamed["case_attachments"] = json!({"": {"identifier": "photo"}});
    let row = copied(&unnamed).bundle().attachments.remove(0);
    assert_eq!(row.name, "photo", "an empty key falls back to the identifier");
    assert_eq!(
        row.attachment_id, bundle.attachments[0].attachment_id,
        "of the same name and key"
    );
}

/// HQ copies deleted cases last: a form that changes only their ledgers finds no case.
#[test]
fn ledgers_of_a_copied_case_are_refused() {
    let mut replay = copied(&doc());
    replay.forms = vec![stock("f", 0, vec![ledger(LedgerKind::Balance, "3")])];
    assert_eq!(replay.rejected(), [("f".to_owned(), RejectReason::UnknownCase)]);
    let bundle = replay.replay().bundle.unwrap();
    assert_eq!(bundle, copied(&doc()).bundle());
    assert!(bundle.ledger_values.is_empty());
}

#[test]
fn a_replayed_case_is_marked_deleted() {
    let forms = vec![form("f", 0, vec![block(vec![update(&[("a", "1")])])])];
    let live = run(forms.clone()).bundle();
    let mut replay = run(forms);
    replay.events = vec![event(&doc())];
    let bundle = replay.bundle();
    let expected = CaseRow {
        deleted: true,
        deleted_on: Some(at("2019-04-01T00:00:00Z")),
        deletion_id: Some("d-1".to_owned()),
        server_modified_on: staged_on(),
        ..live.case
    };
    assert_eq!(bundle.case, expected);
    assert_eq!(bundle.transactions, live.transactions);

    replay.events = vec![event(&json!({"_id": "c-1", "domain": "demo"}))];
    let case = replay.bundle().case;
    assert_eq!((case.deleted_on, case.deletion_id), (Some(staged_on()), None));
}

#[test]
fn with_all_forms_rejected_the_document_is_copied() {
    let mut replay = copied(&doc());
    replay.forms = vec![form(
        "f",
        0,
        vec![block(vec![crate::forms::create(&[(
            proto::effects::KnownProperty::OpenedOn,
            "",
        )])])],
    )];
    let replayed = replay.replay();
    assert_eq!(replayed.rejected.len(), 1);
    assert_eq!(replayed.bundle, Some(copied(&doc()).bundle()));
}

/// Documents that cannot be copied give an error and no rows, and never a panic.
#[test]
fn malformed_documents() {
    let with = |field: &str, value: Value| {
        let mut doc = doc();
        doc[field] = value;
        doc.to_string()
    };
    let bad = |field, problem| CaseError::BadField { field, problem };
    let long = "x".repeat(256);
    for (doc, expected) in [
        ("not json".to_owned(), CaseError::NotThisCase),
        ("[]".to_owned(), CaseError::NotThisCase),
        (with("_id", json!("other")), CaseError::NotThisCase),
        (with("domain", json!("other")), CaseError::ForeignDocument),
        (with("domain", json!(null)), CaseError::ForeignDocument),
        (with("user_id", json!(5)), bad("user_id", FieldProblem::WrongType)),
        (with("user_id", json!(long)), bad("user_id", FieldProblem::TooLong)),
        (with("name", json!("a\u{0}")), bad("name", FieldProblem::Unstorable)),
        (
            with("opened_on", json!("soon")),
            bad("opened_on", FieldProblem::NotADate),
        ),
        (with("closed", json!("yes")), bad("closed", FieldProblem::WrongType)),
        (with("actions", json!({})), bad("actions", FieldProblem::WrongType)),
        (with("actions", json!([1])), bad("actions", FieldProblem::WrongType)),
        (
            with("indices", json!([{"identifier": "a"}])),
            bad("referenced_id", FieldProblem::WrongType),
        ),
        (
            with(
                "indices",
                json!([{"identifier": "a", "referenced_id": "b", "referenced_type": "c", "relationship": "aunt"}]),
            ),
            bad("relationship", FieldProblem::UnknownRelationship),
        ),
        (
            with(
                "indices",
                json!([{"identifier": "a", "referenced_id": "b", "referenced_type": "c"},
                {"identifier": "a", "referenced_id": "b", "referenced_type": "c"}]),
            ),
            CaseError::DuplicateIndex,
        ),
        (with("external_blobs", json!({})), CaseError::AttachmentWithoutBlob),
        (
            with("external_blobs", json!({"photo": {"id": "old"}})),
            CaseError::AttachmentWithoutBlob,
        ),
        (
            with(
                "external_blobs",
                json!({"photo": {"key": "k", "content_length": 3_000_000_000_u64}}),
            ),
            bad("content_length", FieldProblem::TooLong),
        ),
    ] {
        let mut replay = run(Vec::new());
        replay.events = vec![CaseEvent::CopiedDeleted {
            doc: doc.clone(),
            staged_on: staged_on(),
        }];
        let replayed = replay.replay();
        assert_eq!(replayed.errors, [expected], "{doc}");
        assert_eq!(replayed.bundle, None, "{doc}");
    }
}

#[test]
fn four_texts_are_cut() {
    let mut long = doc();
    for field in ["name", "type", "owner_id", "external_id"] {
        long[field] = json!("é".repeat(256));
    }
    let case = copied(&long).bundle().case;
    let cut = "é".repeat(255);
    assert_eq!(
        (case.name, case.case_type, case.owner_id, case.external_id),
        (Some(cut.clone()), cut.clone(), cut.clone(), Some(cut))
    );
}

#[test]
fn every_error_has_a_code_of_its_own() {
    let errors = [
        CaseError::NotThisCase,
        CaseError::ForeignDocument,
        CaseError::BadField {
            field: "name",
            problem: FieldProblem::TooLong,
        },
        CaseError::DuplicateIndex,
        CaseError::AttachmentWithoutBlob,
        CaseError::RebuildFails,
        CaseError::OrderFails,
    ];
    let codes: std::collections::BTreeSet<_> = errors.iter().map(CaseError::code).collect();
    assert_eq!(codes.len(), errors.len());
}
