//! Form JSON back to XML, for forms whose XML is lost.

use serde_json::{Map, Value};

use crate::document::xml_to_json;
use crate::error::{RoundtripError, XmlError};
use crate::limits::{MAX_DEPTH, MAX_XML_BYTES};
use crate::markup::is_plain_name;
use crate::namespaces::XML_NAMESPACE;

/// XML that [`crate::xml_to_json`] turns into exactly this form JSON.
///
/// `#type` names the root (`data` if absent), `@` keys become attributes (`@xmlns` a default namespace), `#text` the
/// text; a list becomes one element per item.
///
/// # Errors
/// The JSON holds something that no XML gives, or reads back as anything else than it was, the order of keys aside.
pub fn json_to_xml(form: &Value) -> Result<Vec<u8>, RoundtripError> {
    let root = form.as_object().ok_or(RoundtripError::NotObject)?;
    let name = match root.get("#type") {
        None => "data",
        Some(Value::String(name)) => name,
        Some(_) => return Err(RoundtripError::Value),
    };
    let mut writer = Writer {
        xml: String::from("<?xml version=\"1.0\" ?>\n"),
    };
    writer.object(name, root, 0, "")?;
    writer.xml.push('\n');
    let xml = writer.xml.into_bytes();
    if xml_to_json(&xml)? == *form {
        Ok(xml)
    } else {
        Err(RoundtripError::Different)
    }
}

/// Most tabs before an element: those of a deep form must not outgrow its content.
const MAX_INDENT: usize = 8;

struct Writer {
    xml: String,
}

impl Writer {
    fn element(&mut self, name: &str, value: &Value, depth: usize, inherited: &str) -> Result<(), RoundtripError> {
        match value {
            Value::String(text) => {
                self.open(name)?;
                if text.is_empty() {
                    self.xml.push_str("/>");
                } else {
                    self.xml.push('>');
                    self.escape(text, Place::Text);
                    self.close(name);
                }
                Ok(())
            }
            Value::Object(object) => self.object(name, object, depth, inherited),
            _ => Err(RoundtripError::Value),
        }
    }

    /// `inherited` is the default namespace in scope, empty when there is none.
    fn object(
        &mut self,
        name: &str,
        object: &Map<String, Value>,
        depth: usize,
        inherited: &str,
    ) -> Result<(), RoundtripError> {
        if depth >= MAX_DEPTH {
            return Err(RoundtripError::TooDeep { maximum: MAX_DEPTH });
        }
        if self.xml.len() > MAX_XML_BYTES {
            return Err(XmlError::TooLarge {
                what: "bytes",
                maximum: MAX_XML_BYTES,
            }
            .into());
        }
        self.open(name)?;
        let mut text = None;
        let mut prefixes = 0;
        for (key, value) in object {
            if let Some(attribute) = key.strip_prefix('@') {
                let value = value.as_str().ok_or(RoundtripError::Value)?;
                self.attribute(attribute, value, &mut prefixes)?;
            } else if key.starts_with('#') {
                match (key.as_str(), value) {
                    ("#text", Value::String(found)) => text = Some(found),
                    ("#text", _) => return Err(RoundtripError::Value),
                    // Only the root says what it is called.
                    ("#type", _) if depth == 0 => {}
                    _ => return Err(RoundtripError::SpecialKey),
                }
            }
        }
        let namespace = match object.get("@xmlns").and_then(Value::as_str) {
            Some(own) => own,
            // A child states a namespace only where it differs from its parent's. So a parent that states none, but has
            // a child that states the one in scope, is in no namespace itself.
            None if children(object).any(|(_, child)| states(child, inherited)) => {
                self.attribute_text("xmlns", "");
                ""
            }
            None => inherited,
        };
        self.xml.push('>');
        if let Some(text) = text {
            self.escape(text, Place::Text);
        }
        let mut has_children = false;
        for (key, item) in children(object) {
            // A line break before the first child would become part of the text.
            if text.is_none() {
                self.line(depth + 1);
            }
            self.element(key, item, depth + 1, namespace)?;
            has_children = true;
        }
        if has_children && text.is_none() {
            self.line(depth);
        }
        self.close(name);
        Ok(())
    }

    fn open(&mut self, name: &str) -> Result<(), RoundtripError> {
        if !is_plain_name(name) {
            return Err(RoundtripError::Name);
        }
        self.xml.push('<');
        self.xml.push_str(name);
        Ok(())
    }

    fn close(&mut self, name: &str) {
        self.xml.push_str("</");
        self.xml.push_str(name);
        self.xml.push('>');
    }

    fn line(&mut self, depth: usize) {
        self.xml.push('\n');
        self.xml.extend(std::iter::repeat_n('\t', depth.min(MAX_INDENT)));
    }

    /// ` name="value"`; a name in Clark notation gets a prefix of its own.
    fn attribute(&mut self, name: &str, value: &str, prefixes: &mut usize) -> Result<(), RoundtripError> {
        let qualified;
        let name = match name.strip_prefix('{').and_then(|rest| rest.rsplit_once('}')) {
            None => name,
            Some((XML_NAMESPACE, local)) => {
                qualified = format!("xml:{}", plain(local)?);
                &qualified
            }
            Some((uri, local)) => {
                let prefix = format!("ns{prefixes}");
                *prefixes += 1;
                self.attribute_text(&format!("xmlns:{prefix}"), uri);
                qualified = format!("{prefix}:{}", plain(local)?);
                &qualified
            }
        };
        if !name.contains(':') {
            plain(name)?;
        }
        self.attribute_text(name, value);
        Ok(())
    }

    fn attribute_text(&mut self, name: &str, value: &str) {
        self.xml.push(' ');
        self.xml.push_str(name);
        self.xml.push_str("=\"");
        self.escape(value, Place::Attribute);
        self.xml.push('"');
    }

    /// Everything that a reader would change is written as a reference.
    fn escape(&mut self, text: &str, place: Place) {
        let mut rest = text;
        while let Some(at) = rest.find(['&', '<', '>', '"', '\r', '\n', '\t']) {
            self.xml.push_str(&rest[..at]);
            let c = rest.as_bytes()[at];
            match (c, place) {
                (b'&', _) => self.xml.push_str("&amp;"),
                (b'<', _) => self.xml.push_str("&lt;"),
                (b'>', _) => self.xml.push_str("&gt;"),
                (b'"', Place::Attribute) => self.xml.push_str("&quot;"),
                (b'\r', _) => self.xml.push_str("&#13;"),
                (b'\n', Place::Attribute) => self.xml.push_str("&#10;"),
                (b'\t', Place::Attribute) => self.xml.push_str("&#9;"),
                (other, _) => self.xml.push(char::from(other)),
            }
            rest = &rest[at + 1..];
        }
        self.xml.push_str(rest);
    }
}

#[derive(Clone, Copy)]
enum Place {
    Text,
    Attribute,
}

/// The elements below an object, each repeat on its own.
fn children(object: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    let elements = object.iter().filter(|(key, _)| !key.starts_with(['@', '#']));
    elements.flat_map(|(key, value)| {
        let items = match value {
            Value::Array(items) => items.as_slice(),
            single => std::slice::from_ref(single),
        };
        items.iter().map(move |item| (key, item))
    })
}

/// Whether an element states a namespace, which is not empty, as its own.
fn states(element: &Value, namespace: &str) -> bool {
    !namespace.is_empty() && element.get("@xmlns").and_then(Value::as_str) == Some(namespace)
}

fn plain(name: &str) -> Result<&str, RoundtripError> {
    if is_plain_name(name) {
        Ok(name)
    } else {
        Err(RoundtripError::Name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn written(form: &Value) -> String {
        String::from_utf8(json_to_xml(form).unwrap()).unwrap()
    }

    #[test]
    fn writes_xml_that_reads_back_the_same() {
        for form in [
            json!({"@xmlns": "F", "#type": "data", "a": "1"}),
            json!({"@name": "N", "@xmlns": "F", "a": " x ", "b": ["", {"@k": "1"}], "e": {"f": "", "#text": "hi"}, "#type": "d"}),
            json!({"@xmlns": "F", "g": {"h": {"i": {"j": "deep"}}}, "#type": "data"}),
            // Repeats of plain texts, where the only known version of HQ's code stops.
            json!({"@xmlns": "F", "a": ["1", "", " "], "#type": "data"}),
            json!({"@xmlns": "F", "case": [{"@xmlns": "C", "update": {"p": "1"}}, {"@xmlns": "C", "@case_id": "2"}], "#type": "data"}),
            json!({"@{http://x}foo": "1", "@{http://y}foo": "2", "@{http://www.w3.org/XML/1998/namespace}lang": "en", "#type": "data"}),
            json!({"@a": "<&>\"' \t\n\r", "t": "<&>\"' \t\n\r]]>", "#type": "data"}),
            json!({"@xmlns": "a&b", "naïve": "日本語 😀", "#type": "formulaire"}),
            json!({"@xmlns": "F", "#text": "only text", "#type": "data"}),
            // The grandchild restates the namespace of the root: the child between them has none.
            json!({"@xmlns": "F", "a": {"b": [{"@xmlns": "F"}, {"c": {"@xmlns": "F"}}]}, "#type": "data"}),
            json!({"p": {"@xmlns": "A", "q": {"@xmlns": "B", "r": {"@xmlns": "A"}}}, "#type": "data"}),
        ] {
            let xml = written(&form);
            assert_eq!(xml_to_json(xml.as_bytes()).unwrap(), form, "{xml}");
        }
    }

    #[test]
    fn lays_the_xml_out() {
        let form = json!({"@xmlns": "F", "a": "1", "g": {"b": ["", "2"], "t": {"@k": "1", "#text": "x", "c": ""}}, "#type": "data"});
        assert_eq!(
            written(&form),
            "<?xml version=\"1.0\" ?>\n<data xmlns=\"F\">\n\t<a>1</a>\n\t<g>\n\t\t<b/>\n\t\t<b>2</b>\n\t\t\
             <t k=\"1\">x<c/></t>\n\t</g>\n</data>\n"
        );
    }

    #[test]
    fn refuses_what_does_not_come_back() {
        let mut deep = json!({"@x": ""});
        for _ in 0..MAX_DEPTH {
            deep = json!({"a": deep});
        }
        deep["#type"] = json!("data");
        for (form, expected) in [
            (json!("text"), RoundtripError::NotObject),
            (json!({"a": null, "#type": "data"}), RoundtripError::Value),
            (json!({"a": 5, "#type": "data"}), RoundtripError::Value),
            (json!({"a": [["1"], "2"], "#type": "data"}), RoundtripError::Value),
            (json!({"@a": {}, "#type": "data"}), RoundtripError::Value),
            (json!({"a": {"#text": null}, "#type": "data"}), RoundtripError::Value),
            (json!({"a": "1", "#type": 5}), RoundtripError::Value),
            (
                json!({"a": "1", "#other": "x", "#type": "data"}),
                RoundtripError::SpecialKey,
            ),
            (
                json!({"a": {"#type": "a"}, "#type": "data"}),
                RoundtripError::SpecialKey,
            ),
            (json!({"a b": "1", "#type": "data"}), RoundtripError::Name),
            (json!({"": "1", "#type": "data"}), RoundtripError::Name),
            (json!({"a": "1", "#type": "d><x"}), RoundtripError::Name),
            (json!({"@a b": "1", "#type": "data"}), RoundtripError::Name),
            (
                json!({"@xmlns:p": "1", "a": "", "#type": "data"}),
                RoundtripError::Different,
            ),
            (json!({"@xmlns": "F", "a": "1"}), RoundtripError::Different),
            (json!({"a": {}, "#type": "data"}), RoundtripError::Different),
            (json!({"a": ["1"], "#type": "data"}), RoundtripError::Different),
            (
                json!({"a": [], "#type": "data"}),
                RoundtripError::Unreadable(XmlError::PlainRoot),
            ),
            (
                json!({"@xmlns": "F", "a": {"@xmlns": "F"}, "#type": "data"}),
                RoundtripError::Different,
            ),
            (
                json!({"a": {"@k": "1", "#text": " "}, "#type": "data"}),
                RoundtripError::Different,
            ),
            (
                json!({"a": "\u{1}", "#type": "data"}),
                RoundtripError::Unreadable(XmlError::Encoding {
                    reason: "a character that XML does not allow",
                }),
            ),
            (deep, RoundtripError::TooDeep { maximum: MAX_DEPTH }),
        ] {
            assert_eq!(json_to_xml(&form), Err(expected), "{form}");
        }
    }
}
