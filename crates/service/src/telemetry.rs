//! Logs and traces of a process, and the trace context that travels with a message.
//!
//! [`init`] sends structured logs to standard error and, when a collector is configured, spans to it by OTLP over gRPC.
//! A dispatcher calls [`inject_context`] to put its span into a message's headers (W3C `traceparent`); a worker makes it
//! the parent of its own span by [`extract_context`] and [`set_parent`], so that one trace runs from the command to the
//! commit.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TracerProvider;
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, fmt};

use crate::config::{LogFormat, TelemetryConfig};

/// Longest time for one export; spans that a collector does not take in that time are lost.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the end of a process waits for its last spans to be taken.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `telemetry.log_filter` is none.
    #[error("telemetry.log_filter is not a filter")]
    Filter(#[source] ParseError),
    /// `telemetry.otlp_endpoint` cannot be used.
    #[error("telemetry.otlp_endpoint cannot be used")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
    /// This process has telemetry already.
    #[error("telemetry was set up twice")]
    Twice(#[source] tracing::subscriber::SetGlobalDefaultError),
}

/// Keeps telemetry going. The last spans are sent when it is dropped, or by [`Guard::shutdown`].
#[derive(Debug)]
#[must_use = "spans are lost when the guard is dropped too early"]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
}

impl Guard {
    /// Sends what is left without blocking the runtime, which the export itself needs.
    pub async fn shutdown(mut self) {
        if let Some(provider) = self.provider.take() {
            // The task ends by its own time-out; a panic in it has nothing left to lose.
            let _ = tokio::task::spawn_blocking(move || flush(&provider)).await;
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take() {
            flush(&provider);
        }
    }
}

fn flush(provider: &SdkTracerProvider) {
    if let Err(error) = provider.shutdown_with_timeout(FLUSH_TIMEOUT) {
        tracing::debug!(%error, "the last spans could not be sent");
    }
}

/// Sets up logs and traces of this process under the given service name. Must be called within a tokio runtime.
///
/// # Errors
/// When the filter or the collector's address cannot be used, or telemetry exists already.
pub fn init(service_name: &'static str, config: &TelemetryConfig) -> Result<Guard, TelemetryError> {
    let (subscriber, guard) = build(service_name, config, std::io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(TelemetryError::Twice)?;
    Ok(guard)
}

/// What [`init`] installs, with log lines going to `writer`.
///
/// # Errors
/// As [`init`].
pub fn build<W>(
    service_name: &'static str,
    config: &TelemetryConfig,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync, Guard), TelemetryError>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let filter = parse_filter(&config.log_filter).map_err(TelemetryError::Filter)?;
    let lines = match config.log_format {
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .with_writer(writer)
            .with_filter(filter)
            .boxed(),
        LogFormat::Text => fmt::layer()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(writer)
            .with_filter(filter)
            .boxed(),
    };
    let provider = match &config.otlp_endpoint {
        Some(endpoint) => Some(provider(service_name, endpoint.as_str())?),
        None => None,
    };
    let spans = provider.as_ref().map(|provider| {
        // The exporter's own traffic must not be traced, or every export would cause the next.
        let filter = EnvFilter::new("info,h2=off,hyper=off,tonic=off,tower=off,opentelemetry=off,lapin=off");
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(service_name))
            .with_filter(filter)
    });
    Ok((
        tracing_subscriber::registry().with(lines).with(spans),
        Guard { provider },
    ))
}

fn provider(service_name: &'static str, endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(TelemetryError::Exporter)?;
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "localhost".to_owned());
    let resource = Resource::builder()
        .with_service_name(service_name)
        .with_attribute(KeyValue::new("service.namespace", "couch-sql"))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new(
            "service.instance.id",
            format!("{host}-{}", std::process::id()),
        ))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}

/// Reads a log filter: a level, or levels by module.
///
/// # Errors
/// When it is none.
pub fn parse_filter(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(text)
}

struct Headers<'a>(&'a mut BTreeMap<String, String>);

impl Injector for Headers<'_> {
    fn set(&mut self, name: &str, value: String) {
        self.0.insert(name.to_owned(), value);
    }
}

struct ReadHeaders<'a>(&'a BTreeMap<String, String>);

impl Extractor for ReadHeaders<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

/// Puts the current span into the headers of a message. Without traces nothing is added.
pub fn inject_context(headers: &mut BTreeMap<String, String>) {
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut Headers(headers));
}

/// The span in the headers of a message, if there is one that can be read.
pub fn extract_context(headers: &BTreeMap<String, String>) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &ReadHeaders(headers))
}

/// Makes the span a child of the context. Must come before the span is entered. Without traces nothing happens.
pub fn set_parent(span: &Span, context: Context) {
    if let Err(error) = span.set_parent(context) {
        tracing::trace!(%error, "no trace to continue");
    }
}
