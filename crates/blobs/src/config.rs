//! Configuration of the blob store.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

/// Where blobs are, and how hard to ask for them.
#[derive(Clone, Debug)]
pub struct BlobConfig {
    /// Where blobs are.
    pub location: BlobLocation,
    /// Reads at once.
    pub max_concurrency: usize,
    /// Bytes of one blob; a bigger one is an error of its document.
    pub max_blob_bytes: usize,
}

impl BlobConfig {
    /// A configuration with the usual limits.
    pub fn new(location: BlobLocation) -> Self {
        Self {
            location,
            max_concurrency: 64,
            max_blob_bytes: 256 * 1024 * 1024,
        }
    }
}

/// Where blobs are.
#[derive(Clone, Debug)]
pub enum BlobLocation {
    /// A directory; slashes in keys are directories below it.
    Fs {
        /// The directory.
        path: PathBuf,
    },
    /// A bucket of S3 or of something that speaks its protocol.
    S3(S3Config),
}

/// A bucket.
#[derive(Clone, Debug)]
pub struct S3Config {
    /// Bucket.
    pub bucket: String,
    /// URL of the service; none for Amazon's own.
    pub endpoint: Option<String>,
    /// Region; none for `us-east-1`.
    pub region: Option<String>,
    /// Access key; none to use what the machine's environment offers (variables, instance role).
    pub access_key: Option<String>,
    /// Secret of the access key.
    pub secret: Option<SecretString>,
    /// PEM file of certificates to trust in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// Time for one request.
    pub request_timeout: Duration,
    /// How often a request is tried again after the first time.
    pub retries: usize,
}

impl S3Config {
    /// A bucket with the usual limits.
    pub fn new(bucket: &str) -> Self {
        Self {
            bucket: bucket.to_owned(),
            endpoint: None,
            region: None,
            access_key: None,
            secret: None,
            ca_file: None,
            request_timeout: Duration::from_secs(30),
            retries: 5,
        }
    }
}
