//! Reading a target back, and preparing its blob metadata, with plain queries.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::SinkExt;
use serde_json::{Map, Value};
use tokio_postgres::{Client, Error, Row};

use crate::compare::Actual;
use crate::model::{
    ExpectedAttachment, ExpectedBlobMeta, ExpectedCase, ExpectedForm, ExpectedIndex, ExpectedLedgerTransaction,
    ExpectedLedgerValue, ExpectedOperation, ExpectedTransaction,
};

pub mod stock;

/// Forms and cases that are to be read.
type Wanted<'a> = (Option<&'a [String]>, Option<&'a [String]>);

/// Reads all rows of a domain from one database. Rows of several shards are joined with [`Actual::merge`].
///
/// # Errors
/// Whatever the database refuses.
pub async fn read_actual(client: &Client, domain: &str) -> Result<Actual, Error> {
    read(client, domain, (None, None)).await
}

/// Reads the rows of some forms and cases of a domain from one database, as [`read_actual`] does those of all.
///
/// # Errors
/// Whatever the database refuses.
pub async fn read_some(
    client: &Client,
    domain: &str,
    form_ids: &[String],
    case_ids: &[String],
) -> Result<Actual, Error> {
    read(client, domain, (Some(form_ids), Some(case_ids))).await
}

async fn read(client: &Client, domain: &str, (form_ids, case_ids): Wanted<'_>) -> Result<Actual, Error> {
    let mut actual = Actual::default();
    for row in client.query(FORMS, &[&domain, &form_ids]).await? {
        let form = form(&row)?;
        actual.forms.insert(form.form_id.clone(), form);
    }
    for row in client.query(OPERATIONS, &[&domain, &form_ids]).await? {
        let form_id: String = row.try_get("form_id")?;
        let operation = ExpectedOperation {
            date: row.try_get("date")?,
            operation: row.try_get("operation")?,
            user_id: row.try_get("user_id")?,
        };
        if let Some(form) = actual.forms.get_mut(&form_id) {
            form.operations.push(operation);
        }
    }
    for row in client.query(CASES, &[&domain, &case_ids]).await? {
        let case = case(&row)?;
        actual.cases.insert(case.case_id.clone(), case);
    }
    read_children(client, domain, case_ids, &mut actual).await?;
    read_ledgers(client, domain, case_ids, &mut actual).await?;
    for row in client.query(BLOBMETA, &[&domain, &form_ids]).await? {
        actual.blobmeta.push(ExpectedBlobMeta {
            domain: row.try_get("domain")?,
            parent_id: row.try_get("parent_id")?,
            name: row.try_get("name")?,
            key: row.try_get("key")?,
            type_code: row.try_get("type_code")?,
            content_length: row.try_get("content_length")?,
            content_type: row.try_get("content_type")?,
            created_on: Some(row.try_get("created_on")?),
        });
    }
    Ok(actual)
}

async fn read_children(
    client: &Client,
    domain: &str,
    case_ids: Option<&[String]>,
    actual: &mut Actual,
) -> Result<(), Error> {
    let cases: &mut BTreeMap<String, ExpectedCase> = &mut actual.cases;
    for row in client.query(INDICES, &[&domain, &case_ids]).await? {
        let case_id: String = row.try_get("case_id")?;
        let index_domain: String = row.try_get("domain")?;
        if index_domain != domain {
            actual
                .faults
                .push(format!("case {case_id}: index of domain {index_domain}"));
        }
        if let Some(case) = cases.get_mut(&case_id) {
            case.indices.push(ExpectedIndex {
                identifier: row.try_get("identifier")?,
                referenced_id: row.try_get("referenced_id")?,
                referenced_type: row.try_get("referenced_type")?,
                relationship_id: row.try_get("relationship_id")?,
            });
        }
    }
    for row in client.query(TRANSACTIONS, &[&domain, &case_ids]).await? {
        let case_id: String = row.try_get("case_id")?;
        if let Some(case) = cases.get_mut(&case_id) {
            case.transactions.push(ExpectedTransaction {
                form_id: row.try_get("form_id")?,
                sync_log_id: row.try_get("sync_log_id")?,
                server_date: row.try_get("server_date")?,
                client_date: row.try_get("client_date")?,
                kind: row.try_get("type")?,
                revoked: row.try_get("revoked")?,
                details: json(&row, "details")?,
            });
        }
    }
    for row in client.query(ATTACHMENTS, &[&domain, &case_ids]).await? {
        let case_id: String = row.try_get("case_id")?;
        if let Some(case) = cases.get_mut(&case_id) {
            case.attachments.push(ExpectedAttachment {
                name: row.try_get("name")?,
                content_type: row.try_get("content_type")?,
                content_length: row.try_get("content_length")?,
                properties: json(&row, "properties")?,
                blob_id: row.try_get("blob_id")?,
                blob_bucket: row.try_get("blob_bucket")?,
                md5: row.try_get("md5")?,
            });
        }
    }
    Ok(())
}

async fn read_ledgers(
    client: &Client,
    domain: &str,
    case_ids: Option<&[String]>,
    actual: &mut Actual,
) -> Result<(), Error> {
    for row in client.query(LEDGER_VALUES, &[&domain, &case_ids]).await? {
        let case_id: String = row.try_get("case_id")?;
        let value = ExpectedLedgerValue {
            section_id: row.try_get("section_id")?,
            entry_id: row.try_get("entry_id")?,
            domain: row.try_get("domain")?,
            balance: row.try_get("balance")?,
            last_modified: row.try_get("last_modified")?,
            last_modified_form_id: row.try_get("last_modified_form_id")?,
            daily_consumption: row.try_get("daily_consumption")?,
        };
        match actual.cases.get_mut(&case_id) {
            Some(case) => case.ledger_values.push(value),
            None => actual
                .faults
                .push(format!("case {case_id}: a ledger without a case of the domain")),
        }
    }
    for row in client.query(LEDGER_TRANSACTIONS, &[&domain, &case_ids]).await? {
        let case_id: String = row.try_get("case_id")?;
        if let Some(case) = actual.cases.get_mut(&case_id) {
            case.ledger_transactions.push(ExpectedLedgerTransaction {
                section_id: row.try_get("section_id")?,
                entry_id: row.try_get("entry_id")?,
                form_id: row.try_get("form_id")?,
                server_date: row.try_get("server_date")?,
                report_date: row.try_get("report_date")?,
                kind: row.try_get("type")?,
                user_defined_type: row.try_get("user_defined_type")?,
                delta: row.try_get("delta")?,
                updated_balance: row.try_get("updated_balance")?,
            });
        }
    }
    Ok(())
}

/// Stores blob metadata by COPY, as HQ had it before the migration. Returns the number of rows.
///
/// # Errors
/// Whatever the database refuses.
pub async fn load_blobmeta(client: &Client, rows: &[ExpectedBlobMeta]) -> Result<u64, Error> {
    let sink = client.copy_in(COPY_BLOBMETA).await?;
    let mut sink = std::pin::pin!(sink);
    for chunk in rows.chunks(1000) {
        let mut text = String::new();
        for row in chunk {
            let created_on: DateTime<Utc> = row.created_on.unwrap_or(DateTime::UNIX_EPOCH);
            let fields = [
                copy_text(&row.domain),
                copy_text(&row.parent_id),
                copy_text(&row.name),
                copy_text(&row.key),
                row.type_code.to_string(),
                row.content_length.to_string(),
                row.content_type.as_deref().map_or_else(|| "\\N".to_owned(), copy_text),
                "\\N".to_owned(),
                created_on.to_rfc3339(),
            ];
            text.push_str(&fields.join("\t"));
            text.push('\n');
        }
        sink.send(Bytes::from(text)).await?;
    }
    sink.as_mut().finish().await
}

fn copy_text(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('\t', "\\t")
        .replace('\n', "\\n")
        .replace('\r', "\\r")
}

fn form(row: &Row) -> Result<ExpectedForm, Error> {
    Ok(ExpectedForm {
        form_id: row.try_get("form_id")?,
        domain: row.try_get("domain")?,
        app_id: row.try_get("app_id")?,
        xmlns: row.try_get("xmlns")?,
        user_id: row.try_get("user_id")?,
        orig_id: row.try_get("orig_id")?,
        deprecated_form_id: row.try_get("deprecated_form_id")?,
        server_modified_on: row.try_get("server_modified_on")?,
        received_on: row.try_get("received_on")?,
        edited_on: row.try_get("edited_on")?,
        deleted_on: row.try_get("deleted_on")?,
        deletion_id: row.try_get("deletion_id")?,
        auth_context: json(row, "auth_context")?,
        openrosa_headers: json(row, "openrosa_headers")?,
        partial_submission: row.try_get("partial_submission")?,
        submit_ip: row.try_get("submit_ip")?,
        last_sync_token: row.try_get("last_sync_token")?,
        problem: row.try_get("problem")?,
        date_header: row.try_get("date_header")?,
        build_id: row.try_get("build_id")?,
        state: row.try_get("state")?,
        initial_processing_complete: row.try_get("initial_processing_complete")?,
        operations: Vec::new(),
    })
}

fn case(row: &Row) -> Result<ExpectedCase, Error> {
    let case_json = match json(row, "case_json")? {
        Value::Object(map) => map,
        // A column that holds no object cannot equal any model.
        other => Map::from_iter([("not an object".to_owned(), other)]),
    };
    Ok(ExpectedCase {
        case_id: row.try_get("case_id")?,
        domain: row.try_get("domain")?,
        case_type: row.try_get("type")?,
        name: row.try_get("name")?,
        owner_id: row.try_get("owner_id")?,
        opened_on: row.try_get("opened_on")?,
        opened_by: row.try_get("opened_by")?,
        modified_on: row.try_get("modified_on")?,
        server_modified_on: Some(row.try_get("server_modified_on")?),
        modified_by: row.try_get("modified_by")?,
        closed: row.try_get("closed")?,
        closed_on: row.try_get("closed_on")?,
        closed_by: row.try_get("closed_by")?,
        deleted: row.try_get("deleted")?,
        deleted_on: row.try_get("deleted_on")?,
        deletion_id: row.try_get("deletion_id")?,
        external_id: row.try_get("external_id")?,
        location_id: row.try_get("location_id")?,
        case_json,
        indices: Vec::new(),
        transactions: Vec::new(),
        attachments: Vec::new(),
        ledger_values: Vec::new(),
        ledger_transactions: Vec::new(),
    })
}

/// A JSON column; text that is not JSON is kept as text, which equals no model.
fn json(row: &Row, column: &str) -> Result<Value, Error> {
    let text: String = row.try_get(column)?;
    Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

const FORMS: &str = "
    select form_id, domain, app_id, xmlns, user_id, orig_id, deprecated_form_id, server_modified_on, received_on,
        edited_on, deleted_on, deletion_id, auth_context, openrosa_headers, partial_submission, submit_ip,
        last_sync_token, problem, date_header, build_id, state, initial_processing_complete
    from form_processor_xforminstancesql where domain = $1 and ($2::text[] is null or form_id = any($2))";

const OPERATIONS: &str = "
    select o.form_id, o.user_id, o.operation, o.date
    from form_processor_xformoperationsql o join form_processor_xforminstancesql f on f.form_id = o.form_id
    where f.domain = $1 and ($2::text[] is null or f.form_id = any($2)) order by o.id";

const CASES: &str = "
    select case_id, domain, type, name, owner_id, opened_on, opened_by, modified_on, server_modified_on, modified_by,
        closed, closed_on, closed_by, deleted, deleted_on, deletion_id, external_id, location_id, case_json
    from form_processor_commcarecasesql where domain = $1 and ($2::text[] is null or case_id = any($2))";

const INDICES: &str = "
    select i.case_id, i.domain, i.identifier, i.referenced_id, i.referenced_type, i.relationship_id
    from form_processor_commcarecaseindexsql i join form_processor_commcarecasesql c on c.case_id = i.case_id
    where c.domain = $1 and ($2::text[] is null or c.case_id = any($2)) order by i.id";

const TRANSACTIONS: &str = "
    select t.case_id, t.form_id, t.sync_log_id, t.server_date, t.client_date, t.type, t.revoked, t.details
    from form_processor_casetransaction t join form_processor_commcarecasesql c on c.case_id = t.case_id
    where c.domain = $1 and ($2::text[] is null or c.case_id = any($2)) order by t.id";

const ATTACHMENTS: &str = "
    select a.case_id, a.name, a.content_type, a.content_length, a.properties, a.blob_id, a.blob_bucket, a.md5
    from form_processor_caseattachmentsql a join form_processor_commcarecasesql c on c.case_id = a.case_id
    where c.domain = $1 and ($2::text[] is null or c.case_id = any($2)) order by a.id";

const LEDGER_VALUES: &str = "
    select case_id, domain, section_id, entry_id, balance, last_modified, last_modified_form_id,
        daily_consumption::text as daily_consumption
    from form_processor_ledgervalue where domain = $1 and ($2::text[] is null or case_id = any($2)) order by id";

const LEDGER_TRANSACTIONS: &str = "
    select l.case_id, l.section_id, l.entry_id, l.form_id, l.server_date, l.report_date, l.type, l.user_defined_type,
        l.delta, l.updated_balance
    from form_processor_ledgertransaction l join form_processor_commcarecasesql c on c.case_id = l.case_id
    where c.domain = $1 and ($2::text[] is null or c.case_id = any($2)) order by l.id";

const BLOBMETA: &str = "
    select domain, parent_id, name, key, type_code, content_length, content_type, created_on
    from blobs_blobmeta where domain = $1 and ($2::text[] is null or parent_id = any($2))";

const COPY_BLOBMETA: &str = "
    copy blobs_blobmeta (domain, parent_id, name, key, type_code, content_length, content_type, properties, created_on)
    from stdin";
