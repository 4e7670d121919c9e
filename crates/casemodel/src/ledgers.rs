//! The ledgers of a case: running balances, and what each form did to them.
//!
//! A ledger is a (section, entry) of the case. Its balance is a whole number in the tables. Within one form HQ computes
//! with decimals and cuts them off only when it saves, so that two halves in one form make a whole, and in two forms
//! nothing; it is the same here.

use std::collections::BTreeMap;

use proto::effects::{FormEffects, FormFacts, LedgerKind, LedgerUpdate};
use proto::rows::{LedgerTransactionRow, LedgerValueRow, RejectReason};

use crate::columns;
use crate::quantity::Quantity;

/// A balance was set.
const BALANCE: i16 = 1;
/// Something was taken from it or added to it.
const TRANSFER: i16 = 2;

/// Width of section, entry and form id in HQ's ledger tables.
const MAX_KEY: usize = 100;
/// Width of the user-defined type, to which HQ cuts it.
const MAX_USER_TYPE: usize = 20;

/// Section and entry.
type Reference<'a> = (&'a str, &'a str);

/// The ledgers after some forms.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledgers {
    /// By section and entry.
    values: BTreeMap<(String, String), LedgerValueRow>,
    /// In replay order.
    transactions: Vec<LedgerTransactionRow>,
}

/// What one form does to the ledgers.
#[derive(Debug, Default)]
pub(crate) struct FormLedgers {
    values: Vec<LedgerValueRow>,
    transactions: Vec<LedgerTransactionRow>,
}

impl Ledgers {
    /// What the form does: its instructions in their order, each on the balance that the one before it left.
    pub(crate) fn of_form(&self, effects: &FormEffects) -> Result<FormLedgers, RejectReason> {
        let form = &effects.form;
        let mut changes = FormLedgers::default();
        if effects.ledgers.is_empty() {
            return Ok(changes);
        }
        columns::fits_within(form.form_id.as_str(), MAX_KEY)?;
        let mut running: BTreeMap<Reference<'_>, Quantity> = BTreeMap::new();
        for update in &effects.ledgers {
            columns::fits_within(&update.section_id, MAX_KEY)?;
            columns::fits_within(&update.entry_id, MAX_KEY)?;
            let reference = (update.section_id.as_str(), update.entry_id.as_str());
            let before = match running.get(&reference) {
                Some(balance) => balance.clone(),
                None => Quantity::from(self.balance(reference)),
            };
            let quantity = Quantity::parse(&update.quantity).ok_or(RejectReason::BadValue)?;
            let after = match update.kind {
                LedgerKind::Balance => quantity,
                LedgerKind::TransferIn => before.plus(&quantity),
                LedgerKind::TransferOut => before.minus(&quantity),
            };
            changes.transactions.push(transaction(form, update, &before, &after)?);
            running.insert(reference, after);
        }
        for ((section_id, entry_id), balance) in running {
            changes.values.push(LedgerValueRow {
                entry_id: entry_id.to_owned(),
                section_id: section_id.to_owned(),
                balance: i32::try_from(whole(&balance)?).map_err(|_| RejectReason::ValueTooLong)?,
                last_modified: form.received_on,
                last_modified_form_id: Some(form.form_id.as_str().to_owned()),
            });
        }
        Ok(changes)
    }

    fn balance(&self, (section_id, entry_id): Reference<'_>) -> i32 {
        // A tuple of owned texts cannot be looked up by borrowed ones.
        let key = (section_id.to_owned(), entry_id.to_owned());
        self.values.get(&key).map_or(0, |value| value.balance)
    }

    /// Takes in what a form did.
    pub(crate) fn save(&mut self, changes: FormLedgers) {
        for value in changes.values {
            let key = (value.section_id.clone(), value.entry_id.clone());
            self.values.insert(key, value);
        }
        self.transactions.extend(changes.transactions);
    }

    /// The ledgers as HQ's rebuild computes them from the saved transactions, in order of their report dates: a balance
    /// says what it said, a transfer adds what it added, and the rest follows from these. Who changed a ledger last stays.
    /// None when a number leaves its column.
    pub(crate) fn recomputed(mut self) -> Option<Self> {
        let mut order: Vec<usize> = (0..self.transactions.len()).collect();
        order.sort_by_key(|&place| self.transactions[place].report_date);
        let mut running: BTreeMap<(String, String), i64> = BTreeMap::new();
        for place in order {
            let row = &mut self.transactions[place];
            let balance = running
                .entry((row.section_id.clone(), row.entry_id.clone()))
                .or_default();
            if row.kind == TRANSFER {
                row.updated_balance = balance.checked_add(row.delta)?;
            } else {
                row.delta = row.updated_balance.checked_sub(*balance)?;
            }
            *balance = row.updated_balance;
        }
        for (reference, balance) in running {
            self.values.get_mut(&reference)?.balance = i32::try_from(balance).ok()?;
        }
        Some(self)
    }

    /// Ledgers with these balances, without the transactions that made them.
    pub(crate) fn of_values(values: Vec<LedgerValueRow>) -> Self {
        let keyed = values
            .into_iter()
            .map(|value| ((value.section_id.clone(), value.entry_id.clone()), value));
        Self {
            values: keyed.collect(),
            transactions: Vec::new(),
        }
    }

    /// The balances, by section and entry.
    pub(crate) fn values(&self) -> Vec<LedgerValueRow> {
        self.values.values().cloned().collect()
    }

    /// The rows, values by section and entry.
    pub(crate) fn into_rows(self) -> (Vec<LedgerValueRow>, Vec<LedgerTransactionRow>) {
        (self.values.into_values().collect(), self.transactions)
    }
}

fn transaction(
    form: &FormFacts,
    update: &LedgerUpdate,
    before: &Quantity,
    after: &Quantity,
) -> Result<LedgerTransactionRow, RejectReason> {
    let user_type = update.user_defined_type.as_deref().filter(|text| !text.is_empty());
    let user_type = user_type.map(|text| columns::cut_to(text, MAX_USER_TYPE));
    columns::fits_option(user_type)?;
    Ok(LedgerTransactionRow {
        form_id: form.form_id.as_str().to_owned(),
        server_date: form.received_on,
        report_date: update.report_date,
        kind: match update.kind {
            LedgerKind::Balance => BALANCE,
            LedgerKind::TransferIn | LedgerKind::TransferOut => TRANSFER,
        },
        entry_id: update.entry_id.clone(),
        section_id: update.section_id.clone(),
        user_defined_type: user_type.map(str::to_owned),
        delta: whole(&after.minus(before))?,
        updated_balance: whole(after)?,
    })
}

fn whole(quantity: &Quantity) -> Result<i64, RejectReason> {
    quantity.whole().ok_or(RejectReason::ValueTooLong)
}
