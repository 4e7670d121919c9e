//! Configuration of the client.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

/// How to reach the server, and how gently.
#[derive(Clone)]
pub struct CouchConfig {
    /// The server. Credentials inside the URL are taken out of it and sent as a header, unless `username` is set.
    pub url: Url,
    /// User; none for a server that anybody may read.
    pub username: Option<String>,
    /// Password of the user.
    pub password: Option<SecretString>,
    /// PEM file of certificates to trust in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// Requests in flight at once, over all databases of the server.
    pub max_concurrency: usize,
    /// Requests per second, over all databases of the server.
    pub max_requests_per_second: Option<u32>,
    /// Bytes of one (decoded) response body; nothing above it is ever held in memory.
    pub max_response_bytes: usize,
    /// Time for one request, from connecting to the last byte of the body.
    pub request_timeout: Duration,
    /// How often a request is tried again after the first time.
    pub retries: u32,
}

impl CouchConfig {
    /// A configuration with the usual limits for the server at the URL.
    pub fn new(url: Url) -> Self {
        Self {
            url,
            username: None,
            password: None,
            ca_file: None,
            max_concurrency: 16,
            max_requests_per_second: None,
            max_response_bytes: 64 * 1024 * 1024,
            request_timeout: Duration::from_secs(60),
            retries: 5,
        }
    }
}

/// The URL without its credentials, the password redacted.
impl fmt::Debug for CouchConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.url.clone();
        crate::transport::strip(&mut url);
        f.debug_struct("CouchConfig")
            .field("url", &url.as_str())
            .field("username", &self.username)
            .field("password", &self.password)
            .field("ca_file", &self.ca_file)
            .field("max_concurrency", &self.max_concurrency)
            .field("max_requests_per_second", &self.max_requests_per_second)
            .field("max_response_bytes", &self.max_response_bytes)
            .field("request_timeout", &self.request_timeout)
            .field("retries", &self.retries)
            .finish()
    }
}
