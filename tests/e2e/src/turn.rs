//! RabbitMQ's queues have fixed names, so that only one world may use a server at a time.

use std::fs::File;

use anyhow::{Context, Result};
use url::Url;

/// The right to use a RabbitMQ server; given back when dropped, or when the process ends.
#[derive(Debug)]
pub struct Turn {
    // The lock belongs to the open file.
    _file: File,
}

impl Turn {
    /// Waits for the turn.
    ///
    /// # Errors
    /// The lock file cannot be written.
    pub async fn take(server: &Url) -> Result<Self> {
        let name = format!("couch-sql-rabbitmq-{}.lock", server.port().unwrap_or(5672));
        let path = std::env::temp_dir().join(name);
        let file = tokio::task::spawn_blocking(move || -> Result<File> {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .with_context(|| format!("cannot write {}", path.display()))?;
            file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
            Ok(file)
        })
        .await??;
        Ok(Self { _file: file })
    }
}
