//! Logs are what they should be, trace context survives a message, and spans reach a collector.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use service::config::{LogFormat, TelemetryConfig};
use service::telemetry::{self, build, extract_context, inject_context, set_parent};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing_subscriber::fmt::MakeWriter;

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn config(log_format: LogFormat, log_filter: &str) -> TelemetryConfig {
    TelemetryConfig {
        otlp_endpoint: None,
        log_format,
        log_filter: log_filter.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[test]
fn json_lines_carry_fields_and_their_span() {
    let lines = Lines::default();
    let (subscriber, _guard) = build("test", &config(LogFormat::Json, "info"), lines.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        let _in_span = tracing::info_span!("batch", batch_id = 7).entered();
        tracing::info!(documents = 500, "batch done");
        tracing::debug!("not at this level");
    });
    let text = lines.text();
    let line: serde_json::Value = serde_json::from_str(text.trim()).expect("exactly one JSON line");
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["message"], "batch done");
    assert_eq!(line["documents"], 500);
    assert_eq!(line["span"]["name"], "batch");
    assert_eq!(line["span"]["batch_id"], 7);
    assert!(line["timestamp"].is_string());
}

#[test]
fn text_lines_follow_the_filter() {
    let lines = Lines::default();
    let (subscriber, _guard) = build("test", &config(LogFormat::Text, "warn,telemetry=debug"), lines.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        tracing::debug!(answer = 42, "of this module");
        tracing::info!(target: "elsewhere", "of another module");
        tracing::warn!(target: "elsewhere", "worth a look");
    });
    let text = lines.text();
    assert!(text.contains("of this module") && text.contains("answer=42"), "{text}");
    assert!(!text.contains("of another module"), "{text}");
    assert!(text.contains("worth a look"), "{text}");
}

#[test]
fn a_filter_that_is_none_is_refused() {
    let error = build("test", &config(LogFormat::Text, "loudly=please"), Lines::default()).err();
    assert!(matches!(error, Some(telemetry::TelemetryError::Filter(_))));
}

#[test]
fn without_traces_headers_stay_as_they_are() {
    let (subscriber, _guard) = build("test", &config(LogFormat::Text, "info"), Lines::default()).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        let span = tracing::info_span!("batch");
        set_parent(
            &span,
            extract_context(&BTreeMap::from([("traceparent".to_owned(), TRACEPARENT.to_owned())])),
        );
        let mut headers = BTreeMap::new();
        span.in_scope(|| inject_context(&mut headers));
        assert_eq!(headers, BTreeMap::new());
    });
}

/// A collector that takes whatever is exported, and tells path and body of each request.
async fn collector() -> (String, mpsc::UnboundedReceiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sender = sender.clone();
            let answer = service_fn(move |request: Request<Incoming>| {
                let sender = sender.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let body = axum::body::to_bytes(Body::new(request.into_body()), 1 << 20)
                        .await
                        .unwrap();
                    sender.send((path, body.to_vec())).unwrap();
                    let response = Response::builder()
                        .header("content-type", "application/grpc")
                        .header("grpc-status", "0")
                        .body(Body::empty())
                        .unwrap();
                    Ok::<_, Infallible>(response)
                }
            });
            let connection = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer);
            tokio::spawn(connection);
        }
    });
    (endpoint, requests)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_reach_the_collector_as_children_of_the_message() {
    let (endpoint, mut requests) = collector().await;
    let mut config = config(LogFormat::Json, "info");
    config.otlp_endpoint = Some(endpoint.parse().unwrap());
    let (subscriber, guard) = build("form-worker", &config, Lines::default()).unwrap();

    let mut headers = BTreeMap::new();
    tracing::subscriber::with_default(subscriber, || {
        let incoming = BTreeMap::from([("traceparent".to_owned(), TRACEPARENT.to_owned())]);
        let span = tracing::info_span!("handle-batch", stage = "form");
        set_parent(&span, extract_context(&incoming));
        span.in_scope(|| inject_context(&mut headers));
    });
    // What goes on to the next process belongs to the same trace, and names our span as its parent.
    let traceparent = &headers["traceparent"];
    assert!(traceparent.starts_with(&format!("00-{TRACE_ID}-")), "{traceparent}");
    assert!(
        traceparent.ends_with("-01") && traceparent != TRACEPARENT,
        "{traceparent}"
    );

    guard.shutdown().await;
    let (path, body) = timeout(Duration::from_secs(10), requests.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(path, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    for text in [
        "handle-batch",
        "form-worker",
        "service.name",
        "service.instance.id",
        "couch-sql",
    ] {
        assert!(contains(&body, text.as_bytes()), "the export has no {text}");
    }
    let trace_id = [
        0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c,
    ];
    let parent_id = [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31];
    assert!(contains(&body, &trace_id), "the export is of another trace");
    assert!(contains(&body, &parent_id), "the export has another parent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_does_not_hold_up_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(LogFormat::Json, "info");
    config.otlp_endpoint = Some(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
    let (subscriber, guard) = build("test", &config, Lines::default()).unwrap();
    tracing::subscriber::with_default(subscriber, || tracing::info_span!("lost").in_scope(|| ()));
    timeout(Duration::from_secs(10), guard.shutdown())
        .await
        .expect("shutting down must be bounded");
}

#[test]
fn context_that_cannot_be_read_is_no_context() {
    use opentelemetry::trace::TraceContextExt;
    for value in ["", "rubbish", "00-00000000000000000000000000000000-b7ad6b7169203331-01"] {
        let headers = BTreeMap::from([("traceparent".to_owned(), value.to_owned())]);
        assert!(!extract_context(&headers).has_active_span(), "{value}");
    }
    let headers = BTreeMap::from([("traceparent".to_owned(), TRACEPARENT.to_owned())]);
    let context = extract_context(&headers);
    assert_eq!(context.span().span_context().trace_id().to_string(), TRACE_ID);
    assert!(context.span().span_context().is_remote());
}
