//! Ledger blocks (stock) in a form: which elements they are, and what each of them does to balances.
//!
//! They are read from the elements of the XML, since the JSON of a form does not tell the namespace of every element.
//! HQ reads the very same elements (`corehq/form_processor/parsers/ledgers/form.py`), with two relaxations while a
//! migration runs: a transfer between no cases and a balance of no product are skipped instead of failing the form.

use chrono::{DateTime, Utc};
use proto::effects::{LedgerKind, LedgerUpdate};
use serde_json::{Map, Value};

use crate::datetimes::parse_iso8601;
use crate::document::convert;
use crate::error::LedgerError;
use crate::limits::{MAX_ID_CHARS, MAX_LEDGER_ID_CHARS, MAX_LEDGER_INSTRUCTIONS, MAX_LEDGER_TYPE_CHARS};
use crate::quantity::python_float;

/// Namespace of the elements `balance` and `transfer` that change ledgers.
pub const LEDGER_XMLNS: &str = "http://commcarehq.org/ledger/v1";

/// One change of one balance.
#[derive(Clone, Debug, PartialEq)]
pub struct LedgerInstruction {
    /// The case whose balance changes.
    pub case_id: String,
    /// What is done to it. `quantity` is plain decimal text, without exponent, never negative by the kind alone: a
    /// transfer out of 3 is `3`. `user_defined_type` is already cut to the length of its column.
    pub update: LedgerUpdate,
}

/// The ledger instructions of a form with this XML, in the order in which they are carried out: as in the document, and
/// of a transfer the source first.
///
/// [`crate::read_form`] gives the same together with the form's JSON and reads the XML only once.
///
/// # Errors
/// The XML cannot be read, or a block is in error; either fails the whole form.
pub fn ledger_updates(xml: &[u8], received_on: DateTime<Utc>) -> Result<Vec<LedgerInstruction>, LedgerError> {
    let (_, ledgers) = convert(xml)?;
    ledgers.instructions(received_on)
}

/// The ledger blocks of a form, as far as they can be understood without its document.
#[derive(Clone, Debug, Default)]
pub struct LedgerBlocks {
    has_blocks: bool,
    drafts: Vec<Draft>,
    /// The first error; nothing is read after it.
    error: Option<LedgerError>,
}

/// An instruction of a block that may be without a date.
#[derive(Clone, Debug)]
struct Draft {
    case_id: String,
    section_id: String,
    entry_id: String,
    kind: LedgerKind,
    quantity: f64,
    date: Option<DateTime<Utc>>,
    user_defined_type: Option<String>,
}

impl LedgerBlocks {
    /// Whether the form has no ledger block at all.
    pub const fn is_empty(&self) -> bool {
        !self.has_blocks
    }

    /// The instructions; a block without a date is of the day on which HQ received the form.
    ///
    /// # Errors
    /// A block is in error, which fails the whole form.
    pub fn instructions(self, received_on: DateTime<Utc>) -> Result<Vec<LedgerInstruction>, LedgerError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let instruction = |draft: Draft| LedgerInstruction {
            case_id: draft.case_id,
            update: LedgerUpdate {
                section_id: draft.section_id,
                entry_id: draft.entry_id,
                kind: draft.kind,
                quantity: decimal_text(draft.quantity),
                report_date: draft.date.unwrap_or(received_on),
                user_defined_type: draft.user_defined_type,
            },
        };
        Ok(self.drafts.into_iter().map(instruction).collect())
    }

    /// Adds the block that was converted to this JSON.
    pub(crate) fn read(&mut self, element: LedgerElement, block: &Value) {
        self.has_blocks = true;
        if self.error.is_none() {
            self.error = self.read_block(element, block).err();
        }
    }

    fn read_block(&mut self, element: LedgerElement, block: &Value) -> Result<(), LedgerError> {
        let block = Block::read(element, block)?;
        for entry in several(block.object.get("entry")) {
            let entry = as_object(entry, "entry")?;
            let entry_id = attribute(entry, "@id");
            if let Some(section) = block.section {
                self.instruct(&block, Some(section), entry_id, attribute(entry, "@quantity"))?;
                continue;
            }
            for value in several(entry.get("value")) {
                let value = as_object(value, "value")?;
                let section = attribute(value, "@section-id");
                self.instruct(&block, section, entry_id, attribute(value, "@quantity"))?;
            }
        }
        Ok(())
    }

    /// What one section and entry of a block do; a quantity that is no number does nothing.
    fn instruct(
        &mut self,
        block: &Block<'_>,
        section: Option<&str>,
        entry_id: Option<&str>,
        quantity: Option<&str>,
    ) -> Result<(), LedgerError> {
        let Some(quantity) = quantity.and_then(python_float) else {
            return Ok(());
        };
        match block.element {
            LedgerElement::Balance if entry_id.is_none_or(str::is_empty) => Ok(()),
            LedgerElement::Balance => {
                let action = if quantity > 0.0 { "stockonhand" } else { "stockout" };
                let change = (LedgerKind::Balance, action, quantity);
                self.add(block, section, entry_id, block.entity, change)
            }
            LedgerElement::Transfer => {
                let is_named = |case_id: Option<&str>| case_id.is_some_and(|case_id| !case_id.is_empty());
                if !is_named(block.source) && !is_named(block.destination) {
                    return Ok(());
                }
                if block.source.is_some() {
                    let change = (LedgerKind::TransferOut, "consumption", quantity);
                    self.add(block, section, entry_id, block.source, change)?;
                }
                if block.destination.is_some() {
                    let change = (LedgerKind::TransferIn, "receipts", quantity);
                    self.add(block, section, entry_id, block.destination, change)?;
                }
                Ok(())
            }
        }
    }

    fn add(
        &mut self,
        block: &Block<'_>,
        section: Option<&str>,
        entry_id: Option<&str>,
        case_id: Option<&str>,
        (kind, action, quantity): (LedgerKind, &str, f64),
    ) -> Result<(), LedgerError> {
        if !quantity.is_finite() {
            return Err(LedgerError::NotFinite);
        }
        let case_id = case_id
            .filter(|case_id| !case_id.is_empty())
            .ok_or(LedgerError::MissingCaseId)?;
        let entry_id = entry_id
            .filter(|entry_id| !entry_id.is_empty())
            .ok_or(LedgerError::MissingEntryId)?;
        let section = section.ok_or(LedgerError::MissingSection)?;
        if self.drafts.len() >= MAX_LEDGER_INSTRUCTIONS {
            return Err(LedgerError::TooMany {
                maximum: MAX_LEDGER_INSTRUCTIONS,
            });
        }
        self.drafts.push(Draft {
            case_id: within(case_id, "a case id", MAX_ID_CHARS)?,
            section_id: within(section, "a section id", MAX_LEDGER_ID_CHARS)?,
            entry_id: within(entry_id, "an entry id", MAX_LEDGER_ID_CHARS)?,
            kind,
            quantity,
            date: block.date,
            user_defined_type: block
                .user_defined_type
                .filter(|name| !name.is_empty() && *name != action)
                .map(|name| name.chars().take(MAX_LEDGER_TYPE_CHARS).collect()),
        });
        Ok(())
    }
}

/// The elements that are ledger blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LedgerElement {
    Balance,
    Transfer,
}

impl LedgerElement {
    /// The ledger block that an element of this name and namespace begins.
    pub(crate) fn of(name: &str, namespace: Option<&str>) -> Option<Self> {
        let element = match name {
            "balance" => Self::Balance,
            "transfer" => Self::Transfer,
            _ => return None,
        };
        (namespace == Some(LEDGER_XMLNS)).then_some(element)
    }
}

/// What a block says of all its entries.
struct Block<'v> {
    element: LedgerElement,
    object: &'v Map<String, Value>,
    date: Option<DateTime<Utc>>,
    /// One section for the whole block; without it each entry names its own in its `value` elements.
    section: Option<&'v str>,
    entity: Option<&'v str>,
    source: Option<&'v str>,
    destination: Option<&'v str>,
    user_defined_type: Option<&'v str>,
}

impl<'v> Block<'v> {
    fn read(element: LedgerElement, block: &'v Value) -> Result<Self, LedgerError> {
        let name = match element {
            LedgerElement::Balance => "balance",
            LedgerElement::Transfer => "transfer",
        };
        let object = as_object(block, name)?;
        // HQ converts a block as if its parent were in the same namespace, so that a bare one is text to it.
        if object.keys().all(|key| matches!(key.as_str(), "@xmlns" | "#text")) {
            return Err(LedgerError::NotObject { what: name });
        }
        Ok(Self {
            element,
            object,
            date: block_date(attribute(object, "@date").unwrap_or_default())?,
            section: attribute(object, "@section-id").filter(|section| !section.is_empty()),
            entity: attribute(object, "@entity-id"),
            source: attribute(object, "@src"),
            destination: attribute(object, "@dest"),
            user_defined_type: attribute(object, "@type"),
        })
    }
}

/// A date or date-time as iso8601 reads it, in UTC; `None` for no text. Unlike the other date-times of a form these need
/// not match HQ's loose pattern.
fn block_date(text: &str) -> Result<Option<DateTime<Utc>>, LedgerError> {
    if text.is_empty() {
        return Ok(None);
    }
    let written = parse_iso8601(text).ok_or(LedgerError::InvalidDate)?;
    Ok(Some(written.utc()?.and_utc()))
}

/// The decimal that HQ makes of a finite float by way of the float's text.
fn decimal_text(quantity: f64) -> String {
    // Both Python and Rust write the fewest digits that give the same float again; Rust never uses an exponent.
    if quantity == 0.0 {
        "0".to_owned()
    } else {
        quantity.to_string()
    }
}

fn within(id: &str, what: &'static str, maximum: usize) -> Result<String, LedgerError> {
    if id.chars().nth(maximum).is_some() {
        return Err(LedgerError::TooLong { what, maximum });
    }
    Ok(id.to_owned())
}

/// One child, several of one name, or none.
fn several(value: Option<&Value>) -> &[Value] {
    match value {
        None => &[],
        Some(Value::Array(items)) => items,
        Some(single) => std::slice::from_ref(single),
    }
}

fn as_object<'v>(value: &'v Value, what: &'static str) -> Result<&'v Map<String, Value>, LedgerError> {
    value.as_object().ok_or(LedgerError::NotObject { what })
}

fn attribute<'v>(object: &'v Map<String, Value>, key: &str) -> Option<&'v str> {
    object.get(key).and_then(Value::as_str)
}

#[cfg(test)]
mod tests;
