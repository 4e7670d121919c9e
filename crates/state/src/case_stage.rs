//! What a case worker reads and writes here.
//!
//! Inside its target transaction, and with the bucket locks held, the worker reads the ids of the dirty rows, then the
//! inputs ([`State::case_inputs`], in that order). It commits the target, then ends with [`State::finish_cases`], which
//! deletes exactly those dirty rows: a form staged meanwhile has left its own, and the case is replayed again.

use std::collections::{BTreeMap, HashMap, HashSet};

use proto::topology::Stage;
use sqlx::{Postgres, Transaction};

use crate::batch::{Claim, finish_claim, insert_batch};
use crate::checkpoint;
use crate::outcome::{DocError, record_errors, record_missing_docs};
use crate::patch_outcome;
use crate::scan::with_buckets;
use crate::{State, StateError};

pub use crate::case_inputs::CaseInputs;
pub use crate::checkpoint::Standing;

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
    /// Forms refused that were not refused before.
    pub verdicts: Vec<Verdict>,
    /// [`CaseInputs::staged_as`] of what was replayed.
    pub staged_as: HashMap<String, i64>,
    /// Forms that a case of the batch had refused, or had begun to, and refuses no more.
    pub withdrawn: Vec<String>,
    /// Cases that could not be built.
    pub failed: Vec<FailedCase>,
    /// [`CaseInputs::standing`] of what was replayed.
    pub standing: Standing,
    /// Checkpoints behind the forms of large cases, encoded.
    pub checkpoints: HashMap<String, Vec<u8>>,
}

impl State {
    /// Ends the claim: the dirty rows that were read go, each case's generation rises, checkpoints are kept, verdicts make the
    /// other cases of their forms dirty.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`]; the cases are replayed again then.
    pub async fn finish_cases(&self, claim: &Claim, dirty: &[i64], results: &CaseResults) -> Result<(), StateError> {
        let mut tx = self.pool.begin().await?;
        finish_claim(&mut tx, claim).await?;
        let revisions = judged_forms(&mut tx, claim, results).await?;
        // The cases in their order: two batches with the same case wait for each other here, and not in a deadlock.
        let mut replayed: Vec<&str> = results.replayed.iter().map(String::as_str).collect();
        replayed.sort_unstable_by_key(|case_id| (proto::bucket::of(case_id), *case_id));
        replayed.dedup();
        sqlx::query(
            "insert into case_state as s (migration_id, bucket, case_id, generation)
             select $1, bucket, case_id, 1 from unnest($2::smallint[], $3::text[]) i(bucket, case_id)
             on conflict (migration_id, bucket, case_id) do update set generation = s.generation + 1",
        )
        .bind(claim.migration_id.0)
        .bind(
            replayed
                .iter()
                .map(|case_id| proto::bucket::of(case_id))
                .collect::<Vec<_>>(),
        )
        .bind(&replayed)
        .execute(&mut *tx)
        .await?;
        checkpoint::keep(&mut tx, claim, &results.standing, &results.checkpoints).await?;
        sqlx::query("delete from dirty_case where id = any($1)")
            .bind(dirty)
            .execute(&mut *tx)
            .await?;
        sqlx::query("delete from doc_error where migration_id = $1 and kind = 'CommCareCase' and doc_id = any($2)")
            .bind(claim.migration_id.0)
            .bind(&replayed)
            .execute(&mut *tx)
            .await?;
        let errors = results.failed.iter().map(|case| DocError {
            kind: "CommCareCase",
            doc_id: &case.case_id,
            code: &case.code,
            message: &case.message,
            rev: None,
        });
        record_errors(&mut tx, claim.migration_id, errors.collect()).await?;
        record_verdicts(&mut tx, claim, results, &revisions).await?;
        withdraw_verdicts(&mut tx, claim, &results.withdrawn).await?;
        Ok(tx.commit().await?)
    }
}

/// A form of which a verdict was found or taken back, as somebody has begun to write it last.
struct LastWriting {
    form_id: String,
    doc_type: String,
    rev: String,
    begun: i64,
}

/// Locks the revisions of the forms that the results judge.
async fn judged_forms(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    results: &CaseResults,
) -> Result<Vec<LastWriting>, StateError> {
    let refused = results.verdicts.iter().map(|verdict| verdict.form_id.as_str());
    let judged: Vec<&str> = refused.chain(results.withdrawn.iter().map(String::as_str)).collect();
    if judged.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<(String, String, String, i64)> = sqlx::query_as(
        "select doc_id, doc_type, rev, begun from doc_revision where migration_id = $1 and doc_id = any($2)
         order by doc_id for no key update",
    )
    .bind(claim.migration_id.0)
    .bind(&judged)
    .fetch_all(&mut **tx)
    .await?;
    let last = rows.into_iter().map(|(form_id, doc_type, rev, begun)| LastWriting {
        form_id,
        doc_type,
        rev,
        begun,
    });
    Ok(last.collect())
}

/// Takes verdicts back. The forms have lost their rows, and go through the form stage again.
async fn withdraw_verdicts(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    form_ids: &[String],
) -> Result<(), StateError> {
    if form_ids.is_empty() {
        return Ok(());
    }
    let id = claim.migration_id.0;
    let withdrawn: Vec<(String, String)> = sqlx::query_as(
        "with gone as (delete from form_verdict where migration_id = $1 and form_id = any($2) returning form_id)
         select d.doc_type, d.doc_id from gone join doc_revision d on d.migration_id = $1 and d.doc_id = gone.form_id
         order by 1, 2",
    )
    .bind(id)
    .bind(form_ids)
    .fetch_all(&mut **tx)
    .await?;
    let mut by_type: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (doc_type, form_id) in withdrawn {
        by_type.entry(doc_type).or_default().push(form_id);
    }
    for (doc_type, form_ids) in &by_type {
        insert_batch(tx, id, Stage::Form.as_str(), doc_type, form_ids, None).await?;
    }
    Ok(())
}

/// Refused forms are dropped whole: the verdicts go on record, and all of their cases become dirty.
///
/// A verdict is about the writing of the form that was replayed. If somebody has begun another one since, there is none:
/// the row is theirs, and when they have staged it the cases are replayed again. What is on record of a removal stays until
/// then, here and where the form goes through its stage again. A case that is dirty by now was staged
/// again while it was replayed, by another form, and the verdict may be another one next time; but the refused form's row
/// has been removed: the form is sent through the form stage again.
async fn record_verdicts(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    results: &CaseResults,
    revisions: &[LastWriting],
) -> Result<(), StateError> {
    if results.verdicts.is_empty() {
        return Ok(());
    }
    let id = claim.migration_id.0;
    let by_form: BTreeMap<&str, &Verdict> = results
        .verdicts
        .iter()
        .map(|verdict| (verdict.form_id.as_str(), verdict))
        .collect();
    let known = revisions
        .iter()
        .filter(|last| by_form.contains_key(last.form_id.as_str()));
    if known.count() < by_form.len() {
        return Err(StateError::Corrupt("revision of a staged form"));
    }
    let judged: Vec<(&Verdict, &LastWriting)> = revisions
        .iter()
        .filter(|last| results.staged_as.get(&last.form_id) == Some(&last.begun))
        .filter_map(|last| Some((*by_form.get(last.form_id.as_str())?, last)))
        .collect();
    let reasons = judged.iter().map(|(verdict, _)| {
        (
            verdict.form_id.as_str(),
            (verdict.code.as_str(), verdict.message.as_str()),
        )
    });
    let moved = dirty_among(tx, claim, &results.verdicts).await?;
    let given_up = patch_outcome::give_up(tx, claim, &reasons.collect()).await?;
    let mut again: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut refused: Vec<(&Verdict, &str, &str)> = Vec::with_capacity(judged.len());
    for (verdict, last) in judged {
        if given_up.contains(&last.form_id) {
            continue;
        }
        if moved.contains(&verdict.case_id) {
            again.entry(&last.doc_type).or_default().push(last.form_id.clone());
        } else {
            refused.push((verdict, &last.doc_type, &last.rev));
        }
    }
    for (doc_type, form_ids) in &again {
        insert_batch(tx, id, Stage::Form.as_str(), doc_type, form_ids, None).await?;
    }
    let refused_ids: Vec<&str> = refused.iter().map(|(verdict, _, _)| verdict.form_id.as_str()).collect();
    sqlx::query(
        "insert into form_verdict (migration_id, form_id, rev, case_id, code)
         select $1, form_id, rev, case_id, code
         from unnest($2::text[], $3::text[], $4::text[], $5::text[]) i(form_id, rev, case_id, code)
         on conflict (migration_id, form_id) do update
         set rev = excluded.rev, case_id = excluded.case_id, code = excluded.code, removing = false
         where form_verdict.removing",
    )
    .bind(id)
    .bind(&refused_ids)
    .bind(refused.iter().map(|(_, _, rev)| *rev).collect::<Vec<_>>())
    .bind(
        refused
            .iter()
            .map(|(verdict, _, _)| verdict.case_id.as_str())
            .collect::<Vec<_>>(),
    )
    .bind(
        refused
            .iter()
            .map(|(verdict, _, _)| verdict.code.as_str())
            .collect::<Vec<_>>(),
    )
    .execute(&mut **tx)
    .await?;
    let errors = refused.iter().map(|(verdict, doc_type, rev)| DocError {
        kind: doc_type,
        doc_id: &verdict.form_id,
        code: &verdict.code,
        message: &verdict.message,
        rev: Some(rev),
    });
    record_errors(tx, claim.migration_id, errors.collect()).await?;
    let missing = refused
        .iter()
        .map(|(verdict, doc_type, _)| (*doc_type, verdict.form_id.as_str()));
    record_missing_docs(tx, claim.migration_id, missing.collect()).await?;
    sqlx::query(
        "insert into dirty_case (migration_id, bucket, case_id)
         select migration_id, bucket, case_id from staged_update where migration_id = $1 and form_id = any($2)",
    )
    .bind(id)
    .bind(&refused_ids)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Cases of the verdicts that are dirty.
async fn dirty_among(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    verdicts: &[Verdict],
) -> Result<HashSet<String>, StateError> {
    let case_ids: Vec<String> = verdicts.iter().map(|verdict| verdict.case_id.clone()).collect();
    let (buckets, ids) = with_buckets(&case_ids);
    let dirty: Vec<String> = sqlx::query_scalar(
        "select i.case_id from unnest($2::smallint[], $3::text[]) i(bucket, case_id)
         where exists (select 1 from dirty_case d where d.migration_id = $1 and d.bucket = i.bucket and d.case_id = i.case_id)",
    )
    .bind(claim.migration_id.0)
    .bind(&buckets)
    .bind(&ids)
    .fetch_all(&mut **tx)
    .await?;
    Ok(dirty.into_iter().collect())
}
