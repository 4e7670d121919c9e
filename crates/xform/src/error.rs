//! Failures of this crate and their codes.
//!
//! A text names places, ids and element names, never a value of the form: these texts reach logs and dashboards.

use proto::ids::CaseId;

/// Why `form.xml` could not be turned into form JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// The bytes are not well-formed, namespace-conforming XML. lxml refuses them too.
    #[error("not well-formed XML: {reason} (byte {position})")]
    Malformed {
        /// What is wrong, in fixed words.
        reason: &'static str,
        /// Offset in the text after decoding to UTF-8.
        position: u64,
    },
    /// The bytes are not text in the encoding they declare.
    #[error("the encoding of the XML: {reason}")]
    Encoding {
        /// What is wrong, in fixed words.
        reason: &'static str,
    },
    /// A document type declaration. No phone writes one, and entities defined in it are a way to blow up a reader.
    #[error("the XML declares a document type (byte {position})")]
    DocumentType {
        /// Offset in the text after decoding to UTF-8.
        position: u64,
    },
    /// One of the bounds of [`crate::limits`] is exceeded.
    #[error("the XML exceeds a limit: more than {maximum} {what}")]
    TooLarge {
        /// What is counted.
        what: &'static str,
        /// The bound.
        maximum: usize,
    },
    /// A processing instruction inside the root element; HQ's conversion fails on it.
    #[error("processing instruction inside the root element (byte {position})")]
    ProcessingInstruction {
        /// Offset in the text after decoding to UTF-8.
        position: u64,
    },
    /// The root has neither attributes nor children nor a namespace: there is no object to hold the form.
    #[error("the root element holds nothing but text")]
    PlainRoot,
    /// The XML was read, but one of the passes over its JSON failed.
    #[error("a value of the form cannot be normalised")]
    Value(#[from] FormError),
}

impl XmlError {
    /// Stable code of the failure, a key of [`crate::CODES`].
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "C2S-2001",
            Self::Encoding { .. } => "C2S-2002",
            Self::DocumentType { .. } => "C2S-2003",
            Self::TooLarge { .. } => "C2S-2004",
            Self::ProcessingInstruction { .. } => "C2S-2005",
            Self::PlainRoot => "C2S-2006",
            Self::Value(error) => error.code(),
        }
    }

    /// Whether HQ's own parser refuses the XML. HQ then takes the form JSON to be `{}`, where any other failure stops the
    /// form.
    pub const fn is_syntax(&self) -> bool {
        matches!(self, Self::Malformed { .. } | Self::Encoding { .. })
    }
}

/// Why a form that could be read has no valid effects.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// A date-time leaves the years 1 to 9999 when it is converted to UTC.
    #[error("a date-time is outside the years 1 to 9999 in UTC")]
    DateOutOfRange,
    /// `meta` (or `Meta`) holds text or a list where an object is needed.
    #[error("the meta block is not an object")]
    MetaNotObject,
    /// A `case` element of plain text that contains `case_id`.
    #[error("a case block is plain text that looks like a case id")]
    CaseIsText,
    /// The namespace of a case block is neither empty nor that of version 2.
    #[error("a case block has an unknown namespace")]
    UnknownCaseXmlns,
    /// A block without its id in the place where its version has it.
    #[error("a case block of version {version} has no {place} case_id")]
    MissingCaseId {
        /// "1.0" or "2.0".
        version: &'static str,
        /// "attribute" or "element".
        place: &'static str,
    },
    /// A block whose case id is empty.
    #[error("a case block has an empty case id")]
    EmptyCaseId,
    /// A block whose case id is an element with content of its own, or is repeated.
    #[error("the case id of a case block is not plain text")]
    CaseIdNotText,
    /// A case id that no column can hold.
    #[error("a case id has more than 255 characters")]
    CaseIdTooLong,
    /// `@date_modified` is not an ISO 8601 date.
    #[error("date_modified of a block of case {case_id} is not an ISO 8601 date")]
    InvalidDateModified {
        /// The block's case.
        case_id: CaseId,
    },
    /// `date_modified` passed, or was not checked (version 1.0), but cannot be read as a point in time.
    #[error("date_modified of a block of case {case_id} cannot be read")]
    UnreadableDateModified {
        /// The block's case.
        case_id: CaseId,
    },
    /// An attribute of a block that is not text (only JSON that never was XML has such).
    #[error("{what} of a block of case {case_id} is not text")]
    NotText {
        /// The block's case.
        case_id: CaseId,
        /// Name of the attribute.
        what: &'static str,
    },
    /// An index without `case_type`, plain, or repeated under one identifier.
    #[error("index {identifier} of case {case_id} has no case_type")]
    IndexWithoutType {
        /// The block's case.
        case_id: CaseId,
        /// Name of the index.
        identifier: String,
    },
    /// A relationship other than child and extension.
    #[error("index {identifier} of case {case_id} has an unknown relationship")]
    UnknownRelationship {
        /// The block's case.
        case_id: CaseId,
        /// Name of the index.
        identifier: String,
    },
    /// Identifier, referenced type or referenced id do not fit their column.
    #[error("{what} of an index of case {case_id} has more than 255 characters")]
    IndexTooLong {
        /// The block's case.
        case_id: CaseId,
        /// Which part of the index.
        what: &'static str,
    },
    /// An attachment repeated under one identifier.
    #[error("attachment {identifier} of case {case_id} is repeated")]
    AttachmentRepeated {
        /// The block's case.
        case_id: CaseId,
        /// Name of the attachment.
        identifier: String,
    },
}

impl FormError {
    /// Stable code of the failure, a key of [`crate::CODES`].
    pub const fn code(&self) -> &'static str {
        match self {
            Self::DateOutOfRange => "C2S-2010",
            Self::MetaNotObject => "C2S-2011",
            Self::CaseIsText => "C2S-2012",
            Self::UnknownCaseXmlns => "C2S-2013",
            Self::MissingCaseId { .. } => "C2S-2014",
            Self::EmptyCaseId => "C2S-2015",
            Self::CaseIdNotText => "C2S-2016",
            Self::CaseIdTooLong => "C2S-2017",
            Self::InvalidDateModified { .. } => "C2S-2018",
            Self::UnreadableDateModified { .. } => "C2S-2019",
            Self::NotText { .. } => "C2S-2020",
            Self::IndexWithoutType { .. } => "C2S-2022",
            Self::UnknownRelationship { .. } => "C2S-2023",
            Self::IndexTooLong { .. } => "C2S-2024",
            Self::AttachmentRepeated { .. } => "C2S-2026",
        }
    }
}

/// Why form JSON could not be turned back into XML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoundtripError {
    /// The form JSON is not an object.
    #[error("the form JSON is not an object")]
    NotObject,
    /// A value that XML has no notation for: null, a number, a boolean, a list in a list, an attribute that is not text.
    #[error("the form JSON holds a value that no XML gives")]
    Value,
    /// A key that is no XML name.
    #[error("the form JSON holds a key that is no XML name")]
    Name,
    /// A special key (`#...`) in a place where it has no meaning.
    #[error("the form JSON holds a special key in the wrong place")]
    SpecialKey,
    /// The JSON is nested too deeply for a form.
    #[error("the form JSON is nested more than {maximum} levels deep")]
    TooDeep {
        /// The bound.
        maximum: usize,
    },
    /// The XML was written, but cannot be read back.
    #[error("the XML made from the form JSON cannot be read back")]
    Unreadable(#[from] XmlError),
    /// The XML reads back as other JSON.
    #[error("the XML made from the form JSON reads back as different JSON")]
    Different,
}

impl RoundtripError {
    /// Stable code of the failure, a key of [`crate::CODES`].
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotObject | Self::Value | Self::Name | Self::SpecialKey | Self::TooDeep { .. } => "C2S-2030",
            Self::Unreadable(_) | Self::Different => "C2S-2031",
        }
    }
}

/// Why the ledger blocks of a form cannot be carried out. The whole form fails then, as in HQ.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The XML itself cannot be read.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// A value of a block cannot be normalised.
    #[error(transparent)]
    Value(#[from] FormError),
    /// `date` of a block is neither a date nor a date-time.
    #[error("the date of a ledger block is not a date")]
    InvalidDate,
    /// An entry without id, in a block that would change a balance by it.
    #[error("an entry of a ledger block has no id")]
    MissingEntryId,
    /// A balance without its case, or a transfer with an empty one.
    #[error("a ledger block has no case id where it needs one")]
    MissingCaseId,
    /// A quantity that is no number, or infinite, though it reads as a float.
    #[error("a quantity of a ledger block is not finite")]
    NotFinite,
    /// A `value` without `section-id`.
    #[error("a value of a ledger block has no section")]
    MissingSection,
    /// An id that does not fit its column.
    #[error("{what} of a ledger block has more than {maximum} characters")]
    TooLong {
        /// Which id.
        what: &'static str,
        /// Characters that the column holds.
        maximum: usize,
    },
    /// A block, entry or value without a single attribute or child.
    #[error("a ledger block holds a plain {what} without attributes")]
    NotObject {
        /// Name of the element.
        what: &'static str,
    },
    /// More instructions than a form may hold.
    #[error("the form exceeds a limit: more than {maximum} ledger instructions")]
    TooMany {
        /// The bound.
        maximum: usize,
    },
}

impl LedgerError {
    /// Stable code of the failure, a key of [`crate::CODES`].
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Xml(error) => error.code(),
            Self::Value(error) => error.code(),
            Self::InvalidDate => "C2S-2040",
            Self::MissingEntryId => "C2S-2041",
            Self::MissingCaseId => "C2S-2042",
            Self::NotFinite => "C2S-2043",
            Self::MissingSection => "C2S-2044",
            Self::TooLong { .. } => "C2S-2045",
            Self::NotObject { .. } => "C2S-2046",
            Self::TooMany { .. } => "C2S-2047",
        }
    }
}
