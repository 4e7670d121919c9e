//! Where the servers and the programs under test are. `cargo xtask test` and `cargo xtask bench` set these variables.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use url::Url;

fn required(name: &str, what: &str) -> Result<String> {
    std::env::var(name)
        .with_context(|| format!("{name} is not set: it must be {what}, as `cargo xtask test` provides it"))
}

fn url(name: &str, what: &str) -> Result<Url> {
    required(name, what)?
        .parse()
        .with_context(|| format!("{name} is not a URL"))
}

/// A PostgreSQL server whose user may create databases: `C2S_TEST_PG_URL`.
///
/// # Errors
/// The variable is not set, or is no URL.
pub fn postgres() -> Result<Url> {
    url("C2S_TEST_PG_URL", "the URL of a PostgreSQL superuser")
}

/// A RabbitMQ virtual host: `C2S_TEST_AMQP_URL`.
///
/// # Errors
/// As [`postgres`].
pub fn amqp() -> Result<Url> {
    url("C2S_TEST_AMQP_URL", "the URL of a RabbitMQ virtual host for tests")
}

/// A PouchDB Server with its administrator's name and password: `C2S_TEST_POUCHDB_URL`.
///
/// # Errors
/// As [`postgres`].
pub fn pouchdb() -> Result<Url> {
    url("C2S_TEST_POUCHDB_URL", "the URL of a PouchDB Server")
}

/// A shell command that takes `restart`, `stop`, `start` or `kill` for the RabbitMQ under test: `C2S_TEST_RABBIT_CTL`.
///
/// # Errors
/// The variable is not set.
pub fn rabbit_control() -> Result<String> {
    required("C2S_TEST_RABBIT_CTL", "a command that restarts RabbitMQ")
}

/// The folder of the programs under test: `C2S_TEST_BIN_DIR`.
///
/// # Errors
/// The variable is not set, or the folder has no `coordinator`.
pub fn binaries() -> Result<PathBuf> {
    let folder = PathBuf::from(required("C2S_TEST_BIN_DIR", "the folder with the built programs")?);
    ensure!(
        folder.join("coordinator").is_file(),
        "there is no program `coordinator` in {} (C2S_TEST_BIN_DIR)",
        folder.display()
    );
    Ok(folder)
}
