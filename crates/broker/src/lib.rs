//! The message broker: batches go in, workers take them out.
//!
//! [`Broker`] is the small trait the rest of the system knows. It has two implementations that pass one test suite:
//! RabbitMQ, spoken to over AMQP 0-9-1, and queues in this process, for a migration that runs in one process.
//! [`connect`] chooses by the address.
//!
//! A message is a hint that a batch row is ready; the state schema is the truth. So a publish may happen twice and a
//! delivery may come twice, and nothing is lost for good if the broker loses everything. What callers may rely on:
//!
//! * [`Broker::publish`] returns when the broker has taken responsibility for the message, or tells why it has not;
//! * a [`Consumer`] outlives connections: a supervisor rebuilds connection, topology and subscriptions after any failure,
//!   and the consumer goes on without its owner noticing;
//! * a [`Delivery`] belongs to the connection it came by. After a reconnect the broker delivers it again, so settling the
//!   old one has no effect, and is counted;
//! * every operation ends within a bounded time.
//!
//! Modules: [`config`] the address and the limits; [`error`] what can go wrong and what to do about it;
//! [`metric_names`] the metrics; `amqp` RabbitMQ (`link` one connection, `supervisor` its rebuilding, `topology` queues
//! and exchanges, `consume` subscriptions); `memory` the queues in this process.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use proto::topology::Stage;

mod amqp;
pub mod config;
mod delivery;
pub mod error;
mod memory;
pub mod metric_names;

pub use config::BrokerConfig;
pub use delivery::{Consumer, Delivery};
pub use error::{BrokerError, ErrorKind};

/// A message on its way to the broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutgoingMessage {
    /// The body; see `proto::message`.
    pub payload: Vec<u8>,
    /// Headers, W3C trace context among them. Names are at most 255 bytes long.
    pub headers: BTreeMap<String, String>,
}

/// A message that nobody is going to process: rejected by a worker, or delivered too often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The body as it was published.
    pub payload: Vec<u8>,
    /// Its text and number headers, the broker's own among them.
    pub headers: BTreeMap<String, String>,
}

/// A message broker with one queue per [`Stage`], and one queue of dead letters.
#[async_trait]
pub trait Broker: Send + Sync {
    /// Hands a message over, and returns once the broker has confirmed that it is safely in the stage's queue.
    ///
    /// # Errors
    /// [`BrokerError::Unroutable`] when there is no such queue; [`BrokerError::TimedOut`] and
    /// [`BrokerError::Disconnected`] when the outcome is not known, in which case the message may be there all the same.
    async fn publish(&self, stage: Stage, message: OutgoingMessage) -> Result<(), BrokerError>;

    /// Subscribes to the stage's queue. At most `prefetch` deliveries (at least one) are outstanding at a time.
    ///
    /// The consumer survives the loss of the connection. It ends when the broker is closed.
    ///
    /// # Errors
    /// [`BrokerError::Closed`] after [`Broker::close`].
    async fn consume(&self, stage: Stage, prefetch: u16) -> Result<Consumer, BrokerError>;

    /// How many messages wait in the stage's queue; those delivered and not yet settled are not counted.
    ///
    /// # Errors
    /// Any of the connection's.
    async fn queue_depth(&self, stage: Stage) -> Result<u64, BrokerError>;

    /// Takes up to `max` dead letters away from their queue.
    ///
    /// # Errors
    /// Any of the connection's.
    async fn take_dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, BrokerError>;

    /// Creates exchanges and queues where they are missing. Connecting does the same.
    ///
    /// # Errors
    /// [`BrokerError::Topology`] when something of that name exists and is made differently.
    async fn declare_topology(&self) -> Result<(), BrokerError>;

    /// Whether there is a working connection at this moment.
    fn is_connected(&self) -> bool;

    /// Closes the connection. Consumers end, unsettled deliveries go back to their queues.
    async fn close(&self);
}

/// Connects to the broker of the configuration and creates what is missing there.
///
/// # Errors
/// Says why there is no connection; once connected, later losses are mended in the background.
pub async fn connect(config: &BrokerConfig) -> Result<Arc<dyn Broker>, BrokerError> {
    match config.endpoint() {
        config::Endpoint::Memory => Ok(memory()),
        config::Endpoint::Amqp(_) => Ok(Arc::new(amqp::AmqpBroker::connect(config).await?)),
    }
}

/// A broker inside this process. Every call makes a new one, with empty queues.
pub fn memory() -> Arc<dyn Broker> {
    Arc::new(memory::MemoryBroker::new())
}
