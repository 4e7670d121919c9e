//! The tree of a form as it was meant: written as XML for the blob and as JSON for the Couch document.

use chrono::{DateTime, Utc};
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Map, Value};

use crate::moment::{Moment, couch_time};

/// Text of an element or an attribute.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Text {
    Plain(String),
    /// Written with the phone's time zone, read as UTC.
    Moment(Moment),
    /// Written without a zone and with a blank, read as UTC.
    Blank(DateTime<Utc>),
}

impl Text {
    fn xml(&self) -> String {
        match self {
            Self::Plain(text) => text.clone(),
            Self::Moment(moment) => moment.phone(),
            Self::Blank(time) => time.format("%Y-%m-%d %H:%M:%S").to_string(),
        }
    }

    pub(crate) fn json(&self) -> String {
        match self {
            Self::Plain(text) => text.clone(),
            Self::Moment(moment) => moment.couch(),
            Self::Blank(time) => couch_time(*time),
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::Plain(text.to_owned())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::Plain(text)
    }
}

impl From<Moment> for Text {
    fn from(moment: Moment) -> Self {
        Self::Moment(moment)
    }
}

/// A namespace that an element declares; without one it has its parent's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Namespace {
    pub(crate) uri: String,
    /// Prefix of the element and of all below it that declare nothing.
    pub(crate) prefix: Option<&'static str>,
}

/// One element.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Element {
    name: String,
    /// Name in the JSON, where CommCare renames it (old `meta` fields).
    json_name: Option<&'static str>,
    namespace: Option<Namespace>,
    attributes: Vec<(String, Text)>,
    /// An attribute with a namespace of its own: prefix, URI, local name, value.
    foreign_attribute: Option<(&'static str, &'static str, &'static str, String)>,
    text: Option<Text>,
    children: Vec<Element>,
}

impl Element {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            json_name: None,
            namespace: None,
            attributes: Vec::new(),
            foreign_attribute: None,
            text: None,
            children: Vec::new(),
        }
    }

    pub(crate) fn leaf(name: impl Into<String>, text: impl Into<Text>) -> Self {
        let mut element = Self::new(name);
        element.text = Some(text.into());
        element
    }

    pub(crate) fn read_as(mut self, json_name: &'static str) -> Self {
        self.json_name = Some(json_name);
        self
    }

    pub(crate) fn namespace(mut self, uri: impl Into<String>, prefix: Option<&'static str>) -> Self {
        self.namespace = Some(Namespace {
            uri: uri.into(),
            prefix,
        });
        self
    }

    pub(crate) fn attribute(mut self, name: &str, value: impl Into<Text>) -> Self {
        self.attributes.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn foreign_attribute(
        mut self,
        prefix: &'static str,
        uri: &'static str,
        name: &'static str,
        value: &str,
    ) -> Self {
        self.foreign_attribute = Some((prefix, uri, name, value.to_owned()));
        self
    }

    pub(crate) fn child(mut self, child: Self) -> Self {
        self.children.push(child);
        self
    }

    pub(crate) fn children(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.children.extend(children);
        self
    }

    /// The form JSON of a root element.
    pub(crate) fn form_json(&self) -> Value {
        let mut value = self.json(None);
        if let Value::Object(map) = &mut value {
            map.insert("#type".to_owned(), Value::String(self.name.clone()));
        }
        value
    }

    fn json(&self, parent_namespace: Option<&str>) -> Value {
        let own = self.namespace.as_ref().map(|namespace| namespace.uri.as_str());
        let declared = own.filter(|uri| Some(*uri) != parent_namespace);
        let text = self.text.as_ref().map(Text::json).unwrap_or_default();
        let bare = self.attributes.is_empty() && self.foreign_attribute.is_none() && self.children.is_empty();
        if bare && declared.is_none() {
            return Value::String(text);
        }
        let mut map = Map::new();
        for (name, value) in &self.attributes {
            map.insert(format!("@{name}"), Value::String(value.json()));
        }
        if let Some((_, uri, name, value)) = &self.foreign_attribute {
            map.insert(format!("@{{{uri}}}{name}"), Value::String(value.clone()));
        }
        if let Some(uri) = declared {
            map.insert("@xmlns".to_owned(), Value::String(uri.to_owned()));
        }
        let namespace = own.or(parent_namespace);
        for child in &self.children {
            let name = child.json_name.unwrap_or(&child.name);
            let value = child.json(namespace);
            match map.get_mut(name) {
                None => {
                    map.insert(name.to_owned(), value);
                }
                Some(Value::Array(items)) => items.push(value),
                Some(only) => {
                    let first = only.take();
                    *only = Value::Array(vec![first, value]);
                }
            }
        }
        if text.chars().any(|c| !c.is_whitespace()) {
            map.insert("#text".to_owned(), Value::String(text));
        }
        Value::Object(map)
    }

    /// The form's XML.
    pub(crate) fn form_xml(&self, style: &Style) -> Vec<u8> {
        let mut out = String::with_capacity(4096);
        out.push_str(style.declaration);
        self.write(&mut out, style, None, 0);
        out.into_bytes()
    }

    fn write(&self, out: &mut String, style: &Style, inherited: Option<&'static str>, depth: usize) {
        let prefix = self.namespace.as_ref().map_or(inherited, |namespace| namespace.prefix);
        let name = prefix.map_or_else(|| self.name.clone(), |prefix| format!("{prefix}:{}", self.name));
        out.push('<');
        out.push_str(&name);
        if let Some(namespace) = &self.namespace {
            let attribute = namespace
                .prefix
                .map_or_else(|| "xmlns".to_owned(), |prefix| format!("xmlns:{prefix}"));
            write_attribute(out, style, &attribute, &namespace.uri);
        }
        for (name, value) in &self.attributes {
            write_attribute(out, style, name, &value.xml());
        }
        if let Some((prefix, uri, name, value)) = &self.foreign_attribute {
            write_attribute(out, style, &format!("xmlns:{prefix}"), uri);
            write_attribute(out, style, &format!("{prefix}:{name}"), value);
        }
        let text = self.text.as_ref().map(Text::xml).unwrap_or_default();
        if text.is_empty() && self.children.is_empty() {
            out.push_str(" />");
            return;
        }
        out.push('>');
        write_text(out, style, &text);
        // Blank text around children is not content, but after real text it would become part of it.
        let pretty = style.pretty && text.is_empty() && !self.children.is_empty();
        for child in &self.children {
            if pretty {
                out.push('\n');
                out.push_str(&"  ".repeat(depth + 1));
            }
            child.write(out, style, prefix, depth + 1);
        }
        if pretty {
            out.push('\n');
            out.push_str(&"  ".repeat(depth));
        }
        out.push_str("</");
        out.push_str(&name);
        out.push('>');
    }
}

/// How the XML of a form is spelled; none of it changes the content.
#[derive(Clone, Debug)]
pub(crate) struct Style {
    declaration: &'static str,
    pretty: bool,
    apostrophes: bool,
    cdata: bool,
    comments: bool,
    references: bool,
}

impl Style {
    pub(crate) fn choose(rng: &mut StdRng) -> Self {
        Self {
            declaration: [
                "",
                "<?xml version='1.0' ?>",
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n",
            ][rng.random_range(0..3)],
            pretty: rng.random_bool(0.3),
            apostrophes: rng.random_bool(0.2),
            cdata: rng.random_bool(0.2),
            comments: rng.random_bool(0.1),
            references: rng.random_bool(0.2),
        }
    }
}

fn write_attribute(out: &mut String, style: &Style, name: &str, value: &str) {
    let quote = if style.apostrophes { '\'' } else { '"' };
    out.push(' ');
    out.push_str(name);
    out.push('=');
    out.push(quote);
    for c in value.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            c => out.push(c),
        }
    }
    out.push(quote);
}

fn write_text(out: &mut String, style: &Style, text: &str) {
    if style.cdata && text.contains(['<', '&']) && !text.contains("]]>") {
        out.push_str("<![CDATA[");
        out.push_str(text);
        out.push_str("]]>");
        return;
    }
    let middle = text.chars().count() / 2;
    for (position, c) in text.chars().enumerate() {
        if style.comments && position == middle && position > 0 {
            out.push_str("<!-- checked -->");
        }
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c if style.references && !c.is_ascii() => out.push_str(&format!("&#x{:X};", u32::from(c))),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    const PLAIN: Style = Style {
        declaration: "",
        pretty: false,
        apostrophes: false,
        cdata: false,
        comments: false,
        references: false,
    };

    /// The worked example of the conversion rules, as far as a form can be meant that way (no tails).
    #[test]
    fn json_follows_the_conversion_rules() {
        let form = Element::new("d")
            .namespace("F", None)
            .attribute("n", "N")
            .child(Element::leaf("a", " x "))
            .child(Element::new("b"))
            .child(Element::leaf("b", "2"))
            .child(Element::leaf("q", "  ").attribute("k", "1"))
            .child(Element::leaf("e", "hi").child(Element::new("f")));
        assert_eq!(
            form.form_json(),
            json!({"@n": "N", "@xmlns": "F", "a": " x ", "b": ["", "2"], "q": {"@k": "1"},
                   "e": {"f": "", "#text": "hi"}, "#type": "d"})
        );
        assert_eq!(
            String::from_utf8(form.form_xml(&PLAIN)).unwrap(),
            "<d xmlns=\"F\" n=\"N\"><a> x </a><b /><b>2</b><q k=\"1\">  </q><e>hi<f /></e></d>"
        );
    }

    #[test]
    fn a_prefix_holds_below_its_element_and_costs_no_second_declaration() {
        let form = Element::new("data").namespace("F", None).child(
            Element::new("meta")
                .namespace("M", Some("orx"))
                .child(Element::leaf("userID", "u"))
                .child(Element::leaf("appVersion", "2").namespace("C", Some("cc"))),
        );
        assert_eq!(
            form.form_json()["meta"],
            json!({"@xmlns": "M", "userID": "u", "appVersion": {"@xmlns": "C", "#text": "2"}})
        );
        assert_eq!(
            String::from_utf8(form.form_xml(&PLAIN)).unwrap(),
            "<data xmlns=\"F\"><orx:meta xmlns:orx=\"M\"><orx:userID>u</orx:userID>\
             <cc:appVersion xmlns:cc=\"C\">2</cc:appVersion></orx:meta></data>"
        );
    }
}
