//! What must be true after a step.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::folder::Folder;
use super::input::Defaults;
use super::patches;
use super::rows::{OF_CASES, OPERATION};

/// A row with its columns, and lists of rows that belong to it.
pub(crate) type Row = Map<String, Value>;

/// A file of expectations. What it leaves out must be empty, or as it was loaded.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Expected {
    /// Forms, with `operations`.
    pub(crate) forms: Vec<Row>,
    /// Cases, with `indices`, `transactions`, `attachments`, `ledger_values`, `ledger_transactions`.
    pub(crate) cases: Vec<Row>,
    /// Blob metadata, where it is no longer as it was loaded.
    pub(crate) blobmeta: BlobmetaChanges,
    /// Parts of XML documents that were written into the blob store.
    pub(crate) written: Vec<Written>,
    /// Patch forms: `case_id` and `user_id` of each. Their rows and blob metadata are added to the others.
    pub(crate) patches: Vec<Row>,
    /// Document and code of records that could not be patched.
    pub(crate) not_patched: Vec<(String, String)>,
    /// State of the migration.
    pub(crate) status: Option<String>,
    /// Numbers by document type: `docs`, `diffs`, `missing`, `changes`.
    pub(crate) stats: Map<String, Value>,
    /// How many cases wait to be compared.
    pub(crate) pending: usize,
    /// Recorded differences.
    pub(crate) diffs: Vec<Record>,
    /// Recorded changes.
    pub(crate) changes: Vec<Record>,
    /// Type and id of documents that are missing in SQL.
    pub(crate) missing: Vec<(String, String)>,
    /// Type, id and code of documents with an error.
    pub(crate) errors: Vec<(String, String, String)>,
    /// Members of Couch documents, found by `_id`.
    pub(crate) couch: Vec<Value>,
    /// Members of the Domain document.
    pub(crate) domain: Row,
}

/// Blob metadata that came, went or changed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BlobmetaChanges {
    /// Rows that came.
    pub(crate) added: Vec<Row>,
    /// Keys of rows that went.
    pub(crate) removed: Vec<String>,
    /// Rows that have other values in some columns; `key` tells which.
    pub(crate) changed: Vec<Row>,
}

/// A blob that was written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Written {
    /// The document that has it.
    pub(crate) parent_id: String,
    /// Its name.
    pub(crate) name: String,
    /// Texts in it.
    pub(crate) contains: Vec<String>,
}

/// A document with recorded differences.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// Its type.
    pub(crate) kind: String,
    /// Its id.
    pub(crate) doc_id: String,
    /// Why, of changes.
    pub(crate) reason: Option<String>,
    /// `type`, `path`, `old_value`, `new_value`, in any order.
    pub(crate) diffs: Vec<Value>,
}

impl Expected {
    /// Reads a file of the folder; defaults stand where it leaves columns out.
    pub(crate) fn read(folder: &Folder, defaults: &Defaults, file: &Path) -> Result<Self> {
        let mut expected: Self = serde_json::from_value(folder.json(file)?)
            .with_context(|| format!("{}: {}", folder.name, file.display()))?;
        for form in &mut expected.forms {
            *form = defaults.fill(folder, "forms", &Value::Object(form.clone()))?;
            complete_children(folder, defaults, form, "form_id", OPERATION.list)?;
        }
        for case in &mut expected.cases {
            *case = defaults.fill(folder, "cases", &Value::Object(case.clone()))?;
            for table in &OF_CASES {
                complete_children(folder, defaults, case, "case_id", table.list)?;
            }
        }
        for row in &mut expected.blobmeta.added {
            *row = defaults.fill(folder, "blobmeta", &Value::Object(row.clone()))?;
        }
        for patch in &expected.patches {
            let (form, metadata) = patches::rows(folder, defaults, patch)?;
            expected.forms.push(form);
            expected.blobmeta.added.push(metadata);
        }
        Ok(expected)
    }
}

fn complete_children(folder: &Folder, defaults: &Defaults, parent: &mut Row, key: &str, list: &str) -> Result<()> {
    let id = parent.get(key).cloned().unwrap_or_default();
    let children = parent.entry(list).or_insert_with(|| Value::Array(Vec::new()));
    for child in children.as_array_mut().into_iter().flatten() {
        let mut filled = defaults.fill(folder, list, child)?;
        filled.insert(key.to_owned(), id.clone());
        *child = Value::Object(filled);
    }
    Ok(())
}
