//! Ledger blocks (stock) in a form.

use serde_json::Value;

use crate::blocks::DEVICE_REPORT_XMLNS;
use crate::meta::root_xmlns;

/// Namespace of the elements `balance` and `transfer` that change ledgers.
pub const LEDGER_XMLNS: &str = "http://commcarehq.org/ledger/v1";

/// Whether a form converted by [`crate::xml_to_json`] holds ledger blocks.
///
/// JSON cannot tell an element without namespace from one that shares its parent's, so an element is taken to share it:
/// the answer may be a yes too many for a form that switches namespaces off below a ledger element, never a no too many.
/// A device report has no ledgers, whatever it holds.
pub fn has_ledgers(form: &Value) -> bool {
    root_xmlns(form) != DEVICE_REPORT_XMLNS && holds_ledger(form, "")
}

fn holds_ledger(value: &Value, parent_namespace: &str) -> bool {
    match value {
        Value::Object(object) => {
            let namespace = object.get("@xmlns").and_then(Value::as_str).unwrap_or(parent_namespace);
            object.iter().any(|(name, child)| {
                (matches!(name.as_str(), "balance" | "transfer") && is_ledger(child, namespace))
                    || holds_ledger(child, namespace)
            })
        }
        Value::Array(items) => items.iter().any(|item| holds_ledger(item, parent_namespace)),
        _ => false,
    }
}

/// Whether an element, or one of several of its name, is in the ledger namespace.
fn is_ledger(value: &Value, parent_namespace: &str) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| is_ledger(item, parent_namespace)),
        Value::Object(object) => {
            object.get("@xmlns").and_then(Value::as_str).unwrap_or(parent_namespace) == LEDGER_XMLNS
        }
        _ => parent_namespace == LEDGER_XMLNS,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::xml_to_json;

    #[test]
    fn finds_ledger_blocks() {
        let ledger = LEDGER_XMLNS;
        let device = DEVICE_REPORT_XMLNS;
        for (xml, expected) in [
            (
                format!("<d xmlns='F'><balance xmlns='{ledger}' entity-id='c'/></d>"),
                true,
            ),
            (
                format!("<d xmlns='F'><g><transfer xmlns='{ledger}' src='c'/></g></d>"),
                true,
            ),
            (format!("<d xmlns='F' xmlns:l='{ledger}'><l:balance/></d>"), true),
            (
                format!("<d xmlns='F' xmlns:l='{ledger}'><balance/><l:balance/></d>"),
                true,
            ),
            (format!("<l:d xmlns:l='{ledger}'><l:balance/></l:d>"), true),
            (
                format!("<d xmlns='{ledger}'><case><balance>x</balance></case></d>"),
                true,
            ),
            (format!("<d xmlns='F'><balance xmlns='{ledger}0'/></d>"), false),
            (format!("<d xmlns='F'><other xmlns='{ledger}'/></d>"), false),
            ("<d xmlns='F'><balance>5</balance></d>".to_owned(), false),
            (format!("<d xmlns='{device}'><balance xmlns='{ledger}'/></d>"), false),
        ] {
            assert_eq!(has_ledgers(&xml_to_json(xml.as_bytes()).unwrap()), expected, "{xml}");
        }
    }
}
