//! Cases that only SQL has, and what was judged of them: an event of the case, an input of its replay.
//!
//! A judgement holds for the forms that made the case when it was given, and is taken back when Couch has the case again.

use proto::doctype::DocType;
use proto::topology::Stage;
use serde_json::Value;

use crate::audit::audit_in;
use crate::batch::insert_batch;
use crate::migration::DriverLease;
use crate::run::Operator;
use crate::scan::{lock_case_states, with_buckets};
use crate::{MigrationId, State, StateError};

/// Kind of the event that a judgement is.
const EVENT: &str = "only_in_sql";

/// What was judged of some cases.
#[derive(Clone, Debug, Default)]
pub struct Judgements {
    /// The cases, each with its encoded `CaseEvent`. A judgement that a case had before is replaced.
    pub cases: Vec<(String, Vec<u8>)>,
    /// Forms that are migrated again, since they are not what they were when they were applied.
    pub forms: Vec<String>,
    /// Of these, those that no case in Couch has: they are not applied from now on.
    pub not_applied: Vec<String>,
}

impl State {
    /// The judgements on record of these cases: case and encoded `CaseEvent`.
    ///
    /// # Errors
    /// Database errors.
    pub async fn judgements(&self, id: MigrationId, case_ids: &[String]) -> Result<Vec<(String, Vec<u8>)>, StateError> {
        let (buckets, ids) = with_buckets(case_ids);
        Ok(sqlx::query_as(
            "select e.case_id, e.payload from unnest($2::smallint[], $3::text[]) i(bucket, case_id)
             join case_event e on e.migration_id = $1 and e.bucket = i.bucket and e.case_id = i.case_id and e.kind = $4
             order by e.case_id",
        )
        .bind(id.0)
        .bind(&buckets)
        .bind(&ids)
        .bind(EVENT)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Cases of which a judgement is on record, in order, after a case.
    ///
    /// # Errors
    /// Database errors.
    pub async fn judged_after(&self, id: MigrationId, after: &str, limit: i64) -> Result<Vec<String>, StateError> {
        Ok(sqlx::query_scalar(
            "select case_id from case_event where migration_id = $1 and kind = $2 and case_id > $3
             order by case_id limit $4",
        )
        .bind(id.0)
        .bind(EVENT)
        .bind(after)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Which cases these forms name, by what is staged, as (form, case), in order.
    ///
    /// # Errors
    /// Database errors.
    pub async fn cases_named(&self, id: MigrationId, form_ids: &[String]) -> Result<Vec<(String, String)>, StateError> {
        Ok(sqlx::query_as(
            "select form_id, case_id from staged_update where migration_id = $1 and form_id = any($2) order by 1, 2",
        )
        .bind(id.0)
        .bind(form_ids)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Puts judgements on record, in the audit log too: the cases become dirty, and the forms go through their stage again.
    ///
    /// # Errors
    /// [`StateError::LostLease`]; nothing has happened then.
    pub async fn judge(
        &self,
        held: &DriverLease,
        judged: &Judgements,
        (operator, detail): (&Operator, &Value),
        batch: usize,
    ) -> Result<(), StateError> {
        let id = held.migration_id;
        let mut tx = self.driver_tx(held).await?;
        let case_ids: Vec<String> = judged.cases.iter().map(|(case_id, _)| case_id.clone()).collect();
        lock_case_states(&mut tx, id, &case_ids).await?;
        let (buckets, ids) = with_buckets(&case_ids);
        sqlx::query(
            "with judged as (select * from unnest($2::smallint[], $3::text[], $4::bytea[]) i(bucket, case_id, payload)),
             event as (
                 insert into case_event (migration_id, bucket, case_id, kind, payload)
                 select $1, bucket, case_id, $5, payload from judged
                 on conflict (migration_id, bucket, case_id, kind)
                 do update set payload = excluded.payload, created_at = now()
             )
             insert into dirty_case (migration_id, bucket, case_id) select $1, bucket, case_id from judged",
        )
        .bind(id.0)
        .bind(&buckets)
        .bind(&ids)
        .bind(judged.cases.iter().map(|(_, payload)| payload.as_slice()).collect::<Vec<_>>())
        .bind(EVENT)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "insert into forced_form (migration_id, form_id, applied) select $1, unnest($2::text[]), false
             on conflict (migration_id, form_id) do update set applied = false, forced_at = now()",
        )
        .bind(id.0)
        .bind(&judged.not_applied)
        .execute(&mut *tx)
        .await?;
        for part in judged.forms.chunks(batch) {
            let doc_type = DocType::XFormInstance.as_str();
            insert_batch(&mut tx, id.0, Stage::Form.as_str(), doc_type, part, None).await?;
        }
        audit_in(&mut tx, id, operator, "judge_cases_only_in_sql", detail).await?;
        Ok(tx.commit().await?)
    }

    /// Takes judgements back; the cases become dirty.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn withdraw_judgements(&self, held: &DriverLease, case_ids: &[String]) -> Result<(), StateError> {
        if case_ids.is_empty() {
            return Ok(());
        }
        let mut tx = self.driver_tx(held).await?;
        lock_case_states(&mut tx, held.migration_id, case_ids).await?;
        let (buckets, ids) = with_buckets(case_ids);
        sqlx::query(
            "with gone as (
                 delete from case_event e using unnest($2::smallint[], $3::text[]) i(bucket, case_id)
                 where e.migration_id = $1 and e.bucket = i.bucket and e.case_id = i.case_id and e.kind = $4
                 returning e.bucket, e.case_id
             )
             insert into dirty_case (migration_id, bucket, case_id) select $1, bucket, case_id from gone",
        )
        .bind(held.migration_id.0)
        .bind(&buckets)
        .bind(&ids)
        .bind(EVENT)
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }
}
