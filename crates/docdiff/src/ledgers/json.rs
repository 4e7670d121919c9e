//! Ledgers as the JSON that HQ makes of them. All keys are always there.

use chrono::{DateTime, Utc};
use proto::rows::LedgerValueRow;
use proto::stock::{LedgerRef, StockStateRow, StockTransactionRow};
use serde_json::{Value, json};

use super::CaseLedgers;
use crate::sqljson::date;

/// A value of SQL.
pub(super) fn of_value(case: &CaseLedgers<'_>, ledger: &LedgerRef, value: &LedgerValueRow) -> Value {
    json!({
        "_id": ledger.to_string(),
        "domain": case.foreign.get(ledger).map_or(case.sql_domain, String::as_str),
        "case_id": ledger.case_id,
        "section_id": ledger.section_id,
        "entry_id": ledger.entry_id,
        "balance": value.balance,
        "last_modified": date(value.last_modified),
        "last_modified_form_id": value.last_modified_form_id,
        "daily_consumption": case.consumptions.get(ledger),
        "location_id": case.location_id,
    })
}

/// A state of Couch's side. A state that is linked to no location has a `location_id` of null.
pub(super) fn of_state(case: &CaseLedgers<'_>, state: &StockStateRow) -> Value {
    let shown = Shown {
        id: Value::from(state.id.to_string()),
        domain: state.domain.as_deref(),
        stock_on_hand: &state.stock_on_hand,
        last_modified: Some(state.last_modified_date),
        form_id: state.last_modified_form_id.as_deref(),
        daily_consumption: state.daily_consumption.as_deref(),
        location_id: state.location_id.as_deref(),
    };
    shown.json(case, &state.ledger)
}

/// The state that a ledger's latest transaction would have left behind.
pub(super) fn of_transaction(case: &CaseLedgers<'_>, transaction: &StockTransactionRow) -> Value {
    let shown = Shown {
        id: Value::Null,
        domain: None,
        stock_on_hand: &transaction.stock_on_hand,
        last_modified: transaction.server_date,
        form_id: Some(&transaction.form_id),
        daily_consumption: None,
        location_id: case.location_id,
    };
    shown.json(case, &transaction.ledger)
}

/// What a state shows beside the names of its ledger.
struct Shown<'a> {
    id: Value,
    domain: Option<&'a str>,
    stock_on_hand: &'a str,
    last_modified: Option<DateTime<Utc>>,
    form_id: Option<&'a str>,
    daily_consumption: Option<&'a str>,
    location_id: Option<&'a str>,
}

impl Shown<'_> {
    fn json(self, case: &CaseLedgers<'_>, ledger: &LedgerRef) -> Value {
        json!({
            "_id": self.id,
            "domain": self.domain.unwrap_or(case.couch_domain),
            "case_id": ledger.case_id,
            "section_id": ledger.section_id,
            "entry_id": ledger.entry_id,
            "balance": whole(self.stock_on_hand),
            "last_modified": self.last_modified.map(date),
            "last_modified_form_id": self.form_id,
            "daily_consumption": self.daily_consumption,
            "location_id": self.location_id,
        })
    }
}

/// The whole part of a decimal number, towards zero. Text that is no number stays, and so differs from every balance.
pub(super) fn whole(decimal: &str) -> Value {
    let whole = decimal.split_once('.').map_or(decimal, |(whole, _)| whole);
    whole.parse::<i64>().map_or_else(|_| Value::from(decimal), Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_cut_towards_zero() {
        for (decimal, expected) in [
            ("7.50000", json!(7)),
            ("-7.50000", json!(-7)),
            ("-0.99999", json!(0)),
            ("0.00000", json!(0)),
            ("4", json!(4)),
            ("999999999999999.00000", json!(999_999_999_999_999_i64)),
            ("NaN", json!("NaN")),
        ] {
            assert_eq!(whole(decimal), expected, "{decimal}");
        }
    }
}
