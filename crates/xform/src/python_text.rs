//! Python's way to write a value as text.

use std::fmt::Write;

use serde_json::Value;

/// What Python's `str()` gives for a JSON value.
///
/// Django stores an object or a list in a text column in this notation, so a repeated or attributed element can end up
/// in a column this way.
pub fn python_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => {
            let mut text = String::new();
            write_value(&mut text, other);
            text
        }
    }
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => write_quoted(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_value(out, item);
            }
            out.push(']');
        }
        Value::Object(object) => {
            out.push('{');
            for (index, (key, item)) in object.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_quoted(out, key);
                out.push_str(": ");
                write_value(out, item);
            }
            out.push('}');
        }
    }
}

/// Single quotes, unless only a double-quoted text needs no escape for the quotes it holds.
fn write_quoted(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for c in text.chars() {
        // Writing to a String cannot fail.
        let _ = match c {
            '\\' => out.write_str("\\\\"),
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            c if c == quote => write!(out, "\\{c}"),
            c if c.is_control() || c == '\u{a0}' || c == '\u{ad}' => write!(out, "\\x{:02x}", u32::from(c)),
            c => out.write_char(c),
        };
    }
    out.push(quote);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn writes_as_python_does() {
        for (value, expected) in [
            (json!("it's"), "it's"),
            (json!(["a", "it's", "\"", "'\""]), r#"['a', "it's", '"', '\'"']"#),
            (json!({"@k": "1", "#text": "x\n\\é"}), r"{'@k': '1', '#text': 'x\n\\é'}"),
            (json!([null, true, 5, {}, []]), "[None, True, 5, {}, []]"),
        ] {
            assert_eq!(python_text(&value), expected);
        }
    }
}
