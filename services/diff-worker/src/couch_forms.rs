//! Couch's forms with their XML, read in bulk and handed on one by one, so that no more than some megabytes are in memory.

use std::collections::HashMap;

use blobs::{BlobRef, FORM_XML, Wanted, expected_bytes, gunzip, in_parts};
use bytes::Bytes;
use couch::{Fetched, Outcome};
use proto::rows::{BLOB_FORM_XML, BlobMetaRow};
use serde_json::Value;
use service::worker::BatchFailure;

use crate::{DiffHandler, FETCH_BYTES, READ_BYTES};

/// `form.xml` above this many bytes is not read.
const MAX_XML_BYTES: usize = 64 * 1024 * 1024;

/// A form of Couch; all of it is absent if Couch has no such document.
#[derive(Debug, Default)]
pub(crate) struct CouchForm {
    /// The document.
    pub(crate) document: Option<Value>,
    /// Its `form.xml`, if that can be read.
    pub(crate) xml: Option<Bytes>,
}

/// A form whose XML is still to be fetched.
struct Planned {
    id: String,
    document: Option<Value>,
    rows: Vec<BlobMetaRow>,
    /// Where its XML may be.
    places: Vec<Wanted>,
}

impl Planned {
    fn weight(&self) -> usize {
        self.places
            .iter()
            .map(|place| expected_bytes(place.blob.content_length))
            .fold(0, usize::saturating_add)
    }
}

impl DiffHandler {
    /// Reads these forms, which must be distinct, and gives each to `take`.
    pub(crate) async fn each_couch_form(
        &self,
        ids: &[String],
        take: &mut (dyn FnMut(&str, &CouchForm) + Send),
    ) -> Result<(), BatchFailure> {
        let mut reader = self.forms_db.bounded_reader(ids, READ_BYTES);
        while let Some(fetched) = reader.next().await? {
            for part in in_parts(self.planned(fetched).await?, Planned::weight, FETCH_BYTES) {
                self.add_xml(part, take).await?;
            }
        }
        Ok(())
    }

    async fn planned(&self, fetched: Vec<Fetched>) -> Result<Vec<Planned>, BatchFailure> {
        let ids: Vec<String> = fetched.iter().map(|found| found.id.clone()).collect();
        let mut rows: HashMap<String, Vec<BlobMetaRow>> = HashMap::new();
        for row in self.target.read_blobmeta(&ids).await? {
            rows.entry(row.parent_id.clone()).or_default().push(row);
        }
        let mut planned = Vec::with_capacity(fetched.len());
        for found in fetched {
            let document = match found.outcome {
                Outcome::Found(document) => Some(document),
                Outcome::Missing | Outcome::Deleted { .. } => None,
                Outcome::Failed(error) => return Err(error.into()),
            };
            let rows = rows.remove(&found.id).unwrap_or_default();
            let places = document.as_ref();
            let places = places.map(|document| self.places_of_xml(&found.id, document, &rows));
            planned.push(Planned {
                id: found.id,
                document,
                rows,
                places: places.unwrap_or_default(),
            });
        }
        Ok(planned)
    }

    async fn add_xml(
        &self,
        part: Vec<Planned>,
        take: &mut (dyn FnMut(&str, &CouchForm) + Send),
    ) -> Result<(), BatchFailure> {
        let wanted: Vec<Wanted> = part.iter().flat_map(|form| form.places.iter().cloned()).collect();
        let mut read = self.blobs.fetch_many(&self.forms_db, &wanted).await?.into_iter();
        for form in part {
            let mut xml = None;
            for (place, read) in form.places.iter().zip(read.by_ref().take(form.places.len())) {
                let bytes = match read {
                    Ok(Some(bytes)) => bytes,
                    Ok(None) => continue,
                    Err(error) if error.kind() == blobs::ErrorKind::Document => continue,
                    Err(error) => return Err(error.into()),
                };
                if xml.is_none() {
                    xml = plain(place.blob.key.as_deref(), bytes, &form.rows);
                }
            }
            let document = form.document;
            take(&form.id, &CouchForm { document, xml });
        }
        Ok(())
    }

    /// Where a form's XML may be: where its row of metadata says, and where the document says.
    fn places_of_xml(&self, id: &str, document: &Value, rows: &[BlobMetaRow]) -> Vec<Wanted> {
        let refs = blobs::blob_refs(self.forms_db.name(), id, document).unwrap_or_default();
        let named = refs.into_iter().find(|blob| blob.name == FORM_XML);
        let by_row = xml_row(rows)
            .filter(|row| named.as_ref().is_none_or(|blob| blob.key.as_ref() != Some(&row.key)))
            .map(blob_of);
        let places = by_row.into_iter().chain(named);
        places
            .map(|blob| Wanted {
                doc_id: id.to_owned(),
                blob,
            })
            .collect()
    }
}

/// The blob that a row leads to.
pub(crate) fn blob_of(row: &BlobMetaRow) -> BlobRef {
    BlobRef {
        name: row.name.clone(),
        key: Some(row.key.clone()),
        content_type: row.content_type.clone(),
        content_length: u64::try_from(row.content_length).ok(),
        blobmeta_id: None,
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
