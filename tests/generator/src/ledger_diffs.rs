//! Where Couch's stock and the ledgers in SQL must be reported to differ.
//!
//! The state of Couch follows the latest report date, the ledger in SQL the form processed last; a report that comes late
//! makes them differ, and an edit long afterwards may.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Value, json};

use crate::model::Model;
use crate::moment::couch_time;
use crate::stock::{StockRows, StockState};

/// One difference of one ledger.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LedgerDiff {
    /// The case, whose record in the reports holds the difference.
    pub case_id: String,
    /// `case/section/product`.
    pub reference: String,
    /// The column, or `*` for the whole ledger.
    pub path: &'static str,
    /// Couch's value; times as Couch writes them.
    pub old: Value,
    /// The value in SQL.
    pub new: Value,
    /// Set for a change, which is explained; without it, it is a diff.
    pub reason: Option<&'static str>,
}

/// All differences between the stock tables and the ledgers of a model, where each ledger has a state and each state a
/// ledger.
pub(crate) fn ledger_diffs(stock: &StockRows, model: &Model, archived_products: &BTreeSet<String>) -> Vec<LedgerDiff> {
    let states: BTreeMap<(&str, &str, &str), &StockState> = stock
        .states
        .iter()
        .map(|state| {
            let key = (
                state.case_id.as_str(),
                state.section_id.as_str(),
                state.product_id.as_str(),
            );
            (key, state)
        })
        .collect();
    let archived_locations: BTreeSet<i32> = stock
        .locations
        .iter()
        .filter(|location| location.is_archived)
        .map(|location| location.id)
        .collect();
    let mut diffs = Vec::new();
    for case in model.cases.values() {
        let mut values: Vec<_> = case.ledger_values.iter().collect();
        values.sort();
        for value in values {
            let key = (
                case.case_id.as_str(),
                value.section_id.as_str(),
                value.entry_id.as_str(),
            );
            let Some(state) = states.get(&key) else { continue };
            // What is archived is looked up among the transactions, which say nothing of consumption.
            let hidden = archived_products.contains(&value.entry_id)
                || state.sql_location_id.is_some_and(|id| archived_locations.contains(&id));
            let consumption = state.daily_consumption.filter(|_| !hidden);
            let columns = [
                ("balance", json!(state.stock_on_hand.trunc()), json!(value.balance)),
                (
                    "daily_consumption",
                    json!(consumption.map(|quantity| quantity.to_string())),
                    Value::Null,
                ),
                (
                    "last_modified",
                    json!(couch_time(state.last_modified_date)),
                    json!(couch_time(value.last_modified)),
                ),
                (
                    "last_modified_form_id",
                    json!(state.last_modified_form_id),
                    json!(value.last_modified_form_id),
                ),
            ];
            for (path, old, new) in columns.into_iter().filter(|(_, old, new)| old != new) {
                diffs.push(LedgerDiff {
                    case_id: case.case_id.clone(),
                    reference: state.reference(),
                    path,
                    old,
                    new,
                    reason: None,
                });
            }
        }
    }
    diffs
}
