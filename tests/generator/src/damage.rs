//! Damage to the Couch documents of a generated domain, of which the migration must report exactly what was hurt.
//!
//! Each function takes the seed of its choice and says what must be reported. The blobs and the metadata stay as they are.
//! [`remove_form`] comes first where several are used together, since the others choose among the documents that are left.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::questions::REMARKS_QUESTION;
use crate::stream::GeneratedDomain;

/// A document that must be reported.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reported {
    /// Its document type.
    pub doc_type: &'static str,
    /// Its id.
    pub doc_id: String,
    /// How it differs.
    pub how: How,
}

/// How a damaged document shows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// Its Couch form JSON differs at this path from the one read from its XML: a diff.
    FormDiffers(Vec<String>),
    /// The Couch case differs at this path. A rebuild of the Couch case from its forms explains that: so it is a diff, or
    /// where such rebuilds are done a change with the reason `rebuild case`.
    CaseDiffers(Vec<String>),
    /// The Couch case names a form that no longer exists: a diff in its form ids, or the whole case is missing in SQL.
    FormGone(String),
}

/// Changes a dynamic property of a live Couch case.
pub fn change_property(domain: &mut GeneratedDomain, seed: u64) -> Vec<Reported> {
    let mut rng = StdRng::seed_from_u64(seed);
    let chosen = choose(domain, &mut rng, |doc| {
        is_live_case(doc) && properties(doc).next().is_some()
    });
    let Some(doc) = chosen else { return Vec::new() };
    let names: Vec<String> = properties(doc).map(str::to_owned).collect();
    let Some(name) = names.choose(&mut rng) else {
        return Vec::new();
    };
    doc[name] = json!(format!("damaged {}", rng.random_range(0..1000_u16)));
    vec![reported(doc, "CommCareCase", How::CaseDiffers(vec![name.clone()]))]
}

/// Removes a normal form that did something to live cases: each of them must be reported.
pub fn remove_form(domain: &mut GeneratedDomain, seed: u64) -> Vec<Reported> {
    let mut rng = StdRng::seed_from_u64(seed);
    let listing = |domain: &GeneratedDomain, form_id: &str| -> Vec<(String, bool)> {
        let cases = domain.docs.iter().filter(|doc| lists_form(doc, form_id));
        cases.map(|doc| (id(doc), is_live_case(doc))).collect()
    };
    let forms: Vec<String> = domain
        .docs
        .iter()
        .filter(|doc| doc["doc_type"] == "XFormInstance" && doc.get("deprecated_form_id").is_none())
        .map(id)
        .collect();
    // A few tries find a form that touched live cases only.
    for _ in 0..100 {
        let Some(form_id) = forms.choose(&mut rng) else { break };
        let cases = listing(domain, form_id);
        let touched_by_form = domain
            .model
            .cases
            .values()
            .filter(|case| {
                case.transactions
                    .iter()
                    .any(|row| row.form_id.as_ref() == Some(form_id))
            })
            .count();
        if cases.is_empty() || touched_by_form != cases.len() || !cases.iter().all(|(_, live)| *live) {
            continue;
        }
        domain.docs.retain(|doc| doc["_id"] != form_id.as_str());
        return cases
            .into_iter()
            .map(|(doc_id, _)| Reported {
                doc_type: "CommCareCase",
                doc_id,
                how: How::FormGone(form_id.clone()),
            })
            .collect();
    }
    Vec::new()
}

/// Adds an index to a live Couch case.
pub fn extra_index(domain: &mut GeneratedDomain, seed: u64) -> Vec<Reported> {
    let mut rng = StdRng::seed_from_u64(seed);
    let Some(doc) = choose(domain, &mut rng, is_live_case) else {
        return Vec::new();
    };
    if let Some(indices) = doc["indices"].as_array_mut() {
        indices.push(json!({
            "doc_type": "CommCareCaseIndex", "identifier": "zz_damaged", "referenced_type": "household",
            "referenced_id": "no-such-case", "relationship": "child",
        }));
    }
    vec![reported(
        doc,
        "CommCareCase",
        How::CaseDiffers(vec!["indices".to_owned()]),
    )]
}

/// Changes an answer in the Couch form JSON that no case depends on.
pub fn change_form_answer(domain: &mut GeneratedDomain, seed: u64) -> Vec<Reported> {
    let mut rng = StdRng::seed_from_u64(seed);
    let answered = |doc: &Value| {
        doc["doc_type"] == "XFormInstance" && doc.get("problem").is_none() && doc["form"][REMARKS_QUESTION].is_string()
    };
    let Some(doc) = choose(domain, &mut rng, answered) else {
        return Vec::new();
    };
    doc["form"][REMARKS_QUESTION] = json!(format!("damaged {}", rng.random_range(0..1000_u16)));
    let path = vec!["form".to_owned(), REMARKS_QUESTION.to_owned()];
    vec![reported(doc, "XFormInstance", How::FormDiffers(path))]
}

fn choose<'a>(
    domain: &'a mut GeneratedDomain,
    rng: &mut StdRng,
    suits: impl Fn(&Value) -> bool,
) -> Option<&'a mut Value> {
    let places: Vec<usize> = domain
        .docs
        .iter()
        .enumerate()
        .filter(|(_, doc)| suits(doc))
        .map(|(place, _)| place)
        .collect();
    let place = *places.choose(rng)?;
    domain.docs.get_mut(place)
}

fn reported(doc: &Value, doc_type: &'static str, how: How) -> Reported {
    Reported {
        doc_type,
        doc_id: id(doc),
        how,
    }
}

fn id(doc: &Value) -> String {
    doc["_id"].as_str().unwrap_or_default().to_owned()
}

fn is_live_case(doc: &Value) -> bool {
    doc["doc_type"] == "CommCareCase"
}

fn lists_form(doc: &Value, form_id: &str) -> bool {
    doc["xform_ids"]
        .as_array()
        .is_some_and(|ids| ids.iter().any(|id| id == form_id))
}

/// Dynamic properties that hold plain text: those that forms gave the case by an update.
fn properties(doc: &Value) -> impl Iterator<Item = &str> {
    const DYNAMIC: [&str; 6] = ["weight", "dob", "notes", "mother_name", "phone_number", "visit_count"];
    DYNAMIC.into_iter().filter(|name| doc[*name].is_string())
}
