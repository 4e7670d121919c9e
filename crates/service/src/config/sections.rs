//! The sections of the configuration as types. What each key means is said once, in [`super::keys`]; the defaults are
//! there too. A field that is an `Option` may be absent; passwords are never part of a URL here, whatever was written.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

/// HQ caches the progress flag for an hour at most; a minute more for clocks that differ.
const CACHE_WAIT_WITHOUT_HOOK: Duration = Duration::from_secs(61 * 60);
/// What the hook cannot reach: each HQ process keeps the flag for a minute of its own.
const CACHE_WAIT_WITH_HOOK: Duration = Duration::from_secs(61);

/// `[source]`: CouchDB.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Server.
    pub url: Url,
    /// Database of forms and cases.
    pub forms_db: String,
    /// Database of domains.
    pub domains_db: String,
    /// User.
    pub username: Option<String>,
    /// Password.
    pub password: Option<SecretString>,
    /// File that the password was read from.
    pub password_file: Option<PathBuf>,
    /// PEM file of authorities.
    pub ca_file: Option<PathBuf>,
    /// Requests at a time.
    pub max_concurrency: usize,
    /// Requests per second.
    pub max_requests_per_second: u32,
    /// Longest time for one request.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Whether forms are never written.
    pub read_only: bool,
}

/// Where blobs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobsKind {
    /// A directory.
    Fs,
    /// A bucket of S3, or of something that speaks its protocol.
    S3,
}

/// `[blobs]`: form.xml and attachments.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobsConfig {
    /// Which kind of store.
    pub kind: BlobsKind,
    /// Root directory; for `fs`.
    pub path: Option<PathBuf>,
    /// Bucket; for `s3`.
    pub bucket: Option<String>,
    /// Service; for `s3`.
    pub endpoint: Option<Url>,
    /// Region; for `s3`.
    pub region: Option<String>,
    /// Access key; for `s3`.
    pub access_key: Option<String>,
    /// Secret of the access key; for `s3`.
    pub secret_key: Option<SecretString>,
    /// File that the secret was read from.
    pub secret_key_file: Option<PathBuf>,
    /// PEM file of authorities; for `s3`.
    pub ca_file: Option<PathBuf>,
    /// Go on although the store has the XML of none of the domain's first forms.
    pub accept_all_lost: bool,
    /// Objects read at a time.
    pub max_concurrency: usize,
    /// Longest time for one request; for `s3`.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

/// `[target]`: HQ's PostgreSQL.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetConfig {
    /// The default database.
    pub default: Url,
    /// Password for the default database, and for every shard without one of its own.
    pub password: Option<SecretString>,
    /// File that the password was read from.
    pub password_file: Option<PathBuf>,
    /// Number of logical shards.
    pub shard_count: Option<u32>,
    /// Which database holds which of them.
    pub shards: Vec<ShardConfig>,
    /// PEM file of authorities.
    pub ca_file: Option<PathBuf>,
    /// Connections of this process to each database.
    pub max_connections: usize,
    /// Role of the coordinator, form workers and case workers.
    pub writer_role: Option<String>,
    /// Role of the diff workers.
    pub reader_role: Option<String>,
}

/// One entry of `shards`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardConfig {
    /// First and last logical shard.
    pub range: (u32, u32),
    /// Database.
    pub url: Url,
    /// Password, where it differs from the default database's.
    pub password: Option<SecretString>,
    /// File that the password was read from.
    pub password_file: Option<PathBuf>,
}

/// `[state]`: our own schema.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateConfig {
    /// Database.
    pub url: Url,
    /// Password.
    pub password: Option<SecretString>,
    /// File that the password was read from.
    pub password_file: Option<PathBuf>,
    /// PEM file of authorities.
    pub ca_file: Option<PathBuf>,
    /// Connections of this process.
    pub max_connections: u32,
}

/// `[broker]`: RabbitMQ.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerConfig {
    /// Server, or `memory:`.
    pub url: Url,
    /// Password.
    pub password: Option<SecretString>,
    /// File that the password was read from.
    pub password_file: Option<PathBuf>,
    /// PEM file of authorities.
    pub ca_file: Option<PathBuf>,
    /// Deliveries that a worker may hold; see [`super::Config::prefetch`].
    pub prefetch: Option<u16>,
}

/// `[live]`: migrating while the domain is in use.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiveConfig {
    /// Documents younger than this are left for later.
    #[serde(with = "humantime_serde")]
    pub minimum_age: Duration,
    /// Pause between two rounds of a run that follows the source's changes.
    #[serde(with = "humantime_serde")]
    pub follow_pause: Duration,
}

/// `[worker]`: form, case and diff workers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// Batches at a time in one process.
    pub concurrency: usize,
    /// How long a claim lives without renewal.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Attempts of one document before it is set aside.
    pub max_attempts: i32,
    /// Time that batches in hand get when the process is told to stop.
    #[serde(with = "humantime_serde")]
    pub shutdown_grace: Duration,
    /// Forms of a case from which on its replays go on from a checkpoint.
    pub checkpoint_from: usize,
}

/// `[driver]`: scanning and dispatching.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriverConfig {
    /// Batches in flight for one domain.
    pub window: usize,
    /// Rows of one view page.
    pub scan_page: usize,
    /// Ids that are sorted together before they are cut into batches.
    pub scan_window: usize,
    /// Forms in one batch.
    pub form_batch: usize,
    /// Cases in one batch of replay.
    pub case_batch: usize,
    /// Cases in one batch of diff.
    pub diff_batch: usize,
    /// Domains driven at a time by one coordinator.
    pub domains_at_once: usize,
}

/// `[hq]`: the running CommCare HQ.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HqConfig {
    /// Program and arguments that make HQ forget what it caches of a domain.
    pub cache_hook: Option<Vec<String>>,
    /// Longest time for the hook.
    #[serde(with = "humantime_serde")]
    pub cache_hook_timeout: Duration,
    /// Program and arguments that tell people that a domain is on SQL.
    pub committed_hook: Option<Vec<String>>,
    /// How long after a COMMIT it can be taken back; zero: it cannot.
    #[serde(with = "humantime_serde")]
    pub uncommit_window: Duration,
    /// How long HQ may believe an old progress flag; see [`HqConfig::cache_wait`].
    #[serde(default, with = "humantime_serde")]
    pub cache_wait: Option<Duration>,
}

impl HqConfig {
    /// How long to wait until every HQ process has seen a change: as configured, else by whether there is a hook.
    pub fn cache_wait(&self) -> Duration {
        match (self.cache_wait, &self.cache_hook) {
            (Some(wait), _) => wait,
            (None, Some(_)) => CACHE_WAIT_WITH_HOOK,
            (None, None) => CACHE_WAIT_WITHOUT_HOOK,
        }
    }
}

/// `[domains]`: options of single domains.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainsConfig {
    /// Domains whose cases keep attachments.
    pub case_attachments: Vec<String>,
    /// Domains that must not be migrated.
    pub restricted: Vec<String>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line, for machines.
    Json,
    /// One readable line, for people.
    Text,
}

/// `[telemetry]`: logs, traces, metrics.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Collector that traces go to.
    pub otlp_endpoint: Option<Url>,
    /// Shape of log lines.
    pub log_format: LogFormat,
    /// Which log lines are written.
    pub log_filter: String,
    /// Where metrics and health are served.
    pub listen: SocketAddr,
}
