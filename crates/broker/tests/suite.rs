//! What every broker must do, run on each of them.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod harness;

use std::collections::{BTreeMap, BTreeSet};

use broker::{Broker, BrokerError, ErrorKind, OutgoingMessage};
use futures::FutureExt;
use futures::future::try_join_all;
use harness::{depth_becomes, next, nothing_is_left, payload, text, until};
use proto::topology::Stage;
use tokio::time::timeout;

macro_rules! suite {
    ($($rule:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $rule() {
                super::$rule(&*broker::memory()).await;
            })+
        }
        mod rabbitmq {
            $(#[tokio::test] async fn $rule() {
                let rabbit = super::harness::Rabbit::new();
                let broker = rabbit.connect().await;
                super::$rule(&*broker).await;
                broker.close().await;
                rabbit.clean().await;
            })+
        }
    };
}

suite![
    a_message_arrives_as_it_was_sent,
    stages_do_not_mix,
    an_acknowledged_message_is_gone,
    a_requeued_message_comes_again,
    a_dropped_delivery_comes_again,
    a_dead_letter_leaves_the_queue,
    dead_letters_are_taken_once,
    depth_counts_what_waits,
    prefetch_limits_what_is_outstanding,
    two_consumers_share_the_work,
    a_dropped_consumer_gives_back_what_it_had_not_handed_out,
    waiting_can_be_cancelled,
    many_publishers_at_once,
    topology_can_be_declared_again,
    overlong_header_names_are_refused,
    closing_ends_everything,
];

async fn a_message_arrives_as_it_was_sent(broker: &dyn Broker) {
    let headers = BTreeMap::from([
        (
            "traceparent".to_owned(),
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
        ),
        ("tracestate".to_owned(), "vendor=1,other=ünï".to_owned()),
        ("empty".to_owned(), String::new()),
    ]);
    let mut consumer = broker.consume(Stage::Form, 1).await.unwrap();
    for payload in [vec![], (0..=255).collect::<Vec<u8>>(), vec![7; 60_000]] {
        let message = OutgoingMessage {
            payload,
            headers: headers.clone(),
        };
        broker.publish(Stage::Form, message.clone()).await.unwrap();
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.payload, message.payload);
        assert_eq!(delivery.headers, message.headers);
        assert!(!delivery.redelivered);
        delivery.ack().await;
    }
}

async fn stages_do_not_mix(broker: &dyn Broker) {
    for stage in Stage::ALL {
        broker.publish(stage, text(stage.as_str())).await.unwrap();
    }
    for stage in Stage::ALL {
        let mut consumer = broker.consume(stage, 10).await.unwrap();
        let delivery = next(&mut consumer).await;
        assert_eq!(payload(&delivery), stage.as_str());
        delivery.ack().await;
        nothing_is_left(broker, stage, &mut consumer).await;
    }
}

async fn an_acknowledged_message_is_gone(broker: &dyn Broker) {
    broker.publish(Stage::Case, text("once")).await.unwrap();
    let mut consumer = broker.consume(Stage::Case, 1).await.unwrap();
    next(&mut consumer).await.ack().await;
    drop(consumer);
    let mut consumer = broker.consume(Stage::Case, 1).await.unwrap();
    nothing_is_left(broker, Stage::Case, &mut consumer).await;
}

async fn a_requeued_message_comes_again(broker: &dyn Broker) {
    let message = OutgoingMessage {
        payload: b"again".to_vec(),
        headers: BTreeMap::from([("traceparent".to_owned(), "00-x".to_owned())]),
    };
    broker.publish(Stage::Form, message).await.unwrap();
    let mut consumer = broker.consume(Stage::Form, 1).await.unwrap();
    for round in 0..3 {
        let delivery = next(&mut consumer).await;
        assert_eq!(payload(&delivery), "again");
        assert_eq!(delivery.headers["traceparent"], "00-x");
        assert_eq!(delivery.redelivered, round > 0, "round {round}");
        delivery.requeue().await;
    }
    next(&mut consumer).await.ack().await;
    nothing_is_left(broker, Stage::Form, &mut consumer).await;
}

async fn a_dropped_delivery_comes_again(broker: &dyn Broker) {
    broker.publish(Stage::Form, text("dropped")).await.unwrap();
    let mut consumer = broker.consume(Stage::Form, 1).await.unwrap();
    drop(next(&mut consumer).await);
    let delivery = next(&mut consumer).await;
    assert_eq!(payload(&delivery), "dropped");
    assert!(delivery.redelivered);
    delivery.ack().await;
}

async fn a_dead_letter_leaves_the_queue(broker: &dyn Broker) {
    let message = OutgoingMessage {
        payload: b"poison".to_vec(),
        headers: BTreeMap::from([("traceparent".to_owned(), "00-y".to_owned())]),
    };
    assert_eq!(broker.take_dead_letters(10).await.unwrap(), []);
    broker.publish(Stage::Diff, message).await.unwrap();
    let mut consumer = broker.consume(Stage::Diff, 1).await.unwrap();
    next(&mut consumer).await.dead_letter().await;
    nothing_is_left(broker, Stage::Diff, &mut consumer).await;

    let mut letters = Vec::new();
    until("the dead letter arrives", async || {
        letters.extend(broker.take_dead_letters(10).await.unwrap());
        !letters.is_empty()
    })
    .await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].payload, b"poison");
    assert_eq!(letters[0].headers["traceparent"], "00-y");
}

async fn dead_letters_are_taken_once(broker: &dyn Broker) {
    let mut consumer = broker.consume(Stage::Form, 1).await.unwrap();
    for number in 0..5 {
        broker.publish(Stage::Form, text(&number.to_string())).await.unwrap();
        next(&mut consumer).await.dead_letter().await;
    }
    let mut taken = Vec::new();
    until("all dead letters were taken", async || {
        let letters = broker.take_dead_letters(2).await.unwrap();
        assert!(letters.len() <= 2);
        taken.extend(
            letters
                .into_iter()
                .map(|letter| String::from_utf8(letter.payload).unwrap()),
        );
        taken.len() >= 5
    })
    .await;
    taken.sort();
    assert_eq!(taken, ["0", "1", "2", "3", "4"]);
    assert_eq!(broker.take_dead_letters(10).await.unwrap(), []);
}

async fn depth_counts_what_waits(broker: &dyn Broker) {
    assert_eq!(broker.queue_depth(Stage::Form).await.unwrap(), 0);
    for number in 0..3 {
        broker.publish(Stage::Form, text(&number.to_string())).await.unwrap();
    }
    depth_becomes(broker, Stage::Form, 3).await;
    assert_eq!(broker.queue_depth(Stage::Case).await.unwrap(), 0);

    let mut consumer = broker.consume(Stage::Form, 1).await.unwrap();
    let delivery = next(&mut consumer).await;
    depth_becomes(broker, Stage::Form, 2).await;
    drop(consumer);
    delivery.requeue().await;
    depth_becomes(broker, Stage::Form, 3).await;
}

async fn prefetch_limits_what_is_outstanding(broker: &dyn Broker) {
    for number in 0..5 {
        broker.publish(Stage::Form, text(&number.to_string())).await.unwrap();
    }
    let mut consumer = broker.consume(Stage::Form, 2).await.unwrap();
    let first = next(&mut consumer).await;
    let _second = next(&mut consumer).await;
    depth_becomes(broker, Stage::Form, 3).await;
    assert!(
        consumer.next().now_or_never().is_none(),
        "a third delivery although two are outstanding"
    );

    first.ack().await;
    let third = next(&mut consumer).await;
    depth_becomes(broker, Stage::Form, 2).await;
    assert!(consumer.next().now_or_never().is_none());
    third.requeue().await;
    next(&mut consumer).await.ack().await;
}

async fn two_consumers_share_the_work(broker: &dyn Broker) {
    let mut one = broker.consume(Stage::Form, 1).await.unwrap();
    let mut other = broker.consume(Stage::Form, 1).await.unwrap();
    for number in 0..2 {
        broker.publish(Stage::Form, text(&number.to_string())).await.unwrap();
    }
    // Each may hold one only, so each must get one.
    let (first, second) = tokio::join!(next(&mut one), next(&mut other));
    assert_ne!(first.payload, second.payload);
    first.ack().await;
    second.ack().await;

    let expected: BTreeSet<String> = (100..200).map(|number| number.to_string()).collect();
    for number in &expected {
        broker.publish(Stage::Form, text(number)).await.unwrap();
    }
    let mut seen = BTreeSet::new();
    for _ in 0..expected.len() {
        let delivery = tokio::select! {
            delivery = next(&mut one) => delivery,
            delivery = next(&mut other) => delivery,
        };
        assert!(
            seen.insert(payload(&delivery).to_owned()),
            "{} came twice",
            payload(&delivery)
        );
        delivery.ack().await;
    }
    assert_eq!(seen, expected);
}

async fn a_dropped_consumer_gives_back_what_it_had_not_handed_out(broker: &dyn Broker) {
    for number in 0..5 {
        broker.publish(Stage::Case, text(&number.to_string())).await.unwrap();
    }
    let mut stopping = broker.consume(Stage::Case, 10).await.unwrap();
    let kept = next(&mut stopping).await;
    drop(stopping);

    let mut taking_over = broker.consume(Stage::Case, 10).await.unwrap();
    let mut seen = BTreeSet::from([payload(&kept).to_owned()]);
    for _ in 0..4 {
        let delivery = next(&mut taking_over).await;
        assert!(
            seen.insert(payload(&delivery).to_owned()),
            "{} came twice",
            payload(&delivery)
        );
        delivery.ack().await;
    }
    // The work in hand is finished after the consumer has gone, and is not done a second time.
    kept.ack().await;
    nothing_is_left(broker, Stage::Case, &mut taking_over).await;
    assert_eq!(seen, (0..5).map(|number| number.to_string()).collect());
}

async fn waiting_can_be_cancelled(broker: &dyn Broker) {
    let mut consumer = broker.consume(Stage::Form, 1).await.unwrap();
    for number in 0..50 {
        // Given up at its first wait, which must not take the message with it that comes afterwards.
        assert!(consumer.next().now_or_never().is_none(), "nothing was published yet");
        let message = number.to_string();
        broker.publish(Stage::Form, text(&message)).await.unwrap();
        let delivery = next(&mut consumer).await;
        assert_eq!(payload(&delivery), message);
        delivery.ack().await;
    }
}

async fn many_publishers_at_once(broker: &dyn Broker) {
    let expected: BTreeSet<String> = (0..1_000).map(|number| number.to_string()).collect();
    try_join_all(expected.iter().map(|number| broker.publish(Stage::Diff, text(number))))
        .await
        .unwrap();
    let mut consumer = broker.consume(Stage::Diff, 100).await.unwrap();
    let mut seen = BTreeSet::new();
    for _ in 0..expected.len() {
        let delivery = next(&mut consumer).await;
        assert!(
            seen.insert(payload(&delivery).to_owned()),
            "{} came twice",
            payload(&delivery)
        );
        delivery.ack().await;
    }
    assert_eq!(seen, expected);
}

async fn topology_can_be_declared_again(broker: &dyn Broker) {
    broker.publish(Stage::Form, text("kept")).await.unwrap();
    broker.declare_topology().await.unwrap();
    let mut consumer = broker.consume(Stage::Form, 1).await.unwrap();
    let delivery = next(&mut consumer).await;
    assert_eq!(payload(&delivery), "kept");
    delivery.ack().await;
}

async fn overlong_header_names_are_refused(broker: &dyn Broker) {
    let mut message = text("x");
    message.headers.insert("n".repeat(256), "v".to_owned());
    let error = broker.publish(Stage::Form, message).await.unwrap_err();
    assert!(matches!(error, BrokerError::HeaderName(256)));
    assert_eq!(error.kind(), ErrorKind::Stop);
    assert!(broker.is_connected());
}

async fn closing_ends_everything(broker: &dyn Broker) {
    let mut waiting = broker.consume(Stage::Form, 1).await.unwrap();
    assert!(broker.is_connected());
    let (ended, ()) = tokio::join!(timeout(harness::PATIENCE, waiting.next()), broker.close());
    assert!(ended.expect("the consumer must end").is_none());
    assert!(!broker.is_connected());
    for error in [
        broker.publish(Stage::Form, text("too late")).await.unwrap_err(),
        broker.consume(Stage::Form, 1).await.unwrap_err(),
    ] {
        assert_eq!((error.code(), error.kind()), ("C2S-1310", ErrorKind::Stop));
    }
}
