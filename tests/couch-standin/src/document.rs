//! Documents: kept as the JSON text they came in, without the members that belong to CouchDB.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hasher;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::attachment::{Attachment, AttachmentForm, GivenAttachment, push_text};

/// A revision: `generation-hash`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Revision(Box<str>);

impl Revision {
    /// Reads a revision that a client sent.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (generation, hash) = text.split_once('-')?;
        generation.parse::<u32>().ok().filter(|_| !hash.is_empty())?;
        Some(Self(text.into()))
    }

    /// The revision that follows `parent`. The same edit of the same parent always gives the same one.
    fn next(parent: Option<&Self>, content: &Incoming, attachments: &BTreeMap<String, Attachment>) -> Self {
        let mut hasher = SipHasher13::new();
        hasher.write(parent.map_or(b"", |parent| parent.0.as_bytes()));
        hasher.write_u8(u8::from(content.deleted));
        hasher.write(&content.body);
        for (name, attachment) in attachments {
            hasher.write(name.as_bytes());
            hasher.write(attachment.digest.as_bytes());
        }
        let generation = parent.map_or(0, Self::generation) + 1;
        Self(format!("{generation}-{}", hex::encode(hasher.finish128().as_bytes())).into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn generation(&self) -> u32 {
        self.0
            .split_once('-')
            .and_then(|(generation, _)| generation.parse().ok())
            .unwrap_or(0)
    }

    /// What decides between two revisions when both are alive, or both deleted.
    pub(crate) fn order(&self) -> (u32, &str) {
        (self.generation(), self.0.split_once('-').map_or("", |(_, hash)| hash))
    }
}

/// A stored document, alive or deleted.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) id: Arc<str>,
    pub(crate) revision: Revision,
    pub(crate) deleted: bool,
    /// Place in the changes feed.
    pub(crate) sequence: u64,
    /// A JSON object without CouchDB's own members.
    pub(crate) body: Box<[u8]>,
    pub(crate) attachments: BTreeMap<String, Attachment>,
}

impl Document {
    /// Appends the document as CouchDB sends it.
    pub(crate) fn render(&self, form: AttachmentForm, out: &mut Vec<u8>) {
        out.reserve(self.body.len() + self.id.len() + 80);
        out.extend_from_slice(b"{\"_id\":");
        push_text(&self.id, out);
        out.extend_from_slice(b",\"_rev\":\"");
        out.extend_from_slice(self.revision.as_str().as_bytes());
        out.push(b'"');
        if self.body.len() > 2 {
            out.push(b',');
            out.extend_from_slice(&self.body[1..self.body.len() - 1]);
        }
        if self.deleted {
            out.extend_from_slice(b",\"_deleted\":true");
        }
        if !self.attachments.is_empty() {
            out.extend_from_slice(b",\"_attachments\":{");
            for (at, (name, attachment)) in self.attachments.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                attachment.render(name, form, out);
            }
            out.push(b'}');
        }
        out.push(b'}');
    }

    pub(crate) fn to_json(&self, form: AttachmentForm) -> Vec<u8> {
        let mut out = Vec::new();
        self.render(form, &mut out);
        out
    }
}

/// Why a document or a request to write one is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadDocument {
    /// The text is not JSON.
    #[error("invalid UTF-8 JSON")]
    NotJson,
    /// The text is JSON, but no object.
    #[error("Document must be a JSON object")]
    NotAnObject,
    /// A member begins with an underscore and is none of CouchDB's own.
    #[error("Bad special document member: {0}")]
    SpecialMember(String),
    /// `_rev` is no revision.
    #[error("Invalid rev format")]
    Revision,
    /// `_id` is no string, is empty, or begins with an underscore.
    #[error("Only reserved document ids may start with underscore.")]
    Id,
    /// An attachment has neither data nor a stub.
    #[error("Attachment data is missing or invalid: {0}")]
    Attachment(String),
}

/// A document as a writer gives it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Incoming {
    pub(crate) id: Option<String>,
    pub(crate) revision: Option<Revision>,
    pub(crate) deleted: bool,
    pub(crate) body: Box<[u8]>,
    pub(crate) attachments: BTreeMap<String, GivenAttachment>,
}

impl Incoming {
    /// A tombstone.
    pub(crate) fn deletion(revision: Option<Revision>) -> Self {
        Self {
            revision,
            deleted: true,
            body: Box::from(&b"{}"[..]),
            ..Self::default()
        }
    }

    /// The same content again, with all its attachments: the start of an edit of one attachment.
    pub(crate) fn again(document: &Document) -> Self {
        Self {
            id: Some(document.id.to_string()),
            revision: Some(document.revision.clone()),
            deleted: false,
            body: document.body.clone(),
            attachments: document
                .attachments
                .keys()
                .map(|name| (name.clone(), GivenAttachment::Stub))
                .collect(),
        }
    }

    /// Reads a document, separating CouchDB's members from the others and dropping insignificant white space.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, BadDocument> {
        // Written to a buffer that stays: a box cut out of a larger allocation would leave a hole behind each
        // document, and the allocator searching holes.
        thread_local! {
            static BODY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        BODY.with_borrow_mut(|body| Self::parse_with(text, body))
    }

    fn parse_with(text: &[u8], body: &mut Vec<u8>) -> Result<Self, BadDocument> {
        let members = members(text)?;
        let mut incoming = Self::default();
        body.clear();
        body.push(b'{');
        for (name, value) in &members {
            let value = value.get();
            if !name.starts_with('_') {
                if body.len() > 1 {
                    body.push(b',');
                }
                push_text(name, body);
                body.push(b':');
                push_compact(value, body);
                continue;
            }
            match &**name {
                "_id" => {
                    let id: String = serde_json::from_str(value).map_err(|_| BadDocument::Id)?;
                    incoming.id = Some(checked_id(id)?);
                }
                "_rev" => {
                    let revision: Cow<'_, str> = serde_json::from_str(value).map_err(|_| BadDocument::Revision)?;
                    incoming.revision = Some(Revision::parse(&revision).ok_or(BadDocument::Revision)?);
                }
                "_deleted" => incoming.deleted = value == "true",
                "_attachments" => incoming.attachments = parse_attachments(value)?,
                "_revisions" | "_revs_info" | "_conflicts" | "_deleted_conflicts" | "_local_seq" => {}
                other => return Err(BadDocument::SpecialMember(other.trim_start_matches('_').to_owned())),
            }
        }
        body.push(b'}');
        incoming.body = Box::from(&body[..]);
        Ok(incoming)
    }

    /// The stored form of this edit of `current`; `Err` names the attachment that is only a stub of nothing.
    pub(crate) fn into_document(
        mut self,
        id: Arc<str>,
        current: Option<&Document>,
        kept_revision: Option<Revision>,
        sequence: u64,
    ) -> Result<Document, String> {
        let old = current.map(|document| &document.attachments);
        let generation = match &kept_revision {
            Some(revision) => revision.generation(),
            None => current.map_or(0, |document| document.revision.generation()) + 1,
        };
        let mut attachments = BTreeMap::new();
        for (name, given) in std::mem::take(&mut self.attachments) {
            let attachment = match given {
                GivenAttachment::Data(attachment) => Attachment {
                    revpos: generation,
                    ..attachment
                },
                GivenAttachment::Stub => match old.and_then(|old| old.get(&name)) {
                    Some(kept) => kept.clone(),
                    None => return Err(name),
                },
            };
            attachments.insert(name, attachment);
        }
        let parent = current.map(|document| &document.revision);
        let revision = kept_revision.unwrap_or_else(|| Revision::next(parent, &self, &attachments));
        Ok(Document {
            id,
            revision,
            deleted: self.deleted,
            sequence,
            body: self.body,
            attachments,
        })
    }
}

/// An id that a document may have.
pub(crate) fn checked_id(id: String) -> Result<String, BadDocument> {
    let reserved = id.strip_prefix("_design/").is_some_and(|name| !name.is_empty());
    if id.is_empty() || (id.starts_with('_') && !reserved) {
        Err(BadDocument::Id)
    } else {
        Ok(id)
    }
}

fn parse_attachments(text: &str) -> Result<BTreeMap<String, GivenAttachment>, BadDocument> {
    let named = members(text.as_bytes()).map_err(|_| BadDocument::Attachment("_attachments".to_owned()))?;
    let parse = |(name, value): (Cow<'_, str>, &RawValue)| match GivenAttachment::parse(value.get()) {
        Some(given) => Ok((name.into_owned(), given)),
        None => Err(BadDocument::Attachment(name.into_owned())),
    };
    named.into_iter().map(parse).collect()
}

/// Copies JSON text without the white space between its tokens.
fn push_compact(text: &str, out: &mut Vec<u8>) {
    let mut in_string = false;
    let mut escaped = false;
    for &byte in text.as_bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            in_string = byte == b'"';
        }
        out.push(byte);
    }
}

/// A JSON object as its member names and the text of each value, in order.
pub(crate) type Members<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

/// Splits an object into its members without building a tree.
pub(crate) fn members(text: &[u8]) -> Result<Members<'_>, BadDocument> {
    match serde_json::from_slice::<SplitObject<'_>>(text) {
        Ok(SplitObject(members)) => Ok(members),
        Err(error) if error.is_data() => Err(BadDocument::NotAnObject),
        Err(_) => Err(BadDocument::NotJson),
    }
}

struct SplitObject<'a>(Members<'a>);

impl<'de> Deserialize<'de> for SplitObject<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(SplitVisitor)
    }
}

struct SplitVisitor;

impl<'de> Visitor<'de> for SplitVisitor {
    type Value = SplitObject<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(MemberName(name)) = map.next_key()? {
            members.push((name, map.next_value()?));
        }
        Ok(SplitObject(members))
    }
}

struct MemberName<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for MemberName<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = MemberName<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(MemberName(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(MemberName(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn content_survives_as_text() {
        let text = br#" {"_id":"f-1", "n" : 1.0, "big":123456789012345678901234567890, "q": "a \" b\\", "_rev":"2-ab", "deep":{"z": [1, 2], "a":"x y"} } "#;
        let incoming = Incoming::parse(text).unwrap();
        assert_eq!(incoming.id.as_deref(), Some("f-1"));
        assert_eq!(incoming.revision.as_ref().unwrap().as_str(), "2-ab");
        assert_eq!(
            std::str::from_utf8(&incoming.body).unwrap(),
            r#"{"n":1.0,"big":123456789012345678901234567890,"q":"a \" b\\","deep":{"z":[1,2],"a":"x y"}}"#
        );
    }

    #[test]
    fn bad_documents_are_told_apart() {
        let kind = |text: &str| Incoming::parse(text.as_bytes()).unwrap_err();
        assert_eq!(kind("{\"a\":"), BadDocument::NotJson);
        assert_eq!(kind("{} x"), BadDocument::NotJson);
        assert_eq!(kind("[1]"), BadDocument::NotAnObject);
        assert_eq!(kind("{\"_foo\":1}"), BadDocument::SpecialMember("foo".to_owned()));
        assert_eq!(kind("{\"_rev\":\"x\"}"), BadDocument::Revision);
        assert_eq!(kind("{\"_id\":\"_x\"}"), BadDocument::Id);
        assert_eq!(
            kind("{\"_attachments\":{\"a\":{}}}"),
            BadDocument::Attachment("a".to_owned())
        );
    }

    #[test]
    fn the_same_edit_gives_the_same_revision() {
        let store = |text: &str, current: Option<&Document>| {
            let incoming = Incoming::parse(text.as_bytes()).unwrap();
            incoming.into_document("d".into(), current, None, 1).unwrap()
        };
        let first = store("{\"a\":1}", None);
        assert_eq!(first.revision, store("{\"a\":1}", None).revision);
        assert_ne!(first.revision, store("{\"a\":2}", None).revision);
        let second = store("{\"a\":1}", Some(&first));
        assert_eq!(second.revision.generation(), 2);
        assert_eq!(first.revision.as_str().len(), "1-".len() + 32);
    }
}
