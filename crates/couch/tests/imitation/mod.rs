//! A server that answers like CouchDB as far as these tests ask, and misbehaves when told to.
#![allow(dead_code, clippy::unwrap_used)]

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use couch::{Couch, CouchConfig};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::Barrier;

/// How a request is to go wrong.
pub(crate) enum Fault {
    /// This status, with these headers and this body.
    Status(u16, Vec<(&'static str, String)>, &'static str),
    /// The connection breaks in the middle of the body.
    Cut,
    /// This body with status 200.
    Body(String),
    /// A body of unannounced length that never ends.
    Endless,
    /// A beginning of an answer, and then nothing, ever.
    Hang,
}

/// What a kind of server heeds in the query of a view.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heeds {
    Everything,
    NoStartDocId,
    NeitherStartDocIdNorSkip,
}

pub(crate) struct Imitation {
    pub(crate) heeds: Heeds,
    /// Rows of the one view, in its order.
    pub(crate) rows: Vec<(Value, String)>,
    pub(crate) documents: BTreeMap<String, Value>,
    pub(crate) reduces: bool,
    pub(crate) faults: Mutex<VecDeque<Fault>>,
    /// Method and path with query of each request.
    pub(crate) log: Mutex<Vec<(String, HeaderMap)>>,
    /// Every request waits until so many are there.
    pub(crate) together: Option<Barrier>,
    in_flight: AtomicUsize,
    pub(crate) most_in_flight: AtomicUsize,
}

impl Imitation {
    pub(crate) fn new() -> Self {
        Self {
            heeds: Heeds::Everything,
            rows: Vec::new(),
            documents: BTreeMap::new(),
            reduces: true,
            faults: Mutex::default(),
            log: Mutex::default(),
            together: None,
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
        }
    }

    pub(crate) fn with_faults(faults: impl IntoIterator<Item = Fault>) -> Self {
        let imitation = Self::new();
        imitation.faults.lock().unwrap().extend(faults);
        imitation
    }

    pub(crate) fn requests(&self) -> usize {
        self.log.lock().unwrap().len()
    }

    /// Starts it on a free port; it lives as long as the test's runtime.
    pub(crate) async fn start(self) -> (Arc<Self>, CouchConfig) {
        let shared = Arc::new(self);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let router = Router::new().fallback(handle).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let mut config = CouchConfig::new(url);
        config.request_timeout = Duration::from_secs(20);
        config.retries = 3;
        (shared, config)
    }

    pub(crate) async fn start_client(self) -> (Arc<Self>, Couch) {
        let (shared, config) = self.start().await;
        (shared, Couch::new(config).unwrap())
    }
}

async fn handle(State(server): State<Arc<Imitation>>, request: Request) -> Response {
    let now = server.in_flight.fetch_add(1, SeqCst) + 1;
    server.most_in_flight.fetch_max(now, SeqCst);
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    server
        .log
        .lock()
        .unwrap()
        .push((format!("{} {}", parts.method, parts.uri), parts.headers.clone()));
    if let Some(barrier) = &server.together {
        barrier.wait().await;
    }
    let fault = server.faults.lock().unwrap().pop_front();
    let response = match fault {
        None => server.answer(&parts.method, parts.uri.path(), parts.uri.query().unwrap_or(""), &body),
        Some(Fault::Status(status, headers, body)) => {
            let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
            for (name, value) in headers {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }
        Some(Fault::Body(body)) => body.into_response(),
        Some(Fault::Cut) => {
            let chunks = stream::iter([Ok(Bytes::from_static(b"{\"rows\": [")), Err("cut")]);
            Body::from_stream(chunks).into_response()
        }
        Some(Fault::Endless) => {
            Body::from_stream(stream::repeat(Ok::<_, &str>(Bytes::from_static(&[b'x'; 1000])))).into_response()
        }
        Some(Fault::Hang) => {
            let beginning = stream::once(async { Ok::<_, &str>(Bytes::from_static(b"{")) });
            Body::from_stream(beginning.chain(stream::pending())).into_response()
        }
    };
    server.in_flight.fetch_sub(1, SeqCst);
    response
}

impl Imitation {
    fn answer(&self, method: &Method, path: &str, query: &str, body: &[u8]) -> Response {
        let query: HashMap<String, String> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        match (method.as_str(), path) {
            ("GET", "/") => answer(
                200,
                json!({"couchdb": "Welcome", "version": "3.3.3", "vendor": {"name": "Imitation"}}),
            ),
            ("GET" | "HEAD", "/hq") => answer(200, json!({"db_name": "hq", "doc_count": 7, "update_seq": "9-xyz"})),
            ("GET", "/hq/_design/d/_view/v") => self.view(&query),
            ("POST", "/hq/_bulk_get") => {
                let results: Vec<Value> = body["docs"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|doc| self.leaves(&doc["id"]))
                    .collect();
                answer(200, json!({ "results": results }))
            }
            ("POST", "/hq/_all_docs") => {
                let rows: Vec<Value> = body["keys"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|id| self.all_docs_row(id))
                    .collect();
                answer(
                    200,
                    json!({"rows": rows, "total_rows": self.documents.len(), "offset": null}),
                )
            }
            ("GET", path) if path.starts_with("/hq/") => match self.documents.get(&path[4..]) {
                Some(document) => answer(200, document.clone()),
                None => answer(404, json!({"error": "not_found", "reason": "missing"})),
            },
            ("PUT", path) if path.starts_with("/hq/") => answer(409, json!({"error": "conflict", "reason": "x"})),
            _ => answer(404, json!({"error": "not_found", "reason": "Database does not exist."})),
        }
    }

    fn leaves(&self, id: &Value) -> Value {
        let text = id.as_str().unwrap();
        match self.documents.get(text) {
            Some(document) => json!({"id": id, "docs": [{"ok": document}]}),
            None => {
                json!({"id": id, "docs": [{"error": {"id": id, "rev": "undefined", "error": "not_found", "reason": "missing"}}]})
            }
        }
    }

    fn all_docs_row(&self, id: &Value) -> Value {
        match self.documents.get(id.as_str().unwrap()) {
            Some(doc) if doc["_deleted"] == true => {
                json!({"id": id, "key": id, "value": {"rev": doc["_rev"], "deleted": true}})
            }
            Some(doc) => json!({"id": id, "key": id, "value": {"rev": doc["_rev"]}}),
            None => json!({"key": id, "error": "not_found"}),
        }
    }

    fn view(&self, query: &HashMap<String, String>) -> Response {
        let key = |name: &str| query.get(name).map(|text| serde_json::from_str::<Value>(text).unwrap());
        let number = |name: &str, default| query.get(name).map_or(default, |text| text.parse::<usize>().unwrap());
        let (start, end) = (key("startkey"), key("endkey"));
        let docid = query.get("startkey_docid").filter(|_| self.heeds == Heeds::Everything);
        let skip = if self.heeds == Heeds::NeitherStartDocIdNorSkip {
            0
        } else {
            number("skip", 0)
        };
        let limit = number("limit", usize::MAX);
        let in_range: Vec<&(Value, String)> = self
            .rows
            .iter()
            .filter(|(key, id)| {
                let from_start = start.as_ref().map_or(Ordering::Greater, |start| collate(key, start));
                let after_start = match from_start {
                    Ordering::Less => false,
                    Ordering::Equal => docid.is_none_or(|docid| id >= docid),
                    Ordering::Greater => true,
                };
                after_start && end.as_ref().is_none_or(|end| collate(key, end) != Ordering::Greater)
            })
            .collect();
        if query.get("reduce").map(String::as_str) == Some("true") {
            return match self.reduces {
                true if in_range.is_empty() => answer(200, json!({"rows": []})),
                true => answer(200, json!({"rows": [{"key": null, "value": in_range.len()}]})),
                false => answer(
                    400,
                    json!({"error": "query_parse_error", "reason": "`reduce=true` is invalid for map-only views."}),
                ),
            };
        }
        let rows: Vec<Value> = in_range
            .into_iter()
            .skip(skip)
            .take(limit)
            .map(|(key, id)| json!({"id": id, "key": key, "value": null}))
            .collect();
        answer(200, json!({"total_rows": self.rows.len(), "offset": 0, "rows": rows}))
    }
}

#[allow(clippy::needless_pass_by_value)]
fn answer(status: u16, body: Value) -> Response {
    (StatusCode::from_u16(status).unwrap(), body.to_string()).into_response()
}

/// CouchDB's order of keys, as far as nulls, texts, arrays and objects go.
fn collate(a: &Value, b: &Value) -> Ordering {
    fn rank(value: &Value) -> u8 {
        match value {
            Value::Null => 0,
            Value::Bool(_) => 1,
            Value::Number(_) => 2,
            Value::String(_) => 3,
            Value::Array(_) => 4,
            Value::Object(_) => 5,
        }
    }
    match (a, b) {
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => {
            let first = a.iter().zip(b).map(|(a, b)| collate(a, b)).find(|order| order.is_ne());
            first.unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        _ => rank(a).cmp(&rank(b)),
    }
}
