//! What a form worker reads and writes here.
//!
//! The order is: [`State::begin_forms`] while the target transaction is open (revisions and blob changes go on record
//! before the target is written), the target's writes, [`State::stale_forms`] once the target's rows are locked, the
//! target's commit, and [`State::finish_forms`], which stages everything and ends the claim in one transaction.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Row, Transaction};

use crate::batch::{Claim, check_claim, finish_claim};
use crate::{State, StateError};

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
}

/// A change of blob metadata, recorded before it is made.
#[derive(Clone, Debug)]
pub struct BlobChange {
    /// Whether a row is inserted, or its type corrected from this one.
    pub retyped_from: Option<i16>,
    /// Blob key.
    pub key: String,
    /// Form id.
    pub parent_id: String,
    /// Attachment name.
    pub name: String,
    /// Type code afterwards.
    pub new_type: i16,
    /// `created_on` of an inserted row.
    pub created_on: DateTime<Utc>,
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

/// A soft-deleted case that was staged.
#[derive(Clone, Debug)]
pub struct StagedDeletedCase {
    /// Case.
    pub case_id: String,
    /// Encoded `CaseEvent`.
    pub payload: Vec<u8>,
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
    /// Documents that vanished from Couch, or that are no longer of a type or a domain to migrate: what they had staged
    /// goes.
    pub gone: Vec<String>,
}

/// Number of a `_rev`, the part before the dash.
fn rev_number(rev: &str) -> i32 {
    rev.split('-').next().and_then(|number| number.parse().ok()).unwrap_or(0)
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
        let mut sorted: Vec<&DocIntent> = docs.iter().collect();
        sorted.sort_unstable_by(|a, b| a.doc_id.cmp(&b.doc_id));
        let ids: Vec<&str> = sorted.iter().map(|doc| doc.doc_id.as_str()).collect();
        let types: Vec<&str> = sorted.iter().map(|doc| doc.doc_type.as_str()).collect();
        let revs: Vec<&str> = sorted.iter().map(|doc| doc.rev.as_str()).collect();
        let numbers: Vec<i32> = revs.iter().map(|rev| rev_number(rev)).collect();

        let mut tx = self.pool.begin().await?;
        check_claim(&mut tx, claim).await?;
        sqlx::query(
            "insert into doc_revision as d (migration_id, doc_id, doc_type, rev_number, rev)
             select $1, id, doc_type, number, rev
             from unnest($2::text[], $3::text[], $4::int[], $5::text[]) i(id, doc_type, number, rev)
             on conflict (migration_id, doc_id) do update
             set doc_type = excluded.doc_type, rev_number = excluded.rev_number, rev = excluded.rev, deleted = false
             where (d.rev_number, d.rev collate \"C\") < (excluded.rev_number, excluded.rev collate \"C\")",
        )
        .bind(claim.migration_id.0)
        .bind(&ids)
        .bind(&types)
        .bind(&numbers)
        .bind(&revs)
        .execute(&mut *tx)
        .await?;
        let rows = sqlx::query(
            "select d.doc_id, d.first_staged_at, d.first_staged_at <> now() as seen_before, d.rev <> i.rev as superseded,
                    v.code as rejected
             from unnest($2::text[], $3::text[]) i(id, rev)
             join doc_revision d on d.migration_id = $1 and d.doc_id = i.id
             left join form_verdict v on v.migration_id = $1 and v.form_id = i.id and v.rev = i.rev",
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
                    },
                ))
            })
            .collect()
    }

    /// Puts blob changes on record that became known later.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`].
    pub async fn record_blob_changes(&self, claim: &Claim, blobs: &[BlobChange]) -> Result<(), StateError> {
        if blobs.is_empty() {
            return Ok(());
        }
        let mut tx = self.pool.begin().await?;
        check_claim(&mut tx, claim).await?;
        record_blob_changes(&mut tx, claim, blobs).await?;
        Ok(tx.commit().await?)
    }

    /// Which of these documents somebody has begun to write in a newer revision. To be asked once the target's rows are
    /// locked: whoever writes the newer revision then waits for us, or we see them here.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`].
    pub async fn stale_forms(&self, claim: &Claim, written: &[(String, String)]) -> Result<Vec<String>, StateError> {
        let mut tx = self.pool.begin().await?;
        check_claim(&mut tx, claim).await?;
        let stale = stale(&mut tx, claim, written.iter().map(|(id, rev)| (id.as_str(), rev.as_str()))).await?;
        tx.commit().await?;
        Ok(stale)
    }

    /// Stages what the forms do to their cases, records diffs and errors, and ends the claim.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`]; nothing was staged then, and the batch is somebody else's.
    pub async fn finish_forms(&self, claim: &Claim, results: &FormResults) -> Result<(), StateError> {
        let mut tx = self.pool.begin().await?;
        finish_claim(&mut tx, claim).await?;
        let newer: std::collections::HashSet<String> =
            stale(&mut tx, claim, results.forms.iter().map(|form| (form.form_id.as_str(), form.rev.as_str())))
                .await?
                .into_iter()
                .collect();
        let forms: Vec<&StagedForm> = results.forms.iter().filter(|form| !newer.contains(&form.form_id)).collect();

        let failed_ids = results.failed.iter().filter(|doc| doc.missing).map(|doc| doc.doc_id.as_str());
        let replaced: Vec<&str> = forms
            .iter()
            .filter(|form| form.seen_before)
            .map(|form| form.form_id.as_str())
            .chain(failed_ids)
            .chain(results.gone.iter().map(String::as_str))
            .collect();
        unstage(&mut tx, claim, &replaced).await?;
        stage(&mut tx, claim, &forms).await?;
        stage_deleted_cases(&mut tx, claim, &results.deleted_cases).await?;
        record_outcomes(&mut tx, claim, &forms, results).await?;
        Ok(tx.commit().await?)
    }
}

async fn stale<'a>(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    written: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Vec<String>, StateError> {
    let (ids, revs): (Vec<&str>, Vec<&str>) = written.unzip();
    Ok(sqlx::query_scalar(
        "select d.doc_id from unnest($2::text[], $3::text[]) i(id, rev)
         join doc_revision d on d.migration_id = $1 and d.doc_id = i.id
         where d.rev <> i.rev",
    )
    .bind(claim.migration_id.0)
    .bind(&ids)
    .bind(&revs)
    .fetch_all(&mut **tx)
    .await?)
}

async fn record_blob_changes(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    blobs: &[BlobChange],
) -> Result<(), StateError> {
    if blobs.is_empty() {
        return Ok(());
    }
    let kinds: Vec<&str> =
        blobs.iter().map(|blob| if blob.retyped_from.is_some() { "retype" } else { "insert" }).collect();
    // The first record of a change is the one that counts: a second attempt must not take our own row for one found.
    sqlx::query(
        "insert into blob_change (migration_id, kind, key, parent_id, name, old_type, new_type, created_on)
         select $1, kind, key, parent_id, name, old_type, new_type, created_on
         from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::smallint[], $7::smallint[], $8::timestamptz[])
              i(kind, key, parent_id, name, old_type, new_type, created_on)
         on conflict do nothing",
    )
    .bind(claim.migration_id.0)
    .bind(&kinds)
    .bind(blobs.iter().map(|blob| blob.key.as_str()).collect::<Vec<_>>())
    .bind(blobs.iter().map(|blob| blob.parent_id.as_str()).collect::<Vec<_>>())
    .bind(blobs.iter().map(|blob| blob.name.as_str()).collect::<Vec<_>>())
    .bind(blobs.iter().map(|blob| blob.retyped_from).collect::<Vec<_>>())
    .bind(blobs.iter().map(|blob| blob.new_type).collect::<Vec<_>>())
    .bind(blobs.iter().map(|blob| blob.created_on).collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Takes away what forms had staged; the cases they touched become dirty.
async fn unstage(tx: &mut Transaction<'_, Postgres>, claim: &Claim, form_ids: &[&str]) -> Result<(), StateError> {
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

async fn stage(tx: &mut Transaction<'_, Postgres>, claim: &Claim, forms: &[&StagedForm]) -> Result<(), StateError> {
    let mut buckets = Vec::new();
    let mut case_ids = Vec::new();
    let mut form_ids = Vec::new();
    let mut payloads = Vec::new();
    for form in forms {
        for case in &form.cases {
            buckets.push(proto::bucket::of(&case.case_id));
            case_ids.push(case.case_id.as_str());
            form_ids.push(form.form_id.as_str());
            payloads.push(case.payload.as_slice());
        }
    }
    if case_ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "with staged as (
             insert into staged_update (migration_id, bucket, case_id, form_id, rules, payload)
             select $1, bucket, case_id, form_id, $6, payload
             from unnest($2::smallint[], $3::text[], $4::text[], $5::bytea[]) i(bucket, case_id, form_id, payload)
             on conflict (migration_id, bucket, case_id, form_id)
             do update set rules = excluded.rules, payload = excluded.payload
             returning bucket, case_id
         )
         insert into dirty_case (migration_id, bucket, case_id) select $1, bucket, case_id from staged",
    )
    .bind(claim.migration_id.0)
    .bind(&buckets)
    .bind(&case_ids)
    .bind(&form_ids)
    .bind(&payloads)
    .bind(proto::effects::RULES_VERSION)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn stage_deleted_cases(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    cases: &[StagedDeletedCase],
) -> Result<(), StateError> {
    for case in cases {
        sqlx::query(
            "with event as (
                 insert into case_event (migration_id, bucket, case_id, kind, payload) values ($1, $2, $3, 'copied_deleted', $4)
                 on conflict (migration_id, bucket, case_id, kind) do update set payload = excluded.payload
             )
             insert into dirty_case (migration_id, bucket, case_id) values ($1, $2, $3)",
        )
        .bind(claim.migration_id.0)
        .bind(proto::bucket::of(&case.case_id))
        .bind(&case.case_id)
        .bind(&case.payload)
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// Diffs, lists and errors of a batch. A document that went through loses what was on record against it.
async fn record_outcomes(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    forms: &[&StagedForm],
    results: &FormResults,
) -> Result<(), StateError> {
    let id = claim.migration_id.0;
    let mut settled: Vec<&str> = forms.iter().map(|form| form.form_id.as_str()).collect();
    settled.extend(results.deleted_cases.iter().map(|case| case.case_id.as_str()));
    settled.extend(results.gone.iter().map(String::as_str));
    for sql in [
        "delete from doc_error where migration_id = $1 and doc_id = any($2) and kind <> 'CommCareCase'",
        "delete from doc_diff where migration_id = $1 and doc_id = any($2) and kind not like 'CommCareCase%'",
        "delete from missing_doc where migration_id = $1 and doc_id = any($2) and kind not like 'CommCareCase%'",
        "delete from no_action_case_form where migration_id = $1 and form_id = any($2)",
        "delete from problem_form where migration_id = $1 and form_id = any($2)",
    ] {
        sqlx::query(sql).bind(id).bind(&settled).execute(&mut **tx).await?;
    }
    let noop: Vec<&str> = forms.iter().filter(|form| form.has_noop_block).map(|form| form.form_id.as_str()).collect();
    let problem: Vec<&str> =
        forms.iter().filter(|form| form.is_problem_form).map(|form| form.form_id.as_str()).collect();
    for (sql, list) in [
        ("insert into no_action_case_form (migration_id, form_id) select $1, unnest($2::text[]) on conflict do nothing", noop),
        ("insert into problem_form (migration_id, form_id) select $1, unnest($2::text[]) on conflict do nothing", problem),
    ] {
        if !list.is_empty() {
            sqlx::query(sql).bind(id).bind(&list).execute(&mut **tx).await?;
        }
    }
    for form in forms {
        if let Some(diffs) = &form.diffs {
            sqlx::query("insert into doc_diff (migration_id, kind, doc_id, diffs, couch_rev) values ($1, $2, $3, $4, $5)
                         on conflict (migration_id, kind, doc_id) do update
                         set diffs = excluded.diffs, couch_rev = excluded.couch_rev, compared_at = now()")
                .bind(id)
                .bind(&form.kind)
                .bind(&form.form_id)
                .bind(diffs)
                .bind(&form.rev)
                .execute(&mut **tx)
                .await?;
        }
    }
    for doc in &results.failed {
        record_error(tx, id, &doc.kind, &doc.doc_id, &doc.code, &doc.message, doc.rev.as_deref()).await?;
        if doc.missing {
            sqlx::query("insert into missing_doc (migration_id, kind, doc_id) values ($1, $2, $3) on conflict do nothing")
                .bind(id)
                .bind(&doc.kind)
                .bind(&doc.doc_id)
                .execute(&mut **tx)
                .await?;
        }
    }
    Ok(())
}

/// Records the error of a document; the newest one stands.
pub(crate) async fn record_error(
    tx: &mut Transaction<'_, Postgres>,
    migration_id: i32,
    kind: &str,
    doc_id: &str,
    code: &str,
    message: &str,
    rev: Option<&str>,
) -> Result<(), StateError> {
    sqlx::query(
        "insert into doc_error (migration_id, kind, doc_id, code, message, rev) values ($1, $2, $3, $4, $5, $6)
         on conflict (migration_id, kind, doc_id) do update
         set code = excluded.code, message = excluded.message, rev = excluded.rev, last_at = now()",
    )
    .bind(migration_id)
    .bind(kind)
    .bind(doc_id)
    .bind(code)
    .bind(message)
    .bind(rev)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::rev_number;

    #[test]
    fn revisions_are_ordered_by_number() {
        assert_eq!(rev_number("12-abc"), 12);
        assert_eq!(rev_number("junk"), 0);
    }
}
