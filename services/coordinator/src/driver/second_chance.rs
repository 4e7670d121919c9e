//! A second chance for forms: those that an operator names, and those that a recorded difference of a case puts in doubt.
//! Cases whose ledgers a duplicate form has changed in SQL are replayed: a replay makes ledgers of accepted forms only.

use state::StateError;
use state::records::{RecordFilter, RecordTable};

use super::{Driver, Step};
use crate::commands::migrate::Forms;

/// Records of differences looked at at once.
const PAGE: i64 = 500;

/// Has the forms migrated again, as the command asks.
pub(super) async fn requeue(driver: &Driver, forms: &Forms) -> Step<()> {
    let state = &driver.context.state;
    let batch = driver.context.config.driver.form_batch;
    match forms {
        Forms::AsFound => {}
        Forms::Ids(ids) => state.requeue_forms(&driver.lease, ids, false, batch).await?,
        Forms::Missing => {
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
