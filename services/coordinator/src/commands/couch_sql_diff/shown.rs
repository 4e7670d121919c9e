//! Records as they are shown: a document each for a case, a form, and every ledger of a case.

use std::collections::BTreeMap;

use docdiff::{Diff, LEDGER_KIND, RecordedDiff, Side};
use serde_json::{Value, json};
use state::records::DiffRecord;

use super::select::Parts;
use crate::failure::{Failure, Result};

/// A document as it is shown.
pub(crate) struct Shown {
    pub(crate) kind: String,
    pub(crate) doc_id: String,
    /// The document whose record it is in: for a ledger, its case.
    pub(crate) of: String,
    pub(crate) diffs: Vec<Diff>,
    pub(crate) reason: Option<String>,
}

/// Which differences are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Narrow {
    /// With this path; with any path below it when it ends with `/*`.
    pub path: Option<String>,
    /// Of this kind.
    pub diff_type: Option<String>,
    /// With this reason.
    pub reason: Option<String>,
}

impl Narrow {
    pub(super) fn is_open(&self) -> bool {
        *self == Self::default()
    }

    fn keeps(&self, diff: &Diff) -> bool {
        let diff_type = self.diff_type.as_deref();
        let path = diff.path_text();
        diff_type.is_none_or(|wanted| wanted == diff.diff_type.as_str())
            && self
                .path
                .as_deref()
                .is_none_or(|wanted| match wanted.strip_suffix("/*") {
                    Some(above) => path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/')),
                    None => path == wanted,
                })
    }

    /// What is wanted of a document; none when nothing is left.
    fn narrow(&self, mut document: Shown) -> Option<Shown> {
        if self.reason.is_some() && self.reason != document.reason {
            return None;
        }
        document.diffs.retain(|diff| self.keeps(diff));
        (!document.diffs.is_empty()).then_some(document)
    }
}

/// The document of a record, and each ledger that stands with it as a document of its own; diffs by type and path.
pub(crate) fn shown(record: &DiffRecord) -> Result<Vec<Shown>> {
    let entries = entries(record)?;
    // Changes of one document may have several reasons: they are shown apart.
    let mut documents: BTreeMap<(Option<String>, Option<String>), Shown> = BTreeMap::new();
    for entry in entries {
        let reason = entry.reason.or_else(|| record.reason.clone());
        let document = documents
            .entry((entry.ledger.clone(), reason.clone()))
            .or_insert_with(|| Shown {
                kind: if entry.ledger.is_some() {
                    LEDGER_KIND.to_owned()
                } else {
                    record.kind.clone()
                },
                doc_id: entry.ledger.clone().unwrap_or_else(|| record.doc_id.clone()),
                of: record.doc_id.clone(),
                diffs: Vec::new(),
                reason,
            });
        document.diffs.push(entry.diff);
    }
    let mut documents: Vec<Shown> = documents.into_values().collect();
    for document in &mut documents {
        document
            .diffs
            .sort_by_key(|diff| (diff.diff_type.as_str(), diff.path_text()));
    }
    Ok(documents)
}

/// The documents of a record that are wanted.
pub(super) fn wanted(record: &DiffRecord, parts: &Parts, narrow: &Narrow) -> Result<Vec<Shown>> {
    let is_part = |document: &Shown| parts.wants((document.kind == LEDGER_KIND).then_some(document.doc_id.as_str()));
    let documents = shown(record)?.into_iter().filter(is_part);
    Ok(documents.filter_map(|document| narrow.narrow(document)).collect())
}

/// The entries of a record.
pub(crate) fn entries(record: &DiffRecord) -> Result<Vec<RecordedDiff>> {
    let unreadable = || {
        Failure::new(
            "C2S-1510",
            format!("the recorded diffs of {} cannot be read", record.doc_id),
            "",
        )
    };
    let list: Vec<Value> = serde_json::from_str(&record.diffs).map_err(|_| unreadable())?;
    list.iter()
        .map(RecordedDiff::from_json)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| unreadable())
}

/// A side of a difference as text: JSON, or `[MISSING]`.
pub(crate) fn side(side: &Side) -> String {
    match side {
        Side::Missing => "[MISSING]".to_owned(),
        Side::Value(value) => value.to_string(),
    }
}

pub(super) fn as_json(document: &Shown) -> Value {
    let diffs: Vec<Value> = document.diffs.iter().map(Diff::to_json).collect();
    let mut object = json!({"doc_type": document.kind, "doc_id": document.doc_id, "diffs": diffs});
    if let (Some(reason), Some(map)) = (&document.reason, object.as_object_mut()) {
        map.insert("reason".to_owned(), json!(reason));
    }
    object
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(in super::super) fn record_of_a_case_with_ledgers() -> DiffRecord {
        let balance = |stock_id: &str, reason: &str| {
            json!({"type": "diff", "path": {"stock_id": stock_id, "path": ["balance"]}, "old_value": 2, "new_value": 1,
                "reason": reason})
        };
        DiffRecord {
            kind: "CommCareCase".to_owned(),
            doc_id: "c".to_owned(),
            diffs: json!([
                balance("c/stock/q", "duplicate stock transaction"),
                {"type": "missing", "path": ["b"], "old_value": 1, "reason": "rebuild case"},
                {"type": "diff", "path": ["a"], "old_value": 1, "new_value": 2, "reason": "rebuild case"},
                balance("c/stock/p", "duplicate stock transaction"),
            ])
            .to_string(),
            reason: Some("duplicate stock transaction, rebuild case".to_owned()),
        }
    }

    fn told(documents: &[Shown]) -> Vec<String> {
        documents
            .iter()
            .map(|document| {
                let paths: Vec<String> = document.diffs.iter().map(Diff::path_text).collect();
                format!(
                    "{} {} ({}): {}",
                    document.kind,
                    document.doc_id,
                    document.reason.as_deref().unwrap_or_default(),
                    paths.join(" ")
                )
            })
            .collect()
    }

    #[test]
    fn ledgers_of_a_case_are_documents_of_their_own() {
        let record = record_of_a_case_with_ledgers();
        let documents = shown(&record).unwrap();
        assert_eq!(
            told(&documents),
            [
                "CommCareCase c (rebuild case): a b",
                "stock state c/stock/p (duplicate stock transaction): balance",
                "stock state c/stock/q (duplicate stock transaction): balance",
            ]
        );
        assert!(documents.iter().all(|document| document.of == "c"));
        assert_eq!(
            as_json(&documents[1]),
            json!({"doc_type": "stock state", "doc_id": "c/stock/p", "reason": "duplicate stock transaction",
                "diffs": [{"type": "diff", "path": ["balance"], "old_value": 2, "new_value": 1}]})
        );
        let broken = DiffRecord {
            diffs: json!([{"type": "diff", "path": {"path": []}}]).to_string(),
            ..record
        };
        assert_eq!(shown(&broken).err().unwrap().code, "C2S-1510");
    }

    #[test]
    fn only_what_is_asked_for_is_shown() {
        let record = record_of_a_case_with_ledgers();
        let narrow = |path: Option<&str>, diff_type: Option<&str>, reason: Option<&str>| Narrow {
            path: path.map(str::to_owned),
            diff_type: diff_type.map(str::to_owned),
            reason: reason.map(str::to_owned),
        };
        let q = Parts::Ledgers(["c/stock/q".to_owned()].into());
        for (parts, narrow, expected) in [
            (
                Parts::All,
                narrow(Some("a"), None, None),
                &["CommCareCase c (rebuild case): a"][..],
            ),
            (
                Parts::All,
                narrow(None, Some("missing"), None),
                &["CommCareCase c (rebuild case): b"],
            ),
            (Parts::All, narrow(None, None, Some("deleted forms")), &[]),
            (
                q,
                narrow(None, Some("diff"), Some("duplicate stock transaction")),
                &["stock state c/stock/q (duplicate stock transaction): balance"],
            ),
        ] {
            assert_eq!(told(&wanted(&record, &parts, &narrow).unwrap()), expected);
        }
        let below = narrow(Some("form/*"), None, None);
        let at = |path: &[&str]| {
            let json = json!({"type": "diff", "path": path, "old_value": 1, "new_value": 2});
            below.keeps(&Diff::from_json(&json).unwrap())
        };
        assert!(at(&["form", "a"]) && at(&["form", "a", "b"]));
        assert!(!at(&["form"]) && !at(&["formal", "a"]));
    }
}
