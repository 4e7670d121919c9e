//! A stand-in for CouchDB: the part of its HTTP protocol that a migration reads and writes, served from memory.
//!
//! A server has [`Databases`]; each keeps its documents as JSON text, the changes feed, and the indexes of the two
//! views that the migration uses, which are implemented natively. Requests are counted by kind, and rules make chosen
//! ones go wrong ([`FaultRule`]). Tests use it as a library; other processes use the binary and its `/_standin/`
//! interface (`GET`/`DELETE /_standin/requests`, `GET`/`POST`/`DELETE /_standin/faults`,
//! `DELETE /_standin/faults/{id}`, `POST /_standin/faults/{id}/release`).
//!
//! What differs from CouchDB 3.x, on purpose: one shard, so that changes come in the order of writing; only the
//! current revision of a document is kept; strings in keys are collated by an approximation of ICU (exact for ASCII);
//! there are no local documents, filters, Mango queries or JavaScript.

mod attachment;
mod collation;
mod database;
mod document;
mod faults;
mod http;
mod ordered;
mod requests;
mod server;
mod views;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde_json::Value;

use crate::attachment::{Attachment, AttachmentForm, GivenAttachment};
pub use crate::database::{BackUp, Databases};
use crate::database::{WriteError, WriteMode};
pub use crate::document::BadDocument;
use crate::document::Incoming;
pub use crate::faults::{Action, FaultHandle, FaultRule, Predicate, RuleId, RuleState, Times};
use crate::http::App;
use crate::requests::RequestLog;
pub use crate::requests::{OpCount, OpKind, RequestCounts};
use crate::server::Server;
pub use crate::views::{design_documents, domains_design_document};

/// Name and password of the one user.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Name.
    pub user: String,
    /// Password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens; port 0 takes a free one.
    pub bind: SocketAddr,
    /// Who may use it; everybody if absent.
    pub auth: Option<Credentials>,
    /// What it serves: nothing yet, or what an earlier server left.
    pub databases: Databases,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bind: (Ipv4Addr::LOCALHOST, 0).into(),
            auth: None,
            databases: Databases::default(),
        }
    }
}

/// Starts servers.
#[derive(Debug)]
pub struct StandIn;

impl StandIn {
    /// Starts a server on the current runtime.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(options: Options) -> std::io::Result<Running> {
        let Options { bind, auth, databases } = options;
        let app = App {
            databases,
            credentials: auth,
            faults: FaultHandle::default(),
            requests: RequestLog::default(),
        };
        let app = Arc::new(app);
        let server = Server::start(bind, http::router(Arc::clone(&app))).await?;
        Ok(Running { app, server })
    }
}

/// A server that runs. Dropping it leaves the server running until its runtime ends.
#[derive(Debug)]
pub struct Running {
    app: Arc<App>,
    server: Server,
}

/// Why data could not be put into a database directly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The document was refused.
    #[error("document {number}: {reason}")]
    Document {
        /// Its place among those loaded, from 1.
        number: usize,
        /// What is wrong with it.
        #[source]
        reason: BadDocument,
    },
    /// The document has no `_id`.
    #[error("document {number} has no _id")]
    NoId {
        /// Its place among those loaded, from 1.
        number: usize,
    },
    /// There is no such database, or no such document to change.
    #[error("there is no {0}")]
    Absent(String),
    /// An attachment is only a stub, and there is none to keep.
    #[error("attachment {name} of {id} is a stub of nothing")]
    Stub {
        /// Document.
        id: String,
        /// Attachment.
        name: String,
    },
}

/// Something that can be loaded: a document as JSON text or as a value.
pub trait IntoJson {
    /// The document as JSON text.
    fn into_json(self) -> Vec<u8>;
}

impl IntoJson for Vec<u8> {
    fn into_json(self) -> Vec<u8> {
        self
    }
}

impl IntoJson for String {
    fn into_json(self) -> Vec<u8> {
        self.into_bytes()
    }
}

impl IntoJson for Value {
    fn into_json(self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

impl IntoJson for &Value {
    fn into_json(self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

impl Running {
    /// Its URL, without a slash at the end and without credentials.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Programs faults.
    pub fn faults(&self) -> FaultHandle {
        self.app.faults.clone()
    }

    /// What was asked of it since its start or the last reset.
    pub fn requests(&self) -> RequestCounts {
        self.app.requests.snapshot()
    }

    /// Starts counting from zero.
    pub fn reset_requests(&self) {
        self.app.requests.reset();
    }

    /// Its data, which a later server can serve again.
    pub fn databases(&self) -> Databases {
        self.app.databases.clone()
    }

    /// Puts documents into a database, which is created if need be. What stands under the same id is replaced whatever
    /// its revision; a `_rev` of the document is kept, else the next one is made. Returns how many were loaded.
    ///
    /// # Errors
    /// At the first document that cannot be read; those before it stay.
    pub fn load<D: IntoJson>(
        &self,
        database: &str,
        documents: impl IntoIterator<Item = D>,
    ) -> Result<usize, LoadError> {
        let database = self.app.databases.get_or_create(database);
        let mut count = 0;
        for document in documents {
            count += 1;
            let incoming = Incoming::parse(&document.into_json());
            let incoming = incoming.map_err(|reason| LoadError::Document { number: count, reason })?;
            let id = incoming.id.clone().ok_or(LoadError::NoId { number: count })?;
            database
                .write(&id, incoming, WriteMode::Force)
                .map_err(|error| stub_error(error, &id))?;
        }
        Ok(count)
    }

    /// What a database holds now; none if it is not there.
    pub fn back_up(&self, database: &str) -> Option<BackUp> {
        Some(self.app.databases.get(database)?.back_up())
    }

    /// Puts back what a database held once: its documents in the revisions of then, and its sequence. It stays the same
    /// database, as when the files of a server are restored.
    ///
    /// # Errors
    /// There is no such database.
    pub fn restore(&self, database: &str, from: &BackUp) -> Result<(), LoadError> {
        let database = self
            .app
            .databases
            .get(database)
            .ok_or_else(|| LoadError::Absent(database.to_owned()))?;
        database.restore(from);
        Ok(())
    }

    /// Puts the design documents of both views into a database.
    ///
    /// # Errors
    /// None in practice; see [`Running::load`].
    pub fn install_views(&self, database: &str) -> Result<(), LoadError> {
        self.load(database, design_documents()).map(|_| ())
    }

    /// A document as it is now, with `_id` and `_rev`; none if it is absent or deleted.
    pub fn get(&self, database: &str, id: &str) -> Option<Value> {
        let document = self
            .app
            .databases
            .get(database)?
            .get(id)
            .filter(|document| !document.deleted)?;
        serde_json::from_slice(&document.to_json(AttachmentForm::Stubs)).ok()
    }

    /// Ids of all documents that are there, design documents included, in the order of their bytes.
    pub fn ids(&self, database: &str) -> Vec<String> {
        let Some(database) = self.app.databases.get(database) else {
            return Vec::new();
        };
        let store = database.read();
        store
            .alive
            .range(0..store.alive.len())
            .map(|(id, _)| id.to_string())
            .collect()
    }

    /// Replaces or creates a document, whatever its revision, and returns the new revision.
    ///
    /// # Errors
    /// When the document is refused, or has no `_id`.
    pub fn put(&self, database: &str, document: &Value) -> Result<String, LoadError> {
        let mut incoming =
            Incoming::parse(&document.into_json()).map_err(|reason| LoadError::Document { number: 1, reason })?;
        incoming.revision = None;
        let id = incoming.id.clone().ok_or(LoadError::NoId { number: 1 })?;
        let database = self.app.databases.get_or_create(database);
        let written = database
            .write(&id, incoming, WriteMode::Force)
            .map_err(|error| stub_error(error, &id))?;
        Ok(written.revision.as_str().to_owned())
    }

    /// Deletes a document, leaving a tombstone. False if there was none.
    pub fn delete(&self, database: &str, id: &str) -> bool {
        let Some(database) = self.app.databases.get(database) else {
            return false;
        };
        let is_there = database.get(id).is_some_and(|document| !document.deleted);
        is_there && database.write(id, Incoming::deletion(None), WriteMode::Force).is_ok()
    }

    /// Adds or replaces an attachment of a document.
    ///
    /// # Errors
    /// When the database or the document is not there.
    pub fn put_attachment(
        &self,
        database: &str,
        id: &str,
        name: &str,
        content_type: &str,
        data: impl Into<bytes::Bytes>,
    ) -> Result<(), LoadError> {
        let found = self
            .app
            .databases
            .get(database)
            .ok_or_else(|| LoadError::Absent(database.to_owned()))?;
        let document = found.get(id).filter(|document| !document.deleted);
        let document = document.ok_or_else(|| LoadError::Absent(id.to_owned()))?;
        let mut incoming = Incoming::again(&document);
        incoming.revision = None;
        let given = GivenAttachment::Data(Attachment::new(content_type, data.into()));
        incoming.attachments.insert(name.to_owned(), given);
        found
            .write(id, incoming, WriteMode::Force)
            .map_err(|error| stub_error(error, id))?;
        Ok(())
    }

    /// Stops: accepts nothing more, and lets answers under way finish for two seconds.
    pub async fn stop(self) -> Databases {
        let databases = self.databases();
        self.server.stop().await;
        databases
    }

    /// Ends as a crash would: all connections are closed where they are. The data stays.
    pub async fn kill(self) -> Databases {
        let databases = self.databases();
        self.server.kill().await;
        databases
    }
}

/// A forced write is refused for one reason only.
fn stub_error(error: WriteError, id: &str) -> LoadError {
    match error {
        WriteError::MissingStub { id, name } => LoadError::Stub { id, name },
        WriteError::Conflict | WriteError::NoRevision => LoadError::Absent(id.to_owned()),
    }
}
