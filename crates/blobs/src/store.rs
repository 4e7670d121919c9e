//! The blob store, wherever it is.

use std::time::Instant;

use bytes::Bytes;
use metrics::{counter, histogram};
use tracing::Instrument as _;

use crate::config::{BlobConfig, BlobLocation};
use crate::error::Result;
use crate::files::Files;
use crate::metrics_names;
use crate::s3::Bucket;

/// The blob store. Clones share limits and connections.
#[derive(Clone, Debug)]
pub struct BlobStore {
    backend: Backend,
}

#[derive(Clone, Debug)]
enum Backend {
    Files(Files),
    Bucket(Bucket),
}

impl BlobStore {
    /// Opens the store.
    ///
    /// # Errors
    /// [`crate::Error::Config`] if the directory is not there or the bucket's configuration cannot be used.
    pub fn new(config: &BlobConfig) -> Result<Self> {
        let backend = match &config.location {
            BlobLocation::Fs { path } => {
                Backend::Files(Files::new(path, config.max_concurrency, config.max_blob_bytes)?)
            }
            BlobLocation::S3(s3) => Backend::Bucket(Bucket::new(s3, config.max_concurrency, config.max_blob_bytes)?),
        };
        Ok(Self { backend })
    }

    /// Proves that the store can be reached and read.
    pub async fn check(&self) -> Result<()> {
        match &self.backend {
            Backend::Files(files) => files.check().await,
            Backend::Bucket(bucket) => bucket.check().await,
        }
    }

    /// A blob's bytes as they are stored, or `None` if there is none with this key.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let read = async {
            match &self.backend {
                Backend::Files(files) => files.get(key).await,
                Backend::Bucket(bucket) => bucket.get(key).await,
            }
        };
        let blob = timed("get", read).await;
        count("get", std::slice::from_ref(&blob));
        blob
    }

    /// Many blobs, in the order of the keys, each with its own outcome.
    pub async fn get_many(&self, keys: Vec<String>) -> Vec<Result<Option<Bytes>>> {
        let read = async {
            match &self.backend {
                Backend::Files(files) => files.get_many(keys).await,
                Backend::Bucket(bucket) => bucket.get_many(keys).await,
            }
        };
        let blobs = timed("get_many", read).await;
        count("get_many", &blobs);
        blobs
    }

    /// The stored length of a blob, or `None` if there is none with this key.
    pub async fn head(&self, key: &str) -> Result<Option<u64>> {
        let read = async {
            match &self.backend {
                Backend::Files(files) => files.head(key).await,
                Backend::Bucket(bucket) => bucket.head(key).await,
            }
        };
        let length = timed("head", read).await;
        counter!(metrics_names::BLOBS, "op" => "head", "outcome" => outcome(&length)).increment(1);
        length
    }

    /// Whether there is a blob with this key.
    pub async fn exists(&self, key: &str) -> Result<bool> {
        Ok(self.head(key).await?.is_some())
    }

    /// Stores a blob, durably, unless there is one with this key: that one stays as it is, whatever it holds.
    pub async fn put_if_absent(&self, key: &str, content: Bytes) -> Result<()> {
        let write = async {
            match &self.backend {
                Backend::Files(files) => files.put_if_absent(key, content).await,
                Backend::Bucket(bucket) => bucket.put_if_absent(key, content).await,
            }
        };
        let written = timed("put", write).await;
        let outcome = if written.is_ok() { "ok" } else { "error" };
        counter!(metrics_names::BLOBS, "op" => "put", "outcome" => outcome).increment(1);
        written
    }
}

async fn timed<T>(op: &'static str, work: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let done = work.instrument(tracing::info_span!("blobs", op)).await;
    histogram!(metrics_names::SECONDS, "op" => op).record(start.elapsed().as_secs_f64());
    done
}

fn outcome<T>(blob: &Result<Option<T>>) -> &'static str {
    match blob {
        Ok(Some(_)) => "ok",
        Ok(None) => "missing",
        Err(_) => "error",
    }
}

fn count(op: &'static str, blobs: &[Result<Option<Bytes>>]) {
    for label in ["ok", "missing", "error"] {
        let number = blobs.iter().filter(|blob| outcome(blob) == label).count();
        if number > 0 {
            counter!(metrics_names::BLOBS, "op" => op, "outcome" => label).increment(number as u64);
        }
    }
    let bytes: usize = blobs.iter().flatten().flatten().map(Bytes::len).sum();
    counter!(metrics_names::BYTES).increment(bytes as u64);
}
