//! PostgreSQL databases that live as long as a world.

use anyhow::{Context, Result};
use tokio_postgres::{Client, NoTls};
use url::Url;

/// Connects, and keeps the connection going in the background.
///
/// # Errors
/// The server cannot be reached, or refuses.
pub async fn connect(url: &Url) -> Result<Client> {
    let server = format!("{}:{}", url.host_str().unwrap_or_default(), url.port().unwrap_or(5432));
    let (client, connection) = tokio_postgres::connect(url.as_str(), NoTls)
        .await
        .with_context(|| format!("PostgreSQL at {server} cannot be reached"))?;
    tokio::spawn(async move {
        // It ends with the client, or with the server; then every query says so.
        connection.await.ok();
    });
    Ok(client)
}

/// Databases with a common prefix, dropped when this is dropped.
#[derive(Debug)]
pub struct Databases {
    server: Url,
    prefix: String,
    names: Vec<String>,
}

impl Databases {
    /// No database yet, on this server.
    pub fn new(server: Url, prefix: impl Into<String>) -> Self {
        Self {
            server,
            prefix: prefix.into(),
            names: Vec::new(),
        }
    }

    /// Creates an empty database and gives its URL.
    ///
    /// # Errors
    /// Whatever the server refuses.
    pub async fn create(&mut self, suffix: &str) -> Result<Url> {
        let name = format!("{}_{suffix}", self.prefix);
        let server = connect(&self.server).await?;
        // Nobody is ever connected to template0, so that it can always be copied.
        server
            .batch_execute(&format!("create database {name} template template0"))
            .await
            .context("create a database")?;
        self.names.push(name.clone());
        let mut url = self.server.clone();
        url.set_path(&name);
        Ok(url)
    }
}

impl Drop for Databases {
    fn drop(&mut self) {
        let (server, names) = (self.server.clone(), std::mem::take(&mut self.names));
        // A runtime cannot be blocked on from within another one, so this one has a thread of its own.
        let dropping = std::thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let server = connect(&server).await?;
                for name in names {
                    server
                        .batch_execute(&format!("drop database if exists {name} with (force)"))
                        .await?;
                }
                Ok(())
            })
        });
        if let Ok(Err(error)) = dropping.join() {
            eprintln!("databases {}_… are left behind: {error:#}", self.prefix);
        }
    }
}
