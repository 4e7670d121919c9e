//! One request and its repetitions: permits, limits, time-outs, retry, metrics.

use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, Method, Response, redirect};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use tracing::Instrument as _;
use url::Url;

use crate::config::CouchConfig;
use crate::error::{Error, Result, error_name};
use crate::throttle::Throttle;
use crate::{backoff, metrics_names, path};

/// Connecting is quick or does not happen.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Shorter than the time after which CouchDB and common proxies close an idle connection, so that requests seldom meet a
/// connection that is just being closed.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// First reservation for a body whose length is not announced.
const BODY_RESERVATION: usize = 16 * 1024;

/// How CouchDB's error objects begin.
const ERROR_OBJECT: &[u8] = br#"{"error":"#;

/// A request, so that it can be sent again.
pub(crate) struct Request {
    /// Name of the operation in errors, spans and metrics.
    pub(crate) op: &'static str,
    pub(crate) method: Method,
    /// Below the server's URL, already encoded, with the query.
    pub(crate) path: String,
    pub(crate) body: Option<Body>,
    /// Bytes of the answer at most, if that is less than the client's own limit.
    pub(crate) max_bytes: Option<usize>,
}

/// A request's body.
pub(crate) struct Body {
    pub(crate) content_type: HeaderValue,
    pub(crate) bytes: Bytes,
}

impl Request {
    pub(crate) fn new(op: &'static str, method: Method, path: String) -> Self {
        Self {
            op,
            method,
            path,
            body: None,
            max_bytes: None,
        }
    }

    /// With a JSON body.
    pub(crate) fn json(mut self, body: &impl serde::Serialize) -> Result<Self> {
        let bytes = serde_json::to_vec(body).map_err(|error| Error::Malformed {
            op: self.op,
            reason: format!("the request is not JSON ({:?})", error.classify()),
        })?;
        self.body = Some(Body {
            content_type: HeaderValue::from_static("application/json"),
            bytes: bytes.into(),
        });
        Ok(self)
    }
}

/// An answer below status 500 that is not about credentials or load.
pub(crate) struct Answer {
    op: &'static str,
    pub(crate) status: u16,
    pub(crate) body: Bytes,
    /// The server's clock, from the `Date` header.
    pub(crate) date: Option<DateTime<Utc>>,
    /// 1 for the first attempt.
    pub(crate) attempt: u32,
}

impl Answer {
    /// Whether the status is 2xx.
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The JSON of a successful answer; otherwise the rejection.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T> {
        if self.is_success() {
            decode(self.op, &self.body)
        } else {
            Err(self.rejection())
        }
    }

    /// The answer as an error.
    pub(crate) fn rejection(&self) -> Error {
        Error::Rejected {
            op: self.op,
            status: self.status,
            error: server_error_name(&self.body),
        }
    }
}

/// Parses JSON. An end too early means that the body was cut off somewhere on its way; an error object behind an
/// unfinished text is what CouchDB sends when it fails in the middle of an answer begun with status 200.
pub(crate) fn decode<T: DeserializeOwned>(op: &'static str, body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| match (error.classify(), appended_error(body)) {
        (Category::Eof | Category::Syntax, Some(name)) => Error::Server {
            op,
            status: 200,
            error: Some(name),
        },
        (Category::Eof, None) => Error::Truncated { op },
        (category, _) => Error::Malformed {
            op,
            reason: format!("{category:?} error at line {} column {}", error.line(), error.column()),
        },
    })
}

/// The name of the error in an error object at the end of a body.
fn appended_error(body: &[u8]) -> Option<String> {
    let start = body
        .windows(ERROR_OBJECT.len())
        .rposition(|window| window == ERROR_OBJECT)?;
    server_error_name(&body[start..])
}

#[derive(Deserialize)]
struct ErrorBody {
    error: String,
}

fn server_error_name(body: &[u8]) -> Option<String> {
    serde_json::from_slice::<ErrorBody>(body)
        .ok()
        .and_then(|body| error_name(&body.error))
}

/// A failed attempt.
struct Failure {
    error: Error,
    /// What the server asked for.
    retry_after: Option<Duration>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            retry_after: None,
        }
    }
}

pub(crate) struct Transport {
    client: Client,
    /// Without credentials and without a slash at the end.
    base: String,
    throttle: Throttle,
    max_response_bytes: usize,
    request_timeout: Duration,
    retries: u32,
    /// How many requests a bulk read may have in flight by itself.
    pub(crate) max_concurrency: usize,
}

impl Transport {
    pub(crate) fn new(config: &CouchConfig) -> Result<Self> {
        let mut url = config.url.clone();
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(unusable("the URL must begin with http:// or https:// and name a host"));
        }
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(authorization) = authorization(config)? {
            headers.insert(AUTHORIZATION, authorization);
        }
        strip(&mut url);
        let mut client = Client::builder()
            .default_headers(headers)
            .timeout(config.request_timeout)
            .connect_timeout(CONNECT_TIMEOUT.min(config.request_timeout))
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(config.max_concurrency.max(1))
            // A redirect of a database is a mistake in the URL; following it could carry credentials elsewhere.
            .redirect(redirect::Policy::none())
            // Proxy variables in the environment are meant for browsers, not for the database next door.
            .no_proxy();
        if let Some(file) = &config.ca_file {
            client = client.tls_certs_merge(certificates(file)?);
        } else if url.scheme() == "http" {
            // Without TLS, a machine without system certificates is good enough.
            client = client.tls_certs_only([]);
        }
        let client = client
            .build()
            .map_err(|error| unusable(&format!("no HTTP client: {}", chain(&error))))?;
        Ok(Self {
            client,
            base: url.as_str().trim_end_matches('/').to_owned(),
            throttle: Throttle::new(config.max_concurrency, config.max_requests_per_second),
            max_response_bytes: config.max_response_bytes,
            request_timeout: config.request_timeout,
            retries: config.retries,
            max_concurrency: config.max_concurrency.max(1),
        })
    }

    /// The server's URL, without credentials.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Sends the request until an answer can be read, as often as configured. `read` is part of an attempt: what it finds
    /// to be cut off or failed is asked for again.
    pub(crate) async fn send<T>(&self, request: Request, read: impl Fn(&Answer) -> Result<T>) -> Result<T> {
        let span = tracing::info_span!(
            "couch",
            op = request.op,
            otel.kind = "client",
            attempts = tracing::field::Empty
        );
        async {
            let mut attempt = 1;
            loop {
                let failure = match self.attempt(&request, attempt, &read).await {
                    Ok(value) => {
                        tracing::Span::current().record("attempts", attempt);
                        return Ok(value);
                    }
                    Err(failure) => failure,
                };
                let too_long = failure
                    .retry_after
                    .is_some_and(|wait| wait > backoff::LONGEST_ASKED_FOR);
                if attempt > self.retries || too_long || !worth_repeating(&failure.error) {
                    tracing::Span::current().record("attempts", attempt);
                    return Err(failure.error);
                }
                let own = backoff::delay(attempt, rand::random());
                let wait = failure.retry_after.map_or(own, |asked| asked.max(own));
                if matches!(failure.error, Error::Server { status: 429, .. }) {
                    self.throttle.pause_for(wait);
                }
                tracing::debug!(
                    op = request.op,
                    attempt,
                    ?wait,
                    outcome = failure.error.outcome(),
                    "trying again"
                );
                metrics::counter!(metrics_names::RETRIES, "op" => request.op).increment(1);
                tokio::time::sleep(wait).await;
                attempt += 1;
            }
        }
        .instrument(span)
        .await
    }

    async fn attempt<T>(
        &self,
        request: &Request,
        attempt: u32,
        read: &impl Fn(&Answer) -> Result<T>,
    ) -> Result<T, Failure> {
        let _permit = self.throttle.enter().await;
        let _in_flight = InFlight::enter();
        let start = Instant::now();
        let answer = self.exchange(request, attempt).await;
        let seconds = start.elapsed().as_secs_f64();
        metrics::histogram!(metrics_names::REQUEST_SECONDS, "op" => request.op).record(seconds);
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        let result = answer.and_then(|answer| read(&answer).map_err(Failure::from));
        let outcome = match &result {
            Ok(_) if status == 404 => "not_found",
            Ok(_) => "ok",
            Err(failure) => failure.error.outcome(),
        };
        metrics::counter!(metrics_names::REQUESTS, "op" => request.op, "outcome" => outcome).increment(1);
        result
    }

    async fn exchange(&self, request: &Request, attempt: u32) -> Result<Answer, Failure> {
        let op = request.op;
        let mut builder = self
            .client
            .request(request.method.clone(), format!("{}/{}", self.base, request.path));
        if let Some(body) = &request.body {
            builder = builder
                .header(CONTENT_TYPE, body.content_type.clone())
                .body(body.bytes.clone());
        }
        let response = builder.send().await.map_err(|error| self.send_error(op, error))?;
        let status = response.status().as_u16();
        let retry_after = header(&response, RETRY_AFTER.as_str())
            .and_then(|text| backoff::asked_for(text, header(&response, DATE.as_str())));
        if matches!(status, 401 | 403) {
            return Err(Error::Unauthorized { op, status }.into());
        }
        let date = header(&response, DATE.as_str())
            .and_then(|text| DateTime::parse_from_rfc2822(text).ok())
            .map(|date| date.with_timezone(&Utc));
        let limit = request
            .max_bytes
            .map_or(self.max_response_bytes, |bytes| bytes.min(self.max_response_bytes));
        let body = self.body(op, response, limit).await;
        if status == 429 || status >= 500 {
            let error = body.ok().and_then(|body| server_error_name(&body));
            return Err(Failure {
                error: Error::Server { op, status, error },
                retry_after,
            });
        }
        Ok(Answer {
            op,
            status,
            body: body?,
            date,
            attempt,
        })
    }

    /// Reads the body, never holding more than the limit.
    async fn body(&self, op: &'static str, mut response: Response, limit: usize) -> Result<Bytes> {
        let announced = response
            .content_length()
            .and_then(|length| usize::try_from(length).ok());
        if announced.is_some_and(|length| length > limit) {
            return Err(Error::TooLarge { op, limit });
        }
        let mut body = BytesMut::with_capacity(announced.unwrap_or(BODY_RESERVATION).min(limit));
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > limit => return Err(Error::TooLarge { op, limit }),
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) if error.is_timeout() => {
                    return Err(Error::TimedOut {
                        op,
                        after: self.request_timeout,
                    });
                }
                Err(_) => return Err(Error::Truncated { op }),
            }
        }
        metrics::counter!(metrics_names::RESPONSE_BYTES).increment(body.len() as u64);
        Ok(body.freeze())
    }

    fn send_error(&self, op: &'static str, error: reqwest::Error) -> Error {
        if error.is_timeout() && !error.is_connect() {
            Error::TimedOut {
                op,
                after: self.request_timeout,
            }
        } else if error.is_builder() {
            unusable("the request cannot be formed")
        } else {
            Error::Unreachable {
                server: self.base.clone(),
                source: error.without_url(),
            }
        }
    }
}

/// Whether the same request may succeed when it is sent again.
fn worth_repeating(error: &Error) -> bool {
    matches!(
        error,
        Error::Unreachable { .. } | Error::TimedOut { .. } | Error::Truncated { .. } | Error::Server { .. }
    )
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// Counts a request as in flight for as long as it lives, however it ends.
struct InFlight;

impl InFlight {
    fn enter() -> Self {
        metrics::gauge!(metrics_names::IN_FLIGHT).increment(1.0);
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        metrics::gauge!(metrics_names::IN_FLIGHT).decrement(1.0);
    }
}

fn unusable(reason: &str) -> Error {
    Error::Config {
        reason: reason.to_owned(),
    }
}

/// The causes of an error in one line, for configuration errors only: they hold no content.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn authorization(config: &CouchConfig) -> Result<Option<HeaderValue>> {
    let (username, password) = match &config.username {
        Some(username) => {
            let password = config.password.as_ref().map_or("", |password| password.expose_secret());
            (username.clone(), password.to_owned())
        }
        None if !config.url.username().is_empty() => (
            path::decode(config.url.username()),
            path::decode(config.url.password().unwrap_or_default()),
        ),
        None => return Ok(None),
    };
    let encoded = STANDARD.encode(format!("{username}:{password}"));
    let mut value = HeaderValue::try_from(format!("Basic {encoded}"))
        .map_err(|_| unusable("the credentials do not fit into a header"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Takes out of the URL whatever may be secret or does not name the server.
pub(crate) fn strip(url: &mut Url) {
    // Both fail only for URLs that cannot have credentials at all.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
}

fn certificates(file: &Path) -> Result<Vec<Certificate>> {
    let unreadable = |reason: String| unusable(&format!("CA file {}: {reason}", file.display()));
    let pem = std::fs::read(file).map_err(|error| unreadable(error.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| unreadable(error.to_string()))?;
    if certificates.is_empty() {
        return Err(unreadable("no certificate in it".to_owned()));
    }
    Ok(certificates)
}
