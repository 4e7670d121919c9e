//! CouchDB's order of view keys, as bytes that compare with `memcmp`.
//!
//! Types: `null`, `false`, `true`, numbers, strings, arrays, objects. Arrays compare item by item, objects member by
//! member in the order in which they are written; what is a prefix of another comes first. An encoded value is never
//! the prefix of another one, so that a document id can be appended to break ties.
//!
//! CouchDB compares strings by ICU's root collation. This is an approximation of it, exact for ASCII: white space,
//! punctuation, symbols, digits, letters in ICU's order; letters by alphabet first and, where all else is equal, the
//! small one before the capital; control characters ignored. Characters beyond ASCII come after `z`, by code point:
//! real ICU puts accented letters beside their base letter. U+FFFF is the highest of all, as in ICU.

use serde_json::Value;

const END: u8 = 0x00;
const NULL: u8 = 0x02;
const FALSE: u8 = 0x03;
const TRUE: u8 = 0x04;
const NUMBER: u8 = 0x05;
const STRING: u8 = 0x06;
const ARRAY: u8 = 0x07;
const OBJECT: u8 = 0x08;

/// Ends a level of a string; smaller than every weight.
const LEVEL_END: u8 = 0x01;
const SMALL: u8 = 0x02;
const CAPITAL: u8 = 0x03;

/// Greater than every byte that can follow an encoded value, or a prefix of an array's items.
pub(crate) const AFTER: u8 = 0xFF;

/// The printable ASCII characters other than letters, and white space, in ICU's order.
const BEFORE_LETTERS: &[u8] = b"\t\n\x0B\x0C\r _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0123456789";

/// Primary weight of an ASCII character; 0 for those that are ignored.
const WEIGHTS: [u8; 128] = {
    let mut weights = [0; 128];
    let mut weight = 2;
    let mut at = 0;
    while at < BEFORE_LETTERS.len() {
        weights[BEFORE_LETTERS[at] as usize] = weight;
        weight += 1;
        at += 1;
    }
    let mut letter = 0;
    while letter < 26 {
        weights[(b'a' + letter) as usize] = weight;
        weights[(b'A' + letter) as usize] = weight;
        weight += 1;
        letter += 1;
    }
    weights
};

/// Appends the encoding of a key.
pub(crate) fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(NULL),
        Value::Bool(false) => out.push(FALSE),
        Value::Bool(true) => out.push(TRUE),
        Value::Number(number) => {
            out.push(NUMBER);
            out.extend_from_slice(&number_bytes(number.as_f64().unwrap_or(0.0)));
        }
        Value::String(text) => encode_text(text, out),
        Value::Array(items) => {
            encode_items(items, out);
            out.push(END);
        }
        Value::Object(members) => {
            out.push(OBJECT);
            for (name, member) in members {
                encode_text(name, out);
                encode(member, out);
            }
            out.push(END);
        }
    }
}

/// Appends what all arrays that begin with these items have in common.
pub(crate) fn encode_items(items: &[Value], out: &mut Vec<u8>) {
    out.push(ARRAY);
    for item in items {
        encode(item, out);
    }
}

fn number_bytes(number: f64) -> [u8; 8] {
    // Adding zero makes the two zeros one.
    let bits = (number + 0.0).to_bits();
    let sign = 1 << 63;
    let ordered = if bits & sign == 0 { bits | sign } else { !bits };
    ordered.to_be_bytes()
}

fn encode_text(text: &str, out: &mut Vec<u8>) {
    out.push(STRING);
    let mut any_capital = false;
    for character in text.chars() {
        match character {
            '\0'..='\x7F' => {
                let weight = WEIGHTS[character as usize];
                if weight != 0 {
                    out.push(weight);
                    any_capital |= character.is_ascii_uppercase();
                }
            }
            '\u{FFFF}' => out.push(0xFE),
            // The lead byte of UTF-8 is above every ASCII weight, and UTF-8 sorts as code points do.
            _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(LEVEL_END);
    if any_capital {
        let level = out.len();
        for character in text.chars().filter(|&c| !c.is_ascii() || WEIGHTS[c as usize] != 0) {
            out.push(if character.is_ascii_uppercase() { CAPITAL } else { SMALL });
        }
        while out.len() > level && out.last() == Some(&SMALL) {
            out.pop();
        }
    }
    out.push(LEVEL_END);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn encoded(value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        encode(value, &mut out);
        out
    }

    /// The example table of CouchDB's documentation on view collation, shortened, plus keys of our kind.
    #[test]
    fn keys_sort_as_couchdb_documents() {
        let sorted = [
            json!(null),
            json!(false),
            json!(true),
            json!(-2.5),
            json!(0),
            json!(1),
            json!(2),
            json!(3.0),
            json!(4),
            json!(""),
            json!("2019-03-02T08:15:00.120000Z"),
            json!("2019-03-02T08:15:00Z"),
            json!("2019-03-02T08:15:01Z"),
            json!("a"),
            json!("A"),
            json!("aa"),
            json!("b"),
            json!("B"),
            json!("ba"),
            json!("bb"),
            json!("CommCareCase"),
            json!("CommCareCase-Deleted"),
            json!("XFormArchived"),
            json!("XFormInstance"),
            json!("XFormInstance-Deleted"),
            json!("XFormInstance\u{FFF0}"),
            json!("é"),
            json!("\u{FFFF}"),
            json!([]),
            json!(["a"]),
            json!(["b"]),
            json!(["b", null]),
            json!(["b", "c"]),
            json!(["b", "c", "a"]),
            json!(["b", "c", {}]),
            json!(["b", "d"]),
            json!(["b", "d", "e"]),
            json!({}),
            json!({"a": 1}),
            json!({"a": 2}),
            json!({"b": 1}),
            json!({"b": 2}),
            json!({"b": 2, "a": 1}),
            json!({"b": 2, "c": 2}),
        ];
        for pair in sorted.windows(2) {
            assert!(encoded(&pair[0]) < encoded(&pair[1]), "{} before {}", pair[0], pair[1]);
        }
    }

    #[test]
    fn punctuation_and_digits_sort_as_icu_root() {
        let sorted = "_ - , ; : ! ? . ' \" ( ) [ ] { } @ * / \\ & # % ` ^ + < = > | ~ $ 0 1 9 a A b B z Z";
        let characters: Vec<Value> = sorted.split(' ').map(|c| json!(c)).collect();
        for pair in characters.windows(2) {
            assert!(encoded(&pair[0]) < encoded(&pair[1]), "{} before {}", pair[0], pair[1]);
        }
        assert!(encoded(&json!(" ")) < encoded(&json!("_")));
    }

    #[test]
    fn capitals_decide_only_when_all_else_is_equal() {
        for (first, second) in [("aB", "Ab"), ("Ab", "ac"), ("AB", "abc"), ("abc", "abC"), ("a-b", "ab")] {
            assert!(
                encoded(&json!(first)) < encoded(&json!(second)),
                "{first} before {second}"
            );
        }
        assert_eq!(
            encoded(&json!("a\u{0}b")),
            encoded(&json!("ab")),
            "control characters are ignored"
        );
        assert_eq!(encoded(&json!(-0.0)), encoded(&json!(0)));
    }

    #[test]
    fn a_prefix_of_items_bounds_its_arrays() {
        let mut low = Vec::new();
        encode_items(&[json!("demo"), json!("XFormInstance")], &mut low);
        let mut high = low.clone();
        high.push(AFTER);
        for inside in [json!(["demo", "XFormInstance"]), json!(["demo", "XFormInstance", {}])] {
            assert!(low < encoded(&inside) && encoded(&inside) < high);
        }
        for outside in [
            json!(["demo", "XFormInstance-Deleted"]),
            json!(["demo", "XFormError", {}]),
        ] {
            assert!(encoded(&outside) < low || encoded(&outside) > high);
        }
    }
}
