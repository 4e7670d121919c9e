//! Many documents in one request.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Shared;
use super::documents::new_id;
use super::query::Params;
use super::reply::{ApiError, RowList, json_reply};
use crate::attachment::{AttachmentForm, push_text};
use crate::database::{Database, Store, WriteMode};
use crate::document::{Document, Incoming};
use crate::requests::Served;

#[derive(Deserialize)]
struct BulkDocs<'a> {
    #[serde(borrow)]
    docs: Option<Vec<&'a RawValue>>,
    new_edits: Option<bool>,
}

pub(crate) async fn bulk_docs(State(app): Shared, Path(name): Path<String>, body: Bytes) -> Result<Response, ApiError> {
    let database = app.database(&name)?;
    let request: BulkDocs<'_> = serde_json::from_slice(&body).map_err(|error| unreadable(&error))?;
    let docs = request
        .docs
        .ok_or_else(|| ApiError::bad_request("POST body must include `docs` parameter."))?;
    let is_edit = request.new_edits.unwrap_or(true);
    let mut results = Vec::with_capacity(docs.len());
    for doc in &docs {
        // As in CouchDB, one document that cannot be read fails the request; those before it are not undone here.
        let incoming = Incoming::parse(doc.get().as_bytes())?;
        let id = incoming
            .id
            .clone()
            .unwrap_or_else(|| new_id(&incoming, database.read().sequence));
        let mode = if is_edit { WriteMode::Edit } else { WriteMode::Replicate };
        match database.write(&id, incoming, mode) {
            Ok(document) if is_edit => {
                results.push(json!({"ok": true, "id": id, "rev": document.revision.as_str()}));
            }
            Ok(_) => {}
            Err(refusal) => {
                let refusal = ApiError::from(refusal);
                let (error, reason) = refusal.members();
                results.push(json!({"id": id, "error": error, "reason": reason}));
            }
        }
    }
    let mut response = json_reply(StatusCode::CREATED, &Value::Array(results));
    response.extensions_mut().insert(Served {
        rows: docs.len(),
        documents: docs.len(),
    });
    Ok(response)
}

fn unreadable(error: &serde_json::Error) -> ApiError {
    ApiError::bad_request(if error.is_data() {
        "Request body must be a JSON object"
    } else {
        "invalid UTF-8 JSON"
    })
}

#[derive(Deserialize)]
struct BulkGet {
    docs: Option<Vec<Wanted>>,
}

#[derive(Deserialize)]
struct Wanted {
    id: Option<String>,
    rev: Option<String>,
}

/// One result of `_bulk_get`.
enum Found {
    Document(Arc<Document>),
    Missing { id: String, revision: String },
    NoId,
}

impl Found {
    fn look_up(store: &Store, wanted: Wanted) -> Self {
        let Some(id) = wanted.id else { return Self::NoId };
        let document = store.get(&id);
        match (document, wanted.rev) {
            // Without a revision CouchDB opens what stands at the leaves, tombstones too.
            (Some(document), None) => Self::Document(Arc::clone(document)),
            (Some(document), Some(revision)) if document.revision.as_str() == revision => {
                Self::Document(Arc::clone(document))
            }
            (_, revision) => Self::Missing {
                id,
                revision: revision.unwrap_or_else(|| "undefined".to_owned()),
            },
        }
    }

    fn render(&self, form: AttachmentForm, out: &mut Vec<u8>) {
        match self {
            Self::Document(document) => {
                out.extend_from_slice(b"{\"id\":");
                push_text(&document.id, out);
                out.extend_from_slice(b",\"docs\":[{\"ok\":");
                document.render(form, out);
                out.extend_from_slice(b"}]}");
            }
            Self::Missing { id, revision } => {
                let error = json!({"id": id, "rev": revision, "error": "not_found", "reason": "missing"});
                out.extend_from_slice(json!({"id": id, "docs": [{"error": error}]}).to_string().as_bytes());
            }
            Self::NoId => {
                let error = json!({"id": null, "rev": null, "error": "bad_request", "reason": "document id missed"});
                out.extend_from_slice(json!({"id": null, "docs": [{"error": error}]}).to_string().as_bytes());
            }
        }
    }
}

pub(crate) async fn bulk_get(
    State(app): Shared,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, ApiError> {
    let database: Arc<Database> = app.database(&name)?;
    let is_inline = Params::from_query(query.as_deref())?.flag("attachments")? == Some(true);
    let form = if is_inline {
        AttachmentForm::Inline
    } else {
        AttachmentForm::Stubs
    };
    let request: BulkGet = serde_json::from_slice(&body).map_err(|error| unreadable(&error))?;
    let wanted = request
        .docs
        .ok_or_else(|| ApiError::bad_request("Missing JSON list of 'docs'."))?;
    let rows: Vec<Found> = {
        let store = database.read();
        wanted
            .into_iter()
            .map(|wanted| Found::look_up(&store, wanted))
            .collect()
    };
    let documents = rows.iter().filter(|row| matches!(row, Found::Document(_))).count();
    let served = Served {
        rows: rows.len(),
        documents,
    };
    let render = move |row: &Found, out: &mut Vec<u8>| row.render(form, out);
    Ok(RowList {
        head: b"{\"results\":[".to_vec(),
        rows,
        render,
        tail: b"]}\n".to_vec(),
    }
    .reply(served))
}
