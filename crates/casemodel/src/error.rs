//! What can be wrong with a case itself, rather than with one of its forms.

/// Why a case could not be given the rows that were asked for. Field names are named, values never.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaseError {
    /// The document of a deleted case is not a JSON object, or not the document of this case.
    #[error("the document of the deleted case is not a case document with this id")]
    NotThisCase,
    /// The document of a deleted case belongs to another domain.
    #[error("the document of the deleted case belongs to another domain")]
    ForeignDocument,
    /// A field of the document of a deleted case has a type or a value that its column cannot hold.
    #[error("field {field} of the deleted case's document cannot be stored: {problem}")]
    BadField {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: FieldProblem,
    },
    /// Two indices of the document of a deleted case have the same identifier.
    #[error("two indices of the deleted case's document have the same identifier")]
    DuplicateIndex,
    /// A case attachment of a deleted case has no blob with a key of its own under its name.
    #[error("an attachment of the deleted case's document has no blob")]
    AttachmentWithoutBlob,
    /// A rebuild of the case would violate a constraint: one form removes an index and a later one sets it again, or a
    /// ledger leaves its column on the way. HQ's own rebuild fails on it too and leaves the case as it was; the rows given
    /// are those.
    #[error("the case cannot be rebuilt: an index is removed and set again, or a ledger's balance is out of range")]
    RebuildFails,
    /// One of the case's forms cannot be applied at the place that a corrected order gives it. The rows given are those of
    /// the ordinary order.
    #[error("the forms of the case cannot be applied in the corrected order")]
    OrderFails,
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldProblem {
    /// Of another JSON type than the column needs.
    WrongType,
    /// A text that is no date-time.
    NotADate,
    /// A relationship that is neither child nor extension.
    UnknownRelationship,
    /// Longer, or as a number greater, than the column holds.
    TooLong,
    /// With a NUL character.
    Unstorable,
}

impl std::fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::WrongType => "wrong type",
            Self::NotADate => "not a date",
            Self::UnknownRelationship => "unknown relationship",
            Self::TooLong => "too long",
            Self::Unstorable => "contains a NUL character",
        })
    }
}

impl CaseError {
    /// Stable code, listed in `docs/errors.md`.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotThisCase => "C2S-2201",
            Self::ForeignDocument => "C2S-2202",
            Self::BadField { .. } => "C2S-2203",
            Self::DuplicateIndex => "C2S-2204",
            Self::AttachmentWithoutBlob => "C2S-2205",
            Self::RebuildFails => "C2S-2206",
            Self::OrderFails => "C2S-2207",
        }
    }
}
