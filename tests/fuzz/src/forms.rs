//! Forms that are mostly well-formed, and texts that are nearly dates.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::inputs::MAX_INPUT_BYTES;

const NAMES: &[&str] = &[
    "a",
    "b",
    "q1",
    "group",
    "item",
    "name",
    "Meta",
    "meta",
    "case",
    "case_id",
    "update",
    "create",
    "close",
    "index",
    "attachment",
    "case_name",
    "case_type",
    "owner_id",
    "date_opened",
    "date_modified",
    "uid",
    "instanceID",
    "userID",
    "timeStart",
    "TimeEnd",
    "balance",
    "transfer",
    "entry",
    "value",
    "été",
    "_x-y.z",
];
const ATTRIBUTES: &[&str] = &[
    "a",
    "case_id",
    "case_type",
    "relationship",
    "user_id",
    "date_modified",
    "src",
    "dest",
    "from",
    "name",
    "date",
    "section-id",
    "entity-id",
    "id",
    "quantity",
    "type",
    "xml:lang",
];
const NAMESPACES: &[&str] = &[
    "http://openrosa.org/formdesigner/x",
    "http://commcarehq.org/case/transaction/v2",
    "http://commcarehq.org/ledger/v1",
    "http://code.javarosa.org/devicereport",
    "http://openrosa.org/jr/xforms",
    "",
];
const TEXTS: &[&str] = &[
    "",
    " ",
    "\n\t",
    "1",
    "c-1",
    "stock",
    "child",
    "extension",
    "inf",
    "1e999",
    "-2.5",
    "٣",
    "&amp;",
    "&#x1F600;",
    "&lt;&gt;",
    "<![CDATA[<&]]>",
    "<!-- c -->",
    "é日😀",
    "\u{a0}",
    "]]&gt;",
    "case_id",
    "&#13;",
    "yes",
    "1.0",
];

fn pick<'x>(rng: &mut StdRng, from: &[&'x str]) -> &'x str {
    from.choose(rng).copied().unwrap_or_default()
}

/// A form of some hundred bytes, seldom of up to the largest input.
pub(crate) fn form(rng: &mut StdRng) -> Vec<u8> {
    let size = if rng.random_bool(0.03) {
        rng.random_range(0..MAX_INPUT_BYTES)
    } else {
        1 << rng.random_range(6..14)
    };
    let mut writer = Writer {
        rng,
        xml: String::new(),
        size,
    };
    writer.form();
    let xml = writer.xml;
    encoded(rng, &xml)
}

struct Writer<'r> {
    rng: &'r mut StdRng,
    xml: String,
    /// No element is begun once the text is as long as this.
    size: usize,
}

impl Writer<'_> {
    fn form(&mut self) {
        if self.rng.random_bool(0.3) {
            self.xml.push_str("<?xml version='1.0' ?>\n");
        }
        let namespace = if self.rng.random_bool(0.8) {
            NAMESPACES[0]
        } else {
            pick(self.rng, NAMESPACES)
        };
        self.xml.push_str(&format!(
            "<data xmlns=\"{namespace}\" xmlns:l=\"{}\" xmlns:c=\"{}\" uiVersion=\"1\"",
            NAMESPACES[2], NAMESPACES[1]
        ));
        self.attributes(0.2);
        self.xml.push('>');
        loop {
            self.part(1);
            if self.xml.len() >= self.size || self.rng.random_bool(0.02) {
                break;
            }
        }
        self.xml.push_str("</data>");
        if self.rng.random_bool(0.1) {
            self.xml.push_str("\n<!-- after --><?pi?>");
        }
    }

    fn part(&mut self, depth: usize) {
        match self.rng.random_range(0..20) {
            0..3 => self.case_block(),
            3..5 => self.ledger_block(),
            5 => self.meta(),
            6..9 if depth < 300 => self.group(depth),
            // Rarely a form that HQ's conversion fails on.
            9 if self.rng.random_bool(0.01) => self.xml.push_str("<?inside x?>"),
            _ => self.leaf(),
        }
    }

    fn group(&mut self, depth: usize) {
        let name = pick(self.rng, NAMES);
        self.xml.push_str(&format!("<{name}"));
        self.attributes(0.3);
        self.xml.push('>');
        if self.rng.random_bool(0.2) {
            self.text();
        }
        while self.xml.len() < self.size && self.rng.random_bool(0.85) {
            self.part(depth + 1);
        }
        self.xml.push_str(&format!("</{name}>"));
    }

    fn leaf(&mut self) {
        let name = pick(self.rng, NAMES);
        self.xml.push_str(&format!("<{name}"));
        self.attributes(0.2);
        if self.rng.random_bool(0.3) {
            self.xml.push_str("/>");
            return;
        }
        self.xml.push('>');
        self.text();
        self.xml.push_str(&format!("</{name}>"));
    }

    fn attributes(&mut self, chance: f64) {
        let mut given: Vec<&str> = Vec::new();
        while self.rng.random_bool(chance) {
            let name = pick(self.rng, ATTRIBUTES);
            if given.contains(&name) {
                break;
            }
            given.push(name);
            let value = self.value();
            self.xml.push_str(&format!(" {name}=\"{value}\""));
        }
        if self.rng.random_bool(chance / 4.0) {
            let namespace = pick(self.rng, NAMESPACES);
            self.xml.push_str(&format!(" xmlns=\"{namespace}\""));
        }
    }

    /// Text that may stand in an attribute.
    fn value(&mut self) -> String {
        if self.rng.random_bool(0.3) {
            return date(self.rng);
        }
        let text = pick(self.rng, TEXTS);
        if text.contains('<') {
            String::new()
        } else {
            text.to_owned()
        }
    }

    fn text(&mut self) {
        for _ in 0..self.rng.random_range(1..4) {
            let text = if self.rng.random_bool(0.2) {
                date(self.rng)
            } else {
                pick(self.rng, TEXTS).to_owned()
            };
            self.xml.push_str(&text);
        }
    }

    fn case_block(&mut self) {
        let id = self.rng.random_range(0..5);
        let date = if self.rng.random_bool(0.9) {
            "2015-08-04T18:25:56.656Z".to_owned()
        } else {
            date(self.rng)
        };
        let version_1 = self.rng.random_bool(0.2);
        let head = if version_1 {
            format!("<case xmlns=\"\"><case_id>c{id}</case_id><date_modified>{date}</date_modified>")
        } else {
            format!(
                "<case xmlns=\"{}\" case_id=\"c{id}\" user_id=\"u\" date_modified=\"{date}\">",
                NAMESPACES[1]
            )
        };
        self.xml.push_str(&head);
        for part in ["create", "update", "close", "index", "attachment"] {
            if self.rng.random_bool(0.4) {
                self.xml.push_str(&format!("<{part}>"));
                for _ in 0..self.rng.random_range(0..4) {
                    self.case_entry(part);
                }
                self.xml.push_str(&format!("</{part}>"));
            }
        }
        self.xml.push_str("</case>");
    }

    fn case_entry(&mut self, part: &str) {
        let number = self.rng.random_range(0..9);
        match part {
            "index" if self.rng.random_bool(0.95) => self.xml.push_str(&format!(
                "<i{number} case_type=\"t\" relationship=\"extension\">c{number}</i{number}>"
            )),
            "attachment" if self.rng.random_bool(0.9) => {
                self.xml.push_str(&format!("<f{number} src=\"p.jpg\" from=\"local\"/>"));
            }
            _ => self.leaf(),
        }
    }

    fn ledger_block(&mut self) {
        let is_balance = self.rng.random_bool(0.5);
        let name = if is_balance { "l:balance" } else { "l:transfer" };
        self.xml.push_str(&format!("<{name}"));
        let sides: &[(&str, &str)] = if is_balance {
            &[("entity-id", "c1")]
        } else {
            &[("src", "c1"), ("dest", "c2")]
        };
        for (side, case_id) in sides {
            if self.rng.random_bool(0.9) {
                self.xml.push_str(&format!(" {side}=\"{case_id}\""));
            }
        }
        for attribute in ["section-id", "type"] {
            if self.rng.random_bool(0.5) {
                self.xml.push_str(&format!(" {attribute}=\"stock\""));
            }
        }
        let date = date(self.rng);
        if self.rng.random_bool(0.1) {
            self.xml.push_str(&format!(" date=\"{date}\""));
        }
        self.xml.push('>');
        for entry in 0..self.rng.random_range(0..5) {
            self.xml.push_str(&format!("<l:entry id=\"p{entry}\""));
            if self.rng.random_bool(0.6) {
                self.xml.push_str(&format!(" quantity=\"{}\"/>", entry * 3));
                continue;
            }
            self.xml.push('>');
            for section in 0..self.rng.random_range(0..3) {
                let quantity = pick(self.rng, &["1", "2.5", "", "x", "1e3", "1e999", "nan", "-0"]);
                let value = format!("<l:value section-id=\"s{section}\" quantity=\"{quantity}\"/>");
                self.xml.push_str(&value);
            }
            self.xml.push_str("</l:entry>");
        }
        self.xml.push_str(&format!("</{name}>"));
    }

    fn meta(&mut self) {
        let (start, end) = (date(self.rng), date(self.rng));
        self.xml.push_str(&format!(
            "<meta xmlns=\"{}\"><instanceID>i</instanceID><userID>u</userID><timeStart>{start}</timeStart>\
             <TimeEnd>{end}</TimeEnd>",
            NAMESPACES[4]
        ));
        self.leaf();
        self.xml.push_str("</meta>");
    }
}

/// A few short pieces of markup, over and over: what takes the most memory for its size.
pub(crate) fn dense(rng: &mut StdRng) -> Vec<u8> {
    const PIECES: &[&str] = &[
        "<b/>",
        "<c/>",
        "<b></b>",
        "<a b=''/>",
        "<c d=\"\"/>",
        "<a><b/></a>",
        "<a>1</a>",
        "<a> <b/></a>",
        "&lt;",
        "&#1114111;",
        "<!---->",
        "<![CDATA[]]>",
        "<p:b/>",
        "<b p:a=''/>",
        "<b xmlns=''/>",
        "<b xmlns='u'/>",
        "<l:balance src='1'/>",
        "<l:transfer src='1' dest='2' section-id='s'><entry id='1' quantity='1e308'/></l:transfer>",
        "\"",
        ">",
        "x",
        "é",
        "<case><case_id>1</case_id></case>",
        "<case><case_id>1</case_id><update><a/></update></case>",
    ];
    let deep = if rng.random_bool(0.2) {
        rng.random_range(0..260)
    } else {
        0
    };
    let size = if rng.random_bool(0.5) {
        MAX_INPUT_BYTES
    } else {
        rng.random_range(0..MAX_INPUT_BYTES)
    };
    let namespace = "u".repeat(if rng.random_bool(0.2) {
        rng.random_range(1..100_000)
    } else {
        1
    });
    let mut xml = format!(
        "<data xmlns:p='{namespace}' xmlns:l='{}' k='{}'>{}",
        NAMESPACES[2],
        if rng.random_bool(0.2) {
            "\"".repeat(rng.random_range(0..200_000))
        } else {
            String::new()
        },
        "<g>".repeat(deep)
    );
    let end = format!("{}</data>", "</g>".repeat(deep));
    let mut round = String::new();
    for _ in 0..rng.random_range(1..=4) {
        round.push_str(pick(rng, PIECES));
    }
    let unique = rng.random_bool(0.2);
    let attributes = rng.random_bool(0.1);
    if attributes {
        xml.push_str("<many");
    }
    let mut number = 0;
    while xml.len() + round.len() + end.len() + 16 < size {
        match (attributes, unique) {
            (true, _) => xml.push_str(&format!(" a{number:x}=''")),
            (false, true) => xml.push_str(&format!("<n{number:x}/>")),
            (false, false) => xml.push_str(&round),
        }
        number += 1;
    }
    if attributes {
        xml.push_str("/>");
    }
    xml.push_str(&end);
    xml.into_bytes()
}

/// Mostly a date-time, in one of the many ways of writing it, or something near one.
pub(crate) fn date(rng: &mut StdRng) -> String {
    if rng.random_bool(0.5) {
        return format!(
            "20{:02}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}+0{}:30",
            rng.random_range(0..40),
            rng.random_range(1..=12),
            rng.random_range(1..=28),
            rng.random_range(0..24),
            rng.random_range(0..60),
            rng.random_range(0..60),
            rng.random_range(0..1000),
            rng.random_range(0..10)
        );
    }
    const PARTS: [&[&str]; 10] = [
        &["2015", "0001", "9999", "0000", "201", "12015", "٢٠١٥", "08"],
        &["-", "", "/", " ", "–"],
        &["08", "8", "13", "00", "014"],
        &["-", "", "/", " "],
        &["04", "4", "31", "00", "2015", "15"],
        &["T", " ", "", "t", "  "],
        &[
            "18:25:56", "18:25", "1825", "182556", "18", "24:00:00", "18:25:60", "18.25.56", "",
        ],
        &["", ".656", ",656", ".5", ".1234567", ".", ".123456"],
        &[
            "", "Z", "z", "+05:30", "-0530", "+05", "+24:00", "+05:75", " +05:30", "+00:00Z",
        ],
        &["", "", "", "\n", " "],
    ];
    PARTS.iter().map(|choices| pick(rng, choices)).collect()
}

/// Lines of dates.
pub(crate) fn dates(rng: &mut StdRng) -> String {
    let count = if rng.random_bool(0.02) { 20_000 } else { 200 };
    (0..count).map(|_| date(rng).replace('\n', " ") + "\n").collect()
}

/// The text in one of the encodings of submissions.
fn encoded(rng: &mut StdRng, xml: &str) -> Vec<u8> {
    match rng.random_range(0..30) {
        0 => [0xfe, 0xff]
            .into_iter()
            .chain(xml.encode_utf16().flat_map(u16::to_be_bytes))
            .collect(),
        1 => [0xff, 0xfe]
            .into_iter()
            .chain(xml.encode_utf16().flat_map(u16::to_le_bytes))
            .collect(),
        2 => [0xef, 0xbb, 0xbf].into_iter().chain(xml.bytes()).collect(),
        3 => {
            let latin: Vec<u8> = xml.chars().filter_map(|c| u8::try_from(u32::from(c)).ok()).collect();
            let head = b"<?xml version='1.0' encoding='iso-8859-1'?>".as_slice();
            [head, latin.strip_prefix(b"<?xml version='1.0' ?>").unwrap_or(&latin)].concat()
        }
        _ => xml.as_bytes().to_vec(),
    }
}
