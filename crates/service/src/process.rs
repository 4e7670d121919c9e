//! The life of a process: configuration, telemetry, signals, metrics and health pages, and an orderly end.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use broker::Broker;
use clap::Parser;
use hqsql::Target;
use metrics_exporter_prometheus::PrometheusHandle;
use state::State;
use state::run::Operator;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::{Config, LogFormat, Origin};
use crate::http::{self, Health};
use crate::worker::{BatchHandler, WorkerOptions, chain};
use crate::{connect, shutdown, telemetry, worker};

/// Pause between two signs of life in the state schema.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// Why a process could not start.
#[derive(Debug)]
pub struct StartFailure {
    code: &'static str,
    message: String,
}

impl StartFailure {
    /// From an error with its code.
    pub fn new(code: &'static str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self {
            code,
            message: chain(error),
        }
    }

    /// Stable code.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// What happened.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for StartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// A service: its log is for machines, at the configured level.
    Service,
    /// A command at a terminal: unless the configuration says more, only warnings are logged, for people.
    Command,
    /// A command whose operator wants to see what it does.
    Debugging,
}

/// Runs a program: reads its configuration, starts telemetry, and hands over with a token that SIGTERM and SIGINT cancel.
/// Exit status 2 when the configuration is at fault.
pub fn run<F, Fut>(name: &'static str, config_file: Option<&Path>, life: Life, program: F) -> ExitCode
where
    F: FnOnce(Config, CancellationToken) -> Fut,
    Fut: Future<Output = ExitCode>,
{
    let mut config = match Config::load(config_file) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{}: {} — {}", error.code(), chain(&error), error.remedy());
            return ExitCode::from(2);
        }
    };
    match life {
        Life::Service => {}
        Life::Command => log_unless_configured(&mut config, "warn"),
        Life::Debugging => log_unless_configured(&mut config, "info,coordinator=debug"),
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&StartFailure::new("C2S-0101", &error)),
    };
    runtime.block_on(async {
        let guard = match telemetry::init(name, &config.telemetry) {
            Ok(guard) => guard,
            Err(error) => return failed(&StartFailure::new("C2S-0112", &error)),
        };
        let exit = match shutdown::listen() {
            Ok(stop) => program(config, stop).await,
            Err(error) => failed(&StartFailure::new("C2S-0101", &error)),
        };
        guard.shutdown().await;
        exit
    })
}

/// A command's own output is what its operator wants to read.
fn log_unless_configured(config: &mut Config, filter: &str) {
    let is_set = |key: &str| {
        config
            .describe()
            .iter()
            .any(|value| value.key == key && value.origin != Origin::Default)
    };
    let (filter_is_set, format_is_set) = (is_set("telemetry.log_filter"), is_set("telemetry.log_format"));
    if !filter_is_set {
        filter.clone_into(&mut config.telemetry.log_filter);
    }
    if !format_is_set {
        config.telemetry.log_format = LogFormat::Text;
    }
}

fn failed(failure: &StartFailure) -> ExitCode {
    eprintln!("{failure}");
    ExitCode::FAILURE
}

/// Installs the recorder of this process's metrics. To be done before anything connects: what is counted earlier is lost.
///
/// # Errors
/// There is one already.
pub fn record_metrics() -> Result<PrometheusHandle, StartFailure> {
    http::install_metrics().map_err(|error| StartFailure::new("C2S-0112", &error))
}

/// Serves `/metrics`, `/healthz` and `/readyz` for a service, until `stop` is cancelled.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve_pages(
    config: &Config,
    metrics: PrometheusHandle,
    broker: &Arc<dyn Broker>,
    stop: CancellationToken,
) -> Result<http::Server, StartFailure> {
    let watched = Arc::clone(broker);
    let health = Health::new().ready_when("broker", move || {
        if watched.is_connected() {
            Ok(())
        } else {
            Err("no connection".to_owned())
        }
    });
    let router = http::router(metrics.clone(), health);
    http::serve(config.telemetry.listen, metrics, router, stop)
        .await
        .map_err(|error| StartFailure::new("C2S-0113", &error))
}

/// Who runs this process.
pub fn operator() -> Operator {
    let who = std::env::var("USER")
        .or_else(|_| std::env::var("LOGNAME"))
        .unwrap_or_else(|_| "unknown".to_owned());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned());
    Operator {
        who,
        host,
        pid: i32::try_from(std::process::id()).unwrap_or(0),
    }
}

/// Command line of a worker.
#[derive(Debug, Parser)]
struct WorkerArgs {
    /// Configuration file; else $COUCH_SQL_CONFIG, else ./couch-sql.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs a worker process. `make` builds its handler, once the databases are reached.
pub fn run_worker<F, Fut>(name: &'static str, about: &'static str, make: F) -> ExitCode
where
    F: FnOnce(Arc<Config>, State, Target) -> Fut,
    Fut: Future<Output = Result<Arc<dyn BatchHandler>, StartFailure>>,
{
    let command = <WorkerArgs as clap::CommandFactory>::command()
        .name(name)
        .about(about)
        .version(env!("CARGO_PKG_VERSION"));
    let args = match <WorkerArgs as clap::FromArgMatches>::from_arg_matches(&command.get_matches()) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    run(name, args.config.as_deref(), Life::Service, |config, stop| async move {
        match work(name, Arc::new(config), make, stop).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failed(&failure),
        }
    })
}

async fn work<F, Fut>(
    name: &'static str,
    config: Arc<Config>,
    make: F,
    stop: CancellationToken,
) -> Result<(), StartFailure>
where
    F: FnOnce(Arc<Config>, State, Target) -> Fut,
    Fut: Future<Output = Result<Arc<dyn BatchHandler>, StartFailure>>,
{
    let operator = operator();
    let process = format!("{name}@{} pid {}", operator.host, operator.pid);
    if connect::is_in_process(&config) {
        let message =
            "broker.url is memory:, which no other process can reach; use `coordinator standalone`".to_owned();
        return Err(StartFailure {
            code: "C2S-0114",
            message,
        });
    }
    let state = State::connect(&connect::state_config(&config))
        .await
        .map_err(|error| StartFailure::new(error.code(), &error))?;
    let target = Target::connect(&connect::target_config(&config))
        .await
        .map_err(|error| StartFailure::new(error.code(), &error))?;
    let metrics = record_metrics()?;
    let settings =
        connect::broker_config(&config, &process).map_err(|error| StartFailure::new(error.code(), &error))?;
    let broker = broker::connect(&settings)
        .await
        .map_err(|error| StartFailure::new(error.code(), &error))?;
    let pages = serve_pages(&config, metrics, &broker, stop.clone()).await?;
    let handler = make(Arc::clone(&config), state.clone(), target).await?;
    let options = WorkerOptions::of(&config, &process);

    let id = Uuid::new_v4();
    let beating = tokio::spawn(beat(state.clone(), id, name, operator));
    tracing::info!(
        stage = handler.stage().as_str(),
        concurrency = options.concurrency,
        "working"
    );
    let ended = worker::run(state.clone(), Arc::clone(&broker), handler, options, stop.clone()).await;
    beating.abort();
    // Nothing depends on it: a process that is silent is forgotten by itself.
    let _ = state.sign_off(id).await;
    broker.close().await;
    stop.cancel();
    pages.stopped().await;
    ended.map_err(|error| StartFailure::new(error.code(), &error))
}

async fn beat(state: State, id: Uuid, kind: &'static str, operator: Operator) {
    let mut tick = tokio::time::interval(HEARTBEAT);
    loop {
        tick.tick().await;
        if let Err(error) = state.heartbeat(id, kind, &operator).await {
            tracing::warn!(code = error.code(), "no sign of life could be given");
        }
    }
}
