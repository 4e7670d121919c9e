//! The diff worker: compares cases in Couch with cases in SQL, and their ledgers with HQ's stock tables.
//!
//! Both sides are read back from their databases, never taken from what a writer had in memory. The worker records what it
//! found together with the generation and the `_rev` that it compared; it writes no case and moves no migration.

mod compare;
mod ledgers;
mod lookup;

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use blobs::BlobStore;
use couch::{Database, Outcome};
use hqsql::Target;
use proto::rows::CaseBundle;
use proto::topology::Stage;
use serde_json::Value;
use service::worker::{BatchFailure, BatchHandler};
use state::State;
use state::batch::Claim;
use state::diff_stage::{CaseComparison, DiffScope};

use crate::compare::{Sides, form_ids};
use crate::lookup::Forms;

/// Cases compared at once: bounds the memory of a batch, whatever its documents weigh on average.
const CASES_AT_ONCE: usize = 100;

/// Handles diff batches.
pub struct DiffHandler {
    state: State,
    target: Target,
    forms_db: Database,
    blobs: BlobStore,
}

impl DiffHandler {
    /// A handler on these databases. The target's role needs no right but to read; the blob store is read only.
    pub fn new(state: State, target: Target, forms_db: Database, blobs: BlobStore) -> Self {
        Self {
            state,
            target,
            forms_db,
            blobs,
        }
    }

    /// Compares cases. Those that Couch has changed since the cut-off are left out: their newest forms are not migrated yet.
    async fn compare(&self, claim: &Claim, mut part: DiffScope) -> Result<Vec<CaseComparison>, BatchFailure> {
        let ids: Vec<String> = part.cases.iter().map(|case| case.case_id.clone()).collect();
        let (couch, sql) = tokio::join!(self.forms_db.bulk_get(&ids), self.target.read_cases(&ids));
        let mut couch_docs: HashMap<String, Value> = HashMap::new();
        for fetched in couch? {
            match fetched.outcome {
                Outcome::Found(doc) => drop(couch_docs.insert(fetched.id, doc)),
                Outcome::Missing | Outcome::Deleted { .. } => {}
                Outcome::Failed(error) => return Err(error.into()),
            }
        }
        part.cases.retain(|case| {
            let couch = couch_docs.get(&case.case_id);
            !couch.is_some_and(|couch| compare::is_later(couch, part.cutoff))
        });
        couch_docs.retain(|_, couch| !compare::is_later(couch, part.cutoff));
        let sql_cases: HashMap<String, CaseBundle> = sql?
            .into_iter()
            .map(|bundle| (bundle.case.case_id.clone(), bundle))
            .collect();
        let no_action = self.no_action_forms(claim, &sql_cases).await?;

        let ledgers = self
            .compare_ledgers(&claim.domain, part.couch_stock, &couch_docs, &sql_cases)
            .await?;

        let nothing = Forms::default();
        let sides = |case_id: &str, forms| Sides {
            domain: &claim.domain,
            couch: couch_docs.get(case_id),
            sql: sql_cases.get(case_id),
            forms,
        };
        let mut found = Vec::with_capacity(part.cases.len());
        // Few cases differ. Only for them is it asked what their forms are, which decides how the differences are recorded.
        let mut form_ids_wanted: HashSet<String> = ledgers
            .values()
            .flatten()
            .filter_map(|difference| difference.form_id().map(str::to_owned))
            .collect();
        for case in &part.cases {
            let records = compare::compare(&sides(&case.case_id, &nothing), &no_action)?;
            if let (false, Some(couch)) = (records.is_empty(), couch_docs.get(&case.case_id)) {
                form_ids_wanted.extend(form_ids(couch).map(str::to_owned));
            }
            found.push(records);
        }
        let forms = self.look_up_forms(form_ids_wanted).await?;
        let mut ledgers = self.judge_ledgers(&claim.domain, ledgers, &forms).await?;
        part.cases
            .iter()
            .zip(found)
            .map(|(case, mut records)| {
                let sides = sides(&case.case_id, &forms);
                if !records.is_empty() {
                    records = compare::compare(&sides, &no_action)?;
                }
                records.extend(ledgers.remove(&case.case_id).unwrap_or_default());
                Ok(compare::recorded(case, sides.couch, sides.sql, records))
            })
            .collect()
    }

    async fn no_action_forms(
        &self,
        claim: &Claim,
        cases: &HashMap<String, CaseBundle>,
    ) -> Result<HashSet<String>, BatchFailure> {
        let mut ids: Vec<String> = cases
            .values()
            .flat_map(|bundle| {
                bundle
                    .transactions
                    .iter()
                    .filter_map(|transaction| transaction.form_id.clone())
            })
            .collect();
        ids.sort_unstable();
        ids.dedup();
        Ok(self
            .state
            .no_action_forms(claim.migration_id, &ids)
            .await?
            .into_iter()
            .collect())
    }
}

#[async_trait]
impl BatchHandler for DiffHandler {
    fn stage(&self) -> Stage {
        Stage::Diff
    }

    async fn handle(&self, claim: &Claim) -> Result<(), BatchFailure> {
        let scope = self.state.cases_to_diff(claim).await?;
        let mut found = Vec::with_capacity(scope.cases.len());
        for cases in scope.cases.chunks(CASES_AT_ONCE) {
            let part = DiffScope {
                cases: cases.to_vec(),
                ..scope
            };
            found.extend(self.compare(claim, part).await?);
        }
        let moved = self.state.finish_diffs(claim, &found).await?;
        if moved > 0 {
            tracing::info!(
                moved,
                "cases were replayed while they were compared; they will be compared again"
            );
        }
        Ok(())
    }
}
