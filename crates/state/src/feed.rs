//! The feed of changes of a source, as its one reader sees it: the lease, the sequence, and what was found.

use std::time::Duration;

use chrono::{DateTime, Utc};
use proto::doctype::DocType;
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use crate::place::{Place, WITNESSES, witnesses_of, witnesses_text};
use crate::{State, StateError};

/// Proof that this process reads the feed of a source.
#[derive(Clone, Debug)]
pub struct FeedLease {
    /// Source.
    pub source: String,
    token: Uuid,
    /// Where to go on.
    pub place: Place,
}

/// A document that has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangedDoc {
    /// Document.
    pub doc_id: String,
    /// Its revision.
    pub rev: Option<String>,
    /// Its domain, unless it is gone.
    pub domain: Option<String>,
    /// Its type, if it is one that is migrated.
    pub doc_type: Option<DocType>,
    /// The date by which the view lists it, if that is a text.
    pub dated: Option<String>,
}

impl State {
    /// Takes the reader's lease of a source, if nobody holds it.
    ///
    /// # Errors
    /// Database errors.
    pub async fn take_feed(&self, source: &str, name: &str, lease: Duration) -> Result<Option<FeedLease>, StateError> {
        let token = Uuid::new_v4();
        let taken: Option<(String, String, String)> = sqlx::query_as(
            "update change_feed
             set reader_token = $2, reader_name = $3, reader_until = now() + make_interval(secs => $4)
             where source = $1 and (reader_until is null or reader_until <= now())
             returning identity, seq, witnesses::text",
        )
        .bind(source)
        .bind(token)
        .bind(name)
        .bind(lease.as_secs_f64())
        .fetch_optional(&self.pool)
        .await?;
        taken
            .map(|(identity, seq, witnesses)| {
                Ok(FeedLease {
                    source: source.to_owned(),
                    token,
                    place: Place {
                        identity,
                        seq,
                        witnesses: witnesses_of(&witnesses)?,
                    },
                })
            })
            .transpose()
    }

    /// Gives the reader's lease back; nothing happens if it was lost.
    ///
    /// # Errors
    /// Database errors.
    pub async fn drop_feed(&self, held: &FeedLease) -> Result<(), StateError> {
        sqlx::query(
            "update change_feed set reader_token = null, reader_until = null where source = $1 and reader_token = $2",
        )
        .bind(&held.source)
        .bind(held.token)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The database is another one, went back, or does not know the sequence: the feed begins anew at this place, and every
    /// domain has to look at everything again.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn restart_feed(&self, held: &mut FeedLease, place: Place) -> Result<(), StateError> {
        let moved = sqlx::query(
            "update change_feed
             set identity = $3, seq = $4, witnesses = $5::jsonb, generation = generation + 1, caught_up_at = null, pending = null
             where source = $1 and reader_token = $2",
        )
        .bind(&held.source)
        .bind(held.token)
        .bind(&place.identity)
        .bind(&place.seq)
        .bind(witnesses_text(&place.witnesses))
        .execute(&self.pool)
        .await?
        .rows_affected();
        if moved == 0 {
            return Err(StateError::LostLease);
        }
        held.place = place;
        Ok(())
    }

    /// Records a page of the feed for every domain that is followed, and moves the sequence, in one transaction; renews the
    /// lease. A document goes to the domain it is in, and to every other one that has it on record. `caught_up`: when the
    /// page was asked for, if nothing is behind it.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn record_changes(
        &self,
        held: &mut FeedLease,
        lease: Duration,
        page: &[ChangedDoc],
        seq: &str,
        pending: Option<i64>,
        caught_up: Option<DateTime<Utc>>,
    ) -> Result<(), StateError> {
        let last = page
            .iter()
            .rev()
            .filter_map(|doc| Some((doc.doc_id.clone(), doc.rev.clone()?)));
        let mut witnesses: Vec<(String, String)> = last.take(WITNESSES).collect();
        if witnesses.is_empty() {
            witnesses.clone_from(&held.place.witnesses);
        }
        let mut tx = self.pool.begin().await?;
        let moved = sqlx::query(
            "update change_feed
             set seq = $3, pending = $4, caught_up_at = coalesce($5, caught_up_at), read_at = now(),
                 reader_until = now() + make_interval(secs => $6), witnesses = $7::jsonb
             where source = $1 and reader_token = $2",
        )
        .bind(&held.source)
        .bind(held.token)
        .bind(seq)
        .bind(pending)
        .bind(caught_up)
        .bind(lease.as_secs_f64())
        .bind(witnesses_text(&witnesses))
        .execute(&mut *tx)
        .await?
        .rows_affected();
        if moved == 0 {
            return Err(StateError::LostLease);
        }
        if !page.is_empty() {
            route(&mut tx, &held.source, page).await?;
        }
        tx.commit().await?;
        seq.clone_into(&mut held.place.seq);
        held.place.witnesses = witnesses;
        Ok(())
    }
}

/// Keeps the changes for the domains they concern.
async fn route(tx: &mut Transaction<'_, Postgres>, source: &str, page: &[ChangedDoc]) -> Result<(), StateError> {
    // In the order of the key: two readers (one that lost its lease) wait for each other and do not deadlock.
    let mut page: Vec<&ChangedDoc> = page.iter().collect();
    page.sort_unstable_by(|one, other| one.doc_id.cmp(&other.doc_id));
    page.dedup_by(|one, other| one.doc_id == other.doc_id);
    sqlx::query(
        "with found as (
             select * from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::smallint[])
                  i(doc_id, rev, domain, doc_type, dated, bucket)
         ), follower as (
             select f.migration_id, m.domain from followed f join migration m on m.id = f.migration_id
             where f.source = $1 and m.status in ('dry_run', 'in_progress') and not m.purging
         )
         insert into changed_doc as c (migration_id, doc_id, doc_type, rev, dated)
         select f.migration_id, i.doc_id, i.doc_type, i.rev, i.dated
         from found i join follower f on f.domain = i.domain where i.doc_type is not null
         union all
         select f.migration_id, i.doc_id, null, i.rev, null
         from found i join follower f on i.doc_type is null or i.domain is distinct from f.domain
         where exists (select from doc_revision d
                       where d.migration_id = f.migration_id and d.doc_id = i.doc_id and not d.deleted)
            or exists (select from case_state s
                       where s.migration_id = f.migration_id and s.bucket = i.bucket and s.case_id = i.doc_id)
         order by 1, 2
         on conflict (migration_id, doc_id) do update
         set doc_type = excluded.doc_type, rev = excluded.rev, dated = excluded.dated, taken = false, seen_at = now()",
    )
    .bind(source)
    .bind(page.iter().map(|doc| doc.doc_id.as_str()).collect::<Vec<_>>())
    .bind(page.iter().map(|doc| doc.rev.as_deref()).collect::<Vec<_>>())
    .bind(page.iter().map(|doc| doc.domain.as_deref()).collect::<Vec<_>>())
    .bind(
        page.iter()
            .map(|doc| doc.doc_type.map(DocType::as_str))
            .collect::<Vec<_>>(),
    )
    .bind(page.iter().map(|doc| doc.dated.as_deref()).collect::<Vec<_>>())
    .bind(
        page.iter()
            .map(|doc| proto::bucket::of(&doc.doc_id))
            .collect::<Vec<_>>(),
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
