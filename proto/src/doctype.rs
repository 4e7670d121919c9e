//! The Couch document types that are migrated, and what each becomes in SQL.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A document type of a form or a case in Couch. Anything else is not ours to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DocType {
    /// A normal form. It may carry a `problem`, and then counts as an error form.
    XFormInstance,
    /// An archived form.
    XFormArchived,
    /// The old version of an edited form.
    XFormDeprecated,
    /// A second submission of the same form.
    XFormDuplicate,
    /// A form whose processing failed.
    XFormError,
    /// A submission that was not even XML.
    SubmissionErrorLog,
    /// A soft-deleted normal form.
    #[serde(rename = "XFormInstance-Deleted")]
    XFormInstanceDeleted,
    /// A raw submission of early days; becomes a normal form that touches no case.
    HQSubmission,
    /// A case.
    CommCareCase,
    /// A soft-deleted case.
    #[serde(rename = "CommCareCase-Deleted")]
    CommCareCaseDeleted,
}

impl DocType {
    /// Form types in the order in which they are scanned: the normal ones first, the others by name.
    pub const FORMS: [Self; 8] = [
        Self::XFormInstance,
        Self::HQSubmission,
        Self::SubmissionErrorLog,
        Self::XFormArchived,
        Self::XFormDeprecated,
        Self::XFormDuplicate,
        Self::XFormError,
        Self::XFormInstanceDeleted,
    ];

    /// All types, in the order of the `stats` table.
    pub const ALL: [Self; 10] = [
        Self::XFormInstance,
        Self::XFormArchived,
        Self::XFormDeprecated,
        Self::XFormDuplicate,
        Self::XFormError,
        Self::SubmissionErrorLog,
        Self::HQSubmission,
        Self::XFormInstanceDeleted,
        Self::CommCareCase,
        Self::CommCareCaseDeleted,
    ];

    /// The `doc_type` text in Couch.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::XFormInstance => "XFormInstance",
            Self::XFormArchived => "XFormArchived",
            Self::XFormDeprecated => "XFormDeprecated",
            Self::XFormDuplicate => "XFormDuplicate",
            Self::XFormError => "XFormError",
            Self::SubmissionErrorLog => "SubmissionErrorLog",
            Self::XFormInstanceDeleted => "XFormInstance-Deleted",
            Self::HQSubmission => "HQSubmission",
            Self::CommCareCase => "CommCareCase",
            Self::CommCareCaseDeleted => "CommCareCase-Deleted",
        }
    }

    /// The type with this `doc_type` text, if it is one of ours.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|doc_type| doc_type.as_str() == text)
    }

    /// Whether documents of this type become rows of the form table.
    pub const fn is_form(self) -> bool {
        !matches!(self, Self::CommCareCase | Self::CommCareCaseDeleted)
    }

    /// The `state` column of the SQL form (HQ's `doc_type_to_state`); none for cases.
    pub const fn form_state(self) -> Option<i16> {
        match self {
            Self::XFormInstance | Self::HQSubmission => Some(1),
            Self::XFormArchived => Some(2),
            Self::XFormDeprecated => Some(4),
            Self::XFormDuplicate => Some(8),
            Self::XFormError => Some(16),
            Self::SubmissionErrorLog => Some(32),
            Self::XFormInstanceDeleted => Some(1 | 64),
            Self::CommCareCase | Self::CommCareCaseDeleted => None,
        }
    }
}

impl fmt::Display for DocType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_type_agree() {
        for doc_type in DocType::ALL {
            assert_eq!(DocType::parse(doc_type.as_str()), Some(doc_type));
            assert_eq!(doc_type.is_form(), doc_type.form_state().is_some());
        }
        assert_eq!(DocType::parse("WebUser"), None);
        assert_eq!(DocType::FORMS.iter().filter(|t| t.is_form()).count(), 8);
    }
}
