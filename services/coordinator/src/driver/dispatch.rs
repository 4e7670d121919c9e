//! Dispatch: keeps a bounded window of batches with the broker.
//!
//! The rows are the truth; a message is published for a row that is due, and published again only when its claim ran out,
//! its retry is due, the message came back as a dead letter, or the queue is empty while the row says that a message should
//! be in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use broker::{Broker, OutgoingMessage};
use futures::future::join_all;
use proto::ids::BatchId;
use proto::message::{BatchBody, BatchMessage, VERSION};
use proto::topology::Stage;
use service::config::Config;
use service::{names, telemetry};
use state::batch::{OpenBatches, Publishable};
use state::lists::Share;
use state::{Migration, State, StateError};

use super::dead_letters;

/// Pause between two looks at the rows. Short beside the time of a batch, long beside the query.
pub(crate) const TICK: Duration = Duration::from_millis(50);
/// The first pause of a stage: the only batch of a small domain may be done in less than a [`TICK`].
const FIRST_BREATH: Duration = Duration::from_millis(5);
/// Rows that were published this long ago and are not claimed, while the queue is empty, have lost their message.
const LOST_AFTER: Duration = Duration::from_secs(3);
/// Ticks between two rounds of housekeeping: expired claims, lost messages, folding.
const HOUSEKEEPING: i64 = 20;
/// Ticks between two looks at who else is driven: a small domain that comes beside a large one waits no longer for its share.
const SHARING: i64 = 5;
/// Ticks between two looks for dead letters: they are rare, and every driver looks for all domains.
const DEAD_LETTERS: i64 = 5 * HOUSEKEEPING;

/// Publishes the batches of one migration.
pub(crate) struct Dispatcher {
    state: State,
    broker: Arc<dyn Broker>,
    migration: Migration,
    window: i64,
    max_attempts: i32,
    ticks: AtomicI64,
    /// Batches of this domain that may wait with the broker.
    waiting: AtomicI64,
    /// The next pause, in microseconds.
    breath: AtomicU64,
}

impl Dispatcher {
    pub(crate) fn new(state: State, broker: Arc<dyn Broker>, migration: Migration, config: &Config) -> Self {
        let window = i64::try_from(config.driver.window).unwrap_or(i64::MAX);
        Self {
            state,
            broker,
            migration,
            window,
            max_attempts: config.worker.max_attempts,
            ticks: AtomicI64::new(0),
            waiting: AtomicI64::new(window),
            breath: AtomicU64::new(micros(FIRST_BREATH)),
        }
    }

    /// How long to wait before the next look: short at first, and by half longer each time, up to a [`TICK`].
    pub(crate) fn breath(&self) -> Duration {
        let now = self.breath.load(Ordering::Relaxed);
        let next = (now + now / 2).min(micros(TICK));
        self.breath.store(next, Ordering::Relaxed);
        Duration::from_micros(now)
    }

    /// Publishes what is due within the window. Whether the stage has nothing left to do.
    pub(crate) async fn tick(&self, stage: Stage) -> Result<bool, StateError> {
        let id = self.migration.id;
        let tick = self.ticks.fetch_add(1, Ordering::Relaxed);
        if tick % DEAD_LETTERS == 0 {
            dead_letters::reconcile(&self.state, self.broker.as_ref()).await?;
        }
        if tick % HOUSEKEEPING == 0 {
            self.keep_house(stage).await?;
        }
        if tick % SHARING == 0 {
            let share = self.state.share(id).await?;
            self.waiting.store(part_of(self.window, share), Ordering::Relaxed);
        }
        let open = self.state.open_batches(id, stage).await?;
        if open.is_drained() {
            if open.done > 0 {
                self.state.fold_done(id).await?;
            }
            return Ok(true);
        }
        if open.published + open.claimed == 0 {
            self.breath.store(micros(FIRST_BREATH), Ordering::Relaxed);
        }
        let room = room(self.window, self.waiting.load(Ordering::Relaxed), &open);
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
        let ids: Vec<BatchId> = due.iter().map(|batch| batch.batch_id).collect();
        self.state.mark_published(&ids).await?;
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
        let mut unpublished: Vec<BatchId> = Vec::new();
        for (batch, outcome) in due.iter().zip(sent) {
            if let Err(error) = outcome {
                // The row is due again; the next tick tries. If the message did arrive, it finds the row all the same.
                tracing::warn!(code = error.code(), %error, "a batch could not be published");
                unpublished.push(batch.batch_id);
            }
        }
        metrics::counter!(names::PUBLISHED, "stage" => stage.as_str())
            .increment(u64::try_from(due.len() - unpublished.len()).unwrap_or(0));
        if unpublished.is_empty() {
            return Ok(());
        }
        self.state.mark_unpublished(&unpublished).await
    }

    /// Publishes everything again that waits for a worker: a driver before this one may have died before it published what
    /// it had marked.
    pub(crate) async fn begin(&self) -> Result<(), StateError> {
        let published = self
            .state
            .forget_published(self.migration.id, &Stage::ALL, Duration::ZERO);
        published.await.map(drop)
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
                let lost = self.state.forget_published(id, &[stage], LOST_AFTER).await?;
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

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// How many batches a domain may have waiting with the broker: its part of the window, by weight.
///
/// Workers take batches in the order of their arrival, whosesoever they are. What keeps a small domain waiting is what large
/// ones have put into the queue before it: together no more than about one window.
fn part_of(window: i64, share: Share) -> i64 {
    let all = share.all.max(1);
    (window.saturating_mul(share.own) / all).clamp(1, window.max(1))
}

/// How many more batches may be published: no more waiting than the domain's part, no more in flight than the window. What
/// workers have in hand does not count as waiting, so that no worker is idle for fairness' sake.
fn room(window: i64, waiting: i64, open: &OpenBatches) -> i64 {
    (window - open.published - open.claimed).min(waiting - open.published)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_by_itself_has_the_window_and_others_share_it_by_weight() {
        for (own, all, part) in [(4, 4, 16), (4, 8, 8), (4, 36, 1), (16, 20, 12), (1, 17, 1), (1, 100, 1)] {
            assert_eq!(part_of(16, Share { own, all }), part, "{own} of {all}");
        }
        assert_eq!(part_of(1, Share { own: 4, all: 8 }), 1, "nobody is shut out");
    }

    #[test]
    fn what_workers_have_in_hand_does_not_count_as_waiting() {
        let open = |published, claimed| OpenBatches {
            ready: 100,
            published,
            claimed,
            parked: 0,
            done: 0,
        };
        assert_eq!(room(16, 2, &open(0, 8)), 2, "workers are idle otherwise");
        assert_eq!(room(16, 2, &open(2, 8)), 0);
        assert_eq!(room(16, 16, &open(2, 10)), 4, "the window bounds what is in flight");
        assert!(
            room(16, 2, &open(10, 0)) <= 0,
            "what was published when nobody else was there"
        );
    }
}
