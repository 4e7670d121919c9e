//! Documents in SQL: their rows as they stand, put back as they stood, and the JSON that HQ makes of them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use tokio_postgres::Client;

use super::oracle::Group;

/// A table whose rows belong to a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Table {
    pub(super) name: &'static str,
    /// The column with the document's id.
    pub(super) key: &'static str,
}

const fn table(name: &'static str, key: &'static str) -> Table {
    Table { name, key }
}

pub(super) const FORMS: Table = table("form_processor_xforminstancesql", "form_id");
pub(super) const OPERATIONS: Table = table("form_processor_xformoperationsql", "form_id");
pub(super) const BLOBMETA: Table = table("blobs_blobmeta", "parent_id");
pub(super) const CASES: Table = table("form_processor_commcarecasesql", "case_id");
pub(super) const INDICES: Table = table("form_processor_commcarecaseindexsql", "case_id");
pub(super) const TRANSACTIONS: Table = table("form_processor_casetransaction", "case_id");
pub(super) const ATTACHMENTS: Table = table("form_processor_caseattachmentsql", "case_id");
pub(super) const LEDGER_VALUES: Table = table("form_processor_ledgervalue", "case_id");
pub(super) const LEDGER_TRANSACTIONS: Table = table("form_processor_ledgertransaction", "case_id");
pub(super) const STATES: Table = table("commtrack_stockstate", "case_id");
pub(super) const STOCK_TRANSACTIONS: Table = table("stock_stocktransaction", "case_id");

impl Group {
    /// Parents first.
    pub(super) const fn tables(self) -> &'static [Table] {
        match self {
            Self::Forms => &[FORMS, OPERATIONS, BLOBMETA],
            Self::Cases => &[
                CASES,
                INDICES,
                TRANSACTIONS,
                ATTACHMENTS,
                LEDGER_VALUES,
                LEDGER_TRANSACTIONS,
                STATES,
                STOCK_TRANSACTIONS,
            ],
        }
    }
}

/// A row as an object of its columns.
pub(super) type Row = Map<String, Value>;

/// Rows of one document by table.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rows(BTreeMap<Table, Vec<Row>>);

impl Rows {
    pub(super) fn of(&self, table: Table) -> &[Row] {
        self.0.get(&table).map_or(&[], Vec::as_slice)
    }

    /// Where HQ finds the XML of a form: a key, and whether what it leads to is compressed.
    pub(super) fn xml(&self) -> Option<(&str, bool)> {
        let mut rows = self.of(BLOBMETA).iter();
        let row = rows.find(|row| row["name"] == "form.xml" && row["type_code"] == 2)?;
        Some((row["key"].as_str()?, !row["compressed_length"].is_null()))
    }

    fn parent(&self, table: Table) -> Option<&Row> {
        self.of(table).first()
    }
}

/// Reads the rows of documents, by id. Those without any row have an empty entry.
pub(super) async fn read(client: &Client, group: Group, ids: &[String]) -> Result<BTreeMap<String, Rows>> {
    let mut found: BTreeMap<String, Rows> = ids.iter().map(|id| (id.clone(), Rows::default())).collect();
    for table in group.tables() {
        let query = format!(
            "select t.{}, row_to_json(t)::text from {} t where t.{} = any($1) order by t.id",
            table.key, table.name, table.key
        );
        for row in client.query(&query, &[&ids]).await.context(table.name)? {
            let (id, text): (String, String) = (row.get(0), row.get(1));
            let Value::Object(row) = serde_json::from_str(&text)? else {
                continue;
            };
            if let Some(rows) = found.get_mut(&id) {
                rows.0.entry(*table).or_default().push(row);
            }
        }
    }
    Ok(found)
}

/// Makes the rows of documents what they were.
pub(super) async fn restore(client: &mut Client, group: Group, documents: &BTreeMap<String, Rows>) -> Result<()> {
    let ids: Vec<&String> = documents.keys().collect();
    let tx = client.transaction().await?;
    for table in group.tables().iter().rev() {
        tx.execute(
            &format!("delete from {} where {} = any($1)", table.name, table.key),
            &[&ids],
        )
        .await
        .context(table.name)?;
    }
    for table in group.tables() {
        let rows: Vec<&Row> = documents.values().flat_map(|rows| rows.of(*table)).collect();
        // Where they are another document's by now.
        let serial: Vec<i64> = rows.iter().filter_map(|row| row["id"].as_i64()).collect();
        let delete = format!("delete from {} where id::bigint = any($1)", table.name);
        tx.execute(&delete, &[&serial]).await.context(table.name)?;
        let text = serde_json::to_string(&rows)?;
        let insert = format!(
            "insert into {0} select * from json_populate_recordset(null::{0}, $1::text::json)",
            table.name
        );
        tx.execute(&insert, &[&text]).await.context(table.name)?;
    }
    tx.commit().await.context("restore rows")
}

fn date(value: &Value) -> Value {
    let text = value.as_str().unwrap_or_default();
    match DateTime::parse_from_rfc3339(text) {
        Ok(time) => json!(time.with_timezone(&Utc).format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()),
        Err(_) => value.clone(),
    }
}

fn stored_json(value: &Value) -> Value {
    serde_json::from_str(value.as_str().unwrap_or_default()).unwrap_or(Value::Null)
}

/// A form as HQ shows it; none if there is no row. `body` is what its XML says.
pub(super) fn form_json(rows: &Rows, body: &Value) -> Option<Value> {
    let form = rows.parent(FORMS)?;
    let state = form["state"].as_i64().unwrap_or_default();
    let is_deleted = state & 64 != 0;
    let doc_type = match state {
        _ if is_deleted => "XFormInstance-Deleted",
        2 => "XFormArchived",
        4 => "XFormDeprecated",
        8 => "XFormDuplicate",
        16 => "XFormError",
        32 => "SubmissionErrorLog",
        _ => "XFormInstance",
    };
    let mut out = Map::new();
    out.insert("_id".to_owned(), form["form_id"].clone());
    out.insert("doc_type".to_owned(), json!(doc_type));
    for column in [
        "domain",
        "app_id",
        "xmlns",
        "user_id",
        "orig_id",
        "deprecated_form_id",
        "partial_submission",
        "submit_ip",
        "last_sync_token",
        "problem",
        "build_id",
        "state",
        "initial_processing_complete",
    ] {
        out.insert(column.to_owned(), form[column].clone());
    }
    for column in ["server_modified_on", "received_on", "edited_on", "date_header"] {
        out.insert(column.to_owned(), date(&form[column]));
    }
    if is_deleted {
        out.insert("deleted_on".to_owned(), date(&form["deleted_on"]));
        out.insert("deletion_id".to_owned(), form["deletion_id"].clone());
    }
    for column in ["auth_context", "openrosa_headers"] {
        out.insert(column.to_owned(), stored_json(&form[column]));
    }
    let history = rows.of(OPERATIONS).iter();
    let history =
        history.map(|row| json!({"user": row["user_id"], "operation": row["operation"], "date": date(&row["date"])}));
    out.insert("history".to_owned(), history.collect());
    out.insert("form".to_owned(), body.clone());
    out.insert("backend_id".to_owned(), json!("sql"));
    Some(Value::Object(out))
}

/// A case as HQ shows it, but for its actions, which are never compared; none if there is no row.
pub(super) fn case_json(rows: &Rows) -> Option<Value> {
    let case = rows.parent(CASES)?;
    let is_deleted = case["deleted"] == true;
    let mut out = Map::new();
    out.insert("_id".to_owned(), case["case_id"].clone());
    out.insert("case_id".to_owned(), case["case_id"].clone());
    let doc_type = if is_deleted {
        "CommCareCase-Deleted"
    } else {
        "CommCareCase"
    };
    out.insert("doc_type".to_owned(), json!(doc_type));
    out.insert("user_id".to_owned(), case["modified_by"].clone());
    for column in [
        "domain",
        "type",
        "name",
        "owner_id",
        "opened_by",
        "modified_by",
        "closed",
        "closed_by",
        "deleted",
        "external_id",
        "location_id",
    ] {
        out.insert(column.to_owned(), case[column].clone());
    }
    for column in ["opened_on", "modified_on", "server_modified_on", "closed_on"] {
        out.insert(column.to_owned(), date(&case[column]));
    }
    if is_deleted {
        out.insert("deleted_on".to_owned(), date(&case["deleted_on"]));
        out.insert("deletion_id".to_owned(), case["deletion_id"].clone());
    }
    let indices = rows.of(INDICES).iter().map(|row| {
        let relationship = if row["relationship_id"] == 2 {
            "extension"
        } else {
            "child"
        };
        json!({
            "case_id": row["case_id"], "identifier": row["identifier"], "referenced_id": row["referenced_id"],
            "referenced_type": row["referenced_type"], "relationship": relationship,
        })
    });
    out.insert("indices".to_owned(), indices.collect());
    let mut transactions: Vec<&Row> = rows
        .of(TRANSACTIONS)
        .iter()
        .filter(|row| row["revoked"] != true)
        .collect();
    transactions.sort_by_key(|row| {
        row["server_date"]
            .as_str()
            .and_then(|text| DateTime::parse_from_rfc3339(text).ok())
    });
    let of_forms = transactions
        .iter()
        .filter(|row| row["type"].as_i64().unwrap_or_default() & 1 != 0);
    out.insert(
        "xform_ids".to_owned(),
        of_forms.map(|row| row["form_id"].clone()).collect(),
    );
    out.insert("actions".to_owned(), json!([]));
    let mut attachments = Map::new();
    for row in rows.of(ATTACHMENTS) {
        let shown =
            json!({"content_type": row["content_type"], "content_length": row["content_length"], "name": row["name"]});
        attachments.insert(row["name"].as_str().unwrap_or_default().to_owned(), shown);
    }
    out.insert("case_attachments".to_owned(), Value::Object(attachments));
    out.insert("backend_id".to_owned(), json!("sql"));
    if let Value::Object(properties) = stored_json(&case["case_json"]) {
        for (name, value) in properties {
            out.entry(name).or_insert(value);
        }
    }
    Some(Value::Object(out))
}
