//! The rules themselves.

use super::Expect::{Any, EmptyObject, Missing, Null, Text, True};
use super::{Check, Expect, Group, Rule, Scope};
use crate::diff::DiffType;

const FORMS: Scope = Scope::Group(Group::Forms);
const CASES: Scope = Scope::Group(Group::Cases);
const LEDGERS: Scope = Scope::Group(Group::Ledgers);
const ATTACHMENTS: Scope = Scope::Group(Group::CaseAttachments);
const NORMAL_FORM: Scope = Scope::DocTypes(Group::Forms, &["XFormInstance"]);
const DELETED_FORM: Scope = Scope::DocTypes(Group::Forms, &["XFormInstance-Deleted"]);
const DEPRECATED_FORM: Scope = Scope::DocTypes(Group::Forms, &["XFormDeprecated"]);
const LIVE_CASE: Scope = Scope::DocTypes(Group::Cases, &["CommCareCase"]);
const DELETED_CASE: Scope = Scope::DocTypes(Group::Cases, &["CommCareCase-Deleted", "CommCareCase-Deleted-Deleted"]);
const TWICE_DELETED_CASE: Scope = Scope::DocTypes(Group::Cases, &["CommCareCase-Deleted-Deleted"]);

const DIFF: Option<DiffType> = Some(DiffType::Diff);
const TYPE: Option<DiffType> = Some(DiffType::Type);
const MISSING: Option<DiffType> = Some(DiffType::Missing);
const SET_MISMATCH: Option<DiffType> = Some(DiffType::SetMismatch);
const COMPLEX: Option<DiffType> = Some(DiffType::Complex);
const ANY_TYPE: Option<DiffType> = None;

/// A rule without a check: scope, id, kind of diff, path (an empty one is any path), both sides, reason.
const fn rule(
    scope: Scope,
    id: &'static str,
    diff_type: Option<DiffType>,
    path: &'static [&'static str],
    sides: (Expect, Expect),
    reason: &'static str,
) -> Rule {
    let path = if path.is_empty() { None } else { Some(path) };
    Rule {
        id,
        scope,
        diff_type,
        path,
        old: sides.0,
        new: sides.1,
        check: Check::None,
        reason,
    }
}

impl Rule {
    const fn when(mut self, check: Check) -> Self {
        self.check = check;
        self
    }
}

const fn renamed(scope: Scope, id: &'static str, couch: &'static str, sql: &'static str) -> Rule {
    rule(
        scope,
        id,
        ANY_TYPE,
        &[],
        (Any, Any),
        "the field has another name in SQL",
    )
    .when(Check::Renamed { couch, sql })
}

const COUCH_ONLY: &str = "kept in Couch only; SQL has no use for it";
const SQL_ONLY: &str = "SQL always shows it; Couch never had it";
const NULL_KEY: &str = "SQL shows the key with null where Couch has none";
const OLD_NULL: &str = "old documents have no value; SQL needs one";

// A rule a line, or two: broken up further, the table could not be read as one.
#[rustfmt::skip]
pub(super) const RULES: &[Rule] = &[
    // Forms of one doc type.
    renamed(NORMAL_FORM, "form-uid", "uid", "instanceID"),
    rule(DELETED_FORM, "form-deletion-id-null", MISSING, &["deletion_id"], (Missing, Null), NULL_KEY),
    renamed(DELETED_FORM, "form-deletion-id", "-deletion_id", "deletion_id"),
    renamed(DELETED_FORM, "form-deletion-date", "-deletion_date", "deleted_on"),
    renamed(DEPRECATED_FORM, "form-deprecated-date", "deprecated_date", "edited_on"),
    // All forms.
    rule(FORMS, "form-rev", ANY_TYPE, &["_rev"], (Any, Missing), "revision of the Couch document"),
    rule(FORMS, "form-migrating-blobs", ANY_TYPE, &["migrating_blobs_from_couch"], (Any, Missing), COUCH_ONLY),
    rule(FORMS, "form-export-tag", ANY_TYPE, &["#export_tag"], (Any, Missing), COUCH_ONLY),
    rule(FORMS, "form-computed", ANY_TYPE, &["computed_"], (Any, Missing), COUCH_ONLY),
    rule(FORMS, "form-state", ANY_TYPE, &["state"], (Missing, Any), SQL_ONLY),
    rule(FORMS, "form-computed-modified-on", ANY_TYPE, &["computed_modified_on_"], (Any, Missing), COUCH_ONLY),
    rule(FORMS, "form-deprecated-form-id", ANY_TYPE, &["deprecated_form_id"], (Missing, Null), NULL_KEY),
    rule(FORMS, "form-path", ANY_TYPE, &["path"], (Any, Missing), "path of the submission; SQL has no column for it"),
    rule(FORMS, "form-user-id", ANY_TYPE, &["user_id"], (Missing, Any), SQL_ONLY),
    rule(FORMS, "form-external-blobs", ANY_TYPE, &["external_blobs"], (Any, Missing), "SQL has them as blob metadata"),
    rule(FORMS, "form-openrosa-version", TYPE, &["openrosa_headers", "HTTP_X_OPENROSA_VERSION"], (Any, Any),
        "a number in one, a text in the other"),
    rule(FORMS, "form-problem-missing", ANY_TYPE, &["problem"], (Missing, Null), NULL_KEY),
    rule(FORMS, "form-problem-empty", ANY_TYPE, &["problem"], (Text(""), Null), "no problem either way"),
    rule(FORMS, "form-orig-id", ANY_TYPE, &["orig_id"], (Missing, Null), NULL_KEY),
    rule(FORMS, "form-edited-on", ANY_TYPE, &["edited_on"], (Missing, Null), NULL_KEY),
    rule(FORMS, "form-repeats", ANY_TYPE, &["repeats"], (Missing, Any), SQL_ONLY),
    rule(FORMS, "form-migrated-xmlns", ANY_TYPE, &["form_migrated_from_undefined_xmlns"], (Any, Missing),
        "mark of an earlier repair of the Couch form"),
    rule(FORMS, "form-null-key", MISSING, &[], (Null, Missing), "a key with null says no more than no key"),
    rule(FORMS, "form-history-doc-type", MISSING, &["history", "[*]", "doc_type"], (Text("XFormOperation"), Missing),
        "operations in SQL have no doc type"),
    rule(FORMS, "form-hqsubmission", DIFF, &["doc_type"], (Text("HQSubmission"), Text("XFormInstance")),
        "an old doc type that became a normal form"),
    rule(FORMS, "form-deleted-on", MISSING, &["deleted_on"], (Missing, Null), NULL_KEY),
    rule(FORMS, "form-location", MISSING, &["location_"], (Any, Missing), COUCH_ONLY),
    rule(FORMS, "form-xmlns", TYPE, &["xmlns"], (Null, Text("")), "SQL cannot hold null there"),
    rule(FORMS, "form-processing-complete", TYPE, &["initial_processing_complete"], (Null, True),
        "null counts as complete"),
    rule(FORMS, "form-backend", MISSING, &["backend_id"], (Missing, Text("sql")), SQL_ONLY),
    rule(FORMS, "form-supply-point-location", MISSING, &["location_id"], (Any, Missing),
        COUCH_ONLY).when(Check::SupplyPointForm),
    rule(FORMS, "form-attachments", MISSING, &["_attachments"], (Any, Missing), "SQL has them as blob metadata"),
    rule(FORMS, "form-server-modified-on", TYPE, &["server_modified_on"], (Null, Any), OLD_NULL),
    rule(FORMS, "form-dates", DIFF, &[], (Any, Any),
        "dates are written in another way, or set anew by a save").when(Check::DateTimes),
    rule(FORMS, "form-leading-zero", DIFF, &[], (Any, Any),
        "SQL keeps zeros that Couch dropped from a number").when(Check::LeadingZero),
    rule(FORMS, "form-xml-noise", ANY_TYPE, &[], (Any, Any),
        "text or namespace that old conversions of XML left out").when(Check::XmlNoise),
    // Cases of one doc type.
    rule(LIVE_CASE, "case-restored-deletion-id", MISSING, &["-deletion_id"], (Any, Missing), "deleted, then restored"),
    rule(LIVE_CASE, "case-restored-deletion-date", MISSING, &["-deletion_date"], (Any, Missing),
        "deleted, then restored"),
    renamed(LIVE_CASE, "case-at-user-id", "@user_id", "user_id"),
    renamed(LIVE_CASE, "case-at-date-modified", "@date_modified", "modified_on"),
    rule(DELETED_CASE, "case-deleted-doc-type", DIFF, &["doc_type"],
        (Text("CommCareCase-Deleted"), Text("CommCareCase")),
        "deleted in Couch, with forms that keep it in SQL"),
    rule(TWICE_DELETED_CASE, "case-twice-deleted-doc-type", DIFF, &["doc_type"],
        (Text("CommCareCase-Deleted-Deleted"), Text("CommCareCase-Deleted")),
        "SQL knows one way to be deleted"),
    rule(DELETED_CASE, "case-deleted-modified-on", TYPE, &["modified_on"], (Null, Any), OLD_NULL),
    rule(DELETED_CASE, "case-deleted-couch-deletion-id", MISSING, &["-deletion_id"], (Any, Missing),
        "has another name in SQL"),
    rule(DELETED_CASE, "case-deleted-old-deletion-id-null", MISSING, &["-deletion_id"], (Missing, Null), NULL_KEY),
    rule(DELETED_CASE, "case-deleted-deletion-id-null", MISSING, &["deletion_id"], (Missing, Null), NULL_KEY),
    rule(DELETED_CASE, "case-deleted-deletion-id-complex", COMPLEX, &["-deletion_id", "deletion_id"], (Missing, Null),
        NULL_KEY),
    rule(DELETED_CASE, "case-deleted-old-date-null", MISSING, &["-deletion_date"], (Missing, Null), NULL_KEY),
    rule(DELETED_CASE, "case-deleted-on", MISSING, &["deleted_on"], (Missing, Any), "Couch did not always record when"),
    renamed(DELETED_CASE, "case-deletion-id", "-deletion_id", "deletion_id"),
    renamed(DELETED_CASE, "case-deletion-date", "-deletion_date", "deleted_on"),
    // All cases.
    rule(CASES, "case-rev", ANY_TYPE, &["_rev"], (Any, Missing), "revision of the Couch document"),
    rule(CASES, "case-processing-complete", ANY_TYPE, &["initial_processing_complete"], (Any, Missing), COUCH_ONLY),
    rule(CASES, "case-actions", ANY_TYPE, &[], (Any, Any),
        "Couch records parts of forms, SQL whole forms").when(Check::Under("actions")),
    rule(CASES, "case-id-number", ANY_TYPE, &["id"], (Missing, Any), SQL_ONLY),
    rule(CASES, "case-xmlns", ANY_TYPE, &["@xmlns"], (Any, Any), "left over from legacy forms"),
    rule(CASES, "case-attachment-stubs", ANY_TYPE, &["_attachments"], (Any, Missing), COUCH_ONLY),
    rule(CASES, "case-external-blobs", ANY_TYPE, &["external_blobs"], (Any, Missing), COUCH_ONLY),
    rule(CASES, "case-hash-export-tag", ANY_TYPE, &["#export_tag"], (Any, Missing), COUCH_ONLY),
    rule(CASES, "case-computed", ANY_TYPE, &["computed_"], (Any, Missing), COUCH_ONLY),
    rule(CASES, "case-version", ANY_TYPE, &["version"], (Any, Missing), COUCH_ONLY),
    rule(CASES, "case-deleted", ANY_TYPE, &["deleted"], (Missing, Any), SQL_ONLY),
    rule(CASES, "case-export-tag", ANY_TYPE, &["export_tag"], (Any, Missing), COUCH_ONLY),
    rule(CASES, "case-computed-modified-on", ANY_TYPE, &["computed_modified_on_"], (Any, Missing), COUCH_ONLY),
    rule(CASES, "case-case-id", ANY_TYPE, &["case_id"], (Any, Any), "SQL shows it twice; legacy cases have stray ones"),
    rule(CASES, "case-at-case-id", ANY_TYPE, &["@case_id"], (Any, Any), "left over from legacy forms"),
    rule(CASES, "case-case-json", ANY_TYPE, &["case_json"], (Missing, Any), SQL_ONLY),
    rule(CASES, "case-modified-by", ANY_TYPE, &["modified_by"], (Missing, Any), "called user_id in Couch"),
    rule(CASES, "case-owner-empty", DIFF, &["owner_id"], (Text(""), Any), "an old error left cases without owner"),
    rule(CASES, "case-owner-null", TYPE, &["owner_id"], (Null, Any), "an old error left cases without owner"),
    rule(CASES, "case-user-null", TYPE, &["user_id"], (Null, Any), OLD_NULL),
    rule(CASES, "case-opened-on-null", TYPE, &["opened_on"], (Null, Any), OLD_NULL),
    rule(CASES, "case-opened-by-missing", TYPE, &["opened_by"], (Missing, Any), OLD_NULL),
    rule(CASES, "case-opened-by-archived", ANY_TYPE, &["opened_by"], (Any, Any),
        "the form that created the case was archived").when(Check::NoCreateAction),
    rule(CASES, "case-xform-ids-sql-only", SET_MISMATCH, &["xform_ids", "[*]"], (Text(""), Any),
        "SQL knows all forms that Couch knows; only when stored diffs are filtered again"),
    rule(CASES, "case-no-attachments", MISSING, &["case_attachments"], (Missing, EmptyObject), SQL_ONLY),
    rule(CASES, "case-null-key", MISSING, &[], (Null, Missing), "a key with null says no more than no key"),
    rule(CASES, "case-name-null", TYPE, &["name"], (Text(""), Null), "no name either way"),
    rule(CASES, "case-closed-by-null", TYPE, &["closed_by"], (Text(""), Null), "nobody either way"),
    rule(CASES, "case-closed-by-empty", DIFF, &["closed_by"], (Text(""), Any), "old documents name nobody"),
    rule(CASES, "case-location-id", MISSING, &["location_id"], (Missing, Null), NULL_KEY),
    rule(CASES, "case-referrals", MISSING, &["referrals"], (Any, Missing), COUCH_ONLY),
    rule(CASES, "case-location", MISSING, &["location_"], (Any, Missing), COUCH_ONLY),
    rule(CASES, "case-type-null", TYPE, &["type"], (Null, Text("")), "SQL cannot hold null there"),
    rule(CASES, "case-owner-null-empty", TYPE, &["owner_id"], (Null, Text("")),
        "the form that created the case was archived"),
    rule(CASES, "case-closed-by-missing", MISSING, &["closed_by"], (Missing, Null), NULL_KEY),
    rule(CASES, "case-external-id-null", TYPE, &["external_id"], (Text(""), Null), "no external id either way"),
    rule(CASES, "case-deleted-on-null", MISSING, &["deleted_on"], (Missing, Null), NULL_KEY),
    rule(CASES, "case-backend", MISSING, &["backend_id"], (Missing, Text("sql")), SQL_ONLY),
    rule(CASES, "case-index-case-id", ANY_TYPE, &["indices", "[*]", "case_id"], (Missing, Any), SQL_ONLY),
    rule(CASES, "case-index-doc-type", MISSING, &["indices", "[*]", "doc_type"], (Text("CommCareCaseIndex"), Missing),
        COUCH_ONLY),
    rule(CASES, "case-index-relationship", MISSING, &["indices", "[*]", "relationship"], (Missing, Text("child")),
        "the default, which old documents do not name"),
    rule(CASES, "case-action", ANY_TYPE, &["actions", "[*]"], (Any, Any),
        "Couch records parts of forms, SQL whole forms"),
    rule(CASES, "case-name-cut", DIFF, &["name"], (Any, Any), "SQL holds 255 characters").when(Check::Cut),
    rule(CASES, "case-dates", DIFF, &[], (Any, Any),
        "dates are written in another way, or set anew by a save").when(Check::DateTimes),
    rule(CASES, "case-leading-zero", DIFF, &[], (Any, Any),
        "SQL keeps zeros that Couch dropped from a number").when(Check::LeadingZero),
    renamed(CASES, "case-hq-user-id", "hq_user_id", "external_id"),
    rule(CASES, "case-xform-ids", ANY_TYPE, &["xform_ids", "[*]"], (Any, Any),
        "the order of forms does not matter").when(Check::XformIds),
    rule(CASES, "case-attachments", ANY_TYPE, &[], (Any, Any),
        "attachments are compared by rules of their own").when(Check::CaseAttachments),
    rule(CASES, "case-index-order", ANY_TYPE, &[], (Any, Any),
        "the order of indices does not matter").when(Check::IndexOrder),
    // Ledgers.
    rule(LEDGERS, "ledger-id", ANY_TYPE, &["_id"], (Any, Any), "number of a row in one, reference in the other"),
    rule(LEDGERS, "ledger-location", MISSING, &["location_id"], (Missing, Null), "no location"),
    // Attachments of a case.
    rule(ATTACHMENTS, "attachment-properties", ANY_TYPE, &["attachment_properties"], (Any, Missing), COUCH_ONLY),
    rule(ATTACHMENTS, "attachment-from", ANY_TYPE, &["attachment_from"], (Any, Missing), COUCH_ONLY),
    rule(ATTACHMENTS, "attachment-src", ANY_TYPE, &["attachment_src"], (Any, Missing), COUCH_ONLY),
    rule(ATTACHMENTS, "attachment-content-type", ANY_TYPE, &["content_type"], (Missing, Any), SQL_ONLY),
    rule(ATTACHMENTS, "attachment-doc-type", ANY_TYPE, &["doc_type"], (Any, Missing), COUCH_ONLY),
    rule(ATTACHMENTS, "attachment-server-mime", ANY_TYPE, &["server_mime"], (Any, Missing), COUCH_ONLY),
    rule(ATTACHMENTS, "attachment-name", ANY_TYPE, &["attachment_name"], (Any, Missing), COUCH_ONLY),
    rule(ATTACHMENTS, "attachment-server-md5", ANY_TYPE, &["server_md5"], (Any, Missing), COUCH_ONLY),
    renamed(ATTACHMENTS, "attachment-size", "attachment_size", "content_length"),
    renamed(ATTACHMENTS, "attachment-identifier", "identifier", "name"),
];
