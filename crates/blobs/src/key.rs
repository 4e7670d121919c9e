//! Keys of blobs. Pure.
//!
//! HQ's rules: a key consists of ASCII letters, digits and `_ . / { } -`, does not begin with `/` or `.`, does not contain
//! `/../` and does not end in `/..`. Beyond them, empty and `.` parts are refused here: S3 and a file system disagree on
//! what they name, and HQ never makes them.

use serde_json::Value;
use sha1::{Digest as _, Sha1};

use crate::error::{Error, Result};

/// Whether HQ would take the text for safe in a path.
fn is_safe_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'/' | b'{' | b'}' | b'-'))
}

/// Refuses a key that could name anything but a blob.
pub fn check_key(key: &str) -> Result<()> {
    let refuse = |reason| Err(Error::BadKey { reason });
    if key.is_empty() {
        return refuse("it is empty");
    }
    if key.starts_with(['/', '.']) {
        return refuse("it begins with a slash or a dot");
    }
    if !is_safe_name(key) {
        return refuse("it holds a character that keys never hold");
    }
    if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return refuse("one of its parts is empty or a dot");
    }
    Ok(())
}

/// The document's id as a part of a key: itself if it is safe, else its hash.
pub fn safe_id(doc_id: &str) -> Result<String> {
    if !is_safe_name(doc_id) {
        return Ok(format!("sha1-{}", hex::encode(Sha1::digest(doc_id.as_bytes()))));
    }
    let is_hash = doc_id
        .strip_prefix("sha1-")
        .is_some_and(|hash| hash.len() == 40 && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
    if is_hash {
        Err(Error::BadDocumentId)
    } else {
        Ok(doc_id.to_owned())
    }
}

/// The key of an entry of `external_blobs`: its `key`, or, from the days when a blob belonged to a document, a path made
/// of the database, the document and the entry's `id`.
pub fn couch_blob_key(db_name: &str, doc_id: &str, entry: &Value) -> Result<String> {
    if let Some(key) = entry.get("key").and_then(Value::as_str) {
        return Ok(key.to_owned());
    }
    match entry.get("id").and_then(Value::as_str) {
        Some(id) => Ok(format!("{db_name}/{}/{id}", safe_id(doc_id)?)),
        None => Err(Error::BadReference {
            reason: "it has neither key nor id",
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn keys_of_hq_are_allowed_and_others_are_not() {
        for key in [
            "0f3e9d",
            "commcarehq/f-100/form.xml.1a2b",
            "db/{a}/_b",
            "a..b/c.",
            "a/..b",
            "A-Z_{}",
        ] {
            check_key(key).unwrap();
        }
        for key in [
            "",
            "/etc/passwd",
            "../x",
            ".hidden",
            "a/../b",
            "a/..",
            "a//b",
            "a/",
            "a/./b",
            "a\\b",
            "a b",
            "a\0b",
            "é",
            "a%2e",
            "a\n",
        ] {
            assert_eq!(check_key(key).unwrap_err().code(), "C2S-1204", "{key:?}");
        }
    }

    #[test]
    fn ids_are_hashed_when_they_are_not_safe() {
        let hash = "0beec7b5ea3f0fdbc95d0dd47f3c5bc275da8a33"; // of "foo", from the standard's examples
        for (id, expected) in [
            ("7f28b4e409884d0c838678260f9c34dd", "7f28b4e409884d0c838678260f9c34dd"),
            ("a/b{c}", "a/b{c}"),
            (
                "sha1-0BEEC7B5EA3F0FDBC95D0DD47F3C5BC275DA8A33",
                "sha1-0BEEC7B5EA3F0FDBC95D0DD47F3C5BC275DA8A33",
            ),
            // sha1 of "uuid:1", by another tool
            ("uuid:1", "sha1-9fba93b66eea1f1e3d4be3981ad69a1470c88266"),
        ] {
            assert_eq!(safe_id(id).unwrap(), expected, "{id}");
        }
        assert_eq!(safe_id(&format!("sha1-{hash}")).unwrap_err().code(), "C2S-1205");
    }

    #[test]
    fn old_entries_are_found_below_their_document() {
        let current = json!({"doc_type": "BlobMetaRef", "key": "k-5512", "blobmeta_id": 77});
        let old = json!({"doc_type": "BlobMeta", "id": "form.xml.9z", "digest": "md5-x"});
        let keyed = json!({"doc_type": "Other", "key": "k-1", "id": "x"});
        let null_key = json!({"key": null, "id": "form.xml.9z"});
        for (entry, doc_id, expected) in [
            (&current, "f-1", "k-5512"),
            (&old, "f-1", "commcarehq/f-1/form.xml.9z"),
            (
                &old,
                "uuid:1",
                "commcarehq/sha1-9fba93b66eea1f1e3d4be3981ad69a1470c88266/form.xml.9z",
            ),
            (&keyed, "f-1", "k-1"),
            (&null_key, "f-1", "commcarehq/f-1/form.xml.9z"),
        ] {
            assert_eq!(couch_blob_key("commcarehq", doc_id, entry).unwrap(), expected);
        }
        assert_eq!(
            couch_blob_key("hq", "f-1", &json!({"content_length": 3}))
                .unwrap_err()
                .code(),
            "C2S-1206"
        );
    }
}
