//! What forms say of stock, read from their XML in the plainest way.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use generator::GeneratedDomain;
use quick_xml::NsReader;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, ResolveResult};

const LEDGER: &str = "http://commcarehq.org/ledger/v1";

type Attributes = BTreeMap<String, String>;

/// One change of one ledger, as the XML has it.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) key: (String, String, String),
    pub(crate) is_balance: bool,
    pub(crate) quantity: f64,
    pub(crate) date: Option<String>,
    pub(crate) subtype: Option<String>,
}

/// The elements of a form, flat: depth, namespace, name, attributes.
fn elements(xml: &[u8]) -> Vec<(usize, String, String, Attributes)> {
    let mut reader = NsReader::from_str(std::str::from_utf8(xml).unwrap());
    let (mut depth, mut found) = (0, Vec::new());
    let read = |reader: &NsReader<&[u8]>, start: &BytesStart<'_>| {
        let (namespace, name) = reader.resolver().resolve_element(start.name());
        let namespace = match namespace {
            ResolveResult::Bound(Namespace(uri)) => uri.to_owned(),
            _ => String::new(),
        };
        let attributes = start.attributes().map(|attribute| {
            let attribute = attribute.unwrap();
            let value = quick_xml::escape::unescape(&attribute.value).unwrap().into_owned();
            (attribute.key.into_inner().to_owned(), value)
        });
        (namespace, name.into_inner().to_owned(), attributes.collect())
    };
    loop {
        match reader.read_event().unwrap() {
            Event::Start(start) => {
                let (namespace, name, attributes) = read(&reader, &start);
                found.push((depth, namespace, name, attributes));
                depth += 1;
            }
            Event::Empty(start) => {
                let (namespace, name, attributes) = read(&reader, &start);
                found.push((depth, namespace, name, attributes));
            }
            Event::End(_) => depth -= 1,
            Event::Eof => return found,
            _ => {}
        }
    }
}

/// The changes of a form. A block within a block is none.
pub(crate) fn changes(xml: &[u8]) -> Vec<Change> {
    let elements = elements(xml);
    if elements[0].1 == "http://code.javarosa.org/devicereport" {
        return Vec::new();
    }
    let mut changes = Vec::new();
    let mut at = 0;
    while at < elements.len() {
        let (depth, namespace, name, block) = &elements[at];
        at += 1;
        if namespace != LEDGER || !matches!(name.as_str(), "balance" | "transfer") {
            continue;
        }
        let inside: Vec<_> = elements[at..].iter().take_while(|element| element.0 > *depth).collect();
        at += inside.len();
        let mut entry = Attributes::new();
        for (below, _, inner, attributes) in inside {
            let section = block.get("section-id").filter(|section| !section.is_empty());
            let (section, quantity) = match (below - depth, inner.as_str(), section) {
                (1, "entry", section) => {
                    entry.clone_from(attributes);
                    let Some(section) = section else { continue };
                    (section, attributes.get("quantity"))
                }
                (2, "value", None) => (&attributes["section-id"], attributes.get("quantity")),
                _ => continue,
            };
            let Some(quantity) = quantity.and_then(|text| text.parse::<f64>().ok()) else {
                continue;
            };
            if name == "balance" && entry["id"].is_empty() {
                continue;
            }
            let is_balance = name == "balance";
            let action = |action: &str| {
                let subtype = block
                    .get("type")
                    .filter(|subtype| !subtype.is_empty() && *subtype != action);
                subtype.map(|subtype| subtype.chars().take(20).collect::<String>())
            };
            let sides = if is_balance {
                vec![(
                    "entity-id",
                    if quantity > 0.0 { "stockonhand" } else { "stockout" },
                    quantity,
                )]
            } else {
                vec![("src", "consumption", -quantity), ("dest", "receipts", quantity)]
            };
            for (side, name, quantity) in sides {
                if let Some(case_id) = block.get(side) {
                    changes.push(Change {
                        key: (case_id.clone(), section.clone(), entry["id"].clone()),
                        is_balance,
                        quantity,
                        date: block.get("date").filter(|date| !date.is_empty()).cloned(),
                        subtype: action(name),
                    });
                }
            }
        }
    }
    changes
}

pub(crate) fn report_date(text: &str) -> DateTime<Utc> {
    if let Ok(day) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return day.and_hms_opt(0, 0, 0).unwrap().and_utc();
    }
    if let Ok(time) = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S") {
        return time.and_utc();
    }
    let full = if matches!(text.as_bytes()[text.len() - 3], b'+' | b'-') {
        format!("{text}:00")
    } else {
        text.to_owned()
    };
    DateTime::parse_from_rfc3339(&full).unwrap().to_utc()
}

pub(crate) fn xml_of<'a>(domain: &'a GeneratedDomain, doc: &serde_json::Value) -> &'a [u8] {
    let key = doc["external_blobs"]["form.xml"]["key"].as_str().unwrap();
    let (_, bytes) = domain.blobs.iter().find(|(known, _)| known == key).unwrap();
    bytes
}
