//! Rows of refused forms: their removal goes on record before it is done, and the verdict after it.
//!
//! ```text
//!   begin_removals ---> the rows go, in the target ---> finish_cases
//!   removing = true                                     removing = false: the verdict
//! ```
//!
//! A process that dies in between leaves the first record, and the case dirty. While it stands the form counts as accepted.
//! The next replay of the case either refuses the form again, and the row is removed if it is still there, or accepts it,
//! and the form goes through its stage again, which writes the row anew. Staging the form takes the record away.

use std::collections::{BTreeMap, HashMap};

use crate::batch::{Claim, hold_claim};
use crate::case_stage::Verdict;
use crate::revisions::lock_revisions;
use crate::{State, StateError};

impl State {
    /// Puts on record that the rows of these refused forms are about to be removed. Gives those that may be: of the others
    /// somebody has begun another writing than the one that was replayed (`staged_as`), or a case has refused them already.
    /// To be asked with the forms' rows locked: whoever begins later waits for the lock, and writes the row anew.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`].
    pub async fn begin_removals(
        &self,
        claim: &Claim,
        verdicts: &[&Verdict],
        staged_as: &HashMap<String, i64>,
    ) -> Result<Vec<String>, StateError> {
        // One row a form, however many cases refuse it.
        let removals: BTreeMap<&str, (&Verdict, i64)> = verdicts
            .iter()
            .filter_map(|verdict| Some((verdict.form_id.as_str(), (*verdict, *staged_as.get(&verdict.form_id)?))))
            .collect();
        let mut tx = self.pool.begin().await?;
        // Whoever replays the cases of the batch next must see the record: this one's case may not be dirty any more.
        hold_claim(&mut tx, claim).await?;
        // As in every transaction that writes verdicts: the forms first, in their order.
        let forms: Vec<&str> = removals.keys().copied().collect();
        lock_revisions(&mut tx, claim.migration_id, &forms).await?;
        let begun: Vec<String> = sqlx::query_scalar(
            "insert into form_verdict as v (migration_id, form_id, rev, case_id, code, removing)
             select $1, i.form_id, d.rev, i.case_id, i.code, true
             from unnest($2::text[], $3::bigint[], $4::text[], $5::text[]) i(form_id, begun, case_id, code)
             join doc_revision d on d.migration_id = $1 and d.doc_id = i.form_id and d.begun = i.begun
             on conflict (migration_id, form_id) do update
             set rev = excluded.rev, case_id = excluded.case_id, code = excluded.code where v.removing
             returning form_id",
        )
        .bind(claim.migration_id.0)
        .bind(removals.keys().copied().collect::<Vec<_>>())
        .bind(removals.values().map(|(_, begun)| *begun).collect::<Vec<_>>())
        .bind(
            removals
                .values()
                .map(|(verdict, _)| verdict.case_id.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(
            removals
                .values()
                .map(|(verdict, _)| verdict.code.as_str())
                .collect::<Vec<_>>(),
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(begun)
    }
}
