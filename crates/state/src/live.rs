//! Live migrations: their cut-off, and the way back to live from in progress.

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Transaction};

use crate::migration::DriverLease;
use crate::run::end_open_runs;
use crate::{MigrationId, State, StateError};

impl State {
    /// Puts the cut-off of a live run on record, where every driver of the run and every diff worker finds it; `None` for a
    /// run that takes everything. A run that goes on keeps the cut-off that it began with. Gives what holds.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn set_cutoff(
        &self,
        held: &DriverLease,
        run_id: i64,
        cutoff: Option<DateTime<Utc>>,
    ) -> Result<Option<DateTime<Utc>>, StateError> {
        let mut tx = self.driver_tx(held).await?;
        let cutoff: Option<DateTime<Utc>> = sqlx::query_scalar(
            "update run set cutoff = case when $2::timestamptz is not null then coalesce(cutoff, $2) end
             where id = $1 returning cutoff",
        )
        .bind(run_id)
        .bind(cutoff)
        .fetch_one(&mut *tx)
        .await?;
        tell_workers(&mut tx, held, cutoff).await?;
        tx.commit().await?;
        Ok(cutoff)
    }

    /// Moves the cut-off of a live run on, for its scans and for diff workers.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn move_cutoff(&self, held: &DriverLease, run_id: i64, cutoff: DateTime<Utc>) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        sqlx::query("update run set cutoff = $2 where id = $1")
            .bind(run_id)
            .bind(cutoff)
            .execute(&mut *tx)
            .await?;
        tell_workers(&mut tx, held, Some(cutoff)).await?;
        Ok(tx.commit().await?)
    }

    /// How many cases a live migration does not compare yet, since Couch has changed them after its cut-off.
    ///
    /// # Errors
    /// Database errors.
    pub async fn young_cases(&self, id: MigrationId) -> Result<i64, StateError> {
        Ok(sqlx::query_scalar(
            "select count(*) from case_state s join migration m on m.id = s.migration_id
             where m.id = $1 and s.diffed_generation is distinct from s.generation and s.late_until > m.live_cutoff",
        )
        .bind(id.0)
        .fetch_one(&self.pool)
        .await?)
    }

    /// Takes a migration in progress back to live. What the last run finished no longer counts, and the scans for missing
    /// documents start anew.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn unfinish(&self, held: &DriverLease) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        live_again(&mut tx, held).await?;
        // A run whose driver died would stop submissions again as soon as anyone took it up.
        end_open_runs(&mut tx, held.migration_id, "the domain was taken back to live").await?;
        Ok(tx.commit().await?)
    }

    /// As [`State::unfinish`], by a run itself, which is on record as going back: whoever takes it up does nothing else.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn go_back_to_live(&self, held: &DriverLease, run_id: i64) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        live_again(&mut tx, held).await?;
        sqlx::query("update run set back_to_live_at = coalesce(back_to_live_at, now()) where id = $1")
            .bind(run_id)
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// Whether a run is going back to live.
    ///
    /// # Errors
    /// Database errors.
    pub async fn goes_back_to_live(&self, run_id: i64) -> Result<bool, StateError> {
        Ok(
            sqlx::query_scalar("select back_to_live_at is not null from run where id = $1")
                .bind(run_id)
                .fetch_one(&self.pool)
                .await?,
        )
    }
}

/// Puts the cut-off where diff workers read it.
async fn tell_workers(
    tx: &mut Transaction<'_, Postgres>,
    held: &DriverLease,
    cutoff: Option<DateTime<Utc>>,
) -> Result<(), StateError> {
    sqlx::query("update migration set live_cutoff = $2 where id = $1")
        .bind(held.migration_id.0)
        .bind(cutoff)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// What `unfinish` means for our own record. The cut-off is again that of the last live run, or the start of the migration:
/// what was changed later is not compared, or patched, before a run has taken its forms.
async fn live_again(tx: &mut Transaction<'_, Postgres>, held: &DriverLease) -> Result<(), StateError> {
    sqlx::query(
        "update migration m set status = 'dry_run', phase = 'idle', finished_at = null, progress_set_at = null,
                live_cutoff = coalesce((select max(r.cutoff) from run r where r.migration_id = m.id
                                        and (r.ended_at is null or r.ended_at >= m.started_at)), m.started_at)
         where id = $1 and status = 'in_progress'",
    )
    .bind(held.migration_id.0)
    .execute(&mut **tx)
    .await?;
    sqlx::query("delete from scan_cursor where migration_id = $1 and scan like 'missing:%'")
        .bind(held.migration_id.0)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
