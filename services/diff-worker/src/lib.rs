//! The diff worker: compares cases in Couch with cases in SQL.
//!
//! Both sides are read back from their databases, never taken from what a writer had in memory. The worker records what it
//! found together with the generation and the `_rev` that it compared; it writes no case and moves no migration.

mod compare;

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use couch::{Database, Outcome};
use hqsql::Target;
use proto::rows::{CaseBundle, FormBundle};
use proto::topology::Stage;
use serde_json::Value;
use service::worker::{BatchFailure, BatchHandler};
use state::State;
use state::batch::Claim;
use state::diff_stage::{CaseComparison, CaseToDiff};

use crate::compare::{Sides, form_ids};

/// Cases compared at once: bounds the memory of a batch, whatever its documents weigh on average.
const CASES_AT_ONCE: usize = 100;

/// Handles diff batches.
pub struct DiffHandler {
    state: State,
    target: Target,
    forms_db: Database,
}

impl DiffHandler {
    /// A handler on these databases. The target's role needs no right but to read.
    pub fn new(state: State, target: Target, forms_db: Database) -> Self {
        Self {
            state,
            target,
            forms_db,
        }
    }

    /// Compares cases. Those that Couch has changed since the cut-off are left out: their newest forms are not migrated yet.
    async fn compare(
        &self,
        claim: &Claim,
        cases: &[CaseToDiff],
        cutoff: Option<DateTime<Utc>>,
    ) -> Result<Vec<CaseComparison>, BatchFailure> {
        let ids: Vec<String> = cases.iter().map(|case| case.case_id.clone()).collect();
        let (couch, sql) = tokio::join!(self.forms_db.bulk_get(&ids), self.target.read_cases(&ids));
        let mut couch_docs: HashMap<String, Value> = HashMap::new();
        for fetched in couch? {
            match fetched.outcome {
                Outcome::Found(doc) => drop(couch_docs.insert(fetched.id, doc)),
                Outcome::Missing | Outcome::Deleted { .. } => {}
                Outcome::Failed(error) => return Err(error.into()),
            }
        }
        let sql_cases: HashMap<String, CaseBundle> = sql?
            .into_iter()
            .map(|bundle| (bundle.case.case_id.clone(), bundle))
            .collect();
        let no_action = self.no_action_forms(claim, &sql_cases).await?;

        let mut found = Vec::with_capacity(cases.len());
        for case in cases {
            if couch_docs
                .get(&case.case_id)
                .is_some_and(|doc| compare::is_later(doc, cutoff))
            {
                continue;
            }
            let mut sides = Sides {
                domain: &claim.domain,
                couch: couch_docs.get(&case.case_id),
                sql: sql_cases.get(&case.case_id),
                forms: HashMap::new(),
                couch_forms: HashSet::new(),
            };
            let mut comparison = compare::compare(case, &sides, &no_action)?;
            if comparison.diffs.is_some() {
                // Few cases come here: what their forms are decides how the differences are recorded.
                sides.forms = self.sql_forms(sides.couch).await?;
                sides.couch_forms = self.couch_forms(sides.couch).await?;
                comparison = compare::compare(case, &sides, &no_action)?;
            }
            found.push(comparison);
        }
        Ok(found)
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

    async fn sql_forms(&self, couch: Option<&Value>) -> Result<HashMap<String, FormBundle>, BatchFailure> {
        let ids = couch.map(form_ids).unwrap_or_default();
        Ok(self
            .target
            .read_forms(&ids)
            .await?
            .into_iter()
            .map(|form| (form.form.form_id.clone(), form))
            .collect())
    }

    async fn couch_forms(&self, couch: Option<&Value>) -> Result<HashSet<String>, BatchFailure> {
        let ids = couch.map(form_ids).unwrap_or_default();
        let present = self.forms_db.all_docs_exist(&ids).await?;
        Ok(present
            .into_iter()
            .filter(|(_, rev)| rev.is_some())
            .map(|(id, _)| id)
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
        for part in scope.cases.chunks(CASES_AT_ONCE) {
            found.extend(self.compare(claim, part, scope.cutoff).await?);
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
