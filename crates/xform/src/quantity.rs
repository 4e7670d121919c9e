//! Python's way to read a number.

/// What Python's `float()` makes of a text; `None` where it raises.
///
/// Beyond what Rust reads: white space around the number, single underscores between digits, and decimal digits of any
/// script of Unicode's basic plane.
pub(crate) fn python_float(text: &str) -> Option<f64> {
    let text = text.trim();
    // Nearly every number is written plainly.
    if text.bytes().all(|byte| byte.is_ascii() && byte != b'_') {
        return text.parse().ok();
    }
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().map(ascii_digit).peekable();
    while let Some(c) = characters.next() {
        if c != '_' {
            plain.push(c);
        } else if !plain.ends_with(is_digit) || !characters.peek().copied().is_some_and(is_digit) {
            return None;
        }
    }
    plain.parse().ok()
}

const fn is_digit(c: char) -> bool {
    c.is_ascii_digit()
}

/// The zeros of the decimal digits outside ASCII; the other nine follow each.
const ZEROS: [u32; 36] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0, 0xf20,
    0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0,
    0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
];

/// A digit of another script as the ASCII digit of the same value; any other character as it is.
fn ascii_digit(c: char) -> char {
    ZEROS
        .iter()
        .find_map(|zero| u32::from(c).checked_sub(*zero).filter(|value| *value < 10))
        .and_then(|value| char::from_digit(value, 10))
        .unwrap_or(c)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_what_python_reads() {
        for (text, expected) in [
            ("5", Some(5.0)),
            ("-3", Some(-3.0)),
            ("+3", Some(3.0)),
            ("2.5", Some(2.5)),
            (".5", Some(0.5)),
            ("5.", Some(5.0)),
            ("1e3", Some(1000.0)),
            ("1E-2", Some(0.01)),
            (" 7\t", Some(7.0)),
            ("\u{a0}7\u{2003}", Some(7.0)),
            ("007", Some(7.0)),
            ("1_000.5", Some(1000.5)),
            ("1e1_0", Some(1e10)),
            ("٣", Some(3.0)),
            ("१२.५", Some(12.5)),
            ("１２", Some(12.0)),
            ("", None),
            (" ", None),
            (".", None),
            ("e5", None),
            ("five", None),
            ("5 boxes", None),
            ("1,000", None),
            ("0x10", None),
            ("--5", None),
            ("_1", None),
            ("1_", None),
            ("1__0", None),
            ("1_.5", None),
            ("½", None),
            ("²", None),
            ("1 0", None),
        ] {
            assert_eq!(python_float(text), expected, "{text}");
        }
        for infinite in ["inf", "Infinity", "-INF", "1e400"] {
            assert!(python_float(infinite).unwrap().is_infinite(), "{infinite}");
        }
        for none in ["nan", "-NaN", "+nan"] {
            assert!(python_float(none).unwrap().is_nan(), "{none}");
        }
    }
}
