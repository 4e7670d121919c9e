//! What each type of form document becomes, column by column.
#![allow(clippy::unwrap_used, reason = "tests")]

use chrono::{DateTime, Utc};
use formmodel::{FormFailure, MigratedForm, Treatment, migrate};
use proto::doctype::DocType;
use proto::ids::Domain;
use proto::rows::{FormRow, OperationRow};
use serde_json::{Value, json};

const XML: &[u8] = br#"<data xmlns="http://form"><meta><userID>u-form</userID></meta>
    <case xmlns="http://commcarehq.org/case/transaction/v2" case_id="c" date_modified="2019-03-02T08:00:00Z">
    <update><a>1</a></update></case></data>"#;

/// A document with every key that any type has.
fn document(doc_type: &str) -> Value {
    json!({
        "_id": "f-1", "_rev": "1-a", "doc_type": doc_type, "domain": "demo", "app_id": "app", "build_id": "build",
        "xmlns": "http://document", "partial_submission": true, "submit_ip": "10.0.0.9", "path": "/a/demo/receiver/",
        "last_sync_token": "sync", "received_on": "2019-03-02T08:15:00.120000Z",
        "server_modified_on": "2019-03-02T08:15:01Z", "date_header": "2019-03-02T08:14:59+00:00Z",
        "edited_on": "2019-04-01T00:00:00.000000Z", "deprecated_date": "2019-05-01T00:00:00.000000Z",
        "orig_id": "f-0", "deprecated_form_id": "f-2", "problem": null,
        "-deletion_id": "d-1", "-deletion_date": "2020-01-02T03:04:05.000006Z",
        "auth_context": {"user_id": "é", "domain": null}, "openrosa_headers": {"HTTP_X": "\u{0}"},
        "initial_processing_complete": true, "#export_tag": ["domain", "xmlns"], "computed_": {}, "location_": [],
        "history": [
            {"doc_type": "XFormOperation", "user": "u-1", "operation": "edit", "date": "2019-04-01T00:00:00Z"},
            {"doc_type": "XFormOperation", "user": null, "operation": "uuid_data_fix", "date": "2019-04-02T00:00:00.5Z"},
        ],
        "form": {"@xmlns": "http://form", "meta": {"userID": "u-json"}, "#type": "data"},
    })
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// The row of a document that has every key, of a type other than the normal one.
fn row(state: i16) -> FormRow {
    FormRow {
        form_id: "f-1".to_owned(),
        domain: "demo".to_owned(),
        app_id: Some("app".to_owned()),
        xmlns: "http://document".to_owned(),
        user_id: Some("u-json".to_owned()),
        orig_id: Some("f-0".to_owned()),
        deprecated_form_id: Some("f-2".to_owned()),
        server_modified_on: Some(time("2019-03-02T08:15:01Z")),
        received_on: time("2019-03-02T08:15:00.120Z"),
        edited_on: Some(time("2019-04-01T00:00:00Z")),
        deleted_on: Some(time("2020-01-02T03:04:05.000006Z")),
        deletion_id: Some("d-1".to_owned()),
        auth_context: r#"{"user_id":"\u00e9","domain":null}"#.to_owned(),
        openrosa_headers: r#"{"HTTP_X":"\u0000"}"#.to_owned(),
        partial_submission: true,
        submit_ip: Some("10.0.0.9".to_owned()),
        last_sync_token: Some("sync".to_owned()),
        problem: None,
        date_header: Some(time("2019-03-02T08:14:59Z")),
        build_id: Some("build".to_owned()),
        state,
        initial_processing_complete: true,
    }
}

fn run(document: &Value) -> Result<MigratedForm, FormFailure> {
    let doc_type = DocType::parse(document["doc_type"].as_str().unwrap()).unwrap();
    with_xml(doc_type, document, XML)
}

fn with_xml(doc_type: DocType, document: &Value, xml: &[u8]) -> Result<MigratedForm, FormFailure> {
    let domain = Domain::new("demo");
    migrate(&domain, doc_type, document, xml, Vec::new(), Treatment::AsItSays)
}

#[test]
fn every_type_has_its_state_and_only_normal_forms_touch_cases() {
    for (doc_type, state) in [
        ("XFormArchived", 2),
        ("XFormDuplicate", 8),
        ("XFormError", 16),
        ("SubmissionErrorLog", 32),
        ("XFormInstance-Deleted", 65),
        ("HQSubmission", 1),
    ] {
        let form = run(&document(doc_type)).unwrap();
        assert_eq!(form.bundle.form, row(state), "{doc_type}");
        assert!(form.cases.is_empty(), "{doc_type}");
    }
    let deprecated = FormRow {
        edited_on: Some(time("2019-05-01T00:00:00Z")),
        ..row(4)
    };
    assert_eq!(run(&document("XFormDeprecated")).unwrap().bundle.form, deprecated);
    let normal = run(&document("XFormInstance")).unwrap();
    let expected = FormRow {
        xmlns: "http://form".to_owned(),
        orig_id: None,
        ..row(1)
    };
    assert_eq!(normal.bundle.form, expected);
    assert_eq!(normal.cases.len(), 1);
}

#[test]
fn history_becomes_operations_in_its_order() {
    let operation = |user: Option<&str>, operation: &str, date: &str| OperationRow {
        user_id: user.map(str::to_owned),
        operation: operation.to_owned(),
        date: time(date),
    };
    assert_eq!(
        run(&document("XFormArchived")).unwrap().bundle.operations,
        [
            operation(Some("u-1"), "edit", "2019-04-01T00:00:00Z"),
            operation(None, "uuid_data_fix", "2019-04-02T00:00:00.5Z"),
        ]
    );
}

#[test]
fn a_normal_document_with_a_problem_is_an_error_form() {
    let mut doc = document("XFormInstance");
    doc["problem"] = json!("it went wrong");
    let form = run(&doc).unwrap();
    let expected = FormRow {
        problem: Some("it went wrong".to_owned()),
        ..row(16)
    };
    assert_eq!(form.bundle.form, expected);
    assert!(form.is_problem_form && form.cases.is_empty());
}

#[test]
fn a_form_that_was_never_processed_touches_no_case() {
    for (flag, processed) in [(json!(false), false), (json!(true), true), (Value::Null, true)] {
        let mut doc = document("XFormInstance");
        doc["initial_processing_complete"] = flag;
        let form = run(&doc).unwrap();
        assert_eq!(form.bundle.form.initial_processing_complete, processed);
        assert_eq!(form.cases.len(), usize::from(processed));
    }
}

#[test]
fn keys_may_be_absent_or_null() {
    let bare = json!({"_id": "f-1", "doc_type": "XFormArchived", "domain": "demo",
        "received_on": "2019-03-02T08:15:00.120Z"});
    let mut nulls = document("XFormArchived");
    for (key, value) in nulls.as_object_mut().unwrap() {
        if !matches!(key.as_str(), "_id" | "doc_type" | "domain" | "received_on") {
            *value = Value::Null;
        }
    }
    let expected = FormRow {
        app_id: None,
        xmlns: String::new(),
        user_id: None,
        orig_id: None,
        deprecated_form_id: None,
        server_modified_on: None,
        edited_on: None,
        deleted_on: None,
        deletion_id: None,
        auth_context: "{}".to_owned(),
        openrosa_headers: "{}".to_owned(),
        partial_submission: false,
        submit_ip: None,
        last_sync_token: None,
        date_header: None,
        build_id: None,
        ..row(2)
    };
    for doc in [bare, nulls] {
        let bundle = run(&doc).unwrap().bundle;
        assert_eq!(bundle.form, expected);
        assert!(bundle.operations.is_empty());
    }
}

#[test]
fn what_is_no_value_of_its_column_is_an_error_that_names_the_key() {
    for (key, value, code) in [
        ("domain", json!("other"), "C2S-2301"),
        ("received_on", Value::Null, "C2S-2302"),
        ("received_on", json!("2019-03-02"), "C2S-2303"),
        ("server_modified_on", json!(7), "C2S-2303"),
        ("edited_on", json!("yesterday"), "C2S-2303"),
        ("-deletion_date", json!("2020-13-01T00:00:00Z"), "C2S-2303"),
        ("app_id", json!(["a"]), "C2S-2303"),
        ("xmlns", json!({}), "C2S-2303"),
        ("problem", json!({"a": 1}), "C2S-2303"),
        ("auth_context", json!("text"), "C2S-2303"),
        ("openrosa_headers", json!([]), "C2S-2303"),
        ("partial_submission", json!("true"), "C2S-2303"),
        ("initial_processing_complete", json!(1), "C2S-2303"),
        ("history", json!([7]), "C2S-2303"),
        ("history", json!([{"operation": "edit"}]), "C2S-2302"),
        ("history", json!([{"date": "2019-04-01T00:00:00Z"}]), "C2S-2302"),
    ] {
        let mut doc = document("XFormError");
        doc[key] = value;
        let failure = run(&doc).unwrap_err();
        assert_eq!(failure.code(), code, "{key}");
        assert!(failure.to_string().contains(key), "{key}: {failure}");
    }
    let mut doc = document("XFormError");
    doc["date_header"] = json!("Sat, 02 Mar 2019 08:14:59 GMT");
    assert_eq!(
        run(&doc).unwrap().bundle.form.date_header,
        None,
        "raw text has no place in SQL"
    );
}

#[test]
fn broken_xml_is_fatal_to_processed_forms_only() {
    for (doc_type, is_fatal) in [
        ("XFormInstance", true),
        ("XFormArchived", false),
        ("SubmissionErrorLog", false),
        ("HQSubmission", false),
    ] {
        let parsed = DocType::parse(doc_type).unwrap();
        let migrated = with_xml(parsed, &document(doc_type), b"<data");
        assert_eq!(migrated.is_err(), is_fatal, "{doc_type}");
        if let Ok(form) = migrated {
            assert_eq!(form.body, json!({}), "{doc_type}");
        }
    }
}

#[test]
fn a_system_action_is_read_from_forms_of_any_type() {
    const ACTION: &[u8] = br#"<system xmlns="http://commcarehq.org/system/action"><name>archive_form</name>
        <args>["f-9", "u"]</args></system>"#;
    let mut doc = document("XFormArchived");
    doc["xmlns"] = json!("http://commcarehq.org/system/action");
    let form = with_xml(DocType::XFormArchived, &doc, ACTION).unwrap();
    assert_eq!(form.action.unwrap().documents, ["f-9"]);
    assert_eq!(form.bundle.form.state, 2, "its own row is that of its type");
    let failure = with_xml(DocType::XFormArchived, &doc, XML).unwrap_err();
    assert_eq!(failure.code(), "C2S-2309");
    assert!(run(&document("XFormArchived")).unwrap().action.is_none());
}
