//! What holds for RabbitMQ only: lost connections, missing queues, refusals. No text may show the password.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod harness;
#[path = "harness/proxy.rs"]
mod proxy;

use std::collections::BTreeSet;
use std::error::Error;
use std::time::Duration;

use broker::{Broker, BrokerConfig, BrokerError, ErrorKind, metric_names};
use harness::{Rabbit, amqp_url, depth_becomes, next, nothing_is_left, payload, text, until};
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use metrics_exporter_prometheus::PrometheusBuilder;
use proto::topology::Stage;
use proxy::{Line, Proxy};
use secrecy::SecretString;
use tokio::net::TcpListener;
use url::Url;

/// The server behind a proxy, with the limits that a test has patience for.
async fn behind_a_proxy() -> (Proxy, Rabbit) {
    let mut url = Url::parse(&amqp_url()).unwrap();
    let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5672));
    let proxy = Proxy::to(server).await;
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(proxy.address.port())).unwrap();
    let mut rabbit = Rabbit::at(url.as_str());
    rabbit.config.heartbeat = Duration::from_secs(1);
    rabbit.config.connect_timeout = Duration::from_secs(3);
    rabbit.config.operation_timeout = Duration::from_secs(3);
    rabbit.config.publish_timeout = Duration::from_secs(10);
    (proxy, rabbit)
}

/// Publishes as the dispatcher does: again, for as long as the error says that it may help.
async fn publish_surely(broker: &dyn Broker, stage: Stage, payload: &str) {
    until("a publish succeeds", async || {
        match broker.publish(stage, text(payload)).await {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
                false
            }
        }
    })
    .await;
}

fn whole_text(error: &BrokerError) -> String {
    let mut text = format!("{error:?}");
    let mut source: Option<&dyn Error> = Some(error);
    while let Some(error) = source {
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[tokio::test]
async fn a_cut_connection_is_rebuilt_and_unsettled_messages_come_again() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let (proxy, rabbit) = behind_a_proxy().await;
    let broker = rabbit.connect().await;
    let mut consumer = broker.consume(Stage::Form, 2).await.unwrap();
    for number in 0..4 {
        broker.publish(Stage::Form, text(&number.to_string())).await.unwrap();
    }
    let settled = next(&mut consumer).await;
    let first = payload(&settled).to_owned();
    settled.ack().await;
    let held = next(&mut consumer).await;
    let held_payload = payload(&held).to_owned();
    // The acknowledgement has no answer; that the server handed out one more shows that it has arrived.
    depth_becomes(&*broker, Stage::Form, 1).await;

    proxy.set(Line::Cut);
    until("the loss is noticed", async || !broker.is_connected()).await;
    assert!(held.is_stale());
    proxy.set(Line::Open);
    until("there is a connection again", async || broker.is_connected()).await;

    // Settling what came by the old connection has no effect, and does no harm to the new one.
    held.ack().await;
    publish_surely(&*broker, Stage::Form, "afterwards").await;
    let mut seen = BTreeSet::new();
    while !seen.contains("afterwards") || seen.len() < 4 {
        let delivery = next(&mut consumer).await;
        let payload = payload(&delivery).to_owned();
        assert_ne!(payload, first, "it was acknowledged before the cut");
        if payload == held_payload {
            assert!(delivery.redelivered);
        }
        seen.insert(payload);
        delivery.ack().await;
    }
    assert!(seen.contains(&held_payload), "the held message was lost: {seen:?}");
    nothing_is_left(&*broker, Stage::Form, &mut consumer).await;

    let text = metrics.render();
    let stale = format!("{}{{stage=\"form\",outcome=\"stale\"}}", metric_names::SETTLED);
    assert!(text.lines().any(|line| line.starts_with(&stale)), "{text}");
    assert!(text.contains(&format!("{} 1", metric_names::RECONNECTS)), "{text}");
    assert!(text.contains(&format!("{} 1", metric_names::CONNECTED)), "{text}");
    broker.close().await;
    rabbit.clean().await;
}

#[tokio::test]
async fn publishers_and_consumers_go_on_through_many_cuts() {
    let (proxy, rabbit) = behind_a_proxy().await;
    let broker = rabbit.connect().await;
    let expected: BTreeSet<String> = (0..300).map(|number| number.to_string()).collect();
    let publishing = async {
        for (position, number) in expected.iter().enumerate() {
            if position % 60 == 30 {
                proxy.set(Line::Cut);
                until("the loss is noticed", async || !broker.is_connected()).await;
                proxy.set(Line::Open);
            }
            publish_surely(&*broker, Stage::Case, number).await;
        }
    };
    let consuming = async {
        let mut consumer = broker.consume(Stage::Case, 8).await.unwrap();
        let mut seen = BTreeSet::new();
        while seen.len() < expected.len() {
            let delivery = next(&mut consumer).await;
            seen.insert(payload(&delivery).to_owned());
            delivery.ack().await;
        }
        seen
    };
    let ((), seen) = tokio::join!(publishing, consuming);
    assert_eq!(seen, expected);
    broker.close().await;
    rabbit.clean().await;
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up() {
    let (proxy, mut rabbit) = behind_a_proxy().await;
    rabbit.config.publish_timeout = Duration::from_millis(300);
    let broker = rabbit.connect().await;
    let mut consumer = broker.consume(Stage::Form, 1).await.unwrap();

    proxy.set(Line::Silent);
    let error = broker.publish(Stage::Form, text("into the silence")).await.unwrap_err();
    assert!(matches!(error, BrokerError::TimedOut { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Retry);
    until("missing heartbeats are noticed", async || !broker.is_connected()).await;

    proxy.set(Line::Cut);
    proxy.set(Line::Open);
    publish_surely(&*broker, Stage::Form, "heard").await;
    let mut seen = String::new();
    // The first publish may or may not have reached the server.
    while seen != "heard" {
        let delivery = next(&mut consumer).await;
        payload(&delivery).clone_into(&mut seen);
        delivery.ack().await;
    }
    broker.close().await;
    rabbit.clean().await;
}

#[tokio::test]
async fn work_waits_while_the_server_is_away() {
    let (proxy, rabbit) = behind_a_proxy().await;
    let broker = rabbit.connect().await;
    proxy.set(Line::Cut);
    until("the loss is noticed", async || !broker.is_connected()).await;

    let mut consumer = broker.consume(Stage::Diff, 1).await.unwrap();
    let (published, ()) = tokio::join!(broker.publish(Stage::Diff, text("patient")), async {
        assert!(
            broker.queue_depth(Stage::Diff).await.is_err(),
            "nothing can be asked while it is away"
        );
        proxy.set(Line::Open);
    });
    published.unwrap();
    let delivery = next(&mut consumer).await;
    assert_eq!(payload(&delivery), "patient");
    delivery.ack().await;

    proxy.set(Line::Cut);
    let (ended, ()) = tokio::join!(consumer.next(), broker.close());
    assert!(ended.is_none(), "closing works without a server");
    rabbit.clean().await;
}

#[tokio::test]
async fn a_deleted_queue_is_noticed_and_made_again() {
    let rabbit = Rabbit::new();
    let broker = rabbit.connect().await;
    rabbit.delete_queue(Stage::Form).await;
    let error = broker.publish(Stage::Form, text("nowhere to go")).await.unwrap_err();
    assert!(
        matches!(&error, BrokerError::Unroutable { queue } if *queue == rabbit.queue(Stage::Form)),
        "{error}"
    );
    assert_eq!((error.code(), error.kind()), ("C2S-1308", ErrorKind::Retry));
    publish_surely(&*broker, Stage::Form, "found").await;

    let mut consumer = broker.consume(Stage::Form, 1).await.unwrap();
    let delivery = next(&mut consumer).await;
    assert_eq!(payload(&delivery), "found");
    delivery.ack().await;

    // A consumer whose queue goes away gets the new one.
    rabbit.delete_queue(Stage::Form).await;
    publish_surely(&*broker, Stage::Form, "found again").await;
    let delivery = next(&mut consumer).await;
    assert_eq!(payload(&delivery), "found again");
    delivery.ack().await;
    broker.close().await;
    rabbit.clean().await;
}

#[tokio::test]
async fn a_queue_of_another_make_is_refused() {
    let rabbit = Rabbit::new();
    let raw = Rabbit::raw().await;
    let channel = raw.create_channel().await.unwrap();
    let name = rabbit.queue(Stage::Case);
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(name.as_str().into(), options, FieldTable::default())
        .await
        .unwrap();

    let error = broker::connect(&rabbit.config)
        .await
        .err()
        .expect("a classic queue is not ours");
    assert!(
        matches!(&error, BrokerError::Topology { object, .. } if object.contains(&name)),
        "{error}"
    );
    assert_eq!((error.code(), error.kind()), ("C2S-1305", ErrorKind::Stop));

    channel
        .queue_delete(name.into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    rabbit.connect().await.close().await;
    rabbit.clean().await;
}

#[tokio::test]
async fn refusals_say_who_and_where_but_not_the_password() {
    let config = BrokerConfig::new(&amqp_url())
        .unwrap()
        .with_password(SecretString::from("wrong-secret-word"));
    let error = broker::connect(&config).await.err().expect("the password is wrong");
    assert!(matches!(error, BrokerError::Refused { .. }), "{}", whole_text(&error));
    assert_eq!((error.code(), error.kind()), ("C2S-1302", ErrorKind::Stop));
    assert!(
        !whole_text(&error).contains("wrong-secret-word"),
        "{}",
        whole_text(&error)
    );

    let mut url = Url::parse(&amqp_url()).unwrap();
    url.set_path("/no-such-vhost");
    let error = broker::connect(&BrokerConfig::new(url.as_str()).unwrap())
        .await
        .err()
        .expect("there is none");
    assert!(
        matches!(&error, BrokerError::Refused { vhost, .. } if vhost == "no-such-vhost"),
        "{}",
        whole_text(&error)
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();

    // Accepts, and never says a word.
    let mut config = BrokerConfig::new(&format!("amqp://u:secret-word@{address}/")).unwrap();
    config.connect_timeout = Duration::from_millis(300);
    let silent = broker::connect(&config).await.err().expect("nobody answers");

    drop(listener);
    let refusing = broker::connect(&config).await.err().expect("nobody listens");
    for error in [silent, refusing] {
        assert!(
            matches!(&error, BrokerError::Unreachable { .. }),
            "{}",
            whole_text(&error)
        );
        assert_eq!((error.code(), error.kind()), ("C2S-1301", ErrorKind::Retry));
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        assert!(!whole_text(&error).contains("secret-word"), "{}", whole_text(&error));
    }
}

#[tokio::test]
async fn a_bad_certificate_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let mut config = BrokerConfig::new("amqps://127.0.0.1:1/").unwrap();
    config.ca_file = Some(path.clone());
    for content in [None, Some("not a certificate")] {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let error = broker::connect(&config).await.err().expect("the file is of no use");
        assert!(matches!(error, BrokerError::CaFile { .. }), "{error}");
        assert!(error.to_string().contains("ca.pem"), "{error}");
        assert_eq!((error.code(), error.kind()), ("C2S-1304", ErrorKind::Stop));
    }
}
