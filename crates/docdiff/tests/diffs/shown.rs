//! Diffs as short texts.

use std::collections::HashSet;

use docdiff::{Diff, Side, diff_case, diff_form};
use serde_json::Value;

/// `type path old -> new` of each diff; a missing side is `-`.
pub(crate) fn lines(diffs: &[Diff]) -> Vec<String> {
    let side = |side: &Side| side.as_value().map_or("-".to_owned(), ToString::to_string);
    let line = |diff: &Diff| {
        format!(
            "{} {} {} -> {}",
            diff.diff_type.as_str(),
            diff.path_text(),
            side(&diff.old),
            side(&diff.new)
        )
    };
    diffs.iter().map(line).collect()
}

pub(crate) fn form_lines(couch: &Value, sql: &Value) -> Vec<String> {
    lines(&diff_form(couch, sql).unwrap())
}

pub(crate) fn case_lines(couch: &Value, sql: &Value) -> Vec<String> {
    lines(&diff_case(couch, sql, &HashSet::new()).unwrap())
}

pub(crate) const NONE: [&str; 0] = [];
