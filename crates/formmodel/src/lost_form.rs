//! Forms that Couch has lost, made of the XML and the blob metadata that HQ still has of them.
//!
//! HQ's migrator makes such a form as one that has just come in: its content is the XML's, all blobs are its attachments, and
//! nothing else is known of it. The date of receipt is that of the action by which a case in Couch knows the form, or when
//! the blob of the XML was made.

use chrono::{DateTime, Utc};
use proto::doctype::DocType;
use proto::ids::Domain;
use proto::rows::{BLOB_FORM_ATTACHMENT, BLOB_FORM_XML, BlobMetaRow};
use serde_json::{Map, Value, json};

use crate::FormFailure;

/// The document that Couch would have of the form, but for what only its XML tells ([`complete_lost_form`]).
pub fn lost_form(domain: &Domain, form_id: &str, received_on: DateTime<Utc>, blobs: &[BlobMetaRow]) -> Value {
    let mut external_blobs = Map::new();
    let of_forms = blobs
        .iter()
        .filter(|row| matches!(row.type_code, BLOB_FORM_XML | BLOB_FORM_ATTACHMENT));
    for row in of_forms {
        external_blobs.entry(row.name.as_str()).or_insert_with(
            || json!({"key": row.key, "content_type": row.content_type, "content_length": row.content_length}),
        );
    }
    json!({
        "_id": form_id,
        "doc_type": DocType::XFormInstance.as_str(),
        "domain": domain.as_str(),
        "app_id": null,
        "build_id": null,
        "received_on": received_on.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
        "server_modified_on": null,
        "partial_submission": false,
        "history": [],
        "auth_context": {},
        "submit_ip": null,
        "openrosa_headers": {},
        "last_sync_token": null,
        "date_header": null,
        "initial_processing_complete": null,
        "external_blobs": external_blobs,
    })
}

/// Adds what the form's XML tells to a document of [`lost_form`].
///
/// # Errors
/// The XML cannot be read, or it says that it is another form's: then nobody can tell which form this is.
pub fn complete_lost_form(document: &mut Value, xml: &[u8]) -> Result<(), FormFailure> {
    let body = xform::read_form(xml).map_err(FormFailure::Xml)?.body;
    let named = xform::extract_meta_instance_id(&body)?;
    if named.is_some_and(|named| document["_id"] != named) {
        return Err(FormFailure::OtherForm);
    }
    document["xmlns"] = body.get("@xmlns").cloned().unwrap_or_default();
    document["form"] = body;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::Treatment;

    const RECEIVED: &str = "2020-03-02T10:00:00.000000Z";

    fn row(name: &str, key: &str, type_code: i16) -> BlobMetaRow {
        BlobMetaRow {
            domain: "demo".to_owned(),
            parent_id: "f".to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
            type_code,
            content_length: 7,
            compressed_length: None,
            content_type: Some("text/xml".to_owned()),
            properties: None,
            created_on: DateTime::UNIX_EPOCH,
        }
    }

    fn xml(instance_id: &str) -> String {
        format!(
            r#"<data xmlns="http://visit"><case xmlns="http://commcarehq.org/case/transaction/v2" case_id="c"
            date_modified="2020-03-02T09:00:00Z"><update><age>30</age></update></case>
            <meta><userID>u</userID><timeEnd>2020-03-02T11:00:00+02:00</timeEnd>{instance_id}</meta></data>"#
        )
    }

    fn document() -> Value {
        let rows = [
            row("form.xml", "k1", 2),
            row("photo.jpg", "k2", 3),
            row("photo.jpg", "k3", 3),
            row("export", "k4", 9),
        ];
        lost_form(&Domain::new("demo"), "f", RECEIVED.parse().unwrap(), &rows)
    }

    #[test]
    fn all_blobs_of_forms_are_attachments_once() {
        let blobs = &document()["external_blobs"];
        let keys: Vec<_> = blobs
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, blob)| (name.as_str(), &blob["key"]))
            .collect();
        assert_eq!(keys, [("form.xml", &json!("k1")), ("photo.jpg", &json!("k2"))]);
    }

    /// As a normal form that was processed completely, which leaves no difference to the document that it was made of.
    #[test]
    fn it_is_a_normal_form_received_when_its_case_says() {
        let mut document = document();
        let xml = xml("<instanceID>f</instanceID>");
        complete_lost_form(&mut document, xml.as_bytes()).unwrap();
        let domain = Domain::new("demo");
        let form = crate::migrate(
            &domain,
            DocType::XFormInstance,
            &document,
            xml.as_bytes(),
            Vec::new(),
            Treatment::AsItSays,
        )
        .unwrap();
        let row = &form.bundle.form;
        assert_eq!(
            (
                row.form_id.as_str(),
                row.state,
                row.initial_processing_complete,
                row.received_on
            ),
            ("f", 1, true, RECEIVED.parse().unwrap())
        );
        assert_eq!(
            (row.xmlns.as_str(), row.user_id.as_deref()),
            ("http://visit", Some("u"))
        );
        assert_eq!((row.auth_context.as_str(), row.openrosa_headers.as_str()), ("{}", "{}"));
        assert_eq!(
            (&row.app_id, &row.problem, row.server_modified_on),
            (&None, &None, None)
        );
        assert!(form.bundle.operations.is_empty());
        assert_eq!(document["form"]["meta"]["timeEnd"], "2020-03-02T09:00:00.000000Z");
        assert_eq!(
            form.cases[0].1.form.received_on,
            RECEIVED.parse::<DateTime<Utc>>().unwrap()
        );
    }

    #[test]
    fn xml_of_another_form_is_refused() {
        for (instance_id, expected) in [
            ("", Ok(())),
            ("<instanceID>f</instanceID>", Ok(())),
            ("<uid>f</uid>", Ok(())),
            ("<instanceID>g</instanceID>", Err("C2S-2393")),
        ] {
            let completed = complete_lost_form(&mut document(), xml(instance_id).as_bytes());
            assert_eq!(completed.map_err(|failure| failure.code()), expected, "{instance_id}");
        }
        let broken = complete_lost_form(&mut document(), b"<data>");
        assert!(matches!(broken, Err(FormFailure::Xml(_))), "{broken:?}");
    }
}
