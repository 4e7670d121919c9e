//! The configuration of every process: one TOML file, each key also by environment variable, each secret also by file.
//!
//! [`Config::load`] finds the file, lays the environment over it, fills in the defaults of [`keys`], reads the files that
//! hold secrets, takes passwords out of URLs, and checks that the values can work ([`validate`](Config::validate)).
//! What went wrong names the key and never a value.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub mod error;
pub mod keys;
mod sections;
mod sources;
mod validate;

pub use error::ConfigError;
pub use sections::{
    BlobsConfig, BlobsKind, BrokerConfig, DomainsConfig, DriverConfig, HqConfig, LiveConfig, LogFormat, ShardConfig,
    SourceConfig, StateConfig, TargetConfig, TelemetryConfig, WorkerConfig,
};

/// The file that is read when nobody names one.
pub const DEFAULT_FILE: &str = "couch-sql.toml";
/// The environment variable that names the file.
pub const FILE_VARIABLE: &str = "COUCH_SQL_CONFIG";

/// The whole configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// CouchDB.
    pub source: SourceConfig,
    /// form.xml and attachments.
    pub blobs: BlobsConfig,
    /// HQ's PostgreSQL.
    pub target: TargetConfig,
    /// Our own schema.
    pub state: StateConfig,
    /// RabbitMQ.
    pub broker: BrokerConfig,
    /// Migrating while the domain is in use.
    pub live: LiveConfig,
    /// The workers.
    pub worker: WorkerConfig,
    /// Scanning and dispatching.
    pub driver: DriverConfig,
    /// The running CommCare HQ.
    pub hq: HqConfig,
    /// Options of single domains.
    pub domains: DomainsConfig,
    /// Logs, traces, metrics.
    pub telemetry: TelemetryConfig,
    #[serde(skip)]
    effective: Vec<Effective>,
}

/// One value in force, fit to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// `section.name`.
    pub key: String,
    /// Its value as TOML; `***` for a secret; `None` when it is absent.
    pub value: Option<String>,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(variable) => f.write_str(variable),
        }
    }
}

impl Config {
    /// Reads the configuration of this process: `named` is what `--config` says. Without it, the file is
    /// `$COUCH_SQL_CONFIG`, else `./couch-sql.toml`, which may be absent when the environment says everything.
    ///
    /// # Errors
    /// Says which key or file is at fault.
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        let from_variable = std::env::var_os(FILE_VARIABLE).map(PathBuf::from);
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            name.starts_with(keys::VARIABLE_PREFIX)
                .then(|| (name, value.to_string_lossy().into_owned()))
        });
        let named = named.map(Path::to_owned).or(from_variable);
        if named.is_none() && !Path::new(DEFAULT_FILE).exists() {
            let environment: Vec<_> = environment.collect();
            if environment.is_empty() {
                let source = std::io::ErrorKind::NotFound.into();
                return Err(ConfigError::File {
                    path: DEFAULT_FILE.into(),
                    source,
                });
            }
            return Self::read(None, environment);
        }
        let path = named.unwrap_or_else(|| DEFAULT_FILE.into());
        Self::read(Some(&path), environment)
    }

    /// Reads this file and these environment variables.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn read(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let content = match file {
            Some(path) => std::fs::read_to_string(path).map_err(|source| ConfigError::File {
                path: path.to_owned(),
                source,
            })?,
            None => String::new(),
        };
        let layers = sources::Layers::new(file, &content, environment)?;
        let mut config: Self = layers.extract()?;
        config.read_secrets()?;
        config.take_passwords_out_of_urls();
        config.effective = layers.effective();
        config.validate()?;
        Ok(config)
    }

    /// Every key with the value in force and where it comes from, in the order of the documentation. Secrets are `***`.
    pub fn describe(&self) -> &[Effective] {
        &self.effective
    }

    /// Messages that a worker may hold at a time: as configured, else as many as it works on.
    pub fn prefetch(&self) -> u16 {
        self.broker
            .prefetch
            .unwrap_or_else(|| u16::try_from(self.worker.concurrency).unwrap_or(u16::MAX))
    }
}
