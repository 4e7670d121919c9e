//! Damage to the stock tables of a generated supply chain, of which the migration must report exactly what was hurt.
//!
//! Each function hurts one ledger that was whole, by the seed of its choice, and says what must be reported of it. Ledgers
//! that `spared` names stay as they are, so that several kinds of damage do not meet.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::ledger::Quantity;
use crate::ledger_diffs::LedgerDiff;
use crate::model::{ExpectedCase, ExpectedLedgerValue};
use crate::stock::{StockReport, StockState, StockTransaction};
use crate::stream::GeneratedDomain;

/// What must be reported after some damage.
#[derive(Clone, Debug, PartialEq)]
pub struct Hurt {
    /// The ledger, as `case/section/product`.
    pub reference: String,
    /// Everything reported of it; nothing if the damage does not matter.
    pub diffs: Vec<LedgerDiff>,
}

/// The reason of a change when neither state nor transaction is left in Couch, though the form is there.
pub const MISSING_TRANSACTION: &str = "missing couch stock transaction";
/// The reason of a change when a transaction is there more often than its form says.
pub const DUPLICATE_TRANSACTION: &str = "duplicate stock transaction";

/// Changes the balance of a state.
pub fn change_balance(domain: &mut GeneratedDomain, seed: u64, spared: &BTreeSet<String>) -> Option<Hurt> {
    let mut rng = StdRng::seed_from_u64(seed);
    let place = choose(domain, &mut rng, spared, |_, _| true)?;
    let state = domain.stock.states.get_mut(place)?;
    let before = state.stock_on_hand;
    state.stock_on_hand = before + Quantity::whole(rng.random_range(1..50));
    let (old, new) = (json!(state.stock_on_hand.trunc()), json!(before.trunc()));
    Some(hurt(state, vec![("balance", old, new, None)]))
}

/// Changes the form that a state was changed by last.
pub fn change_last_form(domain: &mut GeneratedDomain, seed: u64, spared: &BTreeSet<String>) -> Option<Hurt> {
    let mut rng = StdRng::seed_from_u64(seed);
    let place = choose(domain, &mut rng, spared, |_, _| true)?;
    let state = domain.stock.states.get_mut(place)?;
    let before = state.last_modified_form_id.replace(format!("damaged-{seed}"));
    let old = json!(state.last_modified_form_id);
    Some(hurt(state, vec![("last_modified_form_id", old, json!(before), None)]))
}

/// Gives a state a daily consumption.
pub fn set_consumption(domain: &mut GeneratedDomain, seed: u64, spared: &BTreeSet<String>) -> Option<Hurt> {
    let mut rng = StdRng::seed_from_u64(seed);
    let place = choose(domain, &mut rng, spared, |_, _| true)?;
    let state = domain.stock.states.get_mut(place)?;
    let consumption = Quantity::of_parts(rng.random_range(1..1_000_000));
    state.daily_consumption = Some(consumption);
    let old = json!(consumption.to_string());
    Some(hurt(state, vec![("daily_consumption", old, Value::Null, None)]))
}

/// Drops a state; its transactions tell the same.
pub fn drop_state(domain: &mut GeneratedDomain, seed: u64, spared: &BTreeSet<String>) -> Option<Hurt> {
    let mut rng = StdRng::seed_from_u64(seed);
    let place = choose(domain, &mut rng, spared, |_, _| true)?;
    let state = domain.stock.states.remove(place);
    Some(hurt(&state, Vec::new()))
}

/// Drops a state with its transactions: SQL has the ledger alone. The form that changed it last is there in both, which
/// makes that a change.
pub fn drop_state_and_transactions(domain: &mut GeneratedDomain, seed: u64, spared: &BTreeSet<String>) -> Option<Hurt> {
    let mut rng = StdRng::seed_from_u64(seed);
    let place = choose(domain, &mut rng, spared, |_, _| true)?;
    let state = domain.stock.states.remove(place);
    domain.stock.transactions.retain(|row| !is_of(row, &state));
    let old = json!({"form_state": "present"});
    let new = json!({"form_state": "present"});
    Some(hurt(&state, vec![("*", old, new, Some(MISSING_TRANSACTION))]))
}

/// Adds a state of a product that no form told of: Couch has the ledger alone.
pub fn add_state(domain: &mut GeneratedDomain, seed: u64, spared: &BTreeSet<String>) -> Option<Hurt> {
    let mut rng = StdRng::seed_from_u64(seed);
    let place = choose(domain, &mut rng, spared, |_, _| true)?;
    let mut state = domain.stock.states.get(place)?.clone();
    state.id = domain.stock.states.iter().map(|state| state.id).max()? + 1;
    state.section_id = format!("damaged-{seed}");
    domain.stock.states.push(state.clone());
    let old = json!({"form_state": "present"});
    let new = json!({"form_state": "present"});
    Some(hurt(&state, vec![("*", old, new, None)]))
}

/// Notes the last transfer of a ledger twice, so that Couch counts it double.
pub fn duplicate_transaction(domain: &mut GeneratedDomain, seed: u64, spared: &BTreeSet<String>) -> Option<Hurt> {
    let mut rng = StdRng::seed_from_u64(seed);
    let reports: BTreeMap<i32, &StockReport> = domain.stock.reports.iter().map(|report| (report.id, report)).collect();
    let mut latest: BTreeMap<String, &StockTransaction> = BTreeMap::new();
    for row in &domain.stock.transactions {
        let rank = |row: &StockTransaction| (reports.get(&row.report_id).map(|report| report.date), row.id);
        let place = latest.entry(reference(row)).or_insert(row);
        if rank(place) < rank(row) {
            *place = row;
        }
    }
    let moved: BTreeMap<String, StockTransaction> = latest
        .into_iter()
        .filter(|(_, row)| {
            matches!(row.kind, "receipts" | "consumption") && row.quantity.is_some_and(|quantity| quantity.trunc() != 0)
        })
        .map(|(reference, row)| (reference, row.clone()))
        .collect();
    let place = choose(domain, &mut rng, spared, |state, _| {
        moved.contains_key(&state.reference())
    })?;
    let next = domain.stock.transactions.iter().map(|row| row.id).max()? + 1;
    let state = domain.stock.states.get_mut(place)?;
    let mut row = moved.get(&state.reference())?.clone();
    let before = state.stock_on_hand;
    row.id = next;
    row.stock_on_hand = before + row.quantity.unwrap_or_default();
    state.stock_on_hand = row.stock_on_hand;
    let (old, new) = (json!(state.stock_on_hand.trunc()), json!(before.trunc()));
    let hurt = hurt(state, vec![("balance", old, new, Some(DUPLICATE_TRANSACTION))]);
    domain.stock.transactions.push(row);
    Some(hurt)
}

/// A whole ledger, for damage on the other side: its case, its value in SQL.
pub fn whole_ledger(
    domain: &GeneratedDomain,
    seed: u64,
    spared: &BTreeSet<String>,
) -> Option<(String, ExpectedLedgerValue)> {
    let mut rng = StdRng::seed_from_u64(seed);
    let place = choose(domain, &mut rng, spared, |_, _| true)?;
    let state = domain.stock.states.get(place)?;
    let value = value_of(domain.model.cases.get(&state.case_id)?, state)?;
    Some((state.case_id.clone(), value.clone()))
}

fn choose(
    domain: &GeneratedDomain,
    rng: &mut StdRng,
    spared: &BTreeSet<String>,
    suits: impl Fn(&StockState, &ExpectedLedgerValue) -> bool,
) -> Option<usize> {
    let differing: BTreeSet<&str> = domain
        .model
        .ledger_diffs
        .iter()
        .map(|diff| diff.reference.as_str())
        .collect();
    let archived_products: BTreeSet<i32> = domain
        .stock
        .products
        .iter()
        .filter(|product| product.is_archived)
        .map(|product| product.id)
        .collect();
    let archived_locations: BTreeSet<i32> = domain
        .stock
        .locations
        .iter()
        .filter(|location| location.is_archived)
        .map(|location| location.id)
        .collect();
    let mut places = Vec::new();
    for (place, state) in domain.stock.states.iter().enumerate() {
        let reference = state.reference();
        let visible = !archived_products.contains(&state.sql_product_id)
            && state.sql_location_id.is_none_or(|id| !archived_locations.contains(&id));
        let value = domain
            .model
            .cases
            .get(&state.case_id)
            .and_then(|case| value_of(case, state));
        if visible
            && !spared.contains(&reference)
            && !differing.contains(reference.as_str())
            && value.is_some_and(|value| suits(state, value))
        {
            places.push(place);
        }
    }
    places.choose(rng).copied()
}

fn value_of<'a>(case: &'a ExpectedCase, state: &StockState) -> Option<&'a ExpectedLedgerValue> {
    case.ledger_values
        .iter()
        .find(|value| value.section_id == state.section_id && value.entry_id == state.product_id)
}

fn reference(row: &StockTransaction) -> String {
    format!("{}/{}/{}", row.case_id, row.section_id, row.product_id)
}

fn is_of(row: &StockTransaction, state: &StockState) -> bool {
    row.case_id == state.case_id && row.section_id == state.section_id && row.product_id == state.product_id
}

type Difference = (&'static str, Value, Value, Option<&'static str>);

fn hurt(state: &StockState, differences: Vec<Difference>) -> Hurt {
    let reference = state.reference();
    let diffs = differences
        .into_iter()
        .map(|(path, old, new, reason)| LedgerDiff {
            case_id: state.case_id.clone(),
            reference: reference.clone(),
            path,
            old,
            new,
            reason,
        })
        .collect();
    Hurt { reference, diffs }
}
