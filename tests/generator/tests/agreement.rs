//! The XML and the JSON of a form are written apart from each other: here the XML is read back and must say the same.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDateTime, Utc};
use generator::supply::{self, SupplyOptions};
use generator::{GeneratedDomain, Options, generate};
use quick_xml::NsReader;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, ResolveResult};
use serde_json::{Map, Value};

/// An element while it is read.
struct Open {
    name: String,
    namespace: Option<String>,
    map: Map<String, Value>,
    text: String,
    has_children: bool,
}

fn bound(namespace: &ResolveResult<'_>) -> Option<String> {
    match namespace {
        ResolveResult::Bound(Namespace(uri)) => Some((*uri).to_owned()),
        _ => None,
    }
}

fn open(reader: &NsReader<&[u8]>, start: &BytesStart<'_>, parent: Option<&Open>) -> Open {
    let (namespace, local) = reader.resolver().resolve_element(start.name());
    let namespace = bound(&namespace);
    let mut map = Map::new();
    for attribute in start.attributes() {
        let attribute = attribute.unwrap();
        if attribute.key.as_namespace_binding().is_some() {
            continue;
        }
        let (uri, name) = reader.resolver().resolve_attribute(attribute.key);
        let name = name.into_inner();
        let key = bound(&uri).map_or_else(|| format!("@{name}"), |uri| format!("@{{{uri}}}{name}"));
        map.insert(
            key,
            Value::String(utc(quick_xml::escape::unescape(&attribute.value).unwrap().into_owned())),
        );
    }
    if let Some(uri) = &namespace
        && parent.and_then(|parent| parent.namespace.as_ref()) != Some(uri)
    {
        map.insert("@xmlns".to_owned(), Value::String(uri.clone()));
    }
    let name = local.into_inner().to_owned();
    Open {
        name,
        namespace,
        map,
        text: String::new(),
        has_children: false,
    }
}

fn close(open: Open) -> (String, Value) {
    let text = utc(open.text);
    if open.map.is_empty() {
        return (open.name, Value::String(text));
    }
    let mut map = open.map;
    if text.chars().any(|c| !c.is_whitespace()) {
        map.insert("#text".to_owned(), Value::String(text));
    }
    (open.name, Value::Object(map))
}

/// Phone times become UTC; nothing else in a generated form looks like one.
fn utc(text: String) -> String {
    if let Ok(time) = NaiveDateTime::parse_from_str(&text, "%Y-%m-%d %H:%M:%S") {
        return time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    }
    let is_time = text.len() >= 24 && text.as_bytes()[10] == b'T' && text.as_bytes()[4] == b'-';
    if !is_time {
        return text;
    }
    let hours_only = matches!(text.as_bytes()[text.len() - 3], b'+' | b'-');
    let full = if hours_only { format!("{text}:00") } else { text.clone() };
    DateTime::parse_from_rfc3339(&full).map_or(text, |time| {
        time.with_timezone(&Utc).format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
    })
}

fn read(xml: &[u8]) -> Value {
    let mut reader = NsReader::from_str(std::str::from_utf8(xml).unwrap());
    let mut stack: Vec<Open> = Vec::new();
    loop {
        let event = reader.read_event().unwrap();
        let finished = match event {
            Event::Start(start) => {
                let element = open(&reader, &start, stack.last());
                if let Some(parent) = stack.last_mut() {
                    parent.has_children = true;
                }
                stack.push(element);
                None
            }
            Event::Empty(start) => {
                let element = open(&reader, &start, stack.last());
                if let Some(parent) = stack.last_mut() {
                    parent.has_children = true;
                }
                Some(element)
            }
            Event::End(_) => stack.pop(),
            Event::Eof => panic!("no root"),
            event => {
                let text = match event {
                    Event::Text(text) => text.into_inner().into_owned(),
                    Event::CData(text) => text.into_inner().into_owned(),
                    Event::GeneralRef(reference) => reference.resolve_char_ref().unwrap().map_or_else(
                        || quick_xml::escape::resolve_xml_entity(&reference).unwrap().to_owned(),
                        String::from,
                    ),
                    _ => String::new(),
                };
                if let Some(element) = stack.last_mut()
                    && !element.has_children
                {
                    element.text.push_str(&text);
                }
                None
            }
        };
        let Some(element) = finished else { continue };
        let (name, value) = close(element);
        let Some(parent) = stack.last_mut() else {
            let Value::Object(mut root) = value else {
                panic!("a root without content")
            };
            root.insert("#type".to_owned(), Value::String(name));
            return Value::Object(root);
        };
        match parent.map.get_mut(&name) {
            None => {
                parent.map.insert(name, value);
            }
            Some(Value::Array(items)) => items.push(value),
            Some(only) => *only = Value::Array(vec![only.take(), value]),
        }
    }
}

/// What HQ does to the `meta` block of old forms.
fn scrub_meta(form: &mut Value) {
    let map = form.as_object_mut().unwrap();
    let Some(mut meta) = map.shift_remove("Meta") else {
        return;
    };
    let fields = meta.as_object_mut().unwrap();
    for (old, new) in [
        ("TimeStart", "timeStart"),
        ("TimeEnd", "timeEnd"),
        ("chw_id", "userID"),
        ("DeviceID", "deviceID"),
        ("uid", "instanceID"),
    ] {
        if let Some(value) = fields.shift_remove(old) {
            fields.insert(new.to_owned(), value);
        }
    }
    map.insert("meta".to_owned(), meta);
}

#[test]
fn xml_and_json_of_every_form_agree() {
    let mut options = Options::new("agreement", 1200, 11);
    options.case_attachments = true;
    options.weights.legacy = 0.3;
    assert!(forms_that_agree(&generate(&options)) > 1100);
}

#[test]
fn xml_and_json_of_every_stock_report_agree() {
    let options = SupplyOptions {
        weeks: 30,
        ..SupplyOptions::new("agreement", 12)
    };
    assert!(forms_that_agree(&supply::generate(&options)) > 200);
}

/// Checks all forms that are XML, and counts them.
fn forms_that_agree(domain: &GeneratedDomain) -> usize {
    let blobs: BTreeMap<&str, &[u8]> = domain
        .blobs
        .iter()
        .map(|(key, bytes)| (key.as_str(), bytes.as_slice()))
        .collect();
    let mut read_back = 0;
    for doc in domain.docs.iter().filter(|doc| doc.get("form").is_some()) {
        if doc["doc_type"] == "SubmissionErrorLog" {
            continue;
        }
        let key = doc["external_blobs"]["form.xml"]["key"].as_str().unwrap();
        let mut form = read(blobs[key]);
        scrub_meta(&mut form);
        assert_eq!(form, doc["form"], "{}", String::from_utf8_lossy(blobs[key]));
        read_back += 1;
    }
    read_back
}
