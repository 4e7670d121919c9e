//! Blobs by reference, from the store or from Couch.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use couch::{AttachmentsOutcome, Database};

use crate::error::{Error, Result};
use crate::reference::BlobRef;
use crate::store::BlobStore;

/// A blob that is wanted, and the document it belongs to.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The document.
    pub doc_id: String,
    /// Its blob.
    pub blob: BlobRef,
}

impl BlobStore {
    /// The bytes of many blobs, in the given order, each with its own outcome; `None` if there is no such blob. Those with
    /// a key come from the store as they are stored, the others are attachments of their documents in `database`.
    ///
    /// # Errors
    /// If the attachments of all documents fail together.
    pub async fn fetch_many(&self, database: &Database, wanted: &[Wanted]) -> Result<Vec<Result<Option<Bytes>>>> {
        let keys = wanted.iter().filter_map(|wanted| wanted.blob.key.clone()).collect();
        let (stored, inline) = futures::join!(self.get_many(keys), inline(database, wanted));
        let (mut stored, mut inline) = (stored.into_iter(), inline?.into_iter());
        Ok(wanted
            .iter()
            .map(|wanted| {
                let next = if wanted.blob.is_inline() {
                    inline.next()
                } else {
                    stored.next()
                };
                next.unwrap_or(Ok(None))
            })
            .collect())
    }
}

/// The inline ones among the wanted, in their order. Documents are read together; one whose attachments are too much for
/// one answer, or cannot be read that way, is asked for each by itself.
async fn inline(database: &Database, wanted: &[Wanted]) -> Result<Vec<Result<Option<Bytes>>>> {
    let wanted: Vec<&Wanted> = wanted.iter().filter(|wanted| wanted.blob.is_inline()).collect();
    let ids: Vec<&str> = wanted
        .iter()
        .map(|wanted| wanted.doc_id.as_str())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let mut by_document: HashMap<String, Option<HashMap<String, Bytes>>> = HashMap::new();
    for document in database.bulk_attachments(&ids).await? {
        let attachments = match document.outcome {
            AttachmentsOutcome::Found(list) => Some(list.into_iter().map(|one| (one.name, one.content)).collect()),
            AttachmentsOutcome::Absent => Some(HashMap::new()),
            AttachmentsOutcome::Failed(_) => None,
        };
        by_document.insert(document.id, attachments);
    }
    let mut blobs = Vec::with_capacity(wanted.len());
    for Wanted { doc_id, blob } in wanted {
        blobs.push(match by_document.get(doc_id).and_then(Option::as_ref) {
            Some(attachments) => Ok(attachments.get(&blob.name).cloned()),
            None => database.attachment(doc_id, &blob.name).await.map_err(Error::from),
        });
    }
    Ok(blobs)
}
