//! Forms that a migration cannot simply take: each with what must come of it. They belong beside a generated domain, whose
//! expected rows they do not change.

use serde_json::{Map, Value, json};

use crate::block::{Property, V2_NAMESPACE};
use crate::case::{Touch, rows};
use crate::element::Element;
use crate::form::{Form, Layout};
use crate::model::{ExpectedBlobMeta, ExpectedCase};
use crate::options::Options;
use crate::questions::REMARKS_QUESTION;
use crate::story::{Story, users};
use crate::stream::{Piece, domain_seed, mix};

/// A form that cannot simply be taken.
#[derive(Clone, Debug)]
pub struct Malformed {
    /// What is wrong, for the messages of a test.
    pub fault: &'static str,
    /// Id of the form.
    pub form_id: String,
    /// Its Couch documents.
    pub docs: Vec<Value>,
    /// Its blobs.
    pub blobs: Vec<(String, Vec<u8>)>,
    /// Blob metadata that exists before the migration.
    pub blobmeta: Vec<ExpectedBlobMeta>,
    /// What must come of it.
    pub outcome: Outcome,
}

/// What must come of a malformed form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No row of the form, no effect on any case; the form is recorded with its error.
    Refused,
    /// CommCare rebuilds the XML from the Couch JSON and takes the form.
    RebuiltFromJson,
    /// Belongs to another domain: nothing of it may be written or reported as this domain's.
    NotOurs,
}

/// All forms of this module that stand alone.
pub fn all(options: &Options) -> Vec<Malformed> {
    vec![
        broken_xml(options),
        truncated_xml(options),
        missing_blob(options),
        lost_xml(options),
        unknown_block_namespace(options),
        empty_case_id(options),
        unreadable_date(options),
        index_without_type(options),
        unknown_relationship(options),
        unreadable_opening_date(options),
        nested_too_deeply(options),
        object_as_date(options),
    ]
}

/// The XML blob is not XML.
pub fn broken_xml(options: &Options) -> Malformed {
    let mut malformed = malformed(options, "broken XML", 1, Outcome::Refused, |_| {});
    malformed.blobs[0].1 = b"<data><unclosed></data>".to_vec();
    malformed
}

/// The XML blob ends in the middle.
pub fn truncated_xml(options: &Options) -> Malformed {
    let mut malformed = malformed(options, "truncated XML", 2, Outcome::Refused, |form| {
        form.questions[0] = Element::leaf(REMARKS_QUESTION, "አበበ".repeat(100));
    });
    let bytes = &mut malformed.blobs[0].1;
    bytes.truncate(bytes.len() / 2);
    malformed
}

/// The XML blob is gone, and the JSON has what XML cannot be rebuilt from: a null.
pub fn missing_blob(options: &Options) -> Malformed {
    let mut malformed = malformed(options, "missing blob", 3, Outcome::Refused, |_| {});
    malformed.docs[0]["form"][REMARKS_QUESTION] = Value::Null;
    malformed.blobs.clear();
    malformed
}

/// The XML blob is gone, but can be rebuilt from the JSON.
pub fn lost_xml(options: &Options) -> Malformed {
    let mut malformed = malformed(options, "lost XML", 4, Outcome::RebuiltFromJson, |form| {
        form.questions.truncate(1);
        form.layout = Layout::Root;
    });
    malformed.blobs.clear();
    malformed
}

/// A case block in a namespace that is neither version's.
pub fn unknown_block_namespace(options: &Options) -> Malformed {
    with_block(options, "unknown namespace of a case block", 5, |form| {
        block_element(form, "http://commcarehq.org/case/transaction/v3", "a-case")
    })
}

/// A case block with an empty case id in a form that is said to be normal.
pub fn empty_case_id(options: &Options) -> Malformed {
    with_block(options, "empty case id", 6, |form| {
        block_element(form, V2_NAMESPACE, "")
    })
}

/// A `date_modified` that is no date.
pub fn unreadable_date(options: &Options) -> Malformed {
    with_block(options, "unreadable date_modified", 7, |_| {
        Element::new("case")
            .namespace(V2_NAMESPACE, None)
            .attribute("case_id", "a-case")
            .attribute("date_modified", "the day before yesterday")
            .child(Element::new("update").child(Element::leaf("weight", "1")))
    })
}

/// An index entry without `case_type`.
pub fn index_without_type(options: &Options) -> Malformed {
    with_block(options, "index without a case type", 8, |form| {
        block_element(form, V2_NAMESPACE, "a-case")
            .child(Element::new("index").child(Element::leaf("parent", "b-case")))
    })
}

/// An index of a relationship that does not exist.
pub fn unknown_relationship(options: &Options) -> Malformed {
    with_block(options, "unknown relationship", 9, |form| {
        let entry = Element::leaf("parent", "b-case").attribute("case_type", "household");
        block_element(form, V2_NAMESPACE, "a-case")
            .child(Element::new("index").child(entry.attribute("relationship", "cousin")))
    })
}

/// A `date_opened` that is no date.
pub fn unreadable_opening_date(options: &Options) -> Malformed {
    with_block(options, "unreadable date_opened", 10, |form| {
        block_element(form, V2_NAMESPACE, "a-case").child(
            Element::new("create")
                .child(Element::leaf("case_type", "person"))
                .child(Element::leaf("case_name", "x"))
                .child(Element::leaf("date_opened", "some day")),
        )
    })
}

/// XML that may be taken, of a Couch document with more levels than a JSON parser takes.
pub fn nested_too_deeply(options: &Options) -> Malformed {
    malformed(options, "200 levels", 14, Outcome::Refused, |form| {
        let innermost = Element::leaf("g", "1");
        let nested = (0..200).fold(innermost, |inner, _| Element::new("g").child(inner));
        form.questions.push(nested);
    })
}

/// An object in place of the date by which the view lists the form.
pub fn object_as_date(options: &Options) -> Malformed {
    let mut malformed = malformed(options, "object as date", 15, Outcome::Refused, |_| {});
    malformed.docs[0]["received_on"] = json!({"a": 1});
    malformed
}

/// Documents whose ids no database can hold or index: a form and a case of 3,000 letters, and a form with U+0000.
pub fn unusable_ids(options: &Options) -> Vec<Value> {
    let long = |seed: u64| -> String {
        let letter = |place: u64| char::from(b'a' + u8::try_from(mix(seed, place) % 26).unwrap_or(0));
        (0..3000).map(letter).collect()
    };
    let form = malformed(options, "unusable id", 16, Outcome::Refused, |_| {})
        .docs
        .remove(0);
    let with_id = |id: String| {
        let mut doc = form.clone();
        doc["_id"] = Value::String(id);
        doc
    };
    vec![
        with_id(long(1)),
        with_id("with\0zero".to_owned()),
        json!({"_id": long(2), "doc_type": "CommCareCase", "domain": options.domain, "opened_on": "2019-03-02T08:15:00Z"}),
    ]
}

/// A sound form of another domain in the same database.
pub fn other_domain(options: &Options) -> Malformed {
    let other = Options {
        domain: format!("{}-neighbour", options.domain),
        ..options.clone()
    };
    malformed(&other, "document of another domain", 11, Outcome::NotOurs, |_| {})
}

/// A sound form that updates a case of another domain, and that case as it must stand in the target beforehand and
/// unchanged afterwards.
pub fn case_of_other_domain(options: &Options) -> (Malformed, Vec<ExpectedCase>) {
    let mut foreign = Vec::new();
    let malformed = malformed(options, "case of another domain", 12, Outcome::Refused, |form| {
        for block in &form.blocks {
            let history = [Touch::by_block(form, block)];
            foreign.push(rows(
                &format!("{}-neighbour", options.domain),
                &block.case_id,
                &history,
                None,
            ));
        }
    });
    (malformed, foreign)
}

/// One visit that updates a case of its own, spoiled by `spoil`.
fn malformed(
    options: &Options,
    fault: &'static str,
    number: u64,
    outcome: Outcome,
    mut spoil: impl FnMut(&mut Form),
) -> Malformed {
    let seed = mix(domain_seed(options), !number);
    let users = users(domain_seed(options));
    let mut options = options.clone();
    // Blob metadata is there, and the forms stand alone in time.
    options.weights.missing_blobmeta = 0.0;
    options.weights.legacy = 0.0;
    options.weights.ties = 0.0;
    let mut story = Story::new(&options, &users, seed, 1);
    let user = story.pick_user();
    let mut form = story.form("Visit", user.clone());
    let case_id = story.open("person", &user);
    let mut block = story.block(&form, &case_id);
    block
        .update
        .dynamic
        .push(("weight".to_owned(), Property::Text("3.2".into())));
    form.blocks.push(block);
    spoil(&mut form);
    let form_id = form.id.clone();
    let mut piece = Piece::default();
    form.emit(&options, &mut story.rng, &mut piece);
    Malformed {
        fault,
        form_id,
        docs: piece.docs,
        blobs: piece.blobs,
        blobmeta: piece.blobmeta,
        outcome,
    }
}

/// A visit with a further, faulty case block.
fn with_block(options: &Options, fault: &'static str, number: u64, block: impl Fn(&Form) -> Element) -> Malformed {
    malformed(options, fault, number, Outcome::Refused, |form| {
        let element = block(form);
        form.questions.push(Element::new("spoiled").child(element));
    })
}

fn block_element(form: &Form, namespace: &str, case_id: &str) -> Element {
    Element::new("case")
        .namespace(namespace, None)
        .attribute("case_id", case_id)
        .attribute("date_modified", form.ended)
        .attribute("user_id", form.meta_user().unwrap_or_default())
        .child(Element::new("update").child(Element::leaf("weight", "1")))
}

/// A document without a form body: neither JSON nor blob.
pub fn empty_document(options: &Options) -> Malformed {
    let mut malformed = malformed(options, "empty document", 13, Outcome::Refused, |_| {});
    if let Some(doc) = malformed.docs[0].as_object_mut() {
        doc.insert("form".to_owned(), json!({}));
        doc.insert("external_blobs".to_owned(), Value::Object(Map::new()));
    }
    malformed.blobs.clear();
    malformed.blobmeta.clear();
    malformed
}
