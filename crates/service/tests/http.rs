//! The pages of the small HTTP server.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use service::http::{Health, router, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Status and whole text of an answer.
async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    timeout(Duration::from_secs(10), stream.read_to_string(&mut text))
        .await
        .unwrap()
        .unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, text)
}

fn body(text: &str) -> serde_json::Value {
    serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn pages_tell_metrics_health_and_readiness() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        service::names::describe();
        metrics::counter!(service::names::BATCHES, "stage" => "form", "outcome" => "done").increment(3);
    });
    let alive = Arc::new(AtomicBool::new(true));
    let connected = Arc::new(AtomicBool::new(false));
    let (look_alive, look_connected) = (Arc::clone(&alive), Arc::clone(&connected));
    let health = Health::new()
        .alive_when("loop", move || {
            if look_alive.load(Ordering::SeqCst) {
                Ok(())
            } else {
                Err("stuck".to_owned())
            }
        })
        .ready_when("broker", move || {
            if look_connected.load(Ordering::SeqCst) {
                Ok(())
            } else {
                Err("no connection".to_owned())
            }
        });
    let stop = CancellationToken::new();
    let pages = router(handle.clone(), health);
    let server = serve("127.0.0.1:0".parse().unwrap(), handle, pages, stop.clone())
        .await
        .unwrap();
    let address = server.address();
    assert_ne!(address.port(), 0);

    let (status, text) = get(address, "/metrics").await;
    assert_eq!(status, 200);
    assert!(text.contains("content-type: text/plain; version=0.0.4"), "{text}");
    assert!(
        text.contains(r#"c2s_batches_total{stage="form",outcome="done"} 3"#),
        "{text}"
    );
    assert!(
        text.contains("# HELP c2s_batches_total Batches that a worker has ended"),
        "{text}"
    );

    let (status, text) = get(address, "/healthz").await;
    assert_eq!(status, 200);
    let expected = serde_json::json!({ "status": "ok", "checks": [{ "name": "loop", "ok": true }] });
    assert_eq!(body(&text), expected);

    let (status, text) = get(address, "/readyz").await;
    assert_eq!(status, 503);
    assert_eq!(body(&text)["status"], "failing");
    assert_eq!(body(&text)["checks"][1]["problem"], "no connection");
    connected.store(true, Ordering::SeqCst);
    assert_eq!(get(address, "/readyz").await.0, 200);

    alive.store(false, Ordering::SeqCst);
    assert_eq!(get(address, "/healthz").await.0, 503);
    assert_eq!(get(address, "/readyz").await.0, 503, "not alive is not ready");
    assert_eq!(get(address, "/secrets").await.0, 404);

    // An idle connection must not hold up the end.
    let _idle = TcpStream::connect(address).await.unwrap();
    stop.cancel();
    timeout(Duration::from_secs(10), server.stopped()).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn an_address_in_use_is_an_error() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let pages = router(handle.clone(), Health::new());
    let error = serve(address, handle, pages, CancellationToken::new())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}
