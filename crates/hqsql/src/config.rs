//! Where HQ's tables are.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

/// One database.
#[derive(Clone)]
pub struct ConnectionConfig {
    /// `postgres://user@host:port/database?sslmode=…`. `sslmode` is `disable`; `prefer` (default: TLS where the server
    /// offers it, certificate not checked); `require` (TLS or nothing; the certificate is checked, but for its name, when
    /// there is a CA file); or `verify-full` (certificate and host name are checked against the CA file, or else against
    /// the system's certificates).
    pub url: String,
    /// Password, instead of one in the URL.
    pub password: Option<SecretString>,
}

impl ConnectionConfig {
    /// A database by its URL alone.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            password: None,
        }
    }
}

/// The URL may hold a password: it is not shown.
impl fmt::Debug for ConnectionConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionConfig").finish_non_exhaustive()
    }
}

/// One database of a sharded install.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// First and last of HQ's logical shards that it holds, both included.
    pub range: (u32, u32),
    /// The database.
    pub connection: ConnectionConfig,
}

/// HQ's databases.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// HQ's `default` database: progress rows and stock tables; forms and cases too when there are no shards.
    pub default: ConnectionConfig,
    /// Number of HQ's logical shards, a power of two; absent when HQ is not sharded.
    pub shard_count: Option<u32>,
    /// The databases of the shards, covering `0..shard_count`; empty when HQ is not sharded.
    pub shards: Vec<ShardConfig>,
    /// Most connections to each database; at least two.
    pub max_connections: usize,
    /// No statement runs longer than this; zero for no limit.
    pub statement_timeout: Duration,
    /// A session that leaves its transaction idle this long is ended by the server; what waits for a fence waits at most
    /// about this long for a worker that was stopped in mid-transaction.
    pub idle_in_transaction_timeout: Duration,
    /// Certificates (PEM) of the authorities that signed the servers' certificates.
    pub ca_file: Option<PathBuf>,
}

impl TargetConfig {
    /// One database, with the default limits.
    pub fn new(default: ConnectionConfig) -> Self {
        Self {
            default,
            shard_count: None,
            shards: Vec::new(),
            max_connections: 16,
            // Longer than any merge takes, short enough that a statement stuck behind a lock is noticed.
            statement_timeout: Duration::from_secs(120),
            idle_in_transaction_timeout: Duration::from_secs(30),
            ca_file: None,
        }
    }
}
