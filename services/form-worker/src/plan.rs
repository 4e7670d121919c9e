//! What is to be done for the blobs of a form, decided from what was read of it: pure functions over plain data.

use std::collections::{HashMap, HashSet};

use blobs::{BlobRef, FORM_XML};
use bytes::Bytes;
use formmodel::Treatment;
use hqsql::BlobRetype;
use proto::doctype::DocType;
use proto::effects::AttachmentFacts;
use proto::ids::Domain;
use proto::rows::{BLOB_FORM_ATTACHMENT, BLOB_FORM_XML, BlobMetaRow};
use serde_json::Value;
use state::blob_change::BlobOrigin;
use state::lost_forms::LOST_REV;
use uuid::Uuid;

/// Namespace of the blob keys that are derived here.
const KEY_NAMESPACE: Uuid = Uuid::from_u128(0x6d0c_7a55_5d2f_4b0e_9c57_0a4f_d8a1_3b21);

/// A document that was read, with what is to become of it.
pub(crate) struct Candidate {
    pub(crate) doc_id: String,
    pub(crate) rev: String,
    pub(crate) doc_type: DocType,
    pub(crate) document: Value,
    /// Bytes of `form.xml`, plain; empty for cases.
    pub(crate) xml: Bytes,
    /// Attachments other than `form.xml`, as their metadata describes them.
    pub(crate) attachments: Vec<AttachmentFacts>,
    /// Metadata rows that are to be inserted, without their date: that is the document's first staging.
    pub(crate) missing_meta: Vec<NewMeta>,
    /// Metadata rows whose type is to be corrected.
    pub(crate) retypes: Vec<BlobRetype>,
    /// Keys of metadata rows that are to be removed, since their blobs are nowhere.
    pub(crate) dangling: Vec<String>,
    /// Whether its own word is taken for whether it was applied.
    pub(crate) treatment: Treatment,
    /// Some of its attachments are nowhere, and their lengths are unknown, so that they get no row.
    pub(crate) lacks_attachments: bool,
}

/// A metadata row to be inserted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewMeta {
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) type_code: i16,
    pub(crate) content_length: i64,
    pub(crate) content_type: Option<String>,
    pub(crate) origin: BlobOrigin,
}

impl Candidate {
    pub(crate) fn new(doc_id: &str, rev: String, doc_type: DocType, document: Value) -> Self {
        Self {
            doc_id: doc_id.to_owned(),
            rev,
            doc_type,
            document,
            xml: Bytes::new(),
            attachments: Vec::new(),
            missing_meta: Vec::new(),
            retypes: Vec::new(),
            dangling: Vec::new(),
            treatment: Treatment::AsItSays,
            lacks_attachments: false,
        }
    }

    /// Couch has no document of it: this one is made of its XML.
    pub(crate) fn is_lost(&self) -> bool {
        self.rev == LOST_REV
    }

    /// Bytes to count it by.
    pub(crate) fn weight(&self) -> usize {
        const ROWS: usize = 2048;
        self.xml.len() + ROWS
    }
}

/// What is to be done for the blobs of a form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlobPlan {
    /// Where `form.xml` may be, the likelier place first.
    pub(crate) xml: Vec<XmlPlace>,
    /// All metadata rows of `form.xml` but those in `dangling`.
    pub(crate) xml_rows: Vec<BlobMetaRow>,
    /// The other blobs.
    pub(crate) attachments: Vec<(BlobRef, BlobStanding)>,
    /// Rows without bytes beside rows with bytes.
    pub(crate) dangling: Vec<BlobMetaRow>,
}

/// A place where `form.xml` may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum XmlPlace {
    /// Where its metadata says.
    Row(BlobMetaRow),
    /// Where the document says, and no metadata row of `form.xml` does.
    Reference {
        /// What the document says.
        blob: BlobRef,
        /// Another blob of the form has a row with this key.
        shared: bool,
    },
}

impl XmlPlace {
    /// The blob as it is to be fetched.
    pub(crate) fn source(&self) -> BlobRef {
        match self {
            Self::Row(row) => BlobRef {
                name: FORM_XML.to_owned(),
                key: Some(row.key.clone()),
                content_type: row.content_type.clone(),
                content_length: None,
                blobmeta_id: None,
            },
            Self::Reference { blob, .. } => blob.clone(),
        }
    }
}

/// How an attachment stands in the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BlobStanding {
    /// It has its row.
    Present(BlobMetaRow),
    /// It has a row with the type of `form.xml`, which an error of the past gave to attachments.
    Mistyped(BlobMetaRow),
    /// Its key has a row of the same form, under another name or type: keys are unique, so that it needs one of its own.
    KeyTaken,
    /// It has no row.
    Absent,
}

impl BlobStanding {
    /// An attachment is read only when it must be stored.
    pub(crate) fn needs_bytes(&self, blob: &BlobRef) -> bool {
        match self {
            Self::Present(_) | Self::Mistyped(_) => false,
            Self::KeyTaken => true,
            Self::Absent => blob.is_inline(),
        }
    }
}

/// Rows of one blob of a form, when there are several: HQ's readers want one. Their blobs must be looked for.
pub(crate) fn duplicates(rows: &[BlobMetaRow]) -> Vec<&BlobMetaRow> {
    let mut counts: HashMap<(i16, &str), usize> = HashMap::new();
    for row in of_forms(rows) {
        *counts.entry((row.type_code, row.name.as_str())).or_default() += 1;
    }
    of_forms(rows)
        .filter(|row| {
            counts
                .get(&(row.type_code, row.name.as_str()))
                .is_some_and(|count| *count > 1)
        })
        .collect()
}

/// Whether a row that forms use belongs to another domain.
pub(crate) fn is_foreign(rows: &[BlobMetaRow], domain: &Domain) -> bool {
    of_forms(rows).any(|row| row.domain != domain.as_str())
}

fn of_forms(rows: &[BlobMetaRow]) -> impl Iterator<Item = &BlobMetaRow> {
    rows.iter()
        .filter(|row| matches!(row.type_code, BLOB_FORM_XML | BLOB_FORM_ATTACHMENT))
}

/// Decides for all blobs of a form: `refs` is what the document says, `rows` its metadata, `stored` the keys of
/// [`duplicates`] whose blobs are there.
pub(crate) fn blob_plan(refs: Vec<BlobRef>, rows: &[BlobMetaRow], stored: &HashSet<String>) -> BlobPlan {
    let several: HashSet<&str> = duplicates(rows).into_iter().map(|row| row.key.as_str()).collect();
    // Rows without bytes are of no use as long as one with bytes is left; where none has, all of them stay for now.
    let is_dangling = |row: &BlobMetaRow| {
        several.contains(row.key.as_str())
            && !stored.contains(&row.key)
            && rows
                .iter()
                .any(|other| other.name == row.name && other.type_code == row.type_code && stored.contains(&other.key))
    };
    let (dangling, rows): (Vec<BlobMetaRow>, Vec<BlobMetaRow>) = rows.iter().cloned().partition(is_dangling);
    let mut plan = BlobPlan {
        dangling,
        ..BlobPlan::default()
    };
    let mut xml_reference = None;
    for blob in refs {
        if blob.name == FORM_XML {
            xml_reference = Some(blob);
        } else {
            let standing = standing(&blob, &rows);
            plan.attachments.push((blob, standing));
        }
    }
    plan.xml_rows = with_type(&rows, FORM_XML, BLOB_FORM_XML).cloned().collect();
    let preferred = xml_reference.as_ref().and_then(|blob| blob.key.as_ref());
    if let Some(row) = preferring(plan.xml_rows.iter(), preferred) {
        plan.xml.push(XmlPlace::Row(row.clone()));
    }
    if let Some(blob) = xml_reference
        && !plan.xml_rows.iter().any(|row| Some(&row.key) == blob.key.as_ref())
    {
        let shared = rows.iter().any(|row| Some(&row.key) == blob.key.as_ref());
        plan.xml.push(XmlPlace::Reference { blob, shared });
    }
    plan
}

/// How an attachment stands among the rows of its form. Of several rows the one that the document refers to counts, else
/// the first.
fn standing(blob: &BlobRef, rows: &[BlobMetaRow]) -> BlobStanding {
    let found = |code| preferring(with_type(rows, &blob.name, code), blob.key.as_ref()).cloned();
    match (found(BLOB_FORM_ATTACHMENT), found(BLOB_FORM_XML)) {
        (Some(row), _) => BlobStanding::Present(row),
        (None, Some(row)) => BlobStanding::Mistyped(row),
        (None, None) if rows.iter().any(|row| Some(&row.key) == blob.key.as_ref()) => BlobStanding::KeyTaken,
        (None, None) => BlobStanding::Absent,
    }
}

fn with_type<'a>(rows: &'a [BlobMetaRow], name: &'a str, code: i16) -> impl Iterator<Item = &'a BlobMetaRow> + Clone {
    rows.iter().filter(move |row| row.name == name && row.type_code == code)
}

fn preferring<'a>(
    mut rows: impl Iterator<Item = &'a BlobMetaRow> + Clone,
    key: Option<&String>,
) -> Option<&'a BlobMetaRow> {
    let preferred = rows.clone().find(|row| Some(&row.key) == key);
    preferred.or_else(|| rows.next())
}

/// The key under which bytes are stored that have none of their own: derived from what they are, so that every attempt
/// gives the same.
pub(crate) fn derived_key(form_id: &str, name: &str, content: &[u8]) -> String {
    let mut seed = Vec::with_capacity(form_id.len() + name.len() + content.len() + 2);
    for part in [form_id.as_bytes(), b"/", name.as_bytes(), b"/", content] {
        seed.extend_from_slice(part);
    }
    Uuid::new_v5(&KEY_NAMESPACE, &seed).simple().to_string()
}

/// The facts of an attachment from its metadata row.
pub(crate) fn facts(row: &BlobMetaRow) -> AttachmentFacts {
    AttachmentFacts {
        name: row.name.clone(),
        key: row.key.clone(),
        content_length: Some(row.content_length),
        content_type: row.content_type.clone(),
        properties: row.properties.clone(),
    }
}

impl NewMeta {
    /// The facts of an attachment that gets its row now.
    pub(crate) fn facts(&self) -> AttachmentFacts {
        AttachmentFacts {
            name: self.name.clone(),
            key: self.key.clone(),
            content_length: Some(self.content_length),
            content_type: self.content_type.clone(),
            properties: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, type_code: i16, key: &str) -> BlobMetaRow {
        BlobMetaRow {
            domain: "demo".to_owned(),
            parent_id: "f".to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
            type_code,
            content_length: 1,
            compressed_length: None,
            content_type: None,
            properties: None,
            created_on: chrono::DateTime::UNIX_EPOCH,
        }
    }

    fn blob(name: &str, key: Option<&str>) -> BlobRef {
        BlobRef {
            name: name.to_owned(),
            key: key.map(str::to_owned),
            content_type: None,
            content_length: None,
            blobmeta_id: None,
        }
    }

    fn keys(keys: &[&str]) -> HashSet<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    fn plan(refs: &[(&str, Option<&str>)], rows: &[BlobMetaRow], stored: &[&str]) -> BlobPlan {
        let refs = refs.iter().map(|(name, key)| blob(name, *key)).collect();
        blob_plan(refs, rows, &keys(stored))
    }

    /// The places of form.xml: `row k`, `reference k`, `shared k`, `inline`.
    fn places(plan: &BlobPlan) -> Vec<String> {
        plan.xml
            .iter()
            .map(|place| match place {
                XmlPlace::Row(row) => format!("row {}", row.key),
                XmlPlace::Reference { blob, shared } => match &blob.key {
                    Some(key) if *shared => format!("shared {key}"),
                    Some(key) => format!("reference {key}"),
                    None => "inline".to_owned(),
                },
            })
            .collect()
    }

    #[test]
    fn form_xml_is_where_its_metadata_says_or_else_where_the_document_says() {
        let xml = "form.xml";
        let one = [row(xml, 2, "a")];
        let two = [row(xml, 2, "a"), row(xml, 2, "b")];
        let other = [row("photo.jpg", 3, "a")];
        for (refs, rows, stored, expected) in [
            (&[(xml, Some("a"))][..], &one[..], &[][..], &["row a"][..]),
            (&[(xml, Some("x"))], &one, &[], &["row a", "reference x"]),
            (&[(xml, None)], &one, &[], &["row a", "inline"]),
            (&[], &one, &[], &["row a"]),
            (&[(xml, Some("x"))], &[], &[], &["reference x"]),
            (&[(xml, Some("a"))], &other, &[], &["shared a"]),
            (&[], &[], &[], &[]),
            // Of several rows the document's own counts, if its bytes are there; else the first that has any.
            (&[(xml, Some("b"))], &two, &["a", "b"], &["row b"]),
            (&[(xml, Some("x"))], &two, &["a", "b"], &["row a", "reference x"]),
            (&[(xml, Some("b"))], &two, &["a"], &["row a", "reference b"]),
            (&[(xml, Some("b"))], &two, &[], &["row b"]),
        ] {
            assert_eq!(
                places(&plan(refs, rows, stored)),
                expected,
                "{refs:?} {rows:?} {stored:?}"
            );
        }
    }

    #[test]
    fn rows_without_bytes_go_only_while_one_with_bytes_is_left() {
        let rows = [
            row("form.xml", 2, "a"),
            row("form.xml", 2, "b"),
            row("photo.jpg", 3, "c"),
            row("photo.jpg", 3, "d"),
            row("voice.3gp", 3, "e"),
            row("report", 13, "f"),
            row("report", 13, "g"),
        ];
        let looked_for: Vec<&str> = duplicates(&rows).iter().map(|row| row.key.as_str()).collect();
        assert_eq!(
            looked_for,
            ["a", "b", "c", "d"],
            "blobs of other kinds are not looked at"
        );
        let gone = |stored: &[&str]| -> Vec<String> {
            plan(&[], &rows, stored)
                .dangling
                .into_iter()
                .map(|row| row.key)
                .collect()
        };
        assert_eq!(gone(&["b", "c", "d"]), ["a"]);
        assert_eq!(gone(&["a"]), ["b"]);
        assert_eq!(gone(&["a", "d"]), ["b", "c"]);
        assert!(
            gone(&["a", "b", "c", "d"]).is_empty(),
            "duplicates with bytes are tolerated"
        );
        assert!(gone(&[]).is_empty());
        assert_eq!(plan(&[], &rows, &["b"]).xml_rows, [rows[1].clone()]);
    }

    #[test]
    fn attachments_with_the_type_of_form_xml_are_mistyped() {
        let rows = [
            row("photo.jpg", 2, "k"),
            row("photo.jpg", 3, "k2"),
            row("note.txt", 2, "n"),
        ];
        for (name, key, expected, needs_bytes) in [
            ("photo.jpg", Some("k"), BlobStanding::Present(rows[1].clone()), false),
            ("note.txt", Some("n"), BlobStanding::Mistyped(rows[2].clone()), false),
            ("note.txt", Some("x"), BlobStanding::Mistyped(rows[2].clone()), false),
            ("voice.3gp", Some("k"), BlobStanding::KeyTaken, true),
            ("voice.3gp", Some("other"), BlobStanding::Absent, false),
            ("voice.3gp", None, BlobStanding::Absent, true),
        ] {
            let blob = blob(name, key);
            let found = standing(&blob, &rows);
            assert_eq!(found, expected, "{name} {key:?}");
            assert_eq!(found.needs_bytes(&blob), needs_bytes, "{name} {key:?}");
        }
    }

    #[test]
    fn only_rows_of_forms_tell_of_another_domain() {
        let mut rows = [row("form.xml", 2, "a"), row("x", 13, "b")];
        rows[1].domain = "other".to_owned();
        assert!(!is_foreign(&rows, &Domain::new("demo")));
        rows[0].domain = "other".to_owned();
        assert!(is_foreign(&rows, &Domain::new("demo")));
    }

    #[test]
    fn derived_keys_depend_on_form_name_and_content() {
        let key = derived_key("f", "form.xml", b"<data/>");
        assert_eq!(key, derived_key("f", "form.xml", b"<data/>"));
        assert_eq!(key.len(), 32);
        assert_ne!(key, derived_key("f", "form.xml", b"<other/>"));
    }
}
