//! Documents whose ids can be neither held nor indexed here: on record as errors, under another form of their ids.

use proto::doctype::DocType;

use crate::migration::DriverLease;
use crate::outcome::{DocError, record_errors};
use crate::{State, StateError};

/// Code of such an error. What is on record under it is no id: nobody may ask for the document by it.
pub const UNUSABLE_ID: &str = "C2S-4180";

impl State {
    /// Puts documents on record, by a form of their ids that can be held. A look at their type forgets them, and finds those
    /// that are still there.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn record_unusable(
        &self,
        held: &DriverLease,
        doc_type: DocType,
        shown: &[String],
    ) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        let errors = shown.iter().map(|id| DocError {
            kind: doc_type.as_str(),
            doc_id: id,
            code: UNUSABLE_ID,
            message: "its id is longer than 1024 bytes or holds U+0000: PostgreSQL cannot take it",
            rev: None,
        });
        record_errors(&mut tx, held.migration_id, errors.collect()).await?;
        Ok(tx.commit().await?)
    }
}
