//! How many bytes a form brings with it, known before they are fetched.

use std::collections::HashMap;

use blobs::FORM_XML;
use proto::rows::{BLOB_FORM_XML, BlobMetaRow};
use serde_json::Value;

use crate::plan::Candidate;

/// Bytes that will be fetched for a form: its XML, and what Couch itself keeps. Attachments of the blob store stay there.
pub(crate) fn fetched_bytes(candidate: &Candidate, metas: &HashMap<String, Vec<BlobMetaRow>>) -> usize {
    let rows = metas.get(&candidate.doc_id).into_iter().flatten();
    let xml = rows.filter(|row| row.type_code == BLOB_FORM_XML && row.name == FORM_XML);
    let of_rows = xml.map(|row| usize::try_from(row.content_length).unwrap_or(0)).max();
    let referred = length(&candidate.document["external_blobs"][FORM_XML]["content_length"]);
    let inline = candidate.document["_attachments"].as_object().into_iter().flatten();
    // Lengths of documents are anybody's numbers: their sum may be greater than any number.
    inline
        .map(|(_, attachment)| length(&attachment["length"]))
        .fold(of_rows.unwrap_or(referred), usize::saturating_add)
}

fn length(value: &Value) -> usize {
    value
        .as_u64()
        .and_then(|length| usize::try_from(length).ok())
        .unwrap_or(0)
}

/// Cuts items into parts of at most so much weight, in their order. An item above it is a part of its own.
pub(crate) fn in_parts<T>(items: Vec<T>, weight: impl Fn(&T) -> usize, limit: usize) -> Vec<Vec<T>> {
    let mut parts: Vec<Vec<T>> = Vec::new();
    let mut free = 0;
    for item in items {
        let weight = weight(&item);
        match parts.last_mut() {
            Some(part) if weight <= free => {
                free -= weight;
                part.push(item);
            }
            _ => {
                free = limit.saturating_sub(weight);
                parts.push(vec![item]);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use proto::doctype::DocType;
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_hold_no_more_than_they_may() {
        let parts = |weights: &[usize]| in_parts(weights.to_vec(), |weight| *weight, 10);
        assert_eq!(parts(&[]), Vec::<Vec<usize>>::new());
        assert_eq!(parts(&[1, 2, 7, 1]), [vec![1, 2, 7], vec![1]]);
        assert_eq!(parts(&[30, 1, 9, 11, 0]), [vec![30], vec![1, 9], vec![11, 0]]);
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
