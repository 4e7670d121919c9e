//! Diffs and changes as the state schema keeps them: a JSON list for each case, its ledgers included.

use serde_json::{Map, Value};

use crate::diff::{Diff, DiffJsonError};
use crate::reason::ChangeReason;

/// Kind under which the diffs of a ledger are shown.
pub const LEDGER_KIND: &str = "stock state";

/// Key of a ledger's entry for the ledger's name.
const STOCK_ID: &str = "stock_id";

/// A difference of a case or of one of its ledgers, as it is stored: a ledger's stands among those of its case, and its
/// path is an object that holds the ledger's name beside the path.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedDiff {
    /// The ledger, as `case/section/entry`; none for the case itself.
    pub ledger: Option<String>,
    /// The difference.
    pub diff: Diff,
    /// For a change: why it is expected.
    pub reason: Option<String>,
}

impl RecordedDiff {
    /// A difference of the case itself.
    pub fn of_case(diff: Diff, reason: Option<ChangeReason>) -> Self {
        Self {
            ledger: None,
            diff,
            reason: reason.map(|reason| reason.as_str().to_owned()),
        }
    }

    /// The stored form.
    pub fn to_json(&self) -> Value {
        let mut json = self.diff.to_json();
        if let Value::Object(entry) = &mut json {
            if let (Some(ledger), Some(path)) = (&self.ledger, entry.get_mut("path")) {
                let mut placed = Map::new();
                placed.insert(STOCK_ID.to_owned(), Value::from(ledger.as_str()));
                placed.insert("path".to_owned(), path.take());
                *path = Value::Object(placed);
            }
            if let Some(reason) = &self.reason {
                entry.insert("reason".to_owned(), Value::from(reason.as_str()));
            }
        }
        json
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// What is not a stored diff.
    pub fn from_json(json: &Value) -> Result<Self, DiffJsonError> {
        let entry = json.as_object().ok_or(DiffJsonError::NotAnObject)?;
        let reason = entry.get("reason").and_then(Value::as_str).map(str::to_owned);
        let Some(Value::Object(placed)) = entry.get("path") else {
            return Ok(Self {
                ledger: None,
                diff: Diff::from_json(json)?,
                reason,
            });
        };
        let ledger = placed
            .get(STOCK_ID)
            .and_then(Value::as_str)
            .ok_or(DiffJsonError::Path)?;
        let mut plain = entry.clone();
        plain.insert(
            "path".to_owned(),
            placed.get("path").cloned().ok_or(DiffJsonError::Path)?,
        );
        Ok(Self {
            ledger: Some(ledger.to_owned()),
            diff: Diff::from_json(&Value::Object(plain))?,
            reason,
        })
    }

    /// The stored list, as JSON text.
    pub fn list_to_text(list: &[Self]) -> String {
        list.iter().map(Self::to_json).collect::<Value>().to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn stored_form_and_back() {
        for stored in [
            json!({"type": "diff", "path": ["age"], "old_value": "1", "new_value": "2"}),
            json!({"type": "diff", "path": ["age"], "old_value": "1", "new_value": "2", "reason": "rebuild case"}),
            json!({"type": "diff", "path": {"stock_id": "c/stock/p", "path": ["balance"]}, "old_value": 2,
                "new_value": 1, "reason": "duplicate stock transaction"}),
            json!({"type": "missing", "path": {"stock_id": "c/stock/p", "path": ["*"]}, "old_value": {}, "new_value": {}}),
        ] {
            assert_eq!(RecordedDiff::from_json(&stored).unwrap().to_json(), stored);
        }
        let ledger = json!({"type": "diff", "path": {"stock_id": "c/stock/p", "path": ["balance"]}});
        let read = RecordedDiff::from_json(&ledger).unwrap();
        assert_eq!(
            (read.ledger.as_deref(), read.diff.path_text().as_str(), read.reason),
            (Some("c/stock/p"), "balance", None)
        );
    }

    #[test]
    fn what_is_not_a_stored_diff() {
        for stored in [
            json!({"type": "diff", "path": {"path": ["balance"]}}),
            json!({"type": "diff", "path": {"stock_id": "c/stock/p"}}),
            json!({"type": "diff", "path": {"stock_id": "c/stock/p", "path": {"stock_id": "x"}}}),
        ] {
            assert_eq!(RecordedDiff::from_json(&stored), Err(DiffJsonError::Path), "{stored}");
        }
    }
}
