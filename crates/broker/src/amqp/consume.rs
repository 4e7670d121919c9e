//! Subscriptions: a task per consumer moves deliveries from whichever link there is into the consumer's hands.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions,
};
use lapin::types::FieldTable;
use lapin::{Acker, Channel};
use proto::topology::Stage;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::link::{Link, within};
use super::supervisor::Shared;
use super::{header, topology};
use crate::BrokerError;
use crate::delivery::{Delivery, Receipt as AnyReceipt, Settled, Verdict};

/// The consumer's end. Dropping it stops the task.
#[derive(Debug)]
pub(crate) struct Subscription {
    deliveries: mpsc::Receiver<Delivery>,
    _stop: DropGuard,
}

impl Subscription {
    pub(super) fn start(shared: Arc<Shared>, stage: Stage, prefetch: u16) -> Self {
        let (sender, deliveries) = mpsc::channel(usize::from(prefetch));
        let stop = shared.closed.child_token();
        let pump = Pump {
            shared,
            stage,
            prefetch,
            sender,
            stop: stop.clone(),
        };
        tokio::spawn(pump.run());
        Self {
            deliveries,
            _stop: stop.drop_guard(),
        }
    }

    pub(crate) async fn next(&mut self) -> Option<Delivery> {
        loop {
            let delivery = self.deliveries.recv().await?;
            // One that waited here while its connection was lost comes again by the next.
            if !delivery.is_stale() {
                return Some(delivery);
            }
        }
    }
}

struct Pump {
    shared: Arc<Shared>,
    stage: Stage,
    prefetch: u16,
    sender: mpsc::Sender<Delivery>,
    stop: CancellationToken,
}

impl Pump {
    async fn run(self) {
        while !self.stop.is_cancelled() {
            let link = tokio::select! {
                () = self.stop.cancelled() => return,
                link = self.shared.link("subscribing") => link,
            };
            let Ok(link) = link else { return };
            if let Err(error) = Box::pin(self.consume_from(&link)).await {
                tracing::debug!(stage = self.stage.as_str(), code = error.code(), %error, "a subscription ended");
                link.give_up();
            }
        }
    }

    /// Consumes until this subscription is stopped (`Ok`) or the link is lost (`Err`).
    async fn consume_from(&self, link: &Arc<Link>) -> Result<(), BrokerError> {
        const OPERATION: &str = "subscribing";
        let limit = self.shared.config.operation_timeout;
        let channel = link.channel(limit, OPERATION).await?;
        within(
            limit,
            OPERATION,
            channel.basic_qos(self.prefetch, BasicQosOptions::default()),
        )
        .await?;
        let queue = topology::queue(&self.shared.config, self.stage);
        let subscribe = channel.basic_consume(
            queue.as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let mut incoming = within(limit, OPERATION, subscribe).await?;
        loop {
            let delivery = tokio::select! {
                () = self.stop.cancelled() => break,
                () = link.given_up() => return Err(BrokerError::Disconnected { operation: OPERATION, source: None }),
                delivery = incoming.next() => match delivery {
                    Some(Ok(delivery)) => delivery,
                    Some(Err(error)) => return Err(super::disconnected("consuming", error)),
                    // The queue was deleted under us.
                    None => return Err(BrokerError::Disconnected { operation: "consuming", source: None }),
                },
            };
            let delivery = self.adopt(delivery, link, &channel);
            tokio::select! {
                () = self.stop.cancelled() => {
                    break;
                }
                // The buffer has room for every delivery that the prefetch allows; it can only be full of stale ones.
                sent = self.sender.send(delivery) => {
                    if sent.is_err() {
                        break;
                    }
                }
            }
        }
        if link.is_up() && !self.shared.closed.is_cancelled() {
            let cancel = channel.basic_cancel(incoming.tag(), BasicCancelOptions::default());
            within(limit, "unsubscribing", cancel).await?;
            // What was on its way goes back by being dropped; what the consumer handed out keeps the channel open.
            while let Ok(Some(Ok(delivery))) = timeout(limit, incoming.next()).await {
                drop(self.adopt(delivery, link, &channel));
            }
        }
        Ok(())
    }

    fn adopt(&self, delivery: lapin::message::Delivery, link: &Arc<Link>, channel: &Channel) -> Delivery {
        let receipt = Receipt {
            acker: delivery.acker,
            limit: self.shared.config.operation_timeout,
            link: Arc::clone(link),
            _channel: channel.clone(),
        };
        let headers = header::from_properties(&delivery.properties);
        Delivery::new(
            self.stage,
            delivery.data,
            headers,
            delivery.redelivered,
            AnyReceipt::Amqp(receipt),
        )
    }
}

/// What a delivery is settled with, by the link and channel it came by.
pub(crate) struct Receipt {
    acker: Acker,
    limit: Duration,
    link: Arc<Link>,
    /// Keeps the channel open: it closes when its last handle is dropped.
    _channel: Channel,
}

impl Receipt {
    pub(crate) fn is_stale(&self) -> bool {
        !self.link.is_up() || !self.acker.usable()
    }

    pub(crate) async fn settle(self, verdict: Verdict) -> Settled {
        if self.is_stale() {
            return Settled::Stale;
        }
        let settling = async {
            match verdict {
                Verdict::Ack => self.acker.ack(BasicAckOptions::default()).await,
                Verdict::Requeue => {
                    self.acker
                        .nack(BasicNackOptions {
                            multiple: false,
                            requeue: true,
                        })
                        .await
                }
                Verdict::DeadLetter => self.acker.reject(BasicRejectOptions { requeue: false }).await,
            }
        };
        match within(self.limit, "settling a delivery", settling).await {
            Ok(true) => Settled::Done,
            Ok(false) => Settled::Stale,
            Err(error) => {
                tracing::debug!(generation = self.link.generation(), %error, "a delivery could not be settled");
                self.link.give_up();
                Settled::Stale
            }
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt")
            .field("generation", &self.link.generation())
            .finish_non_exhaustive()
    }
}
