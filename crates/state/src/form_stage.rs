//! What a form worker reads and writes here.
//!
//! The order is: [`State::begin_forms`] while the target transaction is open (revisions and blob changes go on record
//! before the target is written), the target's writes, [`State::stale_forms`] once the target's rows are locked, the
//! target's commit, and [`State::finish_forms`], which stages everything and ends the claim in one transaction.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use proto::doctype::DocType;
use sqlx::{Postgres, Row, Transaction};

use crate::again::requeue_named;
use crate::batch::{Claim, check_claim, finish_claim};
use crate::blob_change::{BlobChange, record_blob_changes};
use crate::burial::look_again;
use crate::deleted_case;
use crate::lost_forms;
use crate::operator_rules::Ignored;
use crate::outcome::record_outcomes;
use crate::overtaken::{Overtaken, overtaken};
use crate::patch::PatchResults;
use crate::patch_outcome;
use crate::revisions::{Occasion, record_revisions, rev_number, stale};
use crate::scan::lock_case_states;
use crate::{State, StateError};

pub use crate::deleted_case::StagedDeletedCase;

/// A document that a worker is about to write.
#[derive(Clone, Debug)]
pub struct DocIntent {
    /// Document id.
    pub doc_id: String,
    /// Its `doc_type` in Couch.
    pub doc_type: String,
    /// Its `_rev`.
    pub rev: String,
}

/// What the state schema knows of such a document.
#[derive(Clone, Debug)]
pub struct DocStanding {
    /// When it was staged first: stands in for "now" wherever HQ would take the time of migration.
    pub first_staged_at: DateTime<Utc>,
    /// It was seen before, so that it may have staged effects.
    pub seen_before: bool,
    /// Somebody has begun to write a newer revision: leave it to them.
    pub superseded: bool,
    /// A replay refused this revision, for the reason with this code.
    pub rejected: Option<String>,
    /// How often somebody has begun to write it, this time included.
    pub begun: i64,
}

/// One staged effect.
#[derive(Clone, Debug)]
pub struct StagedCase {
    /// Case.
    pub case_id: String,
    /// Encoded `FormEffects`.
    pub payload: Vec<u8>,
}

/// A form whose rows are committed in the target.
#[derive(Clone, Debug)]
pub struct StagedForm {
    /// Form.
    pub form_id: String,
    /// Revision that was written.
    pub rev: String,
    /// It was seen before: its old effects must be replaced.
    pub seen_before: bool,
    /// [`DocStanding::begun`] of this writing.
    pub begun: i64,
    /// What it does to cases; empty for unprocessed forms.
    pub cases: Vec<StagedCase>,
    /// It has a case block without any action.
    pub has_noop_block: bool,
    /// It is a normal document with a problem, migrated as an error form.
    pub is_problem_form: bool,
    /// Its diffs as JSON text; `None` when it has none.
    pub diffs: Option<String>,
    /// Kind under which diffs are recorded: the Couch document type.
    pub kind: String,
}

/// A document that could not be migrated.
#[derive(Clone, Debug)]
pub struct FailedDoc {
    /// Its kind: the Couch document type.
    pub kind: String,
    /// Document.
    pub doc_id: String,
    /// Revision, if it was read.
    pub rev: Option<String>,
    /// Stable code of the reason.
    pub code: String,
    /// The reason, without any value of the document.
    pub message: String,
    /// Whether it counts as missing in SQL.
    pub missing: bool,
}

/// What came of a form batch.
#[derive(Clone, Debug, Default)]
pub struct FormResults {
    /// Forms written.
    pub forms: Vec<StagedForm>,
    /// Soft-deleted cases staged.
    pub deleted_cases: Vec<StagedDeletedCase>,
    /// Documents that failed.
    pub failed: Vec<FailedDoc>,
    /// Documents that forms of this batch tell of, with the revision that Couch has now, if it has one: to be looked at
    /// again where that is not the one on record.
    pub named: Vec<(String, Option<String>)>,
    /// What operators' rules have set aside of the forms written.
    pub ignored: Vec<Ignored>,
    /// Documents that vanished from Couch, or that are no longer of a type or a domain to migrate: what they had staged
    /// goes.
    pub gone: Vec<String>,
    /// Numbers of their burials, of [`State::begin_burials`]. Those that have none are looked at again.
    pub burials: HashMap<String, i64>,
    /// Of a batch of cases to patch.
    pub patches: PatchResults,
}

impl State {
    /// Puts on record that these revisions are about to be written, with the blob changes that go with them, and says how
    /// each document stands.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`].
    pub async fn begin_forms(
        &self,
        claim: &Claim,
        docs: &[DocIntent],
        blobs: &[BlobChange],
    ) -> Result<HashMap<String, DocStanding>, StateError> {
        let ids: Vec<&str> = docs.iter().map(|doc| doc.doc_id.as_str()).collect();
        let revs: Vec<&str> = docs.iter().map(|doc| doc.rev.as_str()).collect();
        let mut tx = self.pool.begin().await?;
        check_claim(&mut tx, claim).await?;
        let revisions = docs
            .iter()
            .map(|doc| (doc.doc_id.as_str(), doc.doc_type.as_str(), doc.rev.as_str()));
        record_revisions(&mut tx, claim, revisions.collect(), Occasion::Begun).await?;
        let rows = sqlx::query(
            "select d.doc_id, d.first_staged_at, d.first_staged_at <> now() as seen_before, d.rev <> i.rev as superseded,
                    v.code as rejected, d.begun
             from unnest($2::text[], $3::text[]) i(id, rev)
             join doc_revision d on d.migration_id = $1 and d.doc_id = i.id
             left join form_verdict v on v.migration_id = $1 and v.form_id = i.id and v.rev = i.rev and not v.removing",
        )
        .bind(claim.migration_id.0)
        .bind(&ids)
        .bind(&revs)
        .fetch_all(&mut *tx)
        .await?;
        record_blob_changes(&mut tx, claim, blobs).await?;
        tx.commit().await?;
        rows.iter()
            .map(|row| {
                Ok((
                    row.try_get("doc_id")?,
                    DocStanding {
                        first_staged_at: row.try_get("first_staged_at")?,
                        seen_before: row.try_get("seen_before")?,
                        superseded: row.try_get("superseded")?,
                        rejected: row.try_get("rejected")?,
                        begun: row.try_get("begun")?,
                    },
                ))
            })
            .collect()
    }

    /// Which of these documents somebody has begun to write in a newer revision. To be asked once the target's rows are
    /// locked: whoever writes the newer revision then waits for us, or we see them here.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`].
    pub async fn stale_forms(&self, claim: &Claim, written: &[(String, String)]) -> Result<Vec<String>, StateError> {
        let mut tx = self.pool.begin().await?;
        check_claim(&mut tx, claim).await?;
        let stale = stale(
            &mut tx,
            claim,
            written.iter().map(|(id, rev)| (id.as_str(), rev.as_str())),
        )
        .await?;
        tx.commit().await?;
        Ok(stale)
    }

    /// Of which of these documents, as (id, `_rev`), a newer revision is on record. To be asked with the target's rows
    /// locked, before they are removed for the sake of what was read.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`].
    pub async fn newer_revisions(&self, claim: &Claim, read: &[(String, String)]) -> Result<Vec<String>, StateError> {
        let mut tx = self.pool.begin().await?;
        check_claim(&mut tx, claim).await?;
        let newer = sqlx::query_scalar(
            "select d.doc_id from unnest($2::text[], $3::int[], $4::text[]) i(id, number, rev)
             join doc_revision d on d.migration_id = $1 and d.doc_id = i.id
             where (d.rev_number, d.rev collate \"C\") > (i.number, i.rev collate \"C\")",
        )
        .bind(claim.migration_id.0)
        .bind(read.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>())
        .bind(read.iter().map(|(_, rev)| rev_number(rev)).collect::<Vec<_>>())
        .bind(read.iter().map(|(_, rev)| rev.as_str()).collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(newer)
    }

    /// Stages what the forms do to their cases, records diffs and errors, and ends the claim.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`]; nothing was staged then, and the batch is somebody else's.
    pub async fn finish_forms(&self, claim: &Claim, results: &FormResults) -> Result<(), StateError> {
        let replaced = self.record_failed(claim, results).await?;
        let mut tx = self.pool.begin().await?;
        finish_claim(&mut tx, claim).await?;
        let Overtaken { newer, buried, again } = overtaken(&mut tx, claim, results, replaced).await?;
        let forms: Vec<&StagedForm> = results
            .forms
            .iter()
            .filter(|form| !newer.contains(form.form_id.as_str()))
            .collect();
        let failed: Vec<&FailedDoc> = results
            .failed
            .iter()
            .filter(|doc| !newer.contains(doc.doc_id.as_str()))
            .collect();

        // A document that could not be read at all says nothing of what it had staged.
        let failed_ids = failed
            .iter()
            .filter(|doc| doc.missing && doc.rev.is_some())
            .map(|doc| doc.doc_id.as_str());
        let replaced: Vec<&str> = forms
            .iter()
            .filter(|form| form.seen_before)
            .map(|form| form.form_id.as_str())
            .chain(failed_ids)
            .chain(buried.iter().map(String::as_str))
            .collect();
        unstage(&mut tx, claim, &replaced).await?;
        stage(&mut tx, claim, &forms).await?;
        deleted_case::unstage(&mut tx, claim, &buried).await?;
        let deleted: Vec<&StagedDeletedCase> = results
            .deleted_cases
            .iter()
            .filter(|case| !newer.contains(case.case_id.as_str()))
            .collect();
        deleted_case::stage(&mut tx, claim, &deleted).await?;
        if claim.doc_type == DocType::CommCareCase {
            lock_case_states(&mut tx, claim.migration_id, &claim.ids).await?;
        }
        patch_outcome::forget(&mut tx, claim.migration_id, &buried).await?;
        lost_forms::forget(&mut tx, claim.migration_id, &buried).await?;
        if claim.doc_type == DocType::CommCareCase {
            patch_outcome::finish(&mut tx, claim, &results.patches, &newer, &again).await?;
        } else {
            look_again(&mut tx, claim, &again).await?;
        }
        requeue_named(&mut tx, claim.migration_id, &results.named).await?;
        let settled = forms.iter().map(|form| form.form_id.as_str());
        let settled = settled.chain(deleted.iter().map(|case| case.case_id.as_str()));
        let settled = settled.chain(buried.iter().map(String::as_str)).collect();
        record_outcomes(&mut tx, claim, &forms, &failed, settled, &results.ignored).await?;
        Ok(tx.commit().await?)
    }
}

/// Takes away what forms had staged; the cases they touched become dirty.
pub(crate) async fn unstage(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    form_ids: &[&str],
) -> Result<(), StateError> {
    if form_ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "with gone as (
             delete from staged_update where migration_id = $1 and form_id = any($2) returning bucket, case_id
         )
         insert into dirty_case (migration_id, bucket, case_id) select distinct $1, bucket, case_id from gone",
    )
    .bind(claim.migration_id.0)
    .bind(form_ids)
    .execute(&mut **tx)
    .await?;
    sqlx::query("delete from form_verdict where migration_id = $1 and form_id = any($2)")
        .bind(claim.migration_id.0)
        .bind(form_ids)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Stages what forms do to their cases; these become dirty. Only a form that nobody has seen before is certainly new to its
/// cases: others leave dirty rows that name no form.
async fn stage(tx: &mut Transaction<'_, Postgres>, claim: &Claim, forms: &[&StagedForm]) -> Result<(), StateError> {
    let mut rows: Vec<(i16, &StagedCase, &StagedForm)> = forms
        .iter()
        .flat_map(|form| form.cases.iter().map(move |case| (form, case)))
        .map(|(form, case)| (proto::bucket::of(&case.case_id), case, *form))
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    // Neighbours of the index beside each other.
    rows.sort_unstable_by_key(|(bucket, case, form)| (*bucket, case.case_id.as_str(), form.form_id.as_str()));
    sqlx::query(
        "with input as (
             select * from unnest($2::smallint[], $3::text[], $4::text[], $5::bytea[], $7::bigint[], $8::boolean[])
                           i(bucket, case_id, form_id, payload, begun, seen_before)
         ),
         staged as (
             insert into staged_update (migration_id, bucket, case_id, form_id, rules, payload, begun)
             select $1, bucket, case_id, form_id, $6, payload, begun from input
             on conflict (migration_id, bucket, case_id, form_id)
             do update set rules = excluded.rules, payload = excluded.payload, begun = excluded.begun
         )
         insert into dirty_case (migration_id, bucket, case_id, form_id)
         select $1, bucket, case_id, case when not seen_before then form_id end from input",
    )
    .bind(claim.migration_id.0)
    .bind(rows.iter().map(|(bucket, _, _)| *bucket).collect::<Vec<_>>())
    .bind(
        rows.iter()
            .map(|(_, case, _)| case.case_id.as_str())
            .collect::<Vec<_>>(),
    )
    .bind(
        rows.iter()
            .map(|(_, _, form)| form.form_id.as_str())
            .collect::<Vec<_>>(),
    )
    .bind(
        rows.iter()
            .map(|(_, case, _)| case.payload.as_slice())
            .collect::<Vec<_>>(),
    )
    .bind(proto::effects::RULES_VERSION)
    .bind(rows.iter().map(|(_, _, form)| form.begun).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, _, form)| form.seen_before).collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?;
    Ok(())
}
