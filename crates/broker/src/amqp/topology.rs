//! Exchanges and queues, by the names of `proto::topology`.
//!
//! All queues are quorum queues: durable, replicated where there is more than one node, with a limit of deliveries. Dead
//! letters travel with the usual at-most-once strategy: they explain, the state schema decides.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use proto::topology::{DEAD_LETTER_EXCHANGE, DEAD_LETTER_QUEUE, DELIVERY_LIMIT, EXCHANGE, Stage};

use super::link::reply_code;
use crate::{BrokerConfig, BrokerError};

/// AMQP reply codes that mean "it exists, and is not what you say".
const PRECONDITION_FAILED: u16 = 406;

pub(super) fn exchange(config: &BrokerConfig) -> String {
    format!("{}{EXCHANGE}", config.name_prefix)
}

pub(super) fn queue(config: &BrokerConfig, stage: Stage) -> String {
    format!("{}{}", config.name_prefix, stage.queue())
}

pub(super) fn dead_letter_queue(config: &BrokerConfig) -> String {
    format!("{}{DEAD_LETTER_QUEUE}", config.name_prefix)
}

/// Declares everything on a channel of its own, which is of no use after an error.
pub(super) async fn declare(channel: &Channel, config: &BrokerConfig) -> Result<(), BrokerError> {
    let exchange = exchange(config);
    let dead_letter_exchange = format!("{}{DEAD_LETTER_EXCHANGE}", config.name_prefix);
    let dead_letter_queue = dead_letter_queue(config);

    declare_exchange(channel, &exchange, ExchangeKind::Direct).await?;
    declare_exchange(channel, &dead_letter_exchange, ExchangeKind::Fanout).await?;
    declare_queue(channel, &dead_letter_queue, quorum()).await?;
    bind(channel, &dead_letter_queue, &dead_letter_exchange).await?;
    for stage in Stage::ALL {
        let queue = queue(config, stage);
        let mut arguments = quorum();
        arguments.insert(
            "x-delivery-limit".into(),
            AMQPValue::LongLongInt(i64::from(DELIVERY_LIMIT)),
        );
        arguments.insert(
            "x-dead-letter-exchange".into(),
            AMQPValue::LongString(dead_letter_exchange.as_str().into()),
        );
        declare_queue(channel, &queue, arguments).await?;
        bind(channel, &queue, &exchange).await?;
    }
    Ok(())
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments
}

async fn declare_exchange(channel: &Channel, name: &str, kind: ExchangeKind) -> Result<(), BrokerError> {
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    channel
        .exchange_declare(name.into(), kind, options, FieldTable::default())
        .await
        .map_err(|error| refused("exchange", name, error))
}

async fn declare_queue(channel: &Channel, name: &str, arguments: FieldTable) -> Result<(), BrokerError> {
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(name.into(), options, arguments)
        .await
        .map(|_| ())
        .map_err(|error| refused("queue", name, error))
}

async fn bind(channel: &Channel, queue: &str, exchange: &str) -> Result<(), BrokerError> {
    channel
        .queue_bind(
            queue.into(),
            exchange.into(),
            queue.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .map_err(|error| refused("binding of queue", queue, error))
}

fn refused(kind: &str, name: &str, error: lapin::Error) -> BrokerError {
    if reply_code(&error) == Some(PRECONDITION_FAILED) {
        BrokerError::Topology {
            object: format!("{kind} {name}"),
            source: Box::new(error),
        }
    } else {
        super::disconnected("declaring queues", error)
    }
}
