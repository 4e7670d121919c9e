//! A place in a source's feed of changes.

use crate::StateError;

/// Witnesses that are kept at most: the newest changes, since a restore takes the newest back.
pub const WITNESSES: usize = 10;

/// A place in a source's feed of changes, and what tells whether it still means anything to the source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The database that the sequence belongs to.
    pub identity: String,
    /// The sequence; opaque.
    pub seq: String,
    /// Documents as (id, revision) that the database had when it was there: with older ones, or without them, it was restored.
    pub witnesses: Vec<(String, String)>,
}

pub(crate) fn witnesses_text(witnesses: &[(String, String)]) -> String {
    serde_json::json!(witnesses).to_string()
}

pub(crate) fn witnesses_of(text: &str) -> Result<Vec<(String, String)>, StateError> {
    serde_json::from_str(text).map_err(|_| StateError::Corrupt("witnesses"))
}
