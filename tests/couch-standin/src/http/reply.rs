//! Answers: CouchDB's error objects, small JSON, and long lists sent piece by piece.

use std::borrow::Cow;
use std::vec::IntoIter;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::database::WriteError;
use crate::document::{BadDocument, Document};
use crate::requests::Served;

/// Size at which a piece of a long answer is sent.
const PIECE: usize = 64 * 1024;

/// An error as CouchDB words it.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    error: &'static str,
    reason: Cow<'static, str>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, error: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            error,
            reason: reason.into(),
        }
    }

    pub(crate) fn not_found(reason: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", reason)
    }

    pub(crate) fn bad_request(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", reason)
    }

    pub(crate) fn query(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "query_parse_error", reason)
    }

    /// What a document that is not there answers.
    pub(crate) fn absent(document: Option<&Document>) -> Self {
        Self::not_found(if document.is_some() { "deleted" } else { "missing" })
    }

    /// The members of an error row in a bulk answer.
    pub(crate) fn members(&self) -> (&'static str, &str) {
        (self.error, &self.reason)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        json_reply(self.status, &json!({"error": self.error, "reason": self.reason}))
    }
}

impl From<BadDocument> for ApiError {
    fn from(bad: BadDocument) -> Self {
        let error = match bad {
            BadDocument::SpecialMember(_) => "doc_validation",
            BadDocument::Id => "illegal_docid",
            _ => "bad_request",
        };
        Self::new(StatusCode::BAD_REQUEST, error, bad.to_string())
    }
}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        let reason = error.to_string();
        match error {
            WriteError::Conflict => Self::new(StatusCode::CONFLICT, "conflict", reason),
            WriteError::MissingStub { .. } => Self::new(StatusCode::PRECONDITION_FAILED, "missing_stub", reason),
            WriteError::NoRevision => Self::bad_request(reason),
        }
    }
}

/// A small JSON answer, with the line end that CouchDB puts behind it.
pub(crate) fn json_reply(status: StatusCode, value: &Value) -> Response {
    let mut text = value.to_string();
    text.push('\n');
    (
        status,
        [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))],
        text,
    )
        .into_response()
}

/// JSON text as an answer.
pub(crate) fn text_reply(text: Vec<u8>, served: Served) -> Response {
    let mut response = Response::new(Body::from(text));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.extensions_mut().insert(served);
    response
}

/// A list of rows inside a JSON object.
pub(crate) struct RowList<T, R> {
    /// What stands before the first row.
    pub(crate) head: Vec<u8>,
    pub(crate) rows: Vec<T>,
    /// Appends one row.
    pub(crate) render: R,
    /// What stands behind the last row.
    pub(crate) tail: Vec<u8>,
}

impl<T, R> RowList<T, R>
where
    T: Send + 'static,
    R: FnMut(&T, &mut Vec<u8>) + Send + 'static,
{
    /// The answer: at once when it is small, else piece by piece as the client reads.
    pub(crate) fn reply(self, served: Served) -> Response {
        let mut pieces = Pieces {
            rest: self.head,
            rows: self.rows.into_iter(),
            render: self.render,
            tail: Some(self.tail),
            is_first: true,
        };
        let first = pieces.next().unwrap_or_default();
        let body = if pieces.tail.is_none() {
            Body::from(first)
        } else {
            super::body_of(std::iter::once(first).chain(pieces))
        };
        let mut response = Response::new(body);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.extensions_mut().insert(served);
        response
    }
}

struct Pieces<T, R> {
    rest: Vec<u8>,
    rows: IntoIter<T>,
    render: R,
    /// Taken with the last piece.
    tail: Option<Vec<u8>>,
    is_first: bool,
}

impl<T, R: FnMut(&T, &mut Vec<u8>)> Iterator for Pieces<T, R> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.tail.as_ref()?;
        let mut piece = std::mem::take(&mut self.rest);
        while piece.len() < PIECE {
            let Some(row) = self.rows.next() else {
                piece.extend(self.tail.take()?);
                break;
            };
            if !std::mem::replace(&mut self.is_first, false) {
                piece.extend_from_slice(b",\r\n");
            }
            (self.render)(&row, &mut piece);
        }
        Some(piece.into())
    }
}
