//! HQ's own progress rows, in its default database. HQ refuses form submissions of a domain that has a row `in_progress`.
//! Every change is made under a [`Claim`]: when that is lost, nothing is changed.

use std::fmt;

use chrono::{DateTime, Utc};
use proto::ids::Domain;
use tokio_postgres::Transaction;

use crate::claim::Claim;
use crate::error::{Error, Result};
use crate::target::Target;

/// HQ's name of this migration.
const COUCH_TO_SQL: &str = "couch_to_sql";
/// HQ's name of the time-zone migration, which a domain on SQL must have behind it: SQL forms are always read so.
const TIME_ZONES: &str = "tzmigration";

/// Status of a migration, as HQ has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// No row, or one that says so.
    NotStarted,
    /// Live: HQ takes submissions.
    DryRun,
    /// HQ refuses submissions.
    InProgress,
    /// The domain is on SQL.
    Complete,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::NotStarted, Self::DryRun, Self::InProgress, Self::Complete];

    /// The text of HQ's column.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotStarted => "not_started",
            Self::DryRun => "dry_run",
            Self::InProgress => "in_progress",
            Self::Complete => "complete",
        }
    }

    /// The status of that text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// HQ's progress row of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Status.
    pub status: Status,
    /// Of the run, or of its finishing phase.
    pub started_on: Option<DateTime<Utc>>,
    /// Stays when a completed migration is reset.
    pub completed_on: Option<DateTime<Utc>>,
}

const SELECT: &str = "select migration_status, started_on, completed_on \
     from domain_migration_flags_domainmigrationprogress where domain = $1 and migration_slug = $2";

fn progress_of(row: Option<&tokio_postgres::Row>, domain: &Domain) -> Result<Progress> {
    let failed = Error::during("read HQ's progress row");
    let Some(row) = row else {
        return Ok(Progress {
            status: Status::NotStarted,
            started_on: None,
            completed_on: None,
        });
    };
    let text: String = row.try_get(0).map_err(&failed)?;
    Ok(Progress {
        status: Status::parse(&text).ok_or_else(|| Error::UnknownStatus {
            domain: domain.to_string(),
        })?,
        started_on: row.try_get(1).map_err(&failed)?,
        completed_on: row.try_get(2).map_err(&failed)?,
    })
}

/// Locks the row, which is made when it is missing, reads it, and asks whether it may still be changed.
async fn lock<C: Claim>(claim: &C, tx: &Transaction<'_>, domain: &Domain, slug: &str) -> Result<Progress, C::Lost> {
    let failed = Error::during("lock HQ's progress row");
    tx.execute(
        "insert into domain_migration_flags_domainmigrationprogress (domain, migration_slug, migration_status) \
         select $1::text, $2::text, 'not_started' where not exists (\
         select from domain_migration_flags_domainmigrationprogress where domain = $1::text and migration_slug = $2::text) \
         on conflict (domain, migration_slug) do nothing",
        &[&domain.as_str(), &slug],
    )
    .await
    .map_err(&failed)?;
    let row = tx
        .query_opt(&format!("{SELECT} for update"), &[&domain.as_str(), &slug])
        .await
        .map_err(&failed)?;
    claim.check().await?;
    Ok(progress_of(row.as_ref(), domain)?)
}

impl Target {
    /// Where HQ believes the domain's migration to be. No row means not started.
    ///
    /// # Errors
    /// Those of the database; [`Error::UnknownStatus`].
    pub async fn progress(&self, domain: &Domain) -> Result<Progress> {
        let client = self.default_database().client().await?;
        let row = client
            .query_opt(SELECT, &[&domain.as_str(), &COUCH_TO_SQL])
            .await
            .map_err(Error::during("read HQ's progress row"))?;
        progress_of(row.as_ref(), domain)
    }

    /// Starts the migration, as `DryRun` or `InProgress`. A dry run may go on to be in progress, which takes `now` as its
    /// start, as in HQ. What is so already stays as it is.
    ///
    /// # Errors
    /// [`Error::Progress`] from any other status, or to any other.
    pub async fn set_started<C: Claim>(
        &self,
        claim: &C,
        domain: &Domain,
        status: Status,
        now: DateTime<Utc>,
    ) -> Result<(), C::Lost> {
        let failed = Error::during("write HQ's progress row");
        let mut client = self.default_database().client().await?;
        let tx = client.transaction().await.map_err(&failed)?;
        let found = lock(claim, &tx, domain, COUCH_TO_SQL).await?.status;
        match (found, status) {
            (Status::DryRun, Status::DryRun) | (Status::InProgress, Status::InProgress) => return Ok(()),
            (Status::NotStarted, Status::DryRun | Status::InProgress) | (Status::DryRun, Status::InProgress) => {}
            _ => {
                return Err(C::Lost::from(Error::Progress {
                    domain: domain.to_string(),
                    wanted: status,
                    found,
                }));
            }
        }
        tx.execute(
            "update domain_migration_flags_domainmigrationprogress set migration_status = $3, started_on = $4 \
             where domain = $1 and migration_slug = $2",
            &[&domain.as_str(), &COUCH_TO_SQL, &status.as_str(), &now],
        )
        .await
        .map_err(&failed)?;
        Ok(tx.commit().await.map_err(&failed)?)
    }

    /// Takes a migration in progress back to a dry run, as HQ's `unfinish` does; `now` is its new start.
    ///
    /// # Errors
    /// [`Error::Progress`] when the migration is neither.
    pub async fn set_unfinished<C: Claim>(
        &self,
        claim: &C,
        domain: &Domain,
        now: DateTime<Utc>,
    ) -> Result<(), C::Lost> {
        let failed = Error::during("write HQ's progress row");
        let mut client = self.default_database().client().await?;
        let tx = client.transaction().await.map_err(&failed)?;
        let found = lock(claim, &tx, domain, COUCH_TO_SQL).await?.status;
        match found {
            Status::DryRun => return Ok(()),
            Status::InProgress => {}
            Status::NotStarted | Status::Complete => {
                return Err(C::Lost::from(Error::Progress {
                    domain: domain.to_string(),
                    wanted: Status::DryRun,
                    found,
                }));
            }
        }
        tx.execute(
            "update domain_migration_flags_domainmigrationprogress set migration_status = 'dry_run', started_on = $3 \
             where domain = $1 and migration_slug = $2",
            &[&domain.as_str(), &COUCH_TO_SQL, &now],
        )
        .await
        .map_err(&failed)?;
        Ok(tx.commit().await.map_err(&failed)?)
    }

    /// Takes the start back. `completed_on` is not touched.
    ///
    /// # Errors
    /// [`Error::Progress`] when the migration is complete.
    pub async fn set_not_started<C: Claim>(&self, claim: &C, domain: &Domain) -> Result<(), C::Lost> {
        let failed = Error::during("write HQ's progress row");
        let mut client = self.default_database().client().await?;
        let tx = client.transaction().await.map_err(&failed)?;
        let found = lock(claim, &tx, domain, COUCH_TO_SQL).await?.status;
        match found {
            Status::NotStarted => return Ok(()),
            Status::DryRun | Status::InProgress => {}
            Status::Complete => {
                return Err(C::Lost::from(Error::Progress {
                    domain: domain.to_string(),
                    wanted: Status::NotStarted,
                    found,
                }));
            }
        }
        tx.execute(
            "update domain_migration_flags_domainmigrationprogress \
             set migration_status = 'not_started', started_on = null where domain = $1 and migration_slug = $2",
            &[&domain.as_str(), &COUCH_TO_SQL],
        )
        .await
        .map_err(&failed)?;
        Ok(tx.commit().await.map_err(&failed)?)
    }

    /// Completes the migration, and the time-zone migration with it, in one transaction. What is complete already keeps
    /// its date.
    ///
    /// # Errors
    /// [`Error::Progress`] when either is a dry run; then neither is changed.
    pub async fn set_complete<C: Claim>(&self, claim: &C, domain: &Domain, now: DateTime<Utc>) -> Result<(), C::Lost> {
        let failed = Error::during("write HQ's progress row");
        let mut client = self.default_database().client().await?;
        let tx = client.transaction().await.map_err(&failed)?;
        for slug in [COUCH_TO_SQL, TIME_ZONES] {
            match lock(claim, &tx, domain, slug).await?.status {
                Status::Complete => continue,
                Status::NotStarted | Status::InProgress => {}
                found @ Status::DryRun => {
                    return Err(C::Lost::from(Error::Progress {
                        domain: domain.to_string(),
                        wanted: Status::Complete,
                        found,
                    }));
                }
            }
            tx.execute(
                "update domain_migration_flags_domainmigrationprogress \
                 set migration_status = 'complete', completed_on = $3 where domain = $1 and migration_slug = $2",
                &[&domain.as_str(), &slug, &now],
            )
            .await
            .map_err(&failed)?;
        }
        Ok(tx.commit().await.map_err(&failed)?)
    }

    /// Takes a complete migration back to in progress, so that HQ refuses submissions; `now` is its new start.
    /// `completed_on` and the time-zone migration are not touched.
    ///
    /// # Errors
    /// [`Error::Progress`] when the migration is neither.
    pub async fn set_incomplete<C: Claim>(
        &self,
        claim: &C,
        domain: &Domain,
        now: DateTime<Utc>,
    ) -> Result<(), C::Lost> {
        let failed = Error::during("write HQ's progress row");
        let mut client = self.default_database().client().await?;
        let tx = client.transaction().await.map_err(&failed)?;
        let found = lock(claim, &tx, domain, COUCH_TO_SQL).await?.status;
        match found {
            Status::InProgress => return Ok(()),
            Status::Complete => {}
            Status::NotStarted | Status::DryRun => {
                return Err(C::Lost::from(Error::Progress {
                    domain: domain.to_string(),
                    wanted: Status::InProgress,
                    found,
                }));
            }
        }
        tx.execute(
            "update domain_migration_flags_domainmigrationprogress set migration_status = 'in_progress', started_on = $3 \
             where domain = $1 and migration_slug = $2",
            &[&domain.as_str(), &COUCH_TO_SQL, &now],
        )
        .await
        .map_err(&failed)?;
        Ok(tx.commit().await.map_err(&failed)?)
    }

    /// Whether HQ has the time-zone migration of the domain behind it.
    ///
    /// # Errors
    /// Those of the database; [`Error::UnknownStatus`].
    pub async fn time_zones_are_complete(&self, domain: &Domain) -> Result<bool> {
        let client = self.default_database().client().await?;
        let row = client
            .query_opt(SELECT, &[&domain.as_str(), &TIME_ZONES])
            .await
            .map_err(Error::during("read HQ's progress row"))?;
        Ok(progress_of(row.as_ref(), domain)?.status == Status::Complete)
    }

    /// Takes the time-zone migration of a domain back to where it was before it was completed with this one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn take_back_time_zones<C: Claim>(&self, claim: &C, domain: &Domain) -> Result<(), C::Lost> {
        let failed = Error::during("write HQ's progress row");
        let mut client = self.default_database().client().await?;
        let tx = client.transaction().await.map_err(&failed)?;
        if lock(claim, &tx, domain, TIME_ZONES).await?.status != Status::Complete {
            return Ok(());
        }
        tx.execute(
            "update domain_migration_flags_domainmigrationprogress \
             set migration_status = 'not_started', started_on = null, completed_on = null \
             where domain = $1 and migration_slug = $2",
            &[&domain.as_str(), &TIME_ZONES],
        )
        .await
        .map_err(&failed)?;
        Ok(tx.commit().await.map_err(&failed)?)
    }
}
