//! Reads what a batch needs beside its blobs: documents and blob metadata, each by bulk requests.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use couch::{Fetched, Outcome};
use proto::doctype::DocType;
use proto::rows::BlobMetaRow;
use serde_json::Value;
use service::worker::{BatchFailure, chain};
use state::batch::Claim;
use state::form_stage::{FailedDoc, FormResults};

use crate::FormHandler;
use crate::lost_form;
use crate::plan::Candidate;

/// Documents that were read together, without their blobs.
pub(crate) struct Read {
    /// Those that are to be migrated.
    pub(crate) candidates: Vec<Candidate>,
    /// Blob metadata by form.
    pub(crate) metas: HashMap<String, Vec<BlobMetaRow>>,
}

impl FormHandler {
    /// Reads the blob metadata of these documents and what else is to be known of them. What cannot be migrated goes into
    /// `results`. `lost` are forms that are made of their XML where Couch has no document of them.
    pub(crate) async fn read(
        &self,
        claim: &Claim,
        fetched: Vec<Fetched>,
        lost: &HashMap<String, Option<DateTime<Utc>>>,
        results: &mut FormResults,
    ) -> Result<Read, BatchFailure> {
        let ids: Vec<String> = fetched.iter().map(|document| document.id.clone()).collect();
        let mut metas: HashMap<String, Vec<BlobMetaRow>> = HashMap::new();
        for row in self.target.read_blobmeta(&ids).await? {
            metas.entry(row.parent_id.clone()).or_default().push(row);
        }
        let mut candidates = Vec::with_capacity(fetched.len());
        for document in fetched {
            let outcome = match document.outcome {
                Outcome::Found(found) => classify(claim, &document.id, found),
                // It vanished between the scan and now: there is nothing to migrate, and nothing is missing.
                Outcome::Missing | Outcome::Deleted { .. } => match lost.get(&document.id) {
                    None => Classified::Gone,
                    Some(received_on) => {
                        let rows = metas.get(&document.id).map_or(&[][..], Vec::as_slice);
                        lost_form::classify(claim, &document.id, *received_on, rows)
                    }
                },
                Outcome::Failed(error) => match error.kind() {
                    couch::ErrorKind::Document => {
                        Classified::Failed(failed(claim.doc_type, &document.id, None, error.code(), chain(&error)))
                    }
                    _ => return Err(error.into()),
                },
            };
            match outcome {
                Classified::Candidate(candidate) => candidates.push(*candidate),
                Classified::Gone => results.gone.push(document.id),
                Classified::Failed(doc) => results.failed.push(doc),
            }
        }
        Ok(Read {
            candidates: self.repair_swapped(claim, candidates, results).await?,
            metas,
        })
    }
}

pub(crate) enum Classified {
    Candidate(Box<Candidate>),
    Gone,
    Failed(FailedDoc),
}

/// What a document is: its type and domain may have changed since the scan.
pub(crate) fn classify(claim: &Claim, doc_id: &str, document: Value) -> Classified {
    let text = |key: &str| document.get(key).and_then(Value::as_str).map(str::to_owned);
    let rev = text("_rev").unwrap_or_default();
    let doc_type = text("doc_type").as_deref().and_then(DocType::parse);
    if text("domain").as_deref() != Some(claim.domain.as_str()) {
        let why = "the document belongs to another domain; the view listed it for this one".to_owned();
        return Classified::Failed(failed(claim.doc_type, doc_id, Some(rev), "C2S-2301", why));
    }
    match doc_type {
        // A case that is alive again, or a document of a type that is not migrated: the other scans see to it, if any.
        None | Some(DocType::CommCareCase) => Classified::Gone,
        Some(doc_type) => Classified::Candidate(Box::new(Candidate::new(doc_id, rev, doc_type, document))),
    }
}

pub(crate) fn failed(kind: DocType, doc_id: &str, rev: Option<String>, code: &str, message: String) -> FailedDoc {
    FailedDoc {
        kind: kind.as_str().to_owned(),
        doc_id: doc_id.to_owned(),
        rev,
        code: code.to_owned(),
        message,
        missing: true,
    }
}

pub(crate) fn failed_candidate(candidate: &Candidate, code: &str, message: String) -> FailedDoc {
    failed(
        candidate.doc_type,
        &candidate.doc_id,
        Some(candidate.rev.clone()),
        code,
        message,
    )
}
