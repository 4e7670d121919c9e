//! What can go wrong with the state schema.

use crate::SCHEMA;

/// What the caller should do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Try again later: the database was away or busy.
    Retry,
    /// The work is not ours any more: somebody else has the claim, or the epoch is over. Drop it.
    Lost,
    /// Nothing will help but an operator.
    Stop,
}

/// An error of the state schema.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The URL cannot be read. It is not repeated, since it may hold a password.
    #[error("state.url is not a PostgreSQL URL")]
    BadUrl,
    /// No connection.
    #[error("cannot reach the state database (state.url): {0}")]
    Unreachable(#[source] sqlx::Error),
    /// The schema is not there.
    #[error("the state database has no schema {SCHEMA}; run `coordinator init`")]
    NoSchema,
    /// The schema is older than this program.
    #[error("the state schema is at version {found}, this program needs {needed}; run `coordinator init`")]
    OldSchema {
        /// Version in the database.
        found: i64,
        /// Newest version known here.
        needed: i64,
    },
    /// The schema is newer than this program can work with.
    #[error("the state schema is at version {found} and asks for programs that know {minimum}; upgrade this service")]
    NewSchema {
        /// Version in the database.
        found: i64,
        /// What the database asks for.
        minimum: i64,
    },
    /// Creating or upgrading the schema failed.
    #[error("the state schema could not be upgraded: {0}")]
    Upgrade(#[source] sqlx::migrate::MigrateError),
    /// The batch is claimed by somebody else by now.
    #[error("the claim on the batch was lost")]
    LostClaim,
    /// The migration's epoch has changed: it was reset.
    #[error("the migration was reset meanwhile")]
    EpochOver,
    /// The domain is driven by another process by now.
    #[error("another process drives this domain by now")]
    LostLease,
    /// A commit has begun or is done.
    #[error("a COMMIT of the domain has begun or is done")]
    NotResettable,
    /// Rules of the domain's operators were removed since they were read.
    #[error("the domain's ignore rules were changed meanwhile")]
    RulesChanged,
    /// A stored value that this program cannot read.
    #[error("the state schema holds an unreadable {0}")]
    Corrupt(&'static str),
    /// Anything else that the database said.
    #[error("state database: {0}")]
    Database(#[from] sqlx::Error),
}

impl StateError {
    /// What to do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::LostClaim | Self::EpochOver | Self::LostLease => Kind::Lost,
            Self::Unreachable(_) | Self::RulesChanged => Kind::Retry,
            Self::Database(error) if is_transient(error) => Kind::Retry,
            _ => Kind::Stop,
        }
    }

    /// Stable code, with a page in `docs/errors.md`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadUrl => "C2S-1501",
            Self::Unreachable(_) => "C2S-1502",
            Self::NoSchema => "C2S-1503",
            Self::OldSchema { .. } => "C2S-1504",
            Self::NewSchema { .. } => "C2S-1505",
            Self::Upgrade(_) => "C2S-1506",
            Self::LostClaim => "C2S-1507",
            Self::EpochOver => "C2S-1508",
            Self::LostLease => "C2S-1509",
            Self::NotResettable => "C2S-1512",
            Self::RulesChanged => "C2S-2391",
            Self::Corrupt(_) => "C2S-1510",
            Self::Database(_) => "C2S-1511",
        }
    }
}

fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // 40: serialization failure and deadlock. 53: resources. 57P: shutdown and restart. 08: connection.
        sqlx::Error::Database(database) => database.code().is_some_and(|code| {
            code.starts_with("40") || code.starts_with("53") || code.starts_with("57P") || code.starts_with("08")
        }),
        _ => false,
    }
}
