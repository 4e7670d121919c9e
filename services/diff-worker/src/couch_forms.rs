//! Couch's forms with their XML, read in bulk and handed on one by one, so that no more than a few are in memory.

use std::collections::HashMap;

use blobs::{FORM_XML, Wanted, gunzip};
use bytes::Bytes;
use couch::Outcome;
use proto::rows::{BLOB_FORM_XML, BlobMetaRow};
use serde_json::Value;
use service::worker::BatchFailure;

use crate::DiffHandler;

/// `form.xml` above this many bytes is not read.
const MAX_XML_BYTES: usize = 64 * 1024 * 1024;
/// Forms that are read at once.
const FORMS_AT_ONCE: usize = 100;

/// A form of Couch; all of it is absent if Couch has no such document.
#[derive(Debug, Default)]
pub(crate) struct CouchForm {
    /// The document.
    pub(crate) document: Option<Value>,
    /// Its `form.xml`, if that can be read.
    pub(crate) xml: Option<Bytes>,
}

impl DiffHandler {
    /// Reads these forms and gives each to `take`.
    pub(crate) async fn each_couch_form(
        &self,
        ids: &[String],
        take: &mut (dyn FnMut(&str, &CouchForm) + Send),
    ) -> Result<(), BatchFailure> {
        for ids in ids.chunks(FORMS_AT_ONCE) {
            for (id, form) in self.couch_forms(ids).await? {
                take(&id, &form);
            }
        }
        Ok(())
    }

    async fn couch_forms(&self, ids: &[String]) -> Result<Vec<(String, CouchForm)>, BatchFailure> {
        let (fetched, metas) = tokio::join!(self.forms_db.bulk_get(ids), self.target.read_blobmeta(ids));
        let mut rows: HashMap<String, Vec<BlobMetaRow>> = HashMap::new();
        for row in metas? {
            rows.entry(row.parent_id.clone()).or_default().push(row);
        }
        let mut forms = Vec::with_capacity(ids.len());
        let mut wanted = Vec::new();
        for found in fetched? {
            let document = match found.outcome {
                Outcome::Found(document) => Some(document),
                Outcome::Missing | Outcome::Deleted { .. } => None,
                Outcome::Failed(error) => return Err(error.into()),
            };
            if let Some(document) = &document {
                let rows = rows.get(&found.id).map_or(&[][..], Vec::as_slice);
                wanted.extend(self.places_of_xml(&found.id, document, rows));
            }
            forms.push((found.id, CouchForm { document, xml: None }));
        }
        let mut xml: HashMap<String, Bytes> = HashMap::new();
        for (want, read) in wanted.iter().zip(self.blobs.fetch_many(&self.forms_db, &wanted).await?) {
            let bytes = match read {
                Ok(Some(bytes)) => bytes,
                Ok(None) => continue,
                Err(error) if error.kind() == blobs::ErrorKind::Document => continue,
                Err(error) => return Err(error.into()),
            };
            let rows = rows.get(&want.doc_id).map_or(&[][..], Vec::as_slice);
            if let Some(plain) = plain(want.blob.key.as_deref(), bytes, rows) {
                xml.entry(want.doc_id.clone()).or_insert(plain);
            }
        }
        for (id, form) in &mut forms {
            form.xml = xml.remove(id);
        }
        Ok(forms)
    }

    /// Where a form's XML may be: where its row of metadata says, and where the document says.
    fn places_of_xml(&self, id: &str, document: &Value, rows: &[BlobMetaRow]) -> Vec<Wanted> {
        let refs = blobs::blob_refs(self.forms_db.name(), id, document).unwrap_or_default();
        let named = refs.into_iter().find(|blob| blob.name == FORM_XML);
        let key = xml_row(rows).map(|row| row.key.clone());
        let by_row = key
            .filter(|key| named.as_ref().is_none_or(|blob| blob.key.as_ref() != Some(key)))
            .map(|key| blobs::BlobRef {
                name: FORM_XML.to_owned(),
                key: Some(key),
                content_type: None,
                content_length: None,
                blobmeta_id: None,
            });
        let places = by_row.into_iter().chain(named);
        places
            .map(|blob| Wanted {
                doc_id: id.to_owned(),
                blob,
            })
            .collect()
    }
}

/// The row of a form's XML.
pub(crate) fn xml_row(rows: &[BlobMetaRow]) -> Option<&BlobMetaRow> {
    rows.iter()
        .find(|row| row.type_code == BLOB_FORM_XML && row.name == FORM_XML)
}

/// The XML itself: what the blob store keeps may be compressed, as its metadata says.
pub(crate) fn plain(key: Option<&str>, bytes: Bytes, rows: &[BlobMetaRow]) -> Option<Bytes> {
    let is_compressed = |row: &BlobMetaRow| key == Some(row.key.as_str()) && row.compressed_length.is_some();
    if rows.iter().any(is_compressed) {
        gunzip(&bytes, MAX_XML_BYTES).ok()
    } else {
        Some(bytes)
    }
}
