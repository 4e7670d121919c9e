//! What goes through a stage again: documents that failed, that are missing, or that have changed since.

use std::collections::BTreeSet;

use proto::doctype::DocType;
use proto::topology::Stage;
use sqlx::{Postgres, Row, Transaction};

use crate::batch::insert_batch;
use crate::look::ONLY_IN_SQL;
use crate::lost_forms::LOST_REV;
use crate::migration::DriverLease;
use crate::revisions::rev_number;
use crate::scan::lock_case_states;
use crate::unusable::UNUSABLE_ID;
use crate::{MigrationId, State, StateError};

impl State {
    /// Inserts form batches for documents that have an error or a form diff on record or are missing, to try them again. A
    /// form that Couch never had is not among them: there is nothing to try, and its row goes only when an operator says so.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn requeue_failed(&self, held: &DriverLease, batch: usize) -> Result<usize, StateError> {
        let mut tx = self.driver_tx(held).await?;
        sqlx::query(
            "select 1 from doc_revision where migration_id = $1 and doc_id in (
                 select form_id from form_verdict where migration_id = $1 and not removing)
             order by doc_id for no key update",
        )
        .bind(held.migration_id.0)
        .execute(&mut *tx)
        .await?;
        // One statement: a verdict that a late worker records meanwhile stays, since its form is not among those.
        let rows = sqlx::query(
            "with again as (
                 select kind, doc_id from doc_error where migration_id = $1 and kind <> 'CommCareCase' and code <> $3
                 union select kind, doc_id from missing_doc where migration_id = $1 and kind <> 'CommCareCase'
                 union select kind, doc_id from doc_diff where migration_id = $1 and kind not like 'CommCareCase%'
                   and diffs <> $2
             ), acquitted as (
                 delete from form_verdict where migration_id = $1 and not removing and form_id in (select doc_id from again)
             )
             select kind, doc_id from again order by 1, 2",
        )
        .bind(held.migration_id.0)
        .bind(ONLY_IN_SQL)
        .bind(UNUSABLE_ID)
        .fetch_all(&mut *tx)
        .await?;
        let mut by_kind: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
        for row in &rows {
            by_kind
                .entry(row.try_get("kind")?)
                .or_default()
                .push(row.try_get("doc_id")?);
        }
        for (kind, ids) in &by_kind {
            for part in ids.chunks(batch) {
                insert_batch(&mut tx, held.migration_id.0, Stage::Form.as_str(), kind, part, None).await?;
            }
        }
        tx.commit().await?;
        Ok(rows.len())
    }

    /// Compares revisions of documents, by type, as Couch has them now, with those that were migrated, and has what has
    /// changed since migrated again. Gives how many. Documents that no scan has met, since their dates lie behind its
    /// cursor, are among them; those that failed are not: they have had their chance in this run. Nor are those that went
    /// back to an older revision ([`State::rewound`]).
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn requeue_changed(
        &self,
        held: &DriverLease,
        documents: &[(DocType, Vec<(String, String)>)],
        batch: usize,
    ) -> Result<usize, StateError> {
        let mut types = Vec::new();
        let (ids, revs): (Vec<&str>, Vec<&str>) = documents
            .iter()
            .flat_map(|(doc_type, revisions)| {
                types.extend(std::iter::repeat_n(doc_type.as_str(), revisions.len()));
                revisions
            })
            .map(|(id, rev)| (id.as_str(), rev.as_str()))
            .unzip();
        let mut tx = self.driver_tx(held).await?;
        let changed: Vec<(String, String)> = sqlx::query_as(
            "select i.doc_type, i.id from unnest($2::text[], $3::text[], $4::int[], $5::text[]) i(id, rev, number, doc_type)
             left join doc_revision d on d.migration_id = $1 and d.doc_id = i.id
             where (d.rev_number, d.rev collate \"C\") < (i.number, i.rev collate \"C\")
                or (d.deleted and d.rev = i.rev)
                or d.doc_id is null
               and not exists (select from doc_error e where e.migration_id = $1 and e.doc_id = i.id)
             order by 1, 2",
        )
        .bind(held.migration_id.0)
        .bind(&ids)
        .bind(&revs)
        .bind(revs.iter().map(|rev| rev_number(rev)).collect::<Vec<_>>())
        .bind(&types)
        .fetch_all(&mut *tx)
        .await?;
        insert_by_type(&mut tx, held.migration_id, &changed, batch).await?;
        tx.commit().await?;
        Ok(changed.len())
    }

    /// Has the form stage look again at cases that are alive in Couch and were staged as deleted ones. Gives how many.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn requeue_revived(
        &self,
        held: &DriverLease,
        case_ids: &[String],
        batch: usize,
    ) -> Result<usize, StateError> {
        let mut tx = self.driver_tx(held).await?;
        let revived: Vec<String> = sqlx::query_scalar(
            "select doc_id from doc_revision
             where migration_id = $1 and doc_id = any($2) and doc_type = 'CommCareCase-Deleted' and not deleted order by 1",
        )
        .bind(held.migration_id.0)
        .bind(case_ids)
        .fetch_all(&mut *tx)
        .await?;
        for part in revived.chunks(batch) {
            insert_batch(
                &mut tx,
                held.migration_id.0,
                Stage::Form.as_str(),
                DocType::CommCareCaseDeleted.as_str(),
                part,
                None,
            )
            .await?;
        }
        tx.commit().await?;
        Ok(revived.len())
    }

    /// Ids of documents on record as there, in order, after an id. Patch forms and forms that were made of their XML are none
    /// of Couch's. Patch forms that were begun and never staged are what an attempt has left behind: nobody has them.
    ///
    /// # Errors
    /// Database errors.
    pub async fn staged_after(&self, id: MigrationId, after: &str, limit: i64) -> Result<Vec<String>, StateError> {
        Ok(sqlx::query_scalar(
            "select d.doc_id from doc_revision d where d.migration_id = $1 and d.doc_id > $2 and not d.deleted and d.rev <> $4
               and not exists (select 1 from patch_form p
                               where p.migration_id = $1 and p.form_id = d.doc_id and p.staged)
             order by d.doc_id limit $3",
        )
        .bind(id.0)
        .bind(after)
        .bind(limit)
        .bind(LOST_REV)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Ids of cases that were compared with a document of Couch, in their order, after a case.
    ///
    /// # Errors
    /// Database errors.
    pub async fn compared_after(&self, id: MigrationId, after: &str, limit: i64) -> Result<Vec<String>, StateError> {
        Ok(sqlx::query_scalar(
            "select case_id from case_state
             where migration_id = $1 and (bucket, case_id) > ($2, $3) and diffed_rev is not null
             order by bucket, case_id limit $4",
        )
        .bind(id.0)
        .bind(if after.is_empty() { -1 } else { proto::bucket::of(after) })
        .bind(after)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Compares revisions of cases, as Couch has them now, with those that were compared, and has the others compared
    /// again. Gives how many.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn rediff_changed(&self, held: &DriverLease, revisions: &[(String, String)]) -> Result<u64, StateError> {
        let mut tx = self.driver_tx(held).await?;
        let ids: Vec<String> = revisions.iter().map(|(id, _)| id.clone()).collect();
        lock_case_states(&mut tx, held.migration_id, &ids).await?;
        let revisions = revisions.iter().map(|(id, rev)| (id.as_str(), Some(rev.as_str())));
        let changed = rediff_others(&mut tx, held.migration_id, revisions).await?;
        tx.commit().await?;
        Ok(changed)
    }

    /// Asks for a diff of these cases again, or of all.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn request_diff(&self, held: &DriverLease, case_ids: Option<&[String]>) -> Result<u64, StateError> {
        let id = held.migration_id.0;
        let mut tx = self.driver_tx(held).await?;
        let result = match case_ids {
            None => {
                // In their order, as everywhere: the plan of an update may visit them in any.
                sqlx::query(
                    "with compared as materialized (
                         select bucket, case_id from case_state where migration_id = $1 and diffed_generation is not null
                         order by bucket, case_id for no key update
                     )
                     update case_state s set diffed_generation = null from compared c
                     where s.migration_id = $1 and s.bucket = c.bucket and s.case_id = c.case_id",
                )
                .bind(id)
                .execute(&mut *tx)
                .await?
            }
            Some(case_ids) => {
                // New rows and old ones in one pass, in their order.
                let sorted: BTreeSet<(i16, &String)> = case_ids
                    .iter()
                    .map(|case_id| (proto::bucket::of(case_id), case_id))
                    .collect();
                let (buckets, ids): (Vec<i16>, Vec<&String>) = sorted.into_iter().unzip();
                sqlx::query(
                    "insert into case_state (migration_id, bucket, case_id)
                     select $1, bucket, case_id from unnest($2::smallint[], $3::text[]) i(bucket, case_id)
                     on conflict (migration_id, bucket, case_id) do update set diffed_generation = null",
                )
                .bind(id)
                .bind(&buckets)
                .bind(&ids)
                .execute(&mut *tx)
                .await?
            }
        };
        tx.commit().await?;
        Ok(result.rows_affected())
    }
}

/// Has cases, which the caller has locked, compared again unless they were compared with this revision; with none: unless
/// Couch had none of them. Gives how many.
pub(crate) async fn rediff_others<'a>(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    revisions: impl Iterator<Item = (&'a str, Option<&'a str>)>,
) -> Result<u64, StateError> {
    let (ids, revs): (Vec<&str>, Vec<Option<&str>>) = revisions.unzip();
    Ok(sqlx::query(
        "update case_state s set diffed_generation = null
         from unnest($2::smallint[], $3::text[], $4::text[]) i(bucket, case_id, rev)
         where s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.case_id
           and s.diffed_generation is not null and s.diffed_rev is distinct from i.rev",
    )
    .bind(id.0)
    .bind(ids.iter().map(|case_id| proto::bucket::of(case_id)).collect::<Vec<_>>())
    .bind(&ids)
    .bind(&revs)
    .execute(&mut **tx)
    .await?
    .rows_affected())
}

/// Documents of one batch at most that are looked at again because a form tells of them.
const NAMED_AT_ONCE: usize = 100;

/// Inserts form batches for documents, as (id, the revision that Couch has now), that are not on record as they are now.
/// Documents that were never staged are left to their scan.
pub(crate) async fn requeue_named(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    named: &[(String, Option<String>)],
) -> Result<(), StateError> {
    if named.is_empty() {
        return Ok(());
    }
    let (ids, revs): (Vec<&str>, Vec<Option<&str>>) =
        named.iter().map(|(id, rev)| (id.as_str(), rev.as_deref())).unzip();
    let changed: Vec<(String, String)> = sqlx::query_as(
        "select distinct d.doc_type, d.doc_id from unnest($2::text[], $3::text[]) i(id, rev)
         join doc_revision d on d.migration_id = $1 and d.doc_id = i.id
         where case when i.rev is null then not d.deleted else d.rev <> i.rev or d.deleted end order by 1, 2",
    )
    .bind(id.0)
    .bind(&ids)
    .bind(&revs)
    .fetch_all(&mut **tx)
    .await?;
    insert_by_type(tx, id, &changed, NAMED_AT_ONCE).await
}

/// Inserts form batches of documents as (type, id), in the order of their types.
async fn insert_by_type(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    documents: &[(String, String)],
    batch: usize,
) -> Result<(), StateError> {
    for of_type in documents.chunk_by(|(one, _), (other, _)| one == other) {
        for part in of_type.chunks(batch) {
            let ids: Vec<String> = part.iter().map(|(_, doc_id)| doc_id.clone()).collect();
            insert_batch(tx, id.0, Stage::Form.as_str(), &part[0].0, &ids, None).await?;
        }
    }
    Ok(())
}
