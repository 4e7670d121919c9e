//! What a migration has put on record about ledgers, to be compared with what a model expects.

use anyhow::{Context, Result, ensure};
use generator::LedgerDiff;
use serde_json::{Value, json};
use tokio_postgres::Client;

/// All differences on record, of some cases or of all, each as [`line()`] writes it. The only migration in this state schema
/// is meant.
///
/// # Errors
/// Those of the database; a record that is not about a ledger.
pub async fn on_record(state: &Client, case_ids: Option<&[String]>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (table, is_change) in [("doc_diff", false), ("doc_change", true)] {
        let query = format!("select kind, doc_id, diffs from {table} where $1::text[] is null or doc_id = any($1)");
        for row in state.query(&query, &[&case_ids]).await? {
            let (kind, case_id, diffs): (String, String, String) = (row.get(0), row.get(1), row.get(2));
            ensure!(kind == "CommCareCase", "{kind} {case_id}: {diffs}");
            let Value::Array(entries) = serde_json::from_str(&diffs)? else {
                anyhow::bail!("{case_id}: {diffs}")
            };
            for entry in entries {
                found.push(read(&case_id, &entry, is_change)?);
            }
        }
    }
    Ok(found)
}

/// A difference on record, as [`line()`] writes it.
fn read(case_id: &str, entry: &Value, is_change: bool) -> Result<String> {
    let reference = entry["path"]["stock_id"].as_str();
    let reference = reference.with_context(|| format!("a difference of the case {case_id} itself: {entry}"))?;
    let path = [
        "balance",
        "daily_consumption",
        "last_modified",
        "last_modified_form_id",
        "*",
    ]
    .into_iter()
    .find(|path| entry["path"]["path"] == json!([path]))
    .with_context(|| format!("a difference of {reference} at an unknown path: {entry}"))?;
    let reason = ["missing couch stock transaction", "duplicate stock transaction"]
        .into_iter()
        .find(|reason| entry["reason"] == *reason);
    ensure!(
        is_change == reason.is_some() && is_change != entry["reason"].is_null(),
        "{entry}"
    );
    let (mut old, mut new) = (entry["old_value"].clone(), entry["new_value"].clone());
    if path == "*" {
        // The side that has the ledger shows it whole.
        let side = if is_change { &mut new } else { &mut old };
        let ledger = side.as_object_mut().and_then(|side| side.remove("ledger"));
        let ledger = ledger.with_context(|| format!("no ledger in {entry}"))?;
        ensure!(ledger["case_id"] == case_id && ledger["balance"].is_i64(), "{entry}");
    }
    let diff = LedgerDiff {
        case_id: case_id.to_owned(),
        reference: reference.to_owned(),
        path,
        old,
        new,
        reason,
    };
    Ok(line(&diff))
}

/// A difference, in one line.
pub fn line(diff: &LedgerDiff) -> String {
    let LedgerDiff {
        case_id,
        reference,
        path,
        old,
        new,
        reason,
    } = diff;
    format!("{case_id} {reference} {path} {reason:?}: {old} -> {new}")
}
