//! What ends a step of a drive before its end.

use state::{Kind, StateError};

use crate::failure::Failure;

/// What interrupts a phase.
pub(super) enum Interruption {
    Failed(Failure),
    LeaseLost,
    Operator,
    Shutdown,
    /// The run cannot end within its limit of downtime, for the reason told: the domain goes back to live.
    TooLong(String),
}

impl From<StateError> for Interruption {
    /// A lost lease is not a failure of the run: somebody else leads it now, or a reset has ended it.
    fn from(error: StateError) -> Self {
        if error.kind() == Kind::Lost {
            Self::LeaseLost
        } else {
            Self::Failed(error.into())
        }
    }
}

impl From<Failure> for Interruption {
    /// As a [`StateError`], which a command has made a failure of.
    fn from(failure: Failure) -> Self {
        if failure.is_lost_lease() {
            Self::LeaseLost
        } else {
            Self::Failed(failure)
        }
    }
}

impl From<couch::Error> for Interruption {
    fn from(error: couch::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<hqsql::Error> for Interruption {
    fn from(error: hqsql::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// What a step of a drive gives.
pub(super) type Step<T> = std::result::Result<T, Interruption>;
