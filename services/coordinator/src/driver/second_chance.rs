//! A second chance for forms: those that an operator names, those that a recorded difference of a case puts in doubt, and
//! those of cases that SQL lacks. Cases whose ledgers a duplicate form has changed in SQL are replayed: a replay makes
//! ledgers of accepted forms only.

use couch::{ErrorKind, Outcome};
use proto::doctype::DocType;
use serde_json::Value;
use state::StateError;
use state::records::{RecordFilter, RecordTable};

use super::{Driver, Step};
use crate::commands::migrate::Forms;

/// Records of differences looked at at once.
const PAGE: i64 = 500;

/// JSON of cases read together.
const MAX_BYTES: usize = 8 << 20;

/// Has the forms migrated again, as the command asks.
pub(super) async fn requeue(driver: &Driver, forms: &Forms) -> Step<()> {
    let state = &driver.context.state;
    let batch = driver.context.config.driver.form_batch;
    match forms {
        Forms::AsFound => {}
        Forms::Ids(ids) => state.requeue_forms(&driver.lease, ids, false, batch).await?,
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
                let (mut named, mut of_ledgers) = (Vec::new(), Vec::new());
                for record in &records {
                    let diffs = serde_json::from_str(&record.diffs).map_err(|_| StateError::Corrupt("diffs"))?;
                    named.extend(docdiff::forms_in_doubt(&diffs));
                    let forms = docdiff::forms_of_sql_ledgers(&diffs);
                    of_ledgers.extend(forms.into_iter().map(|form_id| (record.doc_id.clone(), form_id)));
                }
                named.sort_unstable();
                named.dedup();
                state.requeue_forms(&driver.lease, &named, true, batch).await?;
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
        let mut reader = driver.context.forms_db.bounded_reader(MAX_BYTES);
        let mut left = cases.as_slice();
        while !left.is_empty() {
            driver.pause(std::time::Duration::ZERO).await?;
            let read = reader.next(left).await?;
            left = &left[read.len()..];
            let mut forms = Vec::new();
            for fetched in read {
                match fetched.outcome {
                    Outcome::Found(case) => forms.extend(forms_of(&case)),
                    // It stays on the list, and the look at the end of the run says what it is.
                    Outcome::Missing | Outcome::Deleted { .. } => {}
                    Outcome::Failed(error) if error.kind() == ErrorKind::Document => {}
                    Outcome::Failed(error) => return Err(error.into()),
                }
            }
            forms.sort_unstable();
            forms.dedup();
            state
                .requeue_forms(&driver.lease, &forms, true, driver.context.config.driver.form_batch)
                .await?;
        }
    }
}

fn forms_of(case: &Value) -> impl Iterator<Item = String> {
    let forms = case.get("xform_ids").and_then(Value::as_array).into_iter().flatten();
    forms.filter_map(Value::as_str).map(str::to_owned)
}
