//! Where a form keeps its case blocks.

use serde_json::{Map, Value};

use crate::error::FormError;

/// Namespace of device logs; nothing below an element in it is a case block.
pub(crate) const DEVICE_REPORT_XMLNS: &str = "http://code.javarosa.org/devicereport";

/// The form's case blocks in document order: every `case`, in any namespace, that has a case id as attribute or element.
///
/// A block inside a block is never found, and elements named `case` without an id are passed over.
pub(crate) fn case_blocks(form: &Value) -> Result<Vec<&Map<String, Value>>, FormError> {
    let mut found = Vec::new();
    collect(form, &mut found)?;
    Ok(found)
}

fn collect<'f>(value: &'f Value, found: &mut Vec<&'f Map<String, Value>>) -> Result<(), FormError> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| collect(item, found)),
        Value::Object(object) => {
            if object.get("@xmlns").and_then(Value::as_str) == Some(DEVICE_REPORT_XMLNS) {
                return Ok(());
            }
            for (key, child) in object {
                match (key.as_str(), child) {
                    ("case", Value::Array(candidates)) => {
                        candidates.iter().try_for_each(|candidate| accept(candidate, found))?;
                    }
                    ("case", candidate) => accept(candidate, found)?,
                    (_, child) => collect(child, found)?,
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn accept<'f>(candidate: &'f Value, found: &mut Vec<&'f Map<String, Value>>) -> Result<(), FormError> {
    match candidate {
        Value::Object(block) if block.contains_key("case_id") || block.contains_key("@case_id") => {
            found.push(block);
            Ok(())
        }
        // HQ's test is Python's `in`, which looks for a substring here; the text then fails as a block.
        Value::String(text) if text.contains("case_id") => Err(FormError::CaseIsText),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn ids(form: &Value) -> Vec<&str> {
        let id = |block: &&Map<String, Value>| block.get("@case_id").or(block.get("case_id")).unwrap().clone();
        let blocks = case_blocks(form).unwrap();
        let found: Vec<String> = blocks
            .iter()
            .map(|block| id(block).as_str().unwrap().to_owned())
            .collect();
        found.into_iter().map(|id| &*id.leak()).collect()
    }

    #[test]
    fn finds_blocks_in_document_order() {
        let log = DEVICE_REPORT_XMLNS;
        for (form, expected) in [
            (json!({"case": {"@case_id": "1"}}), vec!["1"]),
            (json!({"case": {"case_id": "1"}}), vec!["1"]),
            (json!({"case": {"@case_id": ""}}), vec![""]),
            (
                json!({"case": [{"@case_id": "1"}, "", {"x": "no id"}, {"@case_id": "2"}]}),
                vec!["1", "2"],
            ),
            (
                json!({"b": {"case": {"@case_id": "1"}}, "a": [{"case": {"@case_id": "2"}}, {"case": {"@case_id": "3"}}]}),
                vec!["1", "2", "3"],
            ),
            (
                json!({"case": {"@case_id": "1", "case": {"@case_id": "2"}, "x": {"case": {"@case_id": "3"}}}}),
                vec!["1"],
            ),
            (json!({"case": {"x": {"case": {"@case_id": "1"}}}}), vec![]),
            (json!({"Case": {"@case_id": "1"}, "cases": {"@case_id": "2"}}), vec![]),
            (json!({"case": "plain text"}), vec![]),
            (json!({"@xmlns": log, "case": {"@case_id": "1"}}), vec![]),
            (
                json!({"log": {"@xmlns": log, "case": {"@case_id": "1"}}, "case": {"@case_id": "2"}}),
                vec!["2"],
            ),
            (json!({"case": {"@case_id": "1", "@xmlns": "anything"}}), vec!["1"]),
            (json!("text"), vec![]),
        ] {
            assert_eq!(ids(&form), expected, "{form}");
        }
    }

    #[test]
    fn text_that_looks_like_a_block_is_an_error() {
        for form in [json!({"case": "see case_id"}), json!({"case": ["", "@case_id"]})] {
            assert_eq!(case_blocks(&form), Err(FormError::CaseIsText));
        }
    }
}
