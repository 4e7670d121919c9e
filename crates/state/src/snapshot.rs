//! What the target held of a domain when it was committed, and the steps of taking the commit back.
//!
//! The snapshot is kept in parts of some thousand documents, each with the ids in the order of their bytes, so that it is
//! written and compared part by part, however large the domain is.

use chrono::{DateTime, Utc};
use sqlx::Row;

use crate::migration::{DriverLease, held_update};
use crate::run::end_open_runs;
use crate::{MigrationId, State, StateError};

/// Kind of a document in the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DocKind {
    /// A form, with its operations.
    Form,
    /// A case, with its children and ledgers.
    Case,
}

impl DocKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Form, Self::Case];

    /// Its name in the state schema.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Case => "case",
        }
    }
}

/// A stretch of the snapshot: ids in the order of their bytes, each with the digest of its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotPart {
    /// Documents.
    pub ids: Vec<String>,
    /// Digests, in the same order.
    pub digests: Vec<i64>,
}

/// How far an uncommit has come. The order is the order of the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UncommitStep {
    /// Decided and on record. Only uncommit may go on from here.
    Intent,
    /// HQ's flag says in progress, HQ's caches were told and given their time, and the rows are those of the commit.
    Blocked,
    /// The Domain document says Couch.
    Switched,
}

impl UncommitStep {
    const ALL: [Self; 3] = [Self::Intent, Self::Blocked, Self::Switched];

    /// Its name in the state schema.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Blocked => "blocked",
            Self::Switched => "switched",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.as_str() == text)
    }
}

/// What is on record of a commit that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// When; `None` when it was done by a version that did not record it.
    pub at: Option<DateTime<Utc>>,
    /// Whether the commit completed HQ's time-zone row.
    pub time_zones: bool,
    /// Whether there is a snapshot.
    pub snapshot: bool,
}

impl State {
    /// Forgets the snapshot of a migration, before a new one is taken or when nobody needs it any more.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn drop_snapshot(&self, held: &DriverLease) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        sqlx::query("delete from commit_snapshot where migration_id = $1")
            .bind(held.migration_id.0)
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// Stores a part of the snapshot.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn store_snapshot_part(
        &self,
        held: &DriverLease,
        kind: DocKind,
        shard: i32,
        part: i32,
        content: &SnapshotPart,
    ) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        sqlx::query(
            "insert into commit_snapshot (migration_id, kind, shard, part, ids, digests) values ($1, $2, $3, $4, $5, $6)
             on conflict (migration_id, kind, shard, part) do update set ids = excluded.ids, digests = excluded.digests",
        )
        .bind(held.migration_id.0)
        .bind(kind.as_str())
        .bind(shard)
        .bind(part)
        .bind(&content.ids)
        .bind(&content.digests)
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    /// A part of the snapshot; `None` after the last.
    ///
    /// # Errors
    /// Database errors.
    pub async fn snapshot_part(
        &self,
        id: MigrationId,
        kind: DocKind,
        shard: i32,
        part: i32,
    ) -> Result<Option<SnapshotPart>, StateError> {
        let row = sqlx::query(
            "select ids, digests from commit_snapshot
             where migration_id = $1 and kind = $2 and shard = $3 and part = $4",
        )
        .bind(id.0)
        .bind(kind.as_str())
        .bind(shard)
        .bind(part)
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| {
            Ok(SnapshotPart {
                ids: row.try_get("ids")?,
                digests: row.try_get("digests")?,
            })
        })
        .transpose()
    }

    /// What is on record of a commit.
    ///
    /// # Errors
    /// Database errors.
    pub async fn committed(&self, id: MigrationId) -> Result<Committed, StateError> {
        let row = sqlx::query(
            "select committed_at, commit_time_zones,
                    exists (select from commit_snapshot where migration_id = $1) as snapshot
             from migration where id = $1",
        )
        .bind(id.0)
        .fetch_one(&self.pool)
        .await?;
        Ok(Committed {
            at: row.try_get("committed_at")?,
            time_zones: row.try_get("commit_time_zones")?,
            snapshot: row.try_get("snapshot")?,
        })
    }

    /// Records, before HQ's rows are completed, whether the commit is what completes the time-zone row.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn note_time_zones(&self, held: &DriverLease, completed_by_us: bool) -> Result<(), StateError> {
        held_update(
            // A commit that goes on after a crash finds the row completed by itself.
            &sqlx::query(
                "update migration set commit_time_zones = commit_time_zones or $4
                 where id = $1 and driver_token = $2 and epoch = $3",
            )
            .bind(held.migration_id.0)
            .bind(held.token)
            .bind(held.epoch.0)
            .bind(completed_by_us)
            .execute(&self.pool)
            .await?,
        )
    }

    /// Records a step of an uncommit, before the next one is taken; `None` gives it up.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn set_uncommit_step(&self, held: &DriverLease, step: Option<UncommitStep>) -> Result<(), StateError> {
        held_update(
            &sqlx::query("update migration set uncommit_step = $4 where id = $1 and driver_token = $2 and epoch = $3")
                .bind(held.migration_id.0)
                .bind(held.token)
                .bind(held.epoch.0)
                .bind(step.map(UncommitStep::as_str))
                .execute(&self.pool)
                .await?,
        )
    }

    /// Ends an uncommit: the migration is in progress again and must run once more before it can be committed. The snapshot
    /// goes, and so do runs whose driver died in the commit: nobody is to go on with that.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn uncommitted(&self, held: &DriverLease) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        sqlx::query(
            "update migration
             set status = 'in_progress', phase = 'idle', finished_at = null, progress_set_at = now(), commit_step = null,
                 commit_rev = null, committed_at = null, switched_at = null, commit_time_zones = false,
                 uncommit_step = null
             where id = $1",
        )
        .bind(held.migration_id.0)
        .execute(&mut *tx)
        .await?;
        for sql in [
            "delete from commit_snapshot where migration_id = $1",
            "delete from late_form where migration_id = $1",
        ] {
            sqlx::query(sql).bind(held.migration_id.0).execute(&mut *tx).await?;
        }
        end_open_runs(&mut tx, held.migration_id, "its COMMIT was taken back").await?;
        Ok(tx.commit().await?)
    }

    /// Forgets the snapshots of commits that are older than the time in which they may be taken back.
    ///
    /// # Errors
    /// Database errors.
    pub async fn forget_old_snapshots(&self, window: std::time::Duration) -> Result<u64, StateError> {
        Ok(sqlx::query(
            "delete from commit_snapshot where migration_id in (
                 select id from migration where committed_at < now() - make_interval(secs => $1) and uncommit_step is null)",
        )
        .bind(window.as_secs_f64())
        .execute(&self.pool)
        .await?
        .rows_affected())
    }

    /// Puts forms, as (type, id), on record that reached Couch after the last scan of a domain that is on SQL.
    ///
    /// # Errors
    /// Database errors.
    pub async fn record_late_forms(&self, id: MigrationId, forms: &[(String, String)]) -> Result<(), StateError> {
        let (kinds, ids): (Vec<&str>, Vec<&str>) = forms.iter().map(|(kind, id)| (kind.as_str(), id.as_str())).unzip();
        sqlx::query(
            "insert into late_form (migration_id, kind, form_id)
             select $1, kind, id from unnest($2::text[], $3::text[]) i(kind, id) on conflict do nothing",
        )
        .bind(id.0)
        .bind(&kinds)
        .bind(&ids)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// How many late forms are on record, and the first of them.
    ///
    /// # Errors
    /// Database errors.
    pub async fn late_forms(&self, id: MigrationId, limit: i64) -> Result<(i64, Vec<String>), StateError> {
        let count = sqlx::query_scalar("select count(*) from late_form where migration_id = $1")
            .bind(id.0)
            .fetch_one(&self.pool)
            .await?;
        let first = sqlx::query_scalar("select form_id from late_form where migration_id = $1 order by 1 limit $2")
            .bind(id.0)
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        Ok((count, first))
    }
}
