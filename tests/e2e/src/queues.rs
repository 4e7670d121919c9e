//! RabbitMQ itself, past everything under test.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use lapin::options::{BasicGetOptions, BasicPublishOptions, QueueDeclareOptions, QueuePurgeOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use proto::message::BatchMessage;
use proto::topology::{DEAD_LETTER_EXCHANGE, DEAD_LETTER_QUEUE, EXCHANGE, Stage};
use url::Url;

/// A connection to RabbitMQ.
pub struct Queues {
    connection: Connection,
    channel: Channel,
}

/// A message that was taken from a queue.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Its bytes.
    pub payload: Vec<u8>,
    /// Its headers that hold text.
    pub headers: BTreeMap<String, String>,
}

impl Queues {
    /// Connects.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn connect(url: &Url) -> Result<Self> {
        // To the AMQP parser a lone slash is a virtual host without a name.
        let address = if url.path() == "/" {
            url.as_str().trim_end_matches('/')
        } else {
            url.as_str()
        };
        let connection = Connection::connect(address, ConnectionProperties::default())
            .await
            .context("RabbitMQ cannot be reached")?;
        let channel = connection.create_channel().await.context("open a channel")?;
        Ok(Self { connection, channel })
    }

    /// Empties all queues that exist.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn purge(&self) -> Result<()> {
        for queue in Stage::ALL.map(Stage::queue).into_iter().chain([DEAD_LETTER_QUEUE]) {
            // A queue that does not exist closes its channel and is empty enough.
            let channel = self.connection.create_channel().await.context("open a channel")?;
            channel
                .queue_purge(queue.into(), QueuePurgeOptions::default())
                .await
                .ok();
        }
        Ok(())
    }

    /// Puts bytes into the queue of a stage.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn publish(&self, stage: Stage, payload: &[u8]) -> Result<()> {
        self.send(EXCHANGE, stage.queue(), payload).await
    }

    /// Puts a batch message into the queue of its stage.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn publish_batch(&self, message: &BatchMessage) -> Result<()> {
        self.publish(message.body.stage(), &message.encode()).await
    }

    /// Makes a dead letter, as the broker does.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn bury(&self, payload: &[u8]) -> Result<()> {
        self.send(DEAD_LETTER_EXCHANGE, DEAD_LETTER_QUEUE, payload).await
    }

    async fn send(&self, exchange: &str, key: &str, payload: &[u8]) -> Result<()> {
        self.channel
            .basic_publish(
                exchange.into(),
                key.into(),
                BasicPublishOptions::default(),
                payload,
                BasicProperties::default(),
            )
            .await
            .context("publish")?
            .await
            .context("publish")?;
        Ok(())
    }

    /// Messages that wait in a queue; none if there is no such queue.
    pub async fn depth(&self, queue: &str) -> Option<u32> {
        let channel = self.connection.create_channel().await.ok()?;
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let queue = channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await
            .ok()?;
        Some(queue.message_count())
    }

    /// Takes a message out of a queue, if one waits.
    ///
    /// # Errors
    /// The connection broke, or there is no such queue.
    pub async fn take(&self, queue: &str) -> Result<Option<Taken>> {
        let channel = self.connection.create_channel().await.context("open a channel")?;
        let options = BasicGetOptions { no_ack: true };
        let Some(message) = channel
            .basic_get(queue.into(), options)
            .await
            .context("take a message")?
        else {
            return Ok(None);
        };
        let mut headers = BTreeMap::new();
        if let Some(table) = message.properties.headers() {
            for (name, value) in table {
                if let AMQPValue::LongString(text) = value {
                    headers.insert(name.to_string(), String::from_utf8_lossy(text.as_bytes()).into_owned());
                }
            }
        }
        Ok(Some(Taken {
            payload: message.data.clone(),
            headers,
        }))
    }
}
