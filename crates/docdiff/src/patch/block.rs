//! What the case block of a patch form must do.

use serde_json::{Map, Value};

use super::{CannotPatch, PatchEffect};
use crate::diff::{Diff, DiffType, PathElement, Side};
use crate::json::ANY_INDEX;
use crate::python::is_truthy;

/// First elements of paths that forbid any patch of the case.
const ILLEGAL: [&str; 4] = ["actions", "case_id", "domain", "*"];

/// First elements of paths that are no dynamic properties.
const STATIC: [&str; 27] = [
    "case_id",
    "closed",
    "closed_by",
    "closed_on",
    "deleted",
    "deleted_on",
    "deletion_id",
    "domain",
    "external_id",
    "indices",
    "location_id",
    "modified_by",
    "modified_on",
    "name",
    "opened_by",
    "opened_on",
    "owner_id",
    "server_modified_on",
    "type",
    "user_id",
    "xform_ids",
    // Old names of such, and what XML leaves behind.
    "-deletion_date",
    "-deletion_id",
    "@date_modified",
    "@user_id",
    "hq_user_id",
    "#text",
];

/// Properties of which a difference makes the block carry all that a case block knows by name.
const KNOWN: [&str; 6] = ["type", "name", "external_id", "user_id", "owner_id", "opened_on"];

/// Names of elements in an update that say something else than a property of that name, or nothing.
const RESERVED: [&str; 6] = [
    "case_id",
    "case_name",
    "case_type",
    "date_modified",
    "date_opened",
    "supply_point_location_id",
];

/// Fields of the Couch model of a case, and what HQ keeps there for itself: not dynamic properties.
const MODEL: [&str; 31] = [
    "actions",
    "backend_id",
    "case_attachments",
    "case_id",
    "closed",
    "closed_by",
    "closed_on",
    "computed_",
    "computed_modified_on_",
    "deleted",
    "doc_type",
    "domain",
    "export_tag",
    "external_blobs",
    "external_id",
    "hq_user_id",
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

/// A case block to be written.
#[derive(Clone, Debug, Default)]
pub(super) struct Block<'a> {
    pub(super) creates: bool,
    /// Known properties and these are updated; none: there is no update.
    pub(super) update: Option<Vec<(&'a str, Property<'a>)>>,
    pub(super) indices: Vec<Index<'a>>,
    pub(super) closes: bool,
    pub(super) effects: Vec<PatchEffect>,
}

/// A value that an element can carry.
#[derive(Clone, Copy, Debug)]
pub(super) enum Property<'a> {
    Text(&'a str),
    /// Anything else, as Python prints it.
    Printed(&'a Value),
}

/// An entry of the index part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Index<'a> {
    pub(super) identifier: &'a str,
    pub(super) referenced_type: &'a str,
    pub(super) referenced_id: &'a str,
    pub(super) is_extension: bool,
}

/// Plans the block. A case that has differences of ledgers only gets a block without parts.
pub(super) fn plan<'a>(couch: &'a Map<String, Value>, diffs: &[&'a Diff]) -> Result<Block<'a>, CannotPatch> {
    let missing = is_missing_in_sql(diffs);
    let is_closed = couch.get("closed").is_some_and(is_truthy);
    let mut block = if missing {
        Block {
            creates: true,
            update: Some(dynamic_properties(couch)?),
            indices: couch_indices(couch)?,
            closes: is_closed,
            effects: vec![PatchEffect::Create],
        }
    } else {
        of_differences(diffs, is_closed)?
    };
    block.indices.sort_by_key(|index| index.identifier);
    if let Some(properties) = &block.update {
        let known = ["case_type", "case_name", "owner_id"].map(str::to_owned);
        let names = properties.iter().map(|(name, _)| (*name).to_owned());
        block
            .effects
            .push(PatchEffect::Update(known.into_iter().chain(names).collect()));
    }
    for index in &block.indices {
        let name = index.identifier.to_owned();
        block.effects.push(if index.referenced_id.is_empty() {
            PatchEffect::RemoveIndex(name)
        } else {
            PatchEffect::SetIndex(name)
        });
    }
    if block.closes {
        block.effects.push(PatchEffect::Close);
    }
    Ok(block)
}

/// Whether the only difference is that SQL lacks the case.
fn is_missing_in_sql(diffs: &[&Diff]) -> bool {
    matches!(diffs, [diff] if diff.diff_type == DiffType::Missing
        && diff.path == [PathElement::key("*")]
        && diff.old.as_value().is_some()
        && diff.new == Side::Missing)
}

fn of_differences<'a>(diffs: &[&'a Diff], is_closed: bool) -> Result<Block<'a>, CannotPatch> {
    if let Some(diff) = diffs.iter().find(|diff| ILLEGAL.contains(&first(diff))) {
        return Err(CannotPatch::Illegal(diff.path_text()));
    }
    let mut properties: Vec<(&str, Property<'_>)> = Vec::new();
    for diff in diffs.iter().filter(|diff| !STATIC.contains(&first(diff))) {
        let name = first(diff);
        let value = match (&diff.old, diff.path.len()) {
            // A property that Couch lacks can only be made empty.
            (Side::Missing, _) => "",
            (Side::Value(Value::String(text)), 1) => text.as_str(),
            _ => return Err(CannotPatch::Value(diff.path_text())),
        };
        if RESERVED.contains(&name) {
            return Err(CannotPatch::Reserved(name.to_owned()));
        }
        // Several elements of a list that Couch lacks are one property.
        properties.retain(|(other, _)| *other != name);
        properties.push((name, Property::Text(value)));
    }
    let indices = changed_indices(diffs)?;
    let has_known = diffs.iter().any(|diff| KNOWN.contains(&first(diff)));
    let reopened =
        |diff: &&&Diff| diff.path == [PathElement::key("closed")] && !diff.new.as_value().is_some_and(is_truthy);
    Ok(Block {
        creates: false,
        update: (!properties.is_empty() || has_known || !indices.is_empty()).then_some(properties),
        indices,
        closes: is_closed && diffs.iter().any(|diff| reopened(&diff)),
        effects: Vec::new(),
    })
}

fn first(diff: &Diff) -> &str {
    match diff.path.first() {
        Some(PathElement::Key(name)) => name.as_ref(),
        _ => "",
    }
}

/// Differences of indices, each of which sets an index that SQL lacks or removes one that Couch lacks.
fn changed_indices<'a>(diffs: &[&'a Diff]) -> Result<Vec<Index<'a>>, CannotPatch> {
    let at_an_index = [PathElement::key("indices"), PathElement::key(ANY_INDEX)];
    let of_indices = diffs.iter().filter(|diff| first(diff) == "indices");
    of_indices
        .map(|diff| {
            let found = match (&diff.old, &diff.new) {
                _ if diff.path != at_an_index => None,
                (Side::Value(Value::Object(old)), Side::Missing) => couch_index(old),
                (Side::Missing, Side::Value(Value::Object(new))) => {
                    let identifier = new.get("identifier").and_then(Value::as_str);
                    identifier.map(|identifier| Index {
                        identifier,
                        referenced_type: "",
                        referenced_id: "",
                        is_extension: false,
                    })
                }
                _ => None,
            };
            found.ok_or_else(|| CannotPatch::Index(diff.path_text()))
        })
        .collect()
}

fn couch_indices(couch: &Map<String, Value>) -> Result<Vec<Index<'_>>, CannotPatch> {
    let list = couch.get("indices").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .map(|index| {
            let found = index.as_object().and_then(couch_index);
            found.ok_or_else(|| CannotPatch::Index("indices".to_owned()))
        })
        .collect()
}

fn couch_index(index: &Map<String, Value>) -> Option<Index<'_>> {
    let text = |key: &str| index.get(key).and_then(Value::as_str);
    Some(Index {
        identifier: text("identifier")?,
        referenced_type: text("referenced_type").unwrap_or_default(),
        referenced_id: text("referenced_id").unwrap_or_default(),
        is_extension: text("relationship") == Some("extension"),
    })
}

/// The dynamic properties of the Couch case, by name. Null is left out, as it says nothing against an absent property; so
/// is what an update does not write.
fn dynamic_properties(couch: &Map<String, Value>) -> Result<Vec<(&str, Property<'_>)>, CannotPatch> {
    let is_dynamic = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic()) && !MODEL.contains(&name) && !RESERVED.contains(&name)
    };
    let mut properties = Vec::new();
    for (name, value) in couch.iter().filter(|(name, _)| is_dynamic(name)) {
        properties.push(match value {
            Value::Null => continue,
            Value::String(text) => (name.as_str(), Property::Text(text)),
            Value::Bool(_) | Value::Number(_) => (name.as_str(), Property::Printed(value)),
            Value::Array(_) | Value::Object(_) => return Err(CannotPatch::Value(name.clone())),
        });
    }
    properties.sort_by_key(|(name, _)| *name);
    Ok(properties)
}
