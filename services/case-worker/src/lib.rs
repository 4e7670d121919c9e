//! The case worker: replays dirty cases.
//!
//! For the cases of a batch, shard by shard and inside one fenced transaction of the target, it takes the locks of their
//! buckets, reads which dirty rows there are and then the inputs of the replays, runs the pure model, merges the rows and
//! commits. Only then does it delete the dirty rows that it had read: a form staged meanwhile has left its own, and its
//! case is replayed again.
//!
//! A case with very many forms has a checkpoint (`growth`): it is read, replayed and written from there on, if nothing but new
//! forms has come to it.

mod growth;
mod replay;

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use hqsql::{DailyConsumption, FencedTx, ShardId, Target};
use proto::topology::Stage;
use service::domain_options::DomainOptions;
use service::worker::{BatchFailure, BatchHandler};
use state::State;
use state::batch::Claim;
use state::case_stage::{CaseInputs, CaseResults, Verdict};

use crate::growth::Growing;
use crate::replay::{Outcome, Settings};

/// Handles case batches.
pub struct CaseHandler {
    state: State,
    target: Target,
    checkpoint_from: usize,
}

impl CaseHandler {
    /// A handler on these databases, which keeps checkpoints of cases with so many forms.
    pub fn new(state: State, target: Target, checkpoint_from: usize) -> Self {
        Self {
            state,
            target,
            checkpoint_from,
        }
    }

    async fn shard(
        &self,
        claim: &Claim,
        shard: ShardId,
        case_ids: Vec<String>,
        results: &mut CaseResults,
    ) -> Result<Vec<i64>, BatchFailure> {
        let tx = self.target.begin(shard, &claim.domain, claim.epoch).await?;
        let buckets: Vec<i16> = case_ids.iter().map(|id| proto::bucket::of(id)).collect();
        tx.lock_buckets(&claim.domain, &buckets).await?;
        let mut inputs = self.state.case_inputs(claim, &case_ids).await?;
        let owners = tx.case_owners(&case_ids).await?;
        let foreign: Vec<String> = owners
            .into_iter()
            .filter(|(_, owner)| owner != claim.domain.as_str())
            .map(|(id, _)| id)
            .collect();
        let mut dirty = std::mem::take(&mut inputs.dirty);
        let mut staged_as = inputs.staged_as.clone();
        let mut standing = std::mem::take(&mut inputs.standing);
        let kept = std::mem::take(&mut inputs.checkpoints);
        let growing = growth::growing(&tx, &claim.domain, kept).await?;
        let mut outcome = self.replay(claim, case_ids, inputs, growing, foreign.clone()).await?;
        let anew = std::mem::take(&mut outcome.anew);
        if !anew.is_empty() {
            let mut inputs = self.state.all_case_inputs(claim, &anew).await?;
            dirty.append(&mut inputs.dirty);
            staged_as.extend(inputs.staged_as.clone());
            standing.read_again(&anew, std::mem::take(&mut inputs.standing));
            outcome.extend(self.replay(claim, anew, inputs, Growing::new(), foreign).await?);
        }
        self.write(claim, tx, &outcome, &staged_as).await?;
        results.staged_as.extend(staged_as);
        results.standing.extend(standing);
        results.checkpoints.extend(outcome.checkpoints);
        results.replayed.extend(outcome.replayed);
        results.verdicts.extend(outcome.verdicts);
        results.withdrawn.extend(outcome.withdrawn);
        results.failed.extend(outcome.failed);
        Ok(dirty)
    }

    /// Runs the model off the async threads: a batch may take it many milliseconds.
    async fn replay(
        &self,
        claim: &Claim,
        case_ids: Vec<String>,
        inputs: CaseInputs,
        growing: Growing,
        foreign: Vec<String>,
    ) -> Result<Outcome, BatchFailure> {
        let domain = claim.domain.clone();
        let settings = Settings {
            options: DomainOptions::from_json(&self.state.options(claim.migration_id).await?),
            checkpoint_from: self.checkpoint_from,
        };
        let forms = inputs.forms();
        let span = tracing::info_span!("replay", cases = case_ids.len(), forms, growing = growing.len());
        tokio::task::spawn_blocking(move || {
            let _entered = span.entered();
            replay::replay_batch(&domain, &case_ids, inputs, &growing, &foreign, settings)
        })
        .await
        .map_err(|_| BatchFailure::defect("the replay of a case panicked"))?
    }

    async fn write(
        &self,
        claim: &Claim,
        tx: FencedTx,
        outcome: &Outcome,
        staged_as: &HashMap<String, i64>,
    ) -> Result<(), BatchFailure> {
        tx.merge_cases(&outcome.bundles, &outcome.absent).await?;
        if !outcome.grown.is_empty() {
            tx.grow_cases(&outcome.grown).await?;
        }
        let corrections = outcome.corrections.iter();
        let consumptions: Vec<DailyConsumption<'_>> = corrections
            .map(|(case_id, one)| DailyConsumption {
                case_id,
                section_id: &one.section_id,
                entry_id: &one.entry_id,
                value: &one.daily_consumption,
            })
            .collect();
        tx.set_daily_consumptions(&consumptions).await?;
        tx.commit().await?;
        self.remove_forms(claim, &outcome.verdicts, staged_as).await
    }

    /// A refused form has no row: HQ drops a form whole when any part of it is in error. Blob metadata stays, as Couch needs
    /// it, but for that of a patch form. That the rows are about to go is on
    /// record before they go, and the verdict afterwards; if this process dies in between, the next replay either comes to
    /// the same verdict, or has the row written anew. A row that somebody has begun to write since stays: nothing is known of
    /// it yet.
    async fn remove_forms(
        &self,
        claim: &Claim,
        verdicts: &[Verdict],
        staged_as: &HashMap<String, i64>,
    ) -> Result<(), BatchFailure> {
        let mut by_shard: BTreeMap<ShardId, Vec<&Verdict>> = BTreeMap::new();
        for verdict in verdicts {
            if !staged_as.contains_key(&verdict.form_id) {
                return Err(BatchFailure::defect("a form was refused that was not replayed"));
            }
            let shard = self.target.shard_of(&verdict.form_id);
            by_shard.entry(shard).or_default().push(verdict);
        }
        for (shard, mut verdicts) in by_shard {
            let form_ids: Vec<String> = verdicts.iter().map(|verdict| verdict.form_id.clone()).collect();
            let tx = self.target.begin(shard, &claim.domain, claim.epoch).await?;
            let locked = tx.lock_form_rows(&form_ids).await?;
            // A row that was not there to be locked is of a later writing.
            verdicts.retain(|verdict| locked.contains(&verdict.form_id));
            let removed = self.state.begin_removals(claim, &verdicts, staged_as).await?;
            tx.delete_forms(&claim.domain, &removed).await?;
            let blobs = self.state.patch_blobs(claim.migration_id, &removed).await?;
            tx.remove_blobmeta(&blobs).await?;
            tx.commit().await?;
        }
        Ok(())
    }
}

#[async_trait]
impl BatchHandler for CaseHandler {
    fn stage(&self) -> Stage {
        Stage::Case
    }

    async fn handle(&self, claim: &Claim) -> Result<(), BatchFailure> {
        let mut by_shard: BTreeMap<ShardId, Vec<String>> = BTreeMap::new();
        for case_id in &claim.ids {
            by_shard
                .entry(self.target.shard_of(case_id))
                .or_default()
                .push(case_id.clone());
        }
        let mut results = CaseResults::default();
        let mut dirty = Vec::new();
        for (shard, case_ids) in by_shard {
            dirty.extend(self.shard(claim, shard, case_ids, &mut results).await?);
        }
        self.state.finish_cases(claim, &dirty, &results).await?;
        Ok(())
    }
}
