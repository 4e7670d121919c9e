//! The plain comparison of two JSON values.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::diff::{Diff, DiffType, PathElement, Side};
use crate::python;

/// The path element that stands for any element of a list.
pub const ANY_INDEX: &str = "[*]";

/// How the path names an element of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListIndices {
    /// By its position.
    Tracked,
    /// As [`ANY_INDEX`], whichever it is. Documents are compared so.
    Untracked,
}

/// A step of the path to a difference that is only looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl<'a> Step<'a> {
    pub(crate) fn of(element: &'a PathElement) -> Self {
        match element {
            PathElement::Key(name) => Self::Key(name),
            PathElement::Index(position) => Self::Index(*position),
        }
    }

    pub(crate) fn is_key(self, name: &str) -> bool {
        matches!(self, Self::Key(key) if key == name)
    }

    fn to_element(self) -> PathElement {
        match self {
            Self::Key(ANY_INDEX) => PathElement::key(ANY_INDEX),
            Self::Key(name) => PathElement::Key(Cow::Owned(name.to_owned())),
            Self::Index(position) => PathElement::Index(position),
        }
    }
}

/// A difference as the comparison finds it. Most are dropped by a rule, hence nothing of it is owned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'p, 'a> {
    pub(crate) diff_type: DiffType,
    pub(crate) path: &'p [Step<'a>],
    pub(crate) old: Option<&'a Value>,
    pub(crate) new: Option<&'a Value>,
}

impl Found<'_, '_> {
    pub(crate) fn to_diff(self) -> Diff {
        Diff {
            diff_type: self.diff_type,
            path: self.path.iter().map(|step| step.to_element()).collect(),
            old: Side::of(self.old),
            new: Side::of(self.new),
        }
    }
}

type Sink<'s, 'a> = &'s mut dyn FnMut(&Found<'_, 'a>);

/// All differences between two values, in the order of the old value's keys, then of the new one's.
///
/// Nothing is normalised. Lists are compared by position.
pub fn json_diff(old: &Value, new: &Value, list_indices: ListIndices) -> Vec<Diff> {
    let mut diffs = Vec::new();
    walk(old, new, list_indices, &mut |found| diffs.push(found.to_diff()));
    diffs
}

/// [`json_diff`] without a diff made for what is found.
pub(crate) fn walk<'a>(old: &'a Value, new: &'a Value, list_indices: ListIndices, sink: Sink<'_, 'a>) {
    Walk {
        path: Vec::new(),
        list_indices,
        sink,
    }
    .pair(Some(old), Some(new));
}

/// [`walk`] over two documents, with any list index, that leaves one top-level key out.
pub(crate) fn walk_except<'a>(old: &'a Value, new: &'a Value, left_out: Option<&str>, sink: Sink<'_, 'a>) {
    let mut walk = Walk {
        path: Vec::new(),
        list_indices: ListIndices::Untracked,
        sink,
    };
    match (old, new, left_out) {
        (Value::Object(old), Value::Object(new), Some(_)) => walk.objects(old, new, left_out),
        _ => walk.pair(Some(old), Some(new)),
    }
}

struct Walk<'s, 'a> {
    path: Vec<Step<'a>>,
    list_indices: ListIndices,
    sink: Sink<'s, 'a>,
}

impl<'a> Walk<'_, 'a> {
    /// Equal containers need no look of their own: nothing is found inside of them.
    fn pair(&mut self, old: Option<&'a Value>, new: Option<&'a Value>) {
        let diff_type = match (old, new) {
            (Some(Value::Object(old)), Some(Value::Object(new))) => return self.objects(old, new, None),
            (Some(Value::Array(old)), Some(Value::Array(new))) => return self.lists(old, new),
            (Some(old), Some(new)) if python::equal(old, new) => return,
            (Some(old), Some(new)) if python::kind(old) == python::kind(new) => DiffType::Diff,
            (Some(_), Some(_)) => DiffType::Type,
            (None, None) => return,
            _ => DiffType::Missing,
        };
        (self.sink)(&Found {
            diff_type,
            path: &self.path,
            old,
            new,
        });
    }

    fn objects(&mut self, old: &'a Map<String, Value>, new: &'a Map<String, Value>, left_out: Option<&str>) {
        let wanted = |key: &str| left_out != Some(key);
        for (key, value) in old.iter().filter(|(key, _)| wanted(key)) {
            self.step(Step::Key(key), Some(value), new.get(key));
        }
        for (key, value) in new.iter().filter(|(key, _)| wanted(key) && !old.contains_key(*key)) {
            self.step(Step::Key(key), None, Some(value));
        }
    }

    fn lists(&mut self, old: &'a [Value], new: &'a [Value]) {
        for position in 0..old.len().max(new.len()) {
            let step = match self.list_indices {
                ListIndices::Tracked => Step::Index(position),
                ListIndices::Untracked => Step::Key(ANY_INDEX),
            };
            self.step(step, old.get(position), new.get(position));
        }
    }

    fn step(&mut self, step: Step<'a>, old: Option<&'a Value>, new: Option<&'a Value>) {
        self.path.push(step);
        self.pair(old, new);
        self.path.pop();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(old: &Value, new: &Value, list_indices: ListIndices) -> Vec<String> {
        let diffs = json_diff(old, new, list_indices);
        diffs
            .iter()
            .map(|diff| format!("{} {}", diff.diff_type.as_str(), diff.path_text()))
            .collect()
    }

    #[test]
    fn kinds_of_differences() {
        for (old, new, expected) in [
            (json!({"a": 1}), json!({"a": 1.0}), vec![]),
            (json!({"a": true}), json!({"a": 1}), vec![]),
            (json!({"a": true}), json!({"a": 0}), vec!["type a"]),
            (json!({"a": 1}), json!({"a": 1.5}), vec!["type a"]),
            (json!({"a": 1}), json!({"a": 2}), vec!["diff a"]),
            (json!({"a": "1"}), json!({"a": 1}), vec!["type a"]),
            (json!({"a": null}), json!({"a": ""}), vec!["type a"]),
            (
                json!({"a": "2015-01-01"}),
                json!({"a": "2015-01-01T00:00:00Z"}),
                vec!["diff a"],
            ),
            (json!({"a": null}), json!({}), vec!["missing a"]),
            (json!({"a": {"b": 1}}), json!({"a": "x"}), vec!["type a"]),
            (json!({"a": "x"}), json!({"a": {"b": 1}}), vec!["type a"]),
            (json!({"a": [1]}), json!({"a": {"b": 1}}), vec!["type a"]),
            (
                json!({"a": {"b": {"c": 1}}}),
                json!({"a": {"b": {"c": 2}}}),
                vec!["diff a/b/c"],
            ),
            (json!([]), json!({}), vec!["type "]),
            (json!(1), json!(2), vec!["diff "]),
        ] {
            assert_eq!(found(&old, &new, ListIndices::Untracked), expected, "{old} {new}");
        }
    }

    #[test]
    fn lists_are_compared_by_position() {
        let (old, new) = (json!({"a": [1, 2, {"b": 3}]}), json!({"a": [2, 1]}));
        assert_eq!(
            found(&old, &new, ListIndices::Untracked),
            ["diff a/[*]", "diff a/[*]", "missing a/[*]"]
        );
        assert_eq!(
            found(&old, &new, ListIndices::Tracked),
            ["diff a/0", "diff a/1", "missing a/2"]
        );
        assert_eq!(
            found(&new, &old, ListIndices::Tracked),
            ["diff a/0", "diff a/1", "missing a/2"]
        );
    }

    #[test]
    fn keys_of_the_old_value_come_first() {
        let (old, new) = (json!({"z": 1, "b": 1, "a": 1}), json!({"n": 1, "a": 2, "z": 2, "c": 1}));
        assert_eq!(
            found(&old, &new, ListIndices::Untracked),
            ["diff z", "missing b", "diff a", "missing n", "missing c"]
        );
    }

    #[test]
    fn both_sides_are_given() {
        let diffs = json_diff(&json!({"a": 1}), &json!({"b": 2}), ListIndices::Untracked);
        assert_eq!((&diffs[0].old, &diffs[0].new), (&Side::Value(json!(1)), &Side::Missing));
        assert_eq!((&diffs[1].old, &diffs[1].new), (&Side::Missing, &Side::Value(json!(2))));
    }

    #[test]
    fn a_key_can_be_left_out_at_the_top_only() {
        let (old, new) = (json!({"a": 1, "b": {"a": 1}}), json!({"a": 2, "b": {"a": 2}}));
        let mut paths = Vec::new();
        walk_except(&old, &new, Some("a"), &mut |found| {
            paths.push(found.to_diff().path_text());
        });
        assert_eq!(paths, ["b/a"]);
    }
}
