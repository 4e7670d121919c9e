//! Many documents at once.

use std::collections::HashMap;

use futures::FutureExt as _;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::database::Database;
use crate::error::{Error, Result, error_name};
use crate::leaf::Leaf;
use crate::transport::Request;

/// Ids in one `_bulk_get`. A hundred sorted ids cost CouchDB a third less work per document than a thousand unsorted ones.
pub(crate) const BULK_GET_IDS: usize = 100;
/// Ids in one `_all_docs`, whose rows have no bodies.
const ALL_DOCS_IDS: usize = 1000;
/// Requests that one bulk read has in flight. Two keep the server busy while an answer is parsed; a few more hide the
/// network. More than that is for other readers to use.
const PARALLEL: usize = 4;

/// One document of a bulk read.
#[derive(Debug)]
pub struct Fetched {
    /// The id that was asked for.
    pub id: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// What a bulk read says of one document.
#[derive(Debug)]
pub enum Outcome {
    /// The document, with `_id` and `_rev`. Of conflicting revisions, the one that CouchDB would give.
    Found(Value),
    /// It never existed.
    Missing,
    /// It was deleted.
    Deleted {
        /// Revision of the deletion, if the server tells.
        rev: Option<String>,
    },
    /// It could not be read; the others could.
    Failed(Error),
}

/// One document of a bulk write.
#[derive(Debug, PartialEq, Eq)]
pub struct BulkWritten {
    /// Its id.
    pub id: String,
    /// What became of it.
    pub outcome: WriteOutcome,
}

/// What a bulk write says of one document.
#[derive(Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Written, with this revision.
    Written {
        /// The new revision.
        rev: String,
    },
    /// Its `_rev` was not the current one.
    Conflict,
    /// Refused for another reason.
    Refused {
        /// CouchDB's name of the error, if it gave one.
        error: Option<String>,
    },
}

#[derive(Deserialize)]
struct BulkGetBody {
    results: Vec<BulkGetResult>,
}

#[derive(Deserialize)]
struct BulkGetResult {
    id: Option<String>,
    docs: Vec<BulkGetDoc>,
}

#[derive(Deserialize)]
struct BulkGetDoc {
    ok: Option<Leaf>,
    error: Option<DocError>,
}

#[derive(Deserialize)]
struct DocError {
    #[serde(default)]
    error: String,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct AllDocsBody {
    rows: Vec<AllDocsRow>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct AllDocsRow {
    value: Option<AllDocsValue>,
}

#[derive(Deserialize)]
pub(crate) struct AllDocsValue {
    pub(crate) rev: String,
    #[serde(default)]
    pub(crate) deleted: bool,
}

#[derive(Deserialize)]
struct BulkDocsRow {
    id: String,
    rev: Option<String>,
    #[serde(default)]
    error: String,
}

impl Database {
    /// Reads documents, in the given order. Ids should be sorted (the server reads neighbours together) and must be
    /// distinct. Answers above the limit of bytes are asked for in smaller parts; a document that is above it alone comes
    /// back as [`Outcome::Failed`] with [`Error::TooLarge`]. So does one that cannot be parsed, with [`Error::Unreadable`].
    pub async fn bulk_get(&self, ids: &[impl AsRef<str>]) -> Result<Vec<Fetched>> {
        self.bulk_read("bulk_get", "_bulk_get", BULK_GET_IDS, ids).await
    }

    pub(crate) async fn bulk_read(
        &self,
        op: &'static str,
        below: &'static str,
        at_once: usize,
        ids: &[impl AsRef<str>],
    ) -> Result<Vec<Fetched>> {
        let ids: Vec<&str> = ids.iter().map(AsRef::as_ref).collect();
        let parts: Vec<&[&str]> = ids.chunks(at_once).collect();
        // Boxed, so that callers' futures may change threads: the compiler cannot prove it of a stream of closures.
        let reads: Vec<_> = parts
            .into_iter()
            .map(|part| self.read_part(op, below, part).boxed())
            .collect();
        let read: Vec<Vec<Fetched>> = stream::iter(reads).buffered(self.parallel()).try_collect().await?;
        Ok(read.into_iter().flatten().collect())
    }

    /// Reads some documents, halving the question whenever the answer is too large.
    async fn read_part(&self, op: &'static str, below: &'static str, ids: &[&str]) -> Result<Vec<Fetched>> {
        let mut fetched = Vec::with_capacity(ids.len());
        let mut open = vec![ids];
        while let Some(part) = open.pop() {
            match self.read_once(op, below, part, None).await {
                Ok(documents) => fetched.extend(documents),
                Err(error @ Error::TooLarge { .. }) => match part {
                    [id] => fetched.push(Fetched {
                        id: (*id).to_owned(),
                        outcome: Outcome::Failed(error),
                    }),
                    _ => {
                        let (first, second) = part.split_at(part.len() / 2);
                        open.push(second);
                        open.push(first);
                    }
                },
                Err(error) => return Err(error),
            }
        }
        Ok(fetched)
    }

    /// One request. With `max_bytes`, an answer above it is [`Error::TooLarge`] although the client would take it.
    pub(crate) async fn read_once(
        &self,
        op: &'static str,
        below: &'static str,
        ids: &[&str],
        max_bytes: Option<usize>,
    ) -> Result<Vec<Fetched>> {
        let docs: Vec<Value> = ids.iter().map(|id| json!({ "id": id })).collect();
        let mut request = Request::new(op, Method::POST, self.path(below)?).json(&json!({ "docs": docs }))?;
        request.max_bytes = max_bytes;
        let body: BulkGetBody = self.transport.send(request, |answer| self.of_database(answer)).await?;
        let outcomes = in_order(op, ids, body.results)?;
        let unclear: Vec<&str> = ids
            .iter()
            .zip(&outcomes)
            .filter(|(_, outcome)| outcome.is_none())
            .map(|(id, _)| *id)
            .collect();
        let mut cleared = self.absent(op, &unclear).await?.into_iter();
        Ok(ids
            .iter()
            .zip(outcomes)
            .map(|(id, outcome)| Fetched {
                id: (*id).to_owned(),
                outcome: outcome.or_else(|| cleared.next()).unwrap_or(Outcome::Missing),
            })
            .collect())
    }

    /// What `_all_docs` says of documents of which `_bulk_get` said nothing (PouchDB says nothing of absent ones).
    async fn absent(&self, op: &'static str, ids: &[&str]) -> Result<Vec<Outcome>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.all_docs_rows(ids).await?;
        Ok(rows
            .into_iter()
            .map(|value| match value {
                None => Outcome::Missing,
                Some(AllDocsValue { rev, deleted: true }) => Outcome::Deleted { rev: Some(rev) },
                Some(_) => Outcome::Failed(Error::Malformed {
                    op,
                    reason: "no body of a document that exists".to_owned(),
                }),
            })
            .collect())
    }

    /// Which of the documents exist, in the given order, each with its current revision; no bodies are read. A deleted
    /// document does not exist.
    pub async fn all_docs_exist(&self, ids: &[impl AsRef<str>]) -> Result<Vec<(String, Option<String>)>> {
        let ids: Vec<&str> = ids.iter().map(AsRef::as_ref).collect();
        let parts: Vec<&[&str]> = ids.chunks(ALL_DOCS_IDS).collect();
        let reads: Vec<_> = parts.into_iter().map(|part| self.all_docs_rows(part).boxed()).collect();
        let read: Vec<Vec<Option<AllDocsValue>>> = stream::iter(reads).buffered(self.parallel()).try_collect().await?;
        let revs = read
            .into_iter()
            .flatten()
            .map(|value| value.filter(|value| !value.deleted).map(|value| value.rev));
        Ok(ids.iter().map(|id| (*id).to_owned()).zip(revs).collect())
    }

    pub(crate) async fn all_docs_rows(&self, ids: &[&str]) -> Result<Vec<Option<AllDocsValue>>> {
        let op = "all_docs";
        let request = Request::new(op, Method::POST, self.path("_all_docs")?).json(&json!({ "keys": ids }))?;
        let rows = self
            .transport
            .send(request, |answer| {
                let body: AllDocsBody = self.of_database(answer)?;
                match body.error {
                    Some(error) => Err(Error::Server {
                        op,
                        status: answer.status,
                        error: error_name(&error),
                    }),
                    None => Ok(body.rows),
                }
            })
            .await?;
        if rows.len() != ids.len() {
            let reason = format!("{} rows for {} keys", rows.len(), ids.len());
            return Err(Error::Malformed { op, reason });
        }
        Ok(rows.into_iter().map(|row| row.value).collect())
    }

    /// Writes documents; the answers come in the server's order.
    pub async fn bulk_docs(&self, documents: &[Value]) -> Result<Vec<BulkWritten>> {
        let request =
            Request::new("bulk_docs", Method::POST, self.path("_bulk_docs")?).json(&json!({ "docs": documents }))?;
        let rows: Vec<BulkDocsRow> = self.transport.send(request, |answer| self.of_database(answer)).await?;
        Ok(rows
            .into_iter()
            .map(|row| BulkWritten {
                id: row.id,
                outcome: match row.rev {
                    Some(rev) if row.error.is_empty() => WriteOutcome::Written { rev },
                    _ if row.error == "conflict" => WriteOutcome::Conflict,
                    _ => WriteOutcome::Refused {
                        error: error_name(&row.error),
                    },
                },
            })
            .collect())
    }

    pub(crate) fn parallel(&self) -> usize {
        PARALLEL.min(self.transport.max_concurrency)
    }
}

/// The outcome of each id, `None` where the server says nothing. CouchDB answers in the order of the question; others may
/// not.
fn in_order(op: &'static str, ids: &[&str], results: Vec<BulkGetResult>) -> Result<Vec<Option<Outcome>>> {
    let same_order = results.len() == ids.len()
        && ids
            .iter()
            .zip(&results)
            .all(|(id, result)| result.id.as_deref() == Some(*id));
    if same_order {
        return Ok(results.into_iter().map(|result| outcome(result.docs)).collect());
    }
    let mut by_id: HashMap<String, Vec<BulkGetDoc>> = results
        .into_iter()
        .filter_map(|result| Some((result.id?, result.docs)))
        .collect();
    ids.iter()
        .map(|id| match by_id.remove(*id) {
            Some(docs) => Ok(outcome(docs)),
            None => Err(Error::Malformed {
                op,
                reason: "a document that was asked for is not in it".to_owned(),
            }),
        })
        .collect()
}

/// What a server's list of leaf revisions means. Without a revision in the question, CouchDB lists them all.
fn outcome(docs: Vec<BulkGetDoc>) -> Option<Outcome> {
    let mut live: Option<Leaf> = None;
    let mut deleted: Option<String> = None;
    let mut error: Option<DocError> = None;
    for doc in docs {
        match doc.ok {
            Some(leaf) if leaf.deleted => {
                if deleted.as_ref().is_none_or(|other| beats(&leaf.rev, other)) {
                    deleted = Some(leaf.rev);
                }
            }
            Some(leaf) => {
                if live.as_ref().is_none_or(|other| beats(&leaf.rev, &other.rev)) {
                    live = Some(leaf);
                }
            }
            None => error = doc.error.or(error),
        }
    }
    if let Some(leaf) = live {
        return Some(leaf.document.map_or_else(Outcome::Failed, Outcome::Found));
    }
    if let Some(rev) = deleted {
        return Some(Outcome::Deleted { rev: Some(rev) });
    }
    error.map(|error| match (error.error.as_str(), error.reason.as_str()) {
        ("not_found", "deleted") => Outcome::Deleted { rev: None },
        ("not_found", _) => Outcome::Missing,
        (name, _) => Outcome::Failed(Error::Document {
            error: error_name(name),
        }),
    })
}

/// Whether CouchDB prefers the first of two conflicting revisions: the longer history, then the greater hash.
fn beats(rev: &str, other: &str) -> bool {
    fn rank(rev: &str) -> (u64, &str) {
        let (generation, hash) = rev.split_once('-').unwrap_or_default();
        (generation.parse().unwrap_or_default(), hash)
    }
    rank(rev) > rank(other)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn judge(docs: Value) -> String {
        let docs: Vec<BulkGetDoc> = serde_json::from_value(docs).unwrap();
        match outcome(docs) {
            None => "nothing".to_owned(),
            Some(Outcome::Found(body)) => format!("found {}", body["_rev"].as_str().unwrap()),
            Some(Outcome::Missing) => "missing".to_owned(),
            Some(Outcome::Deleted { rev }) => format!("deleted {rev:?}"),
            Some(Outcome::Failed(error)) => format!("failed {}", error.code()),
        }
    }

    #[test]
    fn of_several_leaves_the_winner_counts() {
        for (docs, expected) in [
            (json!([{"ok": {"_rev": "2-b"}}]), "found 2-b"),
            (json!([{"ok": {"_rev": "9-a"}}, {"ok": {"_rev": "10-a"}}]), "found 10-a"),
            (json!([{"ok": {"_rev": "2-b"}}, {"ok": {"_rev": "2-a"}}]), "found 2-b"),
            (
                json!([{"ok": {"_rev": "5-x", "_deleted": true}}, {"ok": {"_rev": "2-a"}}]),
                "found 2-a",
            ),
            (
                json!([{"ok": {"_rev": "5-x", "_deleted": true}}]),
                "deleted Some(\"5-x\")",
            ),
            (
                json!([{"error": {"id": "a", "rev": "undefined", "error": "not_found", "reason": "missing"}}]),
                "missing",
            ),
            (
                json!([{"error": {"error": "not_found", "reason": "deleted"}}]),
                "deleted None",
            ),
            (
                json!([{"error": {"error": "bad_request", "reason": "x"}}]),
                "failed C2S-1114",
            ),
            (json!([{}]), "nothing"),
        ] {
            assert_eq!(judge(docs.clone()), expected, "{docs}");
        }
    }

    #[test]
    fn answers_in_another_order_are_put_right() {
        let results = |ids: &[&str]| -> Vec<BulkGetResult> {
            let list: Vec<Value> = ids
                .iter()
                .map(|id| json!({"id": id, "docs": [{"ok": {"_rev": id}}]}))
                .collect();
            serde_json::from_value(Value::Array(list)).unwrap()
        };
        let revs: Vec<String> = in_order("bulk_get", &["1-a", "1-b"], results(&["1-b", "1-a"]))
            .unwrap()
            .into_iter()
            .map(|outcome| match outcome {
                Some(Outcome::Found(body)) => body["_rev"].as_str().unwrap().to_owned(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(revs, ["1-a", "1-b"]);
        assert_eq!(
            in_order("bulk_get", &["1-a", "1-b"], results(&["1-a"]))
                .unwrap_err()
                .code(),
            "C2S-1110"
        );
    }
}
