//! Bytes of an XML document to text.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

use crate::error::XmlError;

/// How far into the bytes an XML declaration may reach.
const DECLARATION_BYTES: usize = 512;

/// The document as text, without a byte order mark.
///
/// A byte order mark decides; else UTF-16 shows by its zero bytes; else the encoding of the XML declaration holds; else
/// UTF-8. Any byte sequence that the encoding does not define is an error, and so is a character that XML 1.0 excludes.
pub(crate) fn decode(xml: &[u8]) -> Result<Cow<'_, str>, XmlError> {
    let text = match xml {
        [0xef, 0xbb, 0xbf, rest @ ..] => decode_as(rest, UTF_8)?,
        [0xfe, 0xff, rest @ ..] | rest @ [0, b'<', 0, b'?', ..] => decode_as(rest, UTF_16BE)?,
        [0xff, 0xfe, rest @ ..] | rest @ [b'<', 0, b'?', 0, ..] => decode_as(rest, UTF_16LE)?,
        _ => match declared_encoding(xml) {
            None => decode_as(xml, UTF_8)?,
            Some(label) => decode_labelled(xml, label)?,
        },
    };
    if contains_excluded_character(text.as_bytes()) {
        return Err(XmlError::Encoding {
            reason: "a character that XML does not allow",
        });
    }
    Ok(text)
}

fn decode_labelled<'x>(xml: &'x [u8], label: &[u8]) -> Result<Cow<'x, str>, XmlError> {
    // encoding_rs follows the web, where these two labels mean windows-1252.
    let is = |name: &str| label.eq_ignore_ascii_case(name.as_bytes());
    if is("us-ascii") || is("ascii") {
        return match std::str::from_utf8(xml) {
            Ok(text) if xml.is_ascii() => Ok(Cow::Borrowed(text)),
            _ => Err(XmlError::Encoding {
                reason: "a byte that is not ASCII",
            }),
        };
    }
    if is("iso-8859-1") || is("latin1") || is("iso-latin-1") || is("l1") {
        return Ok(Cow::Owned(xml.iter().map(|&byte| char::from(byte)).collect()));
    }
    match Encoding::for_label(label) {
        None => Err(XmlError::Encoding {
            reason: "not a known encoding",
        }),
        // The declaration was readable as ASCII, so the document is in neither of these.
        Some(found) if found == UTF_16BE || found == UTF_16LE => Err(XmlError::Encoding {
            reason: "declared as UTF-16 but not written in it",
        }),
        Some(found) if !found.is_ascii_compatible() || found == encoding_rs::X_USER_DEFINED => {
            Err(XmlError::Encoding {
                reason: "not a supported encoding",
            })
        }
        Some(found) => decode_as(xml, found),
    }
}

fn decode_as<'x>(bytes: &'x [u8], encoding: &'static Encoding) -> Result<Cow<'x, str>, XmlError> {
    if encoding == UTF_8 {
        return match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Cow::Borrowed(text)),
            Err(_) => Err(XmlError::Encoding {
                reason: "not valid UTF-8",
            }),
        };
    }
    encoding
        .decode_without_bom_handling_and_without_replacement(bytes)
        .ok_or(XmlError::Encoding {
            reason: "a byte sequence that the declared encoding lacks",
        })
}

/// The value of `encoding` in the XML declaration. Only finds it; whether the declaration is in order is checked when the
/// document is read.
fn declared_encoding(xml: &[u8]) -> Option<&[u8]> {
    let head = &xml[..xml.len().min(DECLARATION_BYTES)];
    let rest = head.strip_prefix(b"<?xml")?;
    let end = rest.windows(2).position(|pair| pair == b"?>")?;
    let declaration = &rest[..end];
    let name = b"encoding";
    let start = declaration.windows(name.len()).position(|part| part == name)? + name.len();
    let value = declaration[start..]
        .trim_ascii_start()
        .strip_prefix(b"=")?
        .trim_ascii_start();
    let (&quote, value) = value.split_first()?;
    let length = value.iter().position(|&byte| byte == quote)?;
    matches!(quote, b'"' | b'\'').then(|| &value[..length])
}

/// Whether a control character other than tab, line feed and carriage return, or U+FFFE or U+FFFF, is in valid UTF-8.
fn contains_excluded_character(utf8: &[u8]) -> bool {
    // One flag without an early exit, so that the loop runs on many bytes at a time.
    let controls = utf8.iter().fold(false, |found, &byte| {
        found | (byte < 0x20 && byte != b'\t' && byte != b'\n' && byte != b'\r')
    });
    controls || (!utf8.is_ascii() && utf8.windows(3).any(|part| matches!(part, [0xef, 0xbf, 0xbe | 0xbf])))
}

/// Whether XML 1.0 allows the character.
pub(crate) fn is_xml_character(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn utf16(text: &str, big: bool) -> Vec<u8> {
        text.encode_utf16()
            .flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() })
            .collect()
    }

    #[test]
    fn reads_the_declared_encoding() {
        let declared = |label: &str, body: &[u8]| {
            let mut xml = format!("<?xml version='1.0' encoding='{label}'?>").into_bytes();
            xml.extend_from_slice(body);
            xml
        };
        let cases: Vec<(Vec<u8>, Option<&str>)> = vec![
            (b"<a>\xc3\xa9</a>".to_vec(), Some("<a>é</a>")),
            (b"\xef\xbb\xbf<a>\xc3\xa9</a>".to_vec(), Some("<a>é</a>")),
            (b"<a>\xe9</a>".to_vec(), None),
            (declared("UTF-8", b"<a>\xc3\xa9</a>"), Some("<a>é</a>")),
            (declared("utf-8", b"<a>\xe9</a>"), None),
            (declared("ISO-8859-1", b"<a>\xe9\x80</a>"), Some("<a>é\u{80}</a>")),
            (declared("windows-1252", b"<a>\x80</a>"), Some("<a>€</a>")),
            (declared("us-ascii", b"<a>e</a>"), Some("<a>e</a>")),
            (declared("us-ascii", b"<a>\xe9</a>"), None),
            (declared("Shift_JIS", b"<a>\x93\xfa\x96{</a>"), Some("<a>日本</a>")),
            (declared("bogus", b"<a/>"), None),
            (declared("utf-16", b"<a/>"), None),
            (declared("replacement", b"<a/>"), None),
            (utf16("\u{feff}<a>é</a>", true), Some("<a>é</a>")),
            (utf16("\u{feff}<a>é</a>", false), Some("<a>é</a>")),
            (utf16("<?xml version='1.0'?><a>é</a>", true), Some("<a>é</a>")),
            (utf16("<?xml version='1.0'?><a>é</a>", false), Some("<a>é</a>")),
            (b"\xff\xfe<\x00\x00\xd8".to_vec(), None),
        ];
        for (bytes, expected) in cases {
            match (decode(&bytes), expected) {
                (Ok(text), Some(expected)) => assert!(text.ends_with(expected), "{text}"),
                (Err(_), None) => {}
                (found, _) => panic!("{found:?} for {bytes:?}"),
            }
        }
    }

    #[test]
    fn refuses_characters_that_xml_excludes() {
        for excluded in ["\0", "\u{1}", "\u{b}", "\u{1f}", "\u{fffe}", "\u{ffff}"] {
            assert!(decode(format!("<a>{excluded}</a>").as_bytes()).is_err(), "{excluded:?}");
            assert!(!is_xml_character(excluded.chars().next().unwrap()));
        }
        for allowed in ["\t", "\n", "\r", "\u{7f}", "\u{85}", "\u{fffd}", "\u{1f600}"] {
            assert!(decode(format!("<a>{allowed}</a>").as_bytes()).is_ok(), "{allowed:?}");
            assert!(is_xml_character(allowed.chars().next().unwrap()));
        }
    }
}
