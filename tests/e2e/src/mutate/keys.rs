//! Damages of ids and references: values that are right elsewhere.

use anyhow::Result;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::Value;
use tokio_postgres::Client;

use super::damage::{self, Depth, Statement};
use super::oracle::Group;
use super::rows::{BLOBMETA, Row, STATES, STOCK_TRANSACTIONS, Table};
use super::{Document, Documents};

/// An id that nobody knows.
pub(super) fn unknown(id: &str) -> String {
    format!("damage-{id}")
}

fn row_id(row: &Row) -> Option<i64> {
    row["id"].as_i64()
}

/// Documents at random: enough to meet one that has a row of any table.
fn some<'a>(rng: &mut StdRng, documents: &'a Documents, but: &str) -> Vec<(&'a String, &'a Document)> {
    let ids: Vec<&String> = documents.keys().filter(|id| *id != but).collect();
    let chosen = ids.choose_multiple(rng, 30);
    chosen.filter_map(|id| documents.get_key_value(*id)).collect()
}

/// Gives a column of a row the value that it has elsewhere; none if there is no other.
pub(super) fn swap(
    rng: &mut StdRng,
    documents: &Documents,
    id: &str,
    (table, column): (Table, &damage::Column),
    row: &Row,
) -> Option<Statement> {
    let name = column.name.as_str();
    let present = &row[name];
    let values: Vec<&Value> = some(rng, documents, id)
        .into_iter()
        .flat_map(|(_, other)| other.rows.of(table))
        .map(|other| &other[name])
        .filter(|value| !value.is_null() && *value != present)
        .collect();
    let value = *values.choose(rng)?;
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Some(Statement {
        sql: format!(
            "update {} set {name} = $1::text::{} where id = {}",
            table.name,
            column.kind,
            row_id(row)?
        ),
        text: Some(text),
    })
}

/// Moves a row to another of the free documents. Gives the statement, and whose it is now; none of these documents may be:
/// which of two XMLs a form has is not for a comparison to say, so that a blob goes to a form that nobody knows.
pub(super) fn move_row(
    rng: &mut StdRng,
    free: &[&String],
    id: &str,
    table: Table,
    row: &Row,
) -> Option<(Statement, Option<String>)> {
    let others: Vec<&&String> = free.iter().filter(|other| **other != id).collect();
    let other = (table != BLOBMETA).then(|| others.choose(rng).map(|other| (**other).clone()));
    let to = match other {
        Some(other) => Some(other?),
        None => None,
    };
    let statement = Statement {
        sql: format!(
            "update {} set {} = $1::text where id = {}",
            table.name,
            table.key,
            row_id(row)?
        ),
        text: Some(to.clone().unwrap_or_else(|| unknown(id))),
    };
    Some((statement, to))
}

/// Gives all of a document's own rows to an id that nobody knows. False: a constraint does not let it happen.
pub(super) async fn rename(client: &mut Client, group: Group, id: &str) -> Result<bool> {
    let tx = client.transaction().await?;
    for table in group.tables() {
        // These are HQ's records of the case's stock, on Couch's side of the comparison.
        if [STATES, STOCK_TRANSACTIONS].contains(table) {
            continue;
        }
        let sql = format!("update {0} set {1} = $2 where {1} = $1", table.name, table.key);
        if tx.execute(&sql, &[&id, &unknown(id)]).await.is_err() {
            return Ok(false);
        }
    }
    Ok(tx.commit().await.is_ok())
}

/// Lets one reference of a Couch document lead to what another document refers to at such a place. Gives the place.
pub(super) fn couch_reference(
    rng: &mut StdRng,
    documents: &Documents,
    id: &str,
    document: &mut Value,
) -> Option<String> {
    let places = references(document);
    let (spot, kind) = places.choose(rng)?.clone();
    let present = document.pointer(&spot)?.clone();
    let values: Vec<String> = some(rng, documents, id)
        .into_iter()
        .flat_map(|(_, other)| {
            let same = references(&other.couch).into_iter().filter(|(_, of)| *of == kind);
            let values = same.filter_map(|(at, _)| Some(other.couch.pointer(&at)?.as_str()?.to_owned()));
            values.collect::<Vec<_>>()
        })
        .filter(|value| present != value.as_str())
        .collect();
    *document.pointer_mut(&spot)? = values.choose(rng)?.as_str().into();
    Some(spot)
}

/// Places of a document that name another one, each with what kind of place it is: where it stands, but for numbers.
fn references(document: &Value) -> Vec<(String, String)> {
    let mut spots = Vec::new();
    damage::collect(document, "", Depth::Any, &mut spots);
    let places = spots.into_iter().filter_map(|spot| {
        let kind: Vec<&str> = spot.split('/').filter(|part| part.parse::<usize>().is_err()).collect();
        let last = kind.last()?;
        let names = last.ends_with("_id") || matches!(*last, "xform_ids" | "identifier" | "key" | "id" | "opened_by");
        let kind = kind.join("/");
        (names && document.pointer(&spot)?.is_string()).then_some((spot, kind))
    });
    places.collect()
}
