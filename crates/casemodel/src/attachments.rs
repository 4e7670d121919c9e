//! The attachments of a case.

use proto::effects::{AttachmentChange, FormFacts};
use proto::ids::CaseId;
use proto::rows::{AttachmentRow, RejectReason};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::columns;

/// Attachments by name, in the order in which they were made.
///
/// HQ's save of the time wrote new rows only, as far as its source could be read. Here a changed attachment is written
/// too: with the old bytes the case would differ from the one in Couch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attachments(Vec<AttachmentRow>);

impl Attachments {
    /// Applies one entry of an `attachment` part. With a `src` it takes the form's attachment of that name; without `src`
    /// and `from` it removes; `from` alone means bytes that never came, and is ignored.
    pub(crate) fn change(
        &mut self,
        case_id: &CaseId,
        form: &FormFacts,
        change: &AttachmentChange,
    ) -> Result<(), RejectReason> {
        let given = |text: &'_ Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        let Some(src) = change.src.as_deref().filter(|src| !src.is_empty()) else {
            if !given(&change.from) {
                self.0.retain(|row| row.name != change.identifier);
            }
            return Ok(());
        };
        let source = form
            .attachments
            .iter()
            .find(|attachment| attachment.name == src)
            .ok_or(RejectReason::AttachmentNotFound)?;
        let content_length = match source.content_length {
            Some(length) => Some(i32::try_from(length).map_err(|_| RejectReason::ValueTooLong)?),
            None => None,
        };
        let known_type = source.content_type.as_ref().filter(|text| !text.is_empty());
        let content_type = match (known_type, guessed_type(src)) {
            (None, Some(guessed)) => Some(guessed.to_owned()),
            _ => source.content_type.clone(),
        };
        let row = AttachmentRow {
            attachment_id: id(case_id, &change.identifier, &source.key),
            name: change.identifier.clone(),
            content_type,
            content_length,
            properties: source.properties.clone().unwrap_or_else(|| "{}".to_owned()),
            blob_id: source.key.clone(),
            blob_bucket: Some(String::new()),
            md5: String::new(),
        };
        columns::fits(&row.name)?;
        columns::fits(&row.blob_id)?;
        columns::fits_option(row.content_type.as_deref())?;
        match self.0.iter_mut().find(|known| known.name == row.name) {
            Some(known) => *known = row,
            None => self.0.push(row),
        }
        Ok(())
    }

    pub(crate) fn into_rows(self) -> Vec<AttachmentRow> {
        self.0
    }
}

/// The id of a case attachment. HQ draws a random one; here the same attachment has the same id in every replay. Each part
/// is preceded by its length, so that no two triples run together to the same bytes.
pub(crate) fn id(case_id: &CaseId, name: &str, blob_key: &str) -> Uuid {
    let mut content = Vec::new();
    for part in [case_id.as_str(), name, blob_key] {
        content.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        content.extend_from_slice(part.as_bytes());
    }
    Uuid::new_v5(&Uuid::NAMESPACE_OID, &content)
}

/// Media type by the name's ending, for the kinds of files that phones attach.
fn guessed_type(name: &str) -> Option<&'static str> {
    let (_, ending) = name.rsplit_once('.')?;
    Some(match ending.to_ascii_lowercase().as_str() {
        "jpg" | "jpeg" | "jpe" => "image/jpeg",
        "png" => "image/png",
        "gif" => "image/gif",
        "bmp" => "image/bmp",
        "tif" | "tiff" => "image/tiff",
        "svg" => "image/svg+xml",
        "mp3" => "audio/mpeg",
        "wav" => "audio/x-wav",
        "mp4" => "video/mp4",
        "mpeg" | "mpg" => "video/mpeg",
        "mov" => "video/quicktime",
        "avi" => "video/x-msvideo",
        "webm" => "video/webm",
        "pdf" => "application/pdf",
        "doc" => "application/msword",
        "xls" => "application/vnd.ms-excel",
        "txt" => "text/plain",
        "csv" => "text/csv",
        "htm" | "html" => "text/html",
        "xml" => "text/xml",
        "json" => "application/json",
        "zip" => "application/zip",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_depends_on_each_part_and_on_nothing_else() {
        let case = CaseId::new("c");
        assert_eq!(id(&case, "photo", "k"), id(&case, "photo", "k"));
        for other in [
            id(&CaseId::new("d"), "photo", "k"),
            id(&case, "phot", "ok"),
            id(&case, "photo", "l"),
        ] {
            assert_ne!(id(&case, "photo", "k"), other);
        }
    }

    #[test]
    fn type_by_ending() {
        assert_eq!(guessed_type("1234.JPG"), Some("image/jpeg"));
        assert_eq!(guessed_type("photo"), None);
        assert_eq!(guessed_type("a.unknown"), None);
    }
}
