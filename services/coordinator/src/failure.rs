//! How a command ends: its exit status, and the one line that an operator reads when it is refused or fails.

use std::fmt;
use std::process::ExitCode;

use service::worker::chain;

/// What is wrong with the command line itself, or with a file that it names.
const MISUSE: [&str; 13] = [
    "C2S-0104", "C2S-0105", "C2S-0107", "C2S-0108", "C2S-0111", "C2S-0120", "C2S-0121", "C2S-0122", "C2S-0123",
    "C2S-0124", "C2S-0125", "C2S-0127", "C2S-0130",
];

/// Exit status of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, and nothing to complain about.
    Clean,
    /// Done with differences, or refused.
    Differences,
    /// `MIGRATE --finish` with a limit of downtime has taken the domain back to live.
    BackToLive,
    /// Stopped by the operator.
    Stopped,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Clean => Self::SUCCESS,
            Exit::Differences => Self::from(1),
            Exit::BackToLive => Self::from(3),
            Exit::Stopped => Self::from(130),
        }
    }
}

/// Why a command was refused or failed: what happened and what to do, with a stable code.
#[derive(Debug)]
pub struct Failure {
    /// Stable code, with a page in `docs/errors.md`.
    pub code: &'static str,
    /// What happened.
    pub what: String,
    /// What to do.
    pub remedy: String,
    /// A server was away or busy: the same may succeed later.
    pub may_pass: bool,
}

impl Failure {
    /// A failure.
    pub fn new(code: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            remedy: remedy.into(),
            may_pass: false,
        }
    }

    /// The exit status of a command that ends with it.
    pub fn exit(&self) -> ExitCode {
        ExitCode::from(if MISUSE.contains(&self.code) { 2 } else { 1 })
    }

    fn passing(self, may_pass: bool) -> Self {
        Self { may_pass, ..self }
    }
}

impl Failure {
    /// Whether it says that somebody else has the domain by now.
    pub(crate) fn is_lost_lease(&self) -> bool {
        self.code == state::StateError::LostLease.code()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.what)?;
        if self.remedy.is_empty() {
            Ok(())
        } else {
            write!(f, " — {}", self.remedy)
        }
    }
}

impl std::error::Error for Failure {}

impl From<state::StateError> for Failure {
    fn from(error: state::StateError) -> Self {
        Self::new(error.code(), chain(&error), "").passing(error.kind() == state::Kind::Retry)
    }
}

impl From<couch::Error> for Failure {
    fn from(error: couch::Error) -> Self {
        Self::new(error.code(), chain(&error), error.remedy()).passing(error.kind() == couch::ErrorKind::Retry)
    }
}

impl From<hqsql::Error> for Failure {
    fn from(error: hqsql::Error) -> Self {
        Self::new(error.code(), chain(&error), error.remedy()).passing(error.kind() == hqsql::ErrorKind::Retry)
    }
}

impl From<broker::BrokerError> for Failure {
    fn from(error: broker::BrokerError) -> Self {
        Self::new(error.code(), chain(&error), error.remedy())
    }
}

impl From<blobs::Error> for Failure {
    fn from(error: blobs::Error) -> Self {
        Self::new(error.code(), chain(&error), error.remedy())
    }
}

impl From<service::config::ConfigError> for Failure {
    fn from(error: service::config::ConfigError) -> Self {
        Self::new(error.code(), chain(&error), error.remedy())
    }
}

impl From<service::process::StartFailure> for Failure {
    fn from(failure: service::process::StartFailure) -> Self {
        Self::new(failure.code(), failure.message(), "")
    }
}

/// Result of a command.
pub type Result<T, E = Failure> = std::result::Result<T, E>;
