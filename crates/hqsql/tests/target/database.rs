//! Databases of a test's own, dropped when it ends.

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hqsql::{Alone, ConnectionConfig, ShardConfig, ShardId, Target, TargetConfig};
use proto::ids::{Domain, Epoch};
use tokio_postgres::NoTls;

/// No wait of a test lasts longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The domain of most tests.
pub fn domain() -> Domain {
    Domain::from("clinic")
}

/// The epoch at which its fence is open.
pub const EPOCH: Epoch = Epoch(7 << 32);

pub const SHARD: fn(&Target) -> ShardId = |target| target.shard_of("");

/// Waits for an event, but not for ever.
pub async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, event)
        .await
        .unwrap_or_else(|_| panic!("{what} did not happen in time"))
}

fn server() -> String {
    std::env::var("C2S_TEST_PG_URL").expect(
        "C2S_TEST_PG_URL must name a PostgreSQL server on which databases may be created, \
         such as postgres://postgres@127.0.0.1:5432/postgres; `cargo xtask test` starts one and sets it",
    )
}

/// The server's URL with another database.
fn url_of(database: &str) -> String {
    let server = server();
    let (address, query) = server
        .split_once('?')
        .map_or((server.as_str(), None), |(a, q)| (a, Some(q)));
    let start = address.find("://").expect("a URL") + 3;
    let end = address[start..].find('/').map_or(address.len(), |slash| start + slash);
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}/{database}{query}", &address[..end])
}

/// A plain session, for looking and for playing others.
pub async fn session(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .expect("the test server answers");
    tokio::spawn(connection);
    client
}

/// One database.
pub struct TestDatabase {
    pub name: String,
    pub url: String,
}

impl TestDatabase {
    pub async fn create() -> Self {
        let name = format!(
            "hqsql_test_{}_{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        session(&server())
            .await
            .batch_execute(&format!("create database {name}"))
            .await
            .unwrap();
        Self {
            url: url_of(&name),
            name,
        }
    }

    pub async fn session(&self) -> tokio_postgres::Client {
        session(&self.url).await
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let name = self.name.clone();
        // A test may end inside a runtime, or by a panic: its own thread and runtime work either way.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let statement = format!("drop database if exists {name} with (force)");
                session(&server()).await.batch_execute(&statement).await.unwrap();
            });
        });
        if dropped.join().is_err() {
            eprintln!("database {} could not be dropped", self.name);
        }
    }
}

/// An unsharded target with its tables, and the domain's fence open.
pub struct Fixture {
    pub target: Target,
    pub database: TestDatabase,
}

impl Fixture {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut TargetConfig)) -> Self {
        let database = TestDatabase::create().await;
        let mut config = TargetConfig::new(ConnectionConfig::new(&database.url));
        config.max_connections = 6;
        change(&mut config);
        let target = Target::connect(&config).await.unwrap();
        target.create_tables().await.unwrap();
        target.open_fence(&Alone, &domain(), EPOCH).await.unwrap();
        Self { target, database }
    }

    pub async fn begin(&self) -> hqsql::FencedTx {
        self.target.begin(SHARD(&self.target), &domain(), EPOCH).await.unwrap()
    }

    pub async fn session(&self) -> tokio_postgres::Client {
        self.database.session().await
    }

    /// Rows of a query as text, columns joined by `|`.
    pub async fn rows(&self, query: &str) -> Vec<String> {
        rows(&self.session().await, query).await
    }

    /// Table name and next value of every sequence, without taking one.
    pub async fn sequences(&self) -> Vec<String> {
        self.rows("select sequencename, coalesce(last_value, 0) from pg_sequences order by 1")
            .await
    }
}

/// Rows of a query as text, columns joined by `|`.
pub async fn rows(client: &tokio_postgres::Client, query: &str) -> Vec<String> {
    let mut found = Vec::new();
    for message in client.simple_query(query).await.unwrap() {
        if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
            let cells: Vec<&str> = (0..row.len()).map(|cell| row.get(cell).unwrap_or("-")).collect();
            found.push(cells.join("|"));
        }
    }
    found
}

/// A target of two databases that share four logical shards.
pub async fn two_shards() -> (Target, [TestDatabase; 3]) {
    let databases = [
        TestDatabase::create().await,
        TestDatabase::create().await,
        TestDatabase::create().await,
    ];
    let mut config = TargetConfig::new(ConnectionConfig::new(&databases[0].url));
    config.shard_count = Some(4);
    config.shards = vec![
        ShardConfig {
            range: (0, 1),
            connection: ConnectionConfig::new(&databases[1].url),
        },
        ShardConfig {
            range: (2, 3),
            connection: ConnectionConfig::new(&databases[2].url),
        },
    ];
    config.max_connections = 4;
    let target = Target::connect(&config).await.unwrap();
    target.create_tables().await.unwrap();
    target.open_fence(&Alone, &domain(), EPOCH).await.unwrap();
    (target, databases)
}

/// Waits until some session of this database waits for a lock.
pub async fn until_waiting(client: &tokio_postgres::Client, sessions: i64) {
    soon("a session waiting for a lock", async {
        loop {
            let waiting: i64 = client
                .query_one(
                    "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
                    &[],
                )
                .await
                .unwrap()
                .get(0);
            if waiting >= sessions {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}
