//! Rows of HQ's stock tables: what the Couch era kept of ledgers, in the main database.
//!
//! Ids count from 1 within a domain. Whoever stores the rows of several domains in one database has to move them.

use chrono::{DateTime, Utc};

pub use crate::ledger::Quantity;

/// A row of `products_sqlproduct`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns of HQ's table, by their names")]
pub struct Product {
    pub id: i32,
    pub domain: String,
    pub product_id: String,
    pub name: String,
    pub code: String,
    pub is_archived: bool,
    pub created_at: DateTime<Utc>,
}

/// A row of `locations_sqllocation`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns of HQ's table, by their names")]
pub struct Location {
    pub id: i32,
    pub domain: String,
    pub location_id: String,
    pub name: String,
    pub site_code: String,
    pub is_archived: bool,
    pub created_at: DateTime<Utc>,
    pub parent_id: Option<i32>,
    /// The case of the location.
    pub supply_point_id: Option<String>,
}

/// A row of `stock_stockreport`: one ledger block of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns of HQ's table, by their names")]
pub struct StockReport {
    pub id: i32,
    pub form_id: String,
    pub date: DateTime<Utc>,
    /// `balance` or `transfer`.
    pub kind: &'static str,
    pub domain: Option<String>,
    pub server_date: Option<DateTime<Utc>>,
}

/// A row of `stock_stocktransaction`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns of HQ's table, by their names")]
pub struct StockTransaction {
    pub id: i32,
    pub report_id: i32,
    pub sql_product_id: i32,
    pub section_id: String,
    pub case_id: String,
    pub product_id: String,
    /// `stockonhand`, `stockout`, `consumption` or `receipts`.
    pub kind: &'static str,
    pub subtype: Option<String>,
    pub quantity: Option<Quantity>,
    pub stock_on_hand: Quantity,
}

/// A row of `commtrack_stockstate`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns of HQ's table, by their names")]
pub struct StockState {
    pub id: i32,
    pub section_id: String,
    pub case_id: String,
    pub product_id: String,
    pub stock_on_hand: Quantity,
    pub daily_consumption: Option<Quantity>,
    pub last_modified_date: DateTime<Utc>,
    pub last_modified_form_id: Option<String>,
    pub sql_product_id: i32,
    pub sql_location_id: Option<i32>,
}

impl StockState {
    /// The ledger's name in reports: case, section and product.
    pub fn reference(&self) -> String {
        format!("{}/{}/{}", self.case_id, self.section_id, self.product_id)
    }
}

/// A row of `stock_docdomainmapping`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns of HQ's table, by their names")]
pub struct DocDomain {
    pub doc_id: String,
    pub doc_type: &'static str,
    pub domain_name: String,
}

/// Rows of all stock tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the tables, by their names")]
pub struct StockRows {
    pub products: Vec<Product>,
    pub locations: Vec<Location>,
    pub reports: Vec<StockReport>,
    pub transactions: Vec<StockTransaction>,
    pub states: Vec<StockState>,
    pub doc_domains: Vec<DocDomain>,
}

impl StockRows {
    /// Takes in the rows of another part of the same domain.
    pub fn absorb(&mut self, other: Self) {
        self.products.extend(other.products);
        self.locations.extend(other.locations);
        self.reports.extend(other.reports);
        self.transactions.extend(other.transactions);
        self.states.extend(other.states);
        self.doc_domains.extend(other.doc_domains);
    }

    /// Rows of all tables together.
    pub fn len(&self) -> usize {
        self.products.len()
            + self.locations.len()
            + self.reports.len()
            + self.transactions.len()
            + self.states.len()
            + self.doc_domains.len()
    }

    /// Whether there is none, as in a domain without stock.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
