//! Blobs as objects of a bucket.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as ObjectPath;
use object_store::{
    BackoffConfig, Certificate, ClientOptions, Error as StoreError, ObjectStore as _, ObjectStoreExt as _, PutMode,
    PutPayload, RetryConfig,
};
use secrecy::ExposeSecret as _;
use tokio::sync::Semaphore;

use crate::config::S3Config;
use crate::error::{Error, Result};
use crate::key::check_key;

#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    store: Arc<AmazonS3>,
    permits: Arc<Semaphore>,
    max_concurrency: usize,
    limit: usize,
}

impl Bucket {
    pub(crate) fn new(config: &S3Config, max_concurrency: usize, limit: usize) -> Result<Self> {
        let max_concurrency = max_concurrency.clamp(1, Semaphore::MAX_PERMITS);
        let store = builder(config)?.build().map_err(|error| unusable(&error.to_string()))?;
        Ok(Self {
            store: Arc::new(store),
            permits: Arc::new(Semaphore::new(max_concurrency)),
            max_concurrency,
            limit,
        })
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let path = object_path(key)?;
        let _permit = self.permits.acquire().await;
        let answer = match self.store.get(&path).await {
            Ok(answer) => answer,
            Err(error) => return absent_or(error),
        };
        let announced = usize::try_from(answer.meta.size).unwrap_or(usize::MAX);
        let too_large = Error::TooLarge { limit: self.limit };
        if announced > self.limit {
            return Err(too_large);
        }
        let mut content = BytesMut::with_capacity(announced);
        let mut chunks = answer.into_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(failed)?;
            if content.len() + chunk.len() > self.limit {
                return Err(too_large);
            }
            content.extend_from_slice(&chunk);
        }
        Ok(Some(content.freeze()))
    }

    pub(crate) async fn get_many(&self, keys: Vec<String>) -> Vec<Result<Option<Bytes>>> {
        let reads = keys.into_iter().map(|key| async move { self.get(&key).await });
        stream::iter(reads).buffered(self.max_concurrency).collect().await
    }

    pub(crate) async fn head(&self, key: &str) -> Result<Option<u64>> {
        let path = object_path(key)?;
        let _permit = self.permits.acquire().await;
        match self.store.head(&path).await {
            Ok(facts) => Ok(Some(facts.size)),
            Err(error) => absent_or(error),
        }
    }

    pub(crate) async fn put_if_absent(&self, key: &str, content: Bytes) -> Result<()> {
        let path = object_path(key)?;
        let _permit = self.permits.acquire().await;
        match self
            .store
            .put_opts(&path, PutPayload::from(content), PutMode::Create.into())
            .await
        {
            Ok(_) | Err(StoreError::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Whether the bucket is there and may be read. Nobody has an object of this name.
    pub(crate) async fn check(&self) -> Result<()> {
        self.get("couch-sql-check").await.map(|_| ())
    }
}

fn builder(config: &S3Config) -> Result<AmazonS3Builder> {
    let mut options = ClientOptions::new().with_timeout(config.request_timeout);
    if let Some(file) = &config.ca_file {
        let unreadable = |reason: String| unusable(&format!("CA file {}: {reason}", file.display()));
        let pem = std::fs::read(file).map_err(|error| unreadable(error.to_string()))?;
        for certificate in Certificate::from_pem_bundle(&pem).map_err(|error| unreadable(error.to_string()))? {
            options = options.with_root_certificate(certificate);
        }
    }
    let mut builder = match (&config.access_key, &config.secret) {
        (Some(access_key), Some(secret)) => AmazonS3Builder::new()
            .with_access_key_id(access_key)
            .with_secret_access_key(secret.expose_secret()),
        (None, None) => AmazonS3Builder::from_env(),
        _ => return Err(unusable("access key and secret belong together")),
    };
    if let Some(endpoint) = &config.endpoint {
        let url = url::Url::parse(endpoint).map_err(|_| unusable("the endpoint is not a URL"))?;
        if url.scheme() == "http" {
            // Without TLS, a machine without system certificates is good enough.
            options = options.with_allow_http(true).with_no_system_certificates(true);
        }
        builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
    }
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    let retry = RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: config.retries,
        retry_timeout: config.request_timeout.saturating_mul(4),
    };
    Ok(builder
        .with_bucket_name(&config.bucket)
        .with_retry(retry)
        .with_client_options(options))
}

/// The key as it is: the store's other way of making a path would encode braces.
fn object_path(key: &str) -> Result<ObjectPath> {
    check_key(key)?;
    ObjectPath::parse(key).map_err(|_| Error::BadKey {
        reason: "it cannot name an object",
    })
}

fn absent_or<T>(error: StoreError) -> Result<Option<T>> {
    match error {
        // A missing bucket must not look like a store in which every blob is missing.
        StoreError::NotFound { source, .. } if source.to_string().contains("NoSuchBucket") => {
            Err(unusable("the bucket does not exist"))
        }
        StoreError::NotFound { .. } => Ok(None),
        other => Err(failed(other)),
    }
}

fn failed(error: StoreError) -> Error {
    match error {
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
            Error::Denied { source: error.into() }
        }
        _ => Error::Unavailable { source: error.into() },
    }
}

fn unusable(reason: &str) -> Error {
    Error::Config {
        reason: reason.to_owned(),
    }
}
