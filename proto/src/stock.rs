//! What HQ keeps of stock beside Couch's forms and cases: rows of its stock tables, as plain values.

use std::fmt;

use chrono::{DateTime, Utc};

/// Names a ledger: a balance of one product in one section of one case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LedgerRef {
    /// Case.
    pub case_id: String,
    /// Section, usually `stock`.
    pub section_id: String,
    /// Entry: the product.
    pub entry_id: String,
}

/// As HQ writes it: `case/section/entry`.
impl fmt::Display for LedgerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.case_id, self.section_id, self.entry_id)
    }
}

/// A row of `commtrack_stockstate`: what Couch's side says of a ledger now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StockStateRow {
    /// Primary key.
    pub id: i64,
    /// Which ledger.
    pub ledger: LedgerRef,
    /// Balance, a decimal number as PostgreSQL writes it.
    pub stock_on_hand: String,
    /// Daily consumption, likewise.
    pub daily_consumption: Option<String>,
    /// When the form that changed it last was received.
    pub last_modified_date: DateTime<Utc>,
    /// That form.
    pub last_modified_form_id: Option<String>,
    /// `location_id` of the location that the row is linked to.
    pub location_id: Option<String>,
    /// Domain of the case, where the table that maps documents to domains knows it.
    pub domain: Option<String>,
}

/// A row of `stock_stocktransaction` with what its report says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StockTransactionRow {
    /// Which ledger.
    pub ledger: LedgerRef,
    /// Form of the report.
    pub form_id: String,
    /// `stockonhand`, `stockout`, `receipts` or `consumption`.
    pub kind: String,
    /// When the report's form was received.
    pub server_date: Option<DateTime<Utc>>,
    /// Change, a decimal number as PostgreSQL writes it.
    pub quantity: Option<String>,
    /// Balance after it, likewise.
    pub stock_on_hand: String,
}

/// A form and a ledger with several stock transactions of one type of report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepeatedReport {
    /// Which ledger.
    pub ledger: LedgerRef,
    /// Form of the reports.
    pub form_id: String,
    /// `balance` or `transfer`.
    pub report_type: String,
    /// How many transactions; more than one.
    pub transactions: u64,
}
