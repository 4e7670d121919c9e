//! Options of a domain that decide how its documents are migrated. They are read when a migration starts and frozen with
//! it, so that a change in the configuration half-way cannot give half of the cases other rows.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DomainOptions {
    /// Case attachments are kept (HQ's toggle `MM_CASE_PROPERTIES`).
    pub case_attachments: bool,
}

impl DomainOptions {
    /// From the JSON that the state schema keeps; absent keys have their defaults.
    pub fn from_json(json: &Value) -> Self {
        Self::deserialize(json).unwrap_or_default()
    }

    /// To JSON.
    pub fn to_json(self) -> Value {
        serde_json::json!({ "case_attachments": self.case_attachments })
    }
}
