//! What a column can hold, and how HQ makes a value fit.

use proto::effects::PropertyValue;
use proto::rows::RejectReason;
use serde_json::Value;

use crate::pyjson;

/// All text columns of a case and its children are `varchar(255)`: characters, not bytes.
pub(crate) const MAX_CHARS: usize = 255;

/// Whether the text fits into its column as it is.
pub(crate) fn fits(text: &str) -> Result<(), RejectReason> {
    fits_within(text, MAX_CHARS)
}

/// [`fits`] for a column of another width.
pub(crate) fn fits_within(text: &str, max_chars: usize) -> Result<(), RejectReason> {
    if text.contains('\0') {
        return Err(RejectReason::UnstorableText);
    }
    // No text has more characters than bytes.
    if text.len() > max_chars && text.chars().count() > max_chars {
        return Err(RejectReason::ValueTooLong);
    }
    Ok(())
}

/// [`fits`] for a nullable column.
pub(crate) fn fits_option(text: Option<&str>) -> Result<(), RejectReason> {
    text.map_or(Ok(()), fits)
}

/// The first 255 characters.
pub(crate) fn cut(text: &str) -> &str {
    cut_to(text, MAX_CHARS)
}

/// The first characters.
pub(crate) fn cut_to(text: &str, max_chars: usize) -> &str {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// Value of one of the four known properties that the migration cuts to 255 characters instead of refusing them: name,
/// type, owner and external id. `None`: nothing to write.
///
/// A repeated element is a list. HQ's cut takes its first 255 items, and the column then gets the list as Python prints
/// it. An object cannot be cut: the form fails.
pub(crate) fn cut_property(value: &PropertyValue) -> Result<Option<String>, RejectReason> {
    match value {
        PropertyValue::Text(text) => Ok(Some(cut(text).to_owned())),
        PropertyValue::Json(_) => match value.to_json() {
            Value::Null => Ok(None),
            Value::Array(mut items) => {
                items.truncate(MAX_CHARS);
                list_text(&items).map(Some)
            }
            _ => Err(RejectReason::BadValue),
        },
    }
}

/// Value of any other text column that a case block can set; it is never cut. `None`: nothing to write.
///
/// For an object HQ would store Python's print of its own dictionary class. No document says which text that is, so that
/// the form is refused rather than given a guess.
pub(crate) fn whole_property(value: &PropertyValue) -> Result<Option<String>, RejectReason> {
    match value {
        PropertyValue::Text(text) => Ok(Some(text.clone())),
        PropertyValue::Json(_) => match value.to_json() {
            Value::Null => Ok(None),
            Value::Array(items) => list_text(&items).map(Some),
            _ => Err(RejectReason::BadValue),
        },
    }
}

/// A list of texts as Python prints it.
fn list_text(items: &[Value]) -> Result<String, RejectReason> {
    let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
    texts
        .map(|texts| pyjson::list_repr(&texts))
        .ok_or(RejectReason::BadValue)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_in_characters() {
        assert_eq!(fits(&"é".repeat(255)), Ok(()));
        assert_eq!(fits(&"é".repeat(256)), Err(RejectReason::ValueTooLong));
        assert_eq!(fits("a\0b"), Err(RejectReason::UnstorableText));
        assert_eq!(cut(&"é".repeat(256)), "é".repeat(255));
        assert_eq!(cut("short"), "short");
    }

    #[test]
    fn values_that_are_not_text() {
        let list = PropertyValue::Json(r#"["a","it's"]"#.to_owned());
        assert_eq!(cut_property(&list), Ok(Some(r#"['a', "it's"]"#.to_owned())));
        assert_eq!(whole_property(&list), Ok(Some(r#"['a', "it's"]"#.to_owned())));
        let object = PropertyValue::Json(r##"{"@a":"1","#text":"b"}"##.to_owned());
        assert_eq!(cut_property(&object), Err(RejectReason::BadValue));
        assert_eq!(whole_property(&object), Err(RejectReason::BadValue));
        let mixed = PropertyValue::Json(r#"["a",{"@b":"c"}]"#.to_owned());
        assert_eq!(cut_property(&mixed), Err(RejectReason::BadValue));
        let null = PropertyValue::Json("null".to_owned());
        assert_eq!(cut_property(&null), Ok(None));
    }
}
