//! Fences: a small table of ours on every shard says for each domain at which epoch its rows may be written, if at all.
//!
//! Transactions read the row `for share`, changes of the fence update it: so a change waits for the transactions in
//! flight, and those that begin later see it. A worker that was stopped in mid-transaction would hold the change up for
//! ever; PostgreSQL's idle-in-transaction time-out ends most of them, and what it does not see (a session that waits for
//! the rest of its COPY) is ended here.

use std::time::Duration;

use proto::ids::{Domain, Epoch};
use tokio_postgres::Transaction;
use tokio_postgres::types::Type;

use crate::claim::Claim;
use crate::error::{Error, Result};
use crate::metric;
use crate::routing::ShardId;
use crate::target::Target;

/// Name of the fence table on every shard.
pub const FENCE_TABLE: &str = "couch_sql_migration_fence";

pub(crate) const SELECT_FOR_SHARE: &str =
    "select epoch, open from couch_sql_migration_fence where domain = $1 for share";

const CREATE: &str = "create table if not exists couch_sql_migration_fence (\
     domain text primary key, epoch bigint not null, open boolean not null)";

/// Refuses while the domain's fence is open, and keeps it from being opened until the transaction ends.
///
/// # Errors
/// [`Error::FenceOpen`].
pub(crate) async fn check_closed(tx: &Transaction<'_>, domain: &Domain) -> Result<()> {
    let open = tx
        .query_opt(SELECT_FOR_SHARE, &[&domain.as_str()])
        .await
        .and_then(|row| row.map(|row| row.try_get::<_, bool>(1)).transpose())
        .map_err(Error::during("read the fence"))?;
    if open == Some(true) {
        return Err(Error::FenceOpen {
            domain: domain.to_string(),
        });
    }
    Ok(())
}

impl Target {
    /// Creates the fence table on every shard where it is missing.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn create_fence_table(&self) -> Result<()> {
        for (_, database) in self.databases() {
            database
                .client()
                .await?
                .batch_execute(CREATE)
                .await
                .map_err(Error::during("create the fence table"))?;
        }
        Ok(())
    }

    /// Opens the domain for writing at this epoch, on every shard. Waits for transactions of the epoch before.
    ///
    /// # Errors
    /// [`Error::FenceNewer`] when a fence is at a later epoch: then somebody else has taken over. When the claim is lost.
    pub async fn open_fence<C: Claim>(&self, claim: &C, domain: &Domain, epoch: Epoch) -> Result<(), C::Lost> {
        for shard in self.shards() {
            self.move_fence(claim, shard, domain, epoch, true).await?;
        }
        Ok(())
    }

    /// Closes the domain for writing at this epoch and all before it, on every shard. Waits for the transactions in
    /// flight: when it returns, none is left, and none can begin.
    ///
    /// # Errors
    /// [`Error::FenceNewer`] when a fence is at a later epoch: then somebody else has taken over. When the claim is lost.
    pub async fn close_fence<C: Claim>(&self, claim: &C, domain: &Domain, epoch: Epoch) -> Result<(), C::Lost> {
        for shard in self.shards() {
            self.move_fence(claim, shard, domain, epoch, false).await?;
        }
        Ok(())
    }

    /// Where the domain's fence stands: `None` when no shard has one. If the shards differ, because somebody was cut off
    /// between them, it counts as closed at the latest epoch; opening or closing it again makes them agree.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn fence(&self, domain: &Domain) -> Result<Option<(Epoch, bool)>> {
        let mut fences = Vec::new();
        for (_, database) in self.databases() {
            let row = database
                .client()
                .await?
                .query_opt(
                    "select epoch, open from couch_sql_migration_fence where domain = $1",
                    &[&domain.as_str()],
                )
                .await
                .map_err(Error::during("read the fence"))?;
            let fence = row
                .map(|row| Ok((Epoch(row.try_get(0)?), row.try_get::<_, bool>(1)?)))
                .transpose()
                .map_err(Error::during("read the fence"))?;
            fences.push(fence);
        }
        let Some(latest) = fences.iter().flatten().map(|(epoch, _)| *epoch).max() else {
            return Ok(None);
        };
        Ok(Some((
            latest,
            fences.iter().all(|fence| *fence == Some((latest, true))),
        )))
    }

    async fn move_fence<C: Claim>(
        &self,
        claim: &C,
        shard: ShardId,
        domain: &Domain,
        epoch: Epoch,
        open: bool,
    ) -> Result<(), C::Lost> {
        let failed = Error::during("move the fence");
        let mut client = self.database(shard)?.client().await?;
        let tx = client.transaction().await.map_err(&failed)?;
        // However long it takes: stuck sessions are ended below.
        tx.batch_execute("set local statement_timeout = 0; set local lock_timeout = 0")
            .await
            .map_err(&failed)?;
        let session: i32 = tx
            .query_one("select pg_backend_pid()", &[])
            .await
            .and_then(|row| row.try_get(0))
            .map_err(&failed)?;
        let name = domain.as_str();
        let (epoch_number, limit) = (epoch.0, self.timeouts().idle_in_transaction);
        let moved = {
            let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
                [(&name, Type::TEXT), (&epoch_number, Type::INT8), (&open, Type::BOOL)];
            let update = tx.execute_typed(
                "insert into couch_sql_migration_fence as fence (domain, epoch, open) values ($1, $2, $3) \
                 on conflict (domain) do update set epoch = excluded.epoch, open = excluded.open \
                 where fence.epoch <= excluded.epoch",
                &parameters,
            );
            let mut update = std::pin::pin!(update);
            loop {
                tokio::select! {
                    moved = &mut update => break moved.map_err(&failed)?,
                    () = tokio::time::sleep(limit) => self.end_stuck_sessions(shard, session, limit).await?,
                }
            }
        };
        if moved == 0 {
            return Err(C::Lost::from(Error::FenceNewer {
                domain: domain.to_string(),
                epoch,
            }));
        }
        claim.check().await?;
        Ok(tx.commit().await.map_err(&failed)?)
    }

    /// Ends the sessions that block `waiting` and have themselves been waiting for their client for longer than `limit`.
    async fn end_stuck_sessions(&self, shard: ShardId, waiting: i32, limit: Duration) -> Result<()> {
        let limit = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        let ended = self
            .database(shard)?
            .client()
            .await?
            .query(
                "select pg_terminate_backend(pid) from pg_stat_activity \
                 where pid = any (pg_blocking_pids($1)) and wait_event = 'ClientRead' \
                 and greatest(state_change, query_start) < clock_timestamp() - $2 * interval '1 millisecond'",
                #[allow(clippy::cast_precision_loss)] // a time-out has nowhere near 2^52 milliseconds
                &[&waiting, &(limit as f64)],
            )
            .await
            .map_err(Error::during("end stuck sessions"))?;
        if !ended.is_empty() {
            tracing::warn!(
                sessions = ended.len(),
                "ended sessions that held up a fence and did not go on"
            );
            metrics::counter!(metric::ENDED_SESSIONS).increment(ended.len() as u64);
        }
        Ok(())
    }
}
