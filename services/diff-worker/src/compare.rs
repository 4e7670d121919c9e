//! From a first look at cases to what is recorded of them.

use std::collections::{BTreeSet, HashMap, HashSet};

use casemodel::sort_order;
use docdiff::{AbsentFrom, ChangeReason, Diff, RecordedDiff, missing_document};
use proto::effects::CaseEvent;
use proto::rows::CaseBundle;
use serde_json::Value;
use service::worker::BatchFailure;
use state::batch::Claim;
use state::case_order::FormOrder;
use state::diff_stage::{CaseComparison, CaseToDiff};

use crate::DiffHandler;
use crate::patches::Patches;
use crate::sides::{Look, Ruled, Sides, acting_forms, kind_of};

/// What was found of a case.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// What is recorded of it.
    pub(crate) records: Vec<RecordedDiff>,
    /// Whether another order of its forms might take differences away.
    pub(crate) order: FormOrder,
}

impl Found {
    /// Differences that nothing explains.
    pub(crate) fn diffs(diffs: Vec<Diff>) -> Self {
        Self::judged(diffs, None)
    }

    /// Differences with the reason for which they are expected, if there is one.
    pub(crate) fn judged(diffs: Vec<Diff>, reason: Option<ChangeReason>) -> Self {
        let records = diffs.into_iter().map(|diff| RecordedDiff::of_case(diff, reason));
        Self {
            records: records.collect(),
            order: if reason.is_some() {
                FormOrder::Agreed
            } else {
                FormOrder::Unresolved
            },
        }
    }
}

/// What was found, by case; those of which there is nothing to record are absent.
pub(crate) type Findings = HashMap<String, Found>;

impl DiffHandler {
    /// Judges what a first look at these cases has told.
    pub(crate) async fn judge_cases(
        &self,
        claim: &Claim,
        sides: &Sides,
        looks: Vec<(&str, Look)>,
        patches: &Patches,
    ) -> Result<Findings, BatchFailure> {
        let mut found = Findings::new();
        let (mut differing, mut only_couch, mut nowhere) = (Vec::new(), Vec::new(), Vec::new());
        let mut ruled = Vec::new();
        for (case_id, look) in looks {
            match look {
                Look::Equal => {}
                Look::Differ(diffs) if patches.account_for(case_id, &diffs) => {}
                Look::Differ(diffs) => {
                    let Ruled { open, dropped } = sides.ruled(case_id, diffs);
                    if !dropped.is_empty() {
                        ruled.push((case_id, dropped));
                    }
                    if !open.is_empty() && !patches.account_for(case_id, &open) {
                        differing.push((case_id, open));
                    }
                }
                Look::OtherDomain(diff) => drop(found.insert(case_id.to_owned(), Found::diffs(vec![diff]))),
                Look::OnlyCouch => only_couch.push(case_id),
                Look::OnlySql => {
                    let diffs = Found::diffs(vec![missing_document(AbsentFrom::Couch)]);
                    found.insert(case_id.to_owned(), diffs);
                }
                Look::Nowhere => nowhere.push(case_id.to_owned()),
            }
        }
        found.extend(self.judge_differing(claim, sides, differing).await?);
        found.extend(self.judge_absent(sides, only_couch).await?);
        found.extend(self.judge_nowhere(claim, nowhere).await?);
        for (case_id, dropped) in ruled {
            let records = dropped.into_iter().map(|diff| RecordedDiff::of_case(diff, None));
            found.entry(case_id.to_owned()).or_default().records.extend(records);
        }
        Ok(found)
    }

    /// Cases that differ by more than rules of operators drop, and not as a patch form leaves them. If Couch lacks a form that it has applied, that is on record,
    /// and no more is asked. Otherwise the case is rebuilt as Couch's processor would do it from its forms: where that agrees
    /// with SQL, the differences are expected.
    async fn judge_differing(
        &self,
        claim: &Claim,
        sides: &Sides,
        differing: Vec<(&str, Vec<Diff>)>,
    ) -> Result<Findings, BatchFailure> {
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
        let mut found = Findings::new();
        let mut open: HashMap<&str, Vec<Diff>> = HashMap::new();
        let mut to_rebuild = Vec::new();
        for (case_id, mut diffs) in differing {
            match sides.couch.get(case_id).and_then(|couch| form_check(couch, case_id)) {
                Some(check) => {
                    diffs.push(check);
                    found.insert(case_id.to_owned(), Found::diffs(diffs));
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
                let rebuilt = rebuilt.remove(case.case_id);
                let agrees = match &rebuilt {
                    Some(rebuilt) => {
                        let diffs = sides.diff(rebuilt, &docdiff::sqljson::case_json(sql))?;
                        sides.ruled(case.case_id, diffs).open.is_empty()
                    }
                    None => false,
                };
                let mut judged = Found::judged(diffs, agrees.then_some(ChangeReason::RebuildCase));
                // The actions of a rebuilt case name forms that Couch has: a form check of it would find nothing.
                if let (false, Some(couch)) = (agrees, rebuilt.as_ref().or(sides.couch.get(case.case_id))) {
                    judged.order = order_of(couch, sql)?;
                }
                found.insert(case.case_id.to_owned(), judged);
            }
        }
        Ok(found)
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

/// What the comparison of a case that is left with differences says of the order of its forms: Couch's, if that is another
/// one. `couch` is the rebuilt case, or the case as it is where it cannot be rebuilt.
fn order_of(couch: &Value, sql: &CaseBundle) -> Result<FormOrder, BatchFailure> {
    let transactions = sql.transactions.iter().map(|row| row.form_id.as_deref());
    let Some(form_ids) = sort_order::wanted(transactions, acting_forms(couch).map(Some)) else {
        return Ok(FormOrder::Unresolved);
    };
    rmp_serde::to_vec_named(&CaseEvent::OrderOverride { form_ids })
        .map(FormOrder::Wanted)
        .map_err(|_| BatchFailure::defect("an order of forms cannot be encoded"))
}

/// What is recorded of a case and its ledgers: differences without a reason are diffs, the others changes.
pub(crate) fn recorded(
    case: &CaseToDiff,
    couch: Option<&Value>,
    sql: Option<&CaseBundle>,
    found: Found,
) -> CaseComparison {
    let text = |key: &str| couch.and_then(|doc| doc.get(key)).and_then(Value::as_str);
    let (diffs, changes): (Vec<_>, Vec<_>) = found.records.into_iter().partition(|record| record.reason.is_none());
    let reasons: BTreeSet<&str> = changes.iter().filter_map(|change| change.reason.as_deref()).collect();
    let reasons = reasons.into_iter().collect::<Vec<_>>().join(", ");
    CaseComparison {
        case_id: case.case_id.clone(),
        generation: case.generation,
        couch_rev: text("_rev").map(str::to_owned),
        kind: kind_of(couch, sql).to_owned(),
        diffs: (!diffs.is_empty()).then(|| RecordedDiff::list_to_text(&diffs)),
        changes: (!changes.is_empty()).then(|| (RecordedDiff::list_to_text(&changes), reasons)),
        order: found.order,
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

    fn found(records: Vec<RecordedDiff>) -> Found {
        Found {
            records,
            order: FormOrder::Unresolved,
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
            found(vec![
                record(None, None),
                record(Some("c/stock/p"), None),
                record(Some("c/stock/q"), Some(ChangeReason::DuplicateStockTransaction)),
                record(Some("c/stock/r"), Some(ChangeReason::MissingCouchStockTransaction)),
                record(Some("c/stock/s"), Some(ChangeReason::DuplicateStockTransaction)),
            ]),
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

        let equal = recorded(&case, Some(&couch), None, Found::default());
        assert_eq!((equal.diffs, equal.changes), (None, None));
    }
}
