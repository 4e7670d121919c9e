//! What must be reported of a case's ledgers, where they were in order before the damage.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use chrono::DateTime;
use serde_json::Value;
use tokio_postgres::Client;

use super::rows::{LEDGER_VALUES, Row, Rows, STATES};

/// Section and product.
type Key = (String, String);

fn by_key<'a>(rows: &'a [Row], product: &str) -> BTreeMap<Key, &'a Row> {
    let text = |row: &Row, column: &str| row[column].as_str().unwrap_or_default().to_owned();
    rows.iter()
        .map(|row| ((text(row, "section_id"), text(row, product)), row))
        .collect()
}

/// Stock states that HQ does not show, since their product or their location is archived.
pub(super) struct Hidden {
    products: BTreeSet<i64>,
    locations: BTreeSet<i64>,
}

impl Hidden {
    pub(super) async fn read(client: &Client) -> Result<Self> {
        let ids = async |query: &str| -> Result<BTreeSet<i64>> {
            let rows = client.query(query, &[]).await?;
            Ok(rows.iter().map(|row| row.get(0)).collect())
        };
        Ok(Self {
            products: ids("select id::bigint from products_sqlproduct where is_archived").await?,
            locations: ids("select id::bigint from locations_sqllocation where is_archived").await?,
        })
    }

    pub(super) fn contains(&self, state: &Row) -> bool {
        let is_in = |ids: &BTreeSet<i64>, column: &str| state[column].as_i64().is_some_and(|id| ids.contains(&id));
        is_in(&self.products, "sql_product_id") || is_in(&self.locations, "sql_location_id")
    }
}

/// Paths of the differences, as [`path`] writes them. `hidden`: states that HQ does not show; the latest transaction of the ledger stands in for them, and for states that are gone.
pub(super) fn expect(case_id: &str, before: &Rows, after: &Rows, hidden: &Hidden) -> BTreeSet<String> {
    let shown: Vec<Row> = after
        .of(STATES)
        .iter()
        .filter(|row| !hidden.contains(row))
        .cloned()
        .collect();
    let states = by_key(&shown, "product_id");
    let (known, values) = (
        by_key(before.of(LEDGER_VALUES), "entry_id"),
        by_key(after.of(LEDGER_VALUES), "entry_id"),
    );
    let mut found = BTreeSet::new();
    for (key, value) in &values {
        let mut differs = |column: &str, is_so: bool| {
            if is_so {
                found.insert(path(case_id, key, column));
            }
        };
        let clean = known.get(key);
        differs("domain", clean.is_some_and(|clean| clean["domain"] != value["domain"]));
        if let Some(state) = states.get(key) {
            let on_hand = state["stock_on_hand"].as_f64().map(f64::trunc);
            differs("balance", on_hand != value["balance"].as_f64());
            differs(
                "last_modified",
                time(&state["last_modified_date"]) != time(&value["last_modified"]),
            );
            differs(
                "last_modified_form_id",
                state["last_modified_form_id"] != value["last_modified_form_id"],
            );
            let mut others = before.of(STATES).iter();
            let clean = others.find(|other| other["id"] == state["id"]);
            let is_moved = clean.is_some_and(|clean| clean["sql_location_id"] != state["sql_location_id"]);
            differs("location_id", is_moved);
            let consumption = |row: &Row| row["daily_consumption"].as_f64();
            differs("daily_consumption", consumption(state) != consumption(value));
        } else if let Some(clean) = clean {
            for column in ["balance", "last_modified_form_id", "daily_consumption"] {
                differs(column, clean[column] != value[column]);
            }
            differs(
                "last_modified",
                time(&clean["last_modified"]) != time(&value["last_modified"]),
            );
        } else {
            differs("*", true);
        }
    }
    for key in states.keys().filter(|key| !values.contains_key(*key)) {
        found.insert(path(case_id, key, "*"));
    }
    found
}

fn time(value: &Value) -> Option<i64> {
    DateTime::parse_from_rfc3339(value.as_str()?)
        .ok()?
        .timestamp_nanos_opt()
}

fn path(case_id: &str, (section, product): &Key, column: &str) -> String {
    written(&format!("{case_id}/{section}/{product}"), column)
}

/// A path of a ledger, as it is compared here.
pub(super) fn written(reference: &str, column: &str) -> String {
    format!("ledger {} {column}", reference.replace('/', "|"))
}
