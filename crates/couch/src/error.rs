//! What can go wrong with the source, and what is to be done about it.

use std::time::Duration;

/// Result of a call to the source.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller is to do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Trying again later may help; the call has already tried as often as it is configured to.
    Retry,
    /// Trying again cannot help until someone changes configuration, rights or the server.
    Stop,
    /// Only this document is affected.
    Document,
}

/// An error of the source. Texts name operations and limits, never ids, content or credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, or the connection broke before an answer.
    #[error("CouchDB at {server} cannot be reached")]
    Unreachable {
        /// The server's URL without credentials.
        server: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// No complete answer in time.
    #[error("CouchDB did not complete the answer to {op} within {}s", after.as_secs_f32())]
    TimedOut {
        /// The operation.
        op: &'static str,
        /// The time limit.
        after: Duration,
    },
    /// The body ended before it was complete.
    #[error("the answer of CouchDB to {op} was cut off")]
    Truncated {
        /// The operation.
        op: &'static str,
    },
    /// The server failed, or is too busy.
    #[error("CouchDB answered {op} with status {status}{}", named(error))]
    Server {
        /// The operation.
        op: &'static str,
        /// HTTP status; 200 when the server reported its failure at the end of a body it had begun.
        status: u16,
        /// CouchDB's name of the error, if it gave one.
        error: Option<String>,
    },
    /// The credentials are wrong, absent or not enough.
    #[error("CouchDB refuses {op} (status {status}): the credentials are wrong, absent or not sufficient")]
    Unauthorized {
        /// The operation.
        op: &'static str,
        /// 401 or 403.
        status: u16,
    },
    /// Something that must exist does not.
    #[error("{what} does not exist in CouchDB")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// The database is there, the view is not.
    #[error("database {database} has no view {design}/{view}")]
    MissingView {
        /// Database.
        database: String,
        /// Design document, without `_design/`.
        design: String,
        /// View.
        view: String,
    },
    /// The server does not understand or allow the request.
    #[error("CouchDB rejects {op} with status {status}{}", named(error))]
    Rejected {
        /// The operation.
        op: &'static str,
        /// HTTP status.
        status: u16,
        /// CouchDB's name of the error, if it gave one.
        error: Option<String>,
    },
    /// The client cannot be made with this configuration.
    #[error("the configuration of the CouchDB client is not usable: {reason}")]
    Config {
        /// What is wrong with it.
        reason: String,
    },
    /// The answer is not what the protocol says.
    #[error("the answer of CouchDB to {op} is not understood: {reason}")]
    Malformed {
        /// The operation.
        op: &'static str,
        /// What is wrong with it, without any of its content.
        reason: String,
    },
    /// A view page does not get past its cursor.
    #[error(
        "view {design}/{view} gives the same rows again and again; the server seems to ignore startkey_docid and skip"
    )]
    NoProgress {
        /// Design document, without `_design/`.
        design: String,
        /// View.
        view: String,
    },
    /// The document was changed by someone else since it was read.
    #[error("the document was changed in CouchDB since it was read")]
    Conflict,
    /// The answer is bigger than the limit.
    #[error("the answer of CouchDB to {op} is bigger than the limit of {limit} bytes")]
    TooLarge {
        /// The operation.
        op: &'static str,
        /// `max_response_bytes`.
        limit: usize,
    },
    /// The server reports an error for this one document.
    #[error("CouchDB cannot give the document{}", named(error))]
    Document {
        /// CouchDB's name of the error, if it gave one.
        error: Option<String>,
    },
    /// The document is not JSON that can be taken: it is nested too deeply, for example.
    #[error("the document cannot be read: {reason}")]
    Unreadable {
        /// What is wrong with it, without any of its content.
        reason: String,
    },
}

/// The codes of all errors of this crate, each with a line on what to do; every one has its page in the error reference.
pub const CODES: [(&str, &str); 15] = [
    (
        "C2S-1101",
        "Check source.url, the network and whether CouchDB is running.",
    ),
    (
        "C2S-1102",
        "Check CouchDB's load; a view that is being built answers late. Raise the request timeout if need be.",
    ),
    (
        "C2S-1103",
        "Look for a proxy that closes connections early, and into CouchDB's log.",
    ),
    (
        "C2S-1104",
        "Look into CouchDB's log; lower source.max_concurrency or set source.max_requests_per_second.",
    ),
    (
        "C2S-1105",
        "Check source.username and its password, and that the user may read the database.",
    ),
    ("C2S-1106", "Check the database names in the configuration."),
    (
        "C2S-1107",
        "Publish the design document of the view in CouchDB, and wait until its index is built.",
    ),
    (
        "C2S-1108",
        "Check that source.url points to a CouchDB 2.3 or newer and not to something in front of it.",
    ),
    ("C2S-1109", "Correct the [source] section of the configuration."),
    (
        "C2S-1110",
        "Check that source.url points to a CouchDB, and that nothing in between rewrites its answers.",
    ),
    (
        "C2S-1111",
        "Use a server that pages views by start key and start document id.",
    ),
    ("C2S-1112", "Run the command again: it reads the document anew."),
    (
        "C2S-1113",
        "The document is larger than this program takes; accept that it is not migrated.",
    ),
    (
        "C2S-1114",
        "Look at the document in CouchDB; its stored form may be damaged.",
    ),
    (
        "C2S-1115",
        "Mend the document in CouchDB as the message says, or accept that it is not migrated.",
    ),
];

impl Error {
    /// What is to be done.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Truncated { .. }
            | Self::Server { .. }
            | Self::Malformed { .. } => ErrorKind::Retry,
            Self::Unauthorized { .. }
            | Self::NotFound { .. }
            | Self::MissingView { .. }
            | Self::Rejected { .. }
            | Self::Config { .. }
            | Self::NoProgress { .. } => ErrorKind::Stop,
            Self::Conflict | Self::TooLarge { .. } | Self::Document { .. } | Self::Unreadable { .. } => {
                ErrorKind::Document
            }
        }
    }

    /// The stable code, one of [`CODES`].
    pub fn code(&self) -> &'static str {
        CODES[self.position()].0
    }

    /// One line on what to do.
    pub fn remedy(&self) -> &'static str {
        CODES[self.position()].1
    }

    /// Value of the `outcome` label of metrics.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::TimedOut { .. } => "timed_out",
            Self::Truncated { .. } => "truncated",
            Self::Server { status: 429, .. } => "busy",
            Self::Server { .. } => "server_error",
            Self::Unauthorized { .. } => "unauthorized",
            Self::TooLarge { .. } => "too_large",
            Self::Malformed { .. } => "malformed",
            _ => "rejected",
        }
    }

    fn position(&self) -> usize {
        match self {
            Self::Unreachable { .. } => 0,
            Self::TimedOut { .. } => 1,
            Self::Truncated { .. } => 2,
            Self::Server { .. } => 3,
            Self::Unauthorized { .. } => 4,
            Self::NotFound { .. } => 5,
            Self::MissingView { .. } => 6,
            Self::Rejected { .. } => 7,
            Self::Config { .. } => 8,
            Self::Malformed { .. } => 9,
            Self::NoProgress { .. } => 10,
            Self::Conflict => 11,
            Self::TooLarge { .. } => 12,
            Self::Document { .. } => 13,
            Self::Unreadable { .. } => 14,
        }
    }
}

fn named(error: &Option<String>) -> String {
    error.as_ref().map_or_else(String::new, |name| format!(" ({name})"))
}

/// CouchDB's name of an error (`not_found`, `conflict`) if the text is one. Anything else could be content, and is dropped.
pub(crate) fn error_name(text: &str) -> Option<String> {
    let is_name = !text.is_empty()
        && text.len() <= 40
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    is_name.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_own_code_and_kind() {
        let conflict = Error::Conflict;
        assert_eq!((conflict.code(), conflict.kind()), ("C2S-1112", ErrorKind::Document));
        let busy = Error::Server {
            op: "view",
            status: 429,
            error: None,
        };
        assert_eq!((busy.code(), busy.kind()), ("C2S-1104", ErrorKind::Retry));
        let missing = Error::MissingView {
            database: "hq".into(),
            design: "d".into(),
            view: "v".into(),
        };
        assert_eq!((missing.code(), missing.kind()), ("C2S-1107", ErrorKind::Stop));
        for (position, (code, remedy)) in CODES.iter().enumerate() {
            assert_eq!(*code, format!("C2S-11{:02}", position + 1));
            assert!(remedy.ends_with('.'));
        }
    }

    #[test]
    fn only_names_of_errors_are_repeated() {
        assert_eq!(error_name("query_parse_error"), Some("query_parse_error".to_owned()));
        for content in ["", "Mina has malaria", "{\"a\":1}", "é"] {
            assert_eq!(error_name(content), None);
        }
    }
}
