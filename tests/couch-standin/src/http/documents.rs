//! Single documents and their attachments.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::json;

use super::query::Params;
use super::reply::{ApiError, json_reply, text_reply};
use super::{App, Shared};
use crate::attachment::{Attachment, AttachmentForm, GivenAttachment, push_text};
use crate::database::WriteMode;
use crate::document::{BadDocument, Document, Incoming, Revision, checked_id};
use crate::requests::Served;

/// Separates the parts of a document with its attachments. Documents are JSON, where a line never begins like this.
const BOUNDARY: &str = "5f0ad2c49a2b4f7e8c1d";

pub(crate) async fn get(
    State(app): Shared,
    Path((name, id)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    read(&app, &name, &id, query.as_deref(), &headers)
}

pub(crate) async fn get_design(
    State(app): Shared,
    Path((name, design)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    read(&app, &name, &format!("_design/{design}"), query.as_deref(), &headers)
}

fn read(app: &App, name: &str, id: &str, query: Option<&str>, headers: &HeaderMap) -> Result<Response, ApiError> {
    let mut params = Params::from_query(query)?;
    let wanted = params.text(&["rev"]);
    let has_attachments = params.flag("attachments")? == Some(true);
    let document = find(app, name, id, wanted.as_deref())?;
    let etag = etag(&document);
    let served = Served { rows: 1, documents: 1 };
    let mut response = if !has_attachments {
        text_reply(document.to_json(AttachmentForm::Stubs), served)
    } else if !document.attachments.is_empty() && accepts_multipart(headers) {
        multipart(&document, served)
    } else {
        text_reply(document.to_json(AttachmentForm::Inline), served)
    };
    response.headers_mut().extend(etag.map(|etag| (header::ETAG, etag)));
    Ok(response)
}

/// The document as it is, or, if a revision is wanted, only when that is the current one: older ones are not kept.
fn find(app: &App, name: &str, id: &str, wanted: Option<&str>) -> Result<Arc<Document>, ApiError> {
    let document = app.database(name)?.get(id);
    match (document, wanted) {
        (Some(document), Some(wanted)) if document.revision.as_str() == wanted => Ok(document),
        (Some(document), None) if !document.deleted => Ok(document),
        (Some(document), None) => Err(ApiError::absent(Some(&document))),
        _ => Err(ApiError::absent(None)),
    }
}

fn etag(document: &Document) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("\"{}\"", document.revision.as_str())).ok()
}

/// CouchDB prefers multipart wherever the client takes it, and so does one that says nothing.
fn accepts_multipart(headers: &HeaderMap) -> bool {
    let Some(accept) = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()) else {
        return true;
    };
    let types = accept
        .split(',')
        .map(|item| item.split(';').next().unwrap_or_default().trim());
    types
        .into_iter()
        .any(|accepted| matches!(accepted, "*/*" | "multipart/*" | "multipart/related"))
}

fn multipart(document: &Document, served: Served) -> Response {
    let mut body = format!("--{BOUNDARY}\r\nContent-Type: application/json\r\n\r\n").into_bytes();
    document.render(AttachmentForm::Follow, &mut body);
    for (name, attachment) in &document.attachments {
        body.extend_from_slice(format!("\r\n--{BOUNDARY}\r\nContent-Disposition: attachment; filename=").as_bytes());
        push_text(name, &mut body);
        let (content_type, length) = (&attachment.content_type, attachment.data.len());
        body.extend_from_slice(
            format!("\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n").as_bytes(),
        );
        body.extend_from_slice(&attachment.data);
    }
    body.extend_from_slice(format!("\r\n--{BOUNDARY}--").as_bytes());
    let mut response = Response::new(Body::from(body));
    let content_type = format!("multipart/related; boundary=\"{BOUNDARY}\"");
    response.headers_mut().extend(
        HeaderValue::from_str(&content_type)
            .ok()
            .map(|value| (header::CONTENT_TYPE, value)),
    );
    response.extensions_mut().insert(served);
    response
}

pub(crate) async fn put(
    State(app): Shared,
    Path((name, id)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    write(&app, &name, id, query.as_deref(), &headers, &body)
}

pub(crate) async fn put_design(
    State(app): Shared,
    Path((name, design)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    write(
        &app,
        &name,
        format!("_design/{design}"),
        query.as_deref(),
        &headers,
        &body,
    )
}

pub(crate) async fn post(State(app): Shared, Path(name): Path<String>, body: Bytes) -> Result<Response, ApiError> {
    let database = app.database(&name)?;
    let incoming = Incoming::parse(&body)?;
    let id = incoming
        .id
        .clone()
        .unwrap_or_else(|| new_id(&incoming, database.read().sequence));
    let document = database.write(&id, incoming, WriteMode::Edit)?;
    Ok(written(StatusCode::CREATED, &document))
}

/// An id for a document that came without one: from its content and its place, so that a run can be repeated.
pub(crate) fn new_id(incoming: &Incoming, sequence: u64) -> String {
    use std::hash::Hasher;

    use siphasher::sip128::{Hasher128, SipHasher13};
    let mut hasher = SipHasher13::new();
    hasher.write(&incoming.body);
    hasher.write_u64(sequence);
    hex::encode(hasher.finish128().as_bytes())
}

fn write(
    app: &App,
    name: &str,
    id: String,
    query: Option<&str>,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response, ApiError> {
    let database = app.database(name)?;
    let id = checked_id(id)?;
    let mut params = Params::from_query(query)?;
    let is_edit = params.flag("new_edits")?.unwrap_or(true);
    let mut incoming = Incoming::parse(body)?;
    if let Some(given) = given_revision(&mut params, headers)? {
        if incoming.revision.as_ref().is_some_and(|own| *own != given) {
            return Err(ApiError::bad_request(
                "Document rev from request body and query string have different values",
            ));
        }
        incoming.revision = Some(given);
    }
    let mode = if is_edit { WriteMode::Edit } else { WriteMode::Replicate };
    let document = database.write(&id, incoming, mode)?;
    Ok(written(StatusCode::CREATED, &document))
}

fn given_revision(params: &mut Params, headers: &HeaderMap) -> Result<Option<Revision>, ApiError> {
    let from_header = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok());
    let text = params
        .text(&["rev"])
        .or_else(|| from_header.map(|text| text.trim_matches('"').to_owned()));
    let parse = |text: String| Revision::parse(&text).ok_or(BadDocument::Revision);
    Ok(text.map(parse).transpose()?)
}

fn written(status: StatusCode, document: &Document) -> Response {
    let reply = json!({"ok": true, "id": *document.id, "rev": document.revision.as_str()});
    let mut response = json_reply(status, &reply);
    response
        .headers_mut()
        .extend(etag(document).map(|etag| (header::ETAG, etag)));
    response.extensions_mut().insert(Served { rows: 1, documents: 1 });
    response
}

pub(crate) async fn delete(
    State(app): Shared,
    Path((name, id)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    remove(&app, &name, &id, query.as_deref(), &headers)
}

pub(crate) async fn delete_design(
    State(app): Shared,
    Path((name, design)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    remove(&app, &name, &format!("_design/{design}"), query.as_deref(), &headers)
}

fn remove(app: &App, name: &str, id: &str, query: Option<&str>, headers: &HeaderMap) -> Result<Response, ApiError> {
    let database = app.database(name)?;
    let current = database.get(id);
    if current.as_ref().is_none_or(|document| document.deleted) {
        return Err(ApiError::absent(current.as_deref()));
    }
    let revision = given_revision(&mut Params::from_query(query)?, headers)?;
    let document = database.write(id, Incoming::deletion(revision), WriteMode::Edit)?;
    Ok(written(StatusCode::OK, &document))
}

type AttachmentPath = Path<(String, String, String)>;

pub(crate) async fn get_attachment(
    State(app): Shared,
    Path((name, id, attachment)): AttachmentPath,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let wanted = Params::from_query(query.as_deref())?.text(&["rev"]);
    let document = find(&app, &name, &id, wanted.as_deref())?;
    let found = document.attachments.get(&attachment);
    let found = found.ok_or_else(|| ApiError::not_found("Document is missing attachment"))?;
    let mut response = Response::new(Body::from(found.data.clone()));
    let headers = response.headers_mut();
    headers.extend(
        HeaderValue::from_str(&found.content_type)
            .ok()
            .map(|value| (header::CONTENT_TYPE, value)),
    );
    let etag = HeaderValue::from_str(&format!("\"{}\"", found.digest.trim_start_matches("md5-"))).ok();
    headers.extend(etag.map(|value| (header::ETAG, value)));
    response.extensions_mut().insert(Served { rows: 1, documents: 0 });
    Ok(response)
}

pub(crate) async fn put_attachment(
    State(app): Shared,
    Path((name, id, attachment)): AttachmentPath,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let given = Attachment::new(content_type.unwrap_or("application/octet-stream"), body);
    let revision = given_revision(&mut Params::from_query(query.as_deref())?, &headers)?;
    let document = change_attachment(&app, &name, id, attachment, revision, Some(given))?;
    Ok(written(StatusCode::CREATED, &document))
}

pub(crate) async fn delete_attachment(
    State(app): Shared,
    Path((name, id, attachment)): AttachmentPath,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let revision = given_revision(&mut Params::from_query(query.as_deref())?, &headers)?;
    let document = change_attachment(&app, &name, id, attachment, revision, None)?;
    Ok(written(StatusCode::OK, &document))
}

fn change_attachment(
    app: &App,
    name: &str,
    id: String,
    attachment: String,
    revision: Option<Revision>,
    given: Option<Attachment>,
) -> Result<Arc<Document>, ApiError> {
    let database = app.database(name)?;
    let id = checked_id(id)?;
    let current = database.get(&id).filter(|document| !document.deleted);
    let empty = || Incoming {
        body: Box::from(&b"{}"[..]),
        ..Incoming::default()
    };
    let mut incoming = current.as_deref().map_or_else(empty, Incoming::again);
    incoming.revision = revision;
    match given {
        Some(given) => incoming.attachments.insert(attachment, GivenAttachment::Data(given)),
        None => incoming.attachments.remove(&attachment),
    };
    Ok(database.write(&id, incoming, WriteMode::Edit)?)
}
