//! A deleted case taken over from its Couch document.
//!
//! Choices that HQ's source leaves open, all made here:
//!
//! * `location_id` goes to its column, where HQ's own JSON of the case looks for it; `referrals`, `location_` and the
//!   bookkeeping fields are dropped, as the diff rules expect.
//! * an index without a relationship is a child index, the default of the Couch model;
//! * a case without `modified_on` and `opened_on` is taken to have been modified when Couch last saved it, and one without
//!   that date when its document was first staged;
//! * an action without a date has the case's `modified_on` as server date, since the column cannot be NULL;
//! * name, type, owner and external id are cut to 255 characters as for replayed cases; other texts must fit;
//! * attachment ids are derived from content.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use proto::effects::Relationship;
use proto::ids::{CaseId, Domain};
use proto::rows::{AttachmentRow, CaseBundle, CaseRow, IndexRow, RejectReason, TransactionRow};
use serde_json::{Map, Value};

use crate::error::{CaseError, FieldProblem};
use crate::{attachments, columns, iso8601, pyjson, transactions};

/// Top-level keys that are fields of the Couch model or its bookkeeping, and therefore not dynamic properties. Keys that
/// do not begin with an ASCII letter never are.
const NOT_DYNAMIC: [&str; 29] = [
    "actions",
    "backend_id",
    "case_attachments",
    "case_id",
    "closed",
    "closed_by",
    "closed_on",
    "computed_",
    "computed_modified_on_",
    "doc_type",
    "domain",
    "export_tag",
    "external_blobs",
    "external_id",
    "indices",
    "initial_processing_complete",
    "location_",
    "location_id",
    "modified_on",
    "name",
    "opened_by",
    "opened_on",
    "owner_id",
    "referrals",
    "server_modified_on",
    "type",
    "user_id",
    "version",
    "xform_ids",
];

/// The rows of a soft-deleted case: the replayed ones marked deleted, or, when no form built the case, those that its
/// document gives.
pub(crate) fn deleted_case(
    domain: &Domain,
    case_id: &CaseId,
    doc: &str,
    staged_on: DateTime<Utc>,
    replayed: Option<CaseBundle>,
) -> Result<CaseBundle, CaseError> {
    let doc: Value = serde_json::from_str(doc).map_err(|_| CaseError::NotThisCase)?;
    let doc = Document(doc.as_object().ok_or(CaseError::NotThisCase)?);
    if doc.text("_id")? != Some(case_id.as_str()) {
        return Err(CaseError::NotThisCase);
    }
    if doc.text("domain")? != Some(domain.as_str()) {
        return Err(CaseError::ForeignDocument);
    }
    match replayed {
        Some(mut bundle) => {
            bundle.case.deleted = true;
            bundle.case.deleted_on = Some(doc.date("-deletion_date")?.unwrap_or(staged_on));
            bundle.case.deletion_id = doc.column("-deletion_id")?;
            bundle.case.server_modified_on = staged_on;
            Ok(bundle)
        }
        None => copy(domain, case_id, &doc, staged_on),
    }
}

fn copy(
    domain: &Domain,
    case_id: &CaseId,
    doc: &Document<'_>,
    staged_on: DateTime<Utc>,
) -> Result<CaseBundle, CaseError> {
    storable("_id", case_id.as_str())?;
    let actions: Vec<Document<'_>> = doc.objects("actions")?;
    let first = actions.first();
    let opened_on = match (doc.date("opened_on")?, first) {
        (None, Some(action)) => action.date("date")?,
        (opened_on, _) => opened_on,
    };
    let opened_by = match (doc.column("opened_by")?.filter(|by| !by.is_empty()), first) {
        (None, Some(action)) => action.column("user_id")?,
        (opened_by, _) => opened_by,
    };
    let user_id = doc.column("user_id")?.unwrap_or_default();
    let owner_id = doc.cut_column("owner_id")?.filter(|owner| !owner.is_empty());
    let server_modified_on = doc.date("server_modified_on")?.unwrap_or(staged_on);
    let modified_on = doc.date("modified_on")?.or(opened_on).unwrap_or(server_modified_on);
    let case = CaseRow {
        case_id: case_id.as_str().to_owned(),
        domain: domain.as_str().to_owned(),
        case_type: doc.cut_column("type")?.unwrap_or_default(),
        name: doc.cut_column("name")?,
        owner_id: owner_id.unwrap_or_else(|| columns::cut(&user_id).to_owned()),
        opened_on,
        opened_by,
        modified_on,
        server_modified_on,
        modified_by: user_id,
        closed: doc.flag("closed")?,
        closed_on: doc.date("closed_on")?,
        closed_by: doc.column("closed_by")?,
        deleted: true,
        deleted_on: doc.date("-deletion_date")?,
        deletion_id: doc.column("-deletion_id")?,
        external_id: doc.cut_column("external_id")?,
        location_id: doc.column("location_id")?,
        case_json: dynamic_properties(doc.0),
    };
    Ok(CaseBundle {
        case,
        indices: copied_indices(doc)?,
        attachments: copied_attachments(case_id, doc)?,
        transactions: copied_transactions(&actions, modified_on)?,
        ledger_values: Vec::new(),
        ledger_transactions: Vec::new(),
    })
}

/// Dynamic properties as JSON text, sorted by key.
fn dynamic_properties(doc: &Map<String, Value>) -> String {
    let mut properties: Vec<(&str, &Value)> = doc
        .iter()
        .map(|(key, value)| (key.as_str(), value))
        .filter(|(key, _)| key.starts_with(|c: char| c.is_ascii_alphabetic()) && !NOT_DYNAMIC.contains(key))
        .collect();
    properties.sort_by_key(|(key, _)| *key);
    pyjson::dumps_object(properties.into_iter())
}

/// One transaction per form, and one per action without a form; the latter come first.
fn copied_transactions(actions: &[Document<'_>], modified_on: DateTime<Utc>) -> Result<Vec<TransactionRow>, CaseError> {
    let mut without_form = Vec::new();
    let mut of_forms: Vec<TransactionRow> = Vec::new();
    let mut place: HashMap<String, usize> = HashMap::new();
    for action in actions {
        let form_id = action.column("xform_id")?.filter(|id| !id.is_empty());
        let known = form_id.as_ref().and_then(|id| place.get(id)).copied();
        let row = match known {
            Some(position) => &mut of_forms[position],
            None => {
                let row = TransactionRow {
                    sync_log_id: action.column("sync_log_id")?,
                    server_date: match action.date("server_date")? {
                        Some(date) => date,
                        None => action.date("date")?.unwrap_or(modified_on),
                    },
                    client_date: None,
                    kind: if form_id.is_some() { transactions::FORM } else { 0 },
                    revoked: false,
                    details: "{}".to_owned(),
                    form_id,
                };
                let rows = match &row.form_id {
                    Some(form_id) => {
                        place.insert(form_id.clone(), of_forms.len());
                        &mut of_forms
                    }
                    None => &mut without_form,
                };
                rows.push(row);
                let last = rows.len() - 1;
                &mut rows[last]
            }
        };
        if row.kind == transactions::REBUILD_WITH_REASON {
            continue;
        }
        match action.text("action_type")? {
            Some("create") => row.kind |= transactions::CREATE,
            Some("close") => row.kind |= transactions::CLOSE,
            Some("index") => row.kind |= transactions::INDEX,
            Some("attachment") => row.kind |= transactions::ATTACHMENT,
            Some("rebuild") => {
                row.kind = transactions::REBUILD_WITH_REASON;
                row.details = r#"{"reason":"Unknown"}"#.to_owned();
            }
            _ => {}
        }
    }
    without_form.append(&mut of_forms);
    Ok(without_form)
}

fn copied_indices(doc: &Document<'_>) -> Result<Vec<IndexRow>, CaseError> {
    let mut identifiers = HashSet::new();
    let mut rows = Vec::new();
    for index in doc.objects("indices")? {
        let relationship = match index.text("relationship")? {
            None | Some("child") => Relationship::Child,
            Some("extension") => Relationship::Extension,
            Some(_) => {
                let problem = FieldProblem::UnknownRelationship;
                return Err(CaseError::BadField {
                    field: "relationship",
                    problem,
                });
            }
        };
        let row = IndexRow {
            identifier: index.needed_column("identifier")?,
            referenced_id: index.needed_column("referenced_id")?,
            referenced_type: index.needed_column("referenced_type")?,
            relationship,
        };
        if !identifiers.insert(row.identifier.clone()) {
            return Err(CaseError::DuplicateIndex);
        }
        rows.push(row);
    }
    Ok(rows)
}

fn copied_attachments(case_id: &CaseId, doc: &Document<'_>) -> Result<Vec<AttachmentRow>, CaseError> {
    let Some(attachments) = doc.object("case_attachments")? else {
        return Ok(Vec::new());
    };
    let blobs = doc.object("external_blobs")?;
    let mut rows = Vec::new();
    for (key, attachment) in attachments {
        let attachment = Document(attachment.as_object().ok_or(wrong_type("case_attachments"))?);
        let name = if key.is_empty() {
            attachment.needed_column("identifier")?
        } else {
            key.clone()
        };
        storable("case_attachments", &name)?;
        let blob = blobs.and_then(|blobs| blobs.get(&name)).and_then(Value::as_object);
        let blob = Document(blob.ok_or(CaseError::AttachmentWithoutBlob)?);
        // A blob that has only an `id` is keyed by the name of its database, which the document does not tell.
        let blob_id = blob.column("key")?.ok_or(CaseError::AttachmentWithoutBlob)?;
        let content_length = match blob.0.get("content_length") {
            None | Some(Value::Null) => None,
            Some(length) => {
                let length = length.as_i64().ok_or(wrong_type("content_length"))?;
                Some(i32::try_from(length).map_err(|_| too_long("content_length"))?)
            }
        };
        let properties = match attachment.0.get("attachment_properties") {
            None | Some(Value::Null) => "{}".to_owned(),
            Some(properties) => pyjson::dumps(properties),
        };
        rows.push(AttachmentRow {
            attachment_id: attachments::id(case_id, &name, &blob_id),
            name,
            content_type: attachment.column("server_mime")?,
            content_length,
            properties,
            blob_id,
            blob_bucket: Some(String::new()),
            md5: attachment.column("server_md5")?.unwrap_or_default(),
        });
    }
    Ok(rows)
}

fn wrong_type(field: &'static str) -> CaseError {
    CaseError::BadField {
        field,
        problem: FieldProblem::WrongType,
    }
}

fn too_long(field: &'static str) -> CaseError {
    CaseError::BadField {
        field,
        problem: FieldProblem::TooLong,
    }
}

fn storable(field: &'static str, text: &str) -> Result<(), CaseError> {
    match columns::fits(text) {
        Ok(()) => Ok(()),
        Err(RejectReason::ValueTooLong) => Err(too_long(field)),
        Err(_) => Err(CaseError::BadField {
            field,
            problem: FieldProblem::Unstorable,
        }),
    }
}

/// A JSON object of the case document, read field by field. Null counts as absent.
struct Document<'a>(&'a Map<String, Value>);

impl<'a> Document<'a> {
    fn text(&self, field: &'static str) -> Result<Option<&'a str>, CaseError> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong_type(field)),
        }
    }

    /// A text that fits into its column.
    fn column(&self, field: &'static str) -> Result<Option<String>, CaseError> {
        let Some(text) = self.text(field)? else { return Ok(None) };
        storable(field, text)?;
        Ok(Some(text.to_owned()))
    }

    /// A text made to fit into its column.
    fn cut_column(&self, field: &'static str) -> Result<Option<String>, CaseError> {
        let Some(text) = self.text(field)?.map(columns::cut) else {
            return Ok(None);
        };
        storable(field, text)?;
        Ok(Some(text.to_owned()))
    }

    /// A text that fits into a column that cannot be NULL.
    fn needed_column(&self, field: &'static str) -> Result<String, CaseError> {
        self.column(field)?.ok_or(wrong_type(field))
    }

    fn date(&self, field: &'static str) -> Result<Option<DateTime<Utc>>, CaseError> {
        let Some(text) = self.text(field)? else { return Ok(None) };
        let not_a_date = CaseError::BadField {
            field,
            problem: FieldProblem::NotADate,
        };
        iso8601::parse_couch(text).map(Some).ok_or(not_a_date)
    }

    fn flag(&self, field: &'static str) -> Result<bool, CaseError> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(wrong_type(field)),
        }
    }

    fn object(&self, field: &'static str) -> Result<Option<&'a Map<String, Value>>, CaseError> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(_) => Err(wrong_type(field)),
        }
    }

    fn objects(&self, field: &'static str) -> Result<Vec<Document<'a>>, CaseError> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| item.as_object().map(Document).ok_or(wrong_type(field)))
                .collect(),
            Some(_) => Err(wrong_type(field)),
        }
    }
}
