//! From a first look at cases to what is recorded of them.

use std::collections::{BTreeSet, HashMap, HashSet};

use docdiff::{AbsentFrom, ChangeReason, Diff, RecordedDiff, missing_document};
use proto::rows::CaseBundle;
use serde_json::Value;
use service::worker::BatchFailure;
use state::batch::Claim;
use state::diff_stage::{CaseComparison, CaseToDiff};

use crate::DiffHandler;
use crate::patches::Patches;
use crate::sides::{Look, Sides, acting_forms};

/// What is recorded of cases, by case; those of which there is nothing to record are absent.
pub(crate) type Records = HashMap<String, Vec<RecordedDiff>>;

impl DiffHandler {
    /// Judges what a first look at these cases has told.
    pub(crate) async fn judge_cases(
        &self,
        claim: &Claim,
        sides: &Sides,
        looks: Vec<(&str, Look)>,
        patches: &Patches,
    ) -> Result<Records, BatchFailure> {
        let mut records = Records::new();
        let (mut differing, mut only_couch, mut nowhere) = (Vec::new(), Vec::new(), Vec::new());
        for (case_id, look) in looks {
            match look {
                Look::Equal => {}
                Look::Differ(diffs) if patches.account_for(case_id, &diffs) => {}
                Look::Differ(diffs) => differing.push((case_id, diffs)),
                Look::OtherDomain(diff) => drop(records.insert(case_id.to_owned(), as_diffs(vec![diff]))),
                Look::OnlyCouch => only_couch.push(case_id),
                Look::OnlySql => {
                    let diffs = as_diffs(vec![missing_document(AbsentFrom::Couch)]);
                    records.insert(case_id.to_owned(), diffs);
                }
                Look::Nowhere => nowhere.push(case_id.to_owned()),
            }
        }
        records.extend(self.judge_differing(claim, sides, differing).await?);
        records.extend(self.judge_absent(sides, only_couch).await?);
        records.extend(self.judge_nowhere(claim, nowhere).await?);
        Ok(records)
    }

    /// Cases that differ, and not as a patch form leaves them. If Couch lacks a form that it has applied, that is on record,
    /// and no more is asked. Otherwise the case is rebuilt as Couch's processor would do it from its forms: where that agrees
    /// with SQL, the differences are expected.
    async fn judge_differing(
        &self,
        claim: &Claim,
        sides: &Sides,
        differing: Vec<(&str, Vec<Diff>)>,
    ) -> Result<Records, BatchFailure> {
        let mut unknown: HashSet<String> = HashSet::new();
        for (case_id, _) in &differing {
            if let (Some(couch), Some(sql)) = (sides.couch.get(*case_id), sides.sql.get(*case_id)) {
                unknown.extend(acted_in_couch_only(couch, sql).map(str::to_owned));
            }
        }
        let forms = self.look_up_forms(unknown).await?;
        let form_check = |couch: &Value, case_id: &str| {
            let sql = docdiff::sqljson::case_json(sides.sql.get(case_id)?);
            docdiff::form_check(couch, &sql, &|form_id| forms.states(form_id))
        };
        let mut records = Records::new();
        let mut open: HashMap<&str, Vec<Diff>> = HashMap::new();
        let mut to_rebuild = Vec::new();
        for (case_id, mut diffs) in differing {
            match sides.couch.get(case_id).and_then(|couch| form_check(couch, case_id)) {
                Some(check) => {
                    diffs.push(check);
                    records.insert(case_id.to_owned(), as_diffs(diffs));
                }
                None => {
                    open.insert(case_id, diffs);
                    to_rebuild.push(case_id);
                }
            }
        }
        for group in self.forms_to_rebuild_from(claim, sides, &to_rebuild).await? {
            let mut rebuilt = self.rebuild_couch_cases(sides, &group).await?;
            for case in &group {
                let (Some(diffs), Some(sql)) = (open.remove(case.case_id), sides.sql.get(case.case_id)) else {
                    continue;
                };
                // The actions of a rebuilt case name forms that Couch has: a form check of it would find nothing.
                let agrees = match rebuilt.remove(case.case_id) {
                    Some(rebuilt) => sides.diff(&rebuilt, &docdiff::sqljson::case_json(sql))?.is_empty(),
                    None => false,
                };
                let reason = agrees.then_some(ChangeReason::RebuildCase);
                records.insert(case.case_id.to_owned(), as_records(diffs, reason));
            }
        }
        Ok(records)
    }
}

/// Forms that the Couch case's actions name, and no transaction of the SQL case.
fn acted_in_couch_only<'a>(couch: &'a Value, sql: &'a CaseBundle) -> impl Iterator<Item = &'a str> {
    let known: HashSet<&str> = sql
        .transactions
        .iter()
        .filter_map(|row| row.form_id.as_deref())
        .collect();
    acting_forms(couch).filter(move |form_id| !known.contains(form_id))
}

/// Differences that nothing explains.
pub(crate) fn as_diffs(diffs: Vec<Diff>) -> Vec<RecordedDiff> {
    as_records(diffs, None)
}

/// Differences with the reason for which they are expected, if there is one.
pub(crate) fn as_records(diffs: Vec<Diff>, reason: Option<ChangeReason>) -> Vec<RecordedDiff> {
    diffs
        .into_iter()
        .map(|diff| RecordedDiff::of_case(diff, reason))
        .collect()
}

/// What is recorded of a case and its ledgers: differences without a reason are diffs, the others changes.
pub(crate) fn recorded(
    case: &CaseToDiff,
    couch: Option<&Value>,
    sql: Option<&CaseBundle>,
    records: Vec<RecordedDiff>,
) -> CaseComparison {
    let text = |key: &str| couch.and_then(|doc| doc.get(key)).and_then(Value::as_str);
    let kind = match (text("doc_type"), sql) {
        (None, Some(bundle)) if bundle.case.deleted => "CommCareCase-Deleted",
        (doc_type, _) => doc_type.unwrap_or("CommCareCase"),
    };
    let (diffs, changes): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| record.reason.is_none());
    let reasons: BTreeSet<&str> = changes.iter().filter_map(|change| change.reason.as_deref()).collect();
    let reasons = reasons.into_iter().collect::<Vec<_>>().join(", ");
    CaseComparison {
        case_id: case.case_id.clone(),
        generation: case.generation,
        couch_rev: text("_rev").map(str::to_owned),
        kind: kind.to_owned(),
        diffs: (!diffs.is_empty()).then(|| RecordedDiff::list_to_text(&diffs)),
        changes: (!changes.is_empty()).then(|| (RecordedDiff::list_to_text(&changes), reasons)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(ledger: Option<&str>, reason: Option<ChangeReason>) -> RecordedDiff {
        RecordedDiff {
            ledger: ledger.map(str::to_owned),
            ..RecordedDiff::of_case(missing_document(AbsentFrom::Sql), reason)
        }
    }

    #[test]
    fn differences_with_a_reason_are_changes_and_ledgers_stand_with_their_case() {
        let case = CaseToDiff {
            case_id: "c".to_owned(),
            generation: 3,
        };
        let couch = json!({"_id": "c", "_rev": "7-x", "doc_type": "CommCareCase"});
        let found = recorded(
            &case,
            Some(&couch),
            None,
            vec![
                record(None, None),
                record(Some("c/stock/p"), None),
                record(Some("c/stock/q"), Some(ChangeReason::DuplicateStockTransaction)),
                record(Some("c/stock/r"), Some(ChangeReason::MissingCouchStockTransaction)),
                record(Some("c/stock/s"), Some(ChangeReason::DuplicateStockTransaction)),
            ],
        );
        assert_eq!(
            (found.kind.as_str(), found.generation, found.couch_rev.as_deref()),
            ("CommCareCase", 3, Some("7-x"))
        );
        let diffs: Value = serde_json::from_str(&found.diffs.unwrap()).unwrap();
        assert_eq!(diffs[0]["path"], json!(["*"]));
        assert_eq!(diffs[1]["path"], json!({"stock_id": "c/stock/p", "path": ["*"]}));
        assert_eq!(diffs.as_array().unwrap().len(), 2);
        let (changes, reason) = found.changes.unwrap();
        let changes: Value = serde_json::from_str(&changes).unwrap();
        assert_eq!(changes[1]["reason"], json!("missing couch stock transaction"));
        assert_eq!(changes.as_array().unwrap().len(), 3);
        assert_eq!(reason, "duplicate stock transaction, missing couch stock transaction");

        let equal = recorded(&case, Some(&couch), None, Vec::new());
        assert_eq!((equal.diffs, equal.changes), (None, None));
    }
}
