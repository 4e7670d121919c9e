//! The case document as CommCare's Couch processor left it, and the rows copied from it when it is deleted.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use crate::block::{Block, Version};
use crate::case::{Deletion, Part, Touch};
use crate::model::{ExpectedCase, ExpectedIndex, ExpectedTransaction};
use crate::moment::couch_time;

/// One action of the case's history.
#[derive(Clone, Debug)]
struct Action {
    kind: &'static str,
    /// None for a rebuild.
    form: Option<ActionForm>,
    date: DateTime<Utc>,
    server_date: DateTime<Utc>,
    known: Map<String, Value>,
    unknown: Map<String, Value>,
    indices: Vec<Value>,
    attachments: Map<String, Value>,
}

#[derive(Clone, Debug)]
struct ActionForm {
    id: String,
    xmlns: String,
    title: String,
    user: Option<String>,
    sync_token: Option<String>,
}

/// The state of a Couch case.
#[derive(Clone, Debug)]
pub(crate) struct CouchCase {
    id: String,
    domain: String,
    case_type: String,
    name: String,
    owner_id: String,
    user_id: String,
    external_id: String,
    opened_on: Option<DateTime<Utc>>,
    opened_by: String,
    modified_on: DateTime<Utc>,
    server_modified_on: DateTime<Utc>,
    closed: bool,
    closed_on: Option<DateTime<Utc>>,
    closed_by: String,
    version: Version,
    properties: BTreeMap<String, Value>,
    indices: Vec<ExpectedIndex>,
    attachments: Map<String, Value>,
    external_blobs: Map<String, Value>,
    actions: Vec<Action>,
    deletion: Option<Deletion>,
}

impl CouchCase {
    /// The case after its history. `rebuilt`: a form was archived or edited away, so that Couch rebuilt the case then.
    /// `None` if no block did anything: then Couch never made a document.
    pub(crate) fn replay(
        domain: &str,
        case_id: &str,
        history: &[Touch<'_>],
        rebuilt: Option<DateTime<Utc>>,
        deletion: Option<Deletion>,
    ) -> Option<Self> {
        let last = history.last()?;
        let last_block = history.iter().rev().find_map(Touch::block)?;
        let mut case = Self {
            id: case_id.to_owned(),
            domain: domain.to_owned(),
            case_type: String::new(),
            name: String::new(),
            owner_id: String::new(),
            user_id: String::new(),
            external_id: String::new(),
            opened_on: None,
            opened_by: String::new(),
            modified_on: last_block.modified.utc,
            server_modified_on: last.form.server_modified_on,
            closed: false,
            closed_on: None,
            closed_by: String::new(),
            version: last_block.version,
            properties: BTreeMap::new(),
            indices: Vec::new(),
            attachments: Map::new(),
            external_blobs: Map::new(),
            actions: Vec::new(),
            deletion,
        };
        for touch in history {
            match touch.part {
                Part::Block(block) => case.apply(touch, block),
                Part::Ledgers => case.note_stock(touch),
            }
        }
        if case.actions.is_empty() {
            return None;
        }
        if let Some(on) = rebuilt {
            case.server_modified_on = case.server_modified_on.max(on);
            case.actions.push(Action {
                kind: "rebuild",
                form: None,
                date: on,
                server_date: on,
                known: Map::new(),
                unknown: Map::new(),
                indices: Vec::new(),
                attachments: Map::new(),
            });
        }
        Some(case)
    }

    fn apply(&mut self, touch: &Touch<'_>, block: &Block) {
        let date = block.modified.utc;
        let user = touch.user().unwrap_or_default().to_owned();
        if !block.is_noop() && !user.is_empty() {
            self.user_id.clone_from(&user);
        }
        if let Some(create) = &block.create {
            let mut known = Map::new();
            known.insert("type".to_owned(), json!(create.case_type));
            self.case_type.clone_from(&create.case_type);
            for (key, value, column) in [
                ("name", &create.name, &mut self.name),
                ("owner_id", &create.owner_id, &mut self.owner_id),
                ("external_id", &create.external_id, &mut self.external_id),
            ] {
                set_known(&mut known, key, value.as_ref(), column);
            }
            let opened = create.date_opened.map_or(date, |moment| moment.utc);
            if create.date_opened.is_some() {
                known.insert("opened_on".to_owned(), json!(couch_time(opened)));
            }
            if self.opened_on.is_none() {
                self.opened_on = Some(opened);
                self.opened_by.clone_from(&user);
            }
            if self.owner_id.is_empty() {
                self.owner_id.clone_from(&user);
            }
            self.push("create", touch).known = known;
        }
        if block.has_update() {
            let mut known = Map::new();
            let update = &block.update;
            for (key, value, column) in [
                ("type", &update.case_type, &mut self.case_type),
                ("name", &update.case_name, &mut self.name),
                ("owner_id", &update.owner_id, &mut self.owner_id),
                ("external_id", &update.external_id, &mut self.external_id),
            ] {
                set_known(&mut known, key, value.as_ref(), column);
            }
            let mut unknown = Map::new();
            for (key, property) in &update.dynamic {
                let value = property.value();
                unknown.insert(key.clone(), value.clone());
                if let ("name", Some(name)) = (key.as_str(), value.as_str()) {
                    name.clone_into(&mut self.name);
                } else {
                    self.properties.insert(key.clone(), value);
                }
            }
            let action = self.push("update", touch);
            action.known = known;
            action.unknown = unknown;
        }
        if block.close {
            self.closed = true;
            self.closed_on = Some(date);
            self.closed_by = user;
            self.push("close", touch);
        }
        if !block.indices.is_empty() {
            let mut entries = Vec::new();
            for index in &block.indices {
                let row = ExpectedIndex {
                    identifier: index.identifier.to_owned(),
                    referenced_id: index.referenced_id.clone(),
                    referenced_type: index.referenced_type.to_owned(),
                    relationship_id: if index.extension { 2 } else { 1 },
                };
                entries.push(index_json(&row));
                let place = self.indices.iter().position(|known| known.identifier == row.identifier);
                match (place, row.referenced_id.is_empty()) {
                    (Some(place), true) => {
                        self.indices.remove(place);
                    }
                    (Some(place), false) => self.indices[place] = row,
                    (None, true) => {}
                    (None, false) => self.indices.push(row),
                }
            }
            self.push("index", touch).indices = entries;
        }
        self.attach(touch, block);
    }

    /// A form that changed ledgers leaves a mark without content.
    fn note_stock(&mut self, touch: &Touch<'_>) {
        let action = self.push("commtrack", touch);
        if let Some(form) = &mut action.form {
            form.sync_token = Some(String::new());
        }
    }

    fn attach(&mut self, touch: &Touch<'_>, block: &Block) {
        let Some(photo) = &block.photo else { return };
        let Some(image) = touch.form.images.iter().find(|image| image.name == photo.src) else {
            return;
        };
        let entry = json!({
            "doc_type": "CommCareCaseAttachment", "identifier": photo.identifier, "attachment_src": photo.src,
            "attachment_from": "local", "attachment_name": null, "server_mime": image.content_type,
            "server_md5": null, "attachment_size": image.bytes.len(), "attachment_properties": {},
        });
        self.attachments.insert(photo.identifier.to_owned(), entry.clone());
        self.external_blobs.insert(
            photo.identifier.to_owned(),
            json!({"doc_type": "BlobMetaRef", "key": image.key, "blobmeta_id": null,
                   "content_type": image.content_type, "content_length": image.bytes.len()}),
        );
        self.push("attachment", touch)
            .attachments
            .insert(photo.identifier.to_owned(), entry);
    }

    fn push(&mut self, kind: &'static str, touch: &Touch<'_>) -> &mut Action {
        let form = touch.form;
        let place = self.actions.len();
        self.actions.push(Action {
            kind,
            form: Some(ActionForm {
                id: form.id.clone(),
                xmlns: form.xmlns.clone().unwrap_or_default(),
                title: form.title.to_owned(),
                user: touch.user().map(str::to_owned),
                sync_token: form.sync_token.clone(),
            }),
            date: touch.block().map_or(form.received_on, |block| block.modified.utc),
            server_date: form.received_on,
            known: Map::new(),
            unknown: Map::new(),
            indices: Vec::new(),
            attachments: Map::new(),
        });
        &mut self.actions[place]
    }

    /// The document type.
    pub(crate) fn doc_type(&self) -> &'static str {
        if self.deletion.is_some() {
            "CommCareCase-Deleted"
        } else {
            "CommCareCase"
        }
    }

    /// Ids of the forms with an action, first seen first.
    fn xform_ids(&self) -> Vec<&str> {
        let mut ids = Vec::new();
        for form in self.actions.iter().filter_map(|action| action.form.as_ref()) {
            if ids.last() != Some(&form.id.as_str()) {
                ids.push(form.id.as_str());
            }
        }
        ids
    }

    /// The Couch document.
    pub(crate) fn document(&self) -> Value {
        let mut doc = Map::new();
        let mut set = |key: &str, value: Value| {
            doc.insert(key.to_owned(), value);
        };
        set("_id", json!(self.id));
        set("doc_type", json!(self.doc_type()));
        set("domain", json!(self.domain));
        set("type", json!(self.case_type));
        set("name", json!(self.name));
        set("owner_id", json!(self.owner_id));
        set("user_id", json!(self.user_id));
        set("external_id", json!(self.external_id));
        set("opened_on", json!(self.opened_on.map(couch_time)));
        set("opened_by", json!(self.opened_by));
        set("modified_on", json!(couch_time(self.modified_on)));
        set("server_modified_on", json!(couch_time(self.server_modified_on)));
        set("closed", json!(self.closed));
        set("closed_on", json!(self.closed_on.map(couch_time)));
        set("closed_by", json!(self.closed_by));
        set(
            "version",
            json!(if self.version == Version::V1 { "1.0" } else { "2.0" }),
        );
        set("#export_tag", json!(["domain", "type"]));
        for (key, value) in &self.properties {
            set(key, value.clone());
        }
        set("indices", Value::Array(self.indices.iter().map(index_json).collect()));
        set("case_attachments", Value::Object(self.attachments.clone()));
        set("external_blobs", Value::Object(self.external_blobs.clone()));
        set("xform_ids", json!(self.xform_ids()));
        set("actions", Value::Array(self.actions.iter().map(Action::json).collect()));
        if let Some(deletion) = &self.deletion {
            set("-deletion_id", json!(deletion.id));
            set("-deletion_date", json!(couch_time(deletion.on)));
        }
        Value::Object(doc)
    }

    /// The rows copied from the document of a deleted case that no live form builds.
    pub(crate) fn copied_rows(&self) -> ExpectedCase {
        let first = self.actions.first();
        let first_user = first
            .and_then(|action| action.form.as_ref())
            .and_then(|form| form.user.clone());
        let owner_id = if self.owner_id.is_empty() {
            self.user_id.clone()
        } else {
            self.owner_id.clone()
        };
        ExpectedCase {
            case_id: self.id.clone(),
            domain: self.domain.clone(),
            case_type: self.case_type.clone(),
            name: Some(self.name.clone()),
            owner_id,
            opened_on: self.opened_on.or_else(|| first.map(|action| action.date)),
            opened_by: if self.opened_by.is_empty() {
                first_user
            } else {
                Some(self.opened_by.clone())
            },
            modified_on: self.modified_on,
            server_modified_on: Some(self.server_modified_on),
            modified_by: self.user_id.clone(),
            closed: self.closed,
            closed_on: self.closed_on,
            closed_by: Some(self.closed_by.clone()),
            deleted: true,
            deleted_on: self.deletion.as_ref().map(|deletion| deletion.on),
            deletion_id: self.deletion.as_ref().map(|deletion| deletion.id.clone()),
            external_id: Some(self.external_id.clone()),
            location_id: None,
            case_json: self
                .properties
                .iter()
                .filter(|(key, _)| key.starts_with(|c: char| c.is_ascii_alphabetic()))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            indices: self.indices.clone(),
            transactions: self.copied_transactions(),
            attachments: Vec::new(),
            ledger_values: Vec::new(),
            ledger_transactions: Vec::new(),
        }
    }

    fn copied_transactions(&self) -> Vec<ExpectedTransaction> {
        let mut rows: Vec<ExpectedTransaction> = Vec::new();
        for action in &self.actions {
            let bits = match action.kind {
                "create" => 128,
                "close" => 256,
                "index" => 512,
                "attachment" => 1024,
                _ => 0,
            };
            let form_id = action.form.as_ref().map(|form| form.id.clone());
            let known = rows.iter_mut().find(|row| form_id.is_some() && row.form_id == form_id);
            if let Some(row) = known {
                row.kind |= bits;
                continue;
            }
            let rebuild = action.kind == "rebuild";
            rows.push(ExpectedTransaction {
                kind: if rebuild {
                    2
                } else {
                    bits | i16::from(form_id.is_some())
                },
                form_id,
                sync_log_id: action.form.as_ref().and_then(|form| form.sync_token.clone()),
                server_date: action.server_date,
                client_date: None,
                revoked: false,
                details: if rebuild {
                    json!({"reason": "Unknown"})
                } else {
                    json!({})
                },
            });
        }
        rows
    }
}

impl Action {
    fn json(&self) -> Value {
        let form = self.form.as_ref();
        json!({
            "doc_type": "CommCareCaseAction",
            "action_type": self.kind,
            "user_id": form.and_then(|form| form.user.as_ref()),
            "date": couch_time(self.date),
            "server_date": couch_time(self.server_date),
            "xform_id": form.map(|form| &form.id),
            "xform_xmlns": form.map(|form| &form.xmlns),
            "xform_name": form.map(|form| &form.title),
            "sync_log_id": form.and_then(|form| form.sync_token.as_ref()),
            "updated_known_properties": self.known,
            "updated_unknown_properties": self.unknown,
            "indices": self.indices,
            "attachments": self.attachments,
        })
    }
}

fn set_known(known: &mut Map<String, Value>, key: &str, value: Option<&String>, column: &mut String) {
    if let Some(value) = value {
        known.insert(key.to_owned(), json!(value));
        column.clone_from(value);
    }
}

fn index_json(row: &ExpectedIndex) -> Value {
    json!({
        "doc_type": "CommCareCaseIndex",
        "identifier": row.identifier,
        "referenced_type": row.referenced_type,
        "referenced_id": row.referenced_id,
        "relationship": if row.relationship_id == 2 { "extension" } else { "child" },
    })
}
