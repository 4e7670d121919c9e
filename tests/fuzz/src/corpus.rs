//! The inputs that every run begins with, and that damage starts from: ordinary forms, and attacks.

use crate::inputs::{Input, Kind, MAX_INPUT_BYTES};

/// One of them.
#[derive(Clone, Debug)]
pub struct Seed {
    /// What it is, in a few words.
    pub name: &'static str,
    /// The input.
    pub input: Input,
    /// For an attack: the code of the failure with which it is refused.
    pub refused: Option<&'static str>,
}

/// All of them.
pub fn all() -> Vec<Seed> {
    let mut seeds = ordinary();
    seeds.extend(entities());
    seeds.extend(sizes());
    seeds.extend(encodings());
    seeds.extend(structures());
    seeds.extend(documents());
    seeds
}

fn xml(name: &'static str, bytes: impl Into<Vec<u8>>) -> Seed {
    Seed {
        name,
        input: Input {
            kind: Kind::Xml,
            bytes: bytes.into(),
        },
        refused: None,
    }
}

fn attack(name: &'static str, code: &'static str, bytes: impl Into<Vec<u8>>) -> Seed {
    Seed {
        refused: Some(code),
        ..xml(name, bytes)
    }
}

/// Repeated until the whole has the size of the largest input.
fn filled(before: &str, round: &str, after: &str) -> String {
    let room = MAX_INPUT_BYTES - before.len() - after.len();
    format!("{before}{}{after}", round.repeat(room / round.len()))
}

fn numbered(before: &str, item: impl Fn(usize) -> String, after: &str) -> String {
    let mut text = before.to_owned();
    for number in 0.. {
        let item = item(number);
        if text.len() + item.len() + after.len() > MAX_INPUT_BYTES {
            break;
        }
        text.push_str(&item);
    }
    text + after
}

fn ordinary() -> Vec<Seed> {
    vec![
        xml(
            "form with a case",
            r#"<?xml version='1.0' ?><data name="Visit" uiVersion="1" version="3" xmlns="http://openrosa.org/formdesigner/demo" xmlns:jrm="http://dev.commcarehq.org/jr/xforms"><weight>11.5</weight><seen>2019-03-02T08:10:00.000+05:30</seen><n0:case case_id="c-1" date_modified="2019-03-02T08:10:00.000+05:30" user_id="u1" xmlns:n0="http://commcarehq.org/case/transaction/v2"><n0:create><n0:case_name>Mina</n0:case_name><n0:owner_id>u1</n0:owner_id><n0:case_type>child</n0:case_type></n0:create><n0:update><n0:weight>11.5</n0:weight></n0:update><n0:index><n0:parent case_type="household" relationship="child">h-9</n0:parent></n0:index><n0:attachment><n0:photo src="p.jpg" from="local"/></n0:attachment></n0:case><orx:meta xmlns:orx="http://openrosa.org/jr/xforms"><orx:deviceID>d1</orx:deviceID><orx:timeStart>2019-03-02T08:05:00.000+05:30</orx:timeStart><orx:timeEnd>2019-03-02T08:10:00.000+05:30</orx:timeEnd><orx:username>asha</orx:username><orx:userID>u1</orx:userID><orx:instanceID>f-100</orx:instanceID><cc:appVersion xmlns:cc="http://commcarehq.org/xforms">2.44</cc:appVersion></orx:meta></data>"#,
        ),
        xml(
            "form of an old client",
            "<data xmlns='F'><case><case_id>c</case_id><date_modified>2011-05-20T12:27:34.823+05:30</date_modified><create><case_type_id>t</case_type_id><case_name>n</case_name><user_id>u</user_id><external_id>x</external_id></create><update><name>later</name></update><close/></case><Meta><uid>i</uid><TimeStart>2011-05-20T12:27:34.823+05:30</TimeStart><chw_id>u</chw_id><DeviceID>d</DeviceID></Meta></data>",
        ),
        xml(
            "ledgers in both layouts",
            "<data xmlns='F'><balance xmlns='http://commcarehq.org/ledger/v1' entity-id='c' date='2014-08-04' section-id='stock'><entry id='p' quantity='5'/><entry id='q' quantity='0.5'/></balance><transfer xmlns='http://commcarehq.org/ledger/v1' src='a' dest='b' date='2014-08-04T01:00:00.000+05:30' type='loan'><entry id='p'><value section-id='stock' quantity='3'/><value section-id='other' quantity='1e3'/></entry></transfer></data>",
        ),
        xml(
            "device report",
            "<device_report xmlns='http://code.javarosa.org/devicereport'><log_subreport><log date='2019-03-02T08:10:00.000Z'><type>x</type><msg>text</msg></log></log_subreport></device_report>",
        ),
        xml(
            "malformed dates",
            "<data xmlns='F'><case xmlns='http://commcarehq.org/case/transaction/v2' case_id='c' date_modified='2015-08-014'/><g><case xmlns='http://commcarehq.org/case/transaction/v2' case_id='c' date_modified='08/14/15 18:25:56'><update><d>0001-01-01</d></update></case></g></data>",
        ),
        xml(
            "inclusion of a file, which nothing follows",
            "<data xmlns:xi='http://www.w3.org/2001/XInclude'><xi:include href='file:///etc/passwd' parse='text'/></data>",
        ),
    ]
}

/// Attacks by what a document type may declare.
fn entities() -> Vec<Seed> {
    let laughs: String = (1..10)
        .map(|level| format!("<!ENTITY l{level} \"{}\">", format!("&l{};", level - 1).repeat(10)))
        .collect();
    let refused = "C2S-2003";
    let big = "x".repeat(100_000);
    vec![
        attack(
            "billion laughs",
            refused,
            format!("<!DOCTYPE d [<!ENTITY l0 \"lol\">{laughs}]><d k='1'>&l9;</d>"),
        ),
        attack(
            "quadratic blow-up",
            refused,
            format!(
                "<!DOCTYPE d [<!ENTITY a \"{big}\">]><d k='1'>{}</d>",
                "&a;".repeat(100_000)
            ),
        ),
        attack(
            "entity that contains itself",
            refused,
            "<!DOCTYPE d [<!ENTITY a \"&b;\"><!ENTITY b \"&a;\">]><d k='1'>&a;</d>",
        ),
        attack(
            "external entity: a file",
            refused,
            "<!DOCTYPE d [<!ENTITY x SYSTEM \"file:///etc/passwd\">]><d k='1'>&x;</d>",
        ),
        attack(
            "external entity: an address",
            refused,
            "<!DOCTYPE d [<!ENTITY x SYSTEM \"http://127.0.0.1:9/\">]><d k='&x;'/>",
        ),
        attack(
            "external parameter entity",
            refused,
            "<!DOCTYPE d [<!ENTITY % p SYSTEM \"http://127.0.0.1:9/e.dtd\"> %p;]><d k='1'/>",
        ),
        attack(
            "external document type",
            refused,
            "<!DOCTYPE d SYSTEM \"http://127.0.0.1:9/d.dtd\"><d k='1'/>",
        ),
        attack(
            "default attributes",
            refused,
            "<?xml version='1.0'?><!-- c --><!DOCTYPE d [<!ATTLIST d a CDATA 'x'>]><d k='1'/>",
        ),
        attack("bare document type", refused, "<!DOCTYPE d><d k='1'/>"),
        attack("entity that nobody declared", "C2S-2001", "<d k='1'>&x;</d>"),
        attack("document type inside the root", refused, "<d k='1'><!DOCTYPE d></d>"),
    ]
}

/// Attacks by size.
fn sizes() -> Vec<Seed> {
    let refused = "C2S-2004";
    let uri = "u".repeat(MAX_INPUT_BYTES / 2);
    vec![
        attack("deep nesting", refused, filled("", "<a>", "")),
        attack(
            "deep nesting, closed",
            refused,
            format!("{}{}", "<a>".repeat(100_000), "</a>".repeat(100_000)),
        ),
        attack("many empty elements", refused, filled("<d>", "<b/>", "</d>")),
        attack("many elements of two names", refused, filled("<d>", "<b/><c/>", "</d>")),
        attack(
            "many elements with an attribute",
            refused,
            filled("<d>", "<a b=''/><c d=''/>", "</d>"),
        ),
        attack(
            "many elements, each of its own name",
            refused,
            numbered("<d>", |number| format!("<n{number:x}/>"), "</d>"),
        ),
        attack(
            "many attributes",
            refused,
            numbered("<d", |number| format!(" a{number:x}=''"), "/>"),
        ),
        attack(
            "many attributes, the last one twice",
            refused,
            numbered("<d", |number| format!(" a{number:x}=''"), " x='' x=''/>"),
        ),
        attack(
            "many namespaces",
            refused,
            numbered("<d", |number| format!(" xmlns:p{number:x}='u'"), "/>"),
        ),
        attack(
            "namespaces declared ever deeper",
            refused,
            numbered(
                "",
                |number| format!("<a xmlns:p{number:x}='u' xmlns:q{number:x}='u'>"),
                "",
            ),
        ),
        attack(
            "long namespace of many elements",
            refused,
            filled(&format!("<d xmlns:p='{uri}'>"), "<p:b/>", "</d>"),
        ),
        attack(
            "long namespace of many attributes",
            refused,
            numbered(
                &format!("<d xmlns:p='{uri}'"),
                |number| format!(" p:a{number:x}=''"),
                "/>",
            ),
        ),
        attack(
            "huge case id",
            "C2S-2017",
            filled(
                "<d><case xmlns='http://commcarehq.org/case/transaction/v2' case_id='",
                "x",
                "'/></d>",
            ),
        ),
        attack(
            "many ledger instructions",
            "C2S-2047",
            filled(
                "<d><transfer xmlns='http://commcarehq.org/ledger/v1' src='a' dest='b' section-id='s'>",
                "<entry id='p' quantity='1'/>",
                "</transfer></d>",
            ),
        ),
        xml("huge attribute", filled("<d k='", "x", "'/>")),
        xml("huge attribute of references", filled("<d k='", "&lt;", "'/>")),
        xml("huge text", filled("<d k=''>", "é", "</d>")),
        xml("huge text of comments", filled("<d k=''>", "x<!---->", "</d>")),
        xml("huge text of references", filled("<d k=''>", "&#65;", "</d>")),
        xml("huge text that grows when it is written", filled("<d k='", "\"", "'/>")),
        xml("huge name", filled("<d k='1'><", "n", "/></d>")),
        xml(
            "many case blocks",
            filled("<d>", "<case><case_id>1</case_id></case>", "</d>"),
        ),
    ]
}

/// Bytes that are no text.
fn encodings() -> Vec<Seed> {
    let refused = "C2S-2002";
    let declared = |encoding: &str, body: &[u8]| {
        let mut bytes = format!("<?xml version='1.0' encoding='{encoding}'?>").into_bytes();
        bytes.extend_from_slice(body);
        bytes
    };
    vec![
        attack("invalid UTF-8", refused, b"<d k='1'>\xff\xfe</d>".as_slice()),
        attack("truncated UTF-8", refused, b"<d k='1'>\xe6\x97</d>".as_slice()),
        attack("overlong UTF-8", refused, b"<d k='1'>\xc0\xbc</d>".as_slice()),
        attack("surrogate in UTF-8", refused, b"<d k='1'>\xed\xa0\x80</d>".as_slice()),
        attack(
            "lone surrogate in UTF-16",
            refused,
            b"\xff\xfe<\0d\0>\0\0\xd8<\0/\0d\0>\0".as_slice(),
        ),
        attack("odd length in UTF-16", refused, b"\xfe\xff\0<\0d\0/\0>\0".as_slice()),
        attack(
            "UTF-32",
            refused,
            b"\xff\xfe\0\0<\0\0\0d\0\0\0/\0\0\0>\0\0\0".as_slice(),
        ),
        attack("declared UTF-16, is not", refused, declared("utf-16", b"<d k='1'/>")),
        attack("unknown encoding", refused, declared("x-made-up", b"<d k='1'/>")),
        attack("UTF-7", refused, declared("utf-7", b"<d k='1'>+ADw-x+AD4-</d>")),
        attack("not ASCII", refused, declared("us-ascii", b"<d k='1'>\xe9</d>")),
        attack("NUL in text", refused, b"<d k='1'>a\0b</d>".as_slice()),
        attack("NUL in an attribute", refused, b"<d k='a\0b'/>".as_slice()),
        attack("NUL in a name", refused, b"<d\0 k='1'/>".as_slice()),
        attack("NULs", refused, vec![0; MAX_INPUT_BYTES]),
        attack("NUL by reference", "C2S-2001", "<d k='&#0;'/>"),
        attack("control character", refused, b"<d k='1'>\x0b</d>".as_slice()),
        attack("character that is none", refused, "<d k='1'>\u{fffe}</d>"),
        xml("UTF-16", b"\xff\xfe<\0d\0 \0k\0=\0'\x001\0'\0/\0>\0".as_slice()),
    ]
}

/// What is never closed, or not allowed where it stands.
fn structures() -> Vec<Seed> {
    let malformed = "C2S-2001";
    vec![
        attack("nothing", malformed, ""),
        attack("comments that never end", malformed, filled("<d>", "<!--", "")),
        attack("CDATA that never ends", malformed, filled("<d>", "<![CDATA[", "")),
        attack("instructions that never end", malformed, filled("<d>", "<?x ", "")),
        attack("tags that never end", malformed, filled("<d>", "<a ", "")),
        attack("attribute that never ends", malformed, filled("<d k='", "x", "")),
        attack("ampersands", malformed, filled("<d k='1'>", "&", "</d>")),
        attack("ampersands in an attribute", malformed, filled("<d k='", "&", "'/>")),
        attack(
            "references without end",
            malformed,
            filled("<d k='1'>", "&#9999999999", "</d>"),
        ),
        attack("ends of CDATA", malformed, filled("<d k='1'>", "]]>", "</d>")),
        attack("closing tags", malformed, filled("<d>", "</d>", "")),
        attack("roots", malformed, filled("", "<d k='1'/>", "")),
        attack(
            "declarations",
            malformed,
            filled("", "<?xml version='1.0'?>", "<d k='1'/>"),
        ),
        attack("prefix that is not declared", malformed, "<p:d k='1'/>"),
        attack("instruction inside the root", "C2S-2005", "<d k='1'><?x?></d>"),
        attack("root of text", "C2S-2006", "<d>text</d>"),
        attack(
            "case without id",
            "C2S-2015",
            "<d><case xmlns='http://commcarehq.org/case/transaction/v2' case_id=''/></d>",
        ),
        attack(
            "date before all years",
            "C2S-2010",
            "<d><a>0001-01-01T00:00:00+23:59</a></d>",
        ),
        attack(
            "infinite stock",
            "C2S-2043",
            "<d><balance xmlns='http://commcarehq.org/ledger/v1' entity-id='c' section-id='s'><entry id='p' quantity='1e999'/></balance></d>",
        ),
    ]
}

/// JSON and dates.
fn documents() -> Vec<Seed> {
    let document = |name, text: String| Seed {
        input: Input {
            kind: Kind::Json,
            bytes: text.into_bytes(),
        },
        ..xml(name, "")
    };
    let nested = |open: &str, close: &str| format!("{}null{}", open.repeat(120), close.repeat(120));
    vec![
        document(
            "form as a document",
            r##"{"@xmlns":"F","@{http://x}foo":"1","a":["1",""," "],"g":{"h":{"@xmlns":"G","#text":"x"}},"case":[{"@xmlns":"http://commcarehq.org/case/transaction/v2","@case_id":"c","@date_modified":"2015-08-04T18:25:56.000000Z","update":{"p":"1"}}],"meta":{"userID":"u"},"#type":"data"}"##.to_owned(),
        ),
        document("deep objects", nested("{\"a\":", "}")),
        document("deep lists", nested("[", "]")),
        document("many empty objects", format!("{{\"a\":[{}{{}}]}}", "{},".repeat(50_000))),
        document(
            "prefixes without end",
            format!("{{{}\"#type\":\"d\"}}", (0..2_000).map(|number| format!("\"@{{u{number}}}a\":\"\",")).collect::<String>()),
        ),
        document("not an object", "5".to_owned()),
        Seed {
            input: Input {
                kind: Kind::Dates,
                bytes: b"2015-08-04T18:25:56.656+02\n2015-08-014\n08/14/15 18:25:56\n2015\n0001-01-01T00:00:00+05:00\n".to_vec(),
            },
            ..xml("dates", "")
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code with which a form is refused by what a worker does with it.
    fn refusal(bytes: &[u8]) -> Option<&'static str> {
        let form = match xform::read_form(bytes) {
            Ok(form) => form,
            Err(error) => return Some(error.code()),
        };
        if let Err(error) = xform::case_updates(&form.body) {
            return Some(error.code());
        }
        form.ledgers
            .instructions(chrono::Utc::now())
            .err()
            .map(|error| error.code())
    }

    #[test]
    fn every_attack_is_refused_and_nothing_else() {
        for seed in all().iter().filter(|seed| seed.input.kind == Kind::Xml) {
            assert!(seed.input.bytes.len() <= MAX_INPUT_BYTES, "{}", seed.name);
            assert_eq!(refusal(&seed.input.bytes), seed.refused, "{}", seed.name);
        }
    }

    #[test]
    fn attacks_beyond_the_largest_input_are_refused() {
        let huge = |length: usize| "x".repeat(length);
        for (name, form) in [
            (
                "attribute as libxml2 takes none",
                format!("<d k='{}'/>", huge(10_000_001)),
            ),
            (
                "text as libxml2 takes none",
                format!("<d k=''>{}</d>", huge(10_000_001)),
            ),
            ("form", format!("<d k=''>{}</d>", " ".repeat(33 << 20))),
        ] {
            assert_eq!(refusal(form.as_bytes()), Some("C2S-2004"), "{name}");
        }
        let fits = format!("<d k='{}'/>", huge(10_000_000));
        assert_eq!(refusal(fits.as_bytes()), None);
    }
}
