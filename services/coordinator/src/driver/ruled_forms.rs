//! Forms that only SQL has, and that rules of operators drop: they are set aside as other differences are.

use docdiff::{OperatorRules, RecordedDiff, SortedOut};
use service::operator_rules;
use state::look::ONLY_IN_SQL;
use state::operator_rules::Ignored;

/// Forms as (kind, id).
type Forms = Vec<(String, String)>;

/// The forms that no rule drops, and what is set aside of the others.
pub(super) fn by_rules(rules: &OperatorRules, forms: Forms) -> (Forms, Vec<Ignored>) {
    let (mut open, mut ignored) = (Vec::new(), Vec::new());
    for (kind, form_id) in forms {
        let sorted = sorted_out(rules, &kind);
        if sorted.ignored.is_empty() {
            open.push((kind, form_id));
        } else {
            ignored.extend(operator_rules::ignored(&kind, &form_id, &sorted));
        }
    }
    (open, ignored)
}

fn sorted_out(rules: &OperatorRules, kind: &str) -> SortedOut {
    let entries: Vec<serde_json::Value> = serde_json::from_str(ONLY_IN_SQL).unwrap_or_default();
    let entries = entries.iter().filter_map(|entry| RecordedDiff::from_json(entry).ok());
    rules.sort_out(kind, entries.collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_for_whole_documents_drops_forms_that_only_sql_has() {
        let rule = json!({"name": "strays", "documents": "XFormError", "path": ["*"], "diff_type": "missing", "reason": "why"});
        let rules = OperatorRules::from_json([&rule]).unwrap();
        let forms = [("XFormError", "a"), ("XFormInstance", "b")];
        let forms = forms.map(|(kind, id)| (kind.to_owned(), id.to_owned())).into();
        let (open, ignored) = by_rules(&rules, forms);
        assert_eq!(open, [("XFormInstance".to_owned(), "b".to_owned())]);
        assert_eq!((ignored[0].doc_id.as_str(), ignored[0].rule.as_str()), ("a", "strays"));
        // Looks tell their own records by this text.
        assert_eq!((ignored[0].diffs.as_str(), ignored.len()), (ONLY_IN_SQL, 1));
    }
}
