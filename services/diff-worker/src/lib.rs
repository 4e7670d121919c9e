//! The diff worker: compares cases in Couch with cases in SQL, and their ledgers with HQ's stock tables; and, when an operator
//! asks for it, forms.
//!
//! Both sides are read back from their databases, never taken from what a writer had in memory. The worker records what it
//! found together with the generation and the `_rev` that it compared; it writes no case and moves no migration. Where Couch
//! applied the forms of a case in another order than SQL, it proposes that order, and the case stage replays the case in it.

mod absent;
mod compare;
mod couch_forms;
mod couch_rebuild;
mod forms;
mod ledgers;
mod lookup;
mod patches;
mod sides;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use blobs::BlobStore;
use chrono::{DateTime, Utc};
use couch::{Database, Fetched, Outcome};
use docdiff::OperatorRules;
use hqsql::Target;
use proto::rows::CaseBundle;
use proto::topology::Stage;
use serde_json::Value;
use service::operator_rules;
use service::worker::{BatchFailure, BatchHandler};
use state::State;
use state::batch::Claim;
use state::diff_stage::{CaseComparison, DiffScope};
use state::operator_rules::Ignored;

use crate::sides::{Sides, is_case, later};

/// Bytes of Couch cases compared at once, as JSON text; in memory they are several times as large, and SQL's side is as
/// large again. A case above it is compared alone. Of usual cases, a hundred are far below.
const READ_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of XML fetched at once; a form above it is taken alone.
const FETCH_BYTES: usize = 8 * 1024 * 1024;

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
    async fn compare(
        &self,
        claim: &Claim,
        mut part: DiffScope,
        couch: Vec<Fetched>,
        rules: &Arc<OperatorRules>,
    ) -> Result<Vec<CaseComparison>, BatchFailure> {
        let sides = self.read_sides(claim, &mut part, couch, rules).await?;
        let ledgers = self
            .compare_ledgers(&claim.domain, part.couch_stock, &sides.couch, &sides.sql)
            .await?;
        let mut looks = Vec::with_capacity(part.cases.len());
        for case in &part.cases {
            looks.push((case.case_id.as_str(), sides.look(&case.case_id)?));
        }
        // Few cases differ. Only for them is more read, together for all of them.
        let patches = self.read_patches(claim, &sides, &looks, &ledgers).await?;
        let mut ledgers = self.judge_ledgers(&sides, ledgers, &patches).await?;
        let mut findings = self.judge_cases(claim, &sides, looks, &patches).await?;
        Ok(part
            .cases
            .iter()
            .map(|case| {
                let mut found = findings.remove(&case.case_id).unwrap_or_default();
                found.records.extend(ledgers.remove(&case.case_id).unwrap_or_default());
                let (couch, sql) = (sides.couch.get(&case.case_id), sides.sql.get(&case.case_id));
                compare::recorded(case, couch, sql, found)
            })
            .collect())
    }

    /// Reads SQL's side of what was read of Couch, and takes the cases that are too new out of the part.
    async fn read_sides(
        &self,
        claim: &Claim,
        part: &mut DiffScope,
        couch: Vec<Fetched>,
        rules: &Arc<OperatorRules>,
    ) -> Result<Sides, BatchFailure> {
        let ids: Vec<String> = part.cases.iter().map(|case| case.case_id.clone()).collect();
        let sql = self.target.read_cases(&ids).await?;
        let mut couch_docs: HashMap<String, Value> = HashMap::new();
        for fetched in couch {
            match fetched.outcome {
                // A block may name an id that is a form's: Couch has no case of that id then.
                Outcome::Found(doc) if !is_case(&doc) => {}
                Outcome::Found(doc) => drop(couch_docs.insert(fetched.id, doc)),
                Outcome::Missing | Outcome::Deleted { .. } => {}
                Outcome::Failed(error) => return Err(error.into()),
            }
        }
        let late: HashMap<String, DateTime<Utc>> = couch_docs
            .iter()
            .filter_map(|(case_id, couch)| Some((case_id.clone(), later(couch, part.cutoff)?)))
            .collect();
        part.cases.retain(|case| !late.contains_key(&case.case_id));
        couch_docs.retain(|case_id, _| !late.contains_key(case_id));
        self.state.put_off_diffs(claim, late).await?;
        let sql: HashMap<String, CaseBundle> = sql
            .into_iter()
            .map(|bundle| (bundle.case.case_id.clone(), bundle))
            .collect();
        Ok(Sides {
            domain: claim.domain.clone(),
            no_action: self.no_action_forms(claim, &sql).await?,
            couch_stock: part.couch_stock,
            couch: couch_docs,
            sql,
            rules: Arc::clone(rules),
        })
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

/// Takes out of what was found what rules of the domain's operators drop.
fn set_aside(rules: &OperatorRules, found: &mut [CaseComparison]) -> Result<Vec<Ignored>, BatchFailure> {
    let mut ignored = Vec::new();
    for one in found {
        let (kind, case_id) = (&one.kind, &one.case_id);
        ignored.extend(operator_rules::sort_out(rules, kind, case_id, &mut one.diffs)?);
        if let Some((list, reasons)) = one.changes.take() {
            let mut list = Some(list);
            ignored.extend(operator_rules::sort_out(rules, kind, case_id, &mut list)?);
            one.changes = list.map(|list| (list, reasons));
        }
    }
    Ok(ignored)
}

#[async_trait]
impl BatchHandler for DiffHandler {
    fn stage(&self) -> Stage {
        Stage::Diff
    }

    async fn handle(&self, claim: &Claim) -> Result<(), BatchFailure> {
        if claim.doc_type.is_form() {
            return self.handle_forms(claim).await;
        }
        let scope = self.state.cases_to_diff(claim).await?;
        let rules = Arc::new(operator_rules::of_domain(&self.state, claim.migration_id).await?);
        let mut found = Vec::with_capacity(scope.cases.len());
        let ids: Vec<&str> = scope.cases.iter().map(|case| case.case_id.as_str()).collect();
        let mut reader = self.forms_db.bounded_reader(&ids, READ_BYTES);
        let mut left = scope.cases.as_slice();
        while let Some(couch) = reader.next().await? {
            let (read, others) = left.split_at(couch.len());
            let part = DiffScope {
                cases: read.to_vec(),
                ..scope
            };
            found.extend(self.compare(claim, part, couch, &rules).await?);
            left = others;
        }
        let ignored = set_aside(&rules, &mut found)?;
        let moved = self.state.finish_diffs_ignoring(claim, &found, &ignored).await?;
        if moved > 0 {
            tracing::info!(
                moved,
                "cases were replayed while they were compared, or want another order of their forms; they will be compared again"
            );
        }
        Ok(())
    }
}
