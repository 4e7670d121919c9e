//! Which forms a `MIGRATE` tries once more.

use serde_json::{Value, json};
use state::run::Run;

use crate::failure::Result;

/// Which forms get a second chance, beside those that are on record as failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Forms {
    /// No others.
    #[default]
    AsFound,
    /// `--forms=missing`: those that a recorded difference names as applied in Couch only. They are applied whatever they say.
    Missing,
    /// `--forms=ids` or a file of ids: these.
    Ids(Vec<String>),
}

impl Forms {
    /// From the option: `missing`, ids with commas, or a path (`/…` or `./…`) to a file with one id a line.
    ///
    /// # Errors
    /// `C2S-0107` when the file cannot be read.
    pub fn parse(text: Option<&str>) -> Result<Self> {
        Ok(match text {
            None => Self::AsFound,
            Some("missing") => Self::Missing,
            Some(ids) => Self::Ids(super::ids_of(ids)?),
        })
    }

    /// Those of a run on record.
    pub(crate) fn of(run: &Run) -> Self {
        match run.arguments.get("forms") {
            Some(Value::String(_)) => Self::Missing,
            Some(Value::Array(ids)) => Self::Ids(ids.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
            _ => Self::AsFound,
        }
    }

    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::AsFound => Value::Null,
            Self::Missing => json!("missing"),
            Self::Ids(ids) => json!(ids),
        }
    }
}
