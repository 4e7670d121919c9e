//! What was done to blob metadata: on record before the target is touched, so that a reset can undo exactly that.

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Row, Transaction};

use crate::batch::{Claim, check_claim};
use crate::{MigrationId, State, StateError};

/// A change of blob metadata, recorded before it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobChange {
    /// What is done.
    pub action: BlobAction,
    /// Blob key.
    pub key: String,
    /// Form id.
    pub parent_id: String,
    /// Attachment name.
    pub name: String,
    /// Type code afterwards; of a removed row the one it had.
    pub type_code: i16,
    /// `created_on` of an inserted row; of others when their form was first staged.
    pub created_on: DateTime<Utc>,
}

/// What is done to a row of blob metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobAction {
    /// It is inserted.
    Insert {
        /// Where its blob came from.
        origin: BlobOrigin,
    },
    /// It is removed, since its blob is nowhere.
    Remove {
        /// The whole row, as a JSON object of its columns.
        row: String,
    },
    /// Its type code is corrected.
    Retype {
        /// The type code before.
        from: i16,
    },
}

/// Where the blob of an inserted row came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobOrigin {
    /// The Couch document refers to it.
    Reference,
    /// Couch kept it as an attachment of the document.
    Inline,
    /// It shared its key with another blob of the form, and was stored once more.
    Copy,
    /// Lost XML: it stood in the document's `#xml`.
    XmlProperty,
    /// Lost XML: it was rebuilt from the document's form JSON.
    FormJson,
    /// The XML of a patch form.
    Patch,
}

impl BlobOrigin {
    const ALL: [Self; 6] = [
        Self::Reference,
        Self::Inline,
        Self::Copy,
        Self::XmlProperty,
        Self::FormJson,
        Self::Patch,
    ];

    /// Its name in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Inline => "inline",
            Self::Copy => "copy",
            Self::XmlProperty => "xml_property",
            Self::FormJson => "form_json",
            Self::Patch => "patch",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|origin| origin.as_str() == text)
    }
}

/// A form whose `form.xml` was lost and is there again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredXml {
    /// Form.
    pub form_id: String,
    /// What it was made from.
    pub origin: BlobOrigin,
    /// Key of the new blob.
    pub key: String,
}

impl BlobAction {
    /// Its name in the table.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Insert { .. } => "insert",
            Self::Remove { .. } => "remove",
            Self::Retype { .. } => "retype",
        }
    }
}

impl State {
    /// Puts blob changes on record.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`].
    pub async fn record_blob_changes(&self, claim: &Claim, blobs: &[BlobChange]) -> Result<(), StateError> {
        if blobs.is_empty() {
            return Ok(());
        }
        let mut tx = self.pool.begin().await?;
        check_claim(&mut tx, claim).await?;
        record_blob_changes(&mut tx, claim, blobs).await?;
        Ok(tx.commit().await?)
    }

    /// The changes of blob metadata to undo.
    ///
    /// # Errors
    /// Database errors.
    pub async fn blob_changes(&self, id: MigrationId, limit: i64) -> Result<Vec<BlobChange>, StateError> {
        let rows = sqlx::query(
            "select kind, key, parent_id, name, old_type, new_type, created_on, origin, removed_row from blob_change
             where migration_id = $1 order by kind, key, parent_id limit $2",
        )
        .bind(id.0)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                let corrupt = || StateError::Corrupt("blob change");
                let action = match row.try_get("kind")? {
                    "insert" => {
                        let origin: Option<&str> = row.try_get("origin")?;
                        BlobAction::Insert {
                            origin: origin
                                .map_or(Some(BlobOrigin::Reference), BlobOrigin::parse)
                                .ok_or_else(corrupt)?,
                        }
                    }
                    "remove" => BlobAction::Remove {
                        row: row.try_get::<Option<String>, _>("removed_row")?.ok_or_else(corrupt)?,
                    },
                    _ => BlobAction::Retype {
                        from: row.try_get::<Option<i16>, _>("old_type")?.ok_or_else(corrupt)?,
                    },
                };
                Ok(BlobChange {
                    action,
                    key: row.try_get("key")?,
                    parent_id: row.try_get("parent_id")?,
                    name: row.try_get("name")?,
                    type_code: row.try_get("new_type")?,
                    created_on: row.try_get("created_on")?,
                })
            })
            .collect()
    }

    /// Forgets blob changes that were undone.
    ///
    /// # Errors
    /// [`StateError::EpochOver`] when no reset is on: another one has ended it, and the changes are a new migration's.
    pub async fn forget_blob_changes(&self, id: MigrationId, changes: &[BlobChange]) -> Result<(), StateError> {
        let column = |of: fn(&BlobChange) -> &str| changes.iter().map(of).collect::<Vec<_>>();
        let mut tx = self.purge_tx(id).await?;
        sqlx::query(
            "delete from blob_change b using unnest($2::text[], $3::text[], $4::text[]) i(kind, key, parent_id)
             where b.migration_id = $1 and b.kind = i.kind and b.key = i.key and b.parent_id = i.parent_id",
        )
        .bind(id.0)
        .bind(column(|change| change.action.as_str()))
        .bind(column(|change| &change.key))
        .bind(column(|change| &change.parent_id))
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    /// Forms whose lost `form.xml` was restored, in order; not those that were refused for another reason afterwards.
    ///
    /// # Errors
    /// Database errors.
    pub async fn restored_xml(&self, id: MigrationId, limit: i64) -> Result<Vec<RestoredXml>, StateError> {
        let rows = sqlx::query(
            "select parent_id, origin, key from blob_change b
             where migration_id = $1 and origin in ('xml_property', 'form_json')
               and not exists (select 1 from doc_error e where e.migration_id = $1 and e.doc_id = b.parent_id)
             order by parent_id, key limit $2",
        )
        .bind(id.0)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(RestoredXml {
                    form_id: row.try_get("parent_id")?,
                    origin: BlobOrigin::parse(row.try_get("origin")?).ok_or(StateError::Corrupt("blob change"))?,
                    key: row.try_get("key")?,
                })
            })
            .collect()
    }

    /// How many forms [`State::restored_xml`] lists, and how many rows of blob metadata were removed.
    ///
    /// # Errors
    /// Database errors.
    pub async fn blob_repairs(&self, id: MigrationId) -> Result<(i64, i64), StateError> {
        Ok(sqlx::query_as(
            "select (select count(distinct parent_id) from blob_change b
                     where migration_id = $1 and origin in ('xml_property', 'form_json')
                       and not exists (select 1 from doc_error e where e.migration_id = $1 and e.doc_id = b.parent_id)),
                    (select count(*) from blob_change where migration_id = $1 and kind = 'remove')",
        )
        .bind(id.0)
        .fetch_one(&self.pool)
        .await?)
    }
}

pub(crate) async fn record_blob_changes(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    blobs: &[BlobChange],
) -> Result<(), StateError> {
    if blobs.is_empty() {
        return Ok(());
    }
    let mut olds: Vec<Option<i16>> = Vec::with_capacity(blobs.len());
    let mut origins: Vec<Option<&str>> = Vec::with_capacity(blobs.len());
    let mut removed: Vec<Option<&str>> = Vec::with_capacity(blobs.len());
    for blob in blobs {
        let (old, origin, row) = match &blob.action {
            BlobAction::Insert { origin } => (None, Some(origin.as_str()), None),
            BlobAction::Remove { row } => (Some(blob.type_code), None, Some(row.as_str())),
            BlobAction::Retype { from } => (Some(*from), None, None),
        };
        olds.push(old);
        origins.push(origin);
        removed.push(row);
    }
    // The first record of a form's change is the one that counts: a second attempt must not take our own row for one found.
    // So a row that we inserted is no row to put back when it is removed again. Another form may claim the same key; on
    // another shard it has a row of its own there.
    sqlx::query(
        "insert into blob_change
             (migration_id, kind, key, parent_id, name, old_type, new_type, created_on, origin, removed_row)
         select $1, kind, key, parent_id, name, old_type, new_type, created_on, origin, removed_row
         from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::smallint[], $7::smallint[], $8::timestamptz[],
                     $9::text[], $10::text[])
              i(kind, key, parent_id, name, old_type, new_type, created_on, origin, removed_row)
         where i.kind <> 'remove' or not exists (
             select 1 from blob_change b where b.migration_id = $1 and b.kind = 'insert' and b.key = i.key and b.parent_id = i.parent_id)
         order by kind, key, parent_id
         on conflict do nothing",
    )
    .bind(claim.migration_id.0)
    .bind(blobs.iter().map(|blob| blob.action.as_str()).collect::<Vec<_>>())
    .bind(blobs.iter().map(|blob| blob.key.as_str()).collect::<Vec<_>>())
    .bind(blobs.iter().map(|blob| blob.parent_id.as_str()).collect::<Vec<_>>())
    .bind(blobs.iter().map(|blob| blob.name.as_str()).collect::<Vec<_>>())
    .bind(&olds)
    .bind(blobs.iter().map(|blob| blob.type_code).collect::<Vec<_>>())
    .bind(blobs.iter().map(|blob| blob.created_on).collect::<Vec<_>>())
    .bind(&origins)
    .bind(&removed)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
