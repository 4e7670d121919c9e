//! Whose a domain is, asked at the last moment: while a row of HQ's or a fence is locked, and before a Domain document is
//! written.

use hqsql::Claim;
use proto::ids::Epoch;
use state::migration::DriverLease;
use state::{MigrationId, State};

use crate::failure::{Failure, Result};

/// The claim of a driver, or of a command that holds the domain's lease.
#[derive(Clone, Copy)]
pub(crate) struct Leased<'a> {
    pub(crate) state: &'a State,
    pub(crate) lease: &'a DriverLease,
}

impl Claim for Leased<'_> {
    type Lost = Failure;

    async fn check(&self) -> Result<()> {
        Ok(self.state.check_lease(self.lease).await?)
    }
}

/// The claim of a reset: as long as it is on.
#[derive(Clone, Copy)]
pub(crate) struct Resetting<'a> {
    pub(crate) state: &'a State,
    pub(crate) id: MigrationId,
    pub(crate) epoch: Epoch,
}

impl Claim for Resetting<'_> {
    type Lost = Failure;

    async fn check(&self) -> Result<()> {
        if self.state.is_purging(self.id, self.epoch).await? {
            Ok(())
        } else {
            Err(state::StateError::EpochOver.into())
        }
    }
}
