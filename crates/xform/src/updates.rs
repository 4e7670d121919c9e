//! Case blocks to typed updates, in the order in which HQ applies them.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use proto::effects::{
    AttachmentChange, BlockVersion, CaseAction, CaseUpdate, IndexChange, KnownProperty, PropertyValue, Relationship,
};
use proto::ids::CaseId;
use serde_json::{Map, Value};

use crate::blocks::case_blocks;
use crate::datetimes::parse_iso8601;
use crate::error::FormError;
use crate::limits::MAX_ID_CHARS;
use crate::meta::is_truthy;
use crate::modified::{point_in_time, repair_date_modified};

/// Namespace of case blocks of version 2.0. Blocks without namespace are of version 1.0.
pub const CASE_V2_XMLNS: &str = "http://commcarehq.org/case/transaction/v2";

/// What the form does to cases: for each case id, in text order, its updates as they are applied.
///
/// The form is JSON as [`crate::form_json`] gives it. Within a case, a block that creates comes before one that updates,
/// then blocks that only index, close or attach; blocks of equal rank keep the order of the document.
///
/// # Errors
/// The first fault in any block: HQ drops the whole form for it.
pub fn case_updates(form: &Value) -> Result<Vec<(CaseId, Vec<CaseUpdate>)>, FormError> {
    let mut updates = Vec::new();
    for block in case_blocks(form)? {
        updates.push(read_block(block)?);
    }
    // Both sorts are stable. Text order is that of code points in Python and of UTF-8 here: the same.
    updates
        .sort_by(|(left_id, left), (right_id, right)| left_id.cmp(right_id).then_with(|| rank(left).cmp(&rank(right))));
    let mut grouped: Vec<(CaseId, Vec<CaseUpdate>)> = Vec::new();
    for (case_id, update) in updates {
        match grouped.last_mut() {
            Some((last, same_case)) if *last == case_id => same_case.push(update),
            _ => grouped.push((case_id, vec![update])),
        }
    }
    Ok(grouped)
}

/// Whether one of the form's blocks does nothing at all. Couch did not list such a form among the forms of the case.
pub fn has_noop_block(updates: &[(CaseId, Vec<CaseUpdate>)]) -> bool {
    updates
        .iter()
        .flat_map(|(_, updates)| updates)
        .any(|update| update.actions == [CaseAction::Noop])
}

/// A block's place among the blocks of its case.
fn rank(update: &CaseUpdate) -> u8 {
    let rank = |action: &CaseAction| match action {
        CaseAction::Create(_) => 0,
        CaseAction::Update { .. } | CaseAction::Noop => 1,
        CaseAction::Index(_) => 2,
        CaseAction::Close => 3,
        CaseAction::Attachment(_) => 4,
    };
    update.actions.iter().map(rank).min().unwrap_or(u8::MAX)
}

fn read_block(block: &Map<String, Value>) -> Result<(CaseId, CaseUpdate), FormError> {
    let version = match block.get("@xmlns").map(|xmlns| (is_truthy(xmlns), xmlns.as_str())) {
        None | Some((false, _)) => BlockVersion::V1,
        Some((_, Some(CASE_V2_XMLNS))) => BlockVersion::V2,
        Some(_) => return Err(FormError::UnknownCaseXmlns),
    };
    let case_id = case_id(block, version)?;
    let attribute_date = checked_attribute_date(block, &case_id)?;
    let (user_id, modified_on) = match version {
        BlockVersion::V1 => (None, element_date(block, &case_id)?),
        BlockVersion::V2 => {
            let user_id = text(block, "@user_id", &case_id)?.filter(|user| !user.is_empty());
            (
                user_id.map(str::to_owned),
                modified_on(attribute_date.as_deref(), &case_id)?,
            )
        }
    };
    let actions = actions(block, version, &case_id)?;
    Ok((
        case_id,
        CaseUpdate {
            version,
            user_id,
            modified_on,
            actions,
        },
    ))
}

fn case_id(block: &Map<String, Value>, version: BlockVersion) -> Result<CaseId, FormError> {
    let (key, missing) = match version {
        BlockVersion::V1 => (
            "case_id",
            FormError::MissingCaseId {
                version: "1.0",
                place: "element",
            },
        ),
        BlockVersion::V2 => (
            "@case_id",
            FormError::MissingCaseId {
                version: "2.0",
                place: "attribute",
            },
        ),
    };
    match block.get(key).ok_or(missing)? {
        Value::String(id) if id.is_empty() => Err(FormError::EmptyCaseId),
        Value::String(id) if is_too_long(id) => Err(FormError::CaseIdTooLong),
        Value::String(id) => Ok(CaseId::new(id)),
        _ => Err(FormError::CaseIdNotText),
    }
}

/// `@date_modified`, mended where it has a known malformed shape. It is checked in blocks of both versions, though
/// version 1.0 takes its date from the element.
fn checked_attribute_date<'b>(
    block: &'b Map<String, Value>,
    case_id: &CaseId,
) -> Result<Option<Cow<'b, str>>, FormError> {
    let Some(date) = text(block, "@date_modified", case_id)? else {
        return Ok(None);
    };
    let date = repair_date_modified(date).map_or(Cow::Borrowed(date), Cow::Owned);
    if date.is_empty() || parse_iso8601(&date).is_some() {
        Ok(Some(date))
    } else {
        Err(FormError::InvalidDateModified {
            case_id: case_id.clone(),
        })
    }
}

fn element_date(block: &Map<String, Value>, case_id: &CaseId) -> Result<Option<DateTime<Utc>>, FormError> {
    match block.get("date_modified") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(date)) => modified_on(Some(date), case_id),
        Some(_) => Err(FormError::UnreadableDateModified {
            case_id: case_id.clone(),
        }),
    }
}

fn modified_on(date: Option<&str>, case_id: &CaseId) -> Result<Option<DateTime<Utc>>, FormError> {
    match date {
        None | Some("") => Ok(None),
        Some(date) => match point_in_time(date) {
            Some(point) => point.map(Some),
            None => Err(FormError::UnreadableDateModified {
                case_id: case_id.clone(),
            }),
        },
    }
}

fn actions(block: &Map<String, Value>, version: BlockVersion, case_id: &CaseId) -> Result<Vec<CaseAction>, FormError> {
    let part = |name: &str| block.get(name).filter(|part| is_truthy(part));
    let mut actions = Vec::new();
    if let Some(create) = part("create") {
        actions.push(CaseAction::Create(properties(create, version).0));
    }
    if let Some(update) = part("update") {
        let (known, dynamic) = properties(update, version);
        actions.push(CaseAction::Update { known, dynamic });
    }
    // Unlike the others it need not have content.
    if block.contains_key("close") {
        actions.push(CaseAction::Close);
    }
    if let Some(index) = part("index") {
        actions.push(CaseAction::Index(indices(index, version, case_id)?));
    }
    if let Some(attachment) = part("attachment") {
        actions.push(CaseAction::Attachment(attachments(attachment, version, case_id)?));
    }
    if actions.is_empty() {
        actions.push(CaseAction::Noop);
    }
    Ok(actions)
}

type Known = Vec<(KnownProperty, PropertyValue)>;
type Dynamic = Vec<(String, PropertyValue)>;

/// The properties of a create or update. Text, or a repeated part, has none.
fn properties(part: &Value, version: BlockVersion) -> (Known, Dynamic) {
    let mut known = Vec::new();
    let mut dynamic = Vec::new();
    for (key, value) in part.as_object().into_iter().flatten() {
        match known_property(key, version) {
            Some(_) if value.is_null() => {}
            Some(property) => known.push((property, PropertyValue::from_json(value))),
            None => {
                let last = match value {
                    Value::Array(items) => items.last().unwrap_or(&Value::Null),
                    single => single,
                };
                dynamic.push((key.clone(), PropertyValue::from_json(last)));
            }
        }
    }
    (known, dynamic)
}

fn known_property(key: &str, version: BlockVersion) -> Option<KnownProperty> {
    Some(match (key, version) {
        ("case_type_id", BlockVersion::V1) | ("case_type", BlockVersion::V2) => KnownProperty::Type,
        ("case_name", _) => KnownProperty::Name,
        ("external_id", _) => KnownProperty::ExternalId,
        ("user_id", _) => KnownProperty::UserId,
        ("owner_id", _) => KnownProperty::OwnerId,
        ("date_opened", _) => KnownProperty::OpenedOn,
        _ => return None,
    })
}

/// The entries of an index or attachment part. Version 1.0 has none; neither has text or a repeated part, which HQ
/// records without looking inside.
fn entries(part: &Value, version: BlockVersion) -> Option<&Map<String, Value>> {
    part.as_object().filter(|_| version == BlockVersion::V2)
}

fn indices(part: &Value, version: BlockVersion, case_id: &CaseId) -> Result<Vec<IndexChange>, FormError> {
    let Some(object) = entries(part, version) else {
        return Ok(Vec::new());
    };
    object
        .iter()
        .map(|(identifier, entry)| index(identifier, entry, case_id))
        .collect()
}

fn index(identifier: &str, entry: &Value, case_id: &CaseId) -> Result<IndexChange, FormError> {
    let without_type = || FormError::IndexWithoutType {
        case_id: case_id.clone(),
        identifier: identifier.to_owned(),
    };
    let entry = entry
        .as_object()
        .filter(|entry| entry.contains_key("@case_type"))
        .ok_or_else(without_type)?;
    let referenced_type = text(entry, "@case_type", case_id)?.ok_or_else(without_type)?;
    let referenced_id = text(entry, "#text", case_id)?.unwrap_or_default();
    let relationship = match text(entry, "@relationship", case_id)? {
        // A removal looks at no relationship, so that HQ does not mind an unknown one.
        _ if referenced_id.is_empty() => Relationship::Child,
        None | Some("" | "child") => Relationship::Child,
        Some("extension") => Relationship::Extension,
        Some(_) => {
            return Err(FormError::UnknownRelationship {
                case_id: case_id.clone(),
                identifier: identifier.to_owned(),
            });
        }
    };
    let parts = [
        ("identifier", identifier),
        ("referenced type", referenced_type),
        ("referenced id", referenced_id),
    ];
    if !referenced_id.is_empty()
        && let Some((what, _)) = parts.into_iter().find(|(_, part)| is_too_long(part))
    {
        return Err(FormError::IndexTooLong {
            case_id: case_id.clone(),
            what,
        });
    }
    Ok(IndexChange {
        identifier: identifier.to_owned(),
        referenced_type: referenced_type.to_owned(),
        referenced_id: referenced_id.to_owned(),
        relationship,
    })
}

fn attachments(part: &Value, version: BlockVersion, case_id: &CaseId) -> Result<Vec<AttachmentChange>, FormError> {
    let Some(object) = entries(part, version) else {
        return Ok(Vec::new());
    };
    object
        .iter()
        .map(|(identifier, entry)| attachment(identifier, entry, case_id))
        .collect()
}

fn attachment(identifier: &str, entry: &Value, case_id: &CaseId) -> Result<AttachmentChange, FormError> {
    let (src, from, name) = match entry {
        Value::Object(entry) => (
            text(entry, "@src", case_id)?,
            text(entry, "@from", case_id)?,
            text(entry, "@name", case_id)?,
        ),
        Value::Array(_) => {
            return Err(FormError::AttachmentRepeated {
                case_id: case_id.clone(),
                identifier: identifier.to_owned(),
            });
        }
        _ => (None, None, None),
    };
    Ok(AttachmentChange {
        identifier: identifier.to_owned(),
        src: src.map(str::to_owned),
        from: from.map(str::to_owned),
        name: name.map(str::to_owned),
    })
}

/// A value that XML always gives as text, if it is there at all.
fn text<'b>(object: &'b Map<String, Value>, key: &'static str, case_id: &CaseId) -> Result<Option<&'b str>, FormError> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(FormError::NotText {
            case_id: case_id.clone(),
            what: key,
        }),
    }
}

fn is_too_long(text: &str) -> bool {
    text.len() > MAX_ID_CHARS && text.chars().count() > MAX_ID_CHARS
}

#[cfg(test)]
mod tests;
