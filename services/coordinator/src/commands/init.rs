//! `init` and `config check`: makes what is missing, and says what is used and what can be reached.

use hqsql::{Role, Target, role_grants};
use proto::topology::Stage;
use service::config::Config;
use service::connect;
use state::State;

use crate::failure::{Exit, Failure, Result};

/// What `init` makes besides the state schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetTables {
    /// Uses HQ's tables as they are.
    AsFound,
    /// `--create-target`: creates HQ's tables where they are missing.
    Create,
}

/// Creates or upgrades the state schema, and our fence table (with `--create-target` also HQ's tables) in the target.
///
/// # Errors
/// Servers that cannot be reached; tables that are not as expected.
pub async fn init(config: &Config, tables: TargetTables) -> Result<Exit> {
    let state = State::connect_unchecked(&connect::state_config(config)).await?;
    state.init().await?;
    println!("state schema: ready");
    let target = Target::connect(&connect::target_config(config)).await?;
    if tables == TargetTables::Create {
        target.create_tables().await?;
        println!("HQ's tables: ready");
    }
    target.create_fence_table().await?;
    target.check_tables().await?;
    println!("target: ready");
    Ok(Exit::Clean)
}

/// Prints the least rights that each role needs on the target.
pub fn grants(config: &Config) -> Exit {
    let target = &config.target;
    for (role, name, default) in [
        (Role::Writer, &target.writer_role, "couch_sql_writer"),
        (Role::Reader, &target.reader_role, "couch_sql_reader"),
    ] {
        println!("{}", role_grants(role, name.as_deref().unwrap_or(default)));
    }
    Exit::Clean
}

/// Prints the effective configuration and reaches every server; a line for each.
///
/// # Errors
/// `C2S-0109` when any of them cannot be reached.
pub async fn check(config: &Config) -> Result<Exit> {
    for value in config.describe() {
        println!(
            "{} = {}  # {}",
            value.key,
            value.value.as_deref().unwrap_or("(absent)"),
            value.origin
        );
    }
    let mut failed = 0;
    let mut tell = |what: &str, outcome: Result<String>| match outcome {
        Ok(text) => println!("{what}: ok {text}"),
        Err(failure) => {
            failed += 1;
            println!("{what}: failed {failure}");
        }
    };
    tell("state", check_state(config).await);
    tell("target", check_target(config).await);
    tell("couch", check_couch(config).await);
    tell("blobs", check_blobs(config).await);
    tell("broker", check_broker(config).await);
    if failed == 0 {
        return Ok(Exit::Clean);
    }
    Err(Failure::new(
        "C2S-0109",
        format!("{failed} of 5 checks failed"),
        "see the lines above",
    ))
}

async fn check_state(config: &Config) -> Result<String> {
    State::connect(&connect::state_config(config)).await?.ping().await?;
    Ok("the schema is the one this program knows".to_owned())
}

async fn check_target(config: &Config) -> Result<String> {
    let target = Target::connect(&connect::target_config(config)).await?;
    target.check_tables().await?;
    Ok(format!(
        "{} database(s), all tables as expected",
        target.shards().count()
    ))
}

async fn check_couch(config: &Config) -> Result<String> {
    let couch = couch::Couch::new(connect::couch_config(config))?;
    let server = couch.ping().await?;
    for (name, design, view) in [
        (&config.source.forms_db, crate::driver::DESIGN, crate::driver::VIEW),
        (&config.source.domains_db, "domain", "domains"),
    ] {
        let database = couch.database(name);
        database.info().await?;
        database.ensure_view(design, view).await?;
    }
    Ok(format!("version {}", server.version))
}

async fn check_blobs(config: &Config) -> Result<String> {
    connect::blob_store(config).await?;
    Ok(String::new())
}

async fn check_broker(config: &Config) -> Result<String> {
    let broker = broker::connect(&connect::broker_config(config, "coordinator config check")?).await?;
    let depth = broker.queue_depth(Stage::Form).await;
    broker.close().await;
    depth?;
    Ok(String::new())
}
