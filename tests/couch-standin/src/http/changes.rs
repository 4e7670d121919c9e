//! The changes feed: normal, longpoll and continuous.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Shared;
use super::query::Params;
use super::reply::{ApiError, RowList};
use crate::attachment::{AttachmentForm, push_text};
use crate::database::Database;
use crate::document::Document;
use crate::requests::Served;

/// CouchDB's default for `timeout` and `heartbeat`.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);

/// Changes per piece of a live feed.
const LIVE_PIECE: usize = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feed {
    Normal,
    Longpoll,
    Continuous,
}

/// How changes are shown.
#[derive(Clone, Copy, Debug)]
struct Shape {
    include_docs: bool,
    attachments: AttachmentForm,
    /// Only every so many rows carry their sequence.
    interval: usize,
}

struct ChangesQuery {
    since: u64,
    limit: usize,
    descending: bool,
    feed: Feed,
    shape: Shape,
    timeout: Duration,
    heartbeat: Option<Duration>,
}

impl ChangesQuery {
    fn parse(mut params: Params, database: &Database) -> Result<Self, ApiError> {
        let since = match params.text(&["since", "last-event-id"]).as_deref() {
            None => 0,
            Some("now") => database.read().sequence,
            Some(text) => database
                .sequence_of(text)
                .ok_or_else(|| ApiError::bad_request("Malformed sequence supplied in 'since' parameter."))?,
        };
        let feed = match params.text(&["feed"]).as_deref() {
            None | Some("normal") => Feed::Normal,
            Some("longpoll") => Feed::Longpoll,
            Some("continuous") => Feed::Continuous,
            Some(other) => return Err(not_implemented(&format!("the {other} feed"))),
        };
        if let Some(filter) = params.text(&["filter"]) {
            return Err(not_implemented(&format!("the filter {filter}")));
        }
        let heartbeat = match params.text(&["heartbeat"]).as_deref() {
            None | Some("false") => None,
            Some("true") => Some(DEFAULT_WAIT),
            Some(text) => Some(milliseconds(text)?),
        };
        let timeout = params
            .text(&["timeout"])
            .map_or(Ok(DEFAULT_WAIT), |text| milliseconds(&text))?;
        let is_inline = params.flag("attachments")? == Some(true);
        Ok(Self {
            since,
            // CouchDB takes a limit of 0 as 1.
            limit: params.count("limit")?.map_or(usize::MAX, |limit| limit.max(1)),
            descending: params.flag("descending")?.unwrap_or(false),
            feed,
            shape: Shape {
                include_docs: params.flag("include_docs")?.unwrap_or(false),
                attachments: if is_inline {
                    AttachmentForm::Inline
                } else {
                    AttachmentForm::Stubs
                },
                interval: params.count("seq_interval")?.unwrap_or(1).max(1),
            },
            timeout,
            heartbeat,
        })
    }
}

fn not_implemented(what: &str) -> ApiError {
    ApiError::new(
        StatusCode::NOT_IMPLEMENTED,
        "not_implemented",
        format!("the stand-in does not have {what}"),
    )
}

fn milliseconds(text: &str) -> Result<Duration, ApiError> {
    let parsed = text.parse().map(Duration::from_millis);
    parsed.map_err(|_| ApiError::query(format!("Invalid value for positive integer: {text:?}")))
}

/// A change with its number in the answer.
struct Change {
    number: usize,
    document: Arc<Document>,
}

/// Some changes, and where the feed stands behind them.
struct Read {
    changes: Vec<Change>,
    last: u64,
    pending: usize,
}

fn read(database: &Database, since: u64, limit: usize, descending: bool) -> Read {
    let store = database.read();
    let ranks = store.changes.rank(&(since + 1))..store.changes.len();
    let count = ranks.len().min(limit);
    let pending = ranks.len() - count;
    let change = |(number, (_, document)): (usize, &(u64, Arc<Document>))| Change {
        number,
        document: Arc::clone(document),
    };
    let changes: Vec<Change> = if descending {
        store
            .changes
            .range(ranks)
            .rev()
            .take(count)
            .enumerate()
            .map(change)
            .collect()
    } else {
        store.changes.range(ranks).take(count).enumerate().map(change).collect()
    };
    let last = match changes.last() {
        Some(change) if pending > 0 || descending => change.document.sequence,
        _ => store.sequence.max(since),
    };
    Read { changes, last, pending }
}

fn render(change: &Change, database: &Database, shape: Shape, out: &mut Vec<u8>) {
    let Change { number, document } = change;
    if (number + 1).is_multiple_of(shape.interval) {
        out.extend_from_slice(b"{\"seq\":\"");
        out.extend_from_slice(database.sequence_text(document.sequence).as_bytes());
        out.extend_from_slice(b"\",\"id\":");
    } else {
        out.extend_from_slice(b"{\"seq\":null,\"id\":");
    }
    push_text(&document.id, out);
    out.extend_from_slice(b",\"changes\":[{\"rev\":\"");
    out.extend_from_slice(document.revision.as_str().as_bytes());
    out.extend_from_slice(b"\"}]");
    if document.deleted {
        out.extend_from_slice(b",\"deleted\":true");
    }
    if shape.include_docs {
        out.extend_from_slice(b",\"doc\":");
        document.render(shape.attachments, out);
    }
    out.push(b'}');
}

fn tail(database: &Database, last: u64, pending: usize) -> Vec<u8> {
    format!(
        "\n],\n\"last_seq\":\"{}\",\"pending\":{pending}}}\n",
        database.sequence_text(last)
    )
    .into_bytes()
}

pub(crate) async fn changes(
    State(app): Shared,
    method: Method,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, ApiError> {
    let database = app.database(&name)?;
    let query = ChangesQuery::parse(Params::of_request(&method, query.as_deref(), &body)?, &database)?;
    if query.feed != Feed::Normal {
        return Ok(LiveFeed::new(database, query).reply());
    }
    let Read { changes, last, pending } = read(&database, query.since, query.limit, query.descending);
    let documents = if query.shape.include_docs { changes.len() } else { 0 };
    let served = Served {
        rows: changes.len(),
        documents,
    };
    let tail = tail(&database, last, pending);
    let render = move |change: &Change, out: &mut Vec<u8>| render(change, &database, query.shape, out);
    Ok(RowList {
        head: b"{\"results\":[\n".to_vec(),
        rows: changes,
        render,
        tail,
    }
    .reply(served))
}

/// A feed that waits for writes.
struct LiveFeed {
    database: Arc<Database>,
    query: ChangesQuery,
    written: watch::Receiver<u64>,
    /// When it ends for lack of changes.
    deadline: Instant,
    sent: usize,
    is_begun: bool,
    is_ended: bool,
}

impl LiveFeed {
    fn new(database: Arc<Database>, query: ChangesQuery) -> Self {
        let written = database.watch();
        let deadline = Instant::now() + query.timeout;
        Self {
            database,
            query,
            written,
            deadline,
            sent: 0,
            is_begun: false,
            is_ended: false,
        }
    }

    fn reply(self) -> Response {
        let pieces = futures::stream::unfold(self, |mut feed| async {
            let piece = feed.next_piece().await?;
            Some((Ok::<_, Infallible>(piece), feed))
        });
        let mut response = Response::new(Body::from_stream(pieces));
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    async fn next_piece(&mut self) -> Option<Bytes> {
        if self.is_ended {
            return None;
        }
        if !std::mem::replace(&mut self.is_begun, true) && self.query.feed == Feed::Longpoll {
            return Some(Bytes::from_static(b"{\"results\":[\n"));
        }
        loop {
            // Marked as seen before reading: a write in between wakes the next wait.
            self.written.borrow_and_update();
            if let Some(piece) = self.changes() {
                return Some(piece);
            }
            let wake = self.query.heartbeat.map_or(self.deadline, |beat| Instant::now() + beat);
            tokio::select! {
                changed = self.written.changed() => if changed.is_err() { return Some(self.end()) },
                () = sleep_until(wake) => {
                    return Some(if self.query.heartbeat.is_some() { Bytes::from_static(b"\n") } else { self.end() });
                }
            }
        }
    }

    /// What was written since the last piece, and the end of the feed if that is the end.
    fn changes(&mut self) -> Option<Bytes> {
        let left = self.query.limit - self.sent;
        let is_longpoll = self.query.feed == Feed::Longpoll;
        let most = if is_longpoll { left } else { left.min(LIVE_PIECE) };
        let Read { changes, last, pending } = read(&self.database, self.query.since, most, false);
        if changes.is_empty() {
            return None;
        }
        self.query.since = last;
        self.deadline = Instant::now() + self.query.timeout;
        let mut piece = Vec::new();
        for (at, change) in changes.iter().enumerate() {
            if is_longpoll && at > 0 {
                piece.extend_from_slice(b",\n");
            }
            let change = Change {
                number: self.sent + at,
                document: Arc::clone(&change.document),
            };
            render(&change, &self.database, self.query.shape, &mut piece);
            if !is_longpoll {
                piece.push(b'\n');
            }
        }
        self.sent += changes.len();
        if is_longpoll || self.sent >= self.query.limit {
            self.is_ended = true;
            piece.extend(self.closing(pending));
        }
        Some(piece.into())
    }

    fn end(&mut self) -> Bytes {
        self.is_ended = true;
        self.closing(0).into()
    }

    fn closing(&self, pending: usize) -> Vec<u8> {
        if self.query.feed == Feed::Longpoll {
            return tail(&self.database, self.query.since, pending);
        }
        let last = self.database.sequence_text(self.query.since);
        format!("{}\n", json!({"last_seq": last, "pending": pending})).into_bytes()
    }
}
