//! Databases of a test's own, dropped when it ends.

use std::future::Future;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use state::{SCHEMA, State, StateConfig};

/// No wait of a test lasts longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

static NEXT: AtomicU32 = AtomicU32::new(0);

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

async fn run_on_server(statement: String) {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect(&server())
        .await
        .expect("the test server answers");
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&pool).await.unwrap();
    pool.close().await;
}

/// One database, empty at first.
pub struct TestDatabase {
    name: String,
    pub url: String,
}

impl TestDatabase {
    pub async fn create() -> Self {
        let name = format!(
            "state_test_{}_{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        run_on_server(format!("create database {name}")).await;
        Self {
            url: url_of(&name),
            name,
        }
    }

    pub fn config(&self) -> StateConfig {
        StateConfig {
            url: self.url.clone(),
            password: None,
            ca_file: None,
            max_connections: 8,
        }
    }

    /// A connection that has not looked at the schema.
    pub async fn unchecked(&self) -> State {
        State::connect_unchecked(&self.config()).await.unwrap()
    }

    /// For looking behind the scenes, and for playing others.
    pub async fn sql(&self) -> PgPool {
        let options = PgConnectOptions::from_str(&self.url)
            .unwrap()
            .options([("search_path", SCHEMA)]);
        PgPoolOptions::new()
            .max_connections(4)
            .connect_with(options)
            .await
            .unwrap()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let statement = format!("drop database if exists {} with (force)", self.name);
        // A test may end inside a runtime, or by a panic: a thread and runtime of its own work either way.
        let dropped = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(run_on_server(statement));
        });
        if dropped.join().is_err() {
            eprintln!("database {} could not be dropped", self.name);
        }
    }
}
