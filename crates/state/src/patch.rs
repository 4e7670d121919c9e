//! Patches: which recorded differences there are to patch, and what became of each.
//!
//! A patch form is on record ([`State::begin_patches`]) before anything of it is written. Its effects are staged with the
//! other results of its batch ([`PatchResults`]); the case is replayed and compared again then, which decides whether the
//! differences are gone. A patch that is refused leaves its reason beside the record.

use chrono::{DateTime, Utc};
use proto::doctype::DocType;
use proto::topology::Stage;
use sqlx::Row;

use crate::batch::{Claim, check_claim, insert_batch};
use crate::migration::DriverLease;
use crate::patch_outcome;
use crate::records::RecordTable;
use crate::scan::{lock_case_states, with_buckets};
use crate::{MigrationId, State, StateError};

/// A record that may be patched.
#[derive(Clone, Debug)]
pub struct RecordToPatch {
    /// Its document.
    pub doc_id: String,
    /// Kind under which it is recorded.
    pub kind: String,
    /// Differences, or changes.
    pub table: RecordTable,
    /// The differences, as JSON text.
    pub diffs: String,
    /// Generation of the case that was compared.
    pub generation: i64,
    /// `_rev` that was compared.
    pub couch_rev: Option<String>,
    /// The case is as it was compared: no input of it has come since.
    pub is_current: bool,
}

/// Why a record was not patched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchRefusal {
    /// Its document.
    pub doc_id: String,
    /// Kind under which it is recorded.
    pub kind: String,
    /// Differences, or changes.
    pub table: RecordTable,
    /// Stable code of the reason.
    pub code: String,
    /// The reason, without any value of the document.
    pub message: String,
}

/// A patch form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchFormRecord {
    /// Form.
    pub form_id: String,
    /// The case it is for.
    pub case_id: String,
    /// What it is made for: differences, or changes.
    pub table: RecordTable,
}

/// What came of a batch of cases to patch, beside the forms themselves.
#[derive(Clone, Debug, Default)]
pub struct PatchResults {
    /// Patches whose forms are written.
    pub patched: Vec<PatchFormRecord>,
    /// Corrections of ledgers that go with them: patch form, encoded `CaseEvent`.
    pub corrections: Vec<(String, Vec<u8>)>,
    /// Records that were refused.
    pub refused: Vec<PatchRefusal>,
    /// Cases that are to be compared again, since they are no longer what was compared.
    pub outdated: Vec<String>,
}

/// Where a page of staged effects ends.
pub type StagedPlace = (i16, String, String);

/// What patching has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatchCounts {
    /// Cases that were patched at least once.
    pub cases: i64,
    /// Patch forms.
    pub forms: i64,
    /// Records that could not be patched, and stand.
    pub refused: i64,
}

impl State {
    /// Takes back what was asked for earlier, and what was set aside of it with its errors: a driver died, or a command was
    /// repeated. What workers have in hand stays.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn withdraw_patch_requests(&self, held: &DriverLease) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        sqlx::query(
            "with gone as (
                 delete from batch
                 where migration_id = $1 and stage = $2 and doc_type = $3 and state in ('ready', 'parked')
                 returning state, ids, error_code
             )
             delete from doc_error e
             using (select unnest(ids) as doc_id, error_code from gone where state = 'parked') g
             where e.migration_id = $1 and e.kind = $3 and e.doc_id = g.doc_id and e.code = g.error_code",
        )
        .bind(held.migration_id.0)
        .bind(Stage::Form.as_str())
        .bind(DocType::CommCareCase.as_str())
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    /// Inserts batches of cases to patch.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn request_patches(
        &self,
        held: &DriverLease,
        case_ids: &[String],
        batch: usize,
    ) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        for part in case_ids.chunks(batch) {
            insert_batch(
                &mut tx,
                held.migration_id.0,
                Stage::Form.as_str(),
                DocType::CommCareCase.as_str(),
                part,
                None,
            )
            .await?;
        }
        Ok(tx.commit().await?)
    }

    /// Ids of cases with a record that a patch may be made for, in order, after an id.
    ///
    /// # Errors
    /// Database errors.
    pub async fn patchable_after(&self, id: MigrationId, after: &str, limit: i64) -> Result<Vec<String>, StateError> {
        Ok(sqlx::query_scalar(
            "(select doc_id from doc_diff where migration_id = $1 and kind = 'CommCareCase' and doc_id > $2
              order by doc_id limit $3)
             union
             (select doc_id from doc_change where migration_id = $1 and kind = 'CommCareCase' and doc_id > $2
              order by doc_id limit $3)
             order by 1 limit $3",
        )
        .bind(id.0)
        .bind(after)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// What is on record of these documents, differences before changes. To be read after the staged effects of the cases:
    /// a form that is staged in between makes the record outdated.
    ///
    /// # Errors
    /// Database errors.
    pub async fn records_to_patch(
        &self,
        id: MigrationId,
        doc_ids: &[String],
    ) -> Result<Vec<RecordToPatch>, StateError> {
        let (buckets, ids) = with_buckets(doc_ids);
        let rows = sqlx::query(
            "select r.record, r.kind, r.doc_id, r.diffs, coalesce(r.generation, 0) as generation, r.couch_rev,
                    coalesce(s.generation = r.generation and s.diffed_generation = r.generation
                             and s.diffed_rev is not distinct from r.couch_rev, false)
                    and not exists (select 1 from dirty_case d
                                    where d.migration_id = $1 and d.bucket = i.bucket and d.case_id = i.id) as is_current
             from unnest($2::smallint[], $3::text[]) i(bucket, id)
             join (select 'diffs' as record, 0 as place, kind, doc_id, diffs, generation, couch_rev from doc_diff
                   where migration_id = $1 and doc_id = any($3)
                   union all
                   select 'changes', 1, kind, doc_id, diffs, generation, couch_rev from doc_change
                   where migration_id = $1 and doc_id = any($3)) r on r.doc_id = i.id
             left join case_state s on s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.id
             order by r.doc_id, r.place, r.kind",
        )
        .bind(id.0)
        .bind(&buckets)
        .bind(&ids)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(RecordToPatch {
                    doc_id: row.try_get("doc_id")?,
                    kind: row.try_get("kind")?,
                    table: RecordTable::parse(row.try_get("record")?)?,
                    diffs: row.try_get("diffs")?,
                    generation: row.try_get("generation")?,
                    couch_rev: row.try_get("couch_rev")?,
                    is_current: row.try_get("is_current")?,
                })
            })
            .collect()
    }

    /// A page of what is staged for these cases: case and encoded `FormEffects`, with the place where it ends.
    ///
    /// # Errors
    /// Database errors.
    pub async fn staged_page(
        &self,
        id: MigrationId,
        case_ids: &[String],
        after: Option<&StagedPlace>,
        limit: i64,
    ) -> Result<Vec<(StagedPlace, Vec<u8>)>, StateError> {
        let (buckets, ids) = with_buckets(case_ids);
        let (bucket, case_id, form_id) = after.map_or((-1, "", ""), |(bucket, case_id, form_id)| {
            (*bucket, case_id.as_str(), form_id.as_str())
        });
        let rows = sqlx::query(
            "select s.bucket, s.case_id, s.form_id, s.payload from staged_update s
             where s.migration_id = $1 and s.bucket = any($2) and s.case_id = any($3)
               and (s.bucket, s.case_id, s.form_id) > ($4, $5, $6)
             order by s.bucket, s.case_id, s.form_id limit $7",
        )
        .bind(id.0)
        .bind(&buckets)
        .bind(&ids)
        .bind(bucket)
        .bind(case_id)
        .bind(form_id)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                let place = (row.try_get("bucket")?, row.try_get("case_id")?, row.try_get("form_id")?);
                Ok((place, row.try_get("payload")?))
            })
            .collect()
    }

    /// The cut-off of a live migration: cases that Couch has changed later are not patched.
    ///
    /// # Errors
    /// Database errors.
    pub async fn live_cutoff(&self, id: MigrationId) -> Result<Option<DateTime<Utc>>, StateError> {
        Ok(sqlx::query_scalar("select live_cutoff from migration where id = $1")
            .bind(id.0)
            .fetch_one(&self.pool)
            .await?)
    }

    /// Puts patch forms on record before anything of them is written.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`].
    pub async fn begin_patches(&self, claim: &Claim, patches: &[PatchFormRecord]) -> Result<(), StateError> {
        let mut tx = self.pool.begin().await?;
        check_claim(&mut tx, claim).await?;
        lock_case_states(&mut tx, claim.migration_id, &claim.ids).await?;
        let patches: Vec<&PatchFormRecord> = patches.iter().collect();
        patch_outcome::put_on_record(&mut tx, claim.migration_id, &patches).await?;
        Ok(tx.commit().await?)
    }

    /// Patch forms for these cases that were begun and never staged: an attempt died.
    ///
    /// # Errors
    /// Database errors.
    pub async fn unfinished_patches(&self, id: MigrationId, case_ids: &[String]) -> Result<Vec<String>, StateError> {
        Ok(sqlx::query_scalar(
            "select form_id from patch_form where migration_id = $1 and case_id = any($2) and not staged order by 1",
        )
        .bind(id.0)
        .bind(case_ids)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Staged patch forms of these cases or with these ids (of all cases when both are empty), in order, after an id.
    ///
    /// # Errors
    /// Database errors.
    pub async fn patch_forms(
        &self,
        id: MigrationId,
        form_ids: &[String],
        case_ids: &[String],
        after: &str,
        limit: i64,
    ) -> Result<Vec<PatchFormRecord>, StateError> {
        let rows = sqlx::query(
            "select form_id, case_id, record from patch_form
             where migration_id = $1 and staged and form_id > $4
               and (cardinality($2::text[]) = 0 or form_id = any($2))
               and (cardinality($3::text[]) = 0 or case_id = any($3))
             order by form_id limit $5",
        )
        .bind(id.0)
        .bind(form_ids)
        .bind(case_ids)
        .bind(after)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(PatchFormRecord {
                    form_id: row.try_get("form_id")?,
                    case_id: row.try_get("case_id")?,
                    table: RecordTable::parse(row.try_get("record")?)?,
                })
            })
            .collect()
    }

    /// Which of these forms are staged patch forms.
    ///
    /// # Errors
    /// Database errors.
    pub async fn patch_forms_among(&self, id: MigrationId, form_ids: &[String]) -> Result<Vec<String>, StateError> {
        if form_ids.is_empty() {
            return Ok(Vec::new());
        }
        Ok(sqlx::query_scalar(
            "select form_id from patch_form where migration_id = $1 and staged and form_id = any($2) order by 1",
        )
        .bind(id.0)
        .bind(form_ids)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Blob metadata that was inserted for these forms as patch forms, as (form, key): it goes with their rows.
    ///
    /// # Errors
    /// Database errors.
    pub async fn patch_blobs(&self, id: MigrationId, form_ids: &[String]) -> Result<Vec<(String, String)>, StateError> {
        if form_ids.is_empty() {
            return Ok(Vec::new());
        }
        Ok(sqlx::query_as(
            "select parent_id, key from blob_change
             where migration_id = $1 and parent_id = any($2) and kind = 'insert' and origin = 'patch' order by 1, 2",
        )
        .bind(id.0)
        .bind(form_ids)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Refusals whose records still stand, in order.
    ///
    /// # Errors
    /// Database errors.
    pub async fn patch_refusals(&self, id: MigrationId, limit: i64) -> Result<Vec<PatchRefusal>, StateError> {
        let rows = sqlx::query(
            "select doc_id, kind, record, code, message from standing_patch_refusal where migration_id = $1
             order by doc_id, record limit $2",
        )
        .bind(id.0)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(PatchRefusal {
                    doc_id: row.try_get("doc_id")?,
                    kind: row.try_get("kind")?,
                    table: RecordTable::parse(row.try_get("record")?)?,
                    code: row.try_get("code")?,
                    message: row.try_get("message")?,
                })
            })
            .collect()
    }

    /// How many cases were patched at least once, by how many forms, and how many records could not be.
    ///
    /// # Errors
    /// Database errors.
    pub async fn patch_counts(&self, id: MigrationId) -> Result<PatchCounts, StateError> {
        let (cases, forms, refused) = sqlx::query_as(
            "select (select count(*) from patched_case where migration_id = $1),
                    (select count(*) from patch_form where migration_id = $1 and staged),
                    (select count(*) from standing_patch_refusal where migration_id = $1)",
        )
        .bind(id.0)
        .fetch_one(&self.pool)
        .await?;
        Ok(PatchCounts { cases, forms, refused })
    }
}
