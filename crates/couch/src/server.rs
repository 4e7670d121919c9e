//! The server.

use std::fmt;
use std::sync::Arc;

use reqwest::Method;
use serde::Deserialize;

use crate::config::CouchConfig;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::transport::{Request, Transport};

/// A client of one server. Clones share connections and limits.
#[derive(Clone)]
pub struct Couch {
    transport: Arc<Transport>,
}

impl fmt::Debug for Couch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Couch")
            .field("server", &self.transport.base())
            .finish_non_exhaustive()
    }
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// Version text.
    pub version: String,
    /// Who made it, if it says so.
    pub vendor: Option<String>,
    /// Its own id, if it has one; the nodes of a cluster share it.
    pub uuid: Option<String>,
}

#[derive(Deserialize)]
struct Welcome {
    version: String,
    vendor: Option<Vendor>,
    uuid: Option<String>,
}

#[derive(Deserialize)]
struct Vendor {
    name: Option<String>,
}

impl Couch {
    /// Makes the client; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Config`] if the URL, the CA file or the credentials cannot be used.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a configuration with secrets is not meant to live on"
    )]
    pub fn new(config: CouchConfig) -> Result<Self> {
        Ok(Self {
            transport: Arc::new(Transport::new(&config)?),
        })
    }

    /// A database of the server, whether it exists or not.
    pub fn database(&self, name: &str) -> Database {
        Database::new(Arc::clone(&self.transport), name)
    }

    /// Asks the server who it is; proves that it is reachable and accepts the credentials.
    pub async fn ping(&self) -> Result<ServerInfo> {
        welcome(&self.transport).await
    }
}

impl Database {
    /// The id of the database's server, if it has one.
    pub(crate) async fn server_uuid(&self) -> Result<Option<String>> {
        Ok(welcome(&self.transport).await?.uuid)
    }
}

async fn welcome(transport: &Transport) -> Result<ServerInfo> {
    let request = Request::new("ping", Method::GET, String::new());
    let welcome: Welcome = transport
        .send(request, |answer| {
            answer.json().map_err(|error| match error {
                Error::Truncated { op } => Error::Malformed {
                    op,
                    reason: "no welcome of a CouchDB".to_owned(),
                },
                other => other,
            })
        })
        .await?;
    Ok(ServerInfo {
        version: welcome.version,
        vendor: welcome.vendor.and_then(|vendor| vendor.name),
        uuid: welcome.uuid,
    })
}
