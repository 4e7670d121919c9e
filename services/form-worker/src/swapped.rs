//! Repairs forms in Couch that once replaced a duplicate of themselves: next to the switch of the domain the only thing
//! that is ever written to Couch.
//!
//! A repaired document has no such problem any more, so that nothing is repaired twice; a document that somebody else has
//! changed or repaired meanwhile is read again.

use std::collections::HashMap;

use couch::Outcome;
use formmodel::{repaired, replaced_form};
use serde_json::Value;
use service::worker::{BatchFailure, chain};
use state::batch::Claim;
use state::form_stage::FormResults;

use crate::plan::Candidate;
use crate::read::{Classified, classify, failed_candidate};
use crate::{FormHandler, SourceAccess};

/// How often a document is read again that changes under our hands, before its batch waits.
const ATTEMPTS: usize = 5;

impl FormHandler {
    /// Repairs what needs it among the candidates; the others pass. Under [`SourceAccess::ReadOnly`] it goes on record
    /// instead.
    pub(crate) async fn repair_swapped(
        &self,
        claim: &Claim,
        candidates: Vec<Candidate>,
        results: &mut FormResults,
    ) -> Result<Vec<Candidate>, BatchFailure> {
        let replaced_ids: Vec<String> = candidates
            .iter()
            .filter_map(|candidate| replaced_form(candidate.doc_type, &candidate.document).map(str::to_owned))
            .collect();
        if replaced_ids.is_empty() {
            return Ok(candidates);
        }
        let replaced = self.found(&replaced_ids).await?;
        let mut passed = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            if replaced_form(candidate.doc_type, &candidate.document).is_none() {
                passed.push(candidate);
            } else if self.access == SourceAccess::ReadOnly {
                let why =
                    "the form replaced a duplicate and must be repaired in Couch, which is configured as read-only";
                results
                    .failed
                    .push(failed_candidate(&candidate, "C2S-2308", why.to_owned()));
            } else {
                passed.extend(self.repair(claim, candidate, &replaced, results).await?);
            }
        }
        Ok(passed)
    }

    async fn found(&self, ids: &[String]) -> Result<HashMap<String, Value>, BatchFailure> {
        let documents = self.forms_db.bulk_get(ids).await?;
        Ok(documents
            .into_iter()
            .filter_map(|document| match document.outcome {
                Outcome::Found(found) => Some((document.id, found)),
                _ => None,
            })
            .collect())
    }

    async fn repair(
        &self,
        claim: &Claim,
        mut candidate: Candidate,
        replaced: &HashMap<String, Value>,
        results: &mut FormResults,
    ) -> Result<Option<Candidate>, BatchFailure> {
        for _ in 0..ATTEMPTS {
            let Some(replaced_id) = replaced_form(candidate.doc_type, &candidate.document) else {
                return Ok(Some(candidate));
            };
            let old = replaced.get(replaced_id);
            let now = self.state.now().await?;
            let Some(mut mended) = repaired(candidate.doc_type, &candidate.document, old, now) else {
                let why = "the form replaced a duplicate and cannot be repaired: its history is no list".to_owned();
                results.failed.push(failed_candidate(&candidate, "C2S-2303", why));
                return Ok(None);
            };
            match self.forms_db.put(&candidate.doc_id, &mended).await {
                Ok(rev) => {
                    tracing::warn!(form = %candidate.doc_id, "repaired a form that replaced a duplicate");
                    mended["_rev"] = Value::String(rev.clone());
                    candidate.document = mended;
                    candidate.rev = rev;
                    return Ok(Some(candidate));
                }
                Err(couch::Error::Conflict) => {}
                Err(error) if error.kind() == couch::ErrorKind::Document => {
                    results
                        .failed
                        .push(failed_candidate(&candidate, error.code(), chain(&error)));
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
            let Some(found) = self.forms_db.get(&candidate.doc_id).await? else {
                results.gone.push(candidate.doc_id);
                return Ok(None);
            };
            match classify(claim, &candidate.doc_id, found) {
                Classified::Candidate(read) => candidate = *read,
                Classified::Gone => {
                    results.gone.push(candidate.doc_id);
                    return Ok(None);
                }
                Classified::Failed(doc) => {
                    results.failed.push(doc);
                    return Ok(None);
                }
            }
        }
        Err(BatchFailure::from(couch::Error::Conflict))
    }
}
