//! A second chance for forms: those that an operator names, those that a recorded difference of a case puts in doubt, and
//! those of cases that SQL lacks. Forms among them that Couch has lost are made of their XML, where there is any. Cases whose ledgers a duplicate form has changed in SQL are replayed: a replay makes
//! ledgers of accepted forms only.

use couch::{ErrorKind, Outcome};
use proto::doctype::DocType;
use serde_json::Value;
use state::StateError;
use state::records::{RecordFilter, RecordTable};

use super::lost_forms::{self, Named};
use super::{Driver, Step};
use crate::commands::migrate::Forms;

/// Records of differences looked at at once.
const PAGE: i64 = 500;

/// Forms looked up in Couch at once.
const ONE_LOOK: usize = 5000;

/// JSON of cases read together.
const MAX_BYTES: usize = 8 << 20;

/// Has the forms migrated again, as the command asks.
pub(super) async fn requeue(driver: &Driver, forms: &Forms) -> Step<()> {
    let state = &driver.context.state;
    let batch = driver.context.config.driver.form_batch;
    match forms {
        Forms::AsFound => {}
        Forms::Ids(ids) => {
            for part in ids.chunks(ONE_LOOK) {
                let named: Vec<Named> = part.iter().map(|form_id| (None, form_id.clone())).collect();
                lost_forms::record(driver, &named).await?;
            }
            state.requeue_forms(&driver.lease, ids, false, batch).await?;
        }
        Forms::Missing => {
            requeue_forms_of_missing_cases(driver).await?;
            let of_cases = RecordFilter {
                kinds: vec!["CommCareCase".to_owned()],
                documents: Vec::new(),
            };
            let mut after: Option<(String, String)> = None;
            loop {
                let from = after.as_ref().map(|(kind, id)| (kind.as_str(), id.as_str()));
                let records = state
                    .records_after(driver.migration.id, RecordTable::Diffs, &of_cases, from, PAGE)
                    .await?;
                let Some(last) = records.last() else { break };
                after = Some((last.kind.clone(), last.doc_id.clone()));
                let (mut named, mut of_ledgers): (Vec<Named>, _) = (Vec::new(), Vec::new());
                for record in &records {
                    let diffs = serde_json::from_str(&record.diffs).map_err(|_| StateError::Corrupt("diffs"))?;
                    let in_doubt = docdiff::forms_in_doubt(&diffs).into_iter();
                    named.extend(in_doubt.map(|form_id| (Some(record.doc_id.clone()), form_id)));
                    let forms = docdiff::forms_of_sql_ledgers(&diffs);
                    of_ledgers.extend(forms.into_iter().map(|form_id| (record.doc_id.clone(), form_id)));
                }
                requeue_named(driver, &named).await?;
                let replayed = state.replay_cases_of_duplicates(&driver.lease, &of_ledgers).await?;
                if replayed > 0 {
                    tracing::info!(
                        cases = replayed,
                        "duplicate forms have changed ledgers: the cases are replayed"
                    );
                }
            }
        }
    }
    Ok(())
}

/// A case that Couch has and SQL lacks proves that its forms were applied, as a difference that names them does.
async fn requeue_forms_of_missing_cases(driver: &Driver) -> Step<()> {
    let state = &driver.context.state;
    let kind = DocType::CommCareCase.as_str();
    let mut after = String::new();
    loop {
        let missing = state
            .missing_after(driver.migration.id, (kind, after.as_str()), PAGE)
            .await?;
        let cases: Vec<String> = missing
            .into_iter()
            .take_while(|(of, _)| of == kind)
            .map(|(_, case_id)| case_id)
            .collect();
        let Some(last) = cases.last() else { return Ok(()) };
        after.clone_from(last);
        let mut reader = driver.context.forms_db.bounded_reader(&cases, MAX_BYTES);
        while let Some(read) = reader.next().await? {
            driver.pause(std::time::Duration::ZERO).await?;
            let mut named: Vec<Named> = Vec::new();
            for fetched in read {
                match fetched.outcome {
                    Outcome::Found(case) => {
                        named.extend(forms_of(&case).map(|form_id| (Some(fetched.id.clone()), form_id)));
                    }
                    // It stays on the list, and the look at the end of the run says what it is.
                    Outcome::Missing | Outcome::Deleted { .. } => {}
                    Outcome::Failed(error) if error.kind() == ErrorKind::Document => {}
                    Outcome::Failed(error) => return Err(error.into()),
                }
            }
            requeue_named(driver, &named).await?;
        }
    }
}

/// Has forms migrated again that cases name: that proves that they were applied.
async fn requeue_named(driver: &Driver, named: &[Named]) -> Step<()> {
    for part in named.chunks(ONE_LOOK) {
        lost_forms::record(driver, part).await?;
    }
    let mut form_ids: Vec<String> = named.iter().map(|(_, form_id)| form_id.clone()).collect();
    form_ids.sort_unstable();
    form_ids.dedup();
    let batch = driver.context.config.driver.form_batch;
    Ok(driver
        .context
        .state
        .requeue_forms(&driver.lease, &form_ids, true, batch)
        .await?)
}

fn forms_of(case: &Value) -> impl Iterator<Item = String> {
    let forms = case.get("xform_ids").and_then(Value::as_array).into_iter().flatten();
    forms.filter_map(Value::as_str).map(str::to_owned)
}
