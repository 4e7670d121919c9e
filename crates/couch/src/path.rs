//! Paths of documents and attachments in URLs.

use crate::error::{Error, Result};

/// Percent-encodes a document id or attachment name as one path segment. The slash of `_design/` stays, as CouchDB
/// expects it. `.` and `..` cannot be addressed: URL parsers resolve them even when they are encoded.
pub(crate) fn segment(name: &str) -> Result<String> {
    if name.is_empty() || name == "." || name == ".." {
        return Err(Error::Document {
            error: Some("illegal_docid".to_owned()),
        });
    }
    let (prefix, rest) = match name.strip_prefix("_design/") {
        Some(rest) => ("_design/", rest),
        None => ("", name),
    };
    let mut encoded = String::with_capacity(name.len() + 8);
    encoded.push_str(prefix);
    for byte in rest.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(encoded)
}

/// Undoes percent-encoding; bytes that are not UTF-8 then are replaced.
pub(crate) fn decode(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = match (first, tail.first_chunk::<2>()) {
            (b'%', Some(digits)) => std::str::from_utf8(digits)
                .ok()
                .and_then(|hex| u8::from_str_radix(hex, 16).ok()),
            _ => None,
        };
        decoded.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn decoding_undoes_encoding() {
        for (encoded, text) in [
            ("p%40ss%2Fword", "p@ss/word"),
            ("a+b", "a+b"),
            ("100%", "100%"),
            ("%zz", "%zz"),
            ("%C3%A9", "é"),
        ] {
            assert_eq!(decode(encoded), text);
        }
    }

    #[test]
    fn segments_are_encoded() {
        for (name, encoded) in [
            ("form.xml", "form.xml"),
            ("uuid:a/b?c#d", "uuid%3Aa%2Fb%3Fc%23d"),
            ("_design/by date", "_design/by%20date"),
            ("é", "%C3%A9"),
            ("../etc", "..%2Fetc"),
        ] {
            assert_eq!(segment(name).unwrap(), encoded);
        }
        for name in ["", ".", ".."] {
            assert_eq!(segment(name).unwrap_err().code(), "C2S-1114");
        }
    }
}
