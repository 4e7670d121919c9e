//! XML for forms that have lost their `form.xml`, from what their Couch document still holds.

use proto::doctype::DocType;
use serde_json::Value;

use crate::FormFailure;

/// Key under which documents of early days keep their XML.
const XML_PROPERTY: &str = "#xml";

/// What lost XML was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XmlSource {
    /// It stood in the document's `#xml`.
    XmlProperty,
    /// It was rebuilt from the document's form JSON.
    FormJson,
}

/// The XML of a form whose `form.xml` is nowhere: the document's own `#xml` if it can be read, as HQ reads it before it
/// gives up; else XML rebuilt from the form JSON, with all date-times in UTC as HQ's migrator has them. A submission error
/// log is no XML: its `#xml` counts as it is, and it has no JSON to rebuild anything from.
///
/// # Errors
/// [`FormFailure::NoXml`] with the reason, or [`FormFailure::Form`] for a date-time that has no place in UTC.
pub fn restore_xml(doc_type: DocType, document: &Value) -> Result<(Vec<u8>, XmlSource), FormFailure> {
    let own = document.get(XML_PROPERTY).and_then(Value::as_str);
    if let Some(xml) = own.filter(|xml| !xml.is_empty())
        && (doc_type == DocType::SubmissionErrorLog || xform::xml_to_json(xml.as_bytes()).is_ok())
    {
        return Ok((xml.as_bytes().to_vec(), XmlSource::XmlProperty));
    }
    let mut form = document.get("form").cloned().unwrap_or_default();
    xform::adjust_datetimes(&mut form)?;
    let xml = xform::json_to_xml(&form).map_err(FormFailure::NoXml)?;
    Ok((xml, XmlSource::FormJson))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn document() -> Value {
        json!({"form": {
            "@xmlns": "http://openrosa.org/formdesigner/visit",
            "visited": "2019-03-02T10:15:00.000+02:00",
            "day": "2019-03-02",
            "case": {"@case_id": "c", "@xmlns": "http://commcarehq.org/case/transaction/v2", "update": {"age": "27"}},
            "meta": {"instanceID": "f", "userID": "u"},
            "#type": "data",
        }})
    }

    #[test]
    fn rebuilt_xml_reads_as_the_json_with_its_dates_in_utc() {
        let (xml, source) = restore_xml(DocType::XFormInstance, &document()).unwrap();
        assert_eq!(source, XmlSource::FormJson);
        let mut expected = document()["form"].clone();
        expected["visited"] = json!("2019-03-02T08:15:00.000000Z");
        assert_eq!(xform::form_json(&xml).unwrap(), expected);
    }

    #[test]
    fn the_documents_own_xml_comes_first_if_it_can_be_read() {
        let mut doc = document();
        doc["#xml"] = json!("<?xml version='1.0'?><data n='1'><a>é</a></data>");
        let (xml, source) = restore_xml(DocType::XFormArchived, &doc).unwrap();
        assert_eq!(source, XmlSource::XmlProperty);
        assert_eq!(xml, doc["#xml"].as_str().unwrap().as_bytes());
        for unreadable in [json!(""), json!("<data>"), json!(7), Value::Null] {
            doc["#xml"] = unreadable;
            assert_eq!(
                restore_xml(DocType::XFormArchived, &doc).unwrap().1,
                XmlSource::FormJson
            );
        }
    }

    #[test]
    fn a_submission_error_log_has_a_body_and_no_json() {
        let log = json!({"form": {}, "#xml": "not <xml"});
        assert_eq!(
            restore_xml(DocType::SubmissionErrorLog, &log).unwrap(),
            (b"not <xml".to_vec(), XmlSource::XmlProperty)
        );
        let gone = json!({"form": {}});
        let failure = restore_xml(DocType::SubmissionErrorLog, &gone).unwrap_err();
        assert_eq!(failure.code(), "C2S-2304");
    }

    #[test]
    fn json_that_is_no_xml_is_refused_with_its_reason() {
        for (key, value, why) in [
            ("a", Value::Null, "a value that no XML gives"),
            ("a", json!(3), "a value that no XML gives"),
            ("#x", json!("y"), "a special key in the wrong place"),
            ("a b", json!("y"), "a key that is no XML name"),
            ("a", json!("\u{0}"), "cannot be read back"),
        ] {
            let mut doc = document();
            doc["form"][key] = value;
            let failure = restore_xml(DocType::XFormInstance, &doc).unwrap_err();
            assert_eq!(failure.code(), "C2S-2304", "{key}");
            assert!(failure.to_string().contains(why), "{failure}");
        }
        for form in [Value::Null, json!("text"), json!({}), json!([])] {
            let failure = restore_xml(DocType::XFormInstance, &json!({"form": form})).unwrap_err();
            assert_eq!(failure.code(), "C2S-2304");
        }
    }
}
