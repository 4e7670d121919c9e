//! The parts of XML that the event reader leaves open: names, attributes, references, line ends.

use std::borrow::Cow;

use crate::decode::is_xml_character;

/// What is wrong with a piece of markup; its place is added by whoever knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// Not well-formed, in fixed words.
    Text(&'static str),
    /// A bound is exceeded: what is counted, and how many there may be.
    Limit(&'static str, usize),
}

fn is_name_start(c: char) -> bool {
    matches!(c,
        'A'..='Z' | 'a'..='z' | '_'
        | '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}' | '\u{f8}'..='\u{2ff}' | '\u{370}'..='\u{37d}'
        | '\u{37f}'..='\u{1fff}' | '\u{200c}' | '\u{200d}' | '\u{2070}'..='\u{218f}' | '\u{2c00}'..='\u{2fef}'
        | '\u{3001}'..='\u{d7ff}' | '\u{f900}'..='\u{fdcf}' | '\u{fdf0}'..='\u{fffd}' | '\u{10000}'..='\u{effff}')
}

fn is_name_part(c: char) -> bool {
    is_name_start(c) || matches!(c, '0'..='9' | '-' | '.' | '\u{b7}' | '\u{300}'..='\u{36f}' | '\u{203f}' | '\u{2040}')
}

/// Whether the text is a name without colon.
pub(crate) fn is_plain_name(name: &str) -> bool {
    match name.as_bytes() {
        [] => false,
        // Nearly every name is ASCII, and bytes are faster to look at than characters.
        [first, rest @ ..] if name.is_ascii() => {
            (first.is_ascii_alphabetic() || *first == b'_')
                && rest
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
        }
        _ => {
            let mut characters = name.chars();
            characters.next().is_some_and(is_name_start) && characters.all(is_name_part)
        }
    }
}

/// Splits a qualified name into its prefix (empty when there is none) and local name.
pub(crate) fn split_name(name: &str) -> Result<(&str, &str), Problem> {
    let (prefix, local) = match name.bytes().position(|byte| byte == b':') {
        None => ("", name),
        Some(colon) => (&name[..colon], &name[colon + 1..]),
    };
    let prefix_is_valid = prefix.is_empty() == (local.len() == name.len());
    if prefix_is_valid && (prefix.is_empty() || is_plain_name(prefix)) && is_plain_name(local) {
        Ok((prefix, local))
    } else {
        Err(Problem::Text("not a valid name"))
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Whether nothing but XML white space is in the text.
pub(crate) fn is_blank(text: &str) -> bool {
    text.bytes().all(is_space)
}

/// Splits what follows the name in a start tag (or `xml` in a declaration) into attribute names and raw values.
pub(crate) fn attributes(mut rest: &str) -> Result<Vec<(&str, &str)>, Problem> {
    let mut found = Vec::new();
    loop {
        let trimmed = rest.trim_start_matches(is_space_character);
        if trimmed.is_empty() {
            return Ok(found);
        }
        if trimmed.len() == rest.len() {
            return Err(Problem::Text("no space before an attribute"));
        }
        let name_end = trimmed
            .find(|c| is_space_character(c) || c == '=')
            .ok_or(Problem::Text("an attribute without a value"))?;
        let (name, after) = trimmed.split_at(name_end);
        let after = after
            .trim_start_matches(is_space_character)
            .strip_prefix('=')
            .ok_or(Problem::Text("an attribute without a value"))?
            .trim_start_matches(is_space_character);
        let quote = match after.as_bytes().first() {
            Some(b'"') => '"',
            Some(b'\'') => '\'',
            _ => return Err(Problem::Text("an attribute value without quotes")),
        };
        let (value, after) = after[1..]
            .split_once(quote)
            .ok_or(Problem::Text("an attribute value without closing quote"))?;
        found.push((name, value));
        rest = after;
    }
}

const fn is_space_character(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// An attribute's value: white space becomes spaces, references are resolved.
pub(crate) fn attribute_value(raw: &str) -> Result<Cow<'_, str>, Problem> {
    let special = |byte: u8| matches!(byte, b'&' | b'<' | b'\t' | b'\n' | b'\r');
    let Some(first) = raw.bytes().position(special) else {
        return Ok(Cow::Borrowed(raw));
    };
    let mut value = String::with_capacity(raw.len());
    value.push_str(&raw[..first]);
    let mut rest = &raw[first..];
    while let Some(&byte) = rest.as_bytes().first() {
        let taken = match byte {
            b'<' => return Err(Problem::Text("'<' in an attribute value")),
            b'\r' if rest.as_bytes().get(1) == Some(&b'\n') => {
                value.push(' ');
                2
            }
            b'\t' | b'\n' | b'\r' => {
                value.push(' ');
                1
            }
            b'&' => {
                let end = rest.find(';').ok_or(Problem::Text("'&' without a reference"))?;
                value.push(reference(&rest[1..end])?);
                end + 1
            }
            _ => {
                let plain = rest.bytes().position(special).unwrap_or(rest.len());
                value.push_str(&rest[..plain]);
                plain
            }
        };
        rest = &rest[taken..];
    }
    Ok(Cow::Owned(value))
}

/// The character that `&...;` stands for, given what is between.
pub(crate) fn reference(name: &str) -> Result<char, Problem> {
    match name {
        "lt" => return Ok('<'),
        "gt" => return Ok('>'),
        "amp" => return Ok('&'),
        "apos" => return Ok('\''),
        "quot" => return Ok('"'),
        _ => {}
    }
    let digits = name
        .strip_prefix('#')
        .ok_or(Problem::Text("a reference to an unknown entity"))?;
    let (digits, radix) = match digits.strip_prefix('x') {
        Some(hexadecimal) => (hexadecimal, 16),
        None => (digits, 10),
    };
    let bad = Problem::Text("not a valid character reference");
    // `from_str_radix` would take a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(bad);
    }
    match u32::from_str_radix(digits, radix).ok().and_then(char::from_u32) {
        Some(c) if is_xml_character(c) => Ok(c),
        _ => Err(bad),
    }
}

/// Line ends of character data: CR LF and a lone CR become LF.
pub(crate) fn normalise_line_ends(text: Cow<'_, str>) -> Cow<'_, str> {
    if !text.as_bytes().contains(&b'\r') {
        return text;
    }
    let mut normal = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some(at) = rest.find('\r') {
        normal.push_str(&rest[..at]);
        normal.push('\n');
        rest = &rest[at + 1..];
        rest = rest.strip_prefix('\n').unwrap_or(rest);
    }
    normal.push_str(rest);
    Cow::Owned(normal)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names() {
        for (name, expected) in [
            ("a", Some(("", "a"))),
            ("_a.-b", Some(("", "_a.-b"))),
            ("é日", Some(("", "é日"))),
            ("p:a", Some(("p", "a"))),
            ("", None),
            ("1a", None),
            ("-a", None),
            (":a", None),
            ("a:", None),
            ("a:b:c", None),
            ("a b", None),
            ("a×", None),
        ] {
            assert_eq!(split_name(name).ok(), expected, "{name}");
        }
    }

    #[test]
    fn attribute_syntax() {
        assert_eq!(attributes(""), Ok(vec![]));
        assert_eq!(attributes(" \n"), Ok(vec![]));
        assert_eq!(attributes(" a = '1'\tb=\"x'y\" "), Ok(vec![("a", "1"), ("b", "x'y")]));
        for bad in [
            " a='1'b='2'",
            " a=1",
            " a",
            " a='1",
            " a '1'",
            "a='1'",
            " /",
            " a='1' / ",
        ] {
            assert!(attributes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn attribute_values() {
        for (raw, expected) in [
            ("plain", Some("plain")),
            ("x\r\ny\tz\nw\rv", Some("x y z w v")),
            (" x&#10;\n\ty ", Some(" x\n  y ")),
            ("&lt;&gt;&amp;&apos;&quot;>", Some("<>&'\">")),
            ("é&#233;&#xe9;", Some("ééé")),
            ("a<b", None),
            ("a&b", None),
            ("&nbsp;", None),
        ] {
            assert_eq!(attribute_value(raw).ok().as_deref(), expected, "{raw}");
        }
    }

    #[test]
    fn references() {
        for (name, expected) in [
            ("#65", Some('A')),
            ("#00065", Some('A')),
            ("#x41", Some('A')),
            ("#x1F600", Some('😀')),
            ("#13", Some('\r')),
            ("#0", None),
            ("#xFFFE", None),
            ("#xD800", None),
            ("#x", None),
            ("#", None),
            ("#X41", None),
            ("#+65", None),
            ("#4f", None),
            ("#99999999999", None),
            ("AMP", None),
            ("", None),
        ] {
            assert_eq!(reference(name).ok(), expected, "{name}");
        }
    }

    #[test]
    fn line_ends() {
        assert_eq!(normalise_line_ends("x\r\ny\rz\r\r\n".into()), "x\ny\nz\n\n");
        assert!(matches!(normalise_line_ends("x\n".into()), Cow::Borrowed(_)));
    }
}
