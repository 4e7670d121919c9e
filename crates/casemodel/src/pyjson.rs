//! JSON text as Python writes it. HQ's JSON columns are text, written by `json.dumps` with the separators `,` and `:` and
//! with everything outside printable ASCII escaped; a row that was written elsewhere should be the same text.

use std::fmt::Write;

use serde_json::{Number, Value};

/// The value as `json.dumps(value, separators=(',', ':'))` writes it after `json.loads` has read it: keys in insertion
/// order, integers as they are, other numbers as the shortest text of the double.
pub fn dumps(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value);
    out
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_text(out, text),
        Value::Array(items) => {
            out.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                write_value(out, item);
            }
            out.push(']');
        }
        Value::Object(map) => write_object(out, map.iter().map(|(key, value)| (key.as_str(), value))),
    }
}

/// Writes an object of the given entries.
fn write_object<'a>(out: &mut String, entries: impl Iterator<Item = (&'a str, &'a Value)>) {
    out.push('{');
    for (position, (key, value)) in entries.enumerate() {
        if position > 0 {
            out.push(',');
        }
        write_text(out, key);
        out.push(':');
        write_value(out, value);
    }
    out.push('}');
}

/// [`dumps`] of an object that exists only as its entries.
pub(crate) fn dumps_object<'a>(entries: impl Iterator<Item = (&'a str, &'a Value)>) -> String {
    let mut out = String::new();
    write_object(&mut out, entries);
    out
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
    let mut plain = 0;
    for (at, c) in text.char_indices() {
        if matches!(c, ' '..='~') && c != '"' && c != '\\' {
            continue;
        }
        out.push_str(&text[plain..at]);
        plain = at + c.len_utf8();
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    push_hex(out, "\\u", u32::from(*unit), 4);
                }
            }
        }
    }
    out.push_str(&text[plain..]);
    out.push('"');
}

fn push_hex(out: &mut String, prefix: &str, number: u32, digits: usize) {
    // Writing into a String cannot fail.
    let _ = write!(out, "{prefix}{number:0digits$x}");
}

fn write_number(out: &mut String, number: &Number) {
    let text = number.to_string();
    if !text.contains(['.', 'e', 'E']) {
        out.push_str(if text == "-0" { "0" } else { &text });
        return;
    }
    match text.parse::<f64>() {
        Ok(double) if double.is_finite() => out.push_str(&float_repr(double)),
        // Python would write the word Infinity, which is not JSON: the text as it was is better.
        _ => out.push_str(&text),
    }
}

/// A finite double as Python prints it: the shortest digits that read back as the same double, positional between 1e-4
/// and 1e16, else with an exponent of at least two digits.
fn float_repr(double: f64) -> String {
    let scientific = format!("{double:e}");
    // Rust's form is always digits, "e", exponent.
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let Ok(exponent) = exponent.parse::<i32>() else {
        return scientific;
    };
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs());
    }
    let positional = format!("{double}");
    if positional.contains('.') {
        positional
    } else {
        format!("{positional}.0")
    }
}

/// A list of texts as Python's `str()` prints it.
pub(crate) fn list_repr(texts: &[&str]) -> String {
    let items: Vec<String> = texts.iter().map(|text| text_repr(text)).collect();
    format!("[{}]", items.join(", "))
}

/// A text as Python's `repr()` prints it.
fn text_repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if is_printable(c) => out.push(c),
            c => match u32::from(c) {
                code @ 0..=0xff => push_hex(&mut out, "\\x", code, 2),
                code @ 0x100..=0xffff => push_hex(&mut out, "\\u", code, 4),
                code => push_hex(&mut out, "\\U", code, 8),
            },
        }
    }
    out.push(quote);
    out
}

/// Whether Python prints the character as it is. Rust's own escaping for debugging makes the same distinction, but escapes
/// combining marks at the beginning of a text, hence the letter before it.
fn is_printable(c: char) -> bool {
    if matches!(c, '\'' | '"') {
        return true;
    }
    let pair: String = ['a', c].iter().collect();
    pair.escape_debug().count() == 2
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rewritten(json: &str) -> String {
        dumps(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn text_is_escaped_as_python_escapes_it() {
        for (json, expected) in [
            (r#""plain ~""#, r#""plain ~""#),
            (r#""\"\\\/\b\f\n\r\t""#, r#""\"\\/\b\f\n\r\t""#),
            (r#""\u0000\u001f\u007f""#, r#""\u0000\u001f\u007f""#),
            ("\"é\u{2028}\"", r#""\u00e9\u2028""#),
            ("\"a😀b\"", r#""a\ud83d\ude00b""#),
        ] {
            assert_eq!(rewritten(json), expected);
        }
    }

    #[test]
    fn separators_and_key_order() {
        assert_eq!(
            rewritten(r#"{ "b": [1, true, null, false], "a": {}, "c": [] }"#),
            r#"{"b":[1,true,null,false],"a":{},"c":[]}"#
        );
    }

    #[test]
    fn numbers_are_written_as_python_read_them() {
        for (json, expected) in [
            ("1", "1"),
            ("-0", "0"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("1.50", "1.5"),
            ("1.0", "1.0"),
            ("-0.0", "-0.0"),
            ("1e5", "100000.0"),
            ("1E15", "1000000000000000.0"),
            ("1e16", "1e+16"),
            ("123e20", "1.23e+22"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("1.5e-300", "1.5e-300"),
            ("0.1", "0.1"),
        ] {
            assert_eq!(rewritten(json), expected, "{json}");
        }
        assert!(rewritten("1e400").starts_with("1e"), "no double, kept as a number");
    }

    #[test]
    fn python_lists() {
        for (text, expected) in [
            ("a", "['a']"),
            ("it's", r#"["it's"]"#),
            ("\"", r#"['"']"#),
            ("'\"", r#"['\'"']"#),
            ("x\ny", r"['x\ny']"),
            ("\\", r"['\\']"),
            ("é e\u{301}", "['é e\u{301}']"),
            ("\u{a0}\u{200b}", r"['\xa0\u200b']"),
        ] {
            assert_eq!(list_repr(&[text]), expected);
        }
        assert_eq!(list_repr(&["a", "b"]), "['a', 'b']");
    }
}
