//! Both sides of some cases, as they were read, and what a first look at them tells.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use docdiff::{Diff, DiffType, OperatorRules, PathElement, Side};
use proto::doctype::DocType;
use proto::ids::Domain;
use proto::rows::CaseBundle;
use serde_json::{Value, json};
use service::worker::BatchFailure;

/// What was read of some cases.
pub(crate) struct Sides {
    /// Domain that is migrated.
    pub(crate) domain: Domain,
    /// The Couch documents.
    pub(crate) couch: HashMap<String, Value>,
    /// The SQL rows.
    pub(crate) sql: HashMap<String, CaseBundle>,
    /// Forms with a case block without any action.
    pub(crate) no_action: HashSet<String>,
    /// HQ has stock of the domain.
    pub(crate) couch_stock: bool,
    /// Rules of the domain's operators.
    pub(crate) rules: Arc<OperatorRules>,
}

/// Differences of a document by what operators' rules say of them.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Ruled {
    /// What no rule drops: only this is judged, patched, or a reason for another order of forms.
    pub(crate) open: Vec<Diff>,
    /// What a rule drops. It is recorded all the same, and set aside in the end.
    pub(crate) dropped: Vec<Diff>,
}

/// What a first look at a case tells.
#[derive(Debug, PartialEq)]
pub(crate) enum Look {
    /// There is nothing to report: both sides say the same, or the case is not of this domain.
    Equal,
    /// Differences of the two.
    Differ(Vec<Diff>),
    /// One side says another domain than is migrated. No more is said of such a case.
    OtherDomain(Diff),
    /// SQL lacks it.
    OnlyCouch,
    /// Couch lacks it.
    OnlySql,
    /// Neither has it.
    Nowhere,
}

impl Sides {
    /// The first look at a case.
    pub(crate) fn look(&self, case_id: &str) -> Result<Look, BatchFailure> {
        let (couch, sql) = (self.couch.get(case_id), self.sql.get(case_id));
        // A case of another domain, which a form of this one names: the form is on record for it, and the case is not ours
        // to compare.
        let couch_is_ours = couch.is_some_and(|doc| domain_of(doc) == self.domain.as_str());
        let sql_is_ours = sql.is_some_and(|bundle| bundle.case.domain == self.domain.as_str());
        Ok(match (couch, sql) {
            (None, None) => Look::Nowhere,
            _ if !couch_is_ours && !sql_is_ours => Look::Equal,
            (Some(couch), Some(_)) if !couch_is_ours => {
                Look::OtherDomain(domain_diff(domain_of(couch), self.domain.as_str()))
            }
            (Some(_), Some(sql)) if !sql_is_ours => {
                Look::OtherDomain(domain_diff(self.domain.as_str(), &sql.case.domain))
            }
            (Some(couch), Some(sql)) => {
                let diffs = self.diff(couch, &docdiff::sqljson::case_json(sql))?;
                if diffs.is_empty() {
                    Look::Equal
                } else {
                    Look::Differ(diffs)
                }
            }
            (Some(_), None) => Look::OnlyCouch,
            (None, Some(_)) => Look::OnlySql,
        })
    }

    /// The differences of a case, by what the rules of operators say of them.
    pub(crate) fn ruled(&self, case_id: &str, diffs: Vec<Diff>) -> Ruled {
        let kind = kind_of(self.couch.get(case_id), self.sql.get(case_id));
        let (open, dropped) = diffs.into_iter().partition(|diff| !self.rules.ignores(kind, diff));
        Ruled { open, dropped }
    }

    /// The differences of a case's JSON.
    pub(crate) fn diff(&self, couch: &Value, sql: &Value) -> Result<Vec<Diff>, BatchFailure> {
        docdiff::diff_case(couch, sql, &self.no_action)
            .map_err(|_| BatchFailure::defect("a case document of an unknown type was compared"))
    }
}

/// Under which type a case is on record. One that Couch has deleted twice is a deleted one, as it is in SQL.
pub(crate) fn kind_of(couch: Option<&Value>, sql: Option<&CaseBundle>) -> &'static str {
    let doc_type = couch.and_then(|doc| doc.get("doc_type")).and_then(Value::as_str);
    let is_deleted = match (doc_type, sql) {
        (None, Some(bundle)) => bundle.case.deleted,
        (doc_type, _) => doc_type.is_some_and(|doc_type| doc_type != DocType::CommCareCase.as_str()),
    };
    let kind = if is_deleted {
        DocType::CommCareCaseDeleted
    } else {
        DocType::CommCareCase
    };
    kind.as_str()
}

/// Whether a document is a case, deleted or not.
pub(crate) fn is_case(document: &Value) -> bool {
    let doc_type = document.get("doc_type").and_then(Value::as_str);
    doc_type.is_some_and(|doc_type| doc_type.starts_with(DocType::CommCareCase.as_str()))
}

/// The domain that a document says.
pub(crate) fn domain_of(document: &Value) -> &str {
    document.get("domain").and_then(Value::as_str).unwrap_or_default()
}

/// Ids of the forms that a Couch case lists.
pub(crate) fn listed_forms(couch: &Value) -> impl Iterator<Item = &str> {
    let listed = couch.get("xform_ids").and_then(Value::as_array).into_iter().flatten();
    listed.filter_map(Value::as_str)
}

/// Ids of the forms that the actions of a case name, once for each action.
pub(crate) fn acting_forms(couch: &Value) -> impl Iterator<Item = &str> {
    let actions = couch.get("actions").and_then(Value::as_array).into_iter().flatten();
    actions.filter_map(|action| action.get("xform_id").and_then(Value::as_str))
}

/// When Couch has changed this case, if that was after the cut-off. A case without a readable date counts as old.
pub(crate) fn later(couch: &Value, cutoff: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    let modified = couch.get("server_modified_on").and_then(Value::as_str)?;
    let modified = docdiff::couch_date(modified)?;
    (modified > cutoff?).then_some(modified)
}

fn domain_diff(old: &str, new: &str) -> Diff {
    Diff {
        diff_type: DiffType::Diff,
        path: vec![PathElement::Key("domain".into())],
        old: Side::Value(json!(old)),
        new: Side::Value(json!(new)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chrono::TimeDelta;
    use proto::rows::CaseRow;

    use super::*;

    fn row(domain: &str) -> CaseBundle {
        CaseBundle {
            case: CaseRow {
                case_id: "c".to_owned(),
                domain: domain.to_owned(),
                case_type: "t".to_owned(),
                name: Some("n".to_owned()),
                owner_id: "o".to_owned(),
                opened_on: None,
                opened_by: None,
                modified_on: DateTime::UNIX_EPOCH,
                server_modified_on: DateTime::UNIX_EPOCH,
                modified_by: "u".to_owned(),
                closed: false,
                closed_on: None,
                closed_by: None,
                deleted: false,
                deleted_on: None,
                deletion_id: None,
                external_id: None,
                location_id: None,
                case_json: r#"{"prop": "1"}"#.to_owned(),
            },
            indices: Vec::new(),
            attachments: Vec::new(),
            transactions: Vec::new(),
            ledger_values: Vec::new(),
            ledger_transactions: Vec::new(),
        }
    }

    fn document(domain: &str, prop: &str) -> Value {
        json!({"_id": "c", "doc_type": "CommCareCase", "domain": domain, "type": "t", "name": "n", "owner_id": "o",
            "user_id": "u", "opened_on": null, "closed": false, "closed_on": null, "external_id": null,
            "modified_on": "1970-01-01T00:00:00Z", "prop": prop,
            "server_modified_on": "1970-01-01T00:00:00.000000Z", "xform_ids": [], "actions": [], "indices": []})
    }

    fn look(couch: Option<Value>, sql: Option<CaseBundle>) -> Look {
        let sides = Sides {
            domain: Domain::new("d"),
            couch: couch.map(|doc| ("c".to_owned(), doc)).into_iter().collect(),
            sql: sql.map(|bundle| ("c".to_owned(), bundle)).into_iter().collect(),
            no_action: HashSet::new(),
            couch_stock: false,
            rules: Arc::default(),
        };
        sides.look("c").unwrap()
    }

    #[test]
    fn a_case_that_was_deleted_twice_is_on_record_as_a_deleted_one() {
        let deleted = CaseBundle {
            case: CaseRow {
                deleted: true,
                ..row("d").case
            },
            ..row("d")
        };
        for (doc_type, sql, expected) in [
            (Some("CommCareCase"), None, "CommCareCase"),
            (Some("CommCareCase-Deleted"), None, "CommCareCase-Deleted"),
            (Some("CommCareCase-Deleted-Deleted"), None, "CommCareCase-Deleted"),
            (Some("CommCareCase"), Some(&deleted), "CommCareCase"),
            (None, Some(&deleted), "CommCareCase-Deleted"),
            (None, Some(&row("d")), "CommCareCase"),
            (None, None, "CommCareCase"),
        ] {
            let couch = doc_type.map(|doc_type| json!({"doc_type": doc_type}));
            assert_eq!(kind_of(couch.as_ref(), sql), expected, "{doc_type:?}");
        }
    }

    #[test]
    fn an_equal_case_has_no_diffs_and_a_property_that_differs_one() {
        assert_eq!(look(Some(document("d", "1")), Some(row("d"))), Look::Equal);
        let Look::Differ(diffs) = look(Some(document("d", "2")), Some(row("d"))) else {
            panic!("they differ");
        };
        let json: Vec<Value> = diffs.iter().map(Diff::to_json).collect();
        assert_eq!(
            json,
            [json!({"type": "diff", "path": ["prop"], "old_value": "2", "new_value": "1"})]
        );
    }

    #[test]
    fn of_a_case_of_another_domain_nothing_else_is_shown() {
        for (couch, sql, old, new) in [("wrong", "d", "wrong", "d"), ("d", "wrong", "d", "wrong")] {
            assert_eq!(
                look(Some(document(couch, "2")), Some(row(sql))),
                Look::OtherDomain(domain_diff(old, new))
            );
        }
        assert_eq!(look(Some(document("x", "2")), Some(row("y"))), Look::Equal, "not ours");
        assert_eq!(look(Some(document("x", "2")), None), Look::Equal, "not ours");
    }

    #[test]
    fn a_case_that_a_side_lacks() {
        assert_eq!(look(Some(document("d", "1")), None), Look::OnlyCouch);
        assert_eq!(look(None, Some(row("d"))), Look::OnlySql);
        assert_eq!(look(None, None), Look::Nowhere);
    }

    #[test]
    fn a_document_of_another_type_is_no_case() {
        for (document, expected) in [
            (json!({"doc_type": "CommCareCase"}), true),
            (json!({"doc_type": "CommCareCase-Deleted"}), true),
            (json!({"doc_type": "CommCareCase-Deleted-Deleted"}), true),
            (json!({"doc_type": "XFormInstance"}), false),
            (json!({"doc_type": null}), false),
            (json!({}), false),
        ] {
            assert_eq!(is_case(&document), expected, "{document}");
        }
    }

    #[test]
    fn a_live_run_compares_what_is_not_later_than_its_cutoff() {
        let cutoff = DateTime::UNIX_EPOCH + TimeDelta::hours(1);
        let modified = |text: Value| json!({"server_modified_on": text});
        for (text, is_later) in [
            (json!("1970-01-01T00:59:59.999999Z"), false),
            (json!("1970-01-01T01:00:00Z"), false),
            (json!("1970-01-01T01:00:00.000001Z"), true),
            (Value::Null, false),
            (json!("soon"), false),
        ] {
            assert_eq!(
                later(&modified(text.clone()), Some(cutoff)).is_some(),
                is_later,
                "{text}"
            );
            assert_eq!(later(&modified(text), None), None, "not live");
        }
    }
}
