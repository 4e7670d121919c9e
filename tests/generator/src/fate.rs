//! What became of a form.

use chrono::{DateTime, Utc};

/// What became of a form.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fate {
    /// Processed into its cases.
    Normal,
    /// A normal document that carries a `problem`: never processed.
    Problem(String),
    /// A normal document whose processing never ran.
    Unprocessed,
    Archived,
    Deprecated {
        orig_id: String,
        on: DateTime<Utc>,
    },
    Duplicate {
        orig_id: String,
    },
    Error {
        problem: String,
    },
    ErrorLog {
        problem: String,
    },
    HqSubmission,
    /// Soft-deleted.
    Deleted {
        id: String,
        on: DateTime<Utc>,
    },
}

impl Fate {
    pub(crate) fn doc_type(&self) -> &'static str {
        match self {
            Self::Normal | Self::Problem(_) | Self::Unprocessed => "XFormInstance",
            Self::Archived => "XFormArchived",
            Self::Deprecated { .. } => "XFormDeprecated",
            Self::Duplicate { .. } => "XFormDuplicate",
            Self::Error { .. } => "XFormError",
            Self::ErrorLog { .. } => "SubmissionErrorLog",
            Self::HqSubmission => "HQSubmission",
            Self::Deleted { .. } => "XFormInstance-Deleted",
        }
    }

    pub(crate) fn state(&self) -> i16 {
        match self {
            Self::Normal | Self::Unprocessed | Self::HqSubmission => 1,
            Self::Archived => 2,
            Self::Deprecated { .. } => 4,
            Self::Duplicate { .. } => 8,
            Self::Problem(_) | Self::Error { .. } => 16,
            Self::ErrorLog { .. } => 32,
            Self::Deleted { .. } => 65,
        }
    }

    pub(crate) fn problem(&self) -> Option<String> {
        match self {
            Self::Problem(problem) | Self::Error { problem } | Self::ErrorLog { problem } => Some(problem.clone()),
            Self::Duplicate { orig_id } => Some(format!("Form is a duplicate of another! ({orig_id})")),
            _ => None,
        }
    }

    pub(crate) fn orig_id(&self) -> Option<String> {
        match self {
            Self::Deprecated { orig_id, .. } | Self::Duplicate { orig_id } => Some(orig_id.clone()),
            _ => None,
        }
    }
}
