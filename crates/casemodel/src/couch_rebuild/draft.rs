//! The document while actions are applied to it.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use proto::effects::{AttachmentChange, IndexChange, KnownProperty, PropertyValue};
use serde_json::{Map, Value, json};

use super::actions::{Action, Kind};
use super::{CouchRebuildError, action_types};
use crate::draft::RESTRICTED;
use crate::iso8601;

/// Fields of the Couch model that hold text: an update of that name writes them.
const TEXT_FIELDS: [&str; 11] = [
    "doc_type",
    "domain",
    "external_id",
    "type",
    "name",
    "user_id",
    "owner_id",
    "opened_by",
    "closed_by",
    "version",
    "location_id",
];

/// Fields that hold anything else. Couch refuses text for them, and so a form whose update has their name.
const OTHER_FIELDS: [&str; 17] = [
    "_id",
    "_rev",
    "_attachments",
    "xform_ids",
    "opened_on",
    "modified_on",
    "closed",
    "closed_on",
    "server_modified_on",
    "indices",
    "case_attachments",
    "external_blobs",
    "actions",
    "referrals",
    "initial_processing_complete",
    "computed_",
    "computed_modified_on_",
];

/// The case in the making.
pub(super) struct Draft {
    document: Map<String, Value>,
    opened_on: Option<DateTime<Utc>>,
    modified_on: Option<DateTime<Utc>>,
    indices: Vec<IndexChange>,
    attachments: Map<String, Value>,
}

impl Draft {
    /// The document without what actions make: neither the old ones, which it holds, nor these. Properties that no action
    /// names stay, and so does who opened the case.
    pub(super) fn reset(case: &Map<String, Value>, actions: &[Action<'_>]) -> Self {
        let mut named: HashSet<&str> = HashSet::new();
        let old = case.get("actions").and_then(Value::as_array).into_iter().flatten();
        for action in old {
            let unknown = action.get("updated_unknown_properties").and_then(Value::as_object);
            named.extend(unknown.into_iter().flat_map(Map::keys).map(String::as_str));
        }
        for action in actions {
            if let Kind::Update(_, dynamic) = action.kind {
                named.extend(dynamic.iter().map(|(key, _)| key.as_str()));
            }
        }
        let is_kept = |key: &str| key != "actions" && (is_field(key) || !named.contains(key));
        let mut document: Map<String, Value> = case
            .iter()
            .filter(|(key, _)| is_kept(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        // Explicitly deleted, and not only because it had no actions left.
        let is_deleted = case.get("doc_type").and_then(Value::as_str) == Some("CommCareCase-Deleted")
            && action_types(case).any(|action_type| action_type != Kind::REBUILD)
            && !actions.is_empty();
        if !is_deleted {
            document.insert("doc_type".to_owned(), Value::from("CommCareCase"));
        }
        for field in ["type", "name", "external_id", "user_id", "owner_id", "closed_by"] {
            document.insert(field.to_owned(), Value::from(""));
        }
        document.insert("closed".to_owned(), Value::Bool(false));
        document.insert("closed_on".to_owned(), Value::Null);
        document.entry("opened_by").or_insert(Value::Null);
        Self {
            document,
            opened_on: None,
            modified_on: None,
            indices: Vec::new(),
            attachments: Map::new(),
        }
    }

    pub(super) fn put(&mut self, key: &str, value: Value) {
        self.document.insert(key.to_owned(), value);
    }

    pub(super) fn apply(&mut self, action: &Action<'_>) -> Result<(), CouchRebuildError> {
        match action.kind {
            Kind::Create(known) => {
                self.set_known(known)?;
                self.opened_on.get_or_insert(action.date);
                if let Some(user) = action.user_id
                    && self.is_empty("opened_by")
                {
                    self.put("opened_by", Value::from(user));
                }
            }
            Kind::Update(known, dynamic) => {
                self.set_known(known)?;
                self.set_dynamic(dynamic)?;
            }
            Kind::Index(changes) => changes.iter().for_each(|change| self.set_index(change)),
            Kind::Close => {
                self.put("closed", Value::Bool(true));
                self.put("closed_on", json_date(action.date));
                self.put("closed_by", Value::from(action.user_id.unwrap_or_default()));
            }
            Kind::Attachment(changes) => {
                for change in changes {
                    self.set_attachment(change, action)?;
                }
            }
            // A mark: neither user nor date count.
            Kind::Ledger => return Ok(()),
        }
        if let Some(user) = action.user_id {
            self.put("user_id", Value::from(user));
        }
        self.modified_on = self.modified_on.max(Some(action.date));
        Ok(())
    }

    fn is_empty(&self, field: &str) -> bool {
        let text = self.document.get(field).and_then(Value::as_str);
        text.is_none_or(str::is_empty)
    }

    fn set_known(&mut self, known: &[(KnownProperty, PropertyValue)]) -> Result<(), CouchRebuildError> {
        for (property, value) in known {
            let PropertyValue::Text(text) = value else {
                return Err(CouchRebuildError::BadValue);
            };
            let field = match property {
                KnownProperty::Type => "type",
                KnownProperty::Name => "name",
                KnownProperty::ExternalId => "external_id",
                KnownProperty::UserId => "user_id",
                KnownProperty::OwnerId => "owner_id",
                KnownProperty::OpenedOn => {
                    let date = iso8601::parse(text).ok_or(CouchRebuildError::BadValue)?;
                    self.opened_on = Some(date);
                    continue;
                }
            };
            self.put(field, Value::from(text.as_str()));
        }
        Ok(())
    }

    fn set_dynamic(&mut self, dynamic: &[(String, PropertyValue)]) -> Result<(), CouchRebuildError> {
        for (key, value) in dynamic {
            if RESTRICTED.contains(&key.as_str()) {
                continue;
            }
            let is_text = matches!(value, PropertyValue::Text(_));
            if OTHER_FIELDS.contains(&key.as_str()) || (TEXT_FIELDS.contains(&key.as_str()) && !is_text) {
                return Err(CouchRebuildError::BadValue);
            }
            self.document.insert(key.clone(), value.to_json());
        }
        Ok(())
    }

    fn set_index(&mut self, change: &IndexChange) {
        let position = self
            .indices
            .iter()
            .position(|index| index.identifier == change.identifier);
        match (position, change.referenced_id.is_empty()) {
            (Some(position), true) => drop(self.indices.remove(position)),
            (Some(position), false) => self.indices[position] = change.clone(),
            (None, true) => {}
            (None, false) => self.indices.push(change.clone()),
        }
    }

    fn set_attachment(&mut self, change: &AttachmentChange, action: &Action<'_>) -> Result<(), CouchRebuildError> {
        let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        if !given(&change.src) && !given(&change.from) {
            self.attachments.remove(&change.identifier);
            return Ok(());
        }
        let of_form = &action.form.attachments;
        let found = of_form.iter().find(|(name, _)| Some(name) == change.src.as_ref());
        let (_, length) = found.ok_or(CouchRebuildError::AttachmentNotFound)?;
        let attachment = json!({
            "identifier": change.identifier,
            "attachment_src": change.src,
            "attachment_from": change.from,
            "attachment_name": change.name,
            "attachment_size": length,
        });
        self.attachments.insert(change.identifier.clone(), attachment);
        Ok(())
    }

    pub(super) fn into_document(mut self) -> Map<String, Value> {
        let indices = self.indices.iter().map(|index| {
            json!({
                "doc_type": "CommCareCaseIndex",
                "identifier": index.identifier,
                "referenced_type": index.referenced_type,
                "referenced_id": index.referenced_id,
                "relationship": index.relationship.as_str(),
            })
        });
        let indices = indices.collect();
        let attachments = Value::Object(std::mem::take(&mut self.attachments));
        let date = |date: Option<DateTime<Utc>>| date.map_or(Value::Null, json_date);
        let (opened_on, modified_on) = (date(self.opened_on), date(self.modified_on));
        self.put("indices", indices);
        self.put("case_attachments", attachments);
        self.put("opened_on", opened_on);
        self.put("modified_on", modified_on);
        self.document
    }
}

/// Whether the Couch model knows the key.
fn is_field(key: &str) -> bool {
    TEXT_FIELDS.contains(&key) || OTHER_FIELDS.contains(&key)
}

/// A date as Couch writes it.
fn json_date(date: DateTime<Utc>) -> Value {
    Value::from(date.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
}
