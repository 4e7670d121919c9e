//! Which forms a recorded difference puts in doubt: the case in Couch has them, the case in SQL does not, or the other way
//! round.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::cases::FormState;

/// Forms that the recorded differences of a case name as applied in Couch only.
///
/// They are the ids that only Couch lists (`xform_ids`), those of the form check (`?`), and the form that last changed a
/// ledger which only Couch has. A form of which nothing is left is not among them: there is nothing to migrate.
pub fn forms_in_doubt(diffs: &Value) -> BTreeSet<String> {
    diffs.as_array().into_iter().flatten().flat_map(named_forms).collect()
}

/// Forms that changed a ledger last by what SQL says, where Couch says another. If one of them is a duplicate of another
/// form, it should not have changed anything.
pub fn forms_of_sql_ledgers(diffs: &Value) -> BTreeSet<String> {
    let diffs = diffs.as_array().into_iter().flatten();
    diffs
        .filter(|diff| is_path(&diff["path"]["path"], &["last_modified_form_id"]))
        .filter_map(|diff| diff["new_value"].as_str())
        .map(str::to_owned)
        .collect()
}

/// Whether the recorded differences of a case say that only SQL has it.
pub fn is_only_in_sql(diffs: &Value) -> bool {
    diffs.as_array().into_iter().flatten().any(|diff| {
        is_path(&diff["path"], &["*"])
            && diff["type"] == "missing"
            && diff.get("old_value").is_none()
            && diff["new_value"] == "present"
    })
}

fn named_forms(diff: &Value) -> Vec<String> {
    let old = &diff["old_value"];
    let path = &diff["path"];
    let ledger_path = &path["path"];
    if is_path(path, &["xform_ids", "[*]"]) && diff["type"] == "set_mismatch" {
        let ids = old.as_str().unwrap_or_default().split(',');
        ids.filter(|id| !id.is_empty()).map(str::to_owned).collect()
    } else if is_path(path, &["?"]) {
        let forms = old["forms"].as_object().into_iter().flatten();
        forms
            .filter(|(_, state)| *state != FormState::Missing.as_str())
            .map(|(id, _)| id.clone())
            .collect()
    } else if is_path(ledger_path, &["*"]) {
        let form = old["ledger"]["last_modified_form_id"].as_str();
        form.map(str::to_owned).into_iter().collect()
    } else {
        Vec::new()
    }
}

fn is_path(path: &Value, expected: &[&str]) -> bool {
    path.as_array().is_some_and(|elements| {
        elements
            .iter()
            .map(Value::as_str)
            .eq(expected.iter().copied().map(Some))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn forms_that_only_couch_has_applied() {
        let diffs = json!([
            {"type": "set_mismatch", "path": ["xform_ids", "[*]"], "old_value": "a,b", "new_value": "z"},
            {"type": "diff", "path": ["?"], "old_value": {"forms": {"c": "present", "d": "missing", "e": "missing, blob present"}},
             "new_value": {"forms": {"c": "missing", "d": "missing", "e": "missing"}}},
            {"type": "missing", "path": {"stock_id": "case/stock/p", "path": ["*"]},
             "old_value": {"form_state": "present", "ledger": {"balance": 3, "last_modified_form_id": "f"}},
             "new_value": {"form_state": "missing"}},
            {"type": "diff", "path": ["age"], "old_value": "g", "new_value": "h"},
            {"type": "missing", "path": ["xform_ids", "[*]"], "old_value": "i"},
        ]);
        let found: Vec<String> = forms_in_doubt(&diffs).into_iter().collect();
        assert_eq!(found, ["a", "b", "c", "e", "f"]);
    }

    #[test]
    fn forms_that_changed_a_ledger_in_sql_only() {
        let ledger = |path: &str| json!({"stock_id": "case/stock/p", "path": [path]});
        let diffs = json!([
            {"type": "diff", "path": ledger("last_modified_form_id"), "old_value": "a", "new_value": "b"},
            {"type": "type", "path": ledger("last_modified_form_id"), "old_value": "c", "new_value": null},
            {"type": "type", "path": ledger("last_modified_form_id"), "old_value": null, "new_value": "d"},
            {"type": "diff", "path": ledger("balance"), "old_value": 1, "new_value": 2},
            {"type": "diff", "path": ["last_modified_form_id"], "old_value": "e", "new_value": "f"},
        ]);
        let found: Vec<String> = forms_of_sql_ledgers(&diffs).into_iter().collect();
        assert_eq!(found, ["b", "d"]);
    }

    #[test]
    fn which_records_say_that_only_sql_has_the_case() {
        for (diff, expected) in [
            (json!({"type": "missing", "path": ["*"], "new_value": "present"}), true),
            (json!({"type": "missing", "path": ["*"], "old_value": "*"}), false),
            (
                json!({"type": "missing", "path": ["*"], "new_value": "missing with forms {'a'}"}),
                false,
            ),
            (
                json!({"type": "missing", "path": ["*"], "old_value": null, "new_value": "present"}),
                false,
            ),
            (
                json!({"type": "missing", "path": ["age"], "new_value": "present"}),
                false,
            ),
            (
                json!({"type": "missing", "path": {"stock_id": "c/s/p", "path": ["*"]}, "new_value": "present"}),
                false,
            ),
        ] {
            assert_eq!(is_only_in_sql(&json!([diff])), expected, "{diff}");
        }
        assert!(!is_only_in_sql(&json!([])));
    }

    #[test]
    fn a_difference_that_names_no_form_puts_none_in_doubt() {
        for diffs in [
            json!([]),
            json!(null),
            json!([{"type": "set_mismatch", "path": ["xform_ids", "[*]"], "old_value": "", "new_value": "z"}]),
            json!([{"type": "missing", "path": ["*"], "old_value": "*"}]),
        ] {
            assert!(forms_in_doubt(&diffs).is_empty(), "{diffs}");
        }
    }
}
