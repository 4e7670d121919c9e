//! What is looked up about forms, once for all differences that depend on it.

use std::collections::{HashMap, HashSet};

use blobs::{FORM_XML, Wanted, gunzip};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use couch::Outcome;
use docdiff::{FormState, LedgerReferences};
use proto::ids::Domain;
use proto::rows::{BlobMetaRow, FormBundle};
use serde_json::Value;
use service::worker::BatchFailure;

use crate::DiffHandler;

/// `form.xml` above this many bytes is not read.
const MAX_XML_BYTES: usize = 64 * 1024 * 1024;

/// Where forms are.
#[derive(Debug, Default)]
pub(crate) struct Forms {
    /// Those that SQL has.
    pub(crate) sql: HashMap<String, FormBundle>,
    couch: HashSet<String>,
    blobs: HashSet<String>,
}

impl Forms {
    /// The states of a form in Couch and in SQL.
    pub(crate) fn states(&self, form_id: &str) -> (FormState, FormState) {
        let couch = if self.couch.contains(form_id) {
            FormState::Present
        } else if self.blobs.contains(form_id) {
            FormState::MissingBlobPresent
        } else {
            FormState::Missing
        };
        let sql = if self.sql.contains_key(form_id) {
            FormState::Present
        } else {
            FormState::Missing
        };
        (couch, sql)
    }
}

impl DiffHandler {
    /// Looks for these forms on both sides, and for the blobs of those that Couch lacks.
    pub(crate) async fn look_up_forms(&self, ids: HashSet<String>) -> Result<Forms, BatchFailure> {
        if ids.is_empty() {
            return Ok(Forms::default());
        }
        let mut ids: Vec<String> = ids.into_iter().collect();
        ids.sort_unstable();
        let (in_couch, in_sql) = tokio::join!(self.forms_db.all_docs_exist(&ids), self.target.read_forms(&ids));
        let (present, absent): (Vec<_>, Vec<_>) = in_couch?.into_iter().partition(|(_, rev)| rev.is_some());
        let absent: Vec<String> = absent.into_iter().map(|(id, _)| id).collect();
        let blobs = self.target.read_blobmeta(&absent).await?;
        Ok(Forms {
            sql: in_sql?
                .into_iter()
                .map(|bundle| (bundle.form.form_id.clone(), bundle))
                .collect(),
            couch: present.into_iter().map(|(id, _)| id).collect(),
            blobs: blobs.into_iter().map(|row| row.parent_id).collect(),
        })
    }

    /// How often each of these Couch forms names each ledger. Forms that are not there, belong to another domain, or
    /// whose XML or blocks cannot be read, are left out: they prove nothing.
    pub(crate) async fn ledger_references(
        &self,
        domain: &Domain,
        form_ids: HashSet<String>,
    ) -> Result<HashMap<String, LedgerReferences>, BatchFailure> {
        let mut ids: Vec<String> = form_ids.into_iter().collect();
        ids.sort_unstable();
        let (fetched, metas) = tokio::join!(self.forms_db.bulk_get(&ids), self.target.read_blobmeta(&ids));
        let metas = metas?;
        let mut wanted = Vec::new();
        for found in fetched? {
            let document = match found.outcome {
                Outcome::Found(document) => document,
                Outcome::Missing | Outcome::Deleted { .. } => continue,
                Outcome::Failed(error) => return Err(error.into()),
            };
            if document.get("domain").and_then(Value::as_str) != Some(domain.as_str()) {
                continue;
            }
            let Ok(refs) = blobs::blob_refs(self.forms_db.name(), &found.id, &document) else {
                continue;
            };
            if let Some(blob) = refs.into_iter().find(|blob| blob.name == FORM_XML) {
                wanted.push(Wanted { doc_id: found.id, blob });
            }
        }
        let mut references = HashMap::new();
        for (want, read) in wanted.iter().zip(self.blobs.fetch_many(&self.forms_db, &wanted).await?) {
            let bytes = match read {
                Ok(Some(bytes)) => bytes,
                Ok(None) => continue,
                Err(error) if error.kind() == blobs::ErrorKind::Document => continue,
                Err(error) => return Err(error.into()),
            };
            if let Some(counted) = plain(want, bytes, &metas).as_deref().and_then(count) {
                references.insert(want.doc_id.clone(), counted);
            }
        }
        Ok(references)
    }
}

/// The XML itself: what the blob store keeps may be compressed, as its metadata says.
fn plain(want: &Wanted, bytes: Bytes, metas: &[BlobMetaRow]) -> Option<Bytes> {
    let is_compressed = |row: &BlobMetaRow| {
        row.parent_id == want.doc_id && want.blob.key.as_ref() == Some(&row.key) && row.compressed_length.is_some()
    };
    if metas.iter().any(is_compressed) {
        gunzip(&bytes, MAX_XML_BYTES).ok()
    } else {
        Some(bytes)
    }
}

fn count(xml: &[u8]) -> Option<LedgerReferences> {
    // Dates are not counted: any stands for that of blocks without one.
    let instructions = xform::ledger_updates(xml, DateTime::<Utc>::UNIX_EPOCH).ok()?;
    Some(LedgerReferences::of(
        instructions
            .iter()
            .map(|instruction| (instruction.case_id.as_str(), &instruction.update)),
    ))
}
