//! Reset: logical at once, by a new epoch; then a purge that can be interrupted and resumed.

use proto::ids::Epoch;
use sqlx::{Postgres, Row, Transaction};

use crate::lists::begun_by_list;
use crate::run::end_open_runs;
use crate::{MigrationId, State, StateError};

/// Tables whose rows go in chunks, the largest first, and then those that are small.
const PURGED: [&str; 28] = [
    "delete from dirty_case where ctid = any(array(select ctid from dirty_case where migration_id = $1 limit $2))",
    "delete from case_checkpoint where ctid = any(array(select ctid from case_checkpoint where migration_id = $1 limit $2))",
    "delete from case_state where ctid = any(array(select ctid from case_state where migration_id = $1 limit $2))",
    "delete from doc_revision where ctid = any(array(select ctid from doc_revision where migration_id = $1 limit $2))",
    "delete from case_event where ctid = any(array(select ctid from case_event where migration_id = $1 limit $2))",
    "delete from case_order where ctid = any(array(select ctid from case_order where migration_id = $1 limit $2))",
    "delete from doc_diff where ctid = any(array(select ctid from doc_diff where migration_id = $1 limit $2))",
    "delete from ignored_diff where ctid = any(array(select ctid from ignored_diff where migration_id = $1 limit $2))",
    "delete from operator_rule where ctid = any(array(select ctid from operator_rule where migration_id = $1 limit $2))",
    "delete from doc_change where ctid = any(array(select ctid from doc_change where migration_id = $1 limit $2))",
    "delete from missing_doc where ctid = any(array(select ctid from missing_doc where migration_id = $1 limit $2))",
    "delete from doc_error where ctid = any(array(select ctid from doc_error where migration_id = $1 limit $2))",
    // By key: a claim that is given back at this moment moves its row, and must not save it.
    "delete from batch where id in (select id from batch where migration_id = $1 limit $2)",
    "delete from form_verdict where ctid = any(array(select ctid from form_verdict where migration_id = $1 limit $2))",
    "delete from problem_form where ctid = any(array(select ctid from problem_form where migration_id = $1 limit $2))",
    "delete from no_action_case_form where ctid = any(array(select ctid from no_action_case_form where migration_id = $1 limit $2))",
    "delete from forced_form where ctid = any(array(select ctid from forced_form where migration_id = $1 limit $2))",
    "delete from lost_form where ctid = any(array(select ctid from lost_form where migration_id = $1 limit $2))",
    "delete from patch_form where ctid = any(array(select ctid from patch_form where migration_id = $1 limit $2))",
    "delete from patch_refusal where ctid = any(array(select ctid from patch_refusal where migration_id = $1 limit $2))",
    "delete from patched_case where ctid = any(array(select ctid from patched_case where migration_id = $1 limit $2))",
    "delete from late_form where ctid = any(array(select ctid from late_form where migration_id = $1 limit $2))",
    "delete from commit_snapshot where ctid = any(array(select ctid from commit_snapshot where migration_id = $1 limit $2))",
    "delete from stage_total where ctid = any(array(select ctid from stage_total where migration_id = $1 limit $2))",
    "delete from scan_cursor where ctid = any(array(select ctid from scan_cursor where migration_id = $1 limit $2))",
    "delete from doc_count where ctid = any(array(select ctid from doc_count where migration_id = $1 limit $2))",
    "delete from changed_doc where ctid = any(array(select ctid from changed_doc where migration_id = $1 limit $2))",
    "delete from followed where ctid = any(array(select ctid from followed where migration_id = $1 limit $2))",
];

impl State {
    /// Ends the migration's epoch: from here on every worker and driver of the old one is refused. Waits for their
    /// transactions in flight. Gives the epoch that the target's fences must take.
    ///
    /// # Errors
    /// [`StateError::NotResettable`] when a commit has begun or is done: looked at in the same transaction, since the
    /// operator may have taken long to confirm.
    pub async fn begin_reset(&self, id: MigrationId) -> Result<Epoch, StateError> {
        let tx = self.pool.begin().await?;
        self.end_epoch(tx, id).await
    }

    /// As [`State::begin_reset`], for a list: `None` when a command of its own has begun the migration, or has put a run of it
    /// on record meanwhile.
    ///
    /// # Errors
    /// [`StateError::NotResettable`].
    pub async fn begin_reset_of_list(&self, id: MigrationId) -> Result<Option<Epoch>, StateError> {
        let mut tx = self.pool.begin().await?;
        // Runs are put on record under the same lock.
        sqlx::query("select id from migration where id = $1 for no key update")
            .bind(id.0)
            .execute(&mut *tx)
            .await?;
        if !begun_by_list(&mut *tx, id).await? {
            return Ok(None);
        }
        self.end_epoch(tx, id).await.map(Some)
    }

    async fn end_epoch(&self, mut tx: Transaction<'static, Postgres>, id: MigrationId) -> Result<Epoch, StateError> {
        let row = sqlx::query(
            "select epoch, purging, commit_step is not null or status = 'complete' as committed
             from migration where id = $1 for no key update",
        )
        .bind(id.0)
        .fetch_one(&mut *tx)
        .await?;
        if row.try_get("committed")? {
            return Err(StateError::NotResettable);
        }
        let current = Epoch(row.try_get("epoch")?);
        let epoch = if row.try_get::<bool, _>("purging")? {
            current
        } else {
            current.next(rand::random())
        };
        sqlx::query(
            "update migration
             set epoch = $2, purging = true, status = 'not_started', phase = 'idle', progress_set_at = null,
                 source_seq = null, started_at = null, finished_at = null, looked_seq = null, looked_identity = null,
                 committed_at = null,
                 commit_time_zones = false, options = '{}',
                 driver_token = null, driver_until = null, driver_name = null
             where id = $1",
        )
        .bind(id.0)
        .bind(epoch.0)
        .execute(&mut *tx)
        .await?;
        end_open_runs(&mut tx, id, "the migration was reset").await?;
        tx.commit().await?;
        // Only now, when no new transaction of the old epoch can begin, is there an end to waiting for those that have:
        // `for update` waits for their `for key share`, and busy workers would overtake it for ever.
        sqlx::query("select 1 from migration where id = $1 for update")
            .bind(id.0)
            .execute(&self.pool)
            .await?;
        Ok(epoch)
    }

    /// Deletes some of the migration's rows. Gives how many; none: nothing is left.
    ///
    /// # Errors
    /// [`StateError::EpochOver`] when no reset is on: another one has ended it, and the rows are a new migration's.
    pub async fn purge_chunk(&self, id: MigrationId, limit: i64) -> Result<u64, StateError> {
        let mut tx = self.purge_tx(id).await?;
        let deleted = purge_some(&mut tx, id, limit).await?;
        tx.commit().await?;
        Ok(deleted)
    }

    /// A transaction of a reset: it fails unless one is on, and none ends before it does.
    pub(crate) async fn purge_tx(&self, id: MigrationId) -> Result<Transaction<'static, Postgres>, StateError> {
        let mut tx = self.pool.begin().await?;
        let purging: Option<bool> = sqlx::query_scalar("select purging from migration where id = $1 for share")
            .bind(id.0)
            .fetch_optional(&mut *tx)
            .await?;
        if purging != Some(true) {
            return Err(StateError::EpochOver);
        }
        Ok(tx)
    }

    /// Whether the reset of this epoch is still on: another one may have ended it.
    ///
    /// # Errors
    /// Database errors.
    pub async fn is_purging(&self, id: MigrationId, epoch: Epoch) -> Result<bool, StateError> {
        Ok(
            sqlx::query_scalar("select purging from migration where id = $1 and epoch = $2")
                .bind(id.0)
                .bind(epoch.0)
                .fetch_optional(&self.pool)
                .await?
                .unwrap_or(false),
        )
    }

    /// Ends the reset of this epoch: the domain can be migrated again. Nothing happens when another one has ended it.
    ///
    /// # Errors
    /// Database errors.
    pub async fn end_reset(&self, id: MigrationId, epoch: Epoch) -> Result<(), StateError> {
        sqlx::query("update migration set purging = false where id = $1 and epoch = $2")
            .bind(id.0)
            .bind(epoch.0)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

async fn purge_some(tx: &mut Transaction<'_, Postgres>, id: MigrationId, limit: i64) -> Result<u64, StateError> {
    let staged = sqlx::query(
        "delete from staged_update s using (
             select bucket, case_id, form_id from staged_update where migration_id = $1 limit $2) d
         where s.migration_id = $1 and s.bucket = d.bucket and s.case_id = d.case_id and s.form_id = d.form_id",
    )
    .bind(id.0)
    .bind(limit)
    .execute(&mut **tx)
    .await?
    .rows_affected();
    if staged > 0 {
        return Ok(staged);
    }
    for sql in PURGED {
        let deleted = sqlx::query(sql)
            .bind(id.0)
            .bind(limit)
            .execute(&mut **tx)
            .await?
            .rows_affected();
        if deleted > 0 {
            return Ok(deleted);
        }
    }
    Ok(0)
}
