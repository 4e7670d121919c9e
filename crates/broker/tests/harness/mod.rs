//! A RabbitMQ of its own for every test: the server of `C2S_TEST_AMQP_URL`, under queue names that no other test uses.
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;
use std::time::Duration;

use broker::{Broker, BrokerConfig, Consumer, Delivery, OutgoingMessage};
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::{Connection, ConnectionProperties};
use proto::topology::{DEAD_LETTER_EXCHANGE, DEAD_LETTER_QUEUE, EXCHANGE, Stage};
use tokio::time::{interval, timeout};
use url::Url;

/// Longest wait for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The server to test with.
pub fn amqp_url() -> String {
    std::env::var("C2S_TEST_AMQP_URL").expect(
        "C2S_TEST_AMQP_URL must name a RabbitMQ server for tests, such as amqp://guest:guest@127.0.0.1:5672/; \
         `cargo xtask test` starts one and sets it",
    )
}

/// Queue names for one test, removed by [`Rabbit::clean`].
pub struct Rabbit {
    pub config: BrokerConfig,
}

impl Rabbit {
    pub fn new() -> Self {
        Self::at(&amqp_url())
    }

    /// The same server by another address, a proxy's for example.
    pub fn at(url: &str) -> Self {
        let mut config = BrokerConfig::new(url).unwrap();
        config.name_prefix = format!("test-{}.", uuid::Uuid::new_v4().simple());
        config.reconnect_min = Duration::from_millis(50);
        config.reconnect_max = Duration::from_millis(200);
        Self { config }
    }

    pub async fn connect(&self) -> Arc<dyn Broker> {
        broker::connect(&self.config).await.unwrap()
    }

    pub fn queue(&self, stage: Stage) -> String {
        format!("{}{}", self.config.name_prefix, stage.queue())
    }

    /// A connection past everything under test.
    pub async fn raw() -> Connection {
        // To the AMQP parser a lone slash is a virtual host without a name.
        let url = amqp_url();
        let url = match Url::parse(&url).unwrap().path() {
            "/" => url.trim_end_matches('/'),
            _ => &url,
        };
        Connection::connect(url, ConnectionProperties::default()).await.unwrap()
    }

    pub async fn delete_queue(&self, stage: Stage) {
        let connection = Self::raw().await;
        let channel = connection.create_channel().await.unwrap();
        channel
            .queue_delete(self.queue(stage).into(), QueueDeleteOptions::default())
            .await
            .unwrap();
    }

    pub async fn clean(self) {
        let connection = Self::raw().await;
        let channel = connection.create_channel().await.unwrap();
        let prefix = &self.config.name_prefix;
        for queue in Stage::ALL.map(Stage::queue).into_iter().chain([DEAD_LETTER_QUEUE]) {
            channel
                .queue_delete(format!("{prefix}{queue}").into(), QueueDeleteOptions::default())
                .await
                .unwrap();
        }
        for exchange in [EXCHANGE, DEAD_LETTER_EXCHANGE] {
            let options = ExchangeDeleteOptions::default();
            channel
                .exchange_delete(format!("{prefix}{exchange}").into(), options)
                .await
                .unwrap();
        }
    }
}

pub fn text(payload: &str) -> OutgoingMessage {
    OutgoingMessage {
        payload: payload.as_bytes().to_vec(),
        ..OutgoingMessage::default()
    }
}

pub async fn next(consumer: &mut Consumer) -> Delivery {
    timeout(PATIENCE, consumer.next())
        .await
        .expect("no delivery in time")
        .expect("the consumer has ended")
}

pub fn payload(delivery: &Delivery) -> &str {
    std::str::from_utf8(&delivery.payload).unwrap()
}

/// Asks again and again until the answer is yes.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let asking = async {
        let mut ticks = interval(Duration::from_millis(20));
        while !holds().await {
            ticks.tick().await;
        }
    };
    timeout(PATIENCE, asking)
        .await
        .unwrap_or_else(|_| panic!("never came true: {what}"));
}

/// Waits until exactly so many messages are ready.
pub async fn depth_becomes(broker: &dyn Broker, stage: Stage, expected: u64) {
    let what = format!("{expected} ready messages in the queue of stage {stage:?}");
    until(&what, async || {
        broker.queue_depth(stage).await.is_ok_and(|depth| depth == expected)
    })
    .await;
}

/// Publishes a message and checks that it is the next to come: so nothing else was left in the queue.
pub async fn nothing_is_left(broker: &dyn Broker, stage: Stage, consumer: &mut Consumer) {
    broker.publish(stage, text("the last one")).await.unwrap();
    let delivery = next(consumer).await;
    assert_eq!(payload(&delivery), "the last one");
    delivery.ack().await;
}
