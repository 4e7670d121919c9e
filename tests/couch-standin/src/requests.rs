//! What was asked of the server: kinds of requests and their counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpKind {
    /// A page of a view, or its reduction.
    ViewPage,
    /// `_bulk_get`.
    BulkGet,
    /// `_bulk_docs`.
    BulkDocs,
    /// One document read.
    Get,
    /// One document written.
    Put,
    /// One document deleted.
    Delete,
    /// `_all_docs`.
    AllDocs,
    /// `_changes`, of any feed.
    Changes,
    /// One attachment read or written.
    Attachment,
    /// A design document read or written.
    Design,
    /// A database as a whole: created, deleted, described.
    Database,
    /// The server as a whole.
    Server,
}

/// A request, as far as rules and counts care.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) op: OpKind,
    pub(crate) method: String,
    /// Path and query as sent.
    pub(crate) target: String,
    /// The body, if a rule asks for it.
    pub(crate) body: Option<Bytes>,
}

impl Call {
    pub(crate) fn new(method: &str, target: &str) -> Self {
        Self {
            op: classify(method, target),
            method: method.to_owned(),
            target: target.to_owned(),
            body: None,
        }
    }

    /// Whether the body has this text in it.
    pub(crate) fn body_contains(&self, text: &str) -> bool {
        let body = self.body.as_deref().unwrap_or_default();
        std::str::from_utf8(body).is_ok_and(|body| body.contains(text))
    }
}

fn classify(method: &str, target: &str) -> OpKind {
    let path = target.split('?').next().unwrap_or_default();
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    match segments[..] {
        [] | ["_up" | "_all_dbs" | "_session"] => OpKind::Server,
        [_] if method == "POST" => OpKind::Put,
        [_] => OpKind::Database,
        [_, "_all_docs"] => OpKind::AllDocs,
        [_, "_bulk_get"] => OpKind::BulkGet,
        [_, "_bulk_docs"] => OpKind::BulkDocs,
        [_, "_changes"] => OpKind::Changes,
        [_, "_design", _, "_view", ..] => OpKind::ViewPage,
        [_, "_design", ..] => OpKind::Design,
        [_, id] if id.starts_with("_design%2") => OpKind::Design,
        [_, _] => match method {
            "PUT" => OpKind::Put,
            "DELETE" => OpKind::Delete,
            _ => OpKind::Get,
        },
        _ => OpKind::Attachment,
    }
}

/// What an answer held.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Served {
    pub(crate) rows: usize,
    pub(crate) documents: usize,
}

/// Counts of one kind of operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpCount {
    /// Requests that arrived, spoilt ones included.
    pub requests: u64,
    /// Those that a fault rule met.
    pub faults: u64,
    /// Rows, results or changes in the answers, live feeds aside.
    pub rows: u64,
    /// Document bodies in the answers, live feeds aside, or documents that writes held.
    pub documents: u64,
}

/// Counts by kind of operation, since the start or the last reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestCounts(BTreeMap<OpKind, OpCount>);

impl RequestCounts {
    /// Counts of one kind.
    pub fn of(&self, op: OpKind) -> OpCount {
        self.0.get(&op).copied().unwrap_or_default()
    }

    /// All requests of all kinds.
    pub fn total(&self) -> u64 {
        self.0.values().map(|count| count.requests).sum()
    }
}

/// The running counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestLog(Arc<Mutex<RequestCounts>>);

impl RequestLog {
    fn counts(&self) -> MutexGuard<'_, RequestCounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn arrived(&self, op: OpKind, is_spoilt: bool) {
        let mut counts = self.counts();
        let count = counts.0.entry(op).or_default();
        count.requests += 1;
        count.faults += u64::from(is_spoilt);
    }

    pub(crate) fn answered(&self, op: OpKind, served: Served) {
        let mut counts = self.counts();
        let count = counts.0.entry(op).or_default();
        count.rows += served.rows as u64;
        count.documents += served.documents as u64;
    }

    pub(crate) fn snapshot(&self) -> RequestCounts {
        self.counts().clone()
    }

    pub(crate) fn reset(&self) {
        self.counts().0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_a_kind() {
        let expected = [
            ("GET", "/", OpKind::Server),
            ("GET", "/_up", OpKind::Server),
            ("PUT", "/db", OpKind::Database),
            ("HEAD", "/db/", OpKind::Database),
            ("POST", "/db", OpKind::Put),
            ("PUT", "/db/x?rev=1-a", OpKind::Put),
            ("GET", "/db/x", OpKind::Get),
            ("DELETE", "/db/x", OpKind::Delete),
            ("POST", "/db/_bulk_get?attachments=true", OpKind::BulkGet),
            ("POST", "/db/_bulk_docs", OpKind::BulkDocs),
            ("POST", "/db/_all_docs", OpKind::AllDocs),
            ("GET", "/db/_changes?since=now", OpKind::Changes),
            ("GET", "/db/_design/a/_view/b?limit=1", OpKind::ViewPage),
            ("PUT", "/db/_design/a", OpKind::Design),
            ("GET", "/db/_design%2Fa", OpKind::Design),
            ("GET", "/db/x/form.xml", OpKind::Attachment),
        ];
        for (method, target, op) in expected {
            assert_eq!(classify(method, target), op, "{method} {target}");
        }
    }
}
