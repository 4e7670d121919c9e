//! How many bytes a form brings with it, known before they are fetched.

use std::collections::HashMap;

use blobs::{FORM_XML, expected_bytes};
use proto::rows::{BLOB_FORM_XML, BlobMetaRow};

use crate::plan::Candidate;

/// Bytes that will be fetched for a form: its XML, and what Couch itself keeps. Attachments of the blob store stay there.
pub(crate) fn fetched_bytes(candidate: &Candidate, metas: &HashMap<String, Vec<BlobMetaRow>>) -> usize {
    let rows = metas.get(&candidate.doc_id).into_iter().flatten();
    let xml = rows.filter(|row| row.type_code == BLOB_FORM_XML && row.name == FORM_XML);
    let of_rows = xml
        .map(|row| expected_bytes(u64::try_from(row.content_length).ok()))
        .max();
    let referred = candidate.document["external_blobs"].get(FORM_XML);
    let referred = referred.map(|blob| expected_bytes(blob["content_length"].as_u64()));
    let inline = candidate.document["_attachments"].as_object().into_iter().flatten();
    // Lengths of documents are anybody's numbers: their sum may be greater than any number.
    inline
        .map(|(_, attachment)| expected_bytes(attachment["length"].as_u64()))
        .fold(of_rows.or(referred).unwrap_or(0), usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use proto::doctype::DocType;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_nobody_knows_the_length_of_is_fetched_too() {
        for document in [
            json!({"external_blobs": {"form.xml": {"key": "k"}}}),
            json!({"external_blobs": {"form.xml": {"key": "k", "content_length": 0}}}),
            json!({"_attachments": {"form.xml": {"stub": true}}}),
        ] {
            let candidate = Candidate::new("f", "1-a".to_owned(), DocType::XFormInstance, document);
            assert_eq!(fetched_bytes(&candidate, &HashMap::new()), expected_bytes(None));
        }
    }

    #[test]
    fn lengths_that_no_document_can_have_are_no_overflow() {
        let document = json!({
            "_attachments": {"photo.jpg": {"length": u64::MAX}, "note.txt": {"length": 1}},
            "external_blobs": {"form.xml": {"content_length": u64::MAX}},
        });
        let candidate = Candidate::new("f", "1-a".to_owned(), DocType::XFormInstance, document);
        assert_eq!(fetched_bytes(&candidate, &HashMap::new()), usize::MAX);
    }

    #[test]
    fn the_xml_and_what_couch_keeps_are_fetched() {
        let document = json!({
            "_attachments": {"photo.jpg": {"stub": true, "length": 500}, "form.xml": {"stub": true, "length": 20}},
            "external_blobs": {"form.xml": {"content_length": 70}, "video.3gp": {"key": "v", "content_length": 90_000}},
        });
        let candidate = Candidate::new("f", "1-a".to_owned(), DocType::XFormInstance, document);
        assert_eq!(fetched_bytes(&candidate, &HashMap::new()), 590);
        let row = |name: &str, type_code: i16, content_length: i64| BlobMetaRow {
            domain: "demo".to_owned(),
            parent_id: "f".to_owned(),
            name: name.to_owned(),
            key: name.to_owned(),
            type_code,
            content_length,
            compressed_length: None,
            content_type: None,
            properties: None,
            created_on: chrono::DateTime::UNIX_EPOCH,
        };
        let metas = HashMap::from([(
            "f".to_owned(),
            vec![
                row("form.xml", 2, 1000),
                row("video.3gp", 3, 90_000),
                row("form.xml", 2, 800),
            ],
        )]);
        assert_eq!(fetched_bytes(&candidate, &metas), 1520);
        let plain = Candidate::new("g", "1-a".to_owned(), DocType::XFormInstance, json!({}));
        assert_eq!(fetched_bytes(&plain, &metas), 0);
    }
}
