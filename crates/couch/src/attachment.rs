//! Attachments that CouchDB keeps itself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::HeaderValue;
use serde_json::Value;
use url::form_urlencoded::Serializer;

use crate::bulk::Outcome;
use crate::database::{Database, WrittenBody};
use crate::error::{Error, Result};
use crate::path;
use crate::transport::{Body, Request};

/// Documents in one `_bulk_get` with attachments: their bodies come along, a third bigger for being base64.
const DOCUMENTS: usize = 50;
const OP: &str = "bulk_attachments";

/// The attachments of one document.
#[derive(Debug)]
pub struct Attachments {
    /// The document.
    pub id: String,
    /// What became of the question.
    pub outcome: AttachmentsOutcome,
}

/// What a bulk read of attachments says of one document.
#[derive(Debug)]
pub enum AttachmentsOutcome {
    /// The document is there, with these attachments, in its own order.
    Found(Vec<InlineAttachment>),
    /// The document never existed or is deleted.
    Absent,
    /// It could not be read; the others could. [`Error::TooLarge`] if only all attachments together are above the limit:
    /// then they can still be read one by one.
    Failed(Error),
}

/// An attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlineAttachment {
    /// Name.
    pub name: String,
    /// Media type, if there is one.
    pub content_type: Option<String>,
    /// Content.
    pub content: Bytes,
}

impl Database {
    /// An attachment's content, or `None` if there is no such document or attachment.
    pub async fn attachment(&self, doc_id: &str, name: &str) -> Result<Option<Bytes>> {
        let path = self.path(&format!("{}/{}", path::segment(doc_id)?, path::segment(name)?))?;
        let content = self
            .transport
            .send(Request::new("attachment", Method::GET, path), |answer| {
                match answer.status {
                    404 => Ok(None),
                    _ if answer.is_success() => Ok(Some(answer.body.clone())),
                    _ => Err(answer.rejection()),
                }
            })
            .await?;
        if content.is_none() {
            self.must_exist().await?;
        }
        Ok(content)
    }

    /// All attachments of many documents, in the given order. Ids should be sorted and must be distinct.
    pub async fn bulk_attachments(&self, ids: &[impl AsRef<str>]) -> Result<Vec<Attachments>> {
        let fetched = self.bulk_read(OP, "_bulk_get?attachments=true", DOCUMENTS, ids).await?;
        let mut all = Vec::with_capacity(fetched.len());
        for document in fetched {
            let outcome = match document.outcome {
                Outcome::Found(body) => match self.inline(&document.id, body).await {
                    Ok(attachments) => AttachmentsOutcome::Found(attachments),
                    Err(error @ (Error::Malformed { .. } | Error::TooLarge { .. })) => {
                        AttachmentsOutcome::Failed(error)
                    }
                    Err(error) => return Err(error),
                },
                Outcome::Missing | Outcome::Deleted { .. } => AttachmentsOutcome::Absent,
                Outcome::Failed(error) => AttachmentsOutcome::Failed(error),
            };
            all.push(Attachments {
                id: document.id,
                outcome,
            });
        }
        Ok(all)
    }

    async fn inline(&self, doc_id: &str, mut body: Value) -> Result<Vec<InlineAttachment>> {
        let Some(Value::Object(entries)) = body.get_mut("_attachments").map(Value::take) else {
            return Ok(Vec::new());
        };
        let mut attachments = Vec::with_capacity(entries.len());
        for (name, entry) in entries {
            let content = match entry.get("data").and_then(Value::as_str) {
                Some(data) => Bytes::from(STANDARD.decode(data).map_err(|_| not_understood("is not base64"))?),
                // A server that gives stubs only is asked for each.
                None => self
                    .attachment(doc_id, &name)
                    .await?
                    .ok_or_else(|| not_understood("is listed but missing"))?,
            };
            let content_type = entry.get("content_type").and_then(Value::as_str).map(str::to_owned);
            attachments.push(InlineAttachment {
                name,
                content_type,
                content,
            });
        }
        Ok(attachments)
    }

    /// Writes an attachment and returns the document's new revision. `rev` is the document's current one, `None` to make
    /// a document with nothing but this attachment.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the revision is not the current one.
    pub async fn put_attachment(
        &self,
        doc_id: &str,
        rev: Option<&str>,
        name: &str,
        content_type: &str,
        content: Bytes,
    ) -> Result<String> {
        let mut path = format!("{}/{}", path::segment(doc_id)?, path::segment(name)?);
        if let Some(rev) = rev {
            path.push('?');
            path.push_str(&Serializer::new(String::new()).append_pair("rev", rev).finish());
        }
        let mut request = Request::new("put_attachment", Method::PUT, self.path(&path)?);
        let content_type = HeaderValue::from_str(content_type).map_err(|_| Error::Document {
            error: Some("bad_content_type".to_owned()),
        })?;
        request.body = Some(Body {
            content_type,
            bytes: content,
        });
        self.transport
            .send(request, |answer| match answer.status {
                409 => Err(Error::Conflict),
                404 => Err(self.not_found()),
                _ => answer.json::<WrittenBody>().map(|body| body.rev),
            })
            .await
    }
}

fn not_understood(what: &str) -> Error {
    Error::Malformed {
        op: OP,
        reason: format!("an attachment {what}"),
    }
}
