//! Forms that get a second chance: an operator asks for them, or a case in Couch proves that they were applied. And forms that
//! were applied, while no case in Couch has them.

use std::collections::HashMap;

use proto::doctype::DocType;
use proto::topology::Stage;

use crate::batch::{Claim, insert_batch};
use crate::migration::DriverLease;
use crate::scan::with_buckets;
use crate::{State, StateError};

/// What counts of a form instead of its own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// A case in Couch proves that it was applied.
    Applied,
    /// No case in Couch has it.
    NotApplied,
}

impl State {
    /// Has these forms migrated again. With `forced` they are applied from now on even if they say that they were never
    /// processed.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn requeue_forms(
        &self,
        held: &DriverLease,
        form_ids: &[String],
        forced: bool,
        batch: usize,
    ) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        if forced {
            sqlx::query(
                "insert into forced_form as f (migration_id, form_id) select $1, unnest($2::text[])
                 on conflict (migration_id, form_id) do update set applied = true, forced_at = now() where not f.applied",
            )
            .bind(held.migration_id.0)
            .bind(form_ids)
            .execute(&mut *tx)
            .await?;
        }
        for part in form_ids.chunks(batch) {
            insert_batch(
                &mut tx,
                held.migration_id.0,
                Stage::Form.as_str(),
                DocType::XFormInstance.as_str(),
                part,
                None,
            )
            .await?;
        }
        Ok(tx.commit().await?)
    }

    /// Makes cases dirty, given each with a form that is said to have changed it, if the form is a duplicate of another by
    /// what was last read of it. Gives how many cases.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn replay_cases_of_duplicates(
        &self,
        held: &DriverLease,
        changed_by: &[(String, String)],
    ) -> Result<u64, StateError> {
        let (case_ids, form_ids): (Vec<String>, Vec<&str>) = changed_by
            .iter()
            .map(|(case_id, form_id)| (case_id.clone(), form_id.as_str()))
            .unzip();
        let (buckets, case_ids) = with_buckets(&case_ids);
        let mut tx = self.driver_tx(held).await?;
        let dirty = sqlx::query(
            "insert into dirty_case (migration_id, bucket, case_id)
             select distinct $1, i.bucket, i.case_id from unnest($2::smallint[], $3::text[], $4::text[]) i(bucket, case_id, form_id)
             join doc_revision d on d.migration_id = $1 and d.doc_id = i.form_id and d.doc_type = 'XFormDuplicate'",
        )
        .bind(held.migration_id.0)
        .bind(&buckets)
        .bind(&case_ids)
        .bind(&form_ids)
        .execute(&mut *tx)
        .await?
        .rows_affected();
        tx.commit().await?;
        Ok(dirty)
    }

    /// The forms of a batch whose own word does not count, with what counts instead.
    ///
    /// # Errors
    /// Database errors.
    pub async fn forced_forms(&self, claim: &Claim) -> Result<HashMap<String, Ruling>, StateError> {
        let rows: Vec<(String, bool)> =
            sqlx::query_as("select form_id, applied from forced_form where migration_id = $1 and form_id = any($2)")
                .bind(claim.migration_id.0)
                .bind(&claim.ids)
                .fetch_all(&self.pool)
                .await?;
        let ruling = |applied| if applied { Ruling::Applied } else { Ruling::NotApplied };
        Ok(rows
            .into_iter()
            .map(|(form_id, applied)| (form_id, ruling(applied)))
            .collect())
    }
}
