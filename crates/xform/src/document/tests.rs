#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;
use crate::limits::{
    LEAST_COUNTED_BYTES, MAX_BINDINGS, MAX_MEMORY_PER_BYTE, MAX_NAMESPACE_BYTES_PER_BYTE, MAX_NODES, MAX_TEXT_BYTES,
};

/// As text: equality of JSON objects does not see the order of keys.
fn converted(xml: &str) -> String {
    xml_to_json(xml.as_bytes())
        .unwrap_or_else(|error| panic!("{error}: {xml}"))
        .to_string()
}

#[test]
fn converts_the_worked_example() {
    assert_eq!(
        converted(r#"<d xmlns="F" n="N"><a> x </a><b/><b>2</b><q k="1">  </q><e>hi<f/>tail</e></d>"#),
        r##"{"@n":"N","@xmlns":"F","a":" x ","b":["","2"],"q":{"@k":"1"},"e":{"f":"","#text":"hi"},"#type":"d"}"##
    );
}

#[test]
fn converts_by_the_rules() {
    for (xml, expected) in [
        // Text: comments join, CDATA and entities are plain, line ends are LF, nothing is trimmed.
        (
            "<d k=''><a>foo<!--x-->bar</a></d>",
            json!({"@k": "", "a": "foobar", "#type": "d"}),
        ),
        (
            "<d k=''><a>x<![CDATA[<&]]>y</a></d>",
            json!({"@k": "", "a": "x<&y", "#type": "d"}),
        ),
        (
            "<d k=''><a><![CDATA[x]]]]><![CDATA[>y]]></a></d>",
            json!({"@k": "", "a": "x]]>y", "#type": "d"}),
        ),
        (
            "<d k=''><a>&lt;&gt;&amp;&apos;&quot;&#233;&#xe9;</a></d>",
            json!({"@k": "", "a": "<>&'\"éé", "#type": "d"}),
        ),
        (
            "<d k=''><a>x\r\ny\rz</a><b>&#13;</b><c><![CDATA[\r\n]]></c></d>",
            json!({"@k": "", "a": "x\ny\nz", "b": "\r", "c": "\n", "#type": "d"}),
        ),
        (
            "<d k=''><a>\n </a><b>\u{a0}</b></d>",
            json!({"@k": "", "a": "\n ", "b": "\u{a0}", "#type": "d"}),
        ),
        // `#text` only with something visible, untrimmed, last.
        ("<d k='1'> \n </d>", json!({"@k": "1", "#type": "d"})),
        ("<d k='1'>\u{a0}\u{2003}</d>", json!({"@k": "1", "#type": "d"})),
        ("<d k='1'> x </d>", json!({"@k": "1", "#text": " x ", "#type": "d"})),
        (
            "<d>one<a/>two<a/>three</d>",
            json!({"a": ["", ""], "#text": "one", "#type": "d"}),
        ),
        ("<d><a/>&amp;<![CDATA[x]]></d>", json!({"a": "", "#type": "d"})),
        // Attributes in document order, white space as spaces, Clark notation, no namespace declarations.
        ("<d b='2' a='1'/>", json!({"@b": "2", "@a": "1", "#type": "d"})),
        ("<d a='x\r\ny\tz&#10;'/>", json!({"@a": "x y z\n", "#type": "d"})),
        (
            "<d xmlns:j='http://dev.commcarehq.org/jr/xforms' j:foo='1' foo='2'/>",
            json!({"@{http://dev.commcarehq.org/jr/xforms}foo": "1", "@foo": "2", "#type": "d"}),
        ),
        (
            "<d xml:lang='en'/>",
            json!({"@{http://www.w3.org/XML/1998/namespace}lang": "en", "#type": "d"}),
        ),
        // `@xmlns` after the attributes, where the namespace differs from the parent's.
        (
            "<d xmlns='F' a='1'><b/></d>",
            json!({"@a": "1", "@xmlns": "F", "b": "", "#type": "d"}),
        ),
        (
            "<p:d xmlns:p='F'><p:b/><b/></p:d>",
            json!({"@xmlns": "F", "b": ["", ""], "#type": "d"}),
        ),
        (
            "<d xmlns='F'><a xmlns='G'><b/></a><c/></d>",
            json!({"@xmlns": "F", "a": {"@xmlns": "G", "b": ""}, "c": "", "#type": "d"}),
        ),
        (
            "<d xmlns='F' xmlns:p='G'><p:a><b/></p:a></d>",
            json!({"@xmlns": "F", "a": {"@xmlns": "G", "b": {"@xmlns": "F"}}, "#type": "d"}),
        ),
        // Without a namespace in between, the grandchild states it again.
        (
            "<p:d xmlns:p='F'><a><p:b/></a></p:d>",
            json!({"@xmlns": "F", "a": {"b": {"@xmlns": "F"}}, "#type": "d"}),
        ),
        (
            "<d xmlns='F'><a xmlns=''><b xmlns='F'/></a></d>",
            json!({"@xmlns": "F", "a": {"b": {"@xmlns": "F"}}, "#type": "d"}),
        ),
        (
            "<d xmlns='a&amp;b'><e xmlns='a&#38;b'/></d>",
            json!({"@xmlns": "a&b", "e": "", "#type": "d"}),
        ),
        (
            "<d xmlns='F'><xml:a/></d>",
            json!({"@xmlns": "F", "a": {"@xmlns": "http://www.w3.org/XML/1998/namespace"}, "#type": "d"}),
        ),
        // Repeats are grouped where the first one is, whatever their namespace.
        (
            "<d xmlns:a='A' xmlns:b='B'><a:case/><x/><b:case/><case>3</case></d>",
            json!({"case": [{"@xmlns": "A"}, {"@xmlns": "B"}, "3"], "x": "", "#type": "d"}),
        ),
        // Outside the root.
        (
            "<?xml version='1.0' encoding='utf-8' standalone='yes'?>\n<?pi x?><!-- c --><d a='1'/><!-- d --><?pi?>\n",
            json!({"@a": "1", "#type": "d"}),
        ),
        (
            "\u{feff}<?xml version='1.0'?><d a='1'/>",
            json!({"@a": "1", "#type": "d"}),
        ),
        (" \n<d a='1'/>", json!({"@a": "1", "#type": "d"})),
        (
            "<?xml version=\"1.1\"?><d a='1' ></d >",
            json!({"@a": "1", "#type": "d"}),
        ),
        ("<été jour='1'/>", json!({"@jour": "1", "#type": "été"})),
    ] {
        assert_eq!(converted(xml), expected.to_string(), "{xml}");
    }
}

#[test]
fn refuses_what_lxml_refuses() {
    for xml in [
        "",
        " ",
        "text",
        "x<a/>",
        "<a/>x",
        "<a/>&#32;",
        "<a/><b/>",
        "<![CDATA[x]]><a/>",
        "<a",
        "<a>",
        "<a b='1'",
        "<a></b>",
        "<a><b></a></b>",
        "</a>",
        "<a></ a>",
        "< a/>",
        "<1a/>",
        "<a:b/>",
        "<:a/>",
        "<a:/>",
        "<a:b:c xmlns:a='u'/>",
        "<a b:c='1'/>",
        "<a b='1' b='2'/>",
        "<a xmlns:p='u' xmlns:q='u' p:x='1' q:x='2'/>",
        "<a xmlns='u' xmlns='v'/>",
        "<a xmlns:b=''/>",
        "<a xmlns:xml='u'/>",
        "<a xmlns:xmlns='u'/>",
        "<a xmlns:b='http://www.w3.org/XML/1998/namespace'/>",
        "<a xmlns='http://www.w3.org/XML/1998/namespace'/>",
        "<a xmlns:b='http://www.w3.org/2000/xmlns/'/>",
        "<a xmlns:1='u'/>",
        "<a b='1'c='2'/>",
        "<a b=1/>",
        "<a b/>",
        "<a b='<'/>",
        "<a b='&'/>",
        "<a b='1' / >",
        "<a \u{a0}b='1'/>",
        "<a>]]></a>",
        "<a>& b</a>",
        "<a>&nbsp;</a>",
        "<a>&#0;</a>",
        "<a>&#xFFFE;</a>",
        "<a>\u{1}</a>",
        "<a><!-- -- --></a>",
        "<a><!-- ---></a>",
        "<a><!-- </a>",
        "<a><![CDATA[</a>",
        "<a><![cdata[x]]></a>",
        "\n<?xml version='1.0'?><a/>",
        "<a/><?xml version='1.0'?>",
        "<a><?xml version='1.0'?></a>",
        "<?xml version='2.0'?><a/>",
        "<?xml encoding='utf-8'?><a/>",
        "<?xml version='1.0' foo='x'?><a/>",
        "<?xml version='1.0' standalone='yes' encoding='utf-8'?><a/>",
        "<?xml version='1.0' encoding='bogus'?><a/>",
        "<?XML version='1.0'?><a/>",
        "<? pi?><a/>",
        "<?a:b c?><a/>",
    ] {
        let error = xml_to_json(xml.as_bytes()).expect_err(xml);
        assert!(error.is_syntax(), "{error:?}: {xml}");
    }
}

#[test]
fn refuses_what_the_conversion_fails_on() {
    let instruction = xml_to_json(b"<a k='1'><?pi x?></a>").unwrap_err();
    assert_eq!(instruction, XmlError::ProcessingInstruction { position: 9 });
    assert!(xml_to_json(b"<a k='1'><?pi x?><b></a>").unwrap_err().is_syntax());
    for plain in ["<a/>", "<a>text</a>", "<a> </a>"] {
        assert_eq!(xml_to_json(plain.as_bytes()), Err(XmlError::PlainRoot), "{plain}");
    }
    assert!(!instruction.is_syntax() && !XmlError::PlainRoot.is_syntax());
}

#[test]
fn refuses_document_types_whatever_they_define() {
    let mut laughs = String::from("<!DOCTYPE d [<!ENTITY l0 \"lol\">");
    for level in 1..10 {
        let previous = format!("&l{};", level - 1).repeat(10);
        laughs.push_str(&format!("<!ENTITY l{level} \"{previous}\">"));
    }
    laughs.push_str("]><d k='1'>&l9;</d>");
    for xml in [
        laughs.as_str(),
        "<!DOCTYPE d><d k='1'/>",
        "<!DOCTYPE d SYSTEM \"file:///etc/passwd\"><d k='1'/>",
        "<!DOCTYPE d [<!ENTITY x SYSTEM \"file:///etc/passwd\">]><d k='1'>&x;</d>",
    ] {
        assert_eq!(
            xml_to_json(xml.as_bytes()),
            Err(XmlError::DocumentType { position: 0 }),
            "{xml}"
        );
    }
}

#[test]
fn nesting_is_bounded_as_in_libxml2() {
    let nested = |depth: usize| format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
    assert!(xml_to_json(nested(MAX_DEPTH).as_bytes()).is_ok());
    let too_deep = Err(XmlError::TooLarge {
        what: "levels of elements",
        maximum: MAX_DEPTH,
    });
    assert_eq!(xml_to_json(nested(MAX_DEPTH + 1).as_bytes()), too_deep);
    assert_eq!(xml_to_json("<a>".repeat(1_000_000).as_bytes()), too_deep);
    // The passes over the JSON walk it recursively: the deepest form must fit their stack.
    assert!(form_json(nested(MAX_DEPTH).as_bytes()).is_ok());
}

#[test]
fn size_is_bounded() {
    let too_large = |what, maximum| Err(XmlError::TooLarge { what, maximum });
    // Long enough names that the number of elements is what exceeds its bound.
    let name = "n".repeat(40);
    assert_eq!(
        xml_to_json(format!("<a>{}</a>", format!("<{name}/>").repeat(MAX_NODES)).as_bytes()),
        too_large("elements and attributes", MAX_NODES)
    );
    let attributes: String = (0..MAX_NODES).map(|number| format!(" {name}{number}='1'")).collect();
    assert_eq!(
        xml_to_json(format!("<a{attributes}/>").as_bytes()),
        too_large("elements and attributes", MAX_NODES)
    );
    assert_eq!(
        xml_to_json(&vec![b' '; MAX_XML_BYTES + 1]),
        too_large("bytes", MAX_XML_BYTES)
    );
    // Markup that says next to nothing is refused sooner.
    for dense in ["<b/>", "<b/><c/>", "<b k=''/>"] {
        let xml = format!("<a>{}</a>", dense.repeat((LEAST_COUNTED_BYTES - 7) / dense.len()));
        assert_eq!(
            xml_to_json(xml.as_bytes()),
            too_large("bytes of memory", LEAST_COUNTED_BYTES * MAX_MEMORY_PER_BYTE),
            "{dense}"
        );
    }
    // But not the short answers of a real form, however many.
    let answers = "<q1>1</q1><q2/><q3>no</q3>".repeat(20_000);
    assert!(xml_to_json(format!("<a>{answers}</a>").as_bytes()).is_ok());
    for long in [
        format!("<a b='{}'/>", "x".repeat(MAX_TEXT_BYTES + 1)),
        format!(
            "<a b=''>{}</a>",
            "x<!---->".repeat(MAX_TEXT_BYTES / 4) + &"x".repeat(MAX_TEXT_BYTES)
        ),
    ] {
        assert_eq!(
            xml_to_json(long.as_bytes()),
            too_large("bytes of one text", MAX_TEXT_BYTES)
        );
    }
    let huge = "x".repeat(4 << 20);
    let form = xml_to_json(format!("<a b='{huge}'>{huge}</a>").as_bytes()).unwrap();
    assert_eq!(
        (form["@b"].as_str(), form["#text"].as_str()),
        (Some(&*huge), Some(&*huge))
    );
}

#[test]
fn namespaces_are_bounded() {
    let declarations: String = (0..=MAX_BINDINGS)
        .map(|number| format!(" xmlns:p{number}='u'"))
        .collect();
    assert_eq!(
        xml_to_json(format!("<a{declarations}/>").as_bytes()),
        Err(XmlError::TooLarge {
            what: "namespace declarations in scope",
            maximum: MAX_BINDINGS
        })
    );
    // One long namespace, repeated in the JSON for each attribute, or for each change back and forth.
    let long = "u".repeat(LEAST_COUNTED_BYTES);
    let attributes: String = (0..1_000).map(|number| format!(" p:b{number}='1'")).collect();
    for xml in [
        format!("<a xmlns:p='{long}'{attributes}/>"),
        format!("<a xmlns:p='{long}'>{}</a>", "<p:b/>".repeat(1_000)),
    ] {
        assert_eq!(
            xml_to_json(xml.as_bytes()),
            Err(XmlError::TooLarge {
                what: "bytes of namespaces",
                maximum: xml.len() * MAX_NAMESPACE_BYTES_PER_BYTE
            })
        );
    }
}

#[test]
fn the_three_passes_run_in_order() {
    let xml = "<d xmlns='F'><seen>2015-08-04 18:25</seen><Meta><TimeStart>2015-08-04T20:25:00.000+02</TimeStart>\
               <uid>i</uid></Meta></d>";
    assert_eq!(
        form_json(xml.as_bytes()).unwrap().to_string(),
        json!({
            "@xmlns": "F",
            "seen": "2015-08-04T18:25:00.000000Z",
            "#type": "d",
            "meta": {"timeStart": "2015-08-04T18:25:00.000000Z", "instanceID": "i"},
        })
        .to_string()
    );
    let overflow = form_json(b"<d><a>0001-01-01T00:00:00+05:00</a></d>").unwrap_err();
    assert_eq!(overflow, XmlError::Value(crate::FormError::DateOutOfRange));
    assert_eq!((overflow.code(), overflow.is_syntax()), ("C2S-2010", false));
}
