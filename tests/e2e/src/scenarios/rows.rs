//! Rows of a domain as JSON, all columns but the serial number of the row.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Map, Value};
use tokio_postgres::Client;

/// A table with the rows of a domain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    /// Its name.
    pub(crate) name: &'static str,
    /// The list in which expectations have its rows, and the object of defaults.
    pub(crate) list: &'static str,
    /// The table that knows the domain, with the column that both have.
    parent: Option<(&'static str, &'static str)>,
    /// Columns whose text is JSON.
    json: &'static [&'static str],
    /// Order of the rows.
    order: &'static str,
}

const FORMS: &str = "form_processor_xforminstancesql";
const CASES: &str = "form_processor_commcarecasesql";

/// Forms.
pub(crate) const FORM: Table = Table {
    name: FORMS,
    list: "forms",
    parent: None,
    json: &["auth_context", "openrosa_headers"],
    order: "form_id",
};
/// Operations, in the order in which they were written.
pub(crate) const OPERATION: Table = Table {
    name: "form_processor_xformoperationsql",
    list: "operations",
    parent: Some((FORMS, "form_id")),
    json: &[],
    order: "id",
};
/// Cases.
pub(crate) const CASE: Table = Table {
    name: CASES,
    list: "cases",
    parent: None,
    json: &["case_json"],
    order: "case_id",
};
/// What belongs to a case.
pub(crate) const OF_CASES: [Table; 5] = [
    Table {
        name: "form_processor_commcarecaseindexsql",
        list: "indices",
        parent: Some((CASES, "case_id")),
        json: &[],
        order: "identifier",
    },
    Table {
        name: "form_processor_casetransaction",
        list: "transactions",
        parent: Some((CASES, "case_id")),
        json: &["details"],
        order: "server_date, form_id nulls first, type",
    },
    Table {
        name: "form_processor_caseattachmentsql",
        list: "attachments",
        parent: Some((CASES, "case_id")),
        json: &["properties"],
        order: "name",
    },
    Table {
        name: "form_processor_ledgervalue",
        list: "ledger_values",
        parent: Some((CASES, "case_id")),
        json: &[],
        order: "section_id, entry_id",
    },
    Table {
        name: "form_processor_ledgertransaction",
        list: "ledger_transactions",
        parent: Some((CASES, "case_id")),
        json: &[],
        order: "section_id, entry_id, server_date, id",
    },
];
/// Blob metadata.
pub(crate) const BLOBMETA: Table = Table {
    name: "blobs_blobmeta",
    list: "blobmeta",
    parent: None,
    json: &[],
    order: "parent_id, name, key",
};

/// Queries of all tables, made for the columns that the target has.
#[derive(Debug)]
pub(crate) struct Reader {
    queries: BTreeMap<&'static str, String>,
}

impl Reader {
    /// Looks at the tables of a target.
    pub(crate) async fn new(target: &Client) -> Result<Self> {
        let mut queries = BTreeMap::new();
        for table in [FORM, OPERATION, CASE, BLOBMETA].into_iter().chain(OF_CASES) {
            queries.insert(table.name, query(target, &table).await?);
        }
        Ok(Self { queries })
    }

    /// Rows of a domain.
    pub(crate) async fn rows(&self, target: &Client, table: &Table, domain: &str) -> Result<Vec<Map<String, Value>>> {
        let sql = self.queries.get(table.name).context("a table without a query")?;
        let mut rows = Vec::new();
        for found in target.query(sql, &[&domain]).await.with_context(|| sql.clone())? {
            let Value::Object(mut row) = serde_json::from_str(found.try_get(0)?)? else {
                continue;
            };
            for column in table.json {
                if let Some(value) = row.get_mut(*column)
                    && let Some(text) = value.as_str()
                {
                    // What is no JSON stays text, and equals no expectation.
                    let parsed = serde_json::from_str(text).unwrap_or_else(|_| value.clone());
                    *value = parsed;
                }
            }
            rows.push(row);
        }
        Ok(rows)
    }
}

async fn query(target: &Client, table: &Table) -> Result<String> {
    let columns = target
        .query(
            "select column_name::text, data_type::text from information_schema.columns
             where table_name = $1 and column_name <> 'id' order by ordinal_position",
            &[&table.name],
        )
        .await
        .context("read the columns of a table")?;
    let mut parts = Vec::new();
    for column in columns {
        let (name, kind): (String, String) = (column.try_get(0)?, column.try_get(1)?);
        let value = match kind.as_str() {
            "timestamp with time zone" => {
                format!("to_char(t.{name} at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
            }
            "numeric" => format!("t.{name}::text"),
            _ => format!("t.{name}"),
        };
        parts.push(format!("'{name}', {value}"));
    }
    let parent = table.parent.map_or_else(
        || " where t.domain = $1".to_owned(),
        |(parent, key)| format!(" join {parent} p on p.{key} = t.{key} where p.domain = $1"),
    );
    let order: Vec<String> = table.order.split(", ").map(|column| format!("t.{column}")).collect();
    Ok(format!(
        "select json_build_object({})::text from {} t{parent} order by {}",
        parts.join(", "),
        table.name,
        order.join(", ")
    ))
}
