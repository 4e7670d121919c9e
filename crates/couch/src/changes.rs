//! The feed of changes, page by page.
//!
//! Its sequences are opaque: they belong to one database, are handed back as they came, and cannot be compared. Its order
//! is no order of time, a document comes once, at its newest change, and a restart of a cluster's node may give changes
//! again. So the feed says which documents to look at, and nothing else.

use reqwest::Method;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use url::form_urlencoded::Serializer;

use crate::database::Database;
use crate::error::{Error, Result};
use crate::transport::Request;

const OP: &str = "changes";

/// A document that has changed, with what the reader wants to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<D> {
    /// The document.
    pub id: String,
    /// Its newest revision.
    pub rev: Option<String>,
    /// It was deleted.
    pub deleted: bool,
    /// What was asked for of its body; `None` where the server gives no body, or one that is too large alone.
    pub document: Option<D>,
}

/// Some changes, and where the feed stands behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes<D> {
    /// The changes.
    pub changes: Vec<Change<D>>,
    /// Sequence to go on from.
    pub last_seq: String,
    /// Changes behind it, if the server counts them.
    pub pending: Option<u64>,
}

impl<D> Changes<D> {
    /// Whether nothing is behind these. A page may be short for its bytes alone, so that its length says nothing.
    pub fn is_last(&self) -> bool {
        self.pending.map_or(self.changes.is_empty(), |pending| pending == 0)
    }
}

/// What the feed answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangesPage<D> {
    /// A page.
    Read(Changes<D>),
    /// The database knows nothing of the sequence.
    UnknownSequence,
}

#[derive(Deserialize)]
#[serde(bound = "D: DeserializeOwned")]
struct Body<D> {
    results: Vec<Row<D>>,
    last_seq: Value,
    pending: Option<u64>,
}

#[derive(Deserialize)]
#[serde(bound = "D: DeserializeOwned")]
struct Row<D> {
    id: String,
    #[serde(default)]
    changes: Vec<Leaf>,
    #[serde(default)]
    deleted: bool,
    doc: Option<D>,
}

#[derive(Deserialize)]
struct Leaf {
    rev: String,
}

/// Whether a page is to hold the bodies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bodies {
    Included,
    LeftOut,
}

impl Database {
    /// What changed after a sequence, `limit` documents at most, with as much of the bodies as `D` takes of them. A page above
    /// the limit of bytes is asked for in smaller parts; a document that is above it alone comes without its body.
    pub async fn changes<D: DeserializeOwned + Send>(&self, since: &str, limit: usize) -> Result<ChangesPage<D>> {
        let mut limit = limit.max(1);
        loop {
            match self.changes_once(since, limit, Bodies::Included).await {
                Err(Error::TooLarge { .. }) if limit > 1 => limit /= 2,
                Err(Error::TooLarge { .. }) => return self.changes_once(since, 1, Bodies::LeftOut).await,
                read => return read,
            }
        }
    }

    async fn changes_once<D: DeserializeOwned + Send>(
        &self,
        since: &str,
        limit: usize,
        bodies: Bodies,
    ) -> Result<ChangesPage<D>> {
        let path = self.path(&format!("_changes?{}", query(since, limit, bodies)))?;
        self.transport
            .send(Request::new(OP, Method::GET, path), |answer| {
                // A text that is no sequence is a bad request; one of other shards is "not found" or an unknown node.
                if answer.status == 400 {
                    return Ok(ChangesPage::UnknownSequence);
                }
                let body: Body<D> = self.of_database(answer)?;
                Ok(ChangesPage::Read(Changes {
                    changes: body.results.into_iter().map(Row::into_change).collect(),
                    last_seq: sequence_text(body.last_seq),
                    pending: body.pending,
                }))
            })
            .await
    }

    /// The documents that changed last, so many at most, with their revisions.
    pub async fn newest_changes(&self, limit: usize) -> Result<Vec<(String, String)>> {
        let path = self.path(&format!("_changes?descending=true&limit={limit}"))?;
        let body: Body<IgnoredAny> = self
            .transport
            .send(Request::new(OP, Method::GET, path), |answer| self.of_database(answer))
            .await?;
        let changes = body.results.into_iter().map(Row::into_change);
        Ok(changes.filter_map(|change| Some((change.id, change.rev?))).collect())
    }

    /// What tells this database from every other one, also from one that was later made under the same name: sequences mean
    /// something to it alone. Servers that do not say when a database was made are told apart by their own id only.
    pub async fn identity(&self) -> Result<String> {
        let server = self.server_uuid().await?;
        let made = self.info().await?.instance_start_time;
        Ok(format!(
            "{} {}",
            server.as_deref().unwrap_or("-"),
            made.as_deref().unwrap_or("-")
        ))
    }
}

fn query(since: &str, limit: usize, bodies: Bodies) -> String {
    let include_docs = if bodies == Bodies::Included { "true" } else { "false" };
    Serializer::new(String::new())
        .append_pair("since", since)
        .append_pair("limit", &limit.to_string())
        .append_pair("include_docs", include_docs)
        .finish()
}

impl<D> Row<D> {
    fn into_change(self) -> Change<D> {
        Change {
            id: self.id,
            rev: self.changes.into_iter().next().map(|leaf| leaf.rev),
            deleted: self.deleted,
            document: self.doc,
        }
    }
}

/// A sequence as it is handed back: a text without its quotes, anything else (a number, an array) as JSON.
pub(crate) fn sequence_text(sequence: Value) -> String {
    match sequence {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
