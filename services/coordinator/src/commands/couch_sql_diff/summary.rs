//! Many differences at a glance: how often each kind of difference occurs, with a few examples.

use std::collections::{BTreeMap, BTreeSet};

use proto::ids::Domain;
use serde_json::{Value, json};

use super::shown::{Shown, side};
use crate::commands::output::shell_word;

/// Examples of each group.
const EXAMPLES: usize = 3;
/// Groups that are told apart; the differences of others are counted together. Names of properties are the domain's own,
/// so that there may be any number of them.
const GROUPS: usize = 10_000;
/// Characters of an example's values that are kept.
const VALUE: usize = 60;

/// What differences have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GroupKey {
    pub(crate) doc_type: String,
    pub(crate) path: String,
    pub(crate) diff_type: &'static str,
    pub(crate) reason: Option<String>,
}

/// A document of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Example {
    pub(crate) doc_id: String,
    pub(crate) old: String,
    pub(crate) new: String,
}

/// A group of differences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) documents: u64,
    pub(crate) diffs: u64,
    pub(crate) examples: Vec<Example>,
}

/// All groups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    groups: BTreeMap<GroupKey, Group>,
    /// Documents with differences; a ledger is one.
    pub(crate) documents: u64,
    /// Differences.
    pub(crate) diffs: u64,
    /// Differences of groups beyond those that are told apart.
    pub(crate) others: u64,
}

impl Summary {
    /// Counts a document.
    pub(crate) fn add(&mut self, document: &Shown) {
        self.documents += 1;
        let mut met = BTreeSet::new();
        for diff in &document.diffs {
            self.diffs += 1;
            let key = GroupKey {
                doc_type: document.kind.clone(),
                path: diff.path_text(),
                diff_type: diff.diff_type.as_str(),
                reason: document.reason.clone(),
            };
            if self.groups.len() >= GROUPS && !self.groups.contains_key(&key) {
                self.others += 1;
                continue;
            }
            let is_first = met.insert(key.clone());
            let group = self.groups.entry(key).or_default();
            group.diffs += 1;
            if is_first {
                group.documents += 1;
                if group.examples.len() < EXAMPLES {
                    group.examples.push(Example {
                        doc_id: document.doc_id.clone(),
                        old: cut(side(&diff.old)),
                        new: cut(side(&diff.new)),
                    });
                }
            }
        }
    }

    /// The groups, the largest first.
    pub(crate) fn groups(&self) -> Vec<(&GroupKey, &Group)> {
        let mut groups: Vec<_> = self.groups.iter().collect();
        groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.documents));
        groups
    }

    /// For people.
    pub(super) fn lines(&self, domain: &Domain, changes: bool) -> Vec<String> {
        let mut lines = vec![format!("{} differences in {} documents", self.diffs, self.documents)];
        for (key, group) in self.groups() {
            let reason = key.reason.as_deref().map(|reason| format!(" ({reason})"));
            lines.push(String::new());
            lines.push(format!(
                "{} {} [{}]{}: {} documents",
                key.doc_type,
                key.diff_type,
                key.path,
                reason.unwrap_or_default(),
                group.documents
            ));
            lines.extend(
                group
                    .examples
                    .iter()
                    .map(|example| format!("    {}: {} -> {}", example.doc_id, example.old, example.new)),
            );
        }
        if self.others > 0 {
            lines.push(format!(
                "\nand {} differences of more kinds than are told apart",
                self.others
            ));
        }
        if let Some((key, _)) = self.groups().first() {
            let changes = if changes { " --changes" } else { "" };
            let reason = key.reason.as_deref();
            let reason = reason.map(|reason| format!(" --reason={}", shell_word(reason)));
            let domain = shell_word(domain.as_str());
            lines.push(format!(
                "\nLook closer, for instance with:\n  couch_sql_diff {domain} show{changes} --select={} --path={} --diff-type={}{}\n\
                 or print everything with --all.",
                shell_word(&key.doc_type),
                shell_word(&key.path),
                key.diff_type,
                reason.unwrap_or_default()
            ));
        }
        lines
    }

    /// An object with the totals, and one for each group.
    pub(super) fn to_json(&self) -> Vec<Value> {
        let totals = json!({"documents": self.documents, "diffs": self.diffs, "groups": self.groups.len(),
            "diffs_of_other_groups": self.others});
        let groups = self.groups().into_iter().map(|(key, group)| {
            let examples: Vec<Value> = group
                .examples
                .iter()
                .map(|example| json!({"doc_id": example.doc_id, "old": example.old, "new": example.new}))
                .collect();
            json!({
                "doc_type": key.doc_type, "path": key.path, "diff_type": key.diff_type, "reason": key.reason,
                "documents": group.documents, "diffs": group.diffs, "examples": examples,
            })
        });
        std::iter::once(json!({"totals": totals})).chain(groups).collect()
    }
}

fn cut(text: String) -> String {
    match text.char_indices().nth(VALUE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use docdiff::Diff;

    use super::*;

    fn document(doc_id: &str, diffs: &[(&str, &str, Value)]) -> Shown {
        Shown {
            kind: "CommCareCase".to_owned(),
            doc_id: doc_id.to_owned(),
            of: doc_id.to_owned(),
            diffs: diffs
                .iter()
                .map(|(diff_type, path, old)| {
                    let path: Vec<&str> = path.split('/').collect();
                    Diff::from_json(&json!({"type": diff_type, "path": path, "old_value": old, "new_value": 2}))
                        .unwrap()
                })
                .collect(),
            reason: None,
        }
    }

    #[test]
    fn documents_are_counted_once_a_group_and_three_are_shown() {
        let mut summary = Summary::default();
        summary.add(&document(
            "a",
            &[
                ("missing", "indices/[*]", json!(1)),
                ("missing", "indices/[*]", json!(2)),
            ],
        ));
        for id in ["b", "c", "d", "e"] {
            summary.add(&document(id, &[("diff", "age", json!("x".repeat(100)))]));
        }
        assert_eq!((summary.documents, summary.diffs, summary.others), (5, 6, 0));
        let groups = summary.groups();
        let told: Vec<_> = groups
            .iter()
            .map(|(key, group)| (key.path.as_str(), group.documents, group.diffs, group.examples.len()))
            .collect();
        assert_eq!(told, [("age", 4, 4, 3), ("indices/[*]", 1, 2, 1)]);
        assert_eq!(groups[0].1.examples[0].old.chars().count(), VALUE + 1);
        let json = summary.to_json();
        assert_eq!(
            json[0],
            json!({"totals": {"documents": 5, "diffs": 6, "groups": 2, "diffs_of_other_groups": 0}})
        );
        assert_eq!((json.len(), &json[1]["path"]), (3, &json!("age")));
        let lines = summary.lines(&Domain::new("demo"), false).join("\n");
        assert!(lines.starts_with("6 differences in 5 documents\n"), "{lines}");
        assert!(lines.contains("CommCareCase diff [age]: 4 documents"), "{lines}");
        assert!(
            lines.contains("couch_sql_diff demo show --select=CommCareCase --path=age --diff-type=diff"),
            "{lines}"
        );
    }

    #[test]
    fn any_number_of_groups_is_counted_in_bounded_memory() {
        let mut summary = Summary::default();
        for number in 0..GROUPS + 5 {
            summary.add(&document("a", &[("diff", &format!("p{number}"), json!(1))]));
        }
        assert_eq!((summary.groups.len(), summary.others), (GROUPS, 5));
        summary.add(&document("b", &[("diff", "p0", json!(1))]));
        assert_eq!(summary.others, 5);
    }
}
