//! The ledger rows that processed forms leave in SQL: forms in their order, one balance per ledger.

use std::collections::BTreeMap;

use crate::case::in_order;
use crate::form::Form;
use crate::ledger::{Movement, Quantity};
use crate::model::{ExpectedLedgerTransaction, ExpectedLedgerValue};

/// Ledger rows of one case.
#[derive(Debug, Default)]
pub(crate) struct LedgerRows {
    pub(crate) values: Vec<ExpectedLedgerValue>,
    pub(crate) transactions: Vec<ExpectedLedgerTransaction>,
}

/// Characters of a sub-type that its column holds.
pub(crate) const SUBTYPE_WIDTH: usize = 20;

/// Ledger rows by case.
pub(crate) fn ledger_rows<'a>(
    domain: &str,
    forms: impl IntoIterator<Item = &'a Form>,
) -> BTreeMap<&'a str, LedgerRows> {
    let mut cases: BTreeMap<&str, LedgerRows> = BTreeMap::new();
    for form in in_order(forms) {
        // Within a form fractions count; what is stored is whole.
        let mut running: BTreeMap<(&str, &str, &str), Quantity> = BTreeMap::new();
        for (ledger, steps) in form.ledger_steps() {
            for step in steps {
                let rows = cases.entry(step.case_id).or_default();
                let place = rows
                    .values
                    .iter()
                    .position(|row| row.section_id == step.section && row.entry_id == step.product);
                let stored = place.map_or(0, |place| rows.values[place].balance);
                let balance = running
                    .entry((step.case_id, step.section, step.product))
                    .or_insert(Quantity::whole(i64::from(stored)));
                let before = *balance;
                (*balance, _) = step.apply(before);
                let after = *balance;
                rows.transactions.push(ExpectedLedgerTransaction {
                    section_id: step.section.to_owned(),
                    entry_id: step.product.to_owned(),
                    form_id: form.id.clone(),
                    server_date: form.received_on,
                    report_date: ledger.reported(form.received_on),
                    kind: match ledger.movement {
                        Movement::Balance { .. } => 1,
                        Movement::Transfer { .. } => 2,
                    },
                    user_defined_type: step
                        .subtype
                        .map(|subtype| subtype.chars().take(SUBTYPE_WIDTH).collect()),
                    delta: (after - before).trunc(),
                    updated_balance: after.trunc(),
                });
                let value = ExpectedLedgerValue {
                    section_id: step.section.to_owned(),
                    entry_id: step.product.to_owned(),
                    domain: domain.to_owned(),
                    balance: i32::try_from(after.trunc()).unwrap_or(i32::MAX),
                    last_modified: form.received_on,
                    last_modified_form_id: Some(form.id.clone()),
                    daily_consumption: None,
                };
                match place {
                    Some(place) => rows.values[place] = value,
                    None => rows.values.push(value),
                }
            }
        }
    }
    cases
}
