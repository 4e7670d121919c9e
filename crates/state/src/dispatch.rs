//! What the driver asks of batch rows: which are due, which are with the broker, how many are open, and folding those that
//! are done.

use std::time::Duration;

use proto::doctype::DocType;
use proto::ids::BatchId;
use proto::message::BatchMessage;
use proto::topology::Stage;
use sqlx::Row;

use crate::batch::{OpenBatches, Publishable};
use crate::{MigrationId, State, StateError};

impl State {
    /// Rows of a stage that are due and not published.
    ///
    /// # Errors
    /// Database errors.
    pub async fn publishable(&self, id: MigrationId, stage: Stage, limit: i64) -> Result<Vec<Publishable>, StateError> {
        let rows = sqlx::query(
            "select id, doc_type, item_count, attempt from batch
             where migration_id = $1 and stage = $2 and state = 'ready' and published_at is null and next_at <= now()
             order by id limit $3",
        )
        .bind(id.0)
        .bind(stage.as_str())
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                let doc_type: String = row.try_get("doc_type")?;
                let count: i32 = row.try_get("item_count")?;
                Ok(Publishable {
                    batch_id: BatchId(row.try_get("id")?),
                    doc_type: DocType::parse(&doc_type).ok_or(StateError::Corrupt("document type"))?,
                    count: u32::try_from(count).map_err(|_| StateError::Corrupt("item count"))?,
                    attempt: row.try_get("attempt")?,
                })
            })
            .collect()
    }

    /// Records that messages for these rows are on their way to the broker. To be called before they are published: a worker
    /// may claim a row and give it back before the last of them is confirmed, and that row is to be published again.
    ///
    /// # Errors
    /// Database errors.
    pub async fn mark_published(&self, ids: &[BatchId]) -> Result<(), StateError> {
        self.set_published(
            "update batch set published_at = now() where id = any($1) and state = 'ready'",
            ids,
        )
        .await
    }

    /// Records that messages for these rows did not reach the broker, so far as is known.
    ///
    /// # Errors
    /// Database errors.
    pub async fn mark_unpublished(&self, ids: &[BatchId]) -> Result<(), StateError> {
        self.set_published(
            "update batch set published_at = null where id = any($1) and state = 'ready'",
            ids,
        )
        .await
    }

    async fn set_published(&self, sql: &'static str, ids: &[BatchId]) -> Result<(), StateError> {
        let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
        sqlx::query(sql).bind(&ids).execute(&self.pool).await?;
        Ok(())
    }

    /// Publishes again what was published `older_than` ago and never claimed; only for a queue that is empty.
    ///
    /// # Errors
    /// Database errors.
    pub async fn forget_published(
        &self,
        id: MigrationId,
        stages: &[Stage],
        older_than: Duration,
    ) -> Result<u64, StateError> {
        Ok(sqlx::query(
            "update batch set published_at = null
             where migration_id = $1 and stage = any($2) and state = 'ready' and published_at < now() - make_interval(secs => $3)",
        )
        .bind(id.0)
        .bind(stages.iter().map(|stage| stage.as_str()).collect::<Vec<_>>())
        .bind(older_than.as_secs_f64())
        .execute(&self.pool)
        .await?
        .rows_affected())
    }

    /// Records that the messages of these rows are not with the broker any more, where the row still waits for a worker: it
    /// is to be published again. Gives how many rows that were.
    ///
    /// # Errors
    /// Database errors.
    pub async fn forget_messages(&self, messages: &[BatchMessage]) -> Result<usize, StateError> {
        let changed = sqlx::query(
            "update batch b set published_at = null
             from unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[]) i(id, domain, epoch, stage)
             join migration m on m.domain = i.domain and m.epoch = i.epoch
             where b.id = i.id and b.migration_id = m.id and b.stage = i.stage and b.state = 'ready'
               and b.published_at is not null",
        )
        .bind(messages.iter().map(|message| message.batch_id.0).collect::<Vec<_>>())
        .bind(
            messages
                .iter()
                .map(|message| message.domain.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(messages.iter().map(|message| message.epoch.0).collect::<Vec<_>>())
        .bind(
            messages
                .iter()
                .map(|message| message.body.stage().as_str())
                .collect::<Vec<_>>(),
        )
        .execute(&self.pool)
        .await?
        .rows_affected();
        Ok(usize::try_from(changed).unwrap_or(usize::MAX))
    }

    /// Batches of a stage, but for those that are folded.
    ///
    /// # Errors
    /// Database errors.
    pub async fn open_batches(&self, id: MigrationId, stage: Stage) -> Result<OpenBatches, StateError> {
        let row = sqlx::query(
            "select count(*) filter (where state = 'ready') as ready,
                    count(*) filter (where state = 'ready' and published_at is not null) as published,
                    count(*) filter (where state = 'claimed') as claimed,
                    count(*) filter (where state = 'parked') as parked,
                    count(*) filter (where state = 'done') as done
             from batch where migration_id = $1 and stage = $2",
        )
        .bind(id.0)
        .bind(stage.as_str())
        .fetch_one(&self.pool)
        .await?;
        Ok(OpenBatches {
            ready: row.try_get("ready")?,
            published: row.try_get("published")?,
            claimed: row.try_get("claimed")?,
            parked: row.try_get("parked")?,
            done: row.try_get("done")?,
        })
    }

    /// Folds finished batches into counters.
    ///
    /// # Errors
    /// Database errors.
    pub async fn fold_done(&self, id: MigrationId) -> Result<(), StateError> {
        sqlx::query(
            "with folded as (
                 delete from batch where migration_id = $1 and state = 'done' returning stage, doc_type, item_count
             )
             insert into stage_total as t (migration_id, stage, doc_type, batches, items)
             select $1, stage, doc_type, count(*), sum(item_count) from folded group by stage, doc_type
             on conflict (migration_id, stage, doc_type)
             do update set batches = t.batches + excluded.batches, items = t.items + excluded.items",
        )
        .bind(id.0)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Lets parked batches try again, from the first attempt. The errors that parked them go: what fails again is recorded
    /// again, and a stage that succeeds knows nothing of the errors of another one.
    ///
    /// # Errors
    /// Database errors.
    pub async fn unpark(&self, id: MigrationId) -> Result<u64, StateError> {
        let count: i64 = sqlx::query_scalar(
            "with again as (
                 update batch set state = 'ready', attempt = 0, retries = 0, next_at = now(), published_at = null
                 where migration_id = $1 and state = 'parked' returning doc_type, ids, error_code
             ), forgotten as (
                 delete from doc_error e using (select doc_type, unnest(ids) as doc_id, error_code from again) a
                 where e.migration_id = $1 and e.kind = a.doc_type and e.doc_id = a.doc_id and e.code = a.error_code
             )
             select count(*) from again",
        )
        .bind(id.0)
        .fetch_one(&self.pool)
        .await?;
        Ok(u64::try_from(count).unwrap_or(0))
    }
}
