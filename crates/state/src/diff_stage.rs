//! What a diff worker reads and writes here. It may record what it found, and propose the order in which the replay applies
//! the forms of a case; it never moves a migration's state and never writes a case.

use std::collections::HashSet;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Row, Transaction};

use crate::batch::{Claim, check_claim, finish_claim};
use crate::case_order::{self, Decision, FormOrder};
use crate::migration::DriverLease;
use crate::operator_rules::{Ignored, Of, replace_ignored};
use crate::scan::{lock_case_states, with_buckets};
use crate::{MigrationId, State, StateError};

/// The cases of a batch, how late they may be, and what there is to compare beside them.
#[derive(Clone, Debug)]
pub struct DiffScope {
    /// The cases.
    pub cases: Vec<CaseToDiff>,
    /// While the migration is live: cases that Couch has changed after this are left for another run.
    pub cutoff: Option<DateTime<Utc>>,
    /// HQ has stock of the domain: the stock tables are to be read for every case.
    pub couch_stock: bool,
}

/// A case to compare, at the generation that its rows had when the comparison began.
#[derive(Clone, Debug)]
pub struct CaseToDiff {
    /// Case.
    pub case_id: String,
    /// Generation.
    pub generation: i64,
}

/// What the comparison of a case found.
#[derive(Clone, Debug)]
pub struct CaseComparison {
    /// Case.
    pub case_id: String,
    /// Generation that was compared.
    pub generation: i64,
    /// `_rev` that was compared; none when Couch has no such case.
    pub couch_rev: Option<String>,
    /// Kind to record under.
    pub kind: String,
    /// Diffs as JSON text, when there are any.
    pub diffs: Option<String>,
    /// Changes as JSON text with their reasons, when there are any.
    pub changes: Option<(String, String)>,
    /// Whether another order of the case's forms might take differences away.
    pub order: FormOrder,
}

impl State {
    /// Puts on record whether HQ has stock of the domain, before the first diff batch is cut.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn record_couch_stock(&self, held: &DriverLease, present: bool) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        sqlx::query("update migration set couch_stock = $2 where id = $1 and couch_stock <> $2")
            .bind(held.migration_id.0)
            .bind(present)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The generations of these cases, to be read before the cases are.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`].
    pub async fn cases_to_diff(&self, claim: &Claim) -> Result<DiffScope, StateError> {
        let (buckets, ids) = with_buckets(&claim.ids);
        let mut tx = self.pool.begin().await?;
        check_claim(&mut tx, claim).await?;
        let rows = sqlx::query(
            "select s.case_id, s.generation from unnest($2::smallint[], $3::text[]) i(bucket, case_id)
             join case_state s on s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.case_id
             order by s.case_id",
        )
        .bind(claim.migration_id.0)
        .bind(&buckets)
        .bind(&ids)
        .fetch_all(&mut *tx)
        .await?;
        let (cutoff, couch_stock) = sqlx::query_as("select live_cutoff, couch_stock from migration where id = $1")
            .bind(claim.migration_id.0)
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await?;
        let cases = rows.iter().map(|row| {
            Ok(CaseToDiff {
                case_id: row.try_get("case_id")?,
                generation: row.try_get("generation")?,
            })
        });
        Ok(DiffScope {
            cases: cases.collect::<Result<_, StateError>>()?,
            cutoff,
            couch_stock,
        })
    }

    /// Puts cases off that Couch has changed later than the cut-off, each with the time of that change: they are not compared
    /// before the cut-off has come there.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`].
    pub async fn put_off_diffs(&self, claim: &Claim, late: HashMap<String, DateTime<Utc>>) -> Result<(), StateError> {
        if late.is_empty() {
            return Ok(());
        }
        let (ids, until): (Vec<String>, Vec<DateTime<Utc>>) = late.into_iter().unzip();
        let mut tx = self.pool.begin().await?;
        check_claim(&mut tx, claim).await?;
        lock_case_states(&mut tx, claim.migration_id, &ids).await?;
        let (buckets, ids) = with_buckets(&ids);
        sqlx::query(
            "update case_state s set late_until = i.until
             from unnest($2::smallint[], $3::text[], $4::timestamptz[]) i(bucket, case_id, until)
             where s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.case_id",
        )
        .bind(claim.migration_id.0)
        .bind(&buckets)
        .bind(&ids)
        .bind(&until)
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    /// Which of these forms have a case block without any action.
    ///
    /// # Errors
    /// Database errors.
    pub async fn no_action_forms(&self, id: MigrationId, form_ids: &[String]) -> Result<Vec<String>, StateError> {
        Ok(
            sqlx::query_scalar("select form_id from no_action_case_form where migration_id = $1 and form_id = any($2)")
                .bind(id.0)
                .bind(form_ids)
                .fetch_all(&self.pool)
                .await?,
        )
    }

    /// Which forms name each of these cases, by what is staged: forms that were processed, or that a replay refused. As
    /// (case, form), in order.
    ///
    /// # Errors
    /// Database errors.
    pub async fn forms_naming(
        &self,
        id: MigrationId,
        case_ids: &[String],
    ) -> Result<Vec<(String, String)>, StateError> {
        let (buckets, ids) = with_buckets(case_ids);
        Ok(sqlx::query_as(
            "select s.case_id, s.form_id from unnest($2::smallint[], $3::text[]) i(bucket, case_id)
             join staged_update s on s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.case_id
             order by s.case_id, s.form_id",
        )
        .bind(id.0)
        .bind(&buckets)
        .bind(&ids)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Records comparisons and ends the claim. A comparison whose case has been replayed meanwhile is dropped: the case
    /// stays pending and is compared again. So is one of a case that is to be replayed in another order first. Gives how
    /// many were dropped.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`].
    pub async fn finish_diffs(&self, claim: &Claim, comparisons: &[CaseComparison]) -> Result<usize, StateError> {
        self.finish_diffs_ignoring(claim, comparisons, &[]).await
    }

    /// [`State::finish_diffs`], with what operators' rules have set aside of the cases.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`].
    pub async fn finish_diffs_ignoring(
        &self,
        claim: &Claim,
        comparisons: &[CaseComparison],
        ignored: &[Ignored],
    ) -> Result<usize, StateError> {
        let id = claim.migration_id.0;
        let mut sorted: Vec<&CaseComparison> = comparisons.iter().collect();
        sorted.sort_unstable_by_key(|found| (proto::bucket::of(&found.case_id), &found.case_id));
        let mut tx = self.pool.begin().await?;
        finish_claim(&mut tx, claim).await?;
        let ids: Vec<String> = sorted.iter().map(|found| found.case_id.clone()).collect();
        lock_case_states(&mut tx, claim.migration_id, &ids).await?;
        let (buckets, ids) = with_buckets(&ids);
        let current: HashSet<String> = sqlx::query_scalar(
            "select s.case_id from unnest($2::smallint[], $3::text[], $4::bigint[]) i(bucket, case_id, generation)
             join case_state s on s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.case_id
                                  and s.generation = i.generation
             where not exists (select 1 from dirty_case d
                               where d.migration_id = $1 and d.bucket = i.bucket and d.case_id = i.case_id)",
        )
        .bind(id)
        .bind(&buckets)
        .bind(&ids)
        .bind(sorted.iter().map(|found| found.generation).collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await?
        .into_iter()
        .collect();
        sorted.retain(|found| current.contains(&found.case_id));
        let decisions = case_order::decisions(&mut tx, claim.migration_id, &sorted).await?;
        let decided: Vec<(&CaseComparison, Decision)> = sorted.into_iter().zip(decisions).collect();
        case_order::apply(&mut tx, claim, &decided).await?;
        let counts = decided
            .into_iter()
            .filter(|(_, decision)| matches!(decision, Decision::Settle | Decision::Keep));
        let counting: Vec<&CaseComparison> = counts.map(|(found, _)| found).collect();
        settle(&mut tx, claim.migration_id, &counting).await?;
        let settled: Vec<&str> = counting.iter().map(|found| found.case_id.as_str()).collect();
        replace_ignored(&mut tx, claim.migration_id, Of::Cases, &settled, ignored).await?;
        tx.commit().await?;
        Ok(comparisons.len() - counting.len())
    }
}

/// Puts comparisons on record in place of those before.
async fn settle(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    comparisons: &[&CaseComparison],
) -> Result<(), StateError> {
    let id = id.0;
    let settled: Vec<&str> = comparisons.iter().map(|found| found.case_id.as_str()).collect();
    let buckets: Vec<i16> = settled.iter().map(|case_id| proto::bucket::of(case_id)).collect();
    sqlx::query(
        "update case_state s set diffed_generation = s.generation, diffed_rev = i.rev
         from unnest($2::smallint[], $3::text[], $4::text[]) i(bucket, case_id, rev)
         where s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.case_id",
    )
    .bind(id)
    .bind(&buckets)
    .bind(&settled)
    .bind(
        comparisons
            .iter()
            .map(|found| found.couch_rev.as_deref())
            .collect::<Vec<_>>(),
    )
    .execute(&mut **tx)
    .await?;
    for sql in [
        "delete from doc_diff where migration_id = $1 and doc_id = any($2) and kind like 'CommCareCase%'",
        "delete from doc_change where migration_id = $1 and doc_id = any($2) and kind like 'CommCareCase%'",
    ] {
        sqlx::query(sql).bind(id).bind(&settled).execute(&mut **tx).await?;
    }
    for found in comparisons {
        if let Some(diffs) = &found.diffs {
            sqlx::query(
                "insert into doc_diff (migration_id, kind, doc_id, diffs, generation, couch_rev)
                     values ($1, $2, $3, $4, $5, $6)",
            )
            .bind(id)
            .bind(&found.kind)
            .bind(&found.case_id)
            .bind(diffs)
            .bind(found.generation)
            .bind(&found.couch_rev)
            .execute(&mut **tx)
            .await?;
        }
        if let Some((changes, reason)) = &found.changes {
            sqlx::query(
                "insert into doc_change (migration_id, kind, doc_id, diffs, reason, generation, couch_rev)
                     values ($1, $2, $3, $4, $5, $6, $7)",
            )
            .bind(id)
            .bind(&found.kind)
            .bind(&found.case_id)
            .bind(changes)
            .bind(reason)
            .bind(found.generation)
            .bind(&found.couch_rev)
            .execute(&mut **tx)
            .await?;
        }
    }
    Ok(())
}
