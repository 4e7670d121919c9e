//! Storing rows of HQ's stock tables by COPY, as the Couch era left them.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::SinkExt;
use tokio_postgres::{Client, Error};

use super::copy_text;
use crate::stock::{Quantity, StockRows};

/// How far the ids of a domain's rows are moved, so that they stand beside those of others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offsets {
    products: i32,
    locations: i32,
    reports: i32,
    transactions: i32,
    states: i32,
}

impl Offsets {
    /// Behind all rows that the database has. A domain has the same offsets for all of its pieces.
    ///
    /// # Errors
    /// Whatever the database refuses.
    pub async fn behind_all(client: &Client) -> Result<Self, Error> {
        let row = client.query_one(LAST_IDS, &[]).await?;
        Ok(Self {
            products: row.try_get(0)?,
            locations: row.try_get(1)?,
            reports: row.try_get(2)?,
            transactions: row.try_get(3)?,
            states: row.try_get(4)?,
        })
    }
}

/// Stores the rows of a domain, or of a piece of it. Returns their number.
///
/// # Errors
/// Whatever the database refuses.
pub async fn load(client: &Client, rows: &StockRows, offsets: Offsets) -> Result<u64, Error> {
    let products = rows.products.iter().map(|row| {
        vec![
            moved(row.id, offsets.products),
            copy_text(&row.domain),
            copy_text(&row.product_id),
            copy_text(&row.name),
            flag(row.is_archived),
            copy_text(&row.code),
            String::new(),
            String::new(),
            String::new(),
            null(),
            String::new(),
            "{}".to_owned(),
            time(row.created_at),
            time(row.created_at),
        ]
    });
    let locations = rows.locations.iter().map(|row| {
        vec![
            moved(row.id, offsets.locations),
            copy_text(&row.domain),
            copy_text(&row.name),
            copy_text(&row.location_id),
            // The type is of another table, which nothing here reads.
            "1".to_owned(),
            copy_text(&row.site_code),
            "{}".to_owned(),
            time(row.created_at),
            time(row.created_at),
            flag(row.is_archived),
            row.parent_id.map_or_else(null, |id| moved(id, offsets.locations)),
            flag(true),
            text(row.supply_point_id.as_deref()),
            String::new(),
        ]
    });
    let reports = rows.reports.iter().map(|row| {
        vec![
            moved(row.id, offsets.reports),
            copy_text(&row.form_id),
            time(row.date),
            row.kind.to_owned(),
            text(row.domain.as_deref()),
            row.server_date.map_or_else(null, time),
        ]
    });
    let transactions = rows.transactions.iter().map(|row| {
        vec![
            moved(row.id, offsets.transactions),
            moved(row.report_id, offsets.reports),
            moved(row.sql_product_id, offsets.products),
            copy_text(&row.section_id),
            copy_text(&row.case_id),
            copy_text(&row.product_id),
            row.kind.to_owned(),
            text(row.subtype.as_deref()),
            number(row.quantity),
            number(Some(row.stock_on_hand)),
        ]
    });
    let states = rows.states.iter().map(|row| {
        vec![
            moved(row.id, offsets.states),
            copy_text(&row.section_id),
            copy_text(&row.case_id),
            copy_text(&row.product_id),
            number(Some(row.stock_on_hand)),
            number(row.daily_consumption),
            time(row.last_modified_date),
            text(row.last_modified_form_id.as_deref()),
            moved(row.sql_product_id, offsets.products),
            row.sql_location_id.map_or_else(null, |id| moved(id, offsets.locations)),
        ]
    });
    let doc_domains = rows.doc_domains.iter().map(|row| {
        vec![
            copy_text(&row.doc_id),
            row.doc_type.to_owned(),
            copy_text(&row.domain_name),
        ]
    });
    Ok(copy(client, COPY_PRODUCTS, products).await?
        + copy(client, COPY_LOCATIONS, locations).await?
        + copy(client, COPY_REPORTS, reports).await?
        + copy(client, COPY_TRANSACTIONS, transactions).await?
        + copy(client, COPY_STATES, states).await?
        + copy(client, COPY_DOC_DOMAINS, doc_domains).await?)
}

/// Lines gathered before they are sent.
const LINES_AT_ONCE: usize = 2000;

async fn copy(client: &Client, statement: &str, rows: impl Iterator<Item = Vec<String>>) -> Result<u64, Error> {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return Ok(0);
    }
    let sink = client.copy_in(statement).await?;
    let mut sink = std::pin::pin!(sink);
    while rows.peek().is_some() {
        let mut lines = String::new();
        for fields in rows.by_ref().take(LINES_AT_ONCE) {
            lines.push_str(&fields.join("\t"));
            lines.push('\n');
        }
        sink.send(Bytes::from(lines)).await?;
    }
    sink.as_mut().finish().await
}

fn moved(id: i32, offset: i32) -> String {
    (id + offset).to_string()
}

fn null() -> String {
    "\\N".to_owned()
}

fn flag(value: bool) -> String {
    if value { "t" } else { "f" }.to_owned()
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339()
}

fn text(text: Option<&str>) -> String {
    text.map_or_else(null, copy_text)
}

fn number(quantity: Option<Quantity>) -> String {
    quantity.map_or_else(null, |quantity| quantity.to_string())
}

const LAST_IDS: &str = "
    select
        (select coalesce(max(id), 0) from products_sqlproduct),
        (select coalesce(max(id), 0) from locations_sqllocation),
        (select coalesce(max(id), 0) from stock_stockreport),
        (select coalesce(max(id), 0) from stock_stocktransaction),
        (select coalesce(max(id), 0) from commtrack_stockstate)";

const COPY_PRODUCTS: &str = "
    copy products_sqlproduct (id, domain, product_id, name, is_archived, code, description, category, program_id, cost,
        units, product_data, created_at, last_modified)
    from stdin";

const COPY_LOCATIONS: &str = "
    copy locations_sqllocation (id, domain, name, location_id, location_type_id, site_code, metadata, created_at,
        last_modified, is_archived, parent_id, stocks_all_products, supply_point_id, user_id)
    from stdin";

const COPY_REPORTS: &str = "
    copy stock_stockreport (id, form_id, date, type, domain, server_date) from stdin";

const COPY_TRANSACTIONS: &str = "
    copy stock_stocktransaction (id, report_id, sql_product_id, section_id, case_id, product_id, type, subtype, quantity,
        stock_on_hand)
    from stdin";

const COPY_STATES: &str = "
    copy commtrack_stockstate (id, section_id, case_id, product_id, stock_on_hand, daily_consumption, last_modified_date,
        last_modified_form_id, sql_product_id, sql_location_id)
    from stdin";

const COPY_DOC_DOMAINS: &str = "
    copy stock_docdomainmapping (doc_id, doc_type, domain_name) from stdin";
