//! What the comparison has put on record of damaged documents.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::oracle::Group;
use super::{DOMAIN, ledgers};
use crate::world::World;

/// One recorded difference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Recorded {
    /// Kind and path.
    pub(super) at: (String, String),
    /// Why it is no more than a change.
    pub(super) reason: Option<String>,
}

/// Compares these documents. What is on record of each afterwards.
pub(super) async fn compare(
    world: &mut World,
    group: Group,
    ids: impl Iterator<Item = &String>,
) -> Result<BTreeMap<String, BTreeSet<Recorded>>> {
    let selected: Vec<String> = ids.cloned().collect();
    let file = world.folder().join("selected.txt");
    std::fs::write(&file, selected.join("\n") + "\n")?;
    let select = format!("--select={}", file.display());
    let what = match group {
        Group::Cases => "cases",
        Group::Forms => "forms",
    };
    let output = world.coordinator(&["couch_sql_diff", DOMAIN, what, &select]).await?;
    ensure!(matches!(output.status, Some(0 | 1)), "{}", output.told());
    let mut recorded: BTreeMap<String, BTreeSet<Recorded>> = BTreeMap::new();
    for table in ["doc_diff", "doc_change"] {
        let kinds = match group {
            Group::Cases => "like 'CommCareCase%'",
            Group::Forms => "not like 'CommCareCase%'",
        };
        // What other rounds left on record goes when its documents are compared again.
        let query = format!("select doc_id, diffs from {table} where kind {kinds} and doc_id = any($1)");
        for row in world.state().query(&query, &[&selected]).await? {
            let (id, diffs): (String, String) = (row.get(0), row.get(1));
            let entries: Vec<Value> = serde_json::from_str(&diffs)?;
            recorded.entry(id).or_default().extend(entries.iter().map(told));
        }
    }
    Ok(recorded)
}

/// A recorded difference.
fn told(entry: &Value) -> Recorded {
    Recorded {
        at: kind_and_path(entry),
        reason: entry["reason"].as_str().map(str::to_owned),
    }
}

fn kind_and_path(entry: &Value) -> (String, String) {
    let joined = |path: &Value| {
        let elements = path.as_array().into_iter().flatten();
        let elements: Vec<String> = elements
            .map(|element| element.as_str().map_or_else(|| element.to_string(), str::to_owned))
            .collect();
        elements.join("/")
    };
    let path = &entry["path"];
    match path["stock_id"].as_str() {
        Some(reference) => (String::new(), ledgers::written(reference, &joined(&path["path"]))),
        None => (entry["type"].as_str().unwrap_or_default().to_owned(), joined(path)),
    }
}
