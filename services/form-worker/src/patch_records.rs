//! Reads back what patch forms recorded.

use std::collections::HashMap;

use blobs::{BlobStore, FORM_XML};
use docdiff::PatchRecord;
use hqsql::Target;
use proto::rows::BLOB_FORM_XML;
use service::worker::BatchFailure;

/// What these patch forms recorded, by form. A form whose XML is nowhere, or cannot be read, is left out.
///
/// # Errors
/// A server that cannot be reached.
pub async fn patch_records(
    target: &Target,
    store: &BlobStore,
    form_ids: &[String],
) -> Result<HashMap<String, PatchRecord>, BatchFailure> {
    let rows = target.read_blobmeta(form_ids).await?;
    let of_xml = rows
        .into_iter()
        .filter(|row| row.name == FORM_XML && row.type_code == BLOB_FORM_XML);
    let (forms, keys): (Vec<String>, Vec<String>) = of_xml.map(|row| (row.parent_id, row.key)).unzip();
    let mut records = HashMap::with_capacity(forms.len());
    for (form_id, content) in forms.into_iter().zip(store.get_many(keys).await) {
        let xml = match content {
            Ok(xml) => xml,
            Err(error) if error.kind() == blobs::ErrorKind::Document => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(body) = xml.and_then(|xml| xform::form_json(&xml).ok()) {
            records.insert(form_id, PatchRecord::of_form(&body));
        }
    }
    Ok(records)
}
