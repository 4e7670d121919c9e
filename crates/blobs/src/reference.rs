//! What a document says of its blobs. Pure.

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::key::couch_blob_key;

/// Name of the blob that holds a form's XML.
pub const FORM_XML: &str = "form.xml";

/// A blob of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobRef {
    /// Name within the document.
    pub name: String,
    /// Key in the blob store; `None` if Couch itself keeps the bytes as an attachment.
    pub key: Option<String>,
    /// Media type, if the document tells.
    pub content_type: Option<String>,
    /// Plain length in bytes, if the document tells.
    pub content_length: Option<u64>,
    /// `id` of the row of `blobs_blobmeta`, if the document tells. Negative for rows that came from older tables.
    pub blobmeta_id: Option<i64>,
}

impl BlobRef {
    /// Whether Couch itself keeps the bytes.
    pub fn is_inline(&self) -> bool {
        self.key.is_none()
    }
}

/// All blobs of a document: `_attachments`, overlaid by `external_blobs` where both have the name.
///
/// # Errors
/// [`Error::BadReference`] or [`Error::BadDocumentId`], if an entry does not say where its blob is.
pub fn blob_refs(db_name: &str, doc_id: &str, document: &Value) -> Result<Vec<BlobRef>> {
    let mut refs: Vec<BlobRef> = entries(document, "_attachments")?
        .into_iter()
        .flatten()
        .map(|(name, entry)| inline(name, entry))
        .collect();
    for (name, entry) in entries(document, "external_blobs")?.into_iter().flatten() {
        let external = BlobRef {
            name: name.clone(),
            key: Some(couch_blob_key(db_name, doc_id, entry)?),
            content_type: text(entry, "content_type"),
            content_length: entry.get("content_length").and_then(Value::as_u64),
            blobmeta_id: entry.get("blobmeta_id").and_then(Value::as_i64),
        };
        match refs.iter_mut().find(|blob| blob.name == *name) {
            Some(blob) => *blob = external,
            None => refs.push(external),
        }
    }
    Ok(refs)
}

fn inline(name: &str, entry: &Value) -> BlobRef {
    BlobRef {
        name: name.to_owned(),
        key: None,
        content_type: text(entry, "content_type"),
        content_length: entry.get("length").and_then(Value::as_u64),
        blobmeta_id: None,
    }
}

fn entries<'a>(document: &'a Value, field: &str) -> Result<Option<&'a Map<String, Value>>> {
    match document.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(entries)) => Ok(Some(entries)),
        Some(_) => Err(Error::BadReference {
            reason: "the list of blobs is not an object",
        }),
    }
}

fn text(entry: &Value, field: &str) -> Option<String> {
    entry.get(field).and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn external_blobs_win_over_attachments() {
        let document = json!({
            "_attachments": {
                "form.xml": {"content_type": "text/xml", "length": 12, "stub": true},
                "photo.jpg": {"content_type": "image/jpeg", "length": 99, "stub": true, "revpos": 2},
            },
            "external_blobs": {
                "form.xml": {"doc_type": "BlobMetaRef", "key": "k-1", "blobmeta_id": -77, "content_type": "text/xml", "content_length": 1840},
                "voice.3gp": {"doc_type": "BlobMeta", "id": "voice.x1", "content_length": 5},
            },
        });
        let refs = blob_refs("commcarehq", "f-100", &document).unwrap();
        let blob = |name: &str, key: Option<&str>, content_type: Option<&str>, content_length, blobmeta_id| BlobRef {
            name: name.into(),
            key: key.map(Into::into),
            content_type: content_type.map(Into::into),
            content_length,
            blobmeta_id,
        };
        assert_eq!(
            refs,
            [
                blob("form.xml", Some("k-1"), Some("text/xml"), Some(1840), Some(-77)),
                blob("photo.jpg", None, Some("image/jpeg"), Some(99), None),
                blob("voice.3gp", Some("commcarehq/f-100/voice.x1"), None, Some(5), None),
            ]
        );
    }

    #[test]
    fn documents_without_blobs_and_with_nonsense() {
        for document in [json!({}), json!({"external_blobs": {}, "_attachments": null})] {
            assert_eq!(blob_refs("hq", "f", &document).unwrap(), []);
        }
        for document in [
            json!({"external_blobs": []}),
            json!({"external_blobs": {"form.xml": null}}),
        ] {
            assert_eq!(blob_refs("hq", "f", &document).unwrap_err().code(), "C2S-1206");
        }
    }
}
