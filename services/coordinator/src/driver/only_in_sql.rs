//! Cases that only SQL has: what becomes of them when an operator gives forms a second chance.
//!
//! HQ's tool deletes such a case, and so is it done here, by a judgement that its replay obeys: softly where some of its forms
//! are in order in Couch, for good where none is. Forms that are not in order, and that no case in Couch has, become error
//! forms. A case of which a form is missing in SQL, or of which Couch has no form, is left alone, and its difference stands.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use couch::{ErrorKind, Outcome};
use proto::doctype::DocType;
use proto::effects::{CaseEvent, CaseFate};
use proto::ids::FormId;
use serde_json::{Value, json};
use state::StateError;
use state::only_in_sql::Judgements;
use state::records::{RecordFilter, RecordTable};
use state::run::Operator;

use super::{Driver, Step, missing};

/// JSON of documents read together.
const MAX_BYTES: usize = 8 << 20;
/// Documents read together.
const AT_ONCE: usize = 5000;
/// Records, and judged cases, looked at at once.
const PAGE: i64 = 500;

/// How a form of such a case stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// In order in Couch: normal, without a problem, completely processed.
    Normal,
    /// In Couch, and not in order.
    NotInOrder,
    /// The same, and SQL lacks it.
    NotInOrderNorInSql,
    /// Couch has no such form.
    NotInCouch,
    /// Its document cannot be read.
    Unreadable,
}

/// What becomes of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    SoftDeleted,
    Removed,
    /// Nothing: why.
    LeftAlone(&'static str),
}

fn verdict(forms: impl IntoIterator<Item = Standing>) -> Verdict {
    let forms: Vec<Standing> = forms.into_iter().collect();
    if forms.contains(&Standing::Unreadable) {
        Verdict::LeftAlone("one of its forms cannot be read")
    } else if forms.contains(&Standing::NotInOrderNorInSql) {
        Verdict::LeftAlone("SQL lacks one of its forms")
    } else if forms.contains(&Standing::Normal) {
        Verdict::SoftDeleted
    } else if forms.contains(&Standing::NotInOrder) {
        Verdict::Removed
    } else {
        Verdict::LeftAlone("Couch has none of its forms")
    }
}

/// Takes back what was judged of cases that Couch has again.
async fn review(driver: &Driver) -> Step<()> {
    let state = &driver.context.state;
    let mut after = String::new();
    loop {
        driver.pause(std::time::Duration::ZERO).await?;
        let judged = state.judged_after(driver.migration.id, &after, PAGE).await?;
        let Some(last) = judged.last() else { return Ok(()) };
        after.clone_from(last);
        let absent: HashSet<String> = missing::absent(driver, &judged).await?.into_iter().collect();
        let back: Vec<String> = judged.into_iter().filter(|id| !absent.contains(id)).collect();
        state.withdraw_judgements(&driver.lease, &back).await?;
    }
}

/// Judges cases of which it is on record that only SQL has them, and takes back what was judged of those that Couch has again.
pub(super) async fn judge(driver: &Driver, operator: &Operator) -> Step<()> {
    review(driver).await?;
    let of_cases = RecordFilter {
        kinds: vec![DocType::CommCareCase.as_str().to_owned()],
        documents: Vec::new(),
    };
    let mut after: Option<(String, String)> = None;
    loop {
        driver.pause(std::time::Duration::ZERO).await?;
        let from = after.as_ref().map(|(kind, id)| (kind.as_str(), id.as_str()));
        let state = &driver.context.state;
        let records = state
            .records_after(driver.migration.id, RecordTable::Diffs, &of_cases, from, PAGE)
            .await?;
        let Some(last) = records.last() else { return Ok(()) };
        after = Some((last.kind.clone(), last.doc_id.clone()));
        let mut recorded = Vec::new();
        for record in records {
            let diffs = serde_json::from_str(&record.diffs).map_err(|_| StateError::Corrupt("diffs"))?;
            if docdiff::is_only_in_sql(&diffs) {
                recorded.push(record.doc_id);
            }
        }
        judge_cases(driver, &recorded, operator).await?;
    }
}

async fn judge_cases(driver: &Driver, recorded: &[String], operator: &Operator) -> Step<()> {
    let context = &driver.context;
    let state = &context.state;
    let cases = only_in_sql(driver, recorded).await?;
    if cases.is_empty() {
        return Ok(());
    }
    let mut forms_of: BTreeMap<&str, BTreeSet<String>> = cases
        .iter()
        .map(|case_id| (case_id.as_str(), BTreeSet::new()))
        .collect();
    for (case_id, form_id) in state.forms_naming(driver.migration.id, &cases).await? {
        if let Some(forms) = forms_of.get_mut(case_id.as_str()) {
            forms.insert(form_id);
        }
    }
    let standings = standings(driver, forms_of.values().flatten().cloned().collect()).await?;
    let standing = |form_id: &String| standings.get(form_id).copied().unwrap_or(Standing::NotInCouch);
    let known: HashMap<String, Vec<u8>> = state
        .judgements(driver.migration.id, &cases)
        .await?
        .into_iter()
        .collect();
    let now = state.now().await?;
    let mut judged = Judgements::default();
    let (mut again, mut soft_deleted, mut removed) = (BTreeSet::new(), Vec::new(), Vec::new());
    for (case_id, forms) in &forms_of {
        let list = match verdict(forms.iter().map(standing)) {
            Verdict::SoftDeleted => &mut soft_deleted,
            Verdict::Removed => &mut removed,
            Verdict::LeftAlone(why) => {
                tracing::warn!(
                    code = "C2S-2394",
                    case_id,
                    why,
                    "a case that only SQL has is left alone"
                );
                continue;
            }
        };
        list.push(*case_id);
        again.extend(
            forms
                .iter()
                .filter(|form_id| standing(form_id) == Standing::NotInOrder)
                .cloned(),
        );
    }
    for (list, is_soft) in [(&soft_deleted, true), (&removed, false)] {
        for case_id in list {
            let event = event(&forms_of[case_id], is_soft.then_some(now));
            if !known
                .get(*case_id)
                .is_some_and(|payload| says_the_same(payload, &event))
            {
                let payload = rmp_serde::to_vec_named(&event).map_err(|_| StateError::Corrupt("event of a case"))?;
                judged.cases.push(((*case_id).to_owned(), payload));
            }
        }
    }
    judged.forms = again.into_iter().collect();
    judged.not_applied = without_a_case(driver, &judged.forms, &cases).await?;
    if judged.cases.is_empty() && judged.forms.is_empty() {
        return Ok(());
    }
    let detail = json!({"soft_deleted": soft_deleted, "removed": removed, "error_forms": judged.not_applied});
    tracing::info!(
        soft_deleted = soft_deleted.len(),
        removed = removed.len(),
        error_forms = judged.not_applied.len(),
        "cases that only SQL has are deleted"
    );
    let audit = (operator, &detail);
    let batch = context.config.driver.form_batch;
    Ok(state.judge(&driver.lease, &judged, audit, batch).await?)
}

/// Those of the cases that SQL has, in this domain, and Couch has not.
async fn only_in_sql(driver: &Driver, recorded: &[String]) -> Step<Vec<String>> {
    if recorded.is_empty() {
        return Ok(Vec::new());
    }
    let absent = missing::absent(driver, recorded).await?;
    let owners = driver.context.target.existing_cases(&absent).await?;
    let domain = driver.migration.domain.as_str();
    let mut cases: Vec<String> = absent
        .into_iter()
        .filter(|case_id| owners.get(case_id).is_some_and(|owner| owner == domain))
        .collect();
    cases.sort_unstable();
    Ok(cases)
}

fn event(forms: &BTreeSet<String>, soft_deleted_on: Option<DateTime<Utc>>) -> CaseEvent {
    CaseEvent::OnlyInSql {
        form_ids: forms.iter().map(|form_id| FormId::new(form_id.clone())).collect(),
        fate: match soft_deleted_on {
            Some(on) => CaseFate::SoftDeleted { on },
            None => CaseFate::Removed,
        },
    }
}

/// Whether a case was judged so before: its date stays then.
fn says_the_same(payload: &[u8], event: &CaseEvent) -> bool {
    let (
        Ok(CaseEvent::OnlyInSql {
            form_ids: old,
            fate: was,
        }),
        CaseEvent::OnlyInSql { form_ids, fate },
    ) = (rmp_serde::from_slice(payload), event)
    else {
        return false;
    };
    old == *form_ids && std::mem::discriminant(&was) == std::mem::discriminant(fate)
}

/// How each of these forms stands.
async fn standings(driver: &Driver, form_ids: BTreeSet<String>) -> Step<HashMap<String, Standing>> {
    let form_ids: Vec<String> = form_ids.into_iter().collect();
    let mut standings = HashMap::new();
    each_document(driver, &form_ids, |form_id, document| {
        let standing = match document {
            None => Standing::NotInCouch,
            Some(Value::Null) => Standing::Unreadable,
            Some(form) if formmodel::is_normal(form) => Standing::Normal,
            Some(_) => Standing::NotInOrder,
        };
        standings.insert(form_id.to_owned(), standing);
    })
    .await?;
    let not_in_order: Vec<String> = standings
        .iter()
        .filter(|(_, standing)| **standing == Standing::NotInOrder)
        .map(|(form_id, _)| form_id.clone())
        .collect();
    let domain = driver.migration.domain.as_str();
    for part in not_in_order.chunks(AT_ONCE) {
        let in_sql = driver.context.target.existing_forms(part).await?;
        for form_id in part {
            if in_sql.get(form_id).is_none_or(|owner| owner != domain) {
                standings.insert(form_id.clone(), Standing::NotInOrderNorInSql);
            }
        }
    }
    Ok(standings)
}

/// Those of the forms that no case in Couch has, of all that they name but `judged`.
async fn without_a_case(driver: &Driver, form_ids: &[String], judged: &[String]) -> Step<Vec<String>> {
    if form_ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut named: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (form_id, case_id) in driver.context.state.cases_named(driver.migration.id, form_ids).await? {
        if judged.binary_search(&case_id).is_err() {
            named.entry(case_id).or_default().push(form_id);
        }
    }
    let case_ids: Vec<String> = named.keys().cloned().collect();
    let mut proven: HashSet<String> = HashSet::new();
    each_document(driver, &case_ids, |case_id, document| {
        let forms = named.get(case_id).into_iter().flatten();
        proven.extend(
            forms
                .filter(|form_id| document.is_some_and(|case| may_have_applied(case, form_id)))
                .cloned(),
        );
    })
    .await?;
    Ok(form_ids
        .iter()
        .filter(|form_id| !proven.contains(*form_id))
        .cloned()
        .collect())
}

/// Whether a case has a form; one that cannot be read may have any.
fn may_have_applied(case: &Value, form_id: &str) -> bool {
    let list = |key: &str| case.get(key).and_then(Value::as_array).into_iter().flatten();
    case.is_null()
        || list("xform_ids").any(|id| id == form_id)
        || list("actions").any(|action| action["xform_id"] == form_id)
}

/// Reads documents of Couch; those that cannot be read count as there, with nothing in them.
async fn each_document(driver: &Driver, ids: &[String], mut take: impl FnMut(&str, Option<&Value>)) -> Step<()> {
    let mut reader = driver.context.forms_db.bounded_reader(ids, MAX_BYTES);
    while let Some(read) = reader.next().await? {
        driver.pause(std::time::Duration::ZERO).await?;
        for fetched in read {
            match fetched.outcome {
                Outcome::Found(document) => take(&fetched.id, Some(&document)),
                Outcome::Missing | Outcome::Deleted { .. } => take(&fetched.id, None),
                Outcome::Failed(error) if error.kind() == ErrorKind::Document => {
                    take(&fetched.id, Some(&Value::Null));
                }
                Outcome::Failed(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_a_case_that_only_sql_has() {
        use Standing::{Normal, NotInCouch, NotInOrder, NotInOrderNorInSql, Unreadable};

        let unreadable = Verdict::LeftAlone("one of its forms cannot be read");
        let in_sql = Verdict::LeftAlone("SQL lacks one of its forms");
        let none = Verdict::LeftAlone("Couch has none of its forms");
        for (forms, expected) in [
            (vec![], none),
            (vec![NotInCouch], none),
            (vec![Normal], Verdict::SoftDeleted),
            (vec![Normal, NotInOrder, NotInCouch], Verdict::SoftDeleted),
            (vec![NotInOrder], Verdict::Removed),
            (vec![NotInOrder, NotInCouch], Verdict::Removed),
            (vec![Normal, NotInOrderNorInSql], in_sql),
            (vec![NotInOrder, NotInOrderNorInSql], in_sql),
            (vec![Normal, Unreadable], unreadable),
            (vec![NotInOrder, Unreadable], unreadable),
        ] {
            assert_eq!(verdict(forms.clone()), expected, "{forms:?}");
        }
    }

    #[test]
    fn a_judgement_is_the_same_whenever_it_was_given() {
        let forms = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
        let stored = |event: &CaseEvent| rmp_serde::to_vec_named(event).unwrap();
        let on = |minute: i64| Some(DateTime::UNIX_EPOCH + chrono::TimeDelta::minutes(minute));
        let soft = stored(&event(&forms(&["a", "b"]), on(1)));
        assert!(says_the_same(&soft, &event(&forms(&["b", "a"]), on(2))));
        assert!(!says_the_same(&soft, &event(&forms(&["a"]), on(1))));
        assert!(!says_the_same(&soft, &event(&forms(&["a", "b"]), None)));
        assert!(!says_the_same(b"?", &event(&forms(&["a", "b"]), on(1))));
    }

    #[test]
    fn which_forms_a_case_has() {
        let case = json!({"xform_ids": ["a", null], "actions": [{"xform_id": "b"}, {}]});
        for (form_id, expected) in [("a", true), ("b", true), ("c", false)] {
            assert_eq!(may_have_applied(&case, form_id), expected, "{form_id}");
        }
        assert!(may_have_applied(&Value::Null, "a"));
    }
}
