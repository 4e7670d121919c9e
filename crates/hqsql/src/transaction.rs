//! The fenced transaction, the only way in which rows of forms and cases are written.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use deadpool_postgres::Object;
use futures::SinkExt;
use proto::ids::{Domain, Epoch};
use proto::rows::{BlobMetaRow, CaseRow, FormRow};
use tokio_postgres::types::Type;
use tracing::Instrument;

use crate::changes::Changes;
use crate::copy::{CopyBuffer, Value};
use crate::error::{Error, Result};
use crate::fence;
use crate::metric::{self, Step};
use crate::read;
use crate::routing::ShardId;
use crate::table::{Lock, Owner, Stored, Table, TableRow};
use crate::target::{Target, set_timeouts};

/// Advisory locks of a domain's buckets have this in front of the domain when it is hashed, so that they do not meet the
/// locks of other programs on the same database.
const LOCK_NAMESPACE: &str = "couch_sql_migration bucket of ";

/// A transaction on one shard that holds its domain's fence open. Dropping it without [`commit`](Self::commit) closes its
/// connection, and so rolls it back wherever it was.
#[derive(Debug)]
pub struct FencedTx {
    /// Only `None` on the way out.
    client: Option<Object>,
    target: Target,
    shard: ShardId,
    domain: Domain,
    blobmeta: Table,
}

impl Target {
    /// Begins a transaction of the domain's current epoch.
    ///
    /// # Errors
    /// [`Error::FenceClosed`] unless the domain's fence on the shard is open at exactly this epoch.
    pub async fn begin(&self, shard: ShardId, domain: &Domain, epoch: Epoch) -> Result<FencedTx> {
        let _step = Step::start("begin");
        let database = self.database(shard)?;
        let client = database.client().await?;
        let blobmeta = database.blobmeta_table(&client).await?;
        let select = client
            .prepare_cached(fence::SELECT_FOR_SHARE)
            .await
            .map_err(Error::during("prepare the fence"))?;
        // From here on the transaction is open: if this future is dropped, so is `tx`, and the connection with it.
        let tx = FencedTx {
            client: Some(client),
            target: self.clone(),
            shard,
            domain: domain.clone(),
            blobmeta,
        };
        let timeouts = self.timeouts();
        let begin = format!(
            "begin isolation level read committed; {}",
            set_timeouts(timeouts.statement, timeouts.idle_in_transaction, "local"),
        );
        let client = tx.client()?;
        let name = domain.as_str();
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&name];
        // One round trip: both are sent in this order before the first answer is awaited.
        let (begun, row) = tokio::join!(client.batch_execute(&begin), client.query_opt(&select, &parameters));
        begun.map_err(Error::during("begin a transaction"))?;
        let found = row
            .and_then(|row| row.map(|row| Ok((Epoch(row.try_get(0)?), row.try_get(1)?))).transpose())
            .map_err(Error::during("read the fence"))?;
        if found == Some((epoch, true)) {
            return Ok(tx);
        }
        tx.rollback().await?;
        Err(Error::FenceClosed {
            domain: domain.to_string(),
            epoch,
            found,
        })
    }
}

impl FencedTx {
    /// The shard it writes to.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Blob metadata of the forms, in the order of its making. The forms must be of this shard.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn read_blobmeta(&self, form_ids: &[String]) -> Result<Vec<BlobMetaRow>> {
        let ids: Vec<&str> = form_ids.iter().map(String::as_str).collect();
        read::blobmeta(self.client()?, &self.blobmeta, &ids).await
    }

    /// The domains that own these form ids on this shard, by form id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn form_owners(&self, ids: &[String]) -> Result<HashMap<String, String>> {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        read::owners::<FormRow>(self.client()?, &ids).await
    }

    /// The domains that own these case ids on this shard, by case id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn case_owners(&self, ids: &[String]) -> Result<HashMap<String, String>> {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        read::owners::<CaseRow>(self.client()?, &ids).await
    }

    /// Takes the locks of the domain's case buckets, in ascending order, until the end of the transaction. Waits for
    /// whoever has them.
    ///
    /// # Errors
    /// Those of the database; a wait longer than the statement time-out is one to try again.
    pub async fn lock_buckets(&self, domain: &Domain, buckets: &[i16]) -> Result<()> {
        let mut buckets: Vec<i32> = buckets.iter().map(|bucket| i32::from(*bucket)).collect();
        buckets.sort_unstable();
        buckets.dedup();
        let namespace = proto::bucket::hash32(&format!("{LOCK_NAMESPACE}{domain}")).cast_signed();
        let client = self.client()?;
        let statement = client
            .prepare_cached("select pg_advisory_xact_lock($1, bucket) from unnest($2::int[]) as wanted (bucket)")
            .await
            .map_err(Error::during("prepare the bucket locks"))?;
        client
            .query(&statement, &[&namespace, &buckets])
            .await
            .map_err(Error::during("lock buckets"))?;
        Ok(())
    }

    /// Locks the rows of those forms that exist, in the order of their ids, so that a competing writer waits until the
    /// end of this transaction.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lock_form_rows(&self, ids: &[String]) -> Result<HashSet<String>> {
        let mut ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        ids.sort_unstable();
        let client = self.client()?;
        let statement = client
            .prepare_cached(
                "select wanted.key from unnest($1::text[]) as wanted (key) cross join lateral (\
                 select from form_processor_xforminstancesql where form_id = wanted.key for update) found",
            )
            .await
            .map_err(Error::during("prepare the form locks"))?;
        let failed = Error::during("lock forms");
        let rows = client.query(&statement, &[&ids]).await.map_err(&failed)?;
        rows.iter().map(|row| row.try_get(0).map_err(&failed)).collect()
    }

    /// Commits.
    ///
    /// # Errors
    /// Those of the database. After a lost connection nobody knows whether the commit took place; doing the same work
    /// again is safe either way.
    pub async fn commit(mut self) -> Result<()> {
        let _step = Step::start("commit");
        let span = tracing::info_span!("commit", shard = %self.shard);
        // PostgreSQL answers `commit` of a failed transaction by a silent rollback. The first statement fails there.
        let done = self.client()?.batch_execute("select; commit").instrument(span).await;
        done.map_err(Error::during("commit"))?;
        // The connection is sound: back to the pool.
        drop(self.client.take());
        Ok(())
    }

    /// Rolls back and gives the connection back to the pool. (Dropping costs a connection.)
    ///
    /// # Errors
    /// Those of the database; the transaction is over in any case.
    pub async fn rollback(mut self) -> Result<()> {
        self.client()?
            .batch_execute("rollback")
            .await
            .map_err(Error::during("roll back"))?;
        drop(self.client.take());
        Ok(())
    }

    pub(crate) fn client(&self) -> Result<&Object> {
        self.client
            .as_ref()
            .ok_or_else(|| Error::Config("the transaction is over".to_owned()))
    }

    pub(crate) fn blobmeta(&self) -> &Table {
        &self.blobmeta
    }

    pub(crate) fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Checks that a batch belongs into this transaction and names no document twice.
    pub(crate) fn check_place<'a>(&self, documents: impl Iterator<Item = Owner<'a>>) -> Result<()> {
        let mut seen = HashSet::new();
        for document in documents {
            let why = if document.domain != self.domain.as_str() {
                "it is of another domain than the transaction"
            } else if self.target.shard_of(document.id) != self.shard {
                "it belongs on another shard"
            } else if !seen.insert(document.id) {
                "it is there twice"
            } else {
                continue;
            };
            return Err(Error::Misplaced {
                document: document.id.to_owned(),
                why,
            });
        }
        Ok(())
    }

    /// The stored rows of these documents, in no order.
    pub(crate) async fn stored<T: TableRow>(&self, table: &Table, ids: &[&str], lock: Lock) -> Result<Vec<Stored<T>>> {
        read::stored(self.client()?, table, ids, lock).await
    }

    /// The stored rows of these documents, each with a form, that are of the form, in no order.
    pub(crate) async fn stored_of_forms<T: TableRow>(&self, wanted: &[(&str, &str)]) -> Result<Vec<Stored<T>>> {
        read::stored_of_forms(self.client()?, &T::TABLE, wanted).await
    }

    /// Deletes what vanished and updates what differs. Deletion is first, since an updated row may take a unique key that
    /// a deleted one had.
    pub(crate) async fn delete_and_update<T: TableRow>(&self, changes: &Changes<'_, T>) -> Result<()> {
        self.delete_rows(&T::TABLE, &changes.delete).await?;
        if changes.unchanged > 0 {
            metrics::counter!(metric::UNCHANGED, "table" => T::TABLE.name).increment(changes.unchanged);
        }
        if changes.update.is_empty() {
            return Ok(());
        }
        let table = T::TABLE;
        let client = self.client()?;
        let exists = client
            .prepare_cached("select to_regclass('pg_temp.' || $1::text) is not null")
            .await
            .map_err(Error::during("prepare temporary tables"))?;
        let exists: bool = client
            .query_one(&exists, &[&table.staging()])
            .await
            .and_then(|row| row.try_get(0))
            .map_err(Error::during("look for a temporary table"))?;
        if !exists {
            client
                .batch_execute(&table.create_staging())
                .await
                .map_err(Error::during("create a temporary table"))?;
        }
        let rows = changes.update.iter().map(|(id, owner, row)| (Some(*id), *owner, *row));
        self.copy(table.name, &table.copy_staging(), &table, rows).await?;
        // Not prepared under a name: the plan is to follow the table's size of today.
        let updated = client
            .execute_typed(&table.update_from_staging(), &[])
            .await
            .map_err(Error::during("update rows"))?;
        // The same table can come twice in one transaction.
        client
            .batch_execute(&format!("truncate pg_temp.{}", table.staging()))
            .await
            .map_err(Error::during("empty a temporary table"))?;
        metrics::counter!(metric::ROWS, "table" => table.name, "change" => "update").increment(updated);
        Ok(())
    }

    pub(crate) async fn delete_rows(&self, table: &Table, ids: &[i64]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let deleted = self
            .client()?
            .execute_typed(&table.delete(), &[(&ids, Type::INT8_ARRAY)])
            .await
            .map_err(Error::during("delete rows"))?;
        metrics::counter!(metric::ROWS, "table" => table.name, "change" => "delete").increment(deleted);
        Ok(())
    }

    /// Copies new rows into their table.
    pub(crate) async fn insert<T: TableRow>(&self, table: &Table, rows: &[(Owner<'_>, &T)]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let copied = self
            .copy(
                table.name,
                &table.copy(),
                table,
                rows.iter().map(|(owner, row)| (None, *owner, *row)),
            )
            .await?;
        metrics::counter!(metric::ROWS, "table" => table.name, "change" => "insert").increment(copied);
        Ok(())
    }

    async fn copy<'a, T: TableRow + 'a>(
        &self,
        name: &'static str,
        statement: &str,
        table: &Table,
        rows: impl Iterator<Item = (Option<i64>, Owner<'a>, &'a T)>,
    ) -> Result<u64> {
        let _step = Step::start("copy");
        let span = tracing::info_span!("copy", table = name, rows = tracing::field::Empty);
        let failed = Error::during("copy rows");
        let client = self.client()?;
        let copying = async {
            let statement = client.prepare_cached(statement).await?;
            let mut sink = Box::pin(client.copy_in::<_, Bytes>(&statement).await?);
            let mut buffer = CopyBuffer::new();
            for (id, owner, row) in rows {
                let columns = table.columns.len();
                let out = buffer.row(columns + usize::from(id.is_some()));
                if let Some(id) = id {
                    Value::Big(id).put(out);
                }
                let mut left = columns;
                row.each_value(owner, &mut |value| {
                    // An older table lacks the last columns.
                    if left > 0 {
                        value.put(out);
                        left -= 1;
                    }
                });
                if let Some(piece) = buffer.piece() {
                    sink.feed(piece).await?;
                }
            }
            sink.feed(buffer.end()).await?;
            sink.as_mut().finish().await
        };
        let copied = copying.instrument(span.clone()).await.map_err(failed)?;
        span.record("rows", copied);
        Ok(copied)
    }
}

impl Drop for FencedTx {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            // Whatever it was doing, the server rolls it back when the connection is gone.
            drop(Object::take(client));
        }
    }
}
