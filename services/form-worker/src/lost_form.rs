//! Forms that Couch has lost: a driver has put them on record, and their XML stands in for their documents.

use chrono::{DateTime, Utc};
use proto::doctype::DocType;
use proto::rows::{BLOB_FORM_XML, BlobMetaRow};
use state::batch::Claim;
use state::lost_forms::LOST_REV;

use crate::plan::Candidate;
use crate::read::{Classified, failed};

/// What stands against a form of which nothing is left.
pub(crate) const NOTHING_LEFT: (&str, &str) = (
    "C2S-2392",
    "Couch has lost the form, and its form.xml is nowhere to be found",
);

/// A form that Couch lacks, as its blob metadata has it. `received_on` is what a case says.
pub(crate) fn classify(
    claim: &Claim,
    form_id: &str,
    received_on: Option<DateTime<Utc>>,
    rows: &[BlobMetaRow],
) -> Classified {
    let xml = rows
        .iter()
        .find(|row| row.type_code == BLOB_FORM_XML && row.name == blobs::FORM_XML);
    let Some(xml) = xml else {
        let (code, why) = NOTHING_LEFT;
        let rev = Some(LOST_REV.to_owned());
        return Classified::Failed(failed(DocType::XFormInstance, form_id, rev, code, why.to_owned()));
    };
    let received_on = received_on.unwrap_or(xml.created_on);
    let document = formmodel::lost_form(&claim.domain, form_id, received_on, rows);
    let candidate = Candidate::new(form_id, LOST_REV.to_owned(), DocType::XFormInstance, document);
    Classified::Candidate(Box::new(candidate))
}
