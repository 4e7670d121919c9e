//! Who may change HQ's progress rows and the fences of a domain.
//!
//! Who drives a domain is decided elsewhere, by a lease; a process that was suspended past its lease does not know that it
//! has lost it. So it is asked once more at the last moment: while the row that is to change is locked. Whoever has taken
//! the lease before that is found out, and whoever takes it afterwards waits for the row, and writes later. A process that
//! is suspended with the row locked has its session ended by PostgreSQL (`idle_in_transaction_timeout`), and its change is
//! rolled back.

use std::future::Future;

use crate::error::{Error, Result};

/// Asked whether a change may still be made.
pub trait Claim: Sync {
    /// Why not; and what went wrong with the change itself.
    type Lost: From<Error> + Send;

    /// Fails when the domain is somebody else's by now.
    fn check(&self) -> impl Future<Output = Result<(), Self::Lost>> + Send;
}

/// The claim of one who has the databases for itself: nobody is asked.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Claim for Alone {
    type Lost = Error;

    async fn check(&self) -> Result<()> {
        Ok(())
    }
}
