//! XML to form JSON, as lxml and CommCare's `xml2json` library convert it.
//!
//! The document is read as a stream of events; the open elements are a vector, so depth costs no stack.

use std::borrow::Cow;
use std::rc::Rc;

use quick_xml::Reader;
use quick_xml::errors::{Error as ReaderError, IllFormedError};
use quick_xml::events::{BytesStart, Event};
use serde_json::map::Entry;
use serde_json::{Map, Value};

use crate::allowance::{Allowance, MAX_RESERVED_KEYS, check_text};
use crate::blocks::DEVICE_REPORT_XMLNS;
use crate::datetimes::adjust_datetimes;
use crate::decode::decode;
use crate::error::XmlError;
use crate::ledgers::{LedgerBlocks, LedgerElement};
use crate::limits::{MAX_DEPTH, MAX_XML_BYTES};
use crate::markup::{
    Problem, attribute_value, attributes, is_blank, is_plain_name, normalise_line_ends, reference, split_name,
};
use crate::meta::scrub_form_meta;
use crate::namespaces::Namespaces;

/// What `form.xml` holds.
#[derive(Clone, Debug)]
pub struct ReadForm {
    /// The form JSON that HQ has: converted, date-times in UTC, old meta names renamed.
    pub body: Value,
    /// The form's ledger blocks, which only the XML tells.
    pub ledgers: LedgerBlocks,
}

/// Reads a form's XML once for its JSON and its ledger blocks.
///
/// # Errors
/// See [`XmlError`]; [`XmlError::is_syntax`] tells whether HQ would have gone on with `{}`.
pub fn read_form(xml: &[u8]) -> Result<ReadForm, XmlError> {
    let (mut body, ledgers) = convert(xml)?;
    adjust_datetimes(&mut body)?;
    scrub_form_meta(&mut body);
    Ok(ReadForm { body, ledgers })
}

/// The form JSON that HQ has for a form with this XML: converted, date-times in UTC, old meta names renamed.
///
/// # Errors
/// See [`XmlError`]; [`XmlError::is_syntax`] tells whether HQ would have gone on with `{}`.
pub fn form_json(xml: &[u8]) -> Result<Value, XmlError> {
    read_form(xml).map(|form| form.body)
}

/// Converts a form's XML to an object, with the root's name under `#type`.
///
/// All values are texts, lists and objects. Keys keep the order of the document: attributes, `@xmlns`, children by first
/// appearance, `#text`. Text after an element's first child is lost, as in HQ.
///
/// # Errors
/// The XML is not well-formed, exceeds a limit, or is something that HQ's conversion fails on.
pub fn xml_to_json(xml: &[u8]) -> Result<Value, XmlError> {
    convert(xml).map(|(form, _)| form)
}

pub(crate) fn convert(xml: &[u8]) -> Result<(Value, LedgerBlocks), XmlError> {
    if xml.len() > MAX_XML_BYTES {
        return Err(XmlError::TooLarge {
            what: "bytes",
            maximum: MAX_XML_BYTES,
        });
    }
    let text = decode(xml)?;
    let mut reader = Reader::from_str(&text);
    reader.config_mut().check_comments = true;
    let mut conversion = Conversion::new(xml.len());
    let mut position = 0;
    loop {
        let event = reader
            .read_event()
            .map_err(|error| malformed(reader_reason(&error), reader.error_position()))?;
        if matches!(event, Event::Eof) {
            return conversion.finish(position);
        }
        conversion.event(event, position)?;
        position = reader.buffer_position();
    }
}

/// An element that has been opened and not yet closed.
struct OpenElement<'x> {
    name: Box<str>,
    namespace: Option<Rc<str>>,
    /// Where its attributes, `@xmlns` and children begin in [`Conversion::entries`].
    first_entry: usize,
    /// Character data before the first child. White space between elements stays borrowed and is dropped for free.
    text: Cow<'x, str>,
    has_children: bool,
    namespace_mark: usize,
}

struct Conversion<'x> {
    open: Vec<OpenElement<'x>>,
    /// Keys and values of all open elements, those of the innermost last. One vector for all of them, so that an object
    /// is made when its size is known.
    entries: Vec<(String, Value)>,
    namespaces: Namespaces,
    root: Option<(Box<str>, Value)>,
    /// Where the first processing instruction inside the root is. It stops the conversion, but only of a document that
    /// is well-formed to its end: otherwise HQ goes by the syntax error.
    instruction: Option<u64>,
    ledgers: LedgerBlocks,
    /// The ledger block that is open, and how many elements are open around it.
    open_ledger: Option<(LedgerElement, usize)>,
    allowance: Allowance,
}

impl<'x> Conversion<'x> {
    fn new(xml_bytes: usize) -> Self {
        Self {
            open: Vec::new(),
            entries: Vec::new(),
            namespaces: Namespaces::default(),
            root: None,
            instruction: None,
            ledgers: LedgerBlocks::default(),
            open_ledger: None,
            allowance: Allowance::new(xml_bytes),
        }
    }

    fn event(&mut self, event: Event<'x>, position: u64) -> Result<(), XmlError> {
        let at = |problem| locate(problem, position);
        match event {
            Event::Start(tag) => self.start(&tag).map_err(at),
            Event::Empty(tag) => self.start(&tag).and_then(|()| self.end()).map_err(at),
            Event::End(_) => self.end().map_err(at),
            Event::Text(text) => {
                let text = text.into_inner();
                // The search for the single byte is much the faster, and nearly always decides.
                if text.as_bytes().contains(&b'>') && text.contains("]]>") {
                    return Err(malformed("']]>' in character data", position));
                }
                self.characters(text).map_err(at)
            }
            Event::CData(_) if self.open.is_empty() => Err(malformed("CDATA outside the root", position)),
            Event::CData(text) => self.characters(text.into_inner()).map_err(at),
            Event::GeneralRef(name) => {
                let c = reference(&name).map_err(at)?;
                match self.open.last_mut() {
                    None => Err(malformed("a reference outside the root", position)),
                    Some(element) if element.has_children => Ok(()),
                    Some(element) => {
                        element.text.to_mut().push(c);
                        Ok(())
                    }
                }
            }
            // Text on both sides of a comment joins.
            Event::Comment(_) => Ok(()),
            Event::Decl(declaration) => {
                if position != 0 {
                    return Err(malformed("an XML declaration after the start", position));
                }
                check_declaration(&declaration).map_err(at)
            }
            Event::PI(instruction) => {
                let target = instruction.target();
                if !is_plain_name(target) || target.eq_ignore_ascii_case("xml") {
                    return Err(malformed("a processing instruction without a valid name", position));
                }
                if !self.open.is_empty() {
                    self.instruction.get_or_insert(position);
                }
                Ok(())
            }
            Event::DocType(_) => Err(XmlError::DocumentType { position }),
            Event::Eof => Ok(()),
        }
    }

    fn start(&mut self, tag: &BytesStart<'_>) -> Result<(), Problem> {
        if self.open.is_empty() && self.root.is_some() {
            return Err(Problem::Text("a second root element"));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(Problem::Limit("levels of elements", MAX_DEPTH));
        }
        self.allowance.take_element()?;
        let (prefix, name) = split_name(tag.name().into_inner())?;
        let namespace_mark = self.namespaces.enter();
        let first_entry = self.entries.len();

        let attributes = attributes(tag.attributes_raw())?;
        self.allowance.take_attributes(attributes.len())?;
        for (name, raw) in &attributes {
            if let Some(prefix) = declared_prefix(name)? {
                self.namespaces
                    .declare(namespace_mark, prefix, &attribute_value(raw)?)?;
            }
        }
        for (name, raw) in &attributes {
            if declared_prefix(name)?.is_none() {
                let key = self.attribute_key(name)?;
                check_text(raw)?;
                let value = attribute_value(raw)?.into_owned();
                self.entries.push((key, Value::String(value)));
            }
        }

        let found = self.namespaces.of_element(prefix)?;
        let inherited = self.open.last().and_then(|parent| parent.namespace.as_ref());
        // Comparing the pointers first spares comparing the texts for nearly every element.
        let same = match (found, inherited) {
            (Some(found), Some(inherited)) => Rc::ptr_eq(found, inherited) || found == inherited,
            (None, None) => true,
            _ => false,
        };
        let namespace = found.map(Rc::clone);
        if let (false, Some(uri)) = (same, &namespace) {
            self.allowance.take_namespace(uri)?;
            self.entries
                .push(("@xmlns".to_owned(), Value::String(uri.as_ref().to_owned())));
        }

        if let Some(parent) = self.open.last_mut() {
            parent.has_children = true;
            // The root is no ledger block, and nothing inside a block is one.
            if let Some(element) = LedgerElement::of(name, namespace.as_deref())
                && self.open_ledger.is_none()
            {
                self.open_ledger = Some((element, self.open.len()));
            }
        }
        self.open.push(OpenElement {
            name: name.into(),
            namespace,
            first_entry,
            text: Cow::Borrowed(""),
            has_children: false,
            namespace_mark,
        });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Problem> {
        // The reader has matched the tags: an element is open.
        let Some(element) = self.open.pop() else {
            return Ok(());
        };
        self.namespaces.leave(element.namespace_mark);
        let value = if self.entries.len() == element.first_entry {
            Value::String(element.text.into_owned())
        } else {
            self.allowance.take_object()?;
            let has_text = !element.text.trim().is_empty();
            let entries = self.entries.drain(element.first_entry..);
            let mut object = Map::with_capacity((entries.len() + usize::from(has_text)).min(MAX_RESERVED_KEYS));
            for (key, value) in entries {
                add_entry(&mut object, key, value)?;
            }
            if has_text {
                let text = Value::String(element.text.into_owned());
                object.insert("#text".to_owned(), text);
            }
            Value::Object(object)
        };
        if let Some((ledger, depth)) = self.open_ledger
            && depth == self.open.len()
        {
            self.ledgers.read(ledger, &value);
            self.open_ledger = None;
        }
        if self.open.is_empty() {
            if element.namespace.as_deref() == Some(DEVICE_REPORT_XMLNS) {
                self.ledgers = LedgerBlocks::default();
            }
            self.root = Some((element.name, value));
        } else {
            self.push_child(element.name, value);
        }
        Ok(())
    }

    /// Repeats that follow each other join at once, so that they need no entry each.
    fn push_child(&mut self, name: Box<str>, value: Value) {
        let first_entry = self.open.last().map_or(0, |parent| parent.first_entry);
        match self.entries[first_entry..].last_mut() {
            Some((last, repeats)) if **last == *name => join(repeats, value),
            _ => self.entries.push((name.into_string(), value)),
        }
    }

    fn characters(&mut self, text: Cow<'x, str>) -> Result<(), Problem> {
        match self.open.last_mut() {
            None if is_blank(&text) => Ok(()),
            None => Err(Problem::Text("text outside the root")),
            Some(element) if element.has_children => Ok(()),
            Some(element) => {
                let text = normalise_line_ends(text);
                if element.text.is_empty() {
                    element.text = text;
                } else {
                    element.text.to_mut().push_str(&text);
                }
                check_text(&element.text)
            }
        }
    }

    fn finish(self, position: u64) -> Result<(Value, LedgerBlocks), XmlError> {
        if !self.open.is_empty() {
            return Err(malformed("an element is not closed", position));
        }
        if let Some(position) = self.instruction {
            return Err(XmlError::ProcessingInstruction { position });
        }
        match self.root {
            None => Err(malformed("no root element", position)),
            Some((name, Value::Object(mut form))) => {
                form.insert("#type".to_owned(), Value::String(name.into_string()));
                Ok((Value::Object(form), self.ledgers))
            }
            Some(_) => Err(XmlError::PlainRoot),
        }
    }

    /// `@name`, or `@{namespace}name` for an attribute with a prefix.
    fn attribute_key(&mut self, name: &str) -> Result<String, Problem> {
        let (prefix, local) = split_name(name)?;
        if prefix.is_empty() {
            return Ok(format!("@{local}"));
        }
        let uri = self.namespaces.of_attribute(prefix)?;
        // Before the text is made, so that no key is made beyond the bound.
        self.allowance.take_namespace(uri)?;
        Ok(format!("@{{{uri}}}{local}"))
    }
}

/// A second child of the same name turns the value into a list; a second attribute is an error.
fn add_entry(object: &mut Map<String, Value>, name: String, value: Value) -> Result<(), Problem> {
    match object.entry(name) {
        Entry::Vacant(place) => {
            place.insert(value);
        }
        // No element's name begins like this.
        Entry::Occupied(place) if place.key().starts_with('@') => {
            return Err(Problem::Text("an attribute is given twice"));
        }
        Entry::Occupied(mut place) => join(place.get_mut(), value),
    }
    Ok(())
}

/// Adds an element, or the list of several, to those of its name. No element converts to a list by itself.
fn join(repeats: &mut Value, value: Value) {
    let mut list = match repeats.take() {
        Value::Array(list) => list,
        single => vec![single],
    };
    match value {
        Value::Array(more) => list.extend(more),
        single => list.push(single),
    }
    *repeats = Value::Array(list);
}

/// The prefix that an attribute declares, empty for `xmlns` itself; `None` for an ordinary attribute.
fn declared_prefix(name: &str) -> Result<Option<&str>, Problem> {
    match name.strip_prefix("xmlns") {
        Some("") => Ok(Some("")),
        Some(rest) => match rest.strip_prefix(':') {
            Some(prefix) if is_plain_name(prefix) => Ok(Some(prefix)),
            Some(_) => Err(Problem::Text("not a valid name")),
            None => Ok(None),
        },
        None => Ok(None),
    }
}

/// `version`, then maybe `encoding`, then maybe `standalone`.
fn check_declaration(declaration: &str) -> Result<(), Problem> {
    let bad = Problem::Text("not a valid XML declaration");
    let Some(rest) = declaration.strip_prefix("xml") else {
        return Err(bad);
    };
    let given = attributes(rest)?;
    let names: Vec<_> = given.iter().map(|(name, _)| *name).collect();
    let order_is_right = matches!(
        names.as_slice(),
        ["version"] | ["version", "encoding"] | ["version", "standalone"] | ["version", "encoding", "standalone"]
    );
    let is_known = |value: &str| {
        value
            .strip_prefix("1.")
            .is_some_and(|minor| !minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit()))
    };
    if order_is_right && given.first().is_some_and(|(_, version)| is_known(version)) {
        Ok(())
    } else {
        Err(bad)
    }
}

fn locate(problem: Problem, position: u64) -> XmlError {
    match problem {
        Problem::Text(reason) => malformed(reason, position),
        Problem::Limit(what, maximum) => XmlError::TooLarge { what, maximum },
    }
}

const fn malformed(reason: &'static str, position: u64) -> XmlError {
    XmlError::Malformed { reason, position }
}

/// The reader's own texts repeat what they found in the document, which must not reach a log.
const fn reader_reason(error: &ReaderError) -> &'static str {
    match error {
        ReaderError::Syntax(_) => "a tag, comment, CDATA section or instruction is not closed or not known",
        ReaderError::IllFormed(problem) => match problem {
            IllFormedError::MissingEndTag(_) => "an element is not closed",
            IllFormedError::UnmatchedEndTag(_) | IllFormedError::MismatchedEndTag { .. } => {
                "an end tag does not match its start tag"
            }
            IllFormedError::DoubleHyphenInComment => "'--' in a comment",
            IllFormedError::UnclosedReference => "'&' without a reference",
            _ => "not a valid declaration",
        },
        _ => "not valid markup",
    }
}

#[cfg(test)]
mod tests;
