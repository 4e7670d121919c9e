//! What can go wrong on the target, and what a caller does about it.

use std::fmt;

use deadpool_postgres::PoolError;
use proto::ids::Epoch;
use tokio_postgres::error::SqlState;

use crate::progress::Status;
use crate::table::RowError;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Nothing is wrong with the work: try the same again, a little later.
    Retry,
    /// Nothing will work until a person has seen to it.
    Stop,
    /// The fault is one document's; the others can go on without it.
    Document,
    /// The work belongs to an epoch that is over, or the domain is closed for writing: drop it.
    Fenced,
}

/// An error of the target. No variant holds a value of a row; ids of documents are named.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be right.
    #[error("target configuration: {0}")]
    Config(String),
    /// No connection could be had.
    #[error("no connection to the target database {database}")]
    Connect {
        /// Which database: its role and address.
        database: String,
        /// Why.
        #[source]
        source: Fault,
    },
    /// Tables or columns are missing or of another type.
    #[error("the target database {database} does not have the expected tables: {}", problems.join("; "))]
    Tables {
        /// Which database.
        database: String,
        /// One sentence for each missing or wrong part.
        problems: Vec<String>,
    },
    /// The fence of the domain is closed, missing, or at another epoch.
    #[error("domain {domain} is not open for writing at epoch {epoch} ({})", found_fence(*found))]
    FenceClosed {
        /// The domain.
        domain: String,
        /// The epoch of the work.
        epoch: Epoch,
        /// Epoch and openness of the fence, when there is one.
        found: Option<(Epoch, bool)>,
    },
    /// A fence cannot go back to an older epoch.
    #[error(
        "the fence of domain {domain} is at a later epoch than {epoch}: another migration has taken over, or the state is older than the target"
    )]
    FenceNewer {
        /// The domain.
        domain: String,
        /// The epoch that was asked for.
        epoch: Epoch,
    },
    /// Rows are deleted only behind a closed fence.
    #[error("domain {domain} is still open for writing: close its fence before deleting its rows")]
    FenceOpen {
        /// The domain.
        domain: String,
    },
    /// The ids belong to rows of another domain, which are never touched.
    #[error("rows of another domain have these ids: {}", ids.join(", "))]
    ForeignParent {
        /// The ids.
        ids: Vec<String>,
    },
    /// A row that its table cannot hold, found before anything was written.
    #[error("a row of document {document} cannot be stored")]
    Row {
        /// Form or case id.
        document: String,
        /// Which column, and why.
        #[source]
        source: RowError,
    },
    /// The key of a new blob belongs to another document's blob.
    #[error("the blob key of an attachment of form {document} belongs to another document already")]
    BlobKeyTaken {
        /// Form id.
        document: String,
    },
    /// A stored row holds something that no version of HQ writes.
    #[error("the stored rows of {document} in {table} cannot be read")]
    Unreadable {
        /// Table.
        table: &'static str,
        /// Form or case id.
        document: String,
    },
    /// A caller's mistake: rows of another domain or shard than the transaction's, or one id twice.
    #[error("document {document} cannot be written in this transaction: {why}")]
    Misplaced {
        /// Form or case id.
        document: String,
        /// What is wrong.
        why: &'static str,
    },
    /// HQ's progress row does not allow the change.
    #[error("the migration of domain {domain} cannot become {wanted}: HQ's progress row says {found}")]
    Progress {
        /// The domain.
        domain: String,
        /// What it was to become.
        wanted: Status,
        /// What it is.
        found: Status,
    },
    /// HQ's progress row has a status that HQ does not know.
    #[error("HQ's progress row of domain {domain} has an unknown status")]
    UnknownStatus {
        /// The domain.
        domain: String,
    },
    /// PostgreSQL refused, or the connection failed.
    #[error("{operation} failed")]
    Database {
        /// What was being done.
        operation: &'static str,
        /// How PostgreSQL put it.
        #[source]
        source: Fault,
    },
}

fn found_fence(found: Option<(Epoch, bool)>) -> String {
    match found {
        None => "it has no fence".to_owned(),
        Some((epoch, true)) => format!("it is open at epoch {epoch}"),
        Some((epoch, false)) => format!("it is closed at epoch {epoch}"),
    }
}

impl Error {
    /// What a caller does about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Connect { source, .. } | Self::Database { source, .. } => source.kind(),
            Self::FenceClosed { .. } => ErrorKind::Fenced,
            Self::ForeignParent { .. } | Self::Row { .. } | Self::BlobKeyTaken { .. } | Self::Unreadable { .. } => {
                ErrorKind::Document
            }
            Self::Config(_)
            | Self::Tables { .. }
            | Self::FenceNewer { .. }
            | Self::FenceOpen { .. }
            | Self::Misplaced { .. }
            | Self::Progress { .. }
            | Self::UnknownStatus { .. } => ErrorKind::Stop,
        }
    }

    /// Stable code, listed in `docs/errors.md`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Config(_) => "C2S-1401",
            Self::Connect { .. } => "C2S-1402",
            Self::Tables { .. } => "C2S-1403",
            Self::FenceClosed { .. } => "C2S-1404",
            Self::FenceNewer { .. } => "C2S-1405",
            Self::FenceOpen { .. } => "C2S-1406",
            Self::ForeignParent { .. } => "C2S-1407",
            Self::Row { .. } => "C2S-1408",
            Self::BlobKeyTaken { .. } => "C2S-1409",
            Self::Unreadable { .. } => "C2S-1410",
            Self::Misplaced { .. } => "C2S-1411",
            Self::Progress { .. } => "C2S-1412",
            Self::UnknownStatus { .. } => "C2S-1413",
            Self::Database { source, .. } => match source.kind() {
                ErrorKind::Retry => "C2S-1414",
                ErrorKind::Document => "C2S-1415",
                ErrorKind::Stop | ErrorKind::Fenced => "C2S-1416",
            },
        }
    }

    /// What an operator does about it, in one line.
    pub fn remedy(&self) -> &'static str {
        match self.code() {
            "C2S-1401" => "correct [target] in the configuration",
            "C2S-1402" => "check that the target database is up and that address, user and password are right",
            "C2S-1403" => "point [target] at HQ's own databases, or create the tables with init",
            "C2S-1404" => "nothing: work of an epoch that is over is dropped",
            "C2S-1405" => "find out which state belongs to this target before going on",
            "C2S-1406" => "reset the domain by the reset command, which closes the fence first",
            "C2S-1407" => "find out why two domains have a document of the same id",
            "C2S-1408" => "correct the value in Couch, or accept the recorded error",
            "C2S-1409" => "look at the blob metadata of both documents",
            "C2S-1410" => "look at the named rows; they were not written by HQ or by this migration",
            "C2S-1411" => "report it: this is a fault of the program",
            "C2S-1412" => "look at the status of the domain with stats",
            "C2S-1413" => "look at the domain's row in domain_migration_flags_domainmigrationprogress",
            "C2S-1414" => "nothing: it is tried again",
            "C2S-1415" => "look at the document that the error is recorded for",
            _ => "check grants and version of the target database",
        }
    }

    /// The one document that is at fault, when it is known.
    pub fn document(&self) -> Option<&str> {
        match self {
            Self::Row { document, .. }
            | Self::BlobKeyTaken { document }
            | Self::Unreadable { document, .. }
            | Self::Misplaced { document, .. } => Some(document),
            Self::ForeignParent { ids } => match ids.as_slice() {
                [id] => Some(id),
                _ => None,
            },
            _ => None,
        }
    }

    /// Makes errors of PostgreSQL ones of the operation.
    pub(crate) fn during(operation: &'static str) -> impl Fn(tokio_postgres::Error) -> Self {
        move |error| Self::Database {
            operation,
            source: Fault::from(&error),
        }
    }
}

/// What PostgreSQL or the connection reported, without anything that could be part of a row: of errors about data only the
/// SQLSTATE and the names of table, column and constraint are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    sqlstate: Option<String>,
    text: String,
    kind: ErrorKind,
}

impl Fault {
    /// The five characters of SQLSTATE, when the server answered at all.
    pub fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_deref()
    }

    /// What a caller does about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn of_pool(error: &PoolError) -> Self {
        match error {
            PoolError::Backend(error) => Self::from(error),
            PoolError::Timeout(_) => Self::plain("no connection became free in time", ErrorKind::Retry),
            PoolError::Closed | PoolError::NoRuntimeSpecified => Self::plain("the pool is closed", ErrorKind::Stop),
            PoolError::PostCreateHook(deadpool_postgres::HookError::Backend(error)) => Self::from(error),
            PoolError::PostCreateHook(_) => Self::plain("the new session could not be set up", ErrorKind::Retry),
        }
    }

    fn plain(text: &str, kind: ErrorKind) -> Self {
        Self {
            sqlstate: None,
            text: text.to_owned(),
            kind,
        }
    }
}

impl From<&tokio_postgres::Error> for Fault {
    fn from(error: &tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            // No answer of the server: the network, TLS, or a value that the client could not convert. The last is told
            // by its own text and names a column or parameter, never its value.
            let mut text = error.to_string();
            let mut kind = ErrorKind::Retry;
            let mut cause = std::error::Error::source(error);
            while let Some(next) = cause {
                let tls = next.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
                if tls.is_some_and(|tls| tls.is::<rustls::Error>()) {
                    // A certificate does not get better by trying again.
                    kind = ErrorKind::Stop;
                }
                text.push_str(": ");
                text.push_str(&next.to_string());
                cause = next.source();
            }
            return Self {
                sqlstate: None,
                text,
                kind,
            };
        };
        let code = db.code().code();
        let mut text = format!("SQLSTATE {code}");
        if !matches!(&code[..2], "21" | "22" | "23" | "P0" | "XX") {
            text.push_str(": ");
            text.push_str(db.message());
        }
        for (what, name) in [
            ("table", db.table()),
            ("column", db.column()),
            ("constraint", db.constraint()),
        ] {
            if let Some(name) = name {
                text.push_str(&format!(", {what} {name}"));
            }
        }
        Self {
            sqlstate: Some(code.to_owned()),
            text,
            kind: kind_of(db.code()),
        }
    }
}

fn kind_of(code: &SqlState) -> ErrorKind {
    // A unique or foreign-key violation means that somebody else wrote meanwhile: looking again gives another merge.
    if *code == SqlState::UNIQUE_VIOLATION || *code == SqlState::FOREIGN_KEY_VIOLATION {
        return ErrorKind::Retry;
    }
    match &code.code()[..2] {
        // Connection, transaction state (idle time-out included), rollback (serialization, deadlock), resources, locks,
        // operator intervention, system.
        "08" | "25" | "40" | "53" | "55" | "57" | "58" => ErrorKind::Retry,
        "21" | "22" | "23" => ErrorKind::Document,
        _ => ErrorKind::Stop,
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_follow_the_sqlstate() {
        for (code, kind) in [
            ("23505", ErrorKind::Retry),
            ("40001", ErrorKind::Retry),
            ("40P01", ErrorKind::Retry),
            ("25P03", ErrorKind::Retry),
            ("57014", ErrorKind::Retry),
            ("22001", ErrorKind::Document),
            ("23514", ErrorKind::Document),
            ("42P01", ErrorKind::Stop),
            ("42501", ErrorKind::Stop),
            ("28P01", ErrorKind::Stop),
        ] {
            assert_eq!(kind_of(&SqlState::from_code(code)), kind, "{code}");
        }
    }
}
