//! RabbitMQ over AMQP 0-9-1.
//!
//! `lapin` speaks the protocol; its automatic recovery stays off, because it can wait for ever. Instead one supervisor
//! task ([`supervisor`]) owns the life of the connection: a [`link::Link`] is one connection with its topology declared
//! and its publishing channel open; whoever sees an error on it gives the link up, and the supervisor opens the next.
//! Publishers and subscriptions wait for the link of the moment; receipts keep the link they came by, and are stale when
//! it has been given up.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Confirmation};
use metrics::{counter, histogram};
use proto::topology::Stage;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::config::{BrokerConfig, Endpoint};
use crate::delivery::{Consumer, Source};
use crate::{Broker, BrokerError, DeadLetter, OutgoingMessage, metric_names};

mod consume;
mod header;
mod link;
mod supervisor;
mod topology;

pub(crate) use consume::{Receipt, Subscription};
use link::{Link, disconnected, within};
use supervisor::Shared;

/// Message bodies are MessagePack; the type is for people who look into a queue.
const CONTENT_TYPE: &str = "application/msgpack";
/// AMQP's code for a message that the broker writes to disk.
const PERSISTENT: u8 = 2;
/// How long closing waits for the supervisor before it leaves the rest to the operating system.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The RabbitMQ broker.
pub(crate) struct AmqpBroker {
    shared: Arc<Shared>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

impl AmqpBroker {
    pub(crate) async fn connect(config: &BrokerConfig) -> Result<Self, BrokerError> {
        let Endpoint::Amqp(endpoint) = config.endpoint() else {
            return Err(BrokerError::Address {
                reason: "it is not an AMQP address",
            });
        };
        let shared = Arc::new(Shared::new(config.clone(), endpoint.clone()));
        let first = Arc::new(Box::pin(Link::open(&shared.config, &shared.endpoint, 1)).await?);
        shared.set_link(Some(Arc::clone(&first)));
        let supervisor = tokio::spawn(supervisor::supervise(Arc::clone(&shared), first));
        Ok(Self {
            shared,
            supervisor: Mutex::new(Some(supervisor)),
        })
    }

    async fn send(&self, link: &Link, queue: &str, message: &OutgoingMessage) -> Result<(), BrokerError> {
        const OPERATION: &str = "publish";
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type(CONTENT_TYPE.into())
            .with_headers(header::to_table(&message.headers)?);
        let publishing = async {
            let confirm = link
                .publisher()
                .basic_publish(
                    topology::exchange(&self.shared.config).into(),
                    queue.into(),
                    BasicPublishOptions {
                        mandatory: true,
                        immediate: false,
                    },
                    &message.payload,
                    properties,
                )
                .await?;
            confirm.await
        };
        let confirmation = tokio::select! {
            () = link.given_up() => return Err(BrokerError::Disconnected { operation: OPERATION, source: None }),
            result = publishing => result.map_err(|error| {
                link.give_up();
                disconnected(OPERATION, error)
            })?,
        };
        match confirmation {
            // The broker confirms a message that it could not route, and says so only by returning it first.
            Confirmation::Ack(Some(_)) => {
                link.give_up();
                Err(BrokerError::Unroutable {
                    queue: queue.to_owned(),
                })
            }
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Nack(_) | Confirmation::NotRequested => Err(BrokerError::NotAccepted {
                queue: queue.to_owned(),
            }),
        }
    }

    async fn publish_within_limit(&self, stage: Stage, message: &OutgoingMessage) -> Result<(), BrokerError> {
        const OPERATION: &str = "publish";
        let queue = topology::queue(&self.shared.config, stage);
        let publishing = async {
            let _slot = self
                .shared
                .unconfirmed
                .acquire()
                .await
                .map_err(|_| BrokerError::Closed)?;
            let link = self.shared.link(OPERATION).await?;
            self.send(&link, &queue, message).await
        };
        timeout(self.shared.config.publish_timeout, Box::pin(publishing))
            .await
            .unwrap_or(Err(BrokerError::TimedOut { operation: OPERATION }))
    }

    /// The link of this moment; waits for one as long as any request may take.
    async fn link_for_request(&self, operation: &'static str) -> Result<Arc<Link>, BrokerError> {
        timeout(self.shared.config.operation_timeout, self.shared.link(operation))
            .await
            .unwrap_or(Err(BrokerError::Disconnected {
                operation,
                source: None,
            }))
    }
}

#[async_trait]
impl Broker for AmqpBroker {
    async fn publish(&self, stage: Stage, message: OutgoingMessage) -> Result<(), BrokerError> {
        let started = Instant::now();
        let result = self.publish_within_limit(stage, &message).await;
        let outcome = match &result {
            Ok(()) => "confirmed",
            Err(BrokerError::Unroutable { .. }) => "unroutable",
            Err(BrokerError::NotAccepted { .. } | BrokerError::HeaderName(_) | BrokerError::Closed) => "refused",
            Err(_) => "unknown",
        };
        counter!(metric_names::PUBLISHED, "stage" => stage.as_str(), "outcome" => outcome).increment(1);
        if result.is_ok() {
            histogram!(metric_names::PUBLISH_SECONDS, "stage" => stage.as_str()).record(started.elapsed());
        }
        result
    }

    async fn consume(&self, stage: Stage, prefetch: u16) -> Result<Consumer, BrokerError> {
        if self.shared.closed.is_cancelled() {
            return Err(BrokerError::Closed);
        }
        let subscription = Subscription::start(Arc::clone(&self.shared), stage, prefetch.max(1));
        Ok(Consumer::new(stage, Source::Amqp(subscription)))
    }

    async fn queue_depth(&self, stage: Stage) -> Result<u64, BrokerError> {
        const OPERATION: &str = "counting messages";
        let limit = self.shared.config.operation_timeout;
        let link = self.link_for_request(OPERATION).await?;
        let channel = link.channel(limit, OPERATION).await?;
        let name = topology::queue(&self.shared.config, stage);
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let declared = channel.queue_declare(name.as_str().into(), options, FieldTable::default());
        match within(limit, OPERATION, declared).await {
            Ok(queue) => Ok(u64::from(queue.message_count())),
            Err(error) => {
                // Most likely the queue is missing: the next link declares it again.
                link.give_up();
                Err(error)
            }
        }
    }

    async fn take_dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, BrokerError> {
        const OPERATION: &str = "reading dead letters";
        let limit = self.shared.config.operation_timeout;
        let link = self.link_for_request(OPERATION).await?;
        let channel = link.channel(limit, OPERATION).await?;
        let queue = topology::dead_letter_queue(&self.shared.config);
        let mut letters = Vec::new();
        let mut last = None;
        while letters.len() < max {
            let get = channel.basic_get(queue.as_str().into(), BasicGetOptions { no_ack: false });
            let Some(message) = within(limit, OPERATION, get).await? else {
                break;
            };
            let delivery = message.delivery;
            letters.push(DeadLetter {
                headers: header::from_properties(&delivery.properties),
                payload: delivery.data,
            });
            last = Some(delivery.acker);
        }
        if let Some(acker) = last {
            within(limit, OPERATION, acker.ack(BasicAckOptions { multiple: true })).await?;
        }
        within(limit, OPERATION, channel.close(link::CLOSE_CODE, "done".into())).await?;
        Ok(letters)
    }

    async fn declare_topology(&self) -> Result<(), BrokerError> {
        let link = self.link_for_request("declaring queues").await?;
        Box::pin(link.declare_topology(&self.shared.config)).await
    }

    fn is_connected(&self) -> bool {
        self.shared.current_link().is_some_and(|link| link.is_up())
    }

    async fn close(&self) {
        self.shared.closed.cancel();
        let supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(supervisor) = supervisor
            && timeout(CLOSE_TIMEOUT, supervisor).await.is_err()
        {
            tracing::warn!("the connection to the message broker did not close in time");
        }
    }
}

impl Drop for AmqpBroker {
    fn drop(&mut self) {
        self.shared.closed.cancel();
    }
}
