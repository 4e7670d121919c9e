//! Reads what a batch needs: documents, blob metadata and XML, each by bulk requests.

use std::collections::HashMap;

use blobs::{BlobRef, FORM_XML, Wanted, gunzip};
use bytes::Bytes;
use couch::Outcome;
use hqsql::BlobRetype;
use proto::doctype::DocType;
use proto::rows::{BLOB_FORM_ATTACHMENT, BLOB_FORM_XML, BlobMetaRow};
use serde_json::Value;
use service::worker::{BatchFailure, chain};
use state::batch::Claim;
use state::form_stage::{FailedDoc, FormResults};

use crate::FormHandler;
use crate::plan::{BlobStanding, Candidate, NewMeta, derived_key, facts, standing, type_code};

/// `form.xml` above this many bytes is refused.
const MAX_XML_BYTES: usize = 64 * 1024 * 1024;

impl FormHandler {
    /// Reads the documents of these ids and everything that belongs to them. What cannot be migrated goes into `results`.
    pub(crate) async fn read(
        &self,
        claim: &Claim,
        ids: &[String],
        results: &mut FormResults,
    ) -> Result<Vec<Candidate>, BatchFailure> {
        let (fetched, metas) = tokio::join!(self.forms_db.bulk_get(ids), self.target.read_blobmeta(ids));
        let mut by_form: HashMap<String, Vec<BlobMetaRow>> = HashMap::new();
        for row in metas? {
            by_form.entry(row.parent_id.clone()).or_default().push(row);
        }
        let mut candidates = Vec::with_capacity(ids.len());
        for document in fetched? {
            let outcome = match document.outcome {
                Outcome::Found(found) => classify(claim, &document.id, found),
                // It vanished between the scan and now: there is nothing to migrate, and nothing is missing.
                Outcome::Missing | Outcome::Deleted { .. } => Classified::Gone,
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
        self.add_blobs(candidates, &by_form, results).await
    }

    /// Adds XML and attachments to the forms among the candidates.
    async fn add_blobs(
        &self,
        candidates: Vec<Candidate>,
        metas: &HashMap<String, Vec<BlobMetaRow>>,
        results: &mut FormResults,
    ) -> Result<Vec<Candidate>, BatchFailure> {
        let mut planned = Vec::with_capacity(candidates.len());
        let mut wanted: Vec<Wanted> = Vec::new();
        for candidate in candidates {
            if !candidate.doc_type.is_form() {
                planned.push((candidate, Vec::new()));
                continue;
            }
            let rows = metas.get(&candidate.doc_id).map_or(&[][..], Vec::as_slice);
            match blobs::blob_refs(self.forms_db.name(), &candidate.doc_id, &candidate.document) {
                Ok(refs) => {
                    let blobs = with_form_xml(refs, rows);
                    for (blob, standing) in &blobs {
                        if needs_bytes(blob, standing) {
                            wanted.push(Wanted {
                                doc_id: candidate.doc_id.clone(),
                                blob: source(blob, standing),
                            });
                        }
                    }
                    planned.push((candidate, blobs));
                }
                Err(error) => results
                    .failed
                    .push(failed_candidate(&candidate, error.code(), chain(&error))),
            }
        }
        let fetched = self.blobs.fetch_many(&self.forms_db, &wanted).await?;
        let mut fetched = fetched.into_iter();
        let mut ready = Vec::with_capacity(planned.len());
        for (mut candidate, blobs) in planned {
            let mut problem = None;
            for (blob, standing) in blobs {
                let bytes = if needs_bytes(&blob, &standing) {
                    fetched.next().unwrap_or(Ok(None))
                } else {
                    Ok(None)
                };
                if let Err(error) = self.add_blob(&mut candidate, &blob, standing, bytes).await {
                    match error.kind() {
                        blobs::ErrorKind::Document => problem = Some((error.code(), chain(&error))),
                        _ => return Err(error.into()),
                    }
                }
            }
            match problem {
                None => ready.push(candidate),
                Some((code, message)) => results.failed.push(failed_candidate(&candidate, code, message)),
            }
        }
        Ok(ready)
    }

    async fn add_blob(
        &self,
        candidate: &mut Candidate,
        blob: &BlobRef,
        standing: BlobStanding,
        bytes: Result<Option<Bytes>, blobs::Error>,
    ) -> Result<(), blobs::Error> {
        let bytes = bytes?;
        let is_xml = blob.name == FORM_XML;
        match standing {
            BlobStanding::Present(row) if is_xml => {
                candidate.xml = match (bytes, row.compressed_length) {
                    (Some(bytes), Some(_)) => Some(gunzip(&bytes, MAX_XML_BYTES)?),
                    (bytes, _) => bytes,
                };
            }
            BlobStanding::Present(row) => candidate.attachments.push(facts(&row)),
            BlobStanding::Mistyped(row) => {
                candidate.retypes.push(BlobRetype {
                    parent_id: row.parent_id.clone(),
                    key: row.key.clone(),
                    from: BLOB_FORM_XML,
                    to: BLOB_FORM_ATTACHMENT,
                });
                candidate.attachments.push(facts(&row));
            }
            BlobStanding::KeyTaken(row) => {
                // The row is HQ's own, under another name or type: nothing is inserted, and nothing will be undone.
                if is_xml {
                    candidate.xml = bytes;
                } else {
                    candidate.attachments.push(facts(&row));
                }
            }
            BlobStanding::Absent => {
                if let Some(meta) = self.new_meta(&candidate.doc_id, blob, bytes.as_ref()).await? {
                    if !is_xml {
                        candidate.attachments.push(meta.facts());
                    }
                    candidate.missing_meta.push(meta);
                }
                if is_xml {
                    candidate.xml = bytes;
                }
            }
        }
        Ok(())
    }

    /// The metadata row for a blob that has none; none when the blob itself is nowhere. The bytes of an inline attachment
    /// are stored first; the Couch document stays as it is.
    async fn new_meta(
        &self,
        form_id: &str,
        blob: &BlobRef,
        bytes: Option<&Bytes>,
    ) -> Result<Option<NewMeta>, blobs::Error> {
        let (key, length) = match (&blob.key, bytes) {
            (Some(key), Some(bytes)) => (key.clone(), u64::try_from(bytes.len()).ok()),
            (Some(key), None) if blob.name == FORM_XML => {
                let _ = key;
                return Ok(None);
            }
            (Some(key), None) => {
                let length = match blob.content_length {
                    Some(length) => Some(length),
                    None => self.blobs.head(key).await?,
                };
                (key.clone(), length)
            }
            (None, Some(bytes)) => {
                let key = derived_key(form_id, &blob.name, bytes);
                self.blobs.put_if_absent(&key, bytes.clone()).await?;
                (key, u64::try_from(bytes.len()).ok())
            }
            (None, None) => return Ok(None),
        };
        Ok(length
            .and_then(|length| i64::try_from(length).ok())
            .map(|content_length| NewMeta {
                name: blob.name.clone(),
                key,
                type_code: type_code(&blob.name),
                content_length,
                content_type: blob.content_type.clone(),
            }))
    }
}

enum Classified {
    Candidate(Box<Candidate>),
    Gone,
    Failed(FailedDoc),
}

/// What a document is: its type and domain may have changed since the scan.
fn classify(claim: &Claim, doc_id: &str, document: Value) -> Classified {
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
        Some(doc_type) => Classified::Candidate(Box::new(Candidate {
            doc_id: doc_id.to_owned(),
            rev,
            doc_type,
            document,
            xml: None,
            attachments: Vec::new(),
            missing_meta: Vec::new(),
            retypes: Vec::new(),
        })),
    }
}

/// The blobs of a form with their standings; `form.xml` is among them even if only the metadata knows it.
fn with_form_xml(refs: Vec<BlobRef>, rows: &[BlobMetaRow]) -> Vec<(BlobRef, BlobStanding)> {
    let mut refs = refs;
    if !refs.iter().any(|blob| blob.name == FORM_XML)
        && let Some(row) = rows
            .iter()
            .find(|row| row.name == FORM_XML && row.type_code == BLOB_FORM_XML)
    {
        refs.push(BlobRef {
            name: FORM_XML.to_owned(),
            key: Some(row.key.clone()),
            content_type: row.content_type.clone(),
            content_length: None,
            blobmeta_id: None,
        });
    }
    refs.into_iter()
        .map(|blob| {
            let standing = standing(&blob, rows);
            (blob, standing)
        })
        .collect()
}

/// XML is always read; an attachment only when it is inline and must be stored.
fn needs_bytes(blob: &BlobRef, standing: &BlobStanding) -> bool {
    blob.name == FORM_XML || (blob.is_inline() && *standing == BlobStanding::Absent)
}

/// Where the bytes are: the metadata row knows better than the document.
fn source(blob: &BlobRef, standing: &BlobStanding) -> BlobRef {
    match standing {
        BlobStanding::Present(row) | BlobStanding::Mistyped(row) => BlobRef {
            key: Some(row.key.clone()),
            ..blob.clone()
        },
        BlobStanding::KeyTaken(_) | BlobStanding::Absent => blob.clone(),
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
