//! Dispatch: keeps a bounded window of batches with the broker.
//!
//! The rows are the truth; a message is published for a row that is due, and published again only when its claim ran out,
//! its retry is due, or the queue is empty while the row says that a message should be in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use broker::{Broker, OutgoingMessage};
use futures::future::join_all;
use proto::ids::BatchId;
use proto::message::{BatchBody, BatchMessage, VERSION};
use proto::topology::Stage;
use service::config::Config;
use service::{names, telemetry};
use state::batch::Publishable;
use state::{Migration, State, StateError};

/// Pause between two looks at the rows. Short beside the time of a batch, long beside the query.
pub(crate) const TICK: Duration = Duration::from_millis(50);
/// Rows that were published this long ago and are not claimed, while the queue is empty, have lost their message.
const LOST_AFTER: Duration = Duration::from_secs(3);
/// Ticks between two rounds of housekeeping: expired claims, lost messages, folding.
const HOUSEKEEPING: i64 = 20;

/// Publishes the batches of one migration.
pub(crate) struct Dispatcher {
    state: State,
    broker: Arc<dyn Broker>,
    migration: Migration,
    window: i64,
    max_attempts: i32,
    ticks: AtomicI64,
}

impl Dispatcher {
    pub(crate) fn new(state: State, broker: Arc<dyn Broker>, migration: Migration, config: &Config) -> Self {
        Self {
            state,
            broker,
            migration,
            window: i64::try_from(config.driver.window).unwrap_or(i64::MAX),
            max_attempts: config.worker.max_attempts,
            ticks: AtomicI64::new(0),
        }
    }

    /// Publishes what is due within the window. Whether the stage has nothing left to do.
    pub(crate) async fn tick(&self, stage: Stage) -> Result<bool, StateError> {
        let id = self.migration.id;
        if self.ticks.fetch_add(1, Ordering::Relaxed) % HOUSEKEEPING == 0 {
            self.keep_house(stage).await?;
        }
        let open = self.state.open_batches(id, stage).await?;
        if open.is_drained() {
            self.state.fold_done(id).await?;
            return Ok(true);
        }
        let room = self.window - open.published - open.claimed;
        if room > 0 {
            let due = self.state.publishable(id, stage, room).await?;
            self.publish(stage, &due).await?;
        }
        Ok(false)
    }

    async fn publish(&self, stage: Stage, due: &[Publishable]) -> Result<(), StateError> {
        if due.is_empty() {
            return Ok(());
        }
        let mut headers = BTreeMap::new();
        telemetry::inject_context(&mut headers);
        let sent = join_all(due.iter().map(|batch| {
            let body = match stage {
                Stage::Form => BatchBody::Form {
                    doc_type: batch.doc_type,
                    count: batch.count,
                },
                Stage::Case => BatchBody::Case { count: batch.count },
                Stage::Diff => BatchBody::Diff { count: batch.count },
            };
            let message = BatchMessage {
                version: VERSION,
                domain: self.migration.domain.clone(),
                epoch: self.migration.epoch,
                batch_id: batch.batch_id,
                attempt: batch.attempt,
                body,
            };
            self.broker.publish(
                stage,
                OutgoingMessage {
                    payload: message.encode(),
                    headers: headers.clone(),
                },
            )
        }))
        .await;
        let mut published: Vec<BatchId> = Vec::with_capacity(due.len());
        for (batch, outcome) in due.iter().zip(sent) {
            match outcome {
                Ok(()) => published.push(batch.batch_id),
                // The row stays due; the next tick tries again. If the message did arrive, it finds the row all the same.
                Err(error) => tracing::warn!(code = error.code(), %error, "a batch could not be published"),
            }
        }
        metrics::counter!(names::PUBLISHED, "stage" => stage.as_str())
            .increment(u64::try_from(published.len()).unwrap_or(0));
        self.state.mark_published(&published).await
    }

    async fn keep_house(&self, stage: Stage) -> Result<(), StateError> {
        let id = self.migration.id;
        let expired = self.state.expire_claims(id, self.max_attempts).await?;
        if expired > 0 {
            tracing::warn!(
                batches = expired,
                "workers stopped answering; their batches are taken back"
            );
        }
        match self.broker.queue_depth(stage).await {
            Ok(0) => {
                let lost = self.state.forget_published(id, stage, LOST_AFTER).await?;
                if lost > 0 {
                    tracing::warn!(batches = lost, "messages were lost; their batches are published again");
                }
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(code = error.code(), %error, "the depth of the queue is not known"),
        }
        self.state.fold_done(id).await
    }
}
