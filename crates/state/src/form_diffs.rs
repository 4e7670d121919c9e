//! Forms that are compared again, by both of their sides as they are stored: batches of the diff stage whose documents are
//! forms.

use std::collections::HashSet;

use proto::doctype::DocType;
use proto::topology::Stage;
use sqlx::Row;

use crate::batch::{Claim, check_claim, finish_claim, insert_batch};
use crate::migration::DriverLease;
use crate::operator_rules::{Ignored, Of, replace_ignored};
use crate::revisions::lock_revisions;
use crate::{MigrationId, State, StateError};

/// A form to compare, with the number of the writing that was there when the comparison began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormToDiff {
    /// Form.
    pub form_id: String,
    /// How often somebody had begun to write it; none when nobody ever has.
    pub begun: Option<i64>,
}

/// What the comparison of a form found.
#[derive(Clone, Debug)]
pub struct FormComparison {
    /// The form, as it was when the comparison began.
    pub form: FormToDiff,
    /// Kind to record under.
    pub kind: String,
    /// `_rev` that was compared.
    pub rev: Option<String>,
    /// Diffs as JSON text, when there are any.
    pub diffs: Option<String>,
}

impl State {
    /// Asks for a comparison of forms: inserts batches for the diff stage.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn request_form_diffs(
        &self,
        held: &DriverLease,
        form_ids: &[String],
        batch: usize,
    ) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        for part in form_ids.chunks(batch.max(1)) {
            let (stage, kind) = (Stage::Diff.as_str(), DocType::XFormInstance.as_str());
            insert_batch(&mut tx, held.migration_id.0, stage, kind, part, None).await?;
        }
        Ok(tx.commit().await?)
    }

    /// Ids of forms with recorded diffs, in order, after an id.
    ///
    /// # Errors
    /// Database errors.
    pub async fn forms_with_diffs_after(
        &self,
        id: MigrationId,
        after: &str,
        limit: i64,
    ) -> Result<Vec<String>, StateError> {
        Ok(sqlx::query_scalar(
            "select distinct doc_id from doc_diff
             where migration_id = $1 and doc_id > $2 and kind not like 'CommCareCase%' order by doc_id limit $3",
        )
        .bind(id.0)
        .bind(after)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// The forms of a batch, to be asked for before they are read.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`].
    pub async fn forms_to_diff(&self, claim: &Claim) -> Result<Vec<FormToDiff>, StateError> {
        let mut tx = self.pool.begin().await?;
        check_claim(&mut tx, claim).await?;
        let rows = sqlx::query(
            "select i.id, d.begun from (select distinct unnest($2::text[]) as id) i
             left join doc_revision d on d.migration_id = $1 and d.doc_id = i.id order by i.id",
        )
        .bind(claim.migration_id.0)
        .bind(&claim.ids)
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        rows.iter()
            .map(|row| {
                Ok(FormToDiff {
                    form_id: row.try_get("id")?,
                    begun: row.try_get("begun")?,
                })
            })
            .collect()
    }

    /// Records comparisons of forms and ends the claim. A comparison whose form somebody has begun to write since is
    /// dropped: that writer compares it himself. Gives how many were dropped.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`].
    pub async fn finish_form_diffs(
        &self,
        claim: &Claim,
        comparisons: &[FormComparison],
        ignored: &[Ignored],
    ) -> Result<usize, StateError> {
        let id = claim.migration_id;
        let mut tx = self.pool.begin().await?;
        finish_claim(&mut tx, claim).await?;
        let ids: Vec<&str> = comparisons.iter().map(|found| found.form.form_id.as_str()).collect();
        // Whoever begins to write one of them now waits, and then finds what we recorded.
        lock_revisions(&mut tx, id, &ids).await?;
        let moved: HashSet<String> = sqlx::query_scalar(
            "select i.id from unnest($2::text[], $3::bigint[]) i(id, begun)
             left join doc_revision d on d.migration_id = $1 and d.doc_id = i.id
             where d.begun is distinct from i.begun",
        )
        .bind(id.0)
        .bind(&ids)
        .bind(comparisons.iter().map(|found| found.form.begun).collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await?
        .into_iter()
        .collect();
        let settled: Vec<&FormComparison> = comparisons
            .iter()
            .filter(|found| !moved.contains(&found.form.form_id))
            .collect();
        let ids: Vec<&str> = settled.iter().map(|found| found.form.form_id.as_str()).collect();
        sqlx::query(
            "delete from doc_diff where migration_id = $1 and doc_id = any($2) and kind not like 'CommCareCase%'",
        )
        .bind(id.0)
        .bind(&ids)
        .execute(&mut *tx)
        .await?;
        let differing: Vec<(&FormComparison, &str)> = settled
            .iter()
            .filter_map(|found| Some((*found, found.diffs.as_deref()?)))
            .collect();
        sqlx::query(
            "insert into doc_diff (migration_id, kind, doc_id, diffs, couch_rev)
             select $1, kind, doc_id, diffs, rev
             from unnest($2::text[], $3::text[], $4::text[], $5::text[]) i(kind, doc_id, diffs, rev)
             on conflict (migration_id, kind, doc_id) do update
             set diffs = excluded.diffs, couch_rev = excluded.couch_rev, compared_at = now()",
        )
        .bind(id.0)
        .bind(
            differing
                .iter()
                .map(|(found, _)| found.kind.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(
            differing
                .iter()
                .map(|(found, _)| found.form.form_id.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(differing.iter().map(|(_, diffs)| *diffs).collect::<Vec<_>>())
        .bind(
            differing
                .iter()
                .map(|(found, _)| found.rev.as_deref())
                .collect::<Vec<_>>(),
        )
        .execute(&mut *tx)
        .await?;
        replace_ignored(&mut tx, id, Of::Forms, &ids, ignored).await?;
        tx.commit().await?;
        Ok(comparisons.len() - settled.len())
    }
}
