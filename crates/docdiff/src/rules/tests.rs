//! Every rule drops what it is for, and nothing else does it in its place.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::samples::Sample::{Documents, Stored};
use super::samples::{DATE, Shown, case, form, samples};
use super::*;
use crate::diff::Diff;
use crate::{diff_document, diff_ledger_by, refilter};

impl Shown {
    fn diffs(&self, without: &[&str]) -> Vec<Diff> {
        let book = RuleBook::of(|rule| !without.contains(&rule.id));
        let group = match self.doc_type {
            "stock state" => Group::Ledgers,
            name if name.starts_with("CommCareCase") => Group::Cases,
            _ => Group::Forms,
        };
        let typed = |fields: &Value| {
            let mut document = fields.clone();
            if document.get("doc_type").is_none() {
                document["doc_type"] = Value::from(self.doc_type);
            }
            document
        };
        match &self.sample {
            Documents(couch, sql) if group == Group::Ledgers => diff_ledger_by(&book, couch, sql),
            Documents(couch, sql) => diff_document(&book, group, &typed(couch), &typed(sql)).unwrap(),
            Stored(diff, couch) => {
                let diff = Diff::from_json(diff).unwrap();
                refilter(&book, group, &typed(couch), &typed(&json!({})), &[diff]).unwrap()
            }
        }
    }
}

#[test]
fn every_rule_has_a_sample_and_a_name_of_its_own() {
    let ids: BTreeSet<&str> = all().iter().map(|rule| rule.id).collect();
    assert_eq!(ids.len(), all().len());
    let shown: BTreeSet<&str> = samples().iter().map(|shown| shown.id).collect();
    assert_eq!(shown, ids);
    assert!(all().iter().all(|rule| !rule.reason.is_empty()));
}

#[test]
fn every_rule_drops_its_sample() {
    for shown in samples() {
        let id = shown.id;
        assert_eq!(shown.diffs(&[]), [], "{id} and all others");
        // Alone with the rules that do not drop it anyway, so that it is this rule that does.
        assert_eq!(shown.diffs(shown.shadowed_by), [], "{id} without those that shadow it");
        let mut without = shown.shadowed_by.to_vec();
        without.push(id);
        assert_ne!(shown.diffs(&without), [], "nothing but {id} drops it");
    }
}

#[test]
fn a_rule_for_one_doc_type_leaves_the_others() {
    let elsewhere = [
        form("form-uid", json!({"uid": "a"}), json!({"instanceID": "a"})).of("XFormArchived"),
        form(
            "form-deletion-id",
            json!({"-deletion_id": "a"}),
            json!({"deletion_id": "a"}),
        ),
        form(
            "form-deprecated-date",
            json!({"deprecated_date": DATE}),
            json!({"edited_on": DATE}),
        ),
        case("case-at-user-id", json!({"@user_id": "u"}), json!({"user_id": "u"})).of("CommCareCase-Deleted"),
        case(
            "case-deleted-modified-on",
            json!({"modified_on": null}),
            json!({"modified_on": DATE}),
        ),
    ];
    for shown in elsewhere {
        assert_ne!(shown.diffs(&[]), [], "{} on {}", shown.id, shown.doc_type);
    }
}
