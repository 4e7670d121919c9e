//! The small HTTP server of every process: `/metrics`, `/healthz`, `/readyz`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::{Router, body::Body};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::names;

/// The media type of Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How often old samples of histograms are folded, so that a process that nobody scrapes does not grow.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// How long requests in hand may take once the server is told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// From a fast read to a slow batch, in seconds.
const SECONDS_BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
];

/// Installs the recorder of this process' metrics, and describes those of [`names::ALL`].
///
/// # Errors
/// When there is one already.
pub fn install_metrics() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?
        .install_recorder()?;
    names::describe();
    Ok(handle)
}

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the health pages ask. A check must answer at once: it looks at a flag, it does not do a request.
#[derive(Clone, Default)]
pub struct Health {
    liveness: Vec<(&'static str, Check)>,
    readiness: Vec<(&'static str, Check)>,
}

impl Health {
    /// No checks: alive and ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check that must hold, or the process should be restarted (`/healthz`).
    #[must_use]
    pub fn alive_when(
        mut self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.liveness.push((name, Arc::new(check)));
        self
    }

    /// Adds a check that must hold for the process to do its work now (`/readyz`).
    #[must_use]
    pub fn ready_when(
        mut self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.readiness.push((name, Arc::new(check)));
        self
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |checks: &[(&'static str, Check)]| checks.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        f.debug_struct("Health")
            .field("liveness", &names(&self.liveness))
            .field("readiness", &names(&self.readiness))
            .finish()
    }
}

#[derive(Serialize)]
struct Report {
    status: &'static str,
    checks: Vec<CheckReport>,
}

#[derive(Serialize)]
struct CheckReport {
    name: &'static str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

fn report<'a>(checks: impl Iterator<Item = &'a (&'static str, Check)>) -> Response {
    let checks: Vec<CheckReport> = checks
        .map(|(name, check)| {
            let result = check();
            CheckReport {
                name,
                ok: result.is_ok(),
                problem: result.err(),
            }
        })
        .collect();
    let (code, status) = if checks.iter().all(|check| check.ok) {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "failing")
    };
    (code, Json(Report { status, checks })).into_response()
}

#[derive(Clone)]
struct Pages {
    metrics: PrometheusHandle,
    health: Arc<Health>,
}

/// The three pages, to be served alone or merged into a larger router.
pub fn router(metrics: PrometheusHandle, health: Health) -> Router {
    Router::new()
        .route("/metrics", get(metrics_page))
        .route(
            "/healthz",
            get(async |State(pages): State<Pages>| report(pages.health.liveness.iter())),
        )
        // Not alive is not ready either.
        .route(
            "/readyz",
            get(async |State(pages): State<Pages>| {
                report(pages.health.liveness.iter().chain(pages.health.readiness.iter()))
            }),
        )
        .with_state(Pages {
            metrics,
            health: Arc::new(health),
        })
}

async fn metrics_page(State(pages): State<Pages>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, METRICS_TYPE)],
        Body::from(pages.metrics.render()),
    )
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Server {
    /// Where it listens, with the port it was given.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has stopped.
    pub async fn stopped(self) {
        // The task ends by its own time-out after `stop`; when it panicked, it has stopped too.
        let _ = self.serving.await;
    }
}

/// Serves the router until `stop` is cancelled; requests in hand are finished, within bounds.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(
    listen: SocketAddr,
    metrics: PrometheusHandle,
    router: Router,
    stop: CancellationToken,
) -> std::io::Result<Server> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    tracing::info!(%address, "serving /metrics, /healthz and /readyz");
    let serving = tokio::spawn(async move {
        let upkeep = tokio::spawn(keep_up(metrics));
        let server = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        let overdue = async {
            stop.cancelled().await;
            tokio::time::sleep(STOP_TIMEOUT).await;
        };
        tokio::select! {
            result = server.into_future() => if let Err(error) = result {
                tracing::error!(%error, "the HTTP server ended");
            },
            () = overdue => tracing::debug!("requests were cut off"),
        }
        upkeep.abort();
    });
    Ok(Server { address, serving })
}

async fn keep_up(metrics: PrometheusHandle) {
    let mut ticks = interval(UPKEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}
