//! The views of the migration, implemented here instead of in JavaScript, and their indexes.
//!
//! A view exists once its design document has been put, as in CouchDB. The index is kept up to date by every write,
//! so that a page costs only its own rows.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::collation::{self, AFTER};
use crate::document::{Document, members};
use crate::ordered::OrderedIndex;

/// A map function that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum MapFunction {
    /// `[domain, doc_type, date]` of every document with a domain.
    ByDomainDocTypeDate,
    /// `[case_id, form_id]` of every case that a normal form touches.
    FormCaseIndex,
    /// `name` of every Domain document.
    DomainsByName,
}

const MAP_BY_DOMAIN: &str = "function (doc) {
  var dateMember = {
    CommCareCase: 'opened_on', 'CommCareCase-Deleted': 'opened_on',
    XFormInstance: 'received_on', 'XFormInstance-Deleted': 'received_on', XFormError: 'received_on',
    XFormDuplicate: 'received_on', XFormDeprecated: 'received_on', XFormArchived: 'received_on',
    SubmissionErrorLog: 'received_on',
    CommCareUser: 'created_on', WebUser: 'created_on',
    MessageLog: 'date', CallLog: 'date', SMSLog: 'date', EventLog: 'date'
  }[doc.doc_type];
  if (/^(Application|RemoteApp|LinkedApplication)(-Deleted)?$/.test(doc.doc_type) && doc.copy_of) {
    dateMember = 'built_on';
  }
  var date = dateMember === undefined ? null : doc[dateMember];
  if (doc.domain) emit([doc.domain, doc.doc_type, date === undefined ? null : date], null);
}";

const MAP_FORM_CASES: &str = "function (doc) {
  var seen = {};
  function candidate(block) {
    if (Array.isArray(block)) { block.forEach(candidate); return; }
    if (block === null || typeof block !== 'object') return;
    var id = block['@case_id'] !== undefined ? block['@case_id'] : block.case_id;
    if (typeof id === 'string' && !seen['id ' + id]) {
      seen['id ' + id] = true;
      emit([id, doc._id], null);
    }
  }
  function walk(node) {
    if (Array.isArray(node)) { node.forEach(walk); return; }
    if (node === null || typeof node !== 'object') return;
    if (node['@xmlns'] === 'http://code.javarosa.org/devicereport') return;
    Object.keys(node).forEach(function (name) {
      if (name === 'case') candidate(node[name]); else walk(node[name]);
    });
  }
  if (doc.doc_type === 'XFormInstance') walk(doc.form);
}";

const MAP_DOMAINS: &str = "function (doc) { if (doc.doc_type === 'Domain') emit(doc.name, null); }";

const DEVICE_LOG: &str = "http://code.javarosa.org/devicereport";

impl MapFunction {
    const ALL: [Self; 3] = [Self::ByDomainDocTypeDate, Self::FormCaseIndex, Self::DomainsByName];

    /// Names of the design document and of the view.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::ByDomainDocTypeDate => ("by_domain_doc_type_date", "view"),
            Self::FormCaseIndex => ("form_case_index", "form_case_index"),
            Self::DomainsByName => ("domain", "domains"),
        }
    }

    pub(crate) fn find(design: &str, view: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|map| map.names() == (design, view))
    }

    /// Whether this is a view of that design document.
    pub(crate) fn belongs_to(self, design: &str) -> bool {
        self.names().0 == design
    }

    /// The keys a document is found under.
    fn keys(self, document: &Document) -> Vec<Value> {
        let Ok(members) = members(&document.body) else {
            return Vec::new();
        };
        let member = |name: &str| {
            members
                .iter()
                .rev()
                .find(|(key, _)| key == name)
                .map(|(_, value)| *value)
        };
        let parse = |name: &str| {
            member(name)
                .and_then(|value| serde_json::from_str(value.get()).ok())
                .unwrap_or(Value::Null)
        };
        match self {
            Self::ByDomainDocTypeDate => {
                let domain = parse("domain");
                if !is_truthy(&domain) {
                    return Vec::new();
                }
                let doc_type = parse("doc_type");
                let date = date_member(doc_type.as_str().unwrap_or_default(), is_truthy(&parse("copy_of"))).map(parse);
                vec![json!([domain, doc_type, date.unwrap_or(Value::Null)])]
            }
            Self::FormCaseIndex => {
                if parse("doc_type") != "XFormInstance" {
                    return Vec::new();
                }
                let mut cases = BTreeSet::new();
                let form = parse("form");
                collect_cases(&form, &mut cases);
                cases.into_iter().map(|case| json!([case, *document.id])).collect()
            }
            Self::DomainsByName if parse("doc_type") == "Domain" => vec![parse("name")],
            Self::DomainsByName => Vec::new(),
        }
    }
}

/// The design documents of a database of forms and cases by id, with map functions that a JavaScript server can run.
pub fn design_documents() -> Vec<Value> {
    [MapFunction::ByDomainDocTypeDate, MapFunction::FormCaseIndex]
        .map(design_document)
        .into()
}

/// The design document of a database of domains.
pub fn domains_design_document() -> Value {
    design_document(MapFunction::DomainsByName)
}

fn design_document(map: MapFunction) -> Value {
    let source = match map {
        MapFunction::ByDomainDocTypeDate => MAP_BY_DOMAIN,
        MapFunction::FormCaseIndex => MAP_FORM_CASES,
        MapFunction::DomainsByName => MAP_DOMAINS,
    };
    let (design, view) = map.names();
    json!({
        "_id": format!("_design/{design}"),
        "language": "javascript",
        "views": {view: {"map": source, "reduce": "_count"}},
    })
}

/// The member that dates a document of this type; none where the date of the key is null.
fn date_member(doc_type: &str, is_built_copy: bool) -> Option<&'static str> {
    match doc_type {
        "CommCareCase" | "CommCareCase-Deleted" => Some("opened_on"),
        "XFormInstance"
        | "XFormInstance-Deleted"
        | "XFormError"
        | "XFormDuplicate"
        | "XFormDeprecated"
        | "XFormArchived"
        | "SubmissionErrorLog" => Some("received_on"),
        "CommCareUser" | "WebUser" => Some("created_on"),
        "MessageLog" | "CallLog" | "SMSLog" | "EventLog" => Some("date"),
        _ => {
            let live = doc_type.strip_suffix("-Deleted").unwrap_or(doc_type);
            (is_built_copy && matches!(live, "Application" | "RemoteApp" | "LinkedApplication")).then_some("built_on")
        }
    }
}

/// Truth as JavaScript has it.
fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

/// Case blocks: objects under a member `case` that have a case id. Nothing below such a member is searched, and
/// device logs are skipped.
fn collect_cases<'a>(node: &'a Value, cases: &mut BTreeSet<&'a str>) {
    match node {
        Value::Array(items) => items.iter().for_each(|item| collect_cases(item, cases)),
        Value::Object(object) if object.get("@xmlns").and_then(Value::as_str) != Some(DEVICE_LOG) => {
            for (name, value) in object {
                if name == "case" {
                    collect_blocks(value, cases);
                } else {
                    collect_cases(value, cases);
                }
            }
        }
        _ => {}
    }
}

fn collect_blocks<'a>(node: &'a Value, cases: &mut BTreeSet<&'a str>) {
    match node {
        Value::Array(items) => items.iter().for_each(|item| collect_blocks(item, cases)),
        Value::Object(block) => {
            let id = block.get("@case_id").or_else(|| block.get("case_id"));
            cases.extend(id.and_then(Value::as_str));
        }
        _ => {}
    }
}

/// One row of a view.
#[derive(Clone, Debug)]
pub(crate) struct ViewRow {
    /// The key as JSON text.
    pub(crate) key: Arc<str>,
    pub(crate) document: Arc<Document>,
}

/// The rows of one view in order.
#[derive(Debug)]
pub(crate) struct ViewIndex {
    map: MapFunction,
    /// By encoded key, then document id.
    pub(crate) rows: OrderedIndex<Box<[u8]>, ViewRow>,
}

impl ViewIndex {
    pub(crate) fn new(map: MapFunction) -> Self {
        Self {
            map,
            rows: OrderedIndex::default(),
        }
    }

    pub(crate) fn map(&self) -> MapFunction {
        self.map
    }

    pub(crate) fn add(&mut self, document: &Arc<Document>) {
        for key in self.map.keys(document) {
            let row = ViewRow {
                key: key.to_string().into(),
                document: Arc::clone(document),
            };
            self.rows.insert(row_key(&key, &document.id), row);
        }
    }

    pub(crate) fn remove(&mut self, document: &Document) {
        for key in self.map.keys(document) {
            self.rows.remove(&*row_key(&key, &document.id));
        }
    }

    /// The ranks of the rows between two bounds.
    pub(crate) fn ranks(&self, low: Option<&Bound<'_>>, high: Option<&Bound<'_>>) -> Range<usize> {
        let start = low.map_or(0, |bound| self.rows.rank(&*bound.encode()));
        let end = high.map_or(self.rows.len(), |bound| self.rows.rank(&*bound.encode()));
        start..end.max(start)
    }
}

fn row_key(key: &Value, id: &str) -> Box<[u8]> {
    let mut encoded = Vec::with_capacity(96);
    collation::encode(key, &mut encoded);
    encoded.extend_from_slice(id.as_bytes());
    encoded.into_boxed_slice()
}

/// A place between rows: beside a key, and beside a document id among the rows of that key.
pub(crate) struct Bound<'a> {
    pub(crate) key: &'a Value,
    pub(crate) id: Option<&'a str>,
    pub(crate) side: Side,
}

/// On which side of its key, or of its key and id, a bound stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Before,
    After,
}

impl Bound<'_> {
    fn encode(&self) -> Vec<u8> {
        let mut encoded = Vec::with_capacity(96);
        collation::encode(self.key, &mut encoded);
        match (self.id, self.side) {
            (None, Side::Before) => {}
            (None, Side::After) => encoded.push(AFTER),
            (Some(id), Side::Before) => encoded.extend_from_slice(id.as_bytes()),
            (Some(id), Side::After) => {
                encoded.extend_from_slice(id.as_bytes());
                // The next possible id.
                encoded.push(0);
            }
        }
        encoded
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::document::Incoming;

    fn document(value: &Value) -> Document {
        let incoming = Incoming::parse(value.to_string().as_bytes()).unwrap();
        let id = incoming.id.clone().unwrap();
        incoming.into_document(id.into(), None, None, 1).unwrap()
    }

    #[test]
    fn the_date_of_the_key_depends_on_the_type() {
        let cases = [
            (
                json!({"_id": "1", "domain": "d", "doc_type": "XFormInstance", "received_on": "r"}),
                json!([["d", "XFormInstance", "r"]]),
            ),
            (
                json!({"_id": "1", "domain": "d", "doc_type": "CommCareCase-Deleted", "opened_on": "o"}),
                json!([["d", "CommCareCase-Deleted", "o"]]),
            ),
            (
                json!({"_id": "1", "domain": "d", "doc_type": "CommCareCase"}),
                json!([["d", "CommCareCase", null]]),
            ),
            (
                json!({"_id": "1", "domain": "d", "doc_type": "HQSubmission", "received_on": "r"}),
                json!([["d", "HQSubmission", null]]),
            ),
            (
                json!({"_id": "1", "domain": "d", "doc_type": "WebUser", "created_on": "c"}),
                json!([["d", "WebUser", "c"]]),
            ),
            (
                json!({"_id": "1", "domain": "d", "doc_type": "SMSLog", "date": 5}),
                json!([["d", "SMSLog", 5]]),
            ),
            (
                json!({"_id": "1", "domain": "d", "doc_type": "Application", "built_on": "b"}),
                json!([["d", "Application", null]]),
            ),
            (
                json!({"_id": "1", "domain": "d", "doc_type": "RemoteApp-Deleted", "built_on": "b", "copy_of": "a"}),
                json!([["d", "RemoteApp-Deleted", "b"]]),
            ),
            (
                json!({"_id": "1", "domain": "", "doc_type": "XFormInstance"}),
                json!([]),
            ),
            (json!({"_id": "1", "doc_type": "XFormInstance"}), json!([])),
        ];
        for (doc, keys) in cases {
            assert_eq!(
                json!(MapFunction::ByDomainDocTypeDate.keys(&document(&doc))),
                keys,
                "{doc}"
            );
        }
    }

    #[test]
    fn a_form_is_found_under_each_case_it_touches() {
        let form = json!({
            "case": {"@case_id": "c1", "case": {"@case_id": "never"}},
            "group": [{"case": [{"case_id": "c2"}, {"note": "no id"}, "text"]}, {"case": {"@case_id": "c1"}}],
            "log": {"@xmlns": DEVICE_LOG, "case": {"@case_id": "logged"}},
            "Case": {"@case_id": "wrong name"},
        });
        let keys = |doc_type: &str| {
            MapFunction::FormCaseIndex.keys(&document(
                &json!({"_id": "f", "doc_type": doc_type, "problem": "x", "form": form}),
            ))
        };
        assert_eq!(json!(keys("XFormInstance")), json!([["c1", "f"], ["c2", "f"]]));
        assert!(keys("XFormError").is_empty());
    }

    #[test]
    fn a_domain_is_found_by_its_name() {
        let keys = |doc: Value| MapFunction::DomainsByName.keys(&document(&doc));
        assert_eq!(
            json!(keys(json!({"_id": "d", "doc_type": "Domain", "name": "demo"}))),
            json!(["demo"])
        );
        assert!(keys(json!({"_id": "f", "doc_type": "XFormInstance", "domain": "demo", "name": "demo"})).is_empty());
    }
}
