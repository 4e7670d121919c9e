//! The form's meta block.

use serde_json::{Map, Value};

use crate::error::FormError;
use crate::python_text::python_text;

/// Old names in the meta block and what they are called now.
const RENAMED: [(&str, &str); 5] = [
    ("TimeStart", "timeStart"),
    ("TimeEnd", "timeEnd"),
    ("chw_id", "userID"),
    ("DeviceID", "deviceID"),
    ("uid", "instanceID"),
];

/// Brings the meta block of old clients to its present shape, in place.
///
/// `Meta` becomes `meta` (and wins over one that is there); of repeated blocks the first is kept when it is an object;
/// the old names inside are replaced where the new one is absent.
pub fn scrub_form_meta(form: &mut Value) {
    let Some(form) = form.as_object_mut() else { return };
    // `shift_remove`: the order of keys has a meaning, and plain `remove` would move the last key into the gap.
    if let Some(old) = form.shift_remove("Meta") {
        form.insert("meta".to_owned(), old);
    }
    let Some(meta) = form.get_mut("meta") else { return };
    if let Value::Array(blocks) = meta
        && let Some(first @ Value::Object(_)) = blocks.first_mut()
    {
        *meta = first.take();
    }
    if let Value::Object(meta) = meta {
        for (old, new) in RENAMED {
            if !meta.contains_key(new)
                && let Some(value) = meta.shift_remove(old)
            {
                meta.insert(new.to_owned(), value);
            }
        }
    }
}

/// The form id that the XML names: `uid` or else `instanceID` of `Meta` or else `meta`.
///
/// # Errors
/// [`FormError::MetaNotObject`].
pub fn extract_meta_instance_id(form: &Value) -> Result<Option<String>, FormError> {
    let Some(meta) = truthy(form, "Meta").or_else(|| truthy(form, "meta")) else {
        return Ok(None);
    };
    let meta = meta.as_object().ok_or(FormError::MetaNotObject)?;
    let id = meta
        .get("uid")
        .filter(|id| is_truthy(id))
        .or_else(|| meta.get("instanceID").filter(|id| is_truthy(id)));
    Ok(id.map(python_text))
}

/// The submitting user of a processed form: `meta.userID`, or of a form without `meta` `Meta.user_id`.
///
/// An id that is not plain text is given as Python writes it, since that is what HQ would store.
///
/// # Errors
/// [`FormError::MetaNotObject`].
pub fn extract_meta_user_id(form: &Value) -> Result<Option<String>, FormError> {
    let (meta, key) = match (truthy(form, "meta"), truthy(form, "Meta")) {
        (Some(meta), _) => (meta, "userID"),
        (None, Some(meta)) => (meta, "user_id"),
        (None, None) => return Ok(None),
    };
    let meta = meta.as_object().ok_or(FormError::MetaNotObject)?;
    Ok(meta.get(key).filter(|id| !id.is_null()).map(python_text))
}

/// The user that HQ's typed view of the metadata names, as an unprocessed form takes it: `meta.userID`, with an object
/// flattened to `key:value, key:value`. `None` when there is no meta object or no user in it.
pub fn metadata_user_id(form: &Value) -> Option<String> {
    match form.get("meta")?.as_object()?.get("userID")? {
        Value::Null => None,
        Value::Object(object) => Some(flatten(object)),
        other => Some(python_text(other)),
    }
}

fn flatten(object: &Map<String, Value>) -> String {
    let pairs: Vec<_> = object
        .iter()
        .map(|(key, value)| format!("{key}:{}", python_text(value)))
        .collect();
    pairs.join(", ")
}

/// The namespace of the form's root element, `""` when it has none.
pub fn root_xmlns(form: &Value) -> String {
    form.get("@xmlns")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn truthy<'f>(form: &'f Value, key: &str) -> Option<&'f Value> {
    form.get(key).filter(|value| is_truthy(value))
}

/// Python's notion of a true value.
pub(crate) fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(object) => !object.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    /// As text: equality of JSON objects does not see the order of keys.
    fn scrubbed(mut form: Value) -> String {
        scrub_form_meta(&mut form);
        form.to_string()
    }

    #[test]
    fn scrubs_old_meta_blocks() {
        for (form, expected) in [
            (
                json!({"Meta": {"a": "1"}, "b": ""}),
                json!({"b": "", "meta": {"a": "1"}}),
            ),
            (
                json!({"meta": {"a": "1"}, "b": "", "Meta": {"c": "2"}}),
                json!({"meta": {"c": "2"}, "b": ""}),
            ),
            (
                json!({"meta": [{"a": "1"}, {"a": "2"}], "b": ""}),
                json!({"meta": {"a": "1"}, "b": ""}),
            ),
            (json!({"meta": ["x", {"a": "2"}]}), json!({"meta": ["x", {"a": "2"}]})),
            (
                json!({"Meta": [{"uid": "1"}, {"uid": "2"}], "b": ""}),
                json!({"b": "", "meta": {"instanceID": "1"}}),
            ),
            (json!({"Meta": "text", "meta": {"a": "1"}}), json!({"meta": "text"})),
            (json!({"meta": ["x", "y"]}), json!({"meta": ["x", "y"]})),
            (json!({"meta": "text"}), json!({"meta": "text"})),
            (
                json!({"meta": {"TimeStart": "s", "TimeEnd": "e", "chw_id": "u", "DeviceID": "d", "uid": "i", "z": ""}}),
                json!({"meta": {"z": "", "timeStart": "s", "timeEnd": "e", "userID": "u", "deviceID": "d", "instanceID": "i"}}),
            ),
            (
                json!({"meta": {"uid": "old", "instanceID": "new"}}),
                json!({"meta": {"uid": "old", "instanceID": "new"}}),
            ),
            (
                json!({"b": {"Meta": {"uid": "i"}}}),
                json!({"b": {"Meta": {"uid": "i"}}}),
            ),
        ] {
            assert_eq!(scrubbed(form), expected.to_string());
        }
    }

    #[test]
    fn instance_ids() {
        for (form, expected) in [
            (json!({}), Ok(None)),
            (json!({"meta": {"instanceID": "i"}}), Ok(Some("i"))),
            (json!({"meta": {"instanceID": "i", "uid": "u"}}), Ok(Some("u"))),
            (json!({"meta": {"instanceID": "i", "uid": ""}}), Ok(Some("i"))),
            (
                json!({"Meta": {"uid": "u"}, "meta": {"instanceID": "i"}}),
                Ok(Some("u")),
            ),
            (json!({"Meta": "", "meta": {"instanceID": "i"}}), Ok(Some("i"))),
            (json!({"meta": {}}), Ok(None)),
            (json!({"meta": {"other": ""}}), Ok(None)),
            (json!({"meta": "text"}), Err(FormError::MetaNotObject)),
            (json!({"meta": [{"instanceID": "i"}]}), Err(FormError::MetaNotObject)),
        ] {
            assert_eq!(
                extract_meta_instance_id(&form),
                expected.map(|id| id.map(str::to_owned)),
                "{form}"
            );
        }
    }

    #[test]
    fn user_ids() {
        for (form, expected) in [
            (json!({}), Ok(None)),
            (json!({"meta": {"userID": "u"}}), Ok(Some("u"))),
            (json!({"meta": {"userID": ""}}), Ok(Some(""))),
            (json!({"meta": {"other": "u"}}), Ok(None)),
            (json!({"meta": {"userID": null, "x": ""}}), Ok(None)),
            (json!({"Meta": {"user_id": "u"}}), Ok(Some("u"))),
            (json!({"Meta": {"userID": "u"}}), Ok(None)),
            (
                json!({"meta": {"userID": "u"}, "Meta": {"user_id": "v"}}),
                Ok(Some("u")),
            ),
            (json!({"meta": "", "Meta": {"user_id": "v"}}), Ok(Some("v"))),
            (json!({"meta": {"userID": ["u", "v"]}}), Ok(Some("['u', 'v']"))),
            (json!({"meta": "text"}), Err(FormError::MetaNotObject)),
            (json!({"meta": ["x"]}), Err(FormError::MetaNotObject)),
        ] {
            assert_eq!(
                extract_meta_user_id(&form),
                expected.map(|id| id.map(str::to_owned)),
                "{form}"
            );
        }
    }

    #[test]
    fn users_of_unprocessed_forms() {
        for (form, expected) in [
            (json!({"meta": {"userID": "u"}}), Some("u")),
            (
                json!({"meta": {"userID": {"@a": "1", "#text": "u"}}}),
                Some("@a:1, #text:u"),
            ),
            (json!({"meta": {"userID": null}}), None),
            (json!({"meta": {}}), None),
            (json!({"meta": "text"}), None),
            (json!({"Meta": {"user_id": "u"}}), None),
            (json!({}), None),
        ] {
            assert_eq!(metadata_user_id(&form).as_deref(), expected, "{form}");
        }
    }

    #[test]
    fn namespaces_of_the_root() {
        assert_eq!(root_xmlns(&json!({"@xmlns": "F"})), "F");
        assert_eq!(root_xmlns(&json!({"@xmlns": null})), "");
        assert_eq!(root_xmlns(&json!({})), "");
    }
}
