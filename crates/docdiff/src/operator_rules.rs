//! Ignore rules that an operator adds for one domain.
//!
//! They come after the table of rules ([`crate::rules`]), and look at what that has left: each says of one path what need
//! not stand against the domain. What they drop is not lost; it is handed back with the name of its rule, and counted apart.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::diff::{Diff, DiffType, Side};
use crate::record::{LEDGER_KIND, RecordedDiff};

/// Types of documents that a rule may be for, beside the two groups.
const DOCUMENTS: [&str; 10] = [
    "XFormInstance",
    "XFormInstance-Deleted",
    "HQSubmission",
    "XFormArchived",
    "XFormError",
    "XFormDuplicate",
    "XFormDeprecated",
    "CommCareCase",
    "CommCareCase-Deleted",
    LEDGER_KIND,
];
/// Keys of a rule.
const KEYS: [&str; 8] = [
    "name",
    "documents",
    "path",
    "below",
    "diff_type",
    "old",
    "new",
    "reason",
];
/// Names are short: they stand in tables.
const NAME: usize = 60;

/// Why a rule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleFault {
    /// Not an object.
    #[error("a rule is not a table of keys and values")]
    NotATable,
    /// A key that rules do not have.
    #[error("rule {0:?} has the unknown key {1:?}")]
    UnknownKey(String, String),
    /// No usable name.
    #[error("a rule needs a name of up to {NAME} small letters, digits and dashes; this is none: {0:?}")]
    Name(String),
    /// Two rules of one name.
    #[error("there are two rules named {0:?}")]
    Twice(String),
    /// No known documents.
    #[error("rule {0:?} does not say which documents it is for: forms, cases, stock state, or a document type")]
    Documents(String),
    /// No path.
    #[error("rule {0:?} has no path: a list of names, [\"*\"] for the whole document")]
    Path(String),
    /// No such kind of difference.
    #[error("rule {0:?} has a diff_type that is none: diff, type, missing, set_mismatch or complex")]
    DiffType(String),
    /// Not an expectation.
    #[error("rule {0:?}: `{1}` is neither {{ missing = true }} nor {{ value = … }}")]
    Side(String, &'static str),
    /// `below` is not true or false.
    #[error("rule {0:?}: `below` is neither true nor false")]
    Below(String),
    /// No reason.
    #[error("rule {0:?} gives no reason, by which others may judge it later")]
    Reason(String),
}

/// What a rule expects of one side.
#[derive(Clone, Debug, PartialEq)]
enum Expected {
    Any,
    Missing,
    Value(Value),
}

impl Expected {
    fn matches(&self, side: &Side) -> bool {
        match (self, side) {
            (Self::Any, _) | (Self::Missing, Side::Missing) => true,
            (Self::Value(expected), Side::Value(value)) => expected == value,
            _ => false,
        }
    }
}

/// A rule of an operator.
#[derive(Clone, Debug, PartialEq)]
pub struct OperatorRule {
    name: String,
    documents: String,
    path: Vec<String>,
    below: bool,
    diff_type: Option<DiffType>,
    old: Expected,
    new: Expected,
    reason: String,
    /// As it was given.
    json: Value,
}

impl OperatorRule {
    /// Reads a rule.
    ///
    /// # Errors
    /// See [`RuleFault`].
    pub fn from_json(json: &Value) -> Result<Self, RuleFault> {
        let rule = json.as_object().ok_or(RuleFault::NotATable)?;
        let text = |key: &str| {
            rule.get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let name = text("name");
        let may_stand = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        if name.is_empty() || name.len() > NAME || !name.chars().all(may_stand) {
            return Err(RuleFault::Name(name));
        }
        if let Some(key) = rule.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(RuleFault::UnknownKey(name, key.clone()));
        }
        let documents = text("documents");
        if !matches!(documents.as_str(), "forms" | "cases") && !DOCUMENTS.contains(&documents.as_str()) {
            return Err(RuleFault::Documents(name));
        }
        let path: Option<Vec<String>> = rule
            .get("path")
            .and_then(Value::as_array)
            .map(|path| path.iter().map(|step| step.as_str().map(str::to_owned)).collect())
            .unwrap_or_default();
        let Some(path) = path.filter(|path| !path.is_empty()) else {
            return Err(RuleFault::Path(name));
        };
        let below = match rule.get("below") {
            None => false,
            Some(Value::Bool(below)) => *below,
            Some(_) => return Err(RuleFault::Below(name)),
        };
        let diff_type = match rule.get("diff_type") {
            None => None,
            Some(kind) => match kind.as_str().and_then(DiffType::parse) {
                None => return Err(RuleFault::DiffType(name)),
                kind => kind,
            },
        };
        let (old, new) = (expected(rule, &name, "old")?, expected(rule, &name, "new")?);
        let reason = text("reason");
        if reason.is_empty() {
            return Err(RuleFault::Reason(name));
        }
        Ok(Self {
            name,
            documents,
            path,
            below,
            diff_type,
            old,
            new,
            reason,
            json: json.clone(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Why its differences need not stand against the domain.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// As it was given.
    pub fn to_json(&self) -> &Value {
        &self.json
    }

    fn is_for(&self, kind: &str) -> bool {
        match self.documents.as_str() {
            "cases" => kind.starts_with("CommCareCase"),
            "forms" => !kind.starts_with("CommCareCase") && kind != LEDGER_KIND,
            documents => documents == kind,
        }
    }

    fn matches(&self, kind: &str, diff: &Diff) -> bool {
        let reaches = |length: usize| length == self.path.len() || (self.below && length > self.path.len());
        self.is_for(kind)
            && self.diff_type.is_none_or(|diff_type| diff_type == diff.diff_type)
            && reaches(diff.path.len())
            && self
                .path
                .iter()
                .zip(&diff.path)
                .all(|(name, step)| *name == step.to_string())
            && self.old.matches(&diff.old)
            && self.new.matches(&diff.new)
    }
}

fn expected(rule: &Map<String, Value>, name: &str, key: &'static str) -> Result<Expected, RuleFault> {
    let Some(side) = rule.get(key) else {
        return Ok(Expected::Any);
    };
    let fault = || RuleFault::Side(name.to_owned(), key);
    let side = side.as_object().filter(|side| side.len() == 1).ok_or_else(fault)?;
    match (side.get("missing"), side.get("value")) {
        (Some(Value::Bool(true)), None) => Ok(Expected::Missing),
        (None, Some(value)) => Ok(Expected::Value(value.clone())),
        _ => Err(fault()),
    }
}

/// The rules of a domain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OperatorRules(Vec<OperatorRule>);

/// A list of differences after the rules of a domain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SortedOut {
    /// What no rule matches.
    pub kept: Vec<RecordedDiff>,
    /// What each rule, by its name, has dropped.
    pub ignored: BTreeMap<String, Vec<RecordedDiff>>,
}

impl OperatorRules {
    /// Reads rules. The first that matches a difference counts.
    ///
    /// # Errors
    /// See [`RuleFault`].
    pub fn from_json<'a>(rules: impl IntoIterator<Item = &'a Value>) -> Result<Self, RuleFault> {
        let rules = rules
            .into_iter()
            .map(OperatorRule::from_json)
            .collect::<Result<Vec<_>, _>>()?;
        let mut names = BTreeSet::new();
        match rules.iter().find(|rule| !names.insert(rule.name.as_str())) {
            Some(twice) => Err(RuleFault::Twice(twice.name.clone())),
            None => Ok(Self(rules)),
        }
    }

    /// The rules.
    pub fn rules(&self) -> &[OperatorRule] {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them drops this difference of a document that is recorded under a kind.
    pub fn ignores(&self, kind: &str, diff: &Diff) -> bool {
        self.0.iter().any(|rule| rule.matches(kind, diff))
    }

    /// Sorts the differences of a document, recorded under a kind, by whether a rule drops them.
    pub fn sort_out(&self, kind: &str, diffs: Vec<RecordedDiff>) -> SortedOut {
        let mut sorted = SortedOut::default();
        for recorded in diffs {
            let kind = if recorded.ledger.is_some() { LEDGER_KIND } else { kind };
            match self.0.iter().find(|rule| rule.matches(kind, &recorded.diff)) {
                Some(rule) => sorted.ignored.entry(rule.name.clone()).or_default().push(recorded),
                None => sorted.kept.push(recorded),
            }
        }
        sorted
    }
}

impl SortedOut {
    /// Reasons of a list of changes, for its record; none for diffs.
    pub fn reasons(list: &[RecordedDiff]) -> Option<String> {
        let reasons: BTreeSet<&str> = list.iter().filter_map(|entry| entry.reason.as_deref()).collect();
        (!reasons.is_empty()).then(|| reasons.into_iter().collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(more: &[Value]) -> OperatorRules {
        let rules: Vec<Value> = more
            .iter()
            .enumerate()
            .map(|(number, keys)| {
                let mut rule = json!({"name": format!("r{number}"), "documents": "cases", "reason": "known"});
                for (key, value) in keys.as_object().unwrap() {
                    rule[key] = value.clone();
                }
                rule
            })
            .collect();
        OperatorRules::from_json(&rules).unwrap()
    }

    fn diff(path: &[&str], old: &Value, new: &Value) -> RecordedDiff {
        let mut json = json!({"type": "diff", "path": path});
        for (key, side) in [("old_value", old), ("new_value", new)] {
            if *side != json!("MISSING") {
                json[key] = side.clone();
            }
        }
        RecordedDiff::from_json(&json).unwrap()
    }

    /// Which rule drops the diff.
    fn dropped_by(rules: &OperatorRules, kind: &str, diff: RecordedDiff) -> Option<String> {
        let sorted = rules.sort_out(kind, vec![diff]);
        assert_eq!(sorted.kept.len() + sorted.ignored.len(), 1);
        sorted.ignored.into_keys().next()
    }

    #[test]
    fn a_rule_drops_what_all_of_it_matches() {
        let (one, two) = (json!("1"), json!("2"));
        let missing = json!("MISSING");
        for (keys, kind, found, is_dropped) in [
            (
                json!({"path": ["age"]}),
                "CommCareCase",
                diff(&["age"], &one, &two),
                true,
            ),
            (
                json!({"path": ["age"]}),
                "CommCareCase-Deleted",
                diff(&["age"], &one, &two),
                true,
            ),
            (
                json!({"path": ["age"]}),
                "XFormInstance",
                diff(&["age"], &one, &two),
                false,
            ),
            (
                json!({"path": ["age"]}),
                "CommCareCase",
                diff(&["age", "years"], &one, &two),
                false,
            ),
            (
                json!({"path": ["age"], "below": true}),
                "CommCareCase",
                diff(&["age", "years"], &one, &two),
                true,
            ),
            (
                json!({"path": ["indices", "[*]"]}),
                "CommCareCase",
                diff(&["indices", "[*]"], &one, &two),
                true,
            ),
            (
                json!({"path": ["age"], "diff_type": "type"}),
                "CommCareCase",
                diff(&["age"], &one, &two),
                false,
            ),
            (
                json!({"path": ["age"], "diff_type": "diff"}),
                "CommCareCase",
                diff(&["age"], &one, &two),
                true,
            ),
            (
                json!({"path": ["age"], "old": {"value": "1"}}),
                "CommCareCase",
                diff(&["age"], &one, &two),
                true,
            ),
            (
                json!({"path": ["age"], "old": {"value": 1}}),
                "CommCareCase",
                diff(&["age"], &one, &two),
                false,
            ),
            (
                json!({"path": ["age"], "new": {"missing": true}}),
                "CommCareCase",
                diff(&["age"], &one, &two),
                false,
            ),
            (
                json!({"path": ["age"], "new": {"missing": true}}),
                "CommCareCase",
                diff(&["age"], &one, &missing),
                true,
            ),
            (
                json!({"path": ["age"], "new": {"value": null}}),
                "CommCareCase",
                diff(&["age"], &one, &missing),
                false,
            ),
            (
                json!({"path": ["age"], "documents": "CommCareCase-Deleted"}),
                "CommCareCase",
                diff(&["age"], &one, &two),
                false,
            ),
            (
                json!({"path": ["age"], "documents": "forms"}),
                "XFormError",
                diff(&["age"], &one, &two),
                true,
            ),
        ] {
            let got = dropped_by(&rules(std::slice::from_ref(&keys)), kind, found.clone());
            assert_eq!(got.is_some(), is_dropped, "{keys} {kind} {found:?}");
        }
    }

    #[test]
    fn ledgers_have_rules_of_their_own_and_the_first_rule_counts() {
        let ledger = RecordedDiff {
            ledger: Some("c/stock/p".to_owned()),
            ..diff(&["balance"], &json!(1), &json!(2))
        };
        let both = rules(&[
            json!({"path": ["balance"]}),
            json!({"path": ["balance"], "documents": "stock state"}),
        ]);
        assert_eq!(dropped_by(&both, "CommCareCase", ledger).as_deref(), Some("r1"));
        let twice = rules(&[json!({"path": ["a"]}), json!({"path": ["a"]})]);
        let found = diff(&["a"], &json!(1), &json!(2));
        assert_eq!(dropped_by(&twice, "CommCareCase", found).as_deref(), Some("r0"));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        let good = json!({"name": "a-1", "documents": "forms", "path": ["*"], "reason": "why"});
        assert_eq!(OperatorRule::from_json(&good).unwrap().to_json(), &good);
        let name = || "a-1".to_owned();
        for (key, value, fault) in [
            ("name", json!("A B"), RuleFault::Name("A B".to_owned())),
            ("documents", json!("Form"), RuleFault::Documents(name())),
            ("path", json!([]), RuleFault::Path(name())),
            ("path", json!([1]), RuleFault::Path(name())),
            ("path", json!("age"), RuleFault::Path(name())),
            ("diff_type", json!("list_order"), RuleFault::DiffType(name())),
            ("old", json!("x"), RuleFault::Side(name(), "old")),
            ("new", json!({"missing": false}), RuleFault::Side(name(), "new")),
            (
                "new",
                json!({"missing": true, "value": 1}),
                RuleFault::Side(name(), "new"),
            ),
            ("below", json!("yes"), RuleFault::Below(name())),
            ("reason", json!(" "), RuleFault::Reason(name())),
            ("paths", json!([]), RuleFault::UnknownKey(name(), "paths".to_owned())),
        ] {
            let mut rule = good.clone();
            rule[key] = value;
            assert_eq!(OperatorRule::from_json(&rule), Err(fault), "{rule}");
        }
        assert_eq!(OperatorRule::from_json(&json!([])), Err(RuleFault::NotATable));
        let twice = OperatorRules::from_json([&good, &good]);
        assert_eq!(twice, Err(RuleFault::Twice(name())));
    }
}
