//! A database: facts about it, and single documents.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use crate::changes::sequence_text;
use crate::error::{Error, Result};
use crate::path;
use crate::transport::{Answer, Request, Transport};

/// One database of a server. Clones share connections and limits.
#[derive(Clone)]
pub struct Database {
    pub(crate) transport: Arc<Transport>,
    name: String,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Facts about a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseInfo {
    /// Where the database's feed of changes stands; only the server can read meaning into it.
    pub update_seq: String,
    /// Documents, without deleted ones.
    pub doc_count: u64,
    /// When the database was made, or opened, as the server writes it; older servers write nothing of use.
    pub instance_start_time: Option<String>,
    /// The server's clock, if it sends a `Date`.
    pub date: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
struct InfoBody {
    update_seq: Value,
    doc_count: u64,
    instance_start_time: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct WrittenBody {
    pub(crate) rev: String,
}

impl Database {
    pub(crate) fn new(transport: Arc<Transport>, name: &str) -> Self {
        Self {
            transport,
            name: name.to_owned(),
        }
    }

    /// The database's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Path below the database.
    pub(crate) fn path(&self, below: &str) -> Result<String> {
        Ok(format!("{}/{below}", self.root()?))
    }

    fn root(&self) -> Result<String> {
        path::segment(&self.name).map_err(|_| Error::Config {
            reason: "a database needs a name".to_owned(),
        })
    }

    pub(crate) fn not_found(&self) -> Error {
        Error::NotFound {
            what: format!("database {}", self.name),
        }
    }

    /// The JSON of an answer about the database as a whole, where 404 means that there is none.
    pub(crate) fn of_database<T: serde::de::DeserializeOwned>(&self, answer: &Answer) -> Result<T> {
        if answer.status == 404 {
            Err(self.not_found())
        } else {
            answer.json()
        }
    }

    /// Facts about the database.
    pub async fn info(&self) -> Result<DatabaseInfo> {
        let request = Request::new("info", Method::GET, self.root()?);
        let (body, date): (InfoBody, _) = self
            .transport
            .send(request, |answer| Ok((self.of_database(answer)?, answer.date)))
            .await?;
        Ok(DatabaseInfo {
            update_seq: sequence_text(body.update_seq),
            doc_count: body.doc_count,
            instance_start_time: body.instance_start_time,
            date,
        })
    }

    /// Server and database, without credentials: what tells two sources of one configuration apart.
    pub fn address(&self) -> String {
        format!("{}/{}", self.transport.base(), self.name)
    }

    /// Whether the database is there.
    pub async fn exists(&self) -> Result<bool> {
        let request = Request::new("exists", Method::HEAD, self.root()?);
        self.transport
            .send(request, |answer| match answer.status {
                404 => Ok(false),
                _ if answer.is_success() => Ok(true),
                _ => Err(answer.rejection()),
            })
            .await
    }

    /// Creates the database; it may be there already.
    pub async fn create(&self) -> Result<()> {
        let request = Request::new("create", Method::PUT, self.root()?);
        self.transport
            .send(request, |answer| {
                if answer.is_success() || answer.status == 412 {
                    Ok(())
                } else {
                    Err(answer.rejection())
                }
            })
            .await
    }

    /// A document, or `None` if there is none, never was, or it is deleted.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the database is missing.
    pub async fn get(&self, id: &str) -> Result<Option<Value>> {
        let request = Request::new("get", Method::GET, self.path(&path::segment(id)?)?);
        let document = self
            .transport
            .send(
                request,
                |answer| if answer.status == 404 { Ok(None) } else { answer.json() },
            )
            .await?;
        if document.is_none() {
            self.must_exist().await?;
        }
        Ok(document)
    }

    /// Writes a document and returns its new revision. To replace one, its `_rev` must be the current one.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it is not. A write whose answer got lost and is found done when it is tried again is a
    /// success, not a conflict.
    pub async fn put(&self, id: &str, document: &Value) -> Result<String> {
        let request = Request::new("put", Method::PUT, self.path(&path::segment(id)?)?).json(document)?;
        let written = self
            .transport
            .send(request, |answer| match answer.status {
                409 => Ok(Err(answer.attempt)),
                404 => Err(self.not_found()),
                _ => answer.json::<WrittenBody>().map(Ok),
            })
            .await?;
        match written {
            Ok(body) => Ok(body.rev),
            Err(1) => Err(Error::Conflict),
            Err(_) => self.already_written(id, document).await,
        }
    }

    /// After a conflict of a repeated write: the revision, if the document is what the first attempt meant to write.
    async fn already_written(&self, id: &str, document: &Value) -> Result<String> {
        let current = self.get(id).await?.ok_or(Error::Conflict)?;
        let rev = current.get("_rev").and_then(Value::as_str).map(str::to_owned);
        match rev {
            Some(rev) if content(&current) == content(document) => Ok(rev),
            _ => Err(Error::Conflict),
        }
    }

    /// Tells a missing document from a missing database.
    pub(crate) async fn must_exist(&self) -> Result<()> {
        if self.exists().await? {
            Ok(())
        } else {
            Err(self.not_found())
        }
    }
}

/// A document without what the server adds to it.
fn content(document: &Value) -> Value {
    let mut content = document.clone();
    if let Some(object) = content.as_object_mut() {
        object.remove("_rev");
        object.remove("_id");
    }
    content
}
