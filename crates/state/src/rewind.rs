//! Sending a scan back, and checking what is on record against both databases.

use std::collections::HashMap;

use proto::doctype::DocType;
use proto::topology::Stage;
use sqlx::Row;

use crate::batch::insert_batch;
use crate::migration::DriverLease;
use crate::scan::{Cursor, cursor_from, save_cursor, with_buckets};
use crate::{MigrationId, State, StateError};

/// What the names of saved positions begin with.
pub const SAVED: &str = "resume-";

impl State {
    /// Moves a scan to a place that it has passed, or back to a saved one. Its present place is saved first, under a name that
    /// is given. Nothing counts as finished any more.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn rewind(&self, held: &DriverLease, scan: &str, to: &Cursor) -> Result<String, StateError> {
        let mut tx = self.driver_tx(held).await?;
        let saved: String =
            sqlx::query_scalar("select $1 || to_char(now() at time zone 'utc', 'YYYYMMDD-HH24MISS.US')")
                .bind(SAVED)
                .fetch_one(&mut *tx)
                .await?;
        sqlx::query(
            "insert into scan_cursor (migration_id, scan, after_key, after_id, complete, scanned)
             select migration_id, $3, after_key, after_id, false, scanned from scan_cursor
             where migration_id = $1 and scan = $2",
        )
        .bind(held.migration_id.0)
        .bind(scan)
        .bind(&saved)
        .execute(&mut *tx)
        .await?;
        save_cursor(&mut tx, held.migration_id, scan, to).await?;
        sqlx::query("update migration set phase = 'idle', finished_at = null where id = $1")
            .bind(held.migration_id.0)
            .execute(&mut *tx)
            .await?;
        // A domain whose feed is whole has no need of what is on record already, unless somebody asks for it.
        sqlx::query("update followed set whole_generation = null where migration_id = $1")
            .bind(held.migration_id.0)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(saved)
    }

    /// Saved positions of a migration, with their names, oldest first.
    ///
    /// # Errors
    /// Database errors.
    pub async fn saved_positions(&self, id: MigrationId) -> Result<Vec<(String, Cursor)>, StateError> {
        let rows = sqlx::query(
            "select scan, after_key, after_id, complete, scanned from scan_cursor
             where migration_id = $1 and starts_with(scan, $2) order by scan",
        )
        .bind(id.0)
        .bind(SAVED)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| Ok((row.try_get("scan")?, cursor_from(row)?)))
            .collect()
    }

    /// How many cases each of these forms touches, by what is staged; forms that touch none are left out.
    ///
    /// # Errors
    /// Database errors.
    pub async fn cases_of_forms(
        &self,
        id: MigrationId,
        form_ids: &[String],
    ) -> Result<HashMap<String, i64>, StateError> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "select form_id, count(*) from staged_update where migration_id = $1 and form_id = any($2) group by form_id",
        )
        .bind(id.0)
        .bind(form_ids)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().collect())
    }

    /// Those of these documents that are on record as migrated, and neither failed nor refused.
    ///
    /// # Errors
    /// Database errors.
    pub async fn on_record_as_done(&self, id: MigrationId, doc_ids: &[String]) -> Result<Vec<String>, StateError> {
        Ok(sqlx::query_scalar(
            "select d.doc_id from doc_revision d where d.migration_id = $1 and d.doc_id = any($2) and not d.deleted
               and not exists (select from doc_error e where e.migration_id = $1 and e.doc_id = d.doc_id)
               and not exists (select from form_verdict v where v.migration_id = $1 and v.form_id = d.doc_id)
             order by 1",
        )
        .bind(id.0)
        .bind(doc_ids)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Those of these documents of which nothing is on record.
    ///
    /// # Errors
    /// Database errors.
    pub async fn not_on_record(&self, id: MigrationId, doc_ids: &[String]) -> Result<Vec<String>, StateError> {
        Ok(sqlx::query_scalar(
            "select i.id from unnest($2::text[]) i(id)
             where not exists (select from doc_revision d where d.migration_id = $1 and d.doc_id = i.id) order by 1",
        )
        .bind(id.0)
        .bind(doc_ids)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Has documents of a type migrated again.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn requeue_of_type(
        &self,
        held: &DriverLease,
        doc_type: DocType,
        doc_ids: &[String],
        batch: usize,
    ) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        for part in doc_ids.chunks(batch) {
            let stage = Stage::Form.as_str();
            insert_batch(&mut tx, held.migration_id.0, stage, doc_type.as_str(), part, None).await?;
        }
        Ok(tx.commit().await?)
    }

    /// Cases for which something is staged, in their order, after a case.
    ///
    /// # Errors
    /// Database errors.
    pub async fn staged_cases_after(
        &self,
        id: MigrationId,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<String>, StateError> {
        Ok(sqlx::query_scalar(
            "select case_id from staged_update where migration_id = $1 and (bucket, case_id) > ($2, $3)
             group by bucket, case_id order by bucket, case_id limit $4",
        )
        .bind(id.0)
        .bind(after.map_or(-1, proto::bucket::of))
        .bind(after.unwrap_or_default())
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Has cases replayed again.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn replay_again(&self, held: &DriverLease, case_ids: &[String]) -> Result<(), StateError> {
        let (buckets, ids) = with_buckets(case_ids);
        let mut tx = self.driver_tx(held).await?;
        sqlx::query(
            "insert into dirty_case (migration_id, bucket, case_id)
             select $1, bucket, case_id from unnest($2::smallint[], $3::text[]) i(bucket, case_id)",
        )
        .bind(held.migration_id.0)
        .bind(&buckets)
        .bind(&ids)
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    /// The first error of a document that came on record at a moment or later, as (kind, document, code).
    ///
    /// # Errors
    /// Database errors.
    pub async fn first_error_since(
        &self,
        id: MigrationId,
        since: chrono::DateTime<chrono::Utc>,
    ) -> Result<Option<(String, String, String)>, StateError> {
        Ok(sqlx::query_as(
            "select kind, doc_id, code from doc_error where migration_id = $1 and last_at >= $2
             order by last_at, kind, doc_id limit 1",
        )
        .bind(id.0)
        .bind(since)
        .fetch_optional(&self.pool)
        .await?)
    }
}
