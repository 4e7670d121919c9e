//! What a case worker reads and writes here.
//!
//! Inside its target transaction, and with the bucket locks held, the worker reads the ids of the dirty rows, then the
//! inputs ([`State::case_inputs`], in that order). It commits the target, then ends with [`State::finish_cases`], which
//! deletes exactly those dirty rows: a form staged meanwhile has left its own, and the case is replayed again.

use sqlx::{Postgres, Row, Transaction};

use crate::batch::{Claim, check_claim, finish_claim};
use crate::form_stage::record_error;
use crate::scan::{insert_case_states, with_buckets};
use crate::{State, StateError};

/// Durable inputs of the replays of a batch.
#[derive(Clone, Debug, Default)]
pub struct CaseInputs {
    /// Dirty rows, read before the rest.
    pub dirty: Vec<i64>,
    /// Staged effects of accepted forms: case, form, encoded `FormEffects`.
    pub staged: Vec<(String, String, Vec<u8>)>,
    /// Events: case, encoded `CaseEvent`.
    pub events: Vec<(String, Vec<u8>)>,
}

/// A form that a replay refused.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Form.
    pub form_id: String,
    /// The case whose replay found it.
    pub case_id: String,
    /// Stable code of the reason.
    pub code: String,
    /// The reason.
    pub message: String,
}

/// A case that could not be built.
#[derive(Clone, Debug)]
pub struct FailedCase {
    /// Case.
    pub case_id: String,
    /// Stable code of the reason.
    pub code: String,
    /// The reason.
    pub message: String,
}

/// What came of a case batch.
#[derive(Clone, Debug, Default)]
pub struct CaseResults {
    /// Cases replayed, whether a row came of it or not.
    pub replayed: Vec<String>,
    /// Forms refused.
    pub verdicts: Vec<Verdict>,
    /// Cases that could not be built.
    pub failed: Vec<FailedCase>,
}

impl State {
    /// The ids of the dirty rows of these cases, then the inputs of their replays.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`].
    pub async fn case_inputs(&self, claim: &Claim, case_ids: &[String]) -> Result<CaseInputs, StateError> {
        let (buckets, ids) = with_buckets(case_ids);
        // Read committed: each statement sees what is committed when it starts, so what the first one saw as dirty is
        // among what the second one reads.
        let mut tx = self.pool.begin().await?;
        check_claim(&mut tx, claim).await?;
        let dirty = sqlx::query_scalar(
            "select d.id from unnest($2::smallint[], $3::text[]) i(bucket, case_id)
             join dirty_case d on d.migration_id = $1 and d.bucket = i.bucket and d.case_id = i.case_id",
        )
        .bind(claim.migration_id.0)
        .bind(&buckets)
        .bind(&ids)
        .fetch_all(&mut *tx)
        .await?;
        let staged = sqlx::query(
            "select s.case_id, s.form_id, s.payload from unnest($2::smallint[], $3::text[]) i(bucket, case_id)
             join staged_update s on s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.case_id
             where not exists (select 1 from form_verdict v where v.migration_id = $1 and v.form_id = s.form_id)",
        )
        .bind(claim.migration_id.0)
        .bind(&buckets)
        .bind(&ids)
        .fetch_all(&mut *tx)
        .await?
        .iter()
        .map(|row| Ok((row.try_get("case_id")?, row.try_get("form_id")?, row.try_get("payload")?)))
        .collect::<Result<_, sqlx::Error>>()?;
        let events = sqlx::query(
            "select e.case_id, e.payload from unnest($2::smallint[], $3::text[]) i(bucket, case_id)
             join case_event e on e.migration_id = $1 and e.bucket = i.bucket and e.case_id = i.case_id
             order by e.case_id, e.kind",
        )
        .bind(claim.migration_id.0)
        .bind(&buckets)
        .bind(&ids)
        .fetch_all(&mut *tx)
        .await?
        .iter()
        .map(|row| Ok((row.try_get("case_id")?, row.try_get("payload")?)))
        .collect::<Result<_, sqlx::Error>>()?;
        tx.commit().await?;
        Ok(CaseInputs { dirty, staged, events })
    }

    /// Ends the claim: the dirty rows that were read go, each case's generation rises, verdicts make the other cases of
    /// their forms dirty.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`]; the cases are replayed again then.
    pub async fn finish_cases(&self, claim: &Claim, dirty: &[i64], results: &CaseResults) -> Result<(), StateError> {
        let mut tx = self.pool.begin().await?;
        finish_claim(&mut tx, claim).await?;
        let mut dirty = dirty.to_vec();
        dirty.sort_unstable();
        sqlx::query("delete from dirty_case where id = any($1)").bind(&dirty).execute(&mut *tx).await?;
        insert_case_states(&mut tx, claim.migration_id, &results.replayed).await?;
        let mut replayed = results.replayed.clone();
        replayed.sort_unstable_by_key(|case_id| (proto::bucket::of(case_id), case_id.clone()));
        let (buckets, ids) = with_buckets(&replayed);
        sqlx::query(
            "update case_state s set generation = generation + 1
             from unnest($2::smallint[], $3::text[]) i(bucket, case_id)
             where s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.case_id",
        )
        .bind(claim.migration_id.0)
        .bind(&buckets)
        .bind(&ids)
        .execute(&mut *tx)
        .await?;
        sqlx::query("delete from doc_error where migration_id = $1 and kind = 'CommCareCase' and doc_id = any($2)")
            .bind(claim.migration_id.0)
            .bind(&ids)
            .execute(&mut *tx)
            .await?;
        for case in &results.failed {
            record_error(&mut tx, claim.migration_id.0, "CommCareCase", &case.case_id, &case.code, &case.message, None)
                .await?;
        }
        for verdict in &results.verdicts {
            record_verdict(&mut tx, claim, verdict).await?;
        }
        Ok(tx.commit().await?)
    }
}

/// A refused form is dropped whole: its verdict goes on record, and all of its cases become dirty.
async fn record_verdict(tx: &mut Transaction<'_, Postgres>, claim: &Claim, verdict: &Verdict) -> Result<(), StateError> {
    let id = claim.migration_id.0;
    let found: Option<(String, String)> =
        sqlx::query_as("select doc_type, rev from doc_revision where migration_id = $1 and doc_id = $2")
            .bind(id)
            .bind(&verdict.form_id)
            .fetch_optional(&mut **tx)
            .await?;
    let (doc_type, rev) = found.ok_or(StateError::Corrupt("revision of a staged form"))?;
    sqlx::query(
        "insert into form_verdict (migration_id, form_id, rev, case_id, code) values ($1, $2, $3, $4, $5)
         on conflict (migration_id, form_id) do nothing",
    )
    .bind(id)
    .bind(&verdict.form_id)
    .bind(&rev)
    .bind(&verdict.case_id)
    .bind(&verdict.code)
    .execute(&mut **tx)
    .await?;
    record_error(tx, id, &doc_type, &verdict.form_id, &verdict.code, &verdict.message, Some(&rev)).await?;
    sqlx::query("insert into missing_doc (migration_id, kind, doc_id) values ($1, $2, $3) on conflict do nothing")
        .bind(id)
        .bind(&doc_type)
        .bind(&verdict.form_id)
        .execute(&mut **tx)
        .await?;
    sqlx::query(
        "insert into dirty_case (migration_id, bucket, case_id)
         select migration_id, bucket, case_id from staged_update where migration_id = $1 and form_id = $2",
    )
    .bind(id)
    .bind(&verdict.form_id)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
