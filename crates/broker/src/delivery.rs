//! Deliveries and the consumers that hand them out.

use std::collections::BTreeMap;
use std::fmt;

use metrics::counter;
use proto::topology::Stage;
use tokio::runtime::Handle;

use crate::{amqp, memory, metric_names};

/// A stream of deliveries. Dropping it ends the subscription: deliveries that were not handed out go back to the queue,
/// those that were can still be settled.
#[derive(Debug)]
pub struct Consumer {
    stage: Stage,
    source: Source,
}

#[derive(Debug)]
pub(crate) enum Source {
    Amqp(amqp::Subscription),
    Memory(memory::Subscription),
}

impl Consumer {
    pub(crate) fn new(stage: Stage, source: Source) -> Self {
        Self { stage, source }
    }

    /// Waits for the next delivery; `None` when the broker has been closed. May be cancelled without losing a delivery.
    pub async fn next(&mut self) -> Option<Delivery> {
        let delivery = match &mut self.source {
            Source::Amqp(subscription) => subscription.next().await,
            Source::Memory(subscription) => subscription.next().await,
        }?;
        let outcome = if delivery.redelivered { "redelivered" } else { "first" };
        counter!(metric_names::DELIVERED, "stage" => self.stage.as_str(), "outcome" => outcome).increment(1);
        Some(delivery)
    }
}

/// A message that was delivered and has to be settled: by [`Delivery::ack`], [`Delivery::requeue`] or
/// [`Delivery::dead_letter`]. One that is dropped instead, by a panic for example, goes back to the queue.
pub struct Delivery {
    /// The body as it was published.
    pub payload: Vec<u8>,
    /// Its text and number headers.
    pub headers: BTreeMap<String, String>,
    /// Whether it was delivered before, to anyone.
    pub redelivered: bool,
    stage: Stage,
    receipt: Option<Receipt>,
}

/// What has to be shown to the broker to settle a delivery.
#[derive(Debug)]
pub(crate) enum Receipt {
    Amqp(amqp::Receipt),
    Memory(memory::Receipt),
}

/// What becomes of a delivered message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ack,
    Requeue,
    DeadLetter,
}

/// Whether the broker has heard of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    Done,
    /// The connection of the delivery is gone; the broker has already taken the message back.
    Stale,
}

impl Delivery {
    pub(crate) fn new(
        stage: Stage,
        payload: Vec<u8>,
        headers: BTreeMap<String, String>,
        redelivered: bool,
        receipt: Receipt,
    ) -> Self {
        Self {
            payload,
            headers,
            redelivered,
            stage,
            receipt: Some(receipt),
        }
    }

    /// The message is dealt with; the broker may forget it.
    pub async fn ack(mut self) {
        self.settle(Verdict::Ack).await;
    }

    /// Somebody else, or we later, should have it.
    pub async fn requeue(mut self) {
        self.settle(Verdict::Requeue).await;
    }

    /// Nobody should have it: it goes to the dead letters.
    pub async fn dead_letter(mut self) {
        self.settle(Verdict::DeadLetter).await;
    }

    /// Whether the connection that it came by is gone, so that it will be delivered again.
    pub fn is_stale(&self) -> bool {
        match &self.receipt {
            Some(Receipt::Amqp(receipt)) => receipt.is_stale(),
            Some(Receipt::Memory(_)) | None => false,
        }
    }

    async fn settle(&mut self, verdict: Verdict) {
        let settled = match self.receipt.take() {
            None => return,
            Some(Receipt::Amqp(receipt)) => receipt.settle(verdict).await,
            Some(Receipt::Memory(receipt)) => receipt.settle(verdict),
        };
        count(self.stage, verdict, settled);
    }
}

fn count(stage: Stage, verdict: Verdict, settled: Settled) {
    let outcome = match (settled, verdict) {
        (Settled::Stale, _) => "stale",
        (Settled::Done, Verdict::Ack) => "ack",
        (Settled::Done, Verdict::Requeue) => "requeue",
        (Settled::Done, Verdict::DeadLetter) => "dead_letter",
    };
    counter!(metric_names::SETTLED, "stage" => stage.as_str(), "outcome" => outcome).increment(1);
}

impl Drop for Delivery {
    fn drop(&mut self) {
        match self.receipt.take() {
            None => {}
            Some(Receipt::Memory(receipt)) => count(self.stage, Verdict::Requeue, receipt.settle(Verdict::Requeue)),
            Some(Receipt::Amqp(receipt)) => {
                let stage = self.stage;
                // Without a runtime the process is ending, and the broker takes everything back with the connection.
                if let Ok(runtime) = Handle::try_current() {
                    runtime
                        .spawn(async move { count(stage, Verdict::Requeue, receipt.settle(Verdict::Requeue).await) });
                }
            }
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("stage", &self.stage)
            .field("bytes", &self.payload.len())
            .field("redelivered", &self.redelivered)
            .finish_non_exhaustive()
    }
}
