//! Which differences mean nothing: the table of CommCare HQ's migrator, written down here a second time.
//!
//! The diff under test has its own table. This one shares nothing with it, so that a rule that is missing, or too wide, on
//! either side shows as a finding that was missed or that nobody expected.

use std::sync::LazyLock;

use serde_json::Value;

use super::oracle::Raw;

/// A rule that needs no look at the documents.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    scope: &'static str,
    kind: Option<&'static str>,
    path: Option<Vec<&'static str>>,
    old: Expected,
    new: Expected,
    /// The rule as one line.
    pub(super) name: String,
}

#[derive(Clone, Debug)]
enum Expected {
    Any,
    Missing,
    Value(Value),
}

impl Expected {
    fn parse(text: &'static str) -> Self {
        match text {
            "-" => Self::Any,
            "M" => Self::Missing,
            json => Self::Value(serde_json::from_str(json).unwrap_or(Value::Null)),
        }
    }

    fn fits(&self, side: Option<&Value>) -> bool {
        match self {
            Self::Any => true,
            Self::Missing => side.is_none(),
            Self::Value(value) => side == Some(value),
        }
    }
}

impl Rule {
    fn parse(line: &'static str) -> Self {
        let mut words = line.split_whitespace();
        let mut word = || words.next().unwrap_or("-");
        let (scope, kind, path, old, new) = (word(), word(), word(), word(), word());
        Self {
            scope,
            kind: (kind != "-").then_some(kind),
            path: (path != "-").then(|| path.split('/').collect()),
            old: Expected::parse(old),
            new: Expected::parse(new),
            name: format!("{scope} {kind} {path} {old} {new}"),
        }
    }

    fn fits(&self, doc_type: &str, group: &str, raw: &Raw) -> bool {
        (self.scope == doc_type || self.scope == group)
            && self.kind.is_none_or(|kind| kind == raw.kind)
            && self.path.as_ref().is_none_or(|path| raw.is_at(path))
            && self.old.fits(raw.old.as_ref())
            && self.new.fits(raw.new.as_ref())
    }
}

/// The first rule that drops a difference; those that name its path come first.
pub(super) fn plain(doc_type: &str, group: &str, raw: &Raw) -> Option<&'static Rule> {
    // What is deleted twice is treated as what is deleted once.
    let doc_type = if doc_type == "CommCareCase-Deleted-Deleted" {
        "CommCareCase-Deleted"
    } else {
        doc_type
    };
    let fitting = || RULES.iter().filter(|rule| rule.fits(doc_type, group, raw));
    fitting().find(|rule| rule.path.is_some()).or_else(|| fitting().next())
}

/// Fields that have another name in SQL, by document type or group.
pub(super) fn renamed(doc_type: &str, group: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let doc_type = if doc_type == "CommCareCase-Deleted-Deleted" {
        "CommCareCase-Deleted"
    } else {
        doc_type
    }
    .to_owned();
    let group = group.to_owned();
    RENAMED
        .iter()
        .filter(move |(scope, _, _)| *scope == doc_type || *scope == group)
        .map(|(_, old, new)| (*old, *new))
}

static RULES: LazyLock<Vec<Rule>> =
    LazyLock::new(|| TABLE.lines().filter(|line| !line.is_empty()).map(Rule::parse).collect());

const RENAMED: [(&str, &str, &str); 11] = [
    ("XFormInstance", "uid", "instanceID"),
    ("XFormInstance-Deleted", "-deletion_id", "deletion_id"),
    ("XFormInstance-Deleted", "-deletion_date", "deleted_on"),
    ("XFormDeprecated", "deprecated_date", "edited_on"),
    ("cases", "hq_user_id", "external_id"),
    ("CommCareCase", "@user_id", "user_id"),
    ("CommCareCase", "@date_modified", "modified_on"),
    ("CommCareCase-Deleted", "-deletion_id", "deletion_id"),
    ("CommCareCase-Deleted", "-deletion_date", "deleted_on"),
    ("attachment", "attachment_size", "content_length"),
    ("attachment", "identifier", "name"),
];

/// Scope, kind of difference, path, value in Couch, value in SQL. `-`: any; `M`: not there.
const TABLE: &str = r##"
forms - _rev - M
forms - migrating_blobs_from_couch - M
forms - #export_tag - M
forms - computed_ - M
forms - state M -
forms - computed_modified_on_ - M
forms - deprecated_form_id M null
forms - path - M
forms - user_id M -
forms - external_blobs - M
forms type openrosa_headers/HTTP_X_OPENROSA_VERSION - -
forms - problem M null
forms - problem "" null
forms - orig_id M null
forms - edited_on M null
forms - repeats M -
forms - form_migrated_from_undefined_xmlns - M
forms missing - null M
forms missing history/[*]/doc_type "XFormOperation" M
forms diff doc_type "HQSubmission" "XFormInstance"
forms missing deleted_on M null
forms - location_ - M
forms type xmlns null ""
forms type initial_processing_complete null true
forms missing backend_id M "sql"
forms missing _attachments - M
forms type server_modified_on null -
XFormInstance-Deleted missing deletion_id M null
cases - _rev - M
cases - initial_processing_complete - M
cases - id M -
cases - @xmlns - -
cases - _attachments - M
cases - external_blobs - M
cases - #export_tag - M
cases - computed_ - M
cases - version - M
cases - deleted M -
cases - export_tag - M
cases - computed_modified_on_ - M
cases - case_id - -
cases - @case_id - -
cases - case_json M -
cases - modified_by M -
cases diff owner_id "" -
cases type owner_id null -
cases type user_id null -
cases type opened_on null -
cases type opened_by M -
cases set_mismatch xform_ids/[*] "" -
cases missing case_attachments M {}
cases missing - null M
cases type name "" null
cases type closed_by "" null
cases diff closed_by "" -
cases missing location_id M null
cases missing referrals - M
cases missing location_ - M
cases type type null ""
cases type owner_id null ""
cases missing closed_by M null
cases type external_id "" null
cases missing deleted_on M null
cases missing backend_id M "sql"
cases - indices/[*]/case_id M -
cases missing indices/[*]/doc_type "CommCareCaseIndex" M
cases missing indices/[*]/relationship M "child"
cases - actions/[*] - -
CommCareCase missing -deletion_id - M
CommCareCase missing -deletion_date - M
CommCareCase-Deleted diff doc_type "CommCareCase-Deleted" "CommCareCase"
CommCareCase-Deleted type modified_on null -
CommCareCase-Deleted missing -deletion_id - M
CommCareCase-Deleted missing -deletion_id M null
CommCareCase-Deleted missing deletion_id M null
CommCareCase-Deleted complex -deletion_id/deletion_id M null
CommCareCase-Deleted missing -deletion_date M null
CommCareCase-Deleted missing deleted_on M -
attachment - attachment_properties - M
attachment - attachment_from - M
attachment - attachment_src - M
attachment - content_type M -
attachment - doc_type - M
attachment - server_mime - M
attachment - attachment_name - M
attachment - server_md5 - M
"##;
