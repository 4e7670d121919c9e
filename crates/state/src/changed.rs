//! Which documents of the source have changed since the last look at all of them: what COMMIT asks for.

use sqlx::Row;

use crate::feed::ChangedDoc;
use crate::lost_forms::LOST_REV;
use crate::migration::{DriverLease, held_update};
use crate::place::{Place, witnesses_of, witnesses_text};
use crate::{MigrationId, State, StateError};

impl State {
    /// Records where the source stood when a look began that has come to its end.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn set_looked(&self, held: &DriverLease, looked: &Place) -> Result<(), StateError> {
        held_update(
            &sqlx::query(
                "update migration set looked_identity = $4, looked_seq = $5, looked_witnesses = $6::jsonb
                 where id = $1 and driver_token = $2 and epoch = $3",
            )
            .bind(held.migration_id.0)
            .bind(held.token)
            .bind(held.epoch.0)
            .bind(&looked.identity)
            .bind(&looked.seq)
            .bind(witnesses_text(&looked.witnesses))
            .execute(&self.pool)
            .await?,
        )
    }

    /// Where the source stood when the last look began; none before the first.
    ///
    /// # Errors
    /// Database errors.
    pub async fn looked(&self, id: MigrationId) -> Result<Option<Place>, StateError> {
        let row = sqlx::query(
            "select looked_identity, looked_seq, looked_witnesses::text as witnesses from migration where id = $1",
        )
        .bind(id.0)
        .fetch_one(&self.pool)
        .await?;
        let (identity, seq): (Option<String>, Option<String>) =
            (row.try_get("looked_identity")?, row.try_get("looked_seq")?);
        let witnesses = witnesses_of(row.try_get("witnesses")?)?;
        Ok(identity.zip(seq).map(|(identity, seq)| Place {
            identity,
            seq,
            witnesses,
        }))
    }

    /// Those of these documents that are not as they were migrated or compared: of another revision, gone, of another type or
    /// domain, or never met. Documents of other domains that are not on record are no concern of this one.
    ///
    /// # Errors
    /// Database errors.
    pub async fn not_as_recorded(&self, id: MigrationId, docs: &[ChangedDoc]) -> Result<Vec<String>, StateError> {
        // A living case is what its forms make of it: only its comparison has its revision. One that was deleted, and every
        // form, is on record with the revision that was written. A form that was made of its XML is as it was while Couch has none.
        Ok(sqlx::query_scalar(
            "select i.doc_id
             from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::smallint[]) i(doc_id, rev, domain, doc_type, bucket)
             join migration m on m.id = $1
             left join doc_revision d on d.migration_id = $1 and d.doc_id = i.doc_id and not d.deleted and d.rev <> $7
             left join case_state s on s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.doc_id
             where case
                 when i.doc_type is null or i.domain is distinct from m.domain
                     then d.doc_id is not null or s.diffed_rev is not null
                 when i.doc_type = 'CommCareCase'
                     then d.doc_id is not null or s.diffed_rev is distinct from i.rev
                 else d.rev is distinct from i.rev
             end
             order by 1",
        )
        .bind(id.0)
        .bind(docs.iter().map(|doc| doc.doc_id.as_str()).collect::<Vec<_>>())
        .bind(docs.iter().map(|doc| doc.rev.as_deref()).collect::<Vec<_>>())
        .bind(docs.iter().map(|doc| doc.domain.as_deref()).collect::<Vec<_>>())
        .bind(docs.iter().map(|doc| doc.doc_type.map(|kind| kind.as_str())).collect::<Vec<_>>())
        .bind(docs.iter().map(|doc| proto::bucket::of(&doc.doc_id)).collect::<Vec<_>>())
        .bind(LOST_REV)
        .fetch_all(&self.pool)
        .await?)
    }
}
