//! Forms, and what is common to all documents.

use docdiff::{UnknownDocType, diff_form, diff_ledger, refilter_form};
use serde_json::json;

use crate::shown::{NONE, form_lines, lines};

#[test]
fn catalogue_01_form_rules_and_dates_are_dropped_and_real_diffs_stay() {
    let couch = json!({
        "doc_type": "XFormInstance", "_id": "f", "_rev": "1-a", "migrating_blobs_from_couch": true,
        "#export_tag": ["domain", "xmlns"], "computed_": {}, "computed_modified_on_": null, "path": "/a/demo/receiver/",
        "external_blobs": {}, "openrosa_headers": {"HTTP_X_OPENROSA_VERSION": 2.1}, "problem": "",
        "form_migrated_from_undefined_xmlns": "2015-01-01T00:00:00Z", "nothing": null,
        "history": [{"doc_type": "XFormOperation", "user": "u", "operation": "edit", "date": "2015-01-01T00:00:00Z"}],
        "location_": [], "xmlns": null, "initial_processing_complete": null, "_attachments": {},
        "server_modified_on": null, "received_on": "2015-01-01T00:00:00Z", "name": "old name", "extra": "x",
        "form": {"meta": {"timeStart": null}}});
    let sql = json!({
        "doc_type": "XFormInstance", "_id": "f", "state": 1, "deprecated_form_id": null, "user_id": "u",
        "openrosa_headers": {"HTTP_X_OPENROSA_VERSION": "2.1"}, "problem": null, "orig_id": null, "edited_on": null,
        "repeats": 0, "history": [{"user": "u", "operation": "edit", "date": "2015-01-01T00:00:00.000000Z"}],
        "deleted_on": null, "xmlns": "", "initial_processing_complete": true, "backend_id": "sql",
        "server_modified_on": "2020-01-01T00:00:00.000000Z", "received_on": "2015-01-01T00:00:00.000000Z",
        "name": "new name", "form": {"meta": {"timeStart": "2015-01-01T00:00:00.000000Z"}}});
    assert_eq!(
        form_lines(&couch, &sql),
        [
            r#"diff name "old name" -> "new name""#,
            r#"missing extra "x" -> -"#,
            r#"type form/meta/timeStart null -> "2015-01-01T00:00:00.000000Z""#,
        ]
    );
}

#[test]
fn catalogue_02_deprecated_date_is_edited_on() {
    let couch = json!({"doc_type": "XFormDeprecated", "deprecated_date": "2015-01-01T00:00:00.12Z"});
    let sql = json!({"doc_type": "XFormDeprecated", "edited_on": "2015-01-01T00:00:00.120000Z"});
    assert_eq!(form_lines(&couch, &sql), NONE);
}

#[test]
fn catalogue_03_another_deprecated_date_is_one_complex_diff() {
    let couch = json!({"doc_type": "XFormDeprecated", "deprecated_date": "abc"});
    let sql = json!({"doc_type": "XFormDeprecated", "edited_on": "123"});
    assert_eq!(
        form_lines(&couch, &sql),
        [r#"complex deprecated_date/edited_on "abc" -> "123""#]
    );
}

#[test]
fn catalogue_04_deletion_fields_of_a_deleted_form() {
    let couch = json!({"doc_type": "XFormInstance-Deleted", "-deletion_id": "abc", "-deletion_date": "123"});
    let sql = json!({"doc_type": "XFormInstance-Deleted", "deletion_id": "abc", "deleted_on": "123"});
    assert_eq!(form_lines(&couch, &sql), NONE);
}

#[test]
fn catalogue_05_text_and_namespace_that_couch_lacks() {
    let couch =
        json!({"doc_type": "XFormInstance", "form": {"a": {"#text": ""}, "b": {"@xmlns": ""}, "c": {}, "d": {}}});
    let sql = json!({"doc_type": "XFormInstance", "form": {
        "a": {"#text": "x"}, "b": {"@xmlns": "x"}, "c": {"#text": "x"}, "d": {"@xmlns": "x"}}});
    assert_eq!(form_lines(&couch, &sql), NONE);
    assert_eq!(form_lines(&sql, &couch).len(), 4, "not the other way round");
}

#[test]
fn catalogue_16_ledger_rules() {
    let couch = json!({"_id": "12", "balance": 1, "section_id": "stock"});
    let sql = json!({"_id": "c/stock/p", "balance": 2, "section_id": "stock", "location_id": null});
    assert_eq!(lines(&diff_ledger(&couch, &sql)), ["diff balance 1 -> 2"]);
}

#[test]
fn catalogue_28_attachment_stubs_of_a_form() {
    let couch = json!({"doc_type": "XFormInstance", "_attachments": {"form.xml": {"stub": true}}});
    assert_eq!(form_lines(&couch, &json!({"doc_type": "XFormInstance"})), NONE);
}

#[test]
fn catalogue_29_locations_of_a_supply_point_form() {
    let couch = json!({"doc_type": "XFormInstance", "xmlns": "http://commtrack.org/supply_point", "location_id": "a", "location_": ["a"]});
    let sql = json!({"doc_type": "XFormInstance", "xmlns": "http://commtrack.org/supply_point"});
    assert_eq!(form_lines(&couch, &sql), NONE);
    let other = json!({"doc_type": "XFormInstance", "location_id": "a"});
    assert_eq!(
        form_lines(&other, &json!({"doc_type": "XFormInstance"})),
        [r#"missing location_id "a" -> -"#]
    );
}

#[test]
fn catalogue_30_server_modified_on_null() {
    let couch = json!({"doc_type": "XFormInstance", "server_modified_on": null});
    let sql = json!({"doc_type": "XFormInstance", "server_modified_on": "2015-01-01T00:00:00.000000Z"});
    assert_eq!(form_lines(&couch, &sql), NONE);
}

#[test]
fn catalogue_31_leading_zeros() {
    let form = |value: &str| json!({"doc_type": "XFormInstance", "form": {"n": value}});
    assert_eq!(form_lines(&form("6.2"), &form("006.2")), NONE);
    assert_eq!(
        form_lines(&form("fab"), &form("00fab")),
        [r#"diff form/n "fab" -> "00fab""#]
    );
    assert_eq!(form_lines(&form("006.2"), &form("6.2")).len(), 1, "only SQL keeps them");
}

#[test]
fn doc_types_without_rules_are_refused() {
    for doc_type in ["SubmissionErrorLog", "CommCareCase", "XFormArchived-Deleted", ""] {
        let doc = json!({"doc_type": doc_type});
        assert_eq!(diff_form(&doc, &doc), Err(UnknownDocType(doc_type.to_owned())));
    }
    assert_eq!(diff_form(&json!({}), &json!({})), Err(UnknownDocType(String::new())));
}

/// A form that SQL lacks is compared with an empty object: all that no rule forgives is reported.
#[test]
fn a_form_that_sql_lacks() {
    let couch = json!({"doc_type": "XFormInstance", "_id": "f", "_rev": "1-a", "domain": "demo"});
    assert_eq!(
        form_lines(&couch, &json!({})),
        [
            r#"missing doc_type "XFormInstance" -> -"#,
            r#"missing _id "f" -> -"#,
            r#"missing domain "demo" -> -"#
        ]
    );
}

#[test]
fn the_type_of_the_absent_completion_mark() {
    let sql = json!({"doc_type": "XFormInstance", "initial_processing_complete": true});
    assert_eq!(
        form_lines(&json!({"doc_type": "XFormInstance"}), &sql),
        ["missing initial_processing_complete - -> true"]
    );
}

#[test]
fn stored_diffs_are_filtered_again() {
    let couch = json!({"doc_type": "XFormInstance", "_rev": "1-a", "form": {"a": 1}});
    let sql = json!({"doc_type": "XFormInstance", "form": {"a": 2}});
    let stored = docdiff::json_diff(&couch, &sql, docdiff::ListIndices::Untracked);
    assert_eq!(stored.len(), 2);
    assert_eq!(
        lines(&refilter_form(&couch, &sql, &stored).unwrap()),
        ["diff form/a 1 -> 2"]
    );
}
