//! Revisions of documents on record, and who has begun to write which of them last.
//!
//! Every transaction that decides about documents locks their rows here first, in one pass and in the order of their ids.

use std::collections::{HashMap, HashSet};

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
    /// every transaction takes the revisions that it locks in one pass, in their order.
    pub(crate) async fn record_failed(&self, claim: &Claim, results: &FormResults) -> Result<(), StateError> {
        let revisions: Vec<_> = failed_revisions(results).collect();
        if revisions.is_empty() {
            return Ok(());
        }
        let mut tx = self.pool.begin().await?;
        check_claim(&mut tx, claim).await?;
        record_revisions(&mut tx, claim, revisions, Occasion::Failed).await?;
        Ok(tx.commit().await?)
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
fn failed_revisions(results: &FormResults) -> impl Iterator<Item = (&str, &str, &str)> {
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

/// Where others have been faster, or slower, than we.
pub(crate) struct Overtaken<'a> {
    /// Documents of the results whose outcome is somebody else's.
    pub(crate) newer: HashSet<&'a str>,
    /// Documents that are gone, and that nobody has begun to write since.
    pub(crate) buried: Vec<String>,
    /// Documents that are gone for one and there for another.
    pub(crate) again: Vec<String>,
}

/// Documents of the results of which somebody has read a newer revision, or that somebody has begun to write or bury after
/// us: theirs is the outcome that counts. The rows stay
/// locked until the transaction ends: a newer revision that begins meanwhile waits, and then finds what we staged.
pub(crate) async fn overtaken<'a>(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    results: &'a FormResults,
) -> Result<Overtaken<'a>, StateError> {
    let forms = results
        .forms
        .iter()
        .map(|form| (form.form_id.as_str(), form.rev.as_str(), Some(form.begun)));
    let cases = results
        .deleted_cases
        .iter()
        .map(|case| (case.case_id.as_str(), case.rev.as_str(), Some(case.begun)));
    let read: HashMap<&str, (&str, Option<i64>)> = forms
        .chain(cases)
        .chain(failed_revisions(results).map(|(id, _, rev)| (id, rev, None)))
        .map(|(id, rev, begun)| (id, (rev, begun)))
        .collect();
    let gone = results.gone.iter().map(String::as_str);
    let newest: Vec<(String, i32, String, i64, bool)> = sqlx::query_as(
        "select doc_id, rev_number, rev, begun, deleted from doc_revision where migration_id = $1 and doc_id = any($2)
         order by doc_id for no key update",
    )
    .bind(claim.migration_id.0)
    .bind(read.keys().copied().chain(gone).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    let (mut newer, mut again) = (HashSet::new(), Vec::new());
    let mut last_begun: HashMap<&str, i64> = HashMap::with_capacity(newest.len());
    for (doc_id, number, newest_rev, last, deleted) in &newest {
        last_begun.insert(doc_id, *last);
        let Some((id, (rev, begun))) = read.get_key_value(doc_id.as_str()) else {
            continue;
        };
        if (*number, newest_rev.as_str()) > (rev_number(rev), *rev) || begun.is_some_and(|begun| begun < *last) {
            newer.insert(*id);
            // We may have written the row after it was to be removed.
            if *deleted && begun.is_some() {
                again.push(doc_id.clone());
            }
        }
    }
    let mut buried = Vec::with_capacity(results.gone.len());
    for id in &results.gone {
        let is_last = last_begun.get(id.as_str()) == results.burials.get(id) && results.burials.contains_key(id);
        if is_last { &mut buried } else { &mut again }.push(id.clone());
    }
    Ok(Overtaken { newer, buried, again })
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
