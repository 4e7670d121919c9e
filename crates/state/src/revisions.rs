//! Revisions of documents on record, and who has begun to write which of them last.
//!
//! Every transaction that decides about documents locks their rows here first, in one pass and in the order of their ids.

use sqlx::{Postgres, Transaction};

use crate::batch::{Claim, check_claim};
use crate::form_stage::FormResults;
use crate::{MigrationId, State, StateError};

/// Number of a `_rev`, the part before the dash.
pub(crate) fn rev_number(rev: &str) -> i32 {
    rev.split('-')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

impl State {
    /// A failed document has a newest revision too, which an older one must not replace. It goes on record by itself: then
    /// every transaction takes the revisions that it locks in one pass, in their order. Gives the documents of which an older
    /// revision was on record: they are to be looked at again.
    pub(crate) async fn record_failed(&self, claim: &Claim, results: &FormResults) -> Result<Vec<String>, StateError> {
        let revisions: Vec<_> = failed_revisions(results).collect();
        if revisions.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.pool.begin().await?;
        check_claim(&mut tx, claim).await?;
        let replaced = replaced(&mut tx, claim, &revisions).await?;
        record_revisions(&mut tx, claim, revisions, Occasion::Failed).await?;
        tx.commit().await?;
        Ok(replaced)
    }
}

/// Locks the revisions of these documents, in their order, as far as there are any.
pub(crate) async fn lock_revisions(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    doc_ids: &[&str],
) -> Result<(), StateError> {
    if !doc_ids.is_empty() {
        sqlx::query(
            "select 1 from doc_revision where migration_id = $1 and doc_id = any($2) order by doc_id for no key update",
        )
        .bind(id.0)
        .bind(doc_ids)
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// Documents that failed, with their types and the revisions that were read.
pub(crate) fn failed_revisions(results: &FormResults) -> impl Iterator<Item = (&str, &str, &str)> {
    results
        .failed
        .iter()
        .filter_map(|doc| Some((doc.doc_id.as_str(), doc.kind.as_str(), doc.rev.as_deref()?)))
}

/// Why a revision goes on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// Somebody begins to write it.
    Begun,
    /// It cannot be written.
    Failed,
}

/// Records revisions, as (id, type, `_rev`): the newest that anyone has read stands, and any after a tombstone.
pub(crate) async fn record_revisions(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    mut revisions: Vec<(&str, &str, &str)>,
    occasion: Occasion,
) -> Result<(), StateError> {
    // In the order of the key, so that two batches with the same documents wait for each other and do not deadlock.
    revisions.sort_unstable();
    sqlx::query(
        "insert into doc_revision as d (migration_id, doc_id, doc_type, rev_number, rev)
         select $1, id, doc_type, number, rev
         from unnest($2::text[], $3::text[], $4::int[], $5::text[]) i(id, doc_type, number, rev)
         on conflict (migration_id, doc_id) do update
         set doc_type = excluded.doc_type, rev_number = excluded.rev_number, rev = excluded.rev, deleted = false,
             begun = d.begun + greatest($6::int, d.deleted::int)
         where (d.rev_number, d.rev collate \"C\") < (excluded.rev_number, excluded.rev collate \"C\")
            or d.deleted or ($6 = 1 and d.rev = excluded.rev)",
    )
    .bind(claim.migration_id.0)
    .bind(revisions.iter().map(|(id, _, _)| *id).collect::<Vec<_>>())
    .bind(revisions.iter().map(|(_, doc_type, _)| *doc_type).collect::<Vec<_>>())
    .bind(revisions.iter().map(|(_, _, rev)| rev_number(rev)).collect::<Vec<_>>())
    .bind(revisions.iter().map(|(_, _, rev)| *rev).collect::<Vec<_>>())
    .bind(i32::from(occasion == Occasion::Begun))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Documents that fail, as (id, type, `_rev`), of which an older revision is on record. Whoever writes that one may have
/// committed its row after we had rows removed.
async fn replaced(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    failed: &[(&str, &str, &str)],
) -> Result<Vec<String>, StateError> {
    Ok(sqlx::query_scalar(
        "select d.doc_id from unnest($2::text[], $3::int[], $4::text[]) i(id, number, rev)
         join doc_revision d on d.migration_id = $1 and d.doc_id = i.id and not d.deleted
         where (d.rev_number, d.rev collate \"C\") < (i.number, i.rev collate \"C\") order by 1",
    )
    .bind(claim.migration_id.0)
    .bind(failed.iter().map(|(id, _, _)| *id).collect::<Vec<_>>())
    .bind(failed.iter().map(|(_, _, rev)| rev_number(rev)).collect::<Vec<_>>())
    .bind(failed.iter().map(|(_, _, rev)| *rev).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?)
}

pub(crate) async fn stale<'a>(
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

#[cfg(test)]
mod tests {
    use super::rev_number;

    #[test]
    fn revisions_are_ordered_by_number() {
        assert_eq!(rev_number("12-abc"), 12);
        assert_eq!(rev_number("junk"), 0);
    }
}
