//! Documents that a worker finds gone.
//!
//! A burial counts as a writing, so that of a burial and a writing the one that began last stands:
//!
//! ```text
//!   writings ---> the documents are read ---> begin_burials ---> begun_since, with the rows locked; ---> finish_forms
//!   known                                     begun = known + 1  the rows go
//! ```
//!
//! Somebody who begins to write such a document after it was looked for may have read a newly made one: then it is not
//! buried but looked at again. Somebody who began before, and commits the row after it was to be removed, is not the last
//! any more when it comes to staging: it has the document looked at again, and the row goes then.

use std::collections::{HashMap, HashSet};

use proto::topology::Stage;
use sqlx::{Postgres, Transaction};

use crate::batch::{Claim, check_claim, insert_batch};
use crate::{State, StateError};

impl State {
    /// How often somebody has begun to write or bury each document of the batch, so far as anybody has. To be asked before
    /// the documents are read.
    ///
    /// # Errors
    /// Database errors.
    pub async fn writings(&self, claim: &Claim) -> Result<HashMap<String, i64>, StateError> {
        self.writings_of(claim, &claim.ids).await
    }

    /// The same of other documents.
    ///
    /// # Errors
    /// Database errors.
    pub async fn writings_of(&self, claim: &Claim, doc_ids: &[String]) -> Result<HashMap<String, i64>, StateError> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("select doc_id, begun from doc_revision where migration_id = $1 and doc_id = any($2)")
                .bind(claim.migration_id.0)
                .bind(doc_ids)
                .fetch_all(&self.pool)
                .await?;
        Ok(rows.into_iter().collect())
    }

    /// Puts tombstones on documents that were found gone, unless somebody has begun to write them since they were looked
    /// for: `known` is what [`State::writings`] said before. Gives the numbers of the burials.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`].
    pub async fn begin_burials(
        &self,
        claim: &Claim,
        gone: &[String],
        known: &HashMap<String, i64>,
    ) -> Result<HashMap<String, i64>, StateError> {
        // In the order of the key, so that two batches with the same documents wait for each other and do not deadlock.
        let mut ids: Vec<&str> = gone.iter().map(String::as_str).collect();
        ids.sort_unstable();
        ids.dedup();
        let begun: Vec<i64> = ids.iter().map(|id| known.get(*id).copied().unwrap_or(0) + 1).collect();
        let mut tx = self.pool.begin().await?;
        check_claim(&mut tx, claim).await?;
        let buried: Vec<(String, i64)> = sqlx::query_as(
            "insert into doc_revision as d (migration_id, doc_id, doc_type, rev_number, rev, deleted, begun)
             select $1, id, $2, 0, '', true, begun from unnest($3::text[], $4::bigint[]) i(id, begun)
             on conflict (migration_id, doc_id) do update set deleted = true, begun = excluded.begun
             where d.begun + 1 = excluded.begun
             returning doc_id, begun",
        )
        .bind(claim.migration_id.0)
        .bind(claim.doc_type.as_str())
        .bind(&ids)
        .bind(&begun)
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(buried.into_iter().collect())
    }

    /// Which of these burials are not the last that was begun. To be asked with the target's rows locked, before they are
    /// removed: whoever begins later waits for the lock, and writes the row anew.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`].
    pub async fn begun_since(
        &self,
        claim: &Claim,
        burials: &HashMap<String, i64>,
    ) -> Result<HashSet<String>, StateError> {
        let (ids, begun): (Vec<&str>, Vec<i64>) = burials.iter().map(|(id, begun)| (id.as_str(), *begun)).unzip();
        let mut tx = self.pool.begin().await?;
        check_claim(&mut tx, claim).await?;
        let since: Vec<String> = sqlx::query_scalar(
            "select d.doc_id from unnest($2::text[], $3::bigint[]) i(id, begun)
             join doc_revision d on d.migration_id = $1 and d.doc_id = i.id where d.begun <> i.begun",
        )
        .bind(claim.migration_id.0)
        .bind(&ids)
        .bind(&begun)
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(since.into_iter().collect())
    }
}

/// Sends documents of the batch through the form stage again.
pub(crate) async fn look_again(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    doc_ids: &[String],
) -> Result<(), StateError> {
    if doc_ids.is_empty() {
        return Ok(());
    }
    let (stage, doc_type) = (Stage::Form.as_str(), claim.doc_type.as_str());
    insert_batch(tx, claim.migration_id.0, stage, doc_type, doc_ids, None).await
}
