//! What a scenario puts into the source, the blob store and the target before a step.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};

use super::folder::Folder;

/// Value of a member that a document does without, though it has a default.
const ABSENT: &str = "$absent";
/// Value of a compressed length that says: store this blob compressed.
const GZIP: &str = "$gzip";
/// Before the path of a file that an inline attachment has as its data.
const FILE: &str = "$file:";

/// Name of the blob with a form's XML.
const FORM_XML: &str = "form.xml";

/// Everything that comes at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Input {
    /// Couch documents.
    pub(crate) documents: Vec<Value>,
    /// Blobs by key.
    pub(crate) blobs: Vec<(String, Vec<u8>)>,
    /// Rows by table of the target.
    pub(crate) rows: Vec<(String, Vec<Value>)>,
    /// Rows of blob metadata among them.
    pub(crate) blobmeta: Vec<Value>,
}

/// `defaults.json`.
#[derive(Clone, Debug)]
pub(crate) struct Defaults(Value);

impl Defaults {
    /// Reads them.
    pub(crate) fn read(home: &Path) -> Result<Self> {
        let path = home.join("defaults.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self(
            serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?,
        ))
    }

    /// The object with the defaults of its kind filled in, in this domain.
    pub(crate) fn fill(&self, folder: &Folder, kind: &str, given: &Value) -> Result<Map<String, Value>> {
        let Value::Object(given) = given else {
            bail!("{}: {kind} must be an object: {given}", folder.name);
        };
        let defaults: Value = serde_json::from_str(&folder.in_domain(&self.0[kind].to_string()))?;
        let Value::Object(defaults) = defaults else {
            bail!("defaults.json has no object {kind}");
        };
        let mut filled = given.clone();
        for (key, value) in defaults {
            filled.entry(key).or_insert(value);
        }
        filled.retain(|_, value| *value != ABSENT);
        Ok(filled)
    }
}

/// Reads the input of a part of the folder; `part` is empty for the scenario's own.
pub(crate) fn read(folder: &Folder, defaults: &Defaults, part: &Path) -> Result<Input> {
    let mut input = Input::default();
    if folder.file(&part.join("couch.json")).is_some() {
        let Value::Array(documents) = folder.json(&part.join("couch.json"))? else {
            bail!("{}: couch.json must be a list of documents", folder.name);
        };
        for document in &documents {
            input.documents.push(complete_document(folder, defaults, document)?);
        }
    }
    let attached = read_blobs(folder, &part.join("blobs"))?;
    let mut metadata = Vec::new();
    for (place, content) in attached {
        let (owner, name) = place
            .split_once('/')
            .with_context(|| format!("{}: blobs/{place} must be blobs/<document>/<name>", folder.name))?;
        let owner = format!("{}-{owner}", folder.domain);
        let key = format!("{owner}.{name}");
        metadata.push(json!({
            "parent_id": owner, "name": name, "key": key,
            "type_code": if name == FORM_XML { 2 } else { 3 },
            "content_type": content_type(name), "content_length": content.len(),
        }));
        input.blobs.push((key, content));
    }
    refer_to_blobs(&mut input.documents, &metadata);
    input.blobs.extend(read_blobs(folder, &part.join("store"))?);
    if folder.file(&part.join("blobmeta.json")).is_some() {
        let Value::Array(rows) = folder.json(&part.join("blobmeta.json"))? else {
            bail!("{}: blobmeta.json must be a list of rows", folder.name);
        };
        metadata = rows;
    }
    for row in &metadata {
        let mut row = defaults.fill(folder, "blobmeta", row)?;
        store_as_described(&mut row, &mut input.blobs)?;
        input.blobmeta.push(Value::Object(row));
    }
    if folder.file(&part.join("sql.json")).is_some()
        && let Value::Object(tables) = folder.json(&part.join("sql.json"))?
    {
        for (table, rows) in tables {
            input.rows.push((table, rows.as_array().cloned().unwrap_or_default()));
        }
    }
    Ok(input)
}

fn complete_document(folder: &Folder, defaults: &Defaults, given: &Value) -> Result<Value> {
    if given["_deleted"] == true {
        return Ok(given.clone());
    }
    let is_case = given["doc_type"]
        .as_str()
        .is_some_and(|kind| kind.starts_with("CommCareCase"));
    let mut document = defaults.fill(folder, if is_case { "case document" } else { "form document" }, given)?;
    for action in document
        .get_mut("actions")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        *action = Value::Object(defaults.fill(folder, "case action", action)?);
    }
    if let Some(Value::Object(attachments)) = document.get_mut("_attachments") {
        for attachment in attachments.values_mut() {
            let Some(file) = attachment["data"].as_str().and_then(|data| data.strip_prefix(FILE)) else {
                continue;
            };
            let path = folder
                .file(Path::new(file))
                .with_context(|| format!("{}: no file {file}", folder.name))?;
            let content = folder.bytes_in_domain(&std::fs::read(path)?);
            attachment["data"] = json!(STANDARD.encode(content));
        }
    }
    Ok(Value::Object(document))
}

/// Files below a folder, by their path from there.
fn read_blobs(folder: &Folder, part: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut blobs = BTreeMap::new();
    let Some(root) = folder.file(part) else {
        return Ok(blobs);
    };
    let mut open: Vec<PathBuf> = vec![root.clone()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                open.push(entry?.path());
            }
            continue;
        }
        let place = path.strip_prefix(&root)?.to_string_lossy().into_owned();
        let content = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        blobs.insert(folder.in_domain(&place), folder.bytes_in_domain(&content));
    }
    Ok(blobs)
}

/// Documents that do not say which blobs they have get those that stand under their id.
fn refer_to_blobs(documents: &mut [Value], metadata: &[Value]) {
    for document in documents {
        let Value::Object(document) = document else { continue };
        if document.contains_key("external_blobs") || document.contains_key("_deleted") {
            continue;
        }
        let mut references = Map::new();
        for row in metadata
            .iter()
            .filter(|row| Some(&row["parent_id"]) == document.get("_id"))
        {
            let reference = json!({
                "doc_type": "BlobMetaRef", "key": row["key"], "blobmeta_id": 1,
                "content_type": row["content_type"], "content_length": row["content_length"],
            });
            references.insert(row["name"].as_str().unwrap_or_default().to_owned(), reference);
        }
        document.insert("external_blobs".to_owned(), Value::Object(references));
    }
}

/// Takes the length of the blob that a row describes, where the row does not say it, and compresses the blob if the row
/// says so.
fn store_as_described(row: &mut Map<String, Value>, blobs: &mut [(String, Vec<u8>)]) -> Result<()> {
    let blob = blobs
        .iter_mut()
        .find(|(key, _)| row.get("key").is_some_and(|wanted| wanted == key));
    if let Some((_, content)) = blob {
        row.entry("content_length").or_insert(json!(content.len()));
        if row.get("compressed_length").is_some_and(|length| length == GZIP) {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(content)?;
            *content = encoder.finish()?;
            row.insert("compressed_length".to_owned(), json!(content.len()));
        }
    }
    // The length of a blob that is not there; nobody can look.
    row.entry("content_length").or_insert(json!(100));
    Ok(())
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("xml") => "text/xml",
        Some("jpg") => "image/jpeg",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    }
}
