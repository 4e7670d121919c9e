//! Patch forms in expectations: their ids are made by the programs, so that a scenario calls them by their cases.

use anyhow::Result;
use serde_json::{Value, json};

use super::expected::Row;
use super::folder::Folder;
use super::input::Defaults;

/// The operation of a patch form: other forms may have its namespace.
const PATCH_OPERATION: &str = "Couch to SQL case patch";
/// `xmlns` of patch forms.
const PATCH_XMLNS: &str = "http://commcarehq.org/couch-to-sql/patch-case-diff";

/// Names of patch forms: `<case>-patch`, and of further ones of the case, in their order, `<case>-patch-2` and so on.
#[derive(Clone, Debug, Default)]
pub(crate) struct PatchNames(Vec<(String, String)>);

impl PatchNames {
    /// Finds them among the rows of a domain; cases have their transactions by date.
    pub(crate) fn of(forms: &[Row], cases: &[Row]) -> Self {
        let is_patched = |form: &Row| {
            let operations = form.get("operations").and_then(Value::as_array);
            operations
                .into_iter()
                .flatten()
                .any(|operation| operation["operation"] == PATCH_OPERATION)
        };
        let is_patch = |id: &Value| {
            forms
                .iter()
                .any(|form| form.get("form_id") == Some(id) && is_patched(form))
        };
        let mut names = Vec::new();
        for case in cases {
            let case_id = case.get("case_id").and_then(Value::as_str).unwrap_or_default();
            let transactions = case.get("transactions").and_then(Value::as_array);
            let ids = transactions
                .into_iter()
                .flatten()
                .map(|transaction| &transaction["form_id"]);
            for (place, id) in ids.filter(|id| is_patch(id)).enumerate() {
                let name = match place {
                    0 => format!("{case_id}-patch"),
                    place => format!("{case_id}-patch-{}", place + 1),
                };
                names.push((id.as_str().unwrap_or_default().to_owned(), name));
            }
        }
        Self(names)
    }

    /// Rows with the names in place of the ids.
    pub(crate) fn in_rows(&self, rows: Vec<Row>) -> Result<Vec<Row>> {
        if self.0.is_empty() {
            return Ok(rows);
        }
        let named =
            |row: Row| -> Result<Row> { Ok(serde_json::from_str(&self.in_text(&serde_json::to_string(&row)?))?) };
        rows.into_iter().map(named).collect()
    }

    /// A text with the names in place of the ids.
    pub(crate) fn in_text(&self, text: &str) -> String {
        let names = self.0.iter();
        names.fold(text.to_owned(), |text, (id, name)| text.replace(id, name))
    }
}

/// The rows that every patch form has: the form with its operation, and the blob metadata of its XML. `given` has
/// `case_id`, `user_id`, and `form_id` where it is not the first of its case.
pub(crate) fn rows(folder: &Folder, defaults: &Defaults, given: &Row) -> Result<(Row, Row)> {
    let text = |key: &str| given.get(key).and_then(Value::as_str).map(str::to_owned);
    let form_id = text("form_id").unwrap_or_else(|| format!("{}-patch", text("case_id").unwrap_or_default()));
    let user_id = text("user_id").unwrap_or_default();
    let mut form = defaults.fill(
        folder,
        "patch form",
        &json!({"form_id": form_id, "xmlns": PATCH_XMLNS, "user_id": user_id}),
    )?;
    form.insert(
        "operations".to_owned(),
        json!([{"form_id": form_id, "user_id": user_id, "operation": PATCH_OPERATION, "date": "$now"}]),
    );
    let metadata = json!({"parent_id": form_id, "key": "$set", "content_length": "$set", "created_on": "$now"});
    Ok((form, defaults.fill(folder, "blobmeta", &metadata)?))
}
