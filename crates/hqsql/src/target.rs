//! HQ's databases and their connection pools.

use std::collections::HashMap;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use secrecy::ExposeSecret;
use tokio::sync::OnceCell;
use tokio_postgres::config::Host;

use crate::config::{ConnectionConfig, TargetConfig};
use crate::error::{Error, Fault, Result};
use crate::form_rows::BLOBMETA_WITHOUT_COMPRESSION;
use crate::routing::{Routing, ShardId};
use crate::table::{Table, TableRow};
use crate::tls::{self, SslMode};

/// How long a new connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for a connection of the pool. Longer than any transaction lasts: whoever waits longer is told.
const POOL_TIMEOUT: Duration = Duration::from_secs(300);

/// HQ's databases. Cheap to clone; the clones share their pools.
#[derive(Clone, Debug)]
pub struct Target {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    default: Database,
    shards: Vec<Database>,
    routing: Routing,
    timeouts: Timeouts,
}

/// Limits of every session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) statement: Duration,
    pub(crate) idle_in_transaction: Duration,
}

/// One database and its pool.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    /// Its role and address, for messages.
    pub(crate) label: String,
    pool: Pool,
    /// Whether `blobs_blobmeta` has `compressed_length`, once somebody asked.
    compression: Arc<OnceCell<bool>>,
    /// Whether it has HQ's stock tables, once somebody asked.
    pub(crate) stock: Arc<OnceCell<bool>>,
}

impl Database {
    fn open(role: &str, config: &ConnectionConfig, target: &TargetConfig) -> Result<Self> {
        let (url, mode) = SslMode::split(&config.url)?;
        let mut settings = tokio_postgres::Config::from_str(&url)
            // Its text names the key that is wrong, not its value.
            .map_err(|error| Error::Config(format!("the URL of the {role} database cannot be read: {error}")))?;
        if let Some(password) = &config.password {
            settings.password(password.expose_secret());
        }
        if settings.get_application_name().is_none() {
            settings.application_name("couch-sql-migration");
        }
        if settings.get_connect_timeout().is_none() {
            settings.connect_timeout(CONNECT_TIMEOUT);
        }
        let local = settings.get_hosts().iter().all(|host| !matches!(host, Host::Tcp(_)));
        // As in libpq, there is no TLS on a local socket.
        let mode = if local { SslMode::Disable } else { mode };
        settings.ssl_mode(mode.negotiation());

        let label = format!("{role} ({})", address(&settings));
        let manager = Manager::from_config(
            settings,
            tls::connector(mode, target.ca_file.as_deref().map(Path::new))?,
            ManagerConfig {
                recycling_method: RecyclingMethod::Fast,
            },
        );
        let limits = set_timeouts(target.statement_timeout, target.idle_in_transaction_timeout, "session");
        let pool = Pool::builder(manager)
            .max_size(target.max_connections.max(2))
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(POOL_TIMEOUT))
            .create_timeout(Some(CONNECT_TIMEOUT + CONNECT_TIMEOUT))
            .post_create(Hook::async_fn(move |client, _| {
                let limits = limits.clone();
                Box::pin(async move { client.batch_execute(&limits).await.map_err(HookError::Backend) })
            }))
            .build()
            .map_err(|error| Error::Config(error.to_string()))?;
        Ok(Self {
            label,
            pool,
            compression: Arc::new(OnceCell::new()),
            stock: Arc::new(OnceCell::new()),
        })
    }

    pub(crate) async fn client(&self) -> Result<Object> {
        self.pool.get().await.map_err(|error| Error::Connect {
            database: self.label.clone(),
            source: Fault::of_pool(&error),
        })
    }

    /// `blobs_blobmeta` as this database has it.
    pub(crate) async fn blobmeta_table(&self, client: &Object) -> Result<Table> {
        let compression = self
            .compression
            .get_or_try_init(|| async {
                // NULL, and so an error that is not remembered, when there is no such table.
                let present: Option<bool> = client
                    .query_one(
                        "select bool_or(attname = 'compressed_length' and not attisdropped) from pg_attribute \
                         where attrelid = to_regclass('blobs_blobmeta')",
                        &[],
                    )
                    .await
                    .and_then(|row| row.try_get(0))
                    .map_err(Error::during("look at blobs_blobmeta"))?;
                present.ok_or_else(|| Error::Tables {
                    database: self.label.clone(),
                    problems: vec!["table blobs_blobmeta is missing".to_owned()],
                })
            })
            .await?;
        Ok(if *compression {
            <proto::rows::BlobMetaRow as TableRow>::TABLE
        } else {
            BLOBMETA_WITHOUT_COMPRESSION
        })
    }
}

fn address(settings: &tokio_postgres::Config) -> String {
    let hosts: Vec<_> = settings
        .get_hosts()
        .iter()
        .map(|host| match host {
            Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            Host::Unix(path) => path.display().to_string(),
        })
        .collect();
    format!("{}/{}", hosts.join(","), settings.get_dbname().unwrap_or_default())
}

/// Statements that set the limits for the `session`, or `local`ly for a transaction.
pub(crate) fn set_timeouts(statement: Duration, idle_in_transaction: Duration, scope: &str) -> String {
    format!(
        "set {scope} statement_timeout = {}; set {scope} idle_in_transaction_session_timeout = {}",
        statement.as_millis(),
        idle_in_transaction.as_millis(),
    )
}

impl Target {
    /// Connects to every database once, so that a wrong address or password shows at once.
    ///
    /// # Errors
    /// A configuration that cannot be right, or a database that does not answer.
    pub async fn connect(config: &TargetConfig) -> Result<Self> {
        let target = Self::open(config)?;
        target.reach().await?;
        Ok(target)
    }

    /// Connects to every database once.
    ///
    /// # Errors
    /// A database that does not answer.
    pub async fn reach(&self) -> Result<()> {
        drop(self.default_database().client().await?);
        for shard in &self.inner.shards {
            drop(shard.client().await?);
        }
        Ok(())
    }

    /// As [`Target::connect`], but connects to a database only when it is asked for something.
    ///
    /// # Errors
    /// A configuration that cannot be right.
    pub fn open(config: &TargetConfig) -> Result<Self> {
        let routing = Routing::new(config)?;
        let default = Database::open("default", &config.default, config)?;
        let shards = if config.shards.is_empty() {
            vec![default.clone()]
        } else {
            let open = |(number, shard): (usize, &crate::config::ShardConfig)| {
                let (first, last) = shard.range;
                Database::open(&format!("shard {number}, [{first}, {last}]"), &shard.connection, config)
            };
            config.shards.iter().enumerate().map(open).collect::<Result<_>>()?
        };
        let timeouts = Timeouts {
            statement: config.statement_timeout,
            idle_in_transaction: config.idle_in_transaction_timeout,
        };
        Ok(Self {
            inner: Arc::new(Inner {
                default,
                shards,
                routing,
                timeouts,
            }),
        })
    }

    /// The database of a form id, a case id, or the parent id of blob metadata.
    pub fn shard_of(&self, id: &str) -> ShardId {
        self.inner.routing.shard_of(id)
    }

    /// All databases that hold forms and cases.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        self.inner.routing.shards()
    }

    pub(crate) fn default_database(&self) -> &Database {
        &self.inner.default
    }

    pub(crate) fn timeouts(&self) -> Timeouts {
        self.inner.timeouts
    }

    pub(crate) fn database(&self, shard: ShardId) -> Result<&Database> {
        self.inner
            .shards
            .get(shard.index())
            .ok_or_else(|| Error::Config(format!("there is no shard database {shard}")))
    }

    /// Every shard database once, with its id.
    pub(crate) fn databases(&self) -> impl Iterator<Item = (ShardId, &Database)> {
        self.shards().zip(&self.inner.shards)
    }

    /// The ids by the database that they belong to.
    pub(crate) fn by_shard<'a>(&self, ids: &'a [String]) -> HashMap<ShardId, Vec<&'a str>> {
        let mut groups: HashMap<ShardId, Vec<&str>> = HashMap::new();
        for id in ids {
            groups.entry(self.shard_of(id)).or_default().push(id);
        }
        groups
    }
}
