//! The migration of one domain: its row, its lease, its epoch.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use proto::ids::{Domain, Epoch};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::snapshot::UncommitStep;
use crate::{State, StateError};

/// Key of the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MigrationId(pub i32);

/// Status of a domain's migration: HQ's contract, mirrored in its progress table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Nothing has begun, or a reset has undone it.
    NotStarted,
    /// Live: submissions go on.
    DryRun,
    /// HQ refuses submissions; set by `MIGRATE`, ended by `COMMIT` or `reset`.
    InProgress,
    /// The domain is on SQL. Set by `COMMIT`; nothing leaves it.
    Complete,
}

impl Status {
    /// HQ's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotStarted => "not_started",
            Self::DryRun => "dry_run",
            Self::InProgress => "in_progress",
            Self::Complete => "complete",
        }
    }

    /// The status of that name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::NotStarted, Self::DryRun, Self::InProgress, Self::Complete]
            .into_iter()
            .find(|s| s.as_str() == text)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the driver is doing; a phase begins when the one before it has drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// No run is on.
    Idle,
    /// Documents are scanned, and staged by form workers.
    Scan,
    /// Dirty cases are replayed.
    Replay,
    /// HQ's caches may still let submissions through: wait, then scan what came.
    Settle,
    /// Cases are compared.
    Diff,
    /// Patch forms are written, and their cases compared again.
    Patch,
    /// The ids of both sides are compared.
    Missing,
    /// The run has been through all phases, and takes what changes from now on.
    Follow,
    /// The last run went through all phases.
    Finished,
}

impl Phase {
    const ALL: [Self; 9] = [
        Self::Idle,
        Self::Scan,
        Self::Replay,
        Self::Settle,
        Self::Diff,
        Self::Patch,
        Self::Missing,
        Self::Follow,
        Self::Finished,
    ];

    /// Its name in the state schema and in `stats`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Scan => "scan",
            Self::Replay => "replay",
            Self::Settle => "settle",
            Self::Diff => "diff",
            Self::Patch => "patch",
            Self::Missing => "missing",
            Self::Follow => "follow",
            Self::Finished => "finished",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far a `COMMIT` has come. The order is the order of the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CommitStep {
    /// Decided and on record. From here on forward is the only way, but for an explicit abort.
    Intent,
    /// The target's fences are closed: no worker can write.
    Fenced,
    /// The Domain document says SQL.
    Switched,
    /// HQ's progress rows say so too.
    Done,
}

impl CommitStep {
    /// Its name in the state schema.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Fenced => "fenced",
            Self::Switched => "switched",
            Self::Done => "done",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Intent, Self::Fenced, Self::Switched, Self::Done]
            .into_iter()
            .find(|s| s.as_str() == text)
    }
}

/// One domain's migration.
#[derive(Clone, Debug)]
pub struct Migration {
    /// Key.
    pub id: MigrationId,
    /// Domain.
    pub domain: Domain,
    /// Epoch.
    pub epoch: Epoch,
    /// Status.
    pub status: Status,
    /// Phase.
    pub phase: Phase,
    /// A reset is deleting rows.
    pub purging: bool,
    /// Domain options, frozen at the first start.
    pub options: serde_json::Value,
    /// When HQ's progress flag was set.
    pub progress_set_at: Option<DateTime<Utc>>,
    /// When the migration was started.
    pub started_at: Option<DateTime<Utc>>,
    /// When the last run went through all phases.
    pub finished_at: Option<DateTime<Utc>>,
    /// Commit step, when a commit has begun.
    pub commit_step: Option<CommitStep>,
    /// Revision of the Domain document at the intent.
    pub commit_rev: Option<String>,
    /// How far an uncommit has come, when one has begun.
    pub uncommit_step: Option<UncommitStep>,
    /// Cut-off of the last run, while the migration is live: documents and cases that are later are left for another run.
    pub live_cutoff: Option<DateTime<Utc>>,
    /// Who drives it, while the lease holds.
    pub driver: Option<String>,
}

impl Migration {
    fn from_row(row: &PgRow) -> Result<Self, StateError> {
        let status: String = row.try_get("status")?;
        let phase: String = row.try_get("phase")?;
        let step: Option<String> = row.try_get("commit_step")?;
        let uncommit: Option<String> = row.try_get("uncommit_step")?;
        let options: String = row.try_get("options")?;
        Ok(Self {
            id: MigrationId(row.try_get("id")?),
            domain: Domain::new(row.try_get::<String, _>("domain")?),
            epoch: Epoch(row.try_get("epoch")?),
            status: Status::parse(&status).ok_or(StateError::Corrupt("status"))?,
            phase: Phase::ALL
                .into_iter()
                .find(|p| p.as_str() == phase)
                .ok_or(StateError::Corrupt("phase"))?,
            purging: row.try_get("purging")?,
            options: serde_json::from_str(&options).map_err(|_| StateError::Corrupt("options"))?,
            progress_set_at: row.try_get("progress_set_at")?,
            started_at: row.try_get("started_at")?,
            finished_at: row.try_get("finished_at")?,
            commit_step: step
                .map(|text| CommitStep::parse(&text).ok_or(StateError::Corrupt("commit step")))
                .transpose()?,
            commit_rev: row.try_get("commit_rev")?,
            uncommit_step: uncommit
                .map(|text| UncommitStep::parse(&text).ok_or(StateError::Corrupt("uncommit step")))
                .transpose()?,
            live_cutoff: row.try_get("live_cutoff")?,
            driver: row.try_get("driver")?,
        })
    }
}

/// Proof that this process drives the domain.
#[derive(Clone, Debug)]
pub struct DriverLease {
    /// Migration.
    pub migration_id: MigrationId,
    /// Epoch at the time of taking it.
    pub epoch: Epoch,
    /// Token.
    pub token: Uuid,
}

/// Who drives a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Name of the process.
    pub name: String,
    /// Its token: another one means that somebody else has taken the lease since.
    pub token: Uuid,
    /// What is left of the lease.
    pub left: Duration,
}

impl State {
    /// The migration of a domain, if one was ever recorded.
    ///
    /// # Errors
    /// Database errors.
    pub async fn migration(&self, domain: &Domain) -> Result<Option<Migration>, StateError> {
        let row = sqlx::query(
            "select id, domain, epoch, status, phase, purging, options::text as options, progress_set_at, started_at, finished_at,
                    commit_step, commit_rev, uncommit_step, live_cutoff, case when driver_until > now() then driver_name end as driver
             from migration where domain = $1",
        )
        .bind(domain.as_str())
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(Migration::from_row).transpose()
    }

    /// The migration of a domain, recorded now if it was not.
    ///
    /// # Errors
    /// Database errors.
    pub async fn ensure_migration(&self, domain: &Domain) -> Result<Migration, StateError> {
        sqlx::query("insert into migration (domain, epoch) values ($1, $2) on conflict (domain) do nothing")
            .bind(domain.as_str())
            .bind(Epoch(0).next(rand::random()).0)
            .execute(&self.pool)
            .await?;
        self.migration(domain)
            .await?
            .ok_or(StateError::Corrupt("migration row"))
    }

    /// Migrations in any state but `not_started`, and those whose reset has not ended, by domain.
    ///
    /// # Errors
    /// Database errors.
    pub async fn started_migrations(&self) -> Result<Vec<Migration>, StateError> {
        let rows = sqlx::query(
            "select id, domain, epoch, status, phase, purging, options::text as options, progress_set_at, started_at, finished_at,
                    commit_step, commit_rev, uncommit_step, live_cutoff, case when driver_until > now() then driver_name end as driver
             from migration where status <> 'not_started' or purging order by domain",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(Migration::from_row).collect()
    }

    /// Takes the driver's lease if nobody holds it.
    ///
    /// # Errors
    /// Database errors. `Ok(None)`: somebody else drives, or a reset has begun and not ended.
    pub async fn take_lease(
        &self,
        id: MigrationId,
        name: &str,
        lease: Duration,
    ) -> Result<Option<DriverLease>, StateError> {
        let token = Uuid::new_v4();
        let epoch: Option<i64> = sqlx::query_scalar(
            "update migration
             set driver_token = $2, driver_name = $3, driver_until = now() + make_interval(secs => $4)
             where id = $1 and not purging and (driver_until is null or driver_until <= now())
             returning epoch",
        )
        .bind(id.0)
        .bind(token)
        .bind(name)
        .bind(lease.as_secs_f64())
        .fetch_optional(&self.pool)
        .await?;
        Ok(epoch.map(|epoch| DriverLease {
            migration_id: id,
            epoch: Epoch(epoch),
            token,
        }))
    }

    /// Keeps the lease for another while.
    ///
    /// # Errors
    /// [`StateError::LostLease`] when somebody else has it, or the migration was reset.
    pub async fn renew_lease(&self, held: &DriverLease, lease: Duration) -> Result<(), StateError> {
        let kept = sqlx::query(
            "update migration set driver_until = now() + make_interval(secs => $4)
             where id = $1 and driver_token = $2 and epoch = $3",
        )
        .bind(held.migration_id.0)
        .bind(held.token)
        .bind(held.epoch.0)
        .bind(lease.as_secs_f64())
        .execute(&self.pool)
        .await?
        .rows_affected();
        if kept == 1 { Ok(()) } else { Err(StateError::LostLease) }
    }

    /// Whether the lease still holds.
    ///
    /// # Errors
    /// [`StateError::LostLease`] when somebody else has it, or the migration was reset.
    pub async fn check_lease(&self, held: &DriverLease) -> Result<(), StateError> {
        let holds: Option<i32> = sqlx::query_scalar(
            "select 1 from migration where id = $1 and driver_token = $2 and epoch = $3 and not purging",
        )
        .bind(held.migration_id.0)
        .bind(held.token)
        .bind(held.epoch.0)
        .fetch_optional(&self.pool)
        .await?;
        holds.map(drop).ok_or(StateError::LostLease)
    }

    /// Gives the lease back; nothing happens if it was lost.
    ///
    /// # Errors
    /// Database errors.
    pub async fn drop_lease(&self, held: &DriverLease) -> Result<(), StateError> {
        sqlx::query(
            "update migration set driver_token = null, driver_until = null where id = $1 and driver_token = $2",
        )
        .bind(held.migration_id.0)
        .bind(held.token)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Records that the migration starts, or goes from live to in progress, before HQ's progress flag is set: if this process
    /// dies in between, the next one knows whose flag it is. A migration that has started already keeps its options. A
    /// change of status takes back what was finished under the old one.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn mark_started(
        &self,
        held: &DriverLease,
        status: Status,
        source_seq: &str,
        options: &serde_json::Value,
    ) -> Result<(), StateError> {
        held_update(
            &sqlx::query(
                "update migration
                 set status = $4, started_at = coalesce(started_at, now()), source_seq = coalesce(source_seq, $5),
                     options = case when started_at is null then $6::jsonb else options end,
                     phase = case when status = $4 then phase else 'idle' end,
                     finished_at = case when status = $4 then finished_at end,
                     progress_set_at = case when status = $4 then progress_set_at end
                 where id = $1 and driver_token = $2 and epoch = $3",
            )
            .bind(held.migration_id.0)
            .bind(held.token)
            .bind(held.epoch.0)
            .bind(status.as_str())
            .bind(source_seq)
            .bind(options.to_string())
            .execute(&self.pool)
            .await?,
        )
    }

    /// Records that HQ's progress flag is set: its caches may be behind for a while from now.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn mark_progress_set(&self, held: &DriverLease) -> Result<(), StateError> {
        held_update(
            &sqlx::query(
                "update migration set progress_set_at = coalesce(progress_set_at, now())
                 where id = $1 and driver_token = $2 and epoch = $3",
            )
            .bind(held.migration_id.0)
            .bind(held.token)
            .bind(held.epoch.0)
            .execute(&self.pool)
            .await?,
        )
    }

    /// Who holds the driver's lease, and how long it lasts unless it is renewed; `None` when nobody does.
    ///
    /// # Errors
    /// Database errors.
    pub async fn holder(&self, id: MigrationId) -> Result<Option<Holder>, StateError> {
        let row = sqlx::query(
            "select coalesce(driver_name, '') as name, driver_token, extract(epoch from driver_until - now())::double precision as left
             from migration where id = $1 and driver_until > now() and driver_token is not null",
        )
        .bind(id.0)
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| {
            let left: f64 = row.try_get("left")?;
            Ok(Holder {
                name: row.try_get("name")?,
                token: row.try_get("driver_token")?,
                left: Duration::from_secs_f64(left.max(0.0)),
            })
        })
        .transpose()
    }

    /// The domain options that were frozen when the migration started.
    ///
    /// # Errors
    /// Database errors.
    pub async fn options(&self, id: MigrationId) -> Result<serde_json::Value, StateError> {
        let text: String = sqlx::query_scalar("select options::text from migration where id = $1")
            .bind(id.0)
            .fetch_one(&self.pool)
            .await?;
        serde_json::from_str(&text).map_err(|_| StateError::Corrupt("options"))
    }

    /// The clock of the state server, by which all waiting times are measured.
    ///
    /// # Errors
    /// Database errors.
    pub async fn now(&self) -> Result<DateTime<Utc>, StateError> {
        Ok(sqlx::query_scalar("select now()").fetch_one(&self.pool).await?)
    }

    /// Records the phase; [`Phase::Finished`] also records the time.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn set_phase(&self, held: &DriverLease, phase: Phase) -> Result<(), StateError> {
        held_update(
            &sqlx::query(
                "update migration set phase = $4, finished_at = case when $4 = 'finished' then now() end
                 where id = $1 and driver_token = $2 and epoch = $3",
            )
            .bind(held.migration_id.0)
            .bind(held.token)
            .bind(held.epoch.0)
            .bind(phase.as_str())
            .execute(&self.pool)
            .await?,
        )
    }
}

pub(crate) fn held_update(result: &sqlx::postgres::PgQueryResult) -> Result<(), StateError> {
    if result.rows_affected() == 1 {
        Ok(())
    } else {
        Err(StateError::LostLease)
    }
}
