//! Properties of the conversion: no input makes it panic, and generated documents convert as an independent model says.
#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value};
use xform::{case_updates, form_json, json_to_xml, ledger_updates, xml_to_json};

/// Runs everything that takes a form over it.
fn use_up(xml: &[u8]) {
    if let Ok(form) = form_json(xml) {
        let _ = case_updates(&form);
        let _ = ledger_updates(xml, chrono::DateTime::UNIX_EPOCH);
        let _ = xform::extract_meta_user_id(&form);
        let _ = xform::extract_meta_instance_id(&form);
        let _ = xform::metadata_user_id(&form);
    }
    if let Ok(form) = xml_to_json(xml) {
        // Whatever was read can be written and read again.
        let written = json_to_xml(&form).unwrap();
        assert_eq!(xml_to_json(&written).unwrap(), form);
    }
}

/// Pieces that make text look like a form, well-formed or not.
const PIECES: &[&str] = &[
    "<",
    ">",
    "/>",
    "</",
    "<a>",
    "</a>",
    "<case xmlns='http://commcarehq.org/case/transaction/v2' case_id='c'>",
    "</case>",
    "<update>",
    "</update>",
    "<index>",
    "</index>",
    "<p case_type='t'>",
    "</p>",
    "<meta>",
    "</meta>",
    "=",
    "'",
    "\"",
    "&",
    ";",
    "&amp;",
    "&#x41;",
    "&#0;",
    "<!--",
    "-->",
    "--",
    "<![CDATA[",
    "]]>",
    "<?xml version='1.0'?>",
    "<?pi?>",
    "<!DOCTYPE a [",
    "<!ENTITY e 'x'>",
    "]>",
    " xmlns:p='u'",
    " xmlns=''",
    "p:",
    ":",
    " ",
    "\r\n",
    "\t",
    "2015-08-04T18:25:56.656+02",
    "0001-01-01T00:00:00+23:59",
    "case_id",
    "é",
    "\u{1}",
    "\u{fffe}",
    "😀",
    "<?xml version='1.0' encoding='utf-16'?>",
    "<d xmlns='F'>",
    "</d>",
];

#[derive(Clone, Debug)]
struct Node {
    namespace: Option<usize>,
    name: String,
    attributes: Vec<(Option<usize>, String, String)>,
    text: String,
    children: Vec<(Node, String)>,
}

const NAMESPACES: &[&str] = &[
    "http://openrosa.org/formdesigner/a",
    "urn:b&c",
    "http://openrosa.org/jr/xforms",
];

fn name() -> impl Strategy<Value = String> {
    select(&["a", "b", "case", "meta", "n.1", "é", "_x-y"][..]).prop_map(str::to_owned)
}

fn text() -> impl Strategy<Value = String> {
    vec(
        select(
            &[
                "",
                " ",
                "\n",
                "x",
                "<&>",
                "\"'",
                "]]>",
                "é日😀",
                "\u{a0}",
                "12",
                "\r",
                "\t",
            ][..],
        ),
        0..4,
    )
    .prop_map(|parts| parts.concat())
}

fn node() -> impl Strategy<Value = Node> {
    let namespace = || proptest::option::of(0..NAMESPACES.len());
    let attribute = (namespace(), name(), text());
    let leaf = (namespace(), name(), vec(attribute, 0..3), text());
    let build = |((namespace, name, mut attributes, text), children): (_, Vec<(Node, String)>)| {
        let attributes: &mut Vec<(Option<usize>, String, String)> = &mut attributes;
        let mut seen = std::collections::HashSet::new();
        attributes.retain(|(namespace, name, _)| seen.insert((*namespace, name.clone())));
        Node {
            namespace,
            name,
            attributes: attributes.clone(),
            text,
            children,
        }
    };
    let leaf = (leaf, Just(Vec::new())).prop_map(build);
    leaf.prop_recursive(5, 40, 5, move |inner| {
        let attribute = (namespace(), name(), text());
        (
            (namespace(), name(), vec(attribute, 0..3), text()),
            vec((inner, text()), 0..5),
        )
            .prop_map(build)
    })
}

/// Writes each element with prefixes of its own, so that it never depends on what is declared around it.
fn write(node: &Node, xml: &mut String, style: &mut impl FnMut() -> bool) {
    let escape = |text: &str, by_number: bool| -> String {
        text.chars()
            .map(|c| match c {
                '<' | '&' | '>' | '"' | '\r' | '\n' | '\t' => format!("&#{};", u32::from(c)),
                c if by_number => format!("&#x{:X};", u32::from(c)),
                c => c.to_string(),
            })
            .collect()
    };
    let prefix = |namespace: Option<usize>| namespace.map_or(String::new(), |number| format!("p{number}:"));
    let tag = format!("{}{}", prefix(node.namespace), node.name);
    xml.push_str(&format!("<{tag} "));
    for (number, uri) in NAMESPACES.iter().enumerate() {
        xml.push_str(&format!("xmlns:p{number}=\"{}\"\n", escape(uri, false)));
    }
    for (namespace, name, value) in &node.attributes {
        xml.push_str(&format!(
            "\t{}{name} = \"{}\"",
            prefix(*namespace),
            escape(value, style())
        ));
    }
    xml.push('>');
    if style() && !node.text.contains("]]>") && !node.text.contains('\r') {
        xml.push_str(&format!("<![CDATA[{}]]>", node.text));
    } else {
        let middle = node.text.char_indices().nth(1).map_or(node.text.len(), |(at, _)| at);
        let (start, end) = node.text.split_at(middle);
        xml.push_str(&format!("{}<!-- c -->{}", escape(start, style()), escape(end, false)));
    }
    for (child, tail) in &node.children {
        write(child, xml, style);
        xml.push_str(&escape(tail, style()));
    }
    xml.push_str(&format!("</{tag}\n>"));
}

/// The rules in their simplest form, over a tree instead of events.
fn model(node: &Node, parent: Option<usize>) -> Value {
    let mut pairs: Vec<(String, Value)> = Vec::new();
    for (namespace, name, value) in &node.attributes {
        let key = match namespace {
            Some(number) => format!("@{{{}}}{name}", NAMESPACES[*number]),
            None => format!("@{name}"),
        };
        pairs.push((key, value.clone().into()));
    }
    if let Some(number) = node.namespace.filter(|_| node.namespace != parent) {
        pairs.push(("@xmlns".into(), NAMESPACES[number].into()));
    }
    for (position, (child, _)) in node.children.iter().enumerate() {
        if node.children[..position]
            .iter()
            .any(|(earlier, _)| earlier.name == child.name)
        {
            continue;
        }
        let mut same: Vec<Value> = node
            .children
            .iter()
            .filter(|(other, _)| other.name == child.name)
            .map(|(other, _)| model(other, node.namespace))
            .collect();
        let value = if same.len() == 1 {
            same.remove(0)
        } else {
            Value::Array(same)
        };
        pairs.push((child.name.clone(), value));
    }
    if pairs.is_empty() {
        return node.text.clone().into();
    }
    if node.text.chars().any(|c| !c.is_whitespace()) {
        pairs.push(("#text".into(), node.text.clone().into()));
    }
    Value::Object(pairs.into_iter().collect::<Map<_, _>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        use_up(&bytes);
    }

    #[test]
    fn near_forms_never_panic(pieces in vec(select(PIECES), 0..30)) {
        use_up(pieces.concat().as_bytes());
    }

    #[test]
    fn damaged_forms_never_panic(tree in node(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut xml = String::new();
        write(&tree, &mut xml, &mut || false);
        let mut bytes = xml.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        use_up(&bytes);
    }

    #[test]
    fn trees_convert_as_the_model_says(tree in node(), seed in any::<u64>()) {
        let mut state = seed | 1;
        let mut style = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state & 1 == 1
        };
        let mut xml = String::new();
        write(&tree, &mut xml, &mut style);
        match model(&tree, None) {
            Value::Object(mut expected) => {
                expected.insert("#type".into(), tree.name.clone().into());
                // As text, so that the order of keys counts.
                let expected = Value::Object(expected).to_string();
                prop_assert_eq!(xml_to_json(xml.as_bytes()).unwrap().to_string(), expected, "{}", xml);
                use_up(xml.as_bytes());
            }
            _ => prop_assert_eq!(xml_to_json(xml.as_bytes()), Err(xform::XmlError::PlainRoot)),
        }
    }

    #[test]
    fn date_like_texts_never_panic(text in "[0-9]{0,4}[-/]?[0-9]{0,2}[-/]?[0-9]{0,4}[ T]?[0-9:.,]{0,12}[-+Zz]?[0-9:]{0,5}\n?") {
        let mut form = serde_json::json!({"case": {"case_id": "c", "date_modified": text.clone(), "@date_modified": text}});
        if xform::adjust_datetimes(&mut form).is_ok() {
            let _ = case_updates(&form);
        }
    }
}
