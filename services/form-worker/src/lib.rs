//! The form worker: migrates documents of a batch and stages what they do to cases.
//!
//! ```text
//!   ids -> Couch documents, blob metadata, form.xml     (read: bulk requests only)
//!       -> rows and effects                             (formmodel, off the async threads)
//!       -> target, one fenced transaction a shard       (write: revisions on record first, stale ones dropped)
//!       -> read back, diff                              (docdiff)
//!       -> staged effects, diffs, errors, "batch done"  (one transaction of the state schema)
//! ```
//!
//! A document that cannot be migrated is recorded with its reason, and the others go on. Deleted cases pass here too: their
//! document becomes an event, an input of the case's replay.
//!
//! A batch of live cases is one of cases to patch: their recorded differences become forms ([`Patcher`]), which are written
//! and staged as if they had been documents.

mod form_blobs;
mod lost_form;
mod patch_records;
mod patches;
mod plan;
mod read;
mod swapped;
mod system_actions;
mod weight;
mod write;
mod write_patches;

use async_trait::async_trait;
use blobs::{BlobStore, in_parts};
use couch::Database;
use formmodel::Treatment;
use hqsql::Target;
use proto::doctype::DocType;
use proto::topology::Stage;
use service::config::Config;
use service::operator_rules;
use service::worker::{BatchFailure, BatchHandler};
use state::State;
use state::batch::Claim;
use state::forced::Ruling;
use state::form_stage::FormResults;

pub use crate::patch_records::patch_records;
pub use crate::patches::{Patcher, Patches, PlannedPatch};

use crate::plan::Candidate;
use crate::weight::fetched_bytes;

/// Bytes of documents read at once, as JSON text; in memory they are several times as large. A document above it is read
/// alone. Of usual documents, a bulk request of the size that costs CouchDB least is far below.
const READ_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of XML, and of attachments that Couch itself keeps, fetched at once; a form above it is taken alone.
const FETCH_BYTES: usize = 16 * 1024 * 1024;
/// Documents written in one transaction at most.
const WRITE_AT_ONCE: usize = 300;
/// Bytes of XML gathered for one transaction at most: bounds the memory of a batch, whatever its documents weigh.
const WRITE_BYTES: usize = 8 * 1024 * 1024;

/// What may be done to the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceAccess {
    /// Nothing is written.
    ReadOnly,
    /// Forms that replaced a duplicate are repaired.
    Repairs,
}

impl SourceAccess {
    /// As the configuration says.
    pub fn of(config: &Config) -> Self {
        if config.source.read_only {
            Self::ReadOnly
        } else {
            Self::Repairs
        }
    }
}

/// Handles form batches.
pub struct FormHandler {
    state: State,
    target: Target,
    forms_db: Database,
    blobs: BlobStore,
    access: SourceAccess,
}

impl FormHandler {
    /// A handler on these stores.
    pub fn new(state: State, target: Target, forms_db: Database, blobs: BlobStore, access: SourceAccess) -> Self {
        Self {
            state,
            target,
            forms_db,
            blobs,
            access,
        }
    }
}

impl FormHandler {
    /// Takes out of what was found what rules of the domain's operators drop.
    async fn set_aside(&self, claim: &Claim, results: &mut FormResults) -> Result<(), BatchFailure> {
        let rules = operator_rules::of_domain(&self.state, claim.migration_id).await?;
        for form in &mut results.forms {
            let ignored = operator_rules::sort_out(&rules, &form.kind, &form.form_id, &mut form.diffs)?;
            results.ignored.extend(ignored);
        }
        Ok(())
    }
}

#[async_trait]
impl BatchHandler for FormHandler {
    fn stage(&self) -> Stage {
        Stage::Form
    }

    async fn handle(&self, claim: &Claim) -> Result<(), BatchFailure> {
        let mut results = FormResults::default();
        if claim.doc_type == DocType::CommCareCase {
            self.patch(claim, &mut results).await?;
            let known = self.state.writings_of(claim, &results.gone).await?;
            self.remove_rows(claim, &known, &mut results).await?;
            self.state.finish_forms(claim, &results).await?;
            return Ok(());
        }
        let mut gathered: Vec<Candidate> = Vec::new();
        let mut bytes = 0;
        let known = self.state.writings(claim).await?;
        let rulings = self.state.forced_forms(claim).await?;
        let lost = self.state.lost_forms(claim).await?;
        let mut reader = self.forms_db.bounded_reader(&claim.ids, READ_BYTES);
        while let Some(fetched) = reader.next().await? {
            let read = self.read(claim, fetched, &lost, &mut results).await?;
            for part in in_parts(
                read.candidates,
                |candidate| fetched_bytes(candidate, &read.metas),
                FETCH_BYTES,
            ) {
                for mut candidate in self.add_blobs(&claim.domain, part, &read.metas, &mut results).await? {
                    candidate.treatment = match rulings.get(&candidate.doc_id) {
                        None => Treatment::AsItSays,
                        Some(Ruling::Applied) => Treatment::Applied,
                        Some(Ruling::NotApplied) => Treatment::NotApplied,
                    };
                    bytes += candidate.weight();
                    gathered.push(candidate);
                    if gathered.len() >= WRITE_AT_ONCE || bytes >= WRITE_BYTES {
                        self.write(claim, std::mem::take(&mut gathered), &mut results).await?;
                        bytes = 0;
                    }
                }
            }
        }
        self.write(claim, gathered, &mut results).await?;
        self.remove_rows(claim, &known, &mut results).await?;
        self.set_aside(claim, &mut results).await?;
        self.state.finish_forms(claim, &results).await?;
        Ok(())
    }
}
