//! What a patch does to ledgers.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate};
use serde_json::{Map, Value};

use super::{CannotPatch, DirectPatch, LedgerStock, PatchEffect};
use crate::diff::{Diff, DiffType, PathElement, Side};
use crate::patched::is_ledger_patchable;
use crate::record::RecordedDiff;

/// A `balance` element to be written.
#[derive(Clone, Debug)]
pub(super) struct Balance {
    pub(super) section_id: String,
    pub(super) entry_id: String,
    pub(super) date: NaiveDate,
    pub(super) quantity: String,
}

/// What is to be done to the ledgers of the case.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledgers {
    pub(super) balances: Vec<Balance>,
    pub(super) direct: Vec<DirectPatch>,
    pub(super) effects: Vec<PatchEffect>,
}

pub(super) fn plan(records: &[&RecordedDiff], stock: &HashMap<String, LedgerStock>) -> Result<Ledgers, CannotPatch> {
    let mut ledgers = Ledgers::default();
    for record in records {
        let ledger = record.ledger.as_deref().unwrap_or_default();
        let diff = &record.diff;
        let known = stock.get(ledger);
        if !is_ledger_patchable(diff, known.is_some_and(|stock| stock.state_changed.is_some())) {
            continue;
        }
        let refused = || CannotPatch::Ledger {
            ledger: ledger.to_owned(),
            path: diff.path_text(),
        };
        if is_at(diff, "daily_consumption") {
            let wanted = wanted_directly(diff).ok_or_else(refused)?;
            ledgers.effects.push(PatchEffect::SetConsumption(ledger.to_owned()));
            ledgers.direct.push(DirectPatch {
                ledger: ledger.to_owned(),
                daily_consumption: wanted.to_owned(),
            });
            continue;
        }
        let balance = wanted_balance(ledger, diff, known).ok_or_else(refused)?;
        ledgers.effects.push(PatchEffect::SetBalance {
            ledger: ledger.to_owned(),
            quantity: balance.quantity.clone(),
        });
        ledgers.balances.push(balance);
    }
    Ok(ledgers)
}

fn is_at(diff: &Diff, name: &'static str) -> bool {
    diff.path == [PathElement::key(name)]
}

/// A number, as text, that Couch has and SQL has null for.
fn wanted_directly(diff: &Diff) -> Option<&str> {
    match (&diff.old, &diff.new) {
        (Side::Value(Value::String(old)), Side::Value(Value::Null))
            if diff.diff_type == DiffType::Type && old.parse::<f64>().is_ok() =>
        {
            Some(old)
        }
        _ => None,
    }
}

/// The balance that Couch has: that of a ledger which differs, on the day of its state's last change, or that of a ledger
/// which SQL lacks.
fn wanted_balance(ledger: &str, diff: &Diff, stock: Option<&LedgerStock>) -> Option<Balance> {
    let (quantity, date) = if is_at(diff, "balance") {
        (diff.old.as_value()?, stock?.state_changed?.date_naive())
    } else {
        let lost = lost_ledger(diff)?;
        let changed = lost.get("last_modified").and_then(Value::as_str)?;
        let changed = DateTime::parse_from_rfc3339(changed).ok()?;
        (lost.get("balance")?, changed.to_utc().date_naive())
    };
    let Value::Number(quantity) = quantity else { return None };
    let (section_id, entry_id) = parts(ledger)?;
    Some(Balance {
        section_id: section_id.to_owned(),
        entry_id: entry_id.to_owned(),
        date,
        quantity: quantity.to_string(),
    })
}

/// The ledger as Couch shows it, where SQL has none.
fn lost_ledger(diff: &Diff) -> Option<&Map<String, Value>> {
    let object = |side: &Side, keys: &[&str]| {
        let object = side.as_value().and_then(Value::as_object);
        object.is_some_and(|object| object.len() == keys.len() && keys.iter().all(|key| object.contains_key(*key)))
    };
    let is_lost = diff.diff_type == DiffType::Missing
        && is_at(diff, "*")
        && object(&diff.old, &["form_state", "ledger"])
        && object(&diff.new, &["form_state"]);
    let old = diff.old.as_value().filter(|_| is_lost)?;
    old.get("ledger").and_then(Value::as_object)
}

/// Section and entry of `case/section/entry`.
fn parts(ledger: &str) -> Option<(&str, &str)> {
    let (rest, entry_id) = ledger.rsplit_once('/')?;
    let (_, section_id) = rest.rsplit_once('/')?;
    Some((section_id, entry_id))
}
