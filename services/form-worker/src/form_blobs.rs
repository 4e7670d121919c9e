//! Gives forms their blobs: XML, attachments, and what must be done to their metadata.

use std::collections::{HashMap, HashSet};

use blobs::{BlobRef, FORM_XML, Wanted, gunzip};
use bytes::Bytes;
use formmodel::XmlSource;
use hqsql::BlobRetype;
use proto::ids::Domain;
use proto::rows::{BLOB_FORM_ATTACHMENT, BLOB_FORM_XML, BlobMetaRow};
use service::worker::{BatchFailure, chain};
use state::blob_change::BlobOrigin;
use state::form_stage::FormResults;

use crate::FormHandler;
use crate::lost_form::NOTHING_LEFT;
use crate::plan::{
    BlobPlan, BlobStanding, Candidate, NewMeta, XmlPlace, blob_plan, derived_key, duplicates, facts, is_foreign,
};
use crate::read::failed_candidate;

/// `form.xml` above this many bytes is refused.
const MAX_XML_BYTES: usize = 64 * 1024 * 1024;
/// Content type of XML that stands in for lost XML.
const XML_TYPE: &str = "text/xml";

/// A form on its way to its blobs.
struct Planned {
    candidate: Candidate,
    plan: BlobPlan,
    /// What the store gave for the attachments that are to be stored, in their order.
    contents: std::vec::IntoIter<blobs::Result<Option<Bytes>>>,
    /// The form's XML as it is stored, with its place.
    xml: Option<(XmlPlace, Bytes)>,
    /// Why the form cannot be migrated.
    failure: Option<(&'static str, String)>,
}

impl FormHandler {
    /// Adds XML and attachments to the forms among the candidates. Those that cannot have them go into `results`.
    pub(crate) async fn add_blobs(
        &self,
        domain: &Domain,
        candidates: Vec<Candidate>,
        metas: &HashMap<String, Vec<BlobMetaRow>>,
        results: &mut FormResults,
    ) -> Result<Vec<Candidate>, BatchFailure> {
        let (forms, mut ready): (Vec<_>, Vec<_>) = candidates
            .into_iter()
            .partition(|candidate| candidate.doc_type.is_form());
        let stored = self.stored_duplicates(metas).await?;
        let mut planned = Vec::with_capacity(forms.len());
        for candidate in forms {
            let rows = metas.get(&candidate.doc_id).map_or(&[][..], Vec::as_slice);
            if is_foreign(rows, domain) {
                let why = "blob metadata of the form belongs to another domain".to_owned();
                results.failed.push(failed_candidate(&candidate, "C2S-2310", why));
                continue;
            }
            match blobs::blob_refs(self.forms_db.name(), &candidate.doc_id, &candidate.document) {
                Ok(refs) => planned.push(Planned {
                    candidate,
                    plan: blob_plan(refs, rows, &stored),
                    contents: Vec::new().into_iter(),
                    xml: None,
                    failure: None,
                }),
                Err(error) => results
                    .failed
                    .push(failed_candidate(&candidate, error.code(), chain(&error))),
            }
        }
        self.fetch(&mut planned).await?;
        for mut form in planned {
            if form.failure.is_none() {
                form.failure = self.complete(&mut form).await?;
            }
            match form.failure {
                None => ready.push(form.candidate),
                Some((code, message)) => results.failed.push(failed_candidate(&form.candidate, code, message)),
            }
        }
        Ok(ready)
    }

    /// Keys of rows that share form, type and name whose blobs are there. Nothing is asked where no row has a double.
    async fn stored_duplicates(
        &self,
        metas: &HashMap<String, Vec<BlobMetaRow>>,
    ) -> Result<HashSet<String>, BatchFailure> {
        let mut stored = HashSet::new();
        for row in metas.values().flat_map(|rows| duplicates(rows)) {
            match self.blobs.exists(&row.key).await {
                Ok(true) => {
                    stored.insert(row.key.clone());
                }
                Ok(false) => {}
                // A key that no blob can have.
                Err(error) if error.kind() == blobs::ErrorKind::Document => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(stored)
    }

    /// Fetches attachments that are to be stored and XML from its first place, then the XML that was not there from the
    /// next: bulk requests, and as many as there are places.
    async fn fetch(&self, planned: &mut [Planned]) -> Result<(), BatchFailure> {
        for round in 0.. {
            let mut wanted: Vec<Wanted> = Vec::new();
            for form in planned.iter().filter(|form| form.failure.is_none()) {
                let doc_id = &form.candidate.doc_id;
                let mut want = |blob: BlobRef| {
                    wanted.push(Wanted {
                        doc_id: doc_id.clone(),
                        blob,
                    });
                };
                if form.xml.is_none()
                    && let Some(place) = form.plan.xml.get(round)
                {
                    want(place.source());
                }
                if round == 0 {
                    form.plan
                        .attachments
                        .iter()
                        .filter(|(blob, standing)| standing.needs_bytes(blob))
                        .for_each(|(blob, _)| want(blob.clone()));
                }
            }
            if wanted.is_empty() {
                break;
            }
            let mut fetched = self.blobs.fetch_many(&self.forms_db, &wanted).await?.into_iter();
            for form in planned.iter_mut().filter(|form| form.failure.is_none()) {
                if form.xml.is_none()
                    && let Some(place) = form.plan.xml.get(round)
                {
                    match fetched.next().unwrap_or(Ok(None)) {
                        Ok(bytes) => form.xml = bytes.map(|bytes| (place.clone(), bytes)),
                        Err(error) => form.failure = Some(of_document(error)?),
                    }
                }
                if round == 0 {
                    let attachments = form.plan.attachments.iter();
                    let needed = attachments
                        .filter(|(blob, standing)| standing.needs_bytes(blob))
                        .count();
                    form.contents = fetched.by_ref().take(needed).collect::<Vec<_>>().into_iter();
                }
            }
        }
        Ok(())
    }

    /// Turns what was fetched into the candidate's XML, attachments and changes of metadata; gives what stands against it.
    async fn complete(&self, form: &mut Planned) -> Result<Option<(&'static str, String)>, BatchFailure> {
        let completed = async {
            self.add_xml(form).await?;
            self.add_attachments(form).await
        };
        match completed.await {
            Ok(()) => Ok(None),
            Err(Fault::Blobs(error)) => of_document(error).map(Some),
            Err(Fault::Form(failure)) => Ok(Some((failure.code(), chain(&failure)))),
            Err(Fault::NothingLeft) => Ok(Some((NOTHING_LEFT.0, NOTHING_LEFT.1.to_owned()))),
        }
    }

    async fn add_xml(&self, form: &mut Planned) -> Result<(), Fault> {
        let candidate = &mut form.candidate;
        candidate
            .dangling
            .extend(form.plan.dangling.iter().map(|row| row.key.clone()));
        let (bytes, new) = match form.xml.take() {
            Some((XmlPlace::Row(row), bytes)) => {
                candidate.xml = if row.compressed_length.is_some() {
                    gunzip(&bytes, MAX_XML_BYTES)?
                } else {
                    bytes
                };
                return Ok(());
            }
            Some((XmlPlace::Reference { blob, shared }, bytes)) => {
                let new = self
                    .stored_meta(&candidate.doc_id, &blob, bytes.clone(), shared)
                    .await?;
                (bytes, new)
            }
            None if candidate.is_lost() => return Err(Fault::NothingLeft),
            None => {
                let (xml, source) =
                    formmodel::restore_xml(candidate.doc_type, &candidate.document).map_err(Fault::Form)?;
                let bytes = Bytes::from(xml);
                let new = self.restored_meta(&candidate.doc_id, bytes.clone(), source).await?;
                tracing::warn!(form = %candidate.doc_id, ?source, "form.xml was lost and has been restored");
                (bytes, new)
            }
        };
        // The XML has a place of its own now: rows that lead nowhere would be in HQ's way.
        candidate
            .dangling
            .extend(form.plan.xml_rows.iter().map(|row| row.key.clone()));
        candidate.missing_meta.push(new);
        candidate.xml = bytes;
        Ok(())
    }

    async fn add_attachments(&self, form: &mut Planned) -> Result<(), Fault> {
        let candidate = &mut form.candidate;
        for (blob, standing) in std::mem::take(&mut form.plan.attachments) {
            let bytes = if standing.needs_bytes(&blob) {
                form.contents.next().unwrap_or(Ok(None))?
            } else {
                None
            };
            let new = match (&standing, bytes) {
                (BlobStanding::Present(row), _) => {
                    candidate.attachments.push(facts(row));
                    continue;
                }
                (BlobStanding::Mistyped(row), _) => {
                    candidate.retypes.push(BlobRetype {
                        parent_id: row.parent_id.clone(),
                        key: row.key.clone(),
                        from: BLOB_FORM_XML,
                        to: BLOB_FORM_ATTACHMENT,
                    });
                    candidate.attachments.push(facts(row));
                    continue;
                }
                (BlobStanding::KeyTaken, Some(bytes)) => {
                    Some(self.stored_meta(&candidate.doc_id, &blob, bytes, true).await?)
                }
                (BlobStanding::Absent, Some(bytes)) => {
                    Some(self.stored_meta(&candidate.doc_id, &blob, bytes, false).await?)
                }
                (BlobStanding::Absent, None) => self.referred_meta(&blob).await?,
                (BlobStanding::KeyTaken, None) => None,
            };
            match new {
                Some(new) => {
                    candidate.attachments.push(new.facts());
                    candidate.missing_meta.push(new);
                }
                None => candidate.lacks_attachments = true,
            }
        }
        Ok(())
    }

    /// The row of a blob whose bytes were read. Those without a key of their own are stored first; the Couch document
    /// stays as it is.
    async fn stored_meta(
        &self,
        form_id: &str,
        blob: &BlobRef,
        bytes: Bytes,
        shared: bool,
    ) -> Result<NewMeta, blobs::Error> {
        let content_length = length(bytes.len());
        let (key, origin) = match &blob.key {
            Some(key) if !shared => (key.clone(), BlobOrigin::Reference),
            of_another => {
                let key = derived_key(form_id, &blob.name, &bytes);
                self.blobs.put_if_absent(&key, bytes).await?;
                let origin = if of_another.is_some() {
                    BlobOrigin::Copy
                } else {
                    BlobOrigin::Inline
                };
                (key, origin)
            }
        };
        Ok(NewMeta {
            name: blob.name.clone(),
            key,
            type_code: type_code(&blob.name),
            content_length,
            content_type: blob.content_type.clone(),
            origin,
        })
    }

    /// The row of XML that was made in place of lost XML, which is stored first.
    async fn restored_meta(&self, form_id: &str, xml: Bytes, source: XmlSource) -> Result<NewMeta, blobs::Error> {
        let key = derived_key(form_id, FORM_XML, &xml);
        let content_length = length(xml.len());
        self.blobs.put_if_absent(&key, xml).await?;
        Ok(NewMeta {
            name: FORM_XML.to_owned(),
            key,
            type_code: BLOB_FORM_XML,
            content_length,
            content_type: Some(XML_TYPE.to_owned()),
            origin: match source {
                XmlSource::XmlProperty => BlobOrigin::XmlProperty,
                XmlSource::FormJson => BlobOrigin::FormJson,
            },
        })
    }

    /// The row of an attachment that the document refers to, by the length that the document or else the store tells;
    /// none when neither does.
    async fn referred_meta(&self, blob: &BlobRef) -> Result<Option<NewMeta>, blobs::Error> {
        let Some(key) = &blob.key else {
            return Ok(None);
        };
        let told = blob.content_length.and_then(|length| i64::try_from(length).ok());
        let content_length = match told {
            Some(length) => Some(length),
            None => self
                .blobs
                .head(key)
                .await?
                .and_then(|length| i64::try_from(length).ok()),
        };
        Ok(content_length.map(|content_length| NewMeta {
            name: blob.name.clone(),
            key: key.clone(),
            type_code: type_code(&blob.name),
            content_length,
            content_type: blob.content_type.clone(),
            origin: BlobOrigin::Reference,
        }))
    }
}

/// Why a form does not get its blobs.
enum Fault {
    Blobs(blobs::Error),
    Form(formmodel::FormFailure),
    /// Neither a document nor XML.
    NothingLeft,
}

impl From<blobs::Error> for Fault {
    fn from(error: blobs::Error) -> Self {
        Self::Blobs(error)
    }
}

/// What is a document's fault stands against the document; the rest ends the batch for now.
fn of_document(error: blobs::Error) -> Result<(&'static str, String), BatchFailure> {
    match error.kind() {
        blobs::ErrorKind::Document => Ok((error.code(), chain(&error))),
        _ => Err(error.into()),
    }
}

/// The type code that a blob of this name must have.
fn type_code(name: &str) -> i16 {
    if name == FORM_XML {
        BLOB_FORM_XML
    } else {
        BLOB_FORM_ATTACHMENT
    }
}

/// What is in memory is shorter than 2^63 bytes.
fn length(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
