//! What can go wrong with blobs, and what is to be done about it.

pub use couch::ErrorKind;

/// Result of a call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// An error of the blob store or of a blob. Texts hold no content.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store does not answer as it should.
    #[error("the blob store failed")]
    Unavailable {
        /// Why.
        #[source]
        source: Cause,
    },
    /// The store does not let us.
    #[error("the blob store refuses access")]
    Denied {
        /// Why.
        #[source]
        source: Cause,
    },
    /// The store cannot be used with this configuration.
    #[error("the configuration of the blob store is not usable: {reason}")]
    Config {
        /// What is wrong with it.
        reason: String,
    },
    /// A key that no blob can have.
    #[error("the blob key is not allowed: {reason}")]
    BadKey {
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// A document id that looks like the hash of another id, and would share its blobs.
    #[error("the document's id has the form of a hashed id")]
    BadDocumentId,
    /// An entry of `external_blobs` or `_attachments` that names no blob.
    #[error("the document's entry for a blob is not understood: {reason}")]
    BadReference {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The blob is bigger than the limit.
    #[error("the blob is bigger than the limit of {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// A compressed blob that cannot be decompressed.
    #[error("the compressed blob is damaged")]
    BadGzip {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Reading an attachment that Couch keeps failed.
    #[error("an attachment cannot be read from CouchDB")]
    Inline {
        /// Why; it decides kind and code.
        #[source]
        source: couch::Error,
    },
}

/// The codes of all errors of this crate, each with a line on what to do; every one has its page in the error reference.
/// [`Error::Inline`] has the code of the CouchDB error behind it.
pub const CODES: [(&str, &str); 8] = [
    (
        "C2S-1201",
        "Check that the blob store is mounted or reachable; then run the command again.",
    ),
    (
        "C2S-1202",
        "Give the user or access key the right to read (and list) the blob store.",
    ),
    ("C2S-1203", "Correct the [blobs] section of the configuration."),
    (
        "C2S-1204",
        "Look at the document's external_blobs in CouchDB; the key is not one that HQ makes.",
    ),
    (
        "C2S-1205",
        "Look at the document in CouchDB; HQ refuses such an id, too.",
    ),
    (
        "C2S-1206",
        "Look at the document's external_blobs and _attachments in CouchDB.",
    ),
    (
        "C2S-1207",
        "The blob is larger than this program takes; accept that the document is not migrated.",
    ),
    (
        "C2S-1208",
        "Restore the blob from a back-up, or accept that the document is not migrated.",
    ),
];

impl Error {
    /// What is to be done.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unavailable { .. } => ErrorKind::Retry,
            Self::Denied { .. } | Self::Config { .. } => ErrorKind::Stop,
            Self::BadKey { .. }
            | Self::BadDocumentId
            | Self::BadReference { .. }
            | Self::TooLarge { .. }
            | Self::BadGzip { .. } => ErrorKind::Document,
            Self::Inline { source } => source.kind(),
        }
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Inline { source } => source.code(),
            _ => CODES[self.position()].0,
        }
    }

    /// One line on what to do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Inline { source } => source.remedy(),
            _ => CODES[self.position()].1,
        }
    }

    fn position(&self) -> usize {
        match self {
            // `Inline` has no code of its own; a failed store is the nearest.
            Self::Unavailable { .. } | Self::Inline { .. } => 0,
            Self::Denied { .. } => 1,
            Self::Config { .. } => 2,
            Self::BadKey { .. } => 3,
            Self::BadDocumentId => 4,
            Self::BadReference { .. } => 5,
            Self::TooLarge { .. } => 6,
            Self::BadGzip { .. } => 7,
        }
    }
}

impl From<couch::Error> for Error {
    fn from(source: couch::Error) -> Self {
        Self::Inline { source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_own_code_and_kind() {
        for (position, (code, remedy)) in CODES.iter().enumerate() {
            assert_eq!(*code, format!("C2S-12{:02}", position + 1));
            assert!(remedy.ends_with('.'));
        }
        let denied = Error::Denied { source: "no".into() };
        assert_eq!((denied.code(), denied.kind()), ("C2S-1202", ErrorKind::Stop));
        let inline = Error::from(couch::Error::TooLarge {
            op: "attachment",
            limit: 1,
        });
        assert_eq!((inline.code(), inline.kind()), ("C2S-1113", ErrorKind::Document));
    }
}
