//! The loop that every worker runs: take a message, claim its batch, keep the claim alive, hand the batch to the handler,
//! and record what came of it.
//!
//! A message is acknowledged once the row says what happened, never before. When the worker stops, batches in hand get
//! [`WorkerOptions::shutdown_grace`] to finish; what is not finished then is set back to `ready` and acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use broker::{Broker, Delivery};
use proto::message::BatchMessage;
use proto::topology::Stage;
use state::State;
use state::batch::{AfterFailure, Claim};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::config::Config;
use crate::names;
use crate::telemetry;

/// The longest wait before a batch is tried again after a transient failure.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// What to do with a batch that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// A server was away: try again later, without counting it against the batch.
    Transient,
    /// The batch is not ours any more.
    Lost,
    /// Perhaps the fault of a document: count it, and split the batch if it happens again.
    Document,
}

/// Why a batch failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct BatchFailure {
    /// What to do.
    pub kind: FailureKind,
    /// Stable code.
    pub code: &'static str,
    /// What happened, with the chain of causes; without any value of a document.
    pub message: String,
}

impl BatchFailure {
    /// From an error with its code and kind.
    pub fn new(kind: FailureKind, code: &'static str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self {
            kind,
            code,
            message: chain(error),
        }
    }

    /// A result of the pure rules that contradicts itself: a defect of ours, never the operator's.
    pub fn defect(what: &str) -> Self {
        Self {
            kind: FailureKind::Document,
            code: "C2S-3002",
            message: format!("internal error: {what}"),
        }
    }
}

/// An error with its causes, on one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}

impl From<state::StateError> for BatchFailure {
    fn from(error: state::StateError) -> Self {
        let kind = match error.kind() {
            state::Kind::Retry => FailureKind::Transient,
            state::Kind::Lost => FailureKind::Lost,
            state::Kind::Stop => FailureKind::Document,
        };
        Self::new(kind, error.code(), &error)
    }
}

impl From<hqsql::Error> for BatchFailure {
    fn from(error: hqsql::Error) -> Self {
        let kind = match error.kind() {
            // What only an operator can mend is no document's fault: the batch waits until it is mended.
            hqsql::ErrorKind::Retry | hqsql::ErrorKind::Stop => FailureKind::Transient,
            hqsql::ErrorKind::Fenced => FailureKind::Lost,
            hqsql::ErrorKind::Document => FailureKind::Document,
        };
        Self::new(kind, error.code(), &error)
    }
}

impl From<couch::Error> for BatchFailure {
    fn from(error: couch::Error) -> Self {
        Self::new(of_document(error.kind()), error.code(), &error)
    }
}

impl From<blobs::Error> for BatchFailure {
    fn from(error: blobs::Error) -> Self {
        Self::new(of_document(error.kind()), error.code(), &error)
    }
}

/// As for the target: only what is a document's fault counts against it.
fn of_document(kind: couch::ErrorKind) -> FailureKind {
    match kind {
        couch::ErrorKind::Document => FailureKind::Document,
        couch::ErrorKind::Retry | couch::ErrorKind::Stop => FailureKind::Transient,
    }
}

/// What a worker does with a batch. Ends by finishing the claim in the state schema.
#[async_trait]
pub trait BatchHandler: Send + Sync + 'static {
    /// Its stage.
    fn stage(&self) -> Stage;

    /// Does the work. The future may be dropped at any await point: everything it does must be safe to leave half done.
    async fn handle(&self, claim: &Claim) -> Result<(), BatchFailure>;
}

/// Settings of the loop.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Batches at once: one reads while another writes.
    pub concurrency: usize,
    /// Deliveries held at a time.
    pub prefetch: u16,
    /// How long a claim lives without renewal.
    pub lease: Duration,
    /// Attempts of a single document before it is set aside.
    pub max_attempts: i32,
    /// How long batches in hand may take to finish when the worker stops.
    pub shutdown_grace: Duration,
    /// Name of this process in batch rows and logs.
    pub name: String,
}

impl WorkerOptions {
    /// As the configuration has them, for a process of this name.
    pub fn of(config: &Config, name: &str) -> Self {
        Self {
            concurrency: config.worker.concurrency,
            prefetch: config.prefetch(),
            lease: config.worker.lease,
            max_attempts: config.worker.max_attempts,
            shutdown_grace: config.worker.shutdown_grace,
            name: name.to_owned(),
        }
    }
}

struct Loop {
    state: State,
    handler: Arc<dyn BatchHandler>,
    options: WorkerOptions,
    /// Ends the batches in hand when the grace is over.
    give_up: CancellationToken,
}

/// Works until `stop` is cancelled. Broker outages are waited out.
///
/// # Errors
/// The broker's, when it cannot be subscribed to at all.
pub async fn run(
    state: State,
    broker: Arc<dyn Broker>,
    handler: Arc<dyn BatchHandler>,
    options: WorkerOptions,
    stop: CancellationToken,
) -> Result<(), broker::BrokerError> {
    let permits = Arc::new(Semaphore::new(options.concurrency));
    let mut consumer = broker.consume(handler.stage(), options.prefetch).await?;
    let grace = options.shutdown_grace;
    let shared = Arc::new(Loop {
        state,
        handler,
        options,
        give_up: CancellationToken::new(),
    });
    let tasks = TaskTracker::new();
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = Arc::clone(&permits).acquire_owned() => permit,
        };
        let Ok(permit) = permit else { break };
        let delivery = tokio::select! {
            () = stop.cancelled() => break,
            delivery = consumer.next() => delivery,
        };
        let Some(delivery) = delivery else { break };
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            shared.deliver(delivery).await;
            drop(permit);
        });
    }
    // What was fetched and not begun goes to other workers at once.
    drop(consumer);
    tasks.close();
    if tokio::time::timeout(grace, tasks.wait()).await.is_err() {
        tracing::warn!("batches in hand did not finish in time; they are given back");
        shared.give_up.cancel();
        tasks.wait().await;
    }
    Ok(())
}

impl Loop {
    async fn deliver(&self, delivery: Delivery) {
        let message = match BatchMessage::decode(&delivery.payload) {
            Ok(message) => message,
            Err(error) => {
                tracing::error!(code = "C2S-3003", error = %chain(&error), bytes = delivery.payload.len(), "message refused and dead-lettered");
                metrics::counter!(names::MESSAGES, "outcome" => "refused").increment(1);
                delivery.dead_letter().await;
                return;
            }
        };
        if message.body.stage() != self.handler.stage() {
            tracing::error!(code = "C2S-3003", "message of another stage refused and dead-lettered");
            metrics::counter!(names::MESSAGES, "outcome" => "refused").increment(1);
            delivery.dead_letter().await;
            return;
        }
        let span = tracing::info_span!(
            "batch",
            stage = message.body.stage().as_str(),
            batch_id = message.batch_id.0,
            domain = %message.domain,
            attempt = tracing::field::Empty,
            outcome = tracing::field::Empty,
        );
        telemetry::set_parent(&span, telemetry::extract_context(&delivery.headers));
        self.work(message, delivery).instrument(span).await;
    }

    async fn work(&self, message: BatchMessage, delivery: Delivery) {
        let claim = match self.state.claim(&message, &self.options.name, self.options.lease).await {
            Ok(Some(claim)) => claim,
            Ok(None) => {
                metrics::counter!(names::MESSAGES, "outcome" => "stale").increment(1);
                delivery.ack().await;
                return;
            }
            Err(error) => {
                tracing::warn!(code = error.code(), error = %chain(&error), "the batch could not be claimed; its message goes back");
                // Without a pause an unreachable state database would make the queue spin.
                tokio::select! {
                    () = self.give_up.cancelled() => {}
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                }
                delivery.requeue().await;
                return;
            }
        };
        tracing::Span::current().record("attempt", claim.attempt);
        let started = Instant::now();
        let outcome = self.handle(&claim).await;
        let stage = claim.stage.as_str();
        metrics::histogram!(names::BATCH_SECONDS, "stage" => stage).record(started.elapsed().as_secs_f64());
        metrics::counter!(names::BATCHES, "stage" => stage, "outcome" => outcome).increment(1);
        tracing::Span::current().record("outcome", outcome);
        tracing::debug!(
            documents = claim.ids.len(),
            milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "batch {outcome}"
        );
        delivery.ack().await;
    }

    /// Runs the handler under the claim, and records how it ended. Gives the outcome's name.
    async fn handle(&self, claim: &Claim) -> &'static str {
        let ended = tokio::select! {
            result = self.handler.handle(claim) => Some(result),
            () = self.renew(claim) => Some(Err(state::StateError::LostClaim.into())),
            () = self.give_up.cancelled() => None,
        };
        let recorded = match ended {
            Some(Ok(())) => return "done",
            None => self.state.release_claim(claim).await.map(|()| "released"),
            Some(Err(failure)) => self.record(claim, &failure).await,
        };
        recorded.unwrap_or_else(|error| {
            // The lease runs out by itself then, and the driver treats the batch as failed.
            tracing::warn!(code = error.code(), error = %chain(&error), "the end of the batch could not be recorded");
            "unrecorded"
        })
    }

    async fn record(&self, claim: &Claim, failure: &BatchFailure) -> Result<&'static str, state::StateError> {
        match failure.kind {
            FailureKind::Lost => {
                tracing::info!(
                    code = failure.code,
                    "the batch is not ours any more: {}",
                    failure.message
                );
                Ok("lost")
            }
            FailureKind::Transient => {
                tracing::warn!(
                    code = failure.code,
                    "the batch will be tried again: {}",
                    failure.message
                );
                self.state
                    .retry_later(claim, failure.code, &failure.message, LONGEST_RETRY)
                    .await?;
                Ok("retry")
            }
            FailureKind::Document => {
                tracing::error!(code = failure.code, "the batch failed: {}", failure.message);
                let after = self
                    .state
                    .fail_claim(claim, failure.code, &failure.message, self.options.max_attempts)
                    .await?;
                Ok(match after {
                    AfterFailure::Again => "failed",
                    AfterFailure::Split => "split",
                    AfterFailure::Parked => "parked",
                })
            }
        }
    }

    /// Renews the claim for as long as it is ours; returns when it is not.
    async fn renew(&self, claim: &Claim) {
        let mut tick = tokio::time::interval(self.options.lease / 3);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tick.tick().await;
        loop {
            tick.tick().await;
            match self.state.renew_claim(claim, self.options.lease).await {
                Ok(()) => {}
                Err(error) if error.kind() == state::Kind::Lost => return,
                Err(error) => {
                    tracing::warn!(code = error.code(), error = %chain(&error), "the claim could not be renewed");
                }
            }
        }
    }
}
