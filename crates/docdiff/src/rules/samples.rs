//! For every rule a difference that it alone drops.

use serde_json::{Value, json};

/// What a rule is shown.
pub(super) enum Sample {
    /// Fields of a Couch document and of its SQL document. They have the same doc type, unless they say otherwise.
    Documents(Value, Value),
    /// A stored diff, which only a second filtering can meet; and fields of the Couch document.
    Stored(Value, Value),
}

use Sample::{Documents, Stored};

pub(super) struct Shown {
    pub(super) id: &'static str,
    pub(super) doc_type: &'static str,
    pub(super) sample: Sample,
    /// Rules that drop the sample too.
    pub(super) shadowed_by: &'static [&'static str],
}

pub(super) const DATE: &str = "2019-03-02T08:15:00.120000Z";
pub(super) const OTHER_DATE: &str = "2019-03-02T08:15:01Z";

pub(super) fn form(id: &'static str, couch: Value, sql: Value) -> Shown {
    Shown {
        id,
        doc_type: "XFormInstance",
        sample: Documents(couch, sql),
        shadowed_by: &[],
    }
}

pub(super) fn case(id: &'static str, couch: Value, sql: Value) -> Shown {
    Shown {
        id,
        doc_type: "CommCareCase",
        sample: Documents(couch, sql),
        shadowed_by: &[],
    }
}

fn ledger(id: &'static str, couch: Value, sql: Value) -> Shown {
    Shown {
        id,
        doc_type: "stock state",
        sample: Documents(couch, sql),
        shadowed_by: &[],
    }
}

#[allow(clippy::needless_pass_by_value, reason = "as the other samples")]
fn attachment(id: &'static str, couch: Value, sql: Value) -> Shown {
    case(
        id,
        json!({"case_attachments": {"xyz": couch}}),
        json!({"case_attachments": {"xyz": sql}}),
    )
}

impl Shown {
    pub(super) fn of(self, doc_type: &'static str) -> Self {
        Self { doc_type, ..self }
    }

    fn shadowed_by(self, shadowed_by: &'static [&'static str]) -> Self {
        Self { shadowed_by, ..self }
    }
}

fn form_samples() -> Vec<Shown> {
    vec![
        form("form-uid", json!({"uid": "a"}), json!({"instanceID": "a"})),
        form("form-deletion-id-null", json!({}), json!({"deletion_id": null})).of("XFormInstance-Deleted"),
        form(
            "form-deletion-id",
            json!({"-deletion_id": "a"}),
            json!({"deletion_id": "a"}),
        )
        .of("XFormInstance-Deleted"),
        form(
            "form-deletion-date",
            json!({"-deletion_date": DATE}),
            json!({"deleted_on": OTHER_DATE}),
        )
        .of("XFormInstance-Deleted"),
        form(
            "form-deprecated-date",
            json!({"deprecated_date": DATE}),
            json!({"edited_on": DATE}),
        )
        .of("XFormDeprecated"),
        form("form-rev", json!({"_rev": "1-a"}), json!({})),
        form(
            "form-migrating-blobs",
            json!({"migrating_blobs_from_couch": true}),
            json!({}),
        ),
        form(
            "form-export-tag",
            json!({"#export_tag": ["domain", "xmlns"]}),
            json!({}),
        ),
        form("form-computed", json!({"computed_": {}}), json!({})),
        form("form-state", json!({}), json!({"state": 1})),
        form(
            "form-computed-modified-on",
            json!({"computed_modified_on_": DATE}),
            json!({}),
        ),
        form(
            "form-deprecated-form-id",
            json!({}),
            json!({"deprecated_form_id": null}),
        ),
        form("form-path", json!({"path": "/a/demo/receiver/"}), json!({})),
        form("form-user-id", json!({}), json!({"user_id": "u"})),
        form("form-external-blobs", json!({"external_blobs": {}}), json!({})),
        form(
            "form-openrosa-version",
            json!({"openrosa_headers": {"HTTP_X_OPENROSA_VERSION": 2.1}}),
            json!({"openrosa_headers": {"HTTP_X_OPENROSA_VERSION": "2.1"}}),
        ),
        form("form-problem-missing", json!({}), json!({"problem": null})),
        form("form-problem-empty", json!({"problem": ""}), json!({"problem": null})),
        form("form-orig-id", json!({}), json!({"orig_id": null})),
        form("form-edited-on", json!({}), json!({"edited_on": null})),
        form("form-repeats", json!({}), json!({"repeats": 1})),
        form(
            "form-migrated-xmlns",
            json!({"form_migrated_from_undefined_xmlns": DATE}),
            json!({}),
        ),
        form("form-null-key", json!({"anything": null}), json!({})),
        form(
            "form-history-doc-type",
            json!({"history": [{"doc_type": "XFormOperation"}]}),
            json!({"history": [{}]}),
        ),
        form(
            "form-hqsubmission",
            json!({"doc_type": "HQSubmission"}),
            json!({"doc_type": "XFormInstance"}),
        ),
        form("form-deleted-on", json!({}), json!({"deleted_on": null})),
        form("form-location", json!({"location_": ["a"]}), json!({})),
        form("form-xmlns", json!({"xmlns": null}), json!({"xmlns": ""})),
        form(
            "form-processing-complete",
            json!({"initial_processing_complete": null}),
            json!({"initial_processing_complete": true}),
        ),
        form("form-backend", json!({}), json!({"backend_id": "sql"})),
        form(
            "form-supply-point-location",
            json!({"xmlns": "http://commtrack.org/supply_point", "location_id": "a"}),
            json!({"xmlns": "http://commtrack.org/supply_point"}),
        ),
        form("form-attachments", json!({"_attachments": {"form.xml": {}}}), json!({})),
        form(
            "form-server-modified-on",
            json!({"server_modified_on": null}),
            json!({"server_modified_on": DATE}),
        ),
        form(
            "form-dates",
            json!({"form": {"when": DATE}}),
            json!({"form": {"when": OTHER_DATE}}),
        ),
        form(
            "form-leading-zero",
            json!({"form": {"n": "6.2"}}),
            json!({"form": {"n": "006.2"}}),
        ),
        form(
            "form-xml-noise",
            json!({"form": {"a": {"#text": ""}}}),
            json!({"form": {"a": {"@xmlns": "x"}}}),
        ),
    ]
}

fn doc_type_samples() -> Vec<Shown> {
    let stored = |id, diff| Shown {
        id,
        doc_type: "CommCareCase-Deleted",
        sample: Stored(diff, json!({})),
        shadowed_by: &[],
    };
    let deleted = |id, couch, sql| case(id, couch, sql).of("CommCareCase-Deleted");
    vec![
        case("case-restored-deletion-id", json!({"-deletion_id": "a"}), json!({})),
        case(
            "case-restored-deletion-date",
            json!({"-deletion_date": DATE}),
            json!({}),
        ),
        case("case-at-user-id", json!({"@user_id": "u"}), json!({"user_id": "u"})),
        case(
            "case-at-date-modified",
            json!({"@date_modified": DATE}),
            json!({"modified_on": OTHER_DATE}),
        ),
        deleted(
            "case-deleted-doc-type",
            json!({"doc_type": "CommCareCase-Deleted"}),
            json!({"doc_type": "CommCareCase"}),
        ),
        deleted(
            "case-twice-deleted-doc-type",
            json!({"doc_type": "CommCareCase-Deleted-Deleted"}),
            json!({"doc_type": "CommCareCase-Deleted"}),
        ),
        deleted(
            "case-deleted-modified-on",
            json!({"modified_on": null}),
            json!({"modified_on": DATE}),
        ),
        deleted(
            "case-deleted-couch-deletion-id",
            json!({"-deletion_id": "a"}),
            json!({}),
        ),
        deleted(
            "case-deleted-old-deletion-id-null",
            json!({}),
            json!({"-deletion_id": null}),
        ),
        deleted("case-deleted-deletion-id-null", json!({}), json!({"deletion_id": null})),
        stored(
            "case-deleted-deletion-id-complex",
            json!({"type": "complex", "path": ["-deletion_id", "deletion_id"], "new_value": null}),
        ),
        deleted("case-deleted-old-date-null", json!({}), json!({"-deletion_date": null})),
        deleted("case-deleted-on", json!({}), json!({"deleted_on": DATE})),
        deleted(
            "case-deletion-id",
            json!({"-deletion_id": "a"}),
            json!({"deletion_id": "a"}),
        ),
        deleted(
            "case-deletion-date",
            json!({"-deletion_date": DATE}),
            json!({"deleted_on": DATE}),
        ),
    ]
}

fn case_samples() -> Vec<Shown> {
    let create = || json!([{"action_type": "create"}]);
    let stored = |id, diff, couch| Shown {
        id,
        doc_type: "CommCareCase",
        sample: Stored(diff, couch),
        shadowed_by: &[],
    };
    let index = |fields: Value| json!({"indices": [fields]});
    vec![
        case("case-rev", json!({"_rev": "1-a"}), json!({})),
        case(
            "case-processing-complete",
            json!({"initial_processing_complete": true}),
            json!({}),
        ),
        case(
            "case-actions",
            json!({"actions": [{"date": 1}]}),
            json!({"actions": [{"date": 2}]}),
        ),
        case("case-id-number", json!({}), json!({"id": 7})),
        case("case-xmlns", json!({"@xmlns": "a"}), json!({"@xmlns": "b"})),
        case("case-attachment-stubs", json!({"_attachments": {}}), json!({})),
        case("case-external-blobs", json!({"external_blobs": {}}), json!({})),
        case("case-hash-export-tag", json!({"#export_tag": "a"}), json!({})),
        case("case-computed", json!({"computed_": {}}), json!({})),
        case("case-version", json!({"version": "2.0"}), json!({})),
        case("case-deleted", json!({}), json!({"deleted": false})),
        case("case-export-tag", json!({"export_tag": "a"}), json!({})),
        case(
            "case-computed-modified-on",
            json!({"computed_modified_on_": DATE}),
            json!({}),
        ),
        case("case-case-id", json!({"case_id": "a"}), json!({"case_id": "b"})),
        case("case-at-case-id", json!({"@case_id": "a"}), json!({})),
        case("case-case-json", json!({}), json!({"case_json": {}})),
        case("case-modified-by", json!({}), json!({"modified_by": "u"})),
        case("case-owner-empty", json!({"owner_id": ""}), json!({"owner_id": "o"})),
        case("case-owner-null", json!({"owner_id": null}), json!({"owner_id": "o"})),
        case("case-user-null", json!({"user_id": null}), json!({"user_id": "u"})),
        case(
            "case-opened-on-null",
            json!({"opened_on": null}),
            json!({"opened_on": DATE}),
        ),
        stored(
            "case-opened-by-missing",
            json!({"type": "type", "path": ["opened_by"], "new_value": "u"}),
            json!({"actions": create()}),
        ),
        case(
            "case-opened-by-archived",
            json!({"opened_by": "a", "actions": []}),
            json!({"opened_by": "b"}),
        ),
        stored(
            "case-xform-ids-sql-only",
            json!({"type": "set_mismatch", "path": ["xform_ids", "[*]"], "old_value": "", "new_value": "f"}),
            json!({}),
        )
        // The documents are compared anew for a stored diff of xform_ids, and have none here.
        .shadowed_by(&["case-xform-ids"]),
        case("case-no-attachments", json!({}), json!({"case_attachments": {}})).shadowed_by(&["case-attachments"]),
        case("case-null-key", json!({"anything": null}), json!({})),
        case("case-name-null", json!({"name": ""}), json!({"name": null})),
        case(
            "case-closed-by-null",
            json!({"closed_by": ""}),
            json!({"closed_by": null}),
        ),
        case(
            "case-closed-by-empty",
            json!({"closed_by": ""}),
            json!({"closed_by": "u"}),
        ),
        case("case-location-id", json!({}), json!({"location_id": null})),
        case("case-referrals", json!({"referrals": []}), json!({})),
        case("case-location", json!({"location_": []}), json!({})),
        case("case-type-null", json!({"type": null}), json!({"type": ""})),
        case(
            "case-owner-null-empty",
            json!({"owner_id": null}),
            json!({"owner_id": ""}),
        )
        .shadowed_by(&["case-owner-null"]),
        case("case-closed-by-missing", json!({}), json!({"closed_by": null})),
        case(
            "case-external-id-null",
            json!({"external_id": ""}),
            json!({"external_id": null}),
        ),
        case("case-deleted-on-null", json!({}), json!({"deleted_on": null})),
        case("case-backend", json!({}), json!({"backend_id": "sql"})),
        case("case-index-case-id", index(json!({})), index(json!({"case_id": "c"}))),
        case(
            "case-index-doc-type",
            index(json!({"doc_type": "CommCareCaseIndex"})),
            index(json!({})),
        ),
        case(
            "case-index-relationship",
            index(json!({})),
            index(json!({"relationship": "child"})),
        ),
        case("case-action", json!({"actions": [{}]}), json!({"actions": []})).shadowed_by(&["case-actions"]),
        case(
            "case-name-cut",
            json!({"name": "é".repeat(256)}),
            json!({"name": "é".repeat(255)}),
        ),
        case("case-dates", json!({"when": DATE}), json!({"when": OTHER_DATE})),
        case("case-leading-zero", json!({"n": "6.2"}), json!({"n": "006.2"})),
        case(
            "case-hq-user-id",
            json!({"hq_user_id": "u"}),
            json!({"external_id": "u"}),
        ),
        case(
            "case-xform-ids",
            json!({"xform_ids": ["a", "b"]}),
            json!({"xform_ids": ["b", "a"]}),
        ),
        attachment("case-attachments", json!({"doc_type": "x"}), json!({})),
        case(
            "case-index-order",
            json!({"indices": [{"identifier": "a"}, {"identifier": "b"}]}),
            json!({"indices": [{"identifier": "b"}, {"identifier": "a"}]}),
        ),
    ]
}

fn other_samples() -> Vec<Shown> {
    vec![
        ledger("ledger-id", json!({"_id": "12"}), json!({"_id": "c/stock/p"})),
        ledger("ledger-location", json!({}), json!({"location_id": null})),
        attachment("attachment-properties", json!({"attachment_properties": {}}), json!({})),
        attachment("attachment-from", json!({"attachment_from": "local"}), json!({})),
        attachment("attachment-src", json!({"attachment_src": "1.jpg"}), json!({})),
        attachment(
            "attachment-content-type",
            json!({}),
            json!({"content_type": "image/jpeg"}),
        ),
        attachment(
            "attachment-doc-type",
            json!({"doc_type": "CommCareCaseAttachment"}),
            json!({}),
        ),
        attachment(
            "attachment-server-mime",
            json!({"server_mime": "image/jpeg"}),
            json!({}),
        ),
        attachment("attachment-name", json!({"attachment_name": "photo"}), json!({})),
        attachment("attachment-server-md5", json!({"server_md5": "a"}), json!({})),
        attachment(
            "attachment-size",
            json!({"attachment_size": 7}),
            json!({"content_length": 7}),
        ),
        attachment(
            "attachment-identifier",
            json!({"identifier": "xyz"}),
            json!({"name": "xyz"}),
        ),
    ]
}

/// A sample for every rule.
pub(super) fn samples() -> Vec<Shown> {
    [form_samples(), doc_type_samples(), case_samples(), other_samples()]
        .into_iter()
        .flatten()
        .collect()
}
