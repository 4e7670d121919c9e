//! `_all_docs` and the views.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};

use super::Shared;
use super::query::{Grouping, ListQuery, Params};
use super::reply::{ApiError, RowList};
use crate::attachment::push_text;
use crate::collation::{self, AFTER};
use crate::database::{Database, Store};
use crate::document::Document;
use crate::requests::Served;
use crate::views::{Bound, MapFunction, Side, ViewIndex, ViewRow};

/// A row of `_all_docs`.
enum IdRow {
    Present(Arc<Document>),
    /// Asked for by key, and deleted.
    Deleted(Arc<Document>),
    /// Asked for by key, and never there.
    Missing(Value),
}

pub(crate) async fn all_docs(
    State(app): Shared,
    method: Method,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, ApiError> {
    let database = app.database(&name)?;
    let query = ListQuery::parse(Params::of_request(&method, query.as_deref(), &body)?)?;
    let store = database.read();
    let total = store.alive.len();
    let (offset, rows) = match &query.keys {
        Some(keys) => (Value::Null, rows_by_id(&store, keys, &query)),
        None => {
            let (offset, rows) = rows_between_ids(&store, &query);
            (Value::from(offset), rows)
        }
    };
    drop(store);
    let documents = if query.include_docs {
        rows.iter().filter(|row| matches!(row, IdRow::Present(_))).count()
    } else {
        0
    };
    let served = Served {
        rows: rows.len(),
        documents,
    };
    let head = format!("{{\"total_rows\":{total},\"offset\":{offset},\"rows\":[\r\n").into_bytes();
    let render = move |row: &IdRow, out: &mut Vec<u8>| render_id_row(row, &query, out);
    Ok(RowList {
        head,
        rows,
        render,
        tail: b"\r\n]}\n".to_vec(),
    }
    .reply(served))
}

fn rows_by_id(store: &Store, keys: &[Value], query: &ListQuery) -> Vec<IdRow> {
    let row = |key: &Value| match key.as_str().and_then(|id| store.get(id)) {
        Some(document) if document.deleted => IdRow::Deleted(Arc::clone(document)),
        Some(document) => IdRow::Present(Arc::clone(document)),
        None => IdRow::Missing(key.clone()),
    };
    let rows = keys.iter().skip(query.skip).take(query.limit);
    if query.descending {
        // CouchDB walks the keys from the end.
        keys.iter().rev().skip(query.skip).take(query.limit).map(row).collect()
    } else {
        rows.map(row).collect()
    }
}

fn rows_between_ids(store: &Store, query: &ListQuery) -> (usize, Vec<IdRow>) {
    let ids = &store.alive;
    // Of other types only those that sort before strings are below all ids.
    let rank = |key: &Value, side: Side| match key {
        Value::String(id) if side == Side::Before => ids.rank(id.as_str()),
        Value::String(id) => ids.rank(id.as_str()) + usize::from(ids.get(id.as_str()).is_some()),
        Value::Array(_) | Value::Object(_) => ids.len(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    let (low_side, high_side) = sides(query);
    let (low, high) = if query.descending {
        (&query.end, &query.start)
    } else {
        (&query.start, &query.end)
    };
    let from = low.as_ref().map_or(0, |key| rank(key, low_side));
    let to = high.as_ref().map_or(ids.len(), |key| rank(key, high_side)).max(from);
    let skipped = query.skip.min(to - from);
    let row = |(_, document): &(Arc<str>, Arc<Document>)| IdRow::Present(Arc::clone(document));
    if query.descending {
        let rows = ids.range(from..to - skipped).rev().take(query.limit).map(row).collect();
        (ids.len() - to + skipped, rows)
    } else {
        (
            from + skipped,
            ids.range(from + skipped..to).take(query.limit).map(row).collect(),
        )
    }
}

/// On which sides of their keys the lower and the upper bound stand.
fn sides(query: &ListQuery) -> (Side, Side) {
    match (query.inclusive_end, query.descending) {
        (true, _) => (Side::Before, Side::After),
        (false, false) => (Side::Before, Side::Before),
        (false, true) => (Side::After, Side::After),
    }
}

fn render_id_row(row: &IdRow, query: &ListQuery, out: &mut Vec<u8>) {
    let (document, is_deleted) = match row {
        IdRow::Missing(key) => {
            out.extend_from_slice(json!({"key": key, "error": "not_found"}).to_string().as_bytes());
            return;
        }
        IdRow::Present(document) => (document, false),
        IdRow::Deleted(document) => (document, true),
    };
    out.extend_from_slice(b"{\"id\":");
    push_text(&document.id, out);
    out.extend_from_slice(b",\"key\":");
    push_text(&document.id, out);
    out.extend_from_slice(b",\"value\":{\"rev\":\"");
    out.extend_from_slice(document.revision.as_str().as_bytes());
    out.extend_from_slice(if is_deleted { b"\",\"deleted\":true}" } else { b"\"}" });
    if query.include_docs {
        out.extend_from_slice(b",\"doc\":");
        if is_deleted {
            out.extend_from_slice(b"null");
        } else {
            document.render(query.attachments, out);
        }
    }
    out.push(b'}');
}

pub(crate) async fn view(
    State(app): Shared,
    method: Method,
    Path((name, design, view)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, ApiError> {
    let database = app.database(&name)?;
    let (map, has_reduce) = definition(&database, &design, &view)?;
    let query = ListQuery::parse(Params::of_request(&method, query.as_deref(), &body)?)?;
    let is_reduced = query.reduce.unwrap_or(has_reduce);
    check(&query, has_reduce, is_reduced)?;
    let store = database.read();
    // Absent only if the design document was deleted this moment.
    let index = store.view(map).ok_or_else(|| ApiError::not_found("deleted"))?;
    let ranges = key_ranges(&query);
    if is_reduced {
        let rows = reduced(index, &query, &ranges);
        drop(store);
        let served = Served {
            rows: rows.len(),
            documents: 0,
        };
        let render = |row: &Value, out: &mut Vec<u8>| out.extend_from_slice(row.to_string().as_bytes());
        return Ok(RowList {
            head: b"{\"rows\":[\r\n".to_vec(),
            rows,
            render,
            tail: b"\r\n]}\n".to_vec(),
        }
        .reply(served));
    }
    let (offset, rows) = mapped(index, &query, &ranges);
    let total = index.rows.len();
    drop(store);
    let served = Served {
        rows: rows.len(),
        documents: if query.include_docs { rows.len() } else { 0 },
    };
    let head = format!("{{\"total_rows\":{total},\"offset\":{offset},\"rows\":[\r\n").into_bytes();
    let render = move |row: &ViewRow, out: &mut Vec<u8>| render_view_row(row, &query, out);
    Ok(RowList {
        head,
        rows,
        render,
        tail: b"\r\n]}\n".to_vec(),
    }
    .reply(served))
}

/// The view's map function, and whether it has a reduction, by its design document.
fn definition(database: &Database, design: &str, view: &str) -> Result<(MapFunction, bool), ApiError> {
    let document = database.get(&format!("_design/{design}"));
    let Some(document) = document.as_deref().filter(|document| !document.deleted) else {
        return Err(ApiError::absent(document.as_deref()));
    };
    let body: Value = serde_json::from_slice(&document.body).unwrap_or_default();
    let Some(definition) = body["views"].get(view) else {
        return Err(ApiError::not_found("missing_named_view"));
    };
    let map = MapFunction::find(design, view).ok_or_else(|| {
        let reason = format!("the stand-in has no map function for {design}/{view}");
        ApiError::new(StatusCode::NOT_IMPLEMENTED, "not_implemented", reason)
    })?;
    match definition
        .get("reduce")
        .map(|reduce| reduce.as_str().unwrap_or_default())
    {
        None => Ok((map, false)),
        Some("_count") => Ok((map, true)),
        Some(other) => {
            let reason = format!("the stand-in reduces by _count, not by {other}");
            Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, "not_implemented", reason))
        }
    }
}

fn check(query: &ListQuery, has_reduce: bool, is_reduced: bool) -> Result<(), ApiError> {
    if is_reduced && !has_reduce {
        return Err(ApiError::query("Reduce is invalid for map-only views."));
    }
    if is_reduced && query.include_docs {
        return Err(ApiError::query("`include_docs` is invalid for reduce"));
    }
    if !is_reduced && query.grouping != Grouping::Whole {
        return Err(ApiError::query("Invalid use of grouping on a map view."));
    }
    if is_reduced && query.keys.is_some() && query.grouping != Grouping::Exact {
        return Err(ApiError::query(
            "Multi-key fetches for reduce views must use `group=true`",
        ));
    }
    if query.keys.is_some() && (query.start.is_some() || query.end.is_some()) {
        return Err(ApiError::query(
            "`keys` is incompatible with `key`, `start_key` and `end_key`",
        ));
    }
    if let (Some(start), Some(end)) = (&query.start, &query.end) {
        let encoded = |key: &Value| {
            let mut out = Vec::new();
            collation::encode(key, &mut out);
            out
        };
        let (low, high) = if query.descending { (end, start) } else { (start, end) };
        if encoded(low) > encoded(high) {
            let reason = "No rows can match your key range, reverse your start_key and end_key or set descending=true";
            return Err(ApiError::query(reason));
        }
    }
    Ok(())
}

/// The key ranges of a query: one, or one for each of its keys.
fn key_ranges(query: &ListQuery) -> Vec<ListQuery> {
    let plain = ListQuery {
        keys: None,
        ..query.clone()
    };
    match &query.keys {
        None => vec![plain],
        Some(keys) => {
            let one = |key: &Value| ListQuery {
                start: Some(key.clone()),
                end: Some(key.clone()),
                ..plain.clone()
            };
            keys.iter().map(one).collect()
        }
    }
}

fn ranks(index: &ViewIndex, query: &ListQuery) -> std::ops::Range<usize> {
    let (low_side, high_side) = sides(query);
    let start = (query.start.as_ref(), query.start_id.as_deref());
    let end = (query.end.as_ref(), query.end_id.as_deref());
    let (low, high) = if query.descending { (end, start) } else { (start, end) };
    let low = low.0.map(|key| Bound {
        key,
        id: low.1,
        side: low_side,
    });
    let high = high.0.map(|key| Bound {
        key,
        id: high.1,
        side: high_side,
    });
    index.ranks(low.as_ref(), high.as_ref())
}

fn mapped(index: &ViewIndex, query: &ListQuery, ranges: &[ListQuery]) -> (usize, Vec<ViewRow>) {
    let mut rows = Vec::new();
    let mut to_skip = query.skip;
    let mut offset = None;
    for range in ranges {
        let ranks = ranks(index, range);
        let skipped = to_skip.min(ranks.len());
        to_skip -= skipped;
        let left = query.limit - rows.len();
        let row = |(_, row): &(Box<[u8]>, ViewRow)| row.clone();
        if query.descending {
            offset.get_or_insert(index.rows.len() - ranks.end + skipped);
            rows.extend(
                index
                    .rows
                    .range(ranks.start..ranks.end - skipped)
                    .rev()
                    .take(left)
                    .map(row),
            );
        } else {
            offset.get_or_insert(ranks.start + skipped);
            rows.extend(index.rows.range(ranks.start + skipped..ranks.end).take(left).map(row));
        }
    }
    (offset.unwrap_or(0), rows)
}

/// Counts by group. Each group costs a look-up of its end, not a walk through its rows.
fn reduced(index: &ViewIndex, query: &ListQuery, ranges: &[ListQuery]) -> Vec<Value> {
    let mut rows = Vec::new();
    let wanted = query.skip.saturating_add(query.limit);
    for range in ranges {
        let mut left = ranks(index, range);
        while !left.is_empty() && rows.len() < wanted {
            let at = if query.descending { left.end - 1 } else { left.start };
            let Some((_, row)) = index.rows.range(at..at + 1).next() else {
                break;
            };
            let (group_key, low) = group_of(&row.key, query.grouping);
            let mut high = low.clone();
            high.push(AFTER);
            let start = index.rows.rank(&*low).max(left.start);
            let end = if low.is_empty() {
                left.end
            } else {
                index.rows.rank(&*high).min(left.end)
            };
            rows.push(json!({"key": group_key, "value": end - start}));
            left = if query.descending {
                left.start..start
            } else {
                end..left.end
            };
        }
    }
    rows.drain(..query.skip.min(rows.len()));
    rows
}

/// A row's group: its key, and the lower bound of its rows; what is greater begins with the bound and `AFTER`.
fn group_of(key: &str, grouping: Grouping) -> (Value, Vec<u8>) {
    let key: Value = serde_json::from_str(key).unwrap_or_default();
    let mut low = Vec::new();
    match (grouping, key) {
        (Grouping::Whole, _) => (Value::Null, low),
        (Grouping::Level(level), Value::Array(mut items)) if items.len() > level => {
            items.truncate(level);
            collation::encode_items(&items, &mut low);
            (Value::Array(items), low)
        }
        (_, key) => {
            collation::encode(&key, &mut low);
            (key, low)
        }
    }
}

fn render_view_row(row: &ViewRow, query: &ListQuery, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"id\":");
    push_text(&row.document.id, out);
    out.extend_from_slice(b",\"key\":");
    out.extend_from_slice(row.key.as_bytes());
    out.extend_from_slice(b",\"value\":null");
    if query.include_docs {
        out.extend_from_slice(b",\"doc\":");
        row.document.render(query.attachments, out);
    }
    out.push(b'}');
}
