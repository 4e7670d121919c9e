//! What users do while a domain is migrated: the documents of a generated domain as they stood at some time, and the
//! writes to CouchDB that lead from there to what they are in the end.
//!
//! The last forms to arrive are missing at first, with the cases that only they touch. Of the others, some that were
//! archived, deleted or edited in the end are still as they were submitted. Each write is what one request of HQ saves: the
//! form, its older version if it is an edit, and the cases it touches, which get a new revision each time. In the end the
//! documents are those of the domain, so that its model holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};

/// What a write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A form arrives.
    Submitted,
    /// A form is replaced by a newer version of itself; the older one gets an id of its own.
    Edited,
    /// A form is archived.
    Archived,
    /// A form is soft-deleted.
    Deleted,
}

impl Kind {
    /// Its name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Edited => "edited",
            Self::Archived => "archived",
            Self::Deleted => "deleted",
        }
    }
}

/// One request's writes.
#[derive(Clone, Debug)]
pub struct Write {
    /// What it is.
    pub kind: Kind,
    /// Documents to be written, in any order.
    pub docs: Vec<Value>,
}

/// A domain in use.
#[derive(Clone, Debug, Default)]
pub struct Submissions {
    /// The documents at first.
    pub before: Vec<Value>,
    /// What is written then, in this order.
    pub writes: Vec<Write>,
}

fn text<'a>(doc: &'a Value, key: &str) -> &'a str {
    doc[key].as_str().unwrap_or_default()
}

fn is_case(doc: &Value) -> bool {
    text(doc, "doc_type").starts_with("CommCareCase")
}

/// Takes back what happened to a form after it was submitted. `deprecated`: its first version, if it was edited.
fn as_submitted(last: &Value, deprecated: Option<&Value>) -> Value {
    let mut doc = deprecated.unwrap_or(last).clone();
    doc["_id"] = last["_id"].clone();
    doc["doc_type"] = json!("XFormInstance");
    doc["history"] = json!([]);
    if let Some(fields) = doc.as_object_mut() {
        for key in [
            "orig_id",
            "deprecated_date",
            "deprecated_form_id",
            "edited_on",
            "-deletion_id",
            "-deletion_date",
        ] {
            fields.remove(key);
        }
    }
    doc
}

impl Submissions {
    /// Takes a domain's documents apart: `late` forms arrive later, and up to as many again are changed later as make a
    /// tenth of that, of each kind.
    pub fn of(docs: Vec<Value>, late: usize) -> Self {
        let (cases, mut forms): (Vec<Value>, Vec<Value>) = docs.into_iter().partition(is_case);
        forms.sort_by(|one, other| {
            (text(one, "received_on"), text(one, "_id")).cmp(&(text(other, "received_on"), text(other, "_id")))
        });
        let mut touching: HashMap<&str, Vec<usize>> = HashMap::new();
        for (place, case) in cases.iter().enumerate() {
            for form_id in case["xform_ids"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
            {
                touching.entry(form_id).or_default().push(place);
            }
        }
        let split = forms.len().saturating_sub(late);
        let (early, later) = forms.split_at(split);
        let by_id: HashMap<&str, &Value> = early.iter().map(|form| (text(form, "_id"), form)).collect();
        let most = late.div_ceil(10);
        let mut changed: BTreeMap<Kind, usize> = BTreeMap::new();
        let mut absent: BTreeSet<&str> = BTreeSet::new();
        let mut first: HashMap<&str, Value> = HashMap::new();
        let mut changes: Vec<Write> = Vec::new();
        let touched = |form_id: &str| -> Vec<Value> {
            let places = touching.get(form_id).into_iter().flatten();
            places.map(|place| cases[*place].clone()).collect()
        };
        for form in early {
            let id = text(form, "_id");
            let older = by_id.get(text(form, "deprecated_form_id")).copied();
            let kind = match text(form, "doc_type") {
                "XFormArchived" => Kind::Archived,
                "XFormInstance-Deleted" => Kind::Deleted,
                "XFormInstance" if older.is_some() => Kind::Edited,
                _ => continue,
            };
            let count = changed.entry(kind).or_default();
            if *count >= most {
                continue;
            }
            *count += 1;
            first.insert(id, as_submitted(form, older));
            let mut docs = vec![form.clone()];
            if let Some(older) = older {
                absent.insert(text(older, "_id"));
                docs.push(older.clone());
            }
            docs.extend(touched(id));
            changes.push(Write { kind, docs });
        }
        let mut writes = Vec::with_capacity(later.len() + changes.len());
        // The changes come in between, evenly.
        let step = (later.len() / (changes.len() + 1)).max(1);
        let mut changes = changes.into_iter();
        for (number, form) in later.iter().enumerate() {
            let mut docs = vec![form.clone()];
            docs.extend(touched(text(form, "_id")));
            writes.push(Write {
                kind: Kind::Submitted,
                docs,
            });
            if (number + 1).is_multiple_of(step) {
                writes.extend(changes.next());
            }
        }
        writes.extend(changes);
        let arriving: BTreeSet<&str> = writes
            .iter()
            .filter(|write| write.kind == Kind::Submitted)
            .flat_map(|write| write.docs.iter().map(|doc| text(doc, "_id")))
            .collect();
        let is_there_before = |case: &&Value| {
            let forms = case["xform_ids"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str);
            !arriving.contains(text(case, "_id")) || forms.into_iter().any(|id| by_id.contains_key(id))
        };
        let mut before: Vec<Value> = cases.iter().filter(is_there_before).cloned().collect();
        before.extend(
            early
                .iter()
                .filter(|form| !absent.contains(text(form, "_id")))
                .map(|form| first.get(text(form, "_id")).unwrap_or(form).clone()),
        );
        Self { before, writes }
    }
}

/// How many writes there are of each kind.
pub fn counts(writes: &[Write]) -> BTreeMap<Kind, usize> {
    let mut counts = BTreeMap::new();
    for write in writes {
        *counts.entry(write.kind).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_writes_lead_to_the_domain() {
        let domain = generator::generate(&generator::Options::new("d", 600, 3));
        let submissions = Submissions::of(domain.docs.clone(), 150);
        let by_id = |docs: &[Value]| -> BTreeMap<String, Value> {
            docs.iter()
                .map(|doc| (text(doc, "_id").to_owned(), doc.clone()))
                .collect()
        };
        let mut now = by_id(&submissions.before);
        assert!(now.len() < domain.docs.len());
        for write in &submissions.writes {
            now.extend(by_id(&write.docs));
        }
        assert_eq!(now, by_id(&domain.docs));
        let counts = counts(&submissions.writes);
        assert_eq!(counts[&Kind::Submitted], 150);
        for kind in [Kind::Edited, Kind::Archived, Kind::Deleted] {
            assert!(
                counts.get(&kind).is_some_and(|count| *count > 0),
                "{kind:?} in {counts:?}"
            );
        }
    }
}
