//! From the configuration to the settings of each crate that talks to a server.

use std::time::Duration;

use blobs::{BlobConfig, BlobLocation, BlobStore, S3Config};
use broker::{BrokerConfig, BrokerError};
use couch::CouchConfig;
use hqsql::{ConnectionConfig, ShardConfig, TargetConfig};
use state::StateConfig;

use crate::config::{BlobsKind, Config};

/// Bytes of one answer of CouchDB at most; a bulk read above it is asked for in parts.
const MAX_RESPONSE_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of one blob at most.
const MAX_BLOB_BYTES: usize = 64 * 1024 * 1024;

/// The state schema.
pub fn state_config(config: &Config) -> StateConfig {
    let state = &config.state;
    StateConfig {
        url: state.url.to_string(),
        password: state.password.clone(),
        ca_file: state.ca_file.clone(),
        max_connections: state.max_connections,
    }
}

/// HQ's databases.
pub fn target_config(config: &Config) -> TargetConfig {
    let target = &config.target;
    let connection = |url: &url::Url, password| ConnectionConfig {
        url: url.to_string(),
        password,
    };
    let mut result = TargetConfig::new(connection(&target.default, target.password.clone()));
    result.shard_count = target.shard_count;
    result.shards = target
        .shards
        .iter()
        .map(|shard| ShardConfig {
            range: shard.range,
            connection: connection(&shard.url, shard.password.clone().or_else(|| target.password.clone())),
        })
        .collect();
    result.max_connections = target.max_connections;
    result.ca_file.clone_from(&target.ca_file);
    // A worker that is stopped in mid-transaction holds up a reset for this long: as long as its claims live.
    result.idle_in_transaction_timeout = config.worker.lease.max(Duration::from_secs(1));
    result
}

/// CouchDB.
pub fn couch_config(config: &Config) -> CouchConfig {
    let source = &config.source;
    CouchConfig {
        username: source.username.clone(),
        password: source.password.clone(),
        ca_file: source.ca_file.clone(),
        max_concurrency: source.max_concurrency,
        max_requests_per_second: Some(source.max_requests_per_second),
        max_response_bytes: MAX_RESPONSE_BYTES,
        request_timeout: source.timeout,
        ..CouchConfig::new(source.url.clone())
    }
}

/// The blob store, checked.
///
/// # Errors
/// The store cannot be reached, or is not as configured.
pub async fn blob_store(config: &Config) -> Result<BlobStore, blobs::Error> {
    let settings = &config.blobs;
    let location = match settings.kind {
        BlobsKind::Fs => BlobLocation::Fs {
            path: settings.path.clone().unwrap_or_default(),
        },
        BlobsKind::S3 => BlobLocation::S3(S3Config {
            endpoint: settings
                .endpoint
                .as_ref()
                .map(|url| url.as_str().trim_end_matches('/').to_owned()),
            region: settings.region.clone(),
            access_key: settings.access_key.clone(),
            secret: settings.secret_key.clone(),
            ca_file: settings.ca_file.clone(),
            request_timeout: settings.timeout,
            ..S3Config::new(settings.bucket.as_deref().unwrap_or_default())
        }),
    };
    let store = BlobStore::new(&BlobConfig {
        max_concurrency: settings.max_concurrency,
        max_blob_bytes: MAX_BLOB_BYTES,
        ..BlobConfig::new(location)
    })?;
    store.check().await?;
    Ok(store)
}

/// The broker.
///
/// # Errors
/// The address is not one of a broker.
pub fn broker_config(config: &Config, process: &str) -> Result<BrokerConfig, BrokerError> {
    let settings = &config.broker;
    let mut result = BrokerConfig::new(settings.url.as_str())?;
    if let Some(password) = &settings.password {
        result = result.with_password(password.clone());
    }
    result.ca_file.clone_from(&settings.ca_file);
    result.connection_name = process.to_owned();
    Ok(result)
}

/// Whether the configured broker lives in this process.
pub fn is_in_process(config: &Config) -> bool {
    config.broker.url.scheme() == "memory"
}
