//! The ignore rules that operators have added for a domain, as workers and commands apply them to what is to be recorded.

use docdiff::{OperatorRules, RecordedDiff, SortedOut};
use serde_json::Value;
use state::operator_rules::Ignored;
use state::{MigrationId, State, StateError};

/// The rules of a domain.
///
/// # Errors
/// Database errors; [`StateError::Corrupt`] for a rule that this program cannot read.
pub async fn of_domain(state: &State, id: MigrationId) -> Result<OperatorRules, StateError> {
    let rules = state.operator_rules(id).await?;
    let rules = rules
        .iter()
        .map(|rule| serde_json::from_str(&rule.rule))
        .collect::<Result<Vec<Value>, _>>()
        .map_err(|_| StateError::Corrupt("operator rule"))?;
    OperatorRules::from_json(&rules).map_err(|_| StateError::Corrupt("operator rule"))
}

/// Takes out of a list that is to be recorded, as JSON text, what a rule drops. The list is gone when nothing is left.
///
/// # Errors
/// [`StateError::Corrupt`] for what is no list of differences.
pub fn sort_out(
    rules: &OperatorRules,
    kind: &str,
    doc_id: &str,
    list: &mut Option<String>,
) -> Result<Vec<Ignored>, StateError> {
    let Some(text) = list.as_deref().filter(|_| !rules.is_empty()) else {
        return Ok(Vec::new());
    };
    let unreadable = || StateError::Corrupt("diffs");
    let entries: Vec<Value> = serde_json::from_str(text).map_err(|_| unreadable())?;
    let entries = entries
        .iter()
        .map(RecordedDiff::from_json)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| unreadable())?;
    let sorted = rules.sort_out(kind, entries);
    if !sorted.ignored.is_empty() {
        *list = (!sorted.kept.is_empty()).then(|| RecordedDiff::list_to_text(&sorted.kept));
    }
    Ok(ignored(kind, doc_id, &sorted))
}

/// What the rules have dropped of a document, for the record.
pub fn ignored(kind: &str, doc_id: &str, sorted: &SortedOut) -> Vec<Ignored> {
    let records = sorted.ignored.iter().map(|(rule, entries)| Ignored {
        kind: kind.to_owned(),
        doc_id: doc_id.to_owned(),
        rule: rule.clone(),
        diffs: RecordedDiff::list_to_text(entries),
        count: i32::try_from(entries.len()).unwrap_or(i32::MAX),
        reason: SortedOut::reasons(entries),
    });
    records.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_loses_what_a_rule_drops_and_is_gone_when_nothing_is_left() {
        let rule = json!({"name": "known", "documents": "cases", "path": ["age"], "reason": "why"});
        let rules = OperatorRules::from_json([&rule]).unwrap();
        let of = |path: &str| json!({"type": "diff", "path": [path], "old_value": 1, "new_value": 2, "reason": "rebuild case"});
        let mut list = Some(json!([of("age"), of("name")]).to_string());
        let ignored = sort_out(&rules, "CommCareCase", "c", &mut list).unwrap();
        assert_eq!(list, Some(json!([of("name")]).to_string()));
        assert_eq!(
            ignored,
            [Ignored {
                kind: "CommCareCase".to_owned(),
                doc_id: "c".to_owned(),
                rule: "known".to_owned(),
                diffs: json!([of("age")]).to_string(),
                count: 1,
                reason: Some("rebuild case".to_owned()),
            }]
        );
        let mut all = Some(json!([of("age")]).to_string());
        assert_eq!(sort_out(&rules, "CommCareCase", "c", &mut all).unwrap().len(), 1);
        assert_eq!(all, None);
        let mut form = Some(json!([of("age")]).to_string());
        assert_eq!(sort_out(&rules, "XFormInstance", "f", &mut form).unwrap(), []);
        assert!(form.is_some());
    }
}
