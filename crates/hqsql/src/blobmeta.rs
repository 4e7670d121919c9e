//! Blob metadata. Its rows are shared with the Couch form of the same id: nothing is changed but what a form needs, and
//! every change can be undone.

use std::collections::{HashMap, HashSet};

use proto::ids::Domain;
use proto::rows::BlobMetaRow;
use tokio_postgres::types::Type;

use crate::error::{Error, Result};
use crate::fence;
use crate::metric;
use crate::table::{Owner, check_blobmeta};
use crate::target::Target;
use crate::transaction::FencedTx;

/// A row whose type code is to be corrected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobRetype {
    /// The form.
    pub parent_id: String,
    /// The blob's key.
    pub key: String,
    /// The type code it has; with another one it is left alone.
    pub from: i16,
    /// The type code it gets.
    pub to: i16,
}

/// A change that this migration made to blob metadata, as it was recorded for a reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobChange {
    /// A row was inserted.
    Inserted {
        /// Domain of the form.
        domain: Domain,
        /// The form.
        parent_id: String,
        /// The blob's key.
        key: String,
    },
    /// A row was removed.
    Removed {
        /// The form.
        parent_id: String,
        /// The whole row, as [`RemovedBlob::row`] gave it.
        row: String,
    },
    /// A type code was corrected.
    Retyped {
        /// Domain of the form.
        domain: Domain,
        /// What was done.
        retype: BlobRetype,
    },
}

impl BlobChange {
    fn parent_id(&self) -> &str {
        match self {
            Self::Inserted { parent_id, .. } | Self::Removed { parent_id, .. } => parent_id,
            Self::Retyped { retype, .. } => &retype.parent_id,
        }
    }
}

/// A row that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedBlob {
    /// The form.
    pub parent_id: String,
    /// The blob's key.
    pub key: String,
    /// Its name within the form.
    pub name: String,
    /// Its type code.
    pub type_code: i16,
    /// The whole row as a JSON object of its columns, those included that this program does not know.
    pub row: String,
}

const RETYPE: &str = "update blobs_blobmeta set type_code = $5 \
     where key = $1 and parent_id = $2 and domain = $3 and type_code = $4";

impl FencedTx {
    /// Inserts the rows whose key is not there yet and corrects type codes. A key that is there already, for the same
    /// form, is left as it is. Returns how many rows were inserted and how many corrected.
    ///
    /// # Errors
    /// [`Error::BlobKeyTaken`] when a key belongs to another form or domain, [`Error::Row`] for a value that cannot be
    /// stored, [`Error::Misplaced`] for a form of another domain or shard.
    pub async fn merge_blobmeta(&self, inserts: &[BlobMetaRow], retype: &[BlobRetype]) -> Result<(u64, u64)> {
        let domain = self.domain().as_str();
        for row in inserts {
            // One form has many blobs: each is checked by itself.
            self.check_place(std::iter::once(Owner {
                id: &row.parent_id,
                domain: &row.domain,
            }))?;
            check_blobmeta(row).map_err(|source| Error::Row {
                document: row.parent_id.clone(),
                source,
            })?;
        }
        let failed = Error::during("merge blob metadata");
        let client = self.client()?;
        let mut taken: HashMap<String, (String, String)> = HashMap::new();
        if !inserts.is_empty() {
            let keys: Vec<&str> = inserts.iter().map(|row| row.key.as_str()).collect();
            let select = client
                .prepare_cached(
                    "select found.* from unnest($1::text[]) as wanted (key) cross join lateral (\
                     select key, parent_id, domain from blobs_blobmeta where key = wanted.key offset 0) found",
                )
                .await
                .map_err(&failed)?;
            for row in client.query(&select, &[&keys]).await.map_err(&failed)? {
                let owner = (row.try_get(1).map_err(&failed)?, row.try_get(2).map_err(&failed)?);
                taken.insert(row.try_get(0).map_err(&failed)?, owner);
            }
        }
        let mut new = Vec::new();
        let mut keys = HashSet::new();
        for row in inserts {
            match taken.get(&row.key) {
                Some((parent_id, owner)) if *parent_id == row.parent_id && owner == domain => {}
                Some(_) => {
                    return Err(Error::BlobKeyTaken {
                        document: row.parent_id.clone(),
                    });
                }
                None if keys.insert(row.key.as_str()) => {
                    new.push((
                        Owner {
                            id: &row.parent_id,
                            domain: &row.domain,
                        },
                        row,
                    ));
                }
                None => {
                    return Err(Error::Misplaced {
                        document: row.parent_id.clone(),
                        why: "a blob key is there twice",
                    });
                }
            }
        }
        if self.blobmeta().columns.len() < <BlobMetaRow as crate::table::TableRow>::TABLE.columns.len()
            && let Some((owner, _)) = new.iter().find(|(_, row)| row.compressed_length.is_some())
        {
            return Err(Error::Misplaced {
                document: owner.id.to_owned(),
                why: "its blob is compressed, and this database has no compressed_length",
            });
        }
        new.sort_unstable_by_key(|(_, row)| row.key.as_str());
        self.insert(self.blobmeta(), &new).await?;
        let mut retyped = 0;
        if !retype.is_empty() {
            let update = client.prepare_cached(RETYPE).await.map_err(&failed)?;
            for BlobRetype {
                parent_id,
                key,
                from,
                to,
            } in retype
            {
                retyped += client
                    .execute(&update, &[key, parent_id, &domain, from, to])
                    .await
                    .map_err(&failed)?;
            }
            metrics::counter!(metric::ROWS, "table" => "blobs_blobmeta", "change" => "update").increment(retyped);
        }
        Ok((new.len() as u64, retyped))
    }
}

impl FencedTx {
    /// Removes the domain's rows with these (form, key), and gives what they were: to be put on record before this
    /// transaction commits. Rows that are not there are none.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn remove_blobmeta(&self, rows: &[(String, String)]) -> Result<Vec<RemovedBlob>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let failed = Error::during("remove blob metadata");
        let (parents, keys): (Vec<&str>, Vec<&str>) =
            rows.iter().map(|(parent, key)| (parent.as_str(), key.as_str())).unzip();
        let removed = self
            .client()?
            .query_typed(
                "delete from blobs_blobmeta as stored using unnest($1, $2) as gone (parent_id, key) \
                 where stored.key = gone.key and stored.parent_id = gone.parent_id and stored.domain = $3 \
                 returning stored.parent_id, stored.key, stored.name, stored.type_code, row_to_json(stored.*)::text",
                &[
                    (&parents, Type::TEXT_ARRAY),
                    (&keys, Type::TEXT_ARRAY),
                    (&self.domain().as_str(), Type::TEXT),
                ],
            )
            .await
            .and_then(|rows| {
                rows.iter()
                    .map(|row| {
                        Ok(RemovedBlob {
                            parent_id: row.try_get(0)?,
                            key: row.try_get(1)?,
                            name: row.try_get(2)?,
                            type_code: row.try_get(3)?,
                            row: row.try_get(4)?,
                        })
                    })
                    .collect::<Result<Vec<_>, _>>()
            })
            .map_err(&failed)?;
        metrics::counter!(metric::ROWS, "table" => "blobs_blobmeta", "change" => "delete")
            .increment(removed.len() as u64);
        Ok(removed)
    }
}

impl Target {
    /// Undoes recorded changes of the domain's blob metadata: deletes inserted rows, puts removed ones back, gives type codes
    /// back. Rows that no longer are as the change left them stay as they are. May be repeated.
    ///
    /// # Errors
    /// [`Error::FenceOpen`] while the domain's fence is open: another migration may have made the same changes since.
    pub async fn undo_blob_changes(&self, domain: &Domain, changes: &[BlobChange]) -> Result<()> {
        let failed = Error::during("undo changes of blob metadata");
        for (shard, database) in self.databases() {
            let mut inserted: [Vec<&str>; 3] = Default::default();
            let mut removed: Vec<&str> = Vec::new();
            let mut retyped = Vec::new();
            for change in changes
                .iter()
                .filter(|change| self.shard_of(change.parent_id()) == shard)
            {
                match change {
                    BlobChange::Inserted { domain, parent_id, key } => {
                        inserted[0].push(key);
                        inserted[1].push(parent_id);
                        inserted[2].push(domain.as_str());
                    }
                    BlobChange::Removed { row, .. } => removed.push(row),
                    BlobChange::Retyped { domain, retype } => retyped.push((domain.as_str(), retype)),
                }
            }
            if inserted[0].is_empty() && removed.is_empty() && retyped.is_empty() {
                continue;
            }
            let mut client = database.client().await?;
            let tx = client.transaction().await.map_err(&failed)?;
            fence::check_closed(&tx, domain).await?;
            let [keys, parents, domains] = &inserted;
            tx.execute_typed(
                "delete from blobs_blobmeta as stored \
                 using unnest($1, $2, $3) as made (key, parent_id, domain) \
                 where stored.key = made.key and stored.parent_id = made.parent_id and stored.domain = made.domain",
                &[
                    (keys, Type::TEXT_ARRAY),
                    (parents, Type::TEXT_ARRAY),
                    (domains, Type::TEXT_ARRAY),
                ],
            )
            .await
            .map_err(&failed)?;
            // After the deletions: one of the inserted rows may have taken the key of a removed one.
            tx.execute_typed(
                "insert into blobs_blobmeta \
                 select found.* from unnest($1) as gone (columns), \
                 json_populate_record(null::blobs_blobmeta, gone.columns::json) as found \
                 on conflict do nothing",
                &[(&removed, Type::TEXT_ARRAY)],
            )
            .await
            .map_err(&failed)?;
            let update = tx.prepare_cached(RETYPE).await.map_err(&failed)?;
            for (
                domain,
                BlobRetype {
                    parent_id,
                    key,
                    from,
                    to,
                },
            ) in retyped
            {
                tx.execute(&update, &[key, parent_id, &domain, to, from])
                    .await
                    .map_err(&failed)?;
            }
            tx.commit().await.map_err(&failed)?;
        }
        Ok(())
    }
}
