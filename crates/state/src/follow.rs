//! Following the source's feed of changes: one reader for all domains of a source database, by a lease; what it finds for
//! each of them; and what a domain's driver takes of that.
//!
//! The feed has no domain and no order, and its sequences belong to one database. The reader's sequence moves in the
//! transaction that records what was found before it. Whenever changes may have been missed, the feed's generation rises,
//! and every domain has to look at everything again before it may rely on the feed ([`Follow::is_whole`]).

use chrono::{DateTime, Utc};
use proto::doctype::DocType;
use proto::topology::Stage;
use sqlx::{Postgres, Row, Transaction};

use crate::again::rediff_others;
use crate::batch::insert_batch;
use crate::look::{ONLY_IN_SQL, record_only_in_sql};
use crate::lost_forms::LOST_REV;
use crate::migration::DriverLease;
use crate::outcome::record_missing_docs;
use crate::place::{Place, witnesses_text};
use crate::revisions::lock_revisions;
use crate::scan::{insert_and_lock_case_states, lock_case_states};
use crate::{MigrationId, State, StateError};

pub use crate::feed::{ChangedDoc, FeedLease};

/// How a domain stands to the feed.
#[derive(Clone, Debug)]
pub struct Follow {
    /// Generation of the feed.
    pub generation: i64,
    /// Generation under which everything was last looked at.
    pub whole_generation: Option<i64>,
    /// Every change until then has been read.
    pub caught_up_at: Option<DateTime<Utc>>,
    /// Changes that the reader has not read, as far as it knows.
    pub pending: Option<i64>,
    /// Changed documents that have not been taken: too young, or not yet.
    pub waiting: i64,
    /// Who reads the feed.
    pub reader: Option<String>,
}

impl Follow {
    /// Whether no change was missed since everything was looked at.
    pub fn is_whole(&self) -> bool {
        self.whole_generation == Some(self.generation)
    }
}

/// What came of taking changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Changed documents that were looked at.
    pub looked_at: usize,
    /// Documents that are migrated again.
    pub staged: usize,
    /// Cases that are compared again, or for the first time.
    pub cases: u64,
}

impl State {
    /// Puts on record that the changes of a migration's domain are to be kept from now on. `place` is where the feed stands; one
    /// that nobody follows begins there.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn follow(&self, held: &DriverLease, source: &str, place: &Place) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        sqlx::query(
            "insert into change_feed (source, identity, seq, witnesses) values ($1, $2, $3, $4::jsonb)
             on conflict (source) do nothing",
        )
        .bind(source)
        .bind(&place.identity)
        .bind(&place.seq)
        .bind(witnesses_text(&place.witnesses))
        .execute(&mut *tx)
        .await?;
        // The row lock keeps two domains from both being the first.
        sqlx::query("select 1 from change_feed where source = $1 for no key update")
            .bind(source)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "update change_feed
             set identity = $2, seq = $3, witnesses = $4::jsonb, generation = generation + 1, caught_up_at = null, pending = null
             where source = $1 and not exists (select from followed where source = $1)",
        )
        .bind(source)
        .bind(&place.identity)
        .bind(&place.seq)
        .bind(witnesses_text(&place.witnesses))
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "insert into followed as f (migration_id, source) values ($1, $2)
             on conflict (migration_id) do update
             set source = excluded.source,
                 whole_generation = case when f.source = excluded.source then f.whole_generation end",
        )
        .bind(held.migration_id.0)
        .bind(source)
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    /// How a domain stands to the feed; none when its changes are not kept.
    ///
    /// # Errors
    /// Database errors.
    pub async fn following(&self, id: MigrationId) -> Result<Option<Follow>, StateError> {
        let row = sqlx::query(
            "select c.generation, f.whole_generation, c.caught_up_at, c.pending,
                    case when c.reader_until > now() then c.reader_name end as reader,
                    (select count(*) from changed_doc d where d.migration_id = $1 and not d.taken) as waiting
             from followed f join change_feed c on c.source = f.source where f.migration_id = $1",
        )
        .bind(id.0)
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| {
            Ok(Follow {
                generation: row.try_get("generation")?,
                whole_generation: row.try_get("whole_generation")?,
                caught_up_at: row.try_get("caught_up_at")?,
                pending: row.try_get("pending")?,
                waiting: row.try_get("waiting")?,
                reader: row.try_get("reader")?,
            })
        })
        .transpose()
    }

    /// Records that everything was looked at, in a look that began under this generation of the feed.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn mark_whole(&self, held: &DriverLease, generation: i64) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        sqlx::query("update followed set whole_generation = $2 where migration_id = $1")
            .bind(held.migration_id.0)
            .bind(generation)
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// Sends changed documents through their stages again, `limit` at most, and marks them as taken: forms whose revision is
    /// not the one on record, or that have an error there, and whose date is not after the cut-off (compared as text, as the
    /// view's keys are), cases whose revision is not the one that was compared.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn take_changes(
        &self,
        held: &DriverLease,
        cutoff: Option<&str>,
        limit: i64,
        batch: usize,
    ) -> Result<Taken, StateError> {
        let id = held.migration_id.0;
        let mut tx = self.driver_tx(held).await?;
        let rows: Vec<(String, Option<String>, Option<String>)> = sqlx::query_as(
            "update changed_doc c set taken = true
             from (select doc_id from changed_doc
                   where migration_id = $1 and not taken
                     and (doc_type is null or doc_type = 'CommCareCase' or dated is null or $2::text is null or dated <= $2)
                   order by doc_id limit $3 for update) due
             where c.migration_id = $1 and c.doc_id = due.doc_id
             returning c.doc_id, c.doc_type, c.rev",
        )
        .bind(id)
        .bind(cutoff)
        .bind(limit)
        .fetch_all(&mut *tx)
        .await?;
        let mut taken = Taken {
            looked_at: rows.len(),
            ..Taken::default()
        };
        if rows.is_empty() {
            return Ok(taken);
        }
        let ids: Vec<&str> = rows.iter().map(|row| row.0.as_str()).collect();
        let types: Vec<Option<&str>> = rows.iter().map(|row| row.1.as_deref()).collect();
        let revs: Vec<Option<&str>> = rows.iter().map(|row| row.2.as_deref()).collect();
        // A document that is gone, and a case that is alive, are looked at again under the type that is on record.
        let again: Vec<(String, String)> = sqlx::query_as(
            "select case when i.doc_type is null or i.doc_type = 'CommCareCase' then d.doc_type else i.doc_type end, i.id
             from unnest($2::text[], $3::text[], $4::text[]) i(id, doc_type, rev)
             left join doc_revision d on d.migration_id = $1 and d.doc_id = i.id
             where case
                 when i.doc_type is null or i.doc_type = 'CommCareCase' then d.doc_id is not null and not d.deleted
                 else d.doc_id is null or d.deleted or d.rev is distinct from i.rev
                     or exists (select from doc_error e where e.migration_id = $1 and e.doc_id = i.id)
             end
             order by 1, 2",
        )
        .bind(id)
        .bind(&ids)
        .bind(&types)
        .bind(&revs)
        .fetch_all(&mut *tx)
        .await?;
        taken.staged = again.len();
        for of_type in again.chunk_by(|(one, _), (other, _)| one == other) {
            for part in of_type.chunks(batch) {
                let ids: Vec<String> = part.iter().map(|(_, doc_id)| doc_id.clone()).collect();
                insert_batch(&mut tx, id, Stage::Form.as_str(), &part[0].0, &ids, None).await?;
            }
        }
        taken.cases = rediff(&mut tx, held.migration_id, &rows).await?;
        tx.commit().await?;
        Ok(taken)
    }

    /// Changed documents of a type that were taken, in order, after an id. With no type: those that are gone.
    ///
    /// # Errors
    /// Database errors.
    pub async fn taken_changes(
        &self,
        id: MigrationId,
        doc_type: Option<DocType>,
        after: &str,
        limit: i64,
    ) -> Result<Vec<String>, StateError> {
        Ok(sqlx::query_scalar(
            "select doc_id from changed_doc
             where migration_id = $1 and doc_type is not distinct from $2 and taken and doc_id > $3
             order by doc_id limit $4",
        )
        .bind(id.0)
        .bind(doc_type.map(DocType::as_str))
        .bind(after)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Ends with changed documents of a type: those of `missing` go on the list of missing documents, the others of `looked_at`
    /// come off it. Documents that have changed again meanwhile stay.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn settle_changes(
        &self,
        held: &DriverLease,
        doc_type: DocType,
        looked_at: &[String],
        missing: &[String],
    ) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        settle(&mut tx, held.migration_id, looked_at).await?;
        let missing = missing.iter().map(|id| (doc_type.as_str(), id.as_str()));
        record_missing_docs(&mut tx, held.migration_id, missing.collect()).await?;
        Ok(tx.commit().await?)
    }

    /// Ends with changed documents that are gone. `forms`: those of them that SQL still has as forms of the domain.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn settle_gone(
        &self,
        held: &DriverLease,
        looked_at: &[String],
        forms: &[String],
    ) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        settle(&mut tx, held.migration_id, looked_at).await?;
        let left: Vec<(String, String)> = sqlx::query_as(
            "select coalesce(d.doc_type, $3), i.id from unnest($2::text[]) i(id)
             left join doc_revision d on d.migration_id = $1 and d.doc_id = i.id
             where d.deleted or d.rev is distinct from $4 order by 2",
        )
        .bind(held.migration_id.0)
        .bind(forms)
        .bind(DocType::XFormInstance.as_str())
        .bind(LOST_REV)
        .fetch_all(&mut *tx)
        .await?;
        let (kinds, ids): (Vec<&str>, Vec<&str>) = left.iter().map(|(kind, id)| (kind.as_str(), id.as_str())).unzip();
        record_only_in_sql(&mut tx, held.migration_id, &kinds, &ids).await?;
        Ok(tx.commit().await?)
    }

    /// Forms on record as those that Couch has not, in order, after an id.
    ///
    /// # Errors
    /// Database errors.
    pub async fn only_in_sql_after(&self, id: MigrationId, after: &str, limit: i64) -> Result<Vec<String>, StateError> {
        Ok(sqlx::query_scalar(
            "select doc_id from doc_diff
             where migration_id = $1 and kind not like 'CommCareCase%' and diffs = $2 and doc_id > $3
             order by doc_id limit $4",
        )
        .bind(id.0)
        .bind(ONLY_IN_SQL)
        .bind(after)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Takes back the record that Couch has not these forms.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn forget_only_in_sql(&self, held: &DriverLease, ids: &[String]) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        let documents: Vec<&str> = ids.iter().map(String::as_str).collect();
        lock_revisions(&mut tx, held.migration_id, &documents).await?;
        sqlx::query(
            "delete from doc_diff
             where migration_id = $1 and kind not like 'CommCareCase%' and diffs = $2 and doc_id = any($3)",
        )
        .bind(held.migration_id.0)
        .bind(ONLY_IN_SQL)
        .bind(ids)
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    /// Those of these documents that nobody has met: neither on record nor among the changed ones.
    ///
    /// # Errors
    /// Database errors.
    pub async fn unmet(&self, id: MigrationId, ids: &[String]) -> Result<Vec<String>, StateError> {
        Ok(sqlx::query_scalar(
            "select i.id from unnest($2::text[]) i(id)
             where not exists (select from doc_revision d where d.migration_id = $1 and d.doc_id = i.id and not d.deleted)
               and not exists (select from changed_doc c where c.migration_id = $1 and c.doc_id = i.id)
             order by 1",
        )
        .bind(id.0)
        .bind(ids)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Records how many documents of each type Couch has.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn record_counts(&self, held: &DriverLease, counts: &[(DocType, i64)]) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        sqlx::query(
            "insert into doc_count (migration_id, kind, value)
             select $1, kind, value from unnest($2::text[], $3::bigint[]) i(kind, value)
             on conflict (migration_id, kind) do update set value = excluded.value",
        )
        .bind(held.migration_id.0)
        .bind(counts.iter().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>())
        .bind(counts.iter().map(|(_, count)| *count).collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }
}

/// Takes changed documents off the list of missing ones, and off that of changed ones if they have not changed again. They may
/// be of any type: what guards the records of both forms and cases is locked.
async fn settle(tx: &mut Transaction<'_, Postgres>, id: MigrationId, ids: &[String]) -> Result<(), StateError> {
    sqlx::query(
        "select 1 from changed_doc where migration_id = $1 and doc_id = any($2) and taken order by doc_id for update",
    )
    .bind(id.0)
    .bind(ids)
    .execute(&mut **tx)
    .await?;
    let documents: Vec<&str> = ids.iter().map(String::as_str).collect();
    lock_revisions(tx, id, &documents).await?;
    lock_case_states(tx, id, ids).await?;
    sqlx::query("delete from missing_doc where migration_id = $1 and doc_id = any($2)")
        .bind(id.0)
        .bind(ids)
        .execute(&mut **tx)
        .await?;
    sqlx::query("delete from changed_doc where migration_id = $1 and doc_id = any($2) and taken")
        .bind(id.0)
        .bind(ids)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Has changed cases compared again: those that are there now, and those that were.
async fn rediff(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    rows: &[(String, Option<String>, Option<String>)],
) -> Result<u64, StateError> {
    let is_case = |kind: &str| kind.starts_with(DocType::CommCareCase.as_str());
    let (there, gone): (Vec<_>, Vec<_>) = rows
        .iter()
        .filter(|row| row.1.as_deref().is_none_or(is_case))
        .partition(|row| row.1.is_some());
    let ids = |rows: &[&(String, Option<String>, Option<String>)]| -> Vec<String> {
        rows.iter().map(|row| row.0.clone()).collect()
    };
    let new = insert_and_lock_case_states(tx, id, &ids(&there), &ids(&gone)).await?;
    let there = there.iter().map(|row| (row.0.as_str(), row.2.as_deref()));
    let revisions = there.chain(gone.iter().map(|row| (row.0.as_str(), None)));
    Ok(new + rediff_others(tx, id, revisions).await?)
}
