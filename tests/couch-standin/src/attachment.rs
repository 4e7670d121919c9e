//! Attachments: what a document carries beside its JSON, and the three ways of showing it.

use std::borrow::Cow;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use md5::{Digest, Md5};
use serde::Deserialize;

/// CouchDB's default `attachments/compression_level`.
const GZIP_LEVEL: u32 = 8;

/// A stored attachment.
#[derive(Clone, Debug)]
pub(crate) struct Attachment {
    pub(crate) content_type: String,
    pub(crate) data: Bytes,
    pub(crate) digest: String,
    /// Generation of the document at which it was put.
    pub(crate) revpos: u32,
}

impl Attachment {
    /// Like CouchDB, the digest of a text type is that of the gzipped body; `length` stays that of the body itself.
    pub(crate) fn new(content_type: impl Into<String>, data: Bytes) -> Self {
        let content_type = content_type.into();
        let hash = if is_compressible(&content_type) {
            Md5::digest(gzip(&data))
        } else {
            Md5::digest(&data)
        };
        let digest = format!("md5-{}", STANDARD.encode(hash));
        Self {
            content_type,
            data,
            digest,
            revpos: 0,
        }
    }
}

/// CouchDB's default `attachments/compressible_types`.
fn is_compressible(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.starts_with("text/")
        || matches!(
            essence,
            "application/javascript" | "application/json" | "application/xml"
        )
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL));
    // Unwrap safety: writing into a vector has no way to fail; an empty result would only give another digest.
    encoder
        .write_all(data)
        .and_then(|()| encoder.finish())
        .unwrap_or_default()
}

/// An attachment as a writer gives it.
#[derive(Clone, Debug)]
pub(crate) enum GivenAttachment {
    /// New or replaced.
    Data(Attachment),
    /// "Keep the one you have."
    Stub,
}

#[derive(Deserialize)]
struct GivenText<'a> {
    #[serde(borrow, default)]
    content_type: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    data: Option<Cow<'a, str>>,
    #[serde(default)]
    stub: bool,
}

impl GivenAttachment {
    /// Reads one member of `_attachments`; `None` if it is neither data nor a stub.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let given: GivenText<'_> = serde_json::from_str(text).ok()?;
        if given.stub {
            return Some(Self::Stub);
        }
        let data = STANDARD.decode(given.data?.as_bytes()).ok()?;
        let content_type = given.content_type.unwrap_or(Cow::Borrowed("application/octet-stream"));
        Some(Self::Data(Attachment::new(content_type, data.into())))
    }
}

/// How attachments stand in a document that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttachmentForm {
    /// Only what is known about them.
    Stubs,
    /// Base64 in the JSON.
    Inline,
    /// As the further parts of a multipart answer.
    Follow,
}

impl Attachment {
    /// Appends the member of `_attachments` for this attachment.
    pub(crate) fn render(&self, name: &str, form: AttachmentForm, out: &mut Vec<u8>) {
        push_text(name, out);
        out.extend_from_slice(b":{\"content_type\":");
        push_text(&self.content_type, out);
        out.extend_from_slice(format!(",\"revpos\":{},\"digest\":\"{}\",", self.revpos, self.digest).as_bytes());
        match form {
            AttachmentForm::Stubs => {
                out.extend_from_slice(format!("\"length\":{},\"stub\":true}}", self.data.len()).as_bytes());
            }
            AttachmentForm::Follow => {
                out.extend_from_slice(format!("\"length\":{},\"follows\":true}}", self.data.len()).as_bytes());
            }
            AttachmentForm::Inline => {
                out.extend_from_slice(b"\"data\":\"");
                out.extend_from_slice(STANDARD.encode(&self.data).as_bytes());
                out.extend_from_slice(b"\"}");
            }
        }
    }
}

/// Appends a JSON string.
pub(crate) fn push_text(text: &str, out: &mut Vec<u8>) {
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        out.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
    }
}
