//! Writes the forms of a batch, reads them back, and compares.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use formmodel::MigratedForm;
use hqsql::{BlobRetype, FencedTx, RemovedBlob, ShardId};
use proto::doctype::DocType;
use proto::effects::CaseEvent;
use proto::ids::Domain;
use proto::rows::{BlobMetaRow, FormBundle};
use serde_json::Value;
use service::worker::{BatchFailure, chain};
use state::batch::Claim;
use state::blob_change::{BlobAction, BlobChange};
use state::form_stage::{DocIntent, FormResults, StagedCase, StagedDeletedCase, StagedForm};

use crate::FormHandler;
use crate::plan::Candidate;
use crate::read::failed_candidate;

/// A form on its way into the target.
pub(crate) struct Written {
    pub(crate) candidate: Candidate,
    form: MigratedForm,
    first_staged_at: DateTime<Utc>,
    seen_before: bool,
    begun: i64,
}

impl FormHandler {
    /// Writes the candidates, and adds to `results` what is to be staged.
    pub(crate) async fn write(
        &self,
        claim: &Claim,
        candidates: Vec<Candidate>,
        results: &mut FormResults,
    ) -> Result<(), BatchFailure> {
        let (cases, forms): (Vec<_>, Vec<_>) = candidates
            .into_iter()
            .partition(|candidate| candidate.doc_type == DocType::CommCareCaseDeleted);
        self.stage_deleted_cases(claim, &cases, results).await?;
        let mut by_shard: BTreeMap<ShardId, Vec<(Candidate, MigratedForm)>> = BTreeMap::new();
        let forms = self.migrate(&claim.domain, forms, results).await?;
        for (candidate, form) in self.follow_actions(claim, forms, results).await? {
            by_shard
                .entry(self.target.shard_of(&candidate.doc_id))
                .or_default()
                .push((candidate, form));
        }
        for (shard, forms) in by_shard {
            let written = self.write_shard(claim, shard, forms, results).await?;
            self.compare(written, results).await?;
        }
        Ok(())
    }

    /// Rows that an earlier attempt wrote go with their document: Couch has it no longer, or it cannot be migrated as it is
    /// now. A row that somebody has begun to write since the document was found gone stays, as does one of a newer revision.
    /// A patch form takes its blob metadata along. `known` is how often each document had been begun before it was read.
    pub(crate) async fn remove_rows(
        &self,
        claim: &Claim,
        known: &HashMap<String, i64>,
        results: &mut FormResults,
    ) -> Result<(), BatchFailure> {
        results.burials = self.state.begin_burials(claim, &results.gone, known).await?;
        let failed: Vec<(String, String)> = results
            .failed
            .iter()
            .filter(|doc| doc.missing)
            .filter_map(|doc| Some((doc.doc_id.clone(), doc.rev.clone()?)))
            .collect();
        let mut by_shard: BTreeMap<ShardId, Vec<String>> = BTreeMap::new();
        for form_id in results.burials.keys().chain(failed.iter().map(|(form_id, _)| form_id)) {
            by_shard
                .entry(self.target.shard_of(form_id))
                .or_default()
                .push(form_id.clone());
        }
        for (shard, mut form_ids) in by_shard {
            let tx = self.target.begin(shard, &claim.domain, claim.epoch).await?;
            let locked = tx.lock_form_rows(&form_ids).await?;
            let newer = self.state.newer_revisions(claim, &failed).await?;
            let again = self.state.begun_since(claim, &results.burials).await?;
            // A row that was not there to be locked is of a later writing.
            form_ids.retain(|id| locked.contains(id) && !newer.contains(id) && !again.contains(id));
            tx.delete_forms(&claim.domain, &form_ids).await?;
            let blobs = self.state.patch_blobs(claim.migration_id, &form_ids).await?;
            tx.remove_blobmeta(&blobs).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Runs the rules off the async threads: reading some hundred XML documents takes them many milliseconds.
    pub(crate) async fn migrate(
        &self,
        domain: &Domain,
        candidates: Vec<Candidate>,
        results: &mut FormResults,
    ) -> Result<Vec<(Candidate, MigratedForm)>, BatchFailure> {
        let domain_of_rows = domain.clone();
        let domain = domain.clone();
        let span = tracing::info_span!("migrate", forms = candidates.len());
        let migrated = tokio::task::spawn_blocking(move || {
            let _entered = span.entered();
            candidates
                .into_iter()
                .map(|mut candidate| {
                    let attachments = std::mem::take(&mut candidate.attachments);
                    let completed = if candidate.is_lost() {
                        formmodel::complete_lost_form(&mut candidate.document, &candidate.xml)
                    } else {
                        Ok(())
                    };
                    let form = completed.and_then(|()| {
                        formmodel::migrate(
                            &domain,
                            candidate.doc_type,
                            &candidate.document,
                            &candidate.xml,
                            attachments,
                            candidate.treatment,
                        )
                    });
                    (candidate, form)
                })
                .collect::<Vec<_>>()
        })
        .await
        .map_err(|_| BatchFailure::defect("the migration of a form panicked"))?;
        let mut forms = Vec::with_capacity(migrated.len());
        for (candidate, form) in migrated {
            match form {
                Ok(form) => match check_rows(&domain_of_rows, &candidate, &form) {
                    Ok(()) => forms.push((candidate, form)),
                    Err(error) => results
                        .failed
                        .push(failed_candidate(&candidate, "C2S-2305", error.to_string())),
                },
                Err(failure) => results
                    .failed
                    .push(failed_candidate(&candidate, failure.code(), chain(&failure))),
            }
        }
        Ok(forms)
    }

    /// Writes forms of one shard. A form that turns out to be superseded, or that the target refuses, is left out, and the
    /// transaction starts again without it.
    pub(crate) async fn write_shard(
        &self,
        claim: &Claim,
        shard: ShardId,
        mut forms: Vec<(Candidate, MigratedForm)>,
        results: &mut FormResults,
    ) -> Result<Vec<Written>, BatchFailure> {
        loop {
            let tx = self.target.begin(shard, &claim.domain, claim.epoch).await?;
            let written = self.begin_forms(claim, &tx, forms, results).await?;
            if written.is_empty() {
                tx.rollback().await?;
                return Ok(written);
            }
            let refused = match self.merge(claim, &tx, &written).await {
                Ok(()) => None,
                Err(error) => match error.document() {
                    Some(document) if written.iter().any(|one| one.candidate.doc_id == document) => {
                        Some((document.to_owned(), error.code(), chain(&error)))
                    }
                    _ => return Err(error.into()),
                },
            };
            let stale: HashSet<String> = if refused.is_none() {
                let pairs: Vec<(String, String)> = written
                    .iter()
                    .map(|one| (one.candidate.doc_id.clone(), one.candidate.rev.clone()))
                    .collect();
                self.state.stale_forms(claim, &pairs).await?.into_iter().collect()
            } else {
                HashSet::new()
            };
            if refused.is_none() && stale.is_empty() {
                tx.commit().await?;
                return Ok(written);
            }
            tx.rollback().await?;
            forms = Vec::with_capacity(written.len());
            for one in written {
                match &refused {
                    Some((document, code, message)) if *document == one.candidate.doc_id => {
                        results
                            .failed
                            .push(failed_candidate(&one.candidate, code, message.clone()));
                    }
                    _ if stale.contains(&one.candidate.doc_id) => {}
                    _ => forms.push((one.candidate, one.form)),
                }
            }
        }
    }

    /// Puts the revisions on record and leaves out what is not ours to write: superseded or refused revisions, and ids that
    /// belong to a form of another domain.
    async fn begin_forms(
        &self,
        claim: &Claim,
        tx: &FencedTx,
        forms: Vec<(Candidate, MigratedForm)>,
        results: &mut FormResults,
    ) -> Result<Vec<Written>, BatchFailure> {
        let ids: Vec<String> = forms.iter().map(|(candidate, _)| candidate.doc_id.clone()).collect();
        let intents: Vec<DocIntent> = forms.iter().map(|(candidate, _)| intent(candidate)).collect();
        let owners = tx.form_owners(&ids).await?;
        let standings = self.state.begin_forms(claim, &intents, &[]).await?;
        let mut written = Vec::with_capacity(forms.len());
        for (candidate, form) in forms {
            if owners
                .get(&candidate.doc_id)
                .is_some_and(|owner| owner != claim.domain.as_str())
            {
                let why = "the SQL form with this id belongs to another domain".to_owned();
                results.failed.push(failed_candidate(&candidate, "C2S-2306", why));
                continue;
            }
            let Some(standing) = standings.get(&candidate.doc_id) else {
                return Err(BatchFailure::defect("a revision was recorded and is not there"));
            };
            if !standing.superseded && standing.rejected.is_none() {
                written.push(Written {
                    candidate,
                    form,
                    first_staged_at: standing.first_staged_at,
                    seen_before: standing.seen_before,
                    begun: standing.begun,
                });
            }
        }
        let mut changes: Vec<BlobChange> = written.iter().flat_map(blob_changes).collect();
        changes.extend(remove_dangling(tx, &written).await?);
        self.state.record_blob_changes(claim, &changes).await?;
        Ok(written)
    }

    async fn merge(&self, claim: &Claim, tx: &FencedTx, written: &[Written]) -> hqsql::Result<()> {
        let ids: Vec<String> = written.iter().map(|one| one.candidate.doc_id.clone()).collect();
        let bundles: Vec<FormBundle> = written.iter().map(|one| one.form.bundle.clone()).collect();
        let inserts: Vec<BlobMetaRow> = written
            .iter()
            .flat_map(|one| new_rows(&claim.domain, &one.candidate, one.first_staged_at))
            .collect();
        let retypes: Vec<BlobRetype> = written
            .iter()
            .flat_map(|one| one.candidate.retypes.iter().cloned())
            .collect();
        tx.lock_form_rows(&ids).await?;
        tx.merge_forms(&bundles).await?;
        tx.merge_blobmeta(&inserts, &retypes).await?;
        Ok(())
    }

    /// Reads the forms back from the target and compares them with their Couch documents.
    async fn compare(&self, written: Vec<Written>, results: &mut FormResults) -> Result<(), BatchFailure> {
        let ids: Vec<String> = written.iter().map(|one| one.candidate.doc_id.clone()).collect();
        let stored: HashMap<String, FormBundle> = self
            .target
            .read_forms(&ids)
            .await?
            .into_iter()
            .map(|bundle| (bundle.form.form_id.clone(), bundle))
            .collect();
        for one in written {
            let Some(stored) = stored.get(&one.candidate.doc_id) else {
                return Err(BatchFailure::defect("a form was committed and is not there"));
            };
            if one.candidate.lacks_attachments {
                let mut doc = failed_candidate(
                    &one.candidate,
                    "C2S-2311",
                    "the blob of an attachment is nowhere, and neither document nor store tells its length".to_owned(),
                );
                doc.missing = false;
                results.failed.push(doc);
            }
            results.forms.push(staged(one, stored)?);
        }
        Ok(())
    }

    /// A deleted case is an input of its case's replay.
    async fn stage_deleted_cases(
        &self,
        claim: &Claim,
        cases: &[Candidate],
        results: &mut FormResults,
    ) -> Result<(), BatchFailure> {
        if cases.is_empty() {
            return Ok(());
        }
        let intents: Vec<DocIntent> = cases.iter().map(intent).collect();
        let standings = self.state.begin_forms(claim, &intents, &[]).await?;
        for case in cases {
            let Some(standing) = standings.get(&case.doc_id) else {
                return Err(BatchFailure::defect("a revision was recorded and is not there"));
            };
            if standing.superseded {
                continue;
            }
            let event = CaseEvent::CopiedDeleted {
                doc: case.document.to_string(),
                staged_on: standing.first_staged_at,
            };
            results.deleted_cases.push(StagedDeletedCase {
                case_id: case.doc_id.clone(),
                rev: case.rev.clone(),
                begun: standing.begun,
                payload: encode(&event)?,
            });
        }
        Ok(())
    }
}

/// Removes metadata rows whose blobs are nowhere, and gives what is to be put on record of them before the transaction
/// commits.
async fn remove_dangling(tx: &FencedTx, written: &[Written]) -> hqsql::Result<Vec<BlobChange>> {
    let rows: Vec<(String, String)> = written
        .iter()
        .flat_map(|one| {
            let form_id = &one.candidate.doc_id;
            one.candidate.dangling.iter().map(|key| (form_id.clone(), key.clone()))
        })
        .collect();
    let by_form: HashMap<&str, &Written> = written.iter().map(|one| (one.candidate.doc_id.as_str(), one)).collect();
    let removed = tx.remove_blobmeta(&rows).await?;
    Ok(removed
        .into_iter()
        .filter_map(|row| {
            let one = *by_form.get(row.parent_id.as_str())?;
            Some(removal(row, one))
        })
        .collect())
}

fn intent(candidate: &Candidate) -> DocIntent {
    DocIntent {
        doc_id: candidate.doc_id.clone(),
        doc_type: candidate.doc_type.as_str().to_owned(),
        rev: candidate.rev.clone(),
    }
}

fn blob_changes(one: &Written) -> Vec<BlobChange> {
    let change = |action, key: &str, name: &str, type_code| BlobChange {
        action,
        key: key.to_owned(),
        parent_id: one.candidate.doc_id.clone(),
        name: name.to_owned(),
        type_code,
        created_on: one.first_staged_at,
    };
    let inserts = one.candidate.missing_meta.iter().map(|meta| {
        change(
            BlobAction::Insert { origin: meta.origin },
            &meta.key,
            &meta.name,
            meta.type_code,
        )
    });
    let retypes = one
        .candidate
        .retypes
        .iter()
        .map(|retype| change(BlobAction::Retype { from: retype.from }, &retype.key, "", retype.to));
    inserts.chain(retypes).collect()
}

/// A removed row, as it must be put back.
fn removal(removed: RemovedBlob, one: &Written) -> BlobChange {
    BlobChange {
        action: BlobAction::Remove { row: removed.row },
        key: removed.key,
        parent_id: removed.parent_id,
        name: removed.name,
        type_code: removed.type_code,
        created_on: one.first_staged_at,
    }
}

/// Whether the tables can hold the form, its operations, and the rows of its blobs.
fn check_rows(domain: &Domain, candidate: &Candidate, form: &MigratedForm) -> Result<(), hqsql::RowError> {
    hqsql::check_form(&form.bundle)?;
    new_rows(domain, candidate, DateTime::UNIX_EPOCH)
        .iter()
        .try_for_each(hqsql::check_blobmeta)
}

fn new_rows(domain: &Domain, candidate: &Candidate, created_on: DateTime<Utc>) -> Vec<BlobMetaRow> {
    let rows = candidate.missing_meta.iter().map(|meta| BlobMetaRow {
        domain: domain.as_str().to_owned(),
        parent_id: candidate.doc_id.clone(),
        name: meta.name.clone(),
        key: meta.key.clone(),
        type_code: meta.type_code,
        content_length: meta.content_length,
        compressed_length: None,
        content_type: meta.content_type.clone(),
        properties: None,
        created_on,
    });
    rows.collect()
}

fn staged(one: Written, stored: &FormBundle) -> Result<StagedForm, BatchFailure> {
    let diffs = diffs(&one.candidate, &one.form, stored)?;
    staged_form(one, diffs)
}

/// What is staged of a form, with its diffs.
pub(crate) fn staged_form(one: Written, diffs: Option<String>) -> Result<StagedForm, BatchFailure> {
    let Written {
        candidate,
        form,
        seen_before,
        begun,
        ..
    } = one;
    let mut cases = Vec::with_capacity(form.cases.len());
    for (case_id, effects) in &form.cases {
        cases.push(StagedCase {
            case_id: case_id.as_str().to_owned(),
            payload: encode(effects)?,
        });
    }
    Ok(StagedForm {
        form_id: candidate.doc_id,
        rev: candidate.rev,
        seen_before,
        begun,
        cases,
        has_noop_block: form.has_noop_block,
        is_problem_form: form.is_problem_form,
        diffs,
        kind: candidate.doc_type.as_str().to_owned(),
    })
}

/// The differences between the Couch document and the stored form, as JSON text. A submission error log has no form to
/// compare.
fn diffs(candidate: &Candidate, form: &MigratedForm, stored: &FormBundle) -> Result<Option<String>, BatchFailure> {
    if candidate.doc_type == DocType::SubmissionErrorLog {
        return Ok(None);
    }
    let sql = docdiff::sqljson::form_json(stored, &form.body);
    let found = docdiff::diff_form(&form.compared(&candidate.document), &sql)
        .map_err(|_| BatchFailure::defect("a form of an unknown type was compared"))?;
    if found.is_empty() {
        return Ok(None);
    }
    Ok(Some(
        Value::Array(found.iter().map(docdiff::Diff::to_json).collect()).to_string(),
    ))
}

pub(crate) fn encode(value: &impl serde::Serialize) -> Result<Vec<u8>, BatchFailure> {
    rmp_serde::to_vec_named(value).map_err(|_| BatchFailure::defect("an effect cannot be encoded"))
}
