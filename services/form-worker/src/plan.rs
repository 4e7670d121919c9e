//! What is to be done for a document, decided from what was read of it: pure functions over plain data.

use blobs::{BlobRef, FORM_XML};
use bytes::Bytes;
use hqsql::BlobRetype;
use proto::doctype::DocType;
use proto::effects::AttachmentFacts;
use proto::rows::{BLOB_FORM_ATTACHMENT, BLOB_FORM_XML, BlobMetaRow};
use serde_json::Value;
use uuid::Uuid;

/// Namespace of the blob keys that are derived here.
const KEY_NAMESPACE: Uuid = Uuid::from_u128(0x6d0c_7a55_5d2f_4b0e_9c57_0a4f_d8a1_3b21);

/// A document that was read, with what is to become of it.
pub(crate) struct Candidate {
    pub(crate) doc_id: String,
    pub(crate) rev: String,
    pub(crate) doc_type: DocType,
    pub(crate) document: Value,
    /// Bytes of `form.xml`, plain. None for cases, and for forms that have lost it.
    pub(crate) xml: Option<Bytes>,
    /// Attachments other than `form.xml`, as their metadata describes them.
    pub(crate) attachments: Vec<AttachmentFacts>,
    /// Metadata rows that are to be inserted, without their date: that is the document's first staging.
    pub(crate) missing_meta: Vec<NewMeta>,
    /// Metadata rows whose type is to be corrected.
    pub(crate) retypes: Vec<BlobRetype>,
}

/// A metadata row to be inserted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewMeta {
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) type_code: i16,
    pub(crate) content_length: i64,
    pub(crate) content_type: Option<String>,
}

impl Candidate {
    /// Bytes to count it by.
    pub(crate) fn weight(&self) -> usize {
        const ROWS: usize = 2048;
        self.xml.as_ref().map_or(0, Bytes::len) + ROWS
    }
}

/// How one blob of a form stands in the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BlobStanding {
    /// It has its row.
    Present(BlobMetaRow),
    /// It has a row with the type of `form.xml`, which an error of the past gave to attachments.
    Mistyped(BlobMetaRow),
    /// Its key has a row of the same form, under another name or type.
    KeyTaken(BlobMetaRow),
    /// It has no row.
    Absent,
}

/// The type code a blob of this name must have.
pub(crate) fn type_code(name: &str) -> i16 {
    if name == FORM_XML {
        BLOB_FORM_XML
    } else {
        BLOB_FORM_ATTACHMENT
    }
}

/// How a blob stands among the rows of its form. Of several rows the one that the document refers to counts, else the first.
pub(crate) fn standing(blob: &BlobRef, rows: &[BlobMetaRow]) -> BlobStanding {
    let wanted = type_code(&blob.name);
    let with_type = |code: i16| {
        let mut found = rows.iter().filter(|row| row.name == blob.name && row.type_code == code);
        let first = found.clone().next();
        found.find(|row| Some(&row.key) == blob.key.as_ref()).or(first)
    };
    match (with_type(wanted), with_type(BLOB_FORM_XML)) {
        (Some(row), _) => BlobStanding::Present(row.clone()),
        (None, Some(row)) => BlobStanding::Mistyped(row.clone()),
        (None, None) => match rows.iter().find(|row| Some(&row.key) == blob.key.as_ref()) {
            Some(row) => BlobStanding::KeyTaken(row.clone()),
            None => BlobStanding::Absent,
        },
    }
}

/// The key under which an inline attachment is stored: derived from what it is, so that every attempt gives the same.
pub(crate) fn derived_key(form_id: &str, name: &str, content: &[u8]) -> String {
    let mut seed = Vec::with_capacity(form_id.len() + name.len() + content.len() + 2);
    for part in [form_id.as_bytes(), b"/", name.as_bytes(), b"/", content] {
        seed.extend_from_slice(part);
    }
    Uuid::new_v5(&KEY_NAMESPACE, &seed).simple().to_string()
}

/// The facts of an attachment from its metadata row.
pub(crate) fn facts(row: &BlobMetaRow) -> AttachmentFacts {
    AttachmentFacts {
        name: row.name.clone(),
        key: row.key.clone(),
        content_length: Some(row.content_length),
        content_type: row.content_type.clone(),
        properties: row.properties.clone(),
    }
}

impl NewMeta {
    /// The facts of an attachment that gets its row now.
    pub(crate) fn facts(&self) -> AttachmentFacts {
        AttachmentFacts {
            name: self.name.clone(),
            key: self.key.clone(),
            content_length: Some(self.content_length),
            content_type: self.content_type.clone(),
            properties: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, type_code: i16, key: &str) -> BlobMetaRow {
        BlobMetaRow {
            domain: "demo".to_owned(),
            parent_id: "f".to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
            type_code,
            content_length: 1,
            compressed_length: None,
            content_type: None,
            properties: None,
            created_on: chrono::DateTime::UNIX_EPOCH,
        }
    }

    fn blob(name: &str, key: &str) -> BlobRef {
        BlobRef {
            name: name.to_owned(),
            key: Some(key.to_owned()),
            content_type: None,
            content_length: None,
            blobmeta_id: None,
        }
    }

    #[test]
    fn the_row_that_the_document_refers_to_counts() {
        let rows = [row("form.xml", 2, "old"), row("form.xml", 2, "new")];
        assert_eq!(
            standing(&blob("form.xml", "new"), &rows),
            BlobStanding::Present(rows[1].clone())
        );
        assert_eq!(
            standing(&blob("form.xml", "gone"), &rows),
            BlobStanding::Present(rows[0].clone())
        );
    }

    #[test]
    fn attachments_with_the_type_of_form_xml_are_mistyped() {
        let rows = [row("photo.jpg", 2, "k")];
        assert_eq!(
            standing(&blob("photo.jpg", "k"), &rows),
            BlobStanding::Mistyped(rows[0].clone())
        );
        assert_eq!(
            standing(&blob("voice.3gp", "k"), &rows),
            BlobStanding::KeyTaken(rows[0].clone())
        );
        assert_eq!(standing(&blob("voice.3gp", "other"), &rows), BlobStanding::Absent);
    }

    #[test]
    fn derived_keys_depend_on_form_name_and_content() {
        let key = derived_key("f", "form.xml", b"<data/>");
        assert_eq!(key, derived_key("f", "form.xml", b"<data/>"));
        assert_eq!(key.len(), 32);
        assert_ne!(key, derived_key("f", "form.xml", b"<other/>"));
    }
}
