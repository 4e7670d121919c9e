//! Equality and types as Python has them.

use serde_json::{Number, Value};

/// Python's type of a JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Bool,
    Int,
    Float,
    Text,
    List,
    Object,
}

pub(crate) fn kind(value: &Value) -> Kind {
    match value {
        Value::Null => Kind::Null,
        Value::Bool(_) => Kind::Bool,
        Value::Number(number) if is_float(&number.to_string()) => Kind::Float,
        Value::Number(_) => Kind::Int,
        Value::String(_) => Kind::Text,
        Value::Array(_) => Kind::List,
        Value::Object(_) => Kind::Object,
    }
}

fn is_float(number: &str) -> bool {
    number.contains(['.', 'e', 'E'])
}

/// Whether Python calls two JSON values equal: numbers and booleans by value, texts exactly, lists and objects deeply.
pub(crate) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::String(a), Value::String(b)) => a == b,
        (Value::Number(a), Value::Number(b)) => numbers_equal(a, b),
        (Value::Bool(flag), Value::Number(number)) | (Value::Number(number), Value::Bool(flag)) => {
            numbers_equal(&Number::from(u8::from(*flag)), number)
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => false,
    }
}

/// Whether Python takes a JSON value for true: not null, not zero, not empty.
pub(crate) fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(_) => !equal(value, &Value::from(0)),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(object) => !object.is_empty(),
    }
}

/// Integers are compared exactly, however long; a number with a point or an exponent is a double.
fn numbers_equal(a: &Number, b: &Number) -> bool {
    let (a, b) = (a.to_string(), b.to_string());
    if a == b {
        return true;
    }
    match (is_float(&a), is_float(&b)) {
        (true, true) => matches!((a.parse::<f64>(), b.parse::<f64>()), (Ok(a), Ok(b)) if a == b),
        (false, true) => is_exactly(&b, &a),
        (true, false) => is_exactly(&a, &b),
        // JSON writes an integer in one way only, but for a minus before zero.
        (false, false) => a.trim_start_matches('-') == "0" && b.trim_start_matches('-') == "0",
    }
}

/// Whether the double is the integer, to the last digit.
fn is_exactly(double: &str, integer: &str) -> bool {
    let Ok(double) = double.parse::<f64>() else {
        return false;
    };
    if double == 0.0 {
        return integer.trim_start_matches('-') == "0";
    }
    double.fract() == 0.0 && format!("{double:.0}") == integer
}

/// The number that Python's `float` reads from a text.
pub(crate) fn float(text: &str) -> Option<f64> {
    text.trim().parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn equality() {
        for (a, b, expected) in [
            ("1", "1.0", true),
            ("1", "true", true),
            ("1.0", "true", true),
            ("0", "false", true),
            ("0.0", "false", true),
            ("-0", "0", true),
            ("-0.0", "0", true),
            ("1", "false", false),
            ("2", "true", false),
            ("1e2", "100", true),
            ("1.50", "1.5", true),
            ("1", "1.5", false),
            ("9007199254740993", "9007199254740992", false),
            ("9007199254740993", "9007199254740992.0", false),
            ("9007199254740992", "9007199254740992.0", true),
            ("123456789012345678901234567890", "123456789012345678901234567890", true),
            (
                "123456789012345678901234567890",
                "123456789012345678901234567891",
                false,
            ),
            ("\"1\"", "1", false),
            ("null", "false", false),
            ("null", "null", true),
            ("\"a\"", "\"a\"", true),
            ("[1,true]", "[1.0,1]", true),
            ("[1]", "[1,1]", false),
            (r#"{"a":1,"b":[0]}"#, r#"{"b":[false],"a":1.0}"#, true),
            (r#"{"a":null}"#, "{}", false),
            ("[]", "{}", false),
        ] {
            assert_eq!(equal(&parsed(a), &parsed(b)), expected, "{a} {b}");
            assert_eq!(equal(&parsed(b), &parsed(a)), expected, "{b} {a}");
        }
    }

    #[test]
    fn types() {
        for (json, expected) in [
            ("null", Kind::Null),
            ("true", Kind::Bool),
            ("1", Kind::Int),
            ("1.0", Kind::Float),
            ("1e3", Kind::Float),
            ("\"1\"", Kind::Text),
            ("[]", Kind::List),
            ("{}", Kind::Object),
        ] {
            assert_eq!(kind(&parsed(json)), expected, "{json}");
        }
    }
}
