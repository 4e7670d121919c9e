//! Asking for comparisons of cases that an operator names.

use proto::doctype::DocType;
use proto::topology::Stage;

use crate::batch::insert_batch;
use crate::migration::DriverLease;
use crate::scan::with_buckets;
use crate::{MigrationId, State, StateError};

impl State {
    /// Cuts diff batches of those of these cases that are pending, in their order, and of no others. Left out are, as from
    /// every cut, cases that are known to be later than the cut-off, and those whose batch was set aside. Gives how many
    /// batches there are.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn cut_diffs_of(
        &self,
        held: &DriverLease,
        case_ids: &[String],
        batch: usize,
    ) -> Result<usize, StateError> {
        let (buckets, ids) = with_buckets(case_ids);
        let mut tx = self.driver_tx(held).await?;
        let pending: Vec<String> = sqlx::query_scalar(
            "select s.case_id from (select distinct * from unnest($2::smallint[], $3::text[]) u(bucket, case_id)) i
             join case_state s on s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.case_id
             where s.diffed_generation is distinct from s.generation
               and not coalesce(s.late_until > (select live_cutoff from migration where id = $1), false)
               and s.case_id not in (select unnest(ids) from batch
                                     where migration_id = $1 and stage = 'diff' and state = 'parked')
             order by s.bucket, s.case_id",
        )
        .bind(held.migration_id.0)
        .bind(&buckets)
        .bind(&ids)
        .fetch_all(&mut *tx)
        .await?;
        let mut batches = 0;
        for part in pending.chunks(batch.max(1)) {
            let (stage, kind) = (Stage::Diff.as_str(), DocType::CommCareCase.as_str());
            insert_batch(&mut tx, held.migration_id.0, stage, kind, part, None).await?;
            batches += 1;
        }
        tx.commit().await?;
        Ok(batches)
    }

    /// How many of these forms nothing is on record of.
    ///
    /// # Errors
    /// Database errors.
    pub async fn unknown_forms(&self, id: MigrationId, form_ids: &[String]) -> Result<i64, StateError> {
        Ok(sqlx::query_scalar(
            "select count(*) from (select distinct unnest($2::text[]) as id) i
             where not exists (select from doc_revision d where d.migration_id = $1 and d.doc_id = i.id)
               and not exists (select from doc_diff d where d.migration_id = $1 and d.doc_id = i.id)
               and not exists (select from missing_doc d where d.migration_id = $1 and d.doc_id = i.id)
               and not exists (select from doc_error d where d.migration_id = $1 and d.doc_id = i.id)",
        )
        .bind(id.0)
        .bind(form_ids)
        .fetch_one(&self.pool)
        .await?)
    }

    /// How many of these cases nobody has met.
    ///
    /// # Errors
    /// Database errors.
    pub async fn unknown_cases(&self, id: MigrationId, case_ids: &[String]) -> Result<i64, StateError> {
        let (buckets, ids) = with_buckets(case_ids);
        Ok(sqlx::query_scalar(
            "select count(*) from (select distinct * from unnest($2::smallint[], $3::text[]) u(bucket, case_id)) i
             where not exists (select from case_state s
                               where s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.case_id)",
        )
        .bind(id.0)
        .bind(&buckets)
        .bind(&ids)
        .fetch_one(&self.pool)
        .await?)
    }

    /// Takes cases off the record that were compared, that neither side has, and that nothing here knows of: their ids were
    /// mistyped. Gives how many.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn forget_unknown_cases(&self, held: &DriverLease, case_ids: &[String]) -> Result<u64, StateError> {
        let (buckets, ids) = with_buckets(case_ids);
        let mut tx = self.driver_tx(held).await?;
        let forgotten = sqlx::query(
            "delete from case_state s using (select distinct * from unnest($2::smallint[], $3::text[]) u(bucket, case_id)) i
             where s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.case_id
               and s.generation = 0 and s.diffed_generation = 0 and s.diffed_rev is null
               and not exists (select from staged_update u
                               where u.migration_id = $1 and u.bucket = s.bucket and u.case_id = s.case_id)
               and not exists (select from case_event e
                               where e.migration_id = $1 and e.bucket = s.bucket and e.case_id = s.case_id)
               and not exists (select from doc_revision d where d.migration_id = $1 and d.doc_id = s.case_id)
               and not exists (select from doc_diff d where d.migration_id = $1 and d.doc_id = s.case_id)
               and not exists (select from doc_change d where d.migration_id = $1 and d.doc_id = s.case_id)
               and not exists (select from ignored_diff d where d.migration_id = $1 and d.doc_id = s.case_id)
               and not exists (select from missing_doc d where d.migration_id = $1 and d.doc_id = s.case_id)",
        )
        .bind(held.migration_id.0)
        .bind(&buckets)
        .bind(&ids)
        .execute(&mut *tx)
        .await?
        .rows_affected();
        tx.commit().await?;
        Ok(forgotten)
    }
}
