//! Ways to damage a document, and one of them carried out.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use chrono::{DateTime, Duration, Utc};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::oracle::Group;
use super::rows::{
    ATTACHMENTS, BLOBMETA, CASES, FORMS, INDICES, LEDGER_VALUES, OPERATIONS, Row, Rows, STATES, STOCK_TRANSACTIONS,
    TRANSACTIONS, Table,
};

/// One way to damage a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A column of one row gets another value.
    Column(Table, Column),
    /// A column of one row gets the value that it has in a row of another document.
    Swap(Table, Column),
    /// A row goes over to another document.
    Move(Table),
    /// The document's rows are another document's, which nobody knows.
    Rename,
    /// A row goes.
    Delete(Table),
    /// A row appears.
    Insert(Table),
    /// A member of a JSON column changes, goes or appears.
    Member(Table, &'static str),
    /// The document's row goes with all that hangs on it.
    DeleteDocument,
    /// The XML of a form says something else.
    Xml,
    /// The XML of a form is gone.
    XmlGone,
    /// A property of the Couch document: of the first level, or anywhere.
    Couch(Depth),
    /// A reference of the Couch document leads to what another document refers to.
    CouchReference,
    /// The Couch document has another id, which nobody knows.
    CouchRename,
    /// The Couch document becomes one of another type.
    CouchType,
    /// The Couch document is gone.
    CouchGone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    Top,
    Any,
}

/// A column as the database describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: String,
    nullable: bool,
    length: Option<i32>,
}

impl Way {
    /// For the tally of what was damaged.
    pub(super) fn label(&self) -> String {
        match self {
            Self::Column(table, column) => format!("{}.{}", table.name, column.name),
            Self::Swap(table, column) => format!("{}.{}: that of another document", table.name, column.name),
            Self::Move(table) => format!("{}: a row goes over to another document", table.name),
            Self::Rename => "SQL: the document's id".to_owned(),
            Self::CouchReference => "Couch: a reference".to_owned(),
            Self::CouchRename => "Couch: the document's id".to_owned(),
            Self::Delete(table) => format!("{}: a row goes", table.name),
            Self::Insert(table) => format!("{}: a row appears", table.name),
            Self::Member(table, column) => format!("{}.{column}: a member", table.name),
            Self::DeleteDocument => "SQL: the document goes".to_owned(),
            Self::Xml => "form.xml: an answer".to_owned(),
            Self::XmlGone => "form.xml goes".to_owned(),
            Self::Couch(Depth::Top) => "Couch: a property".to_owned(),
            Self::Couch(Depth::Any) => "Couch: anything".to_owned(),
            Self::CouchType => "Couch: the document's type".to_owned(),
            Self::CouchGone => "Couch: the document goes".to_owned(),
        }
    }
}

/// Columns by which a row belongs to something else: any other value is a value of another row.
fn is_key(table: Table, column: &str) -> bool {
    matches!(
        (table, column),
        (STATES | STOCK_TRANSACTIONS, "sql_product_id") | (STOCK_TRANSACTIONS, "report_id")
    )
}

/// Columns that name something beside the row.
fn is_reference(column: &str) -> bool {
    column.ends_with("_id") || matches!(column, "key" | "identifier" | "name" | "type" | "domain")
}

/// All ways to damage documents of a group.
pub(super) async fn ways(client: &Client, group: Group) -> Result<Vec<Way>> {
    let mut ways = Vec::new();
    for table in group.tables() {
        let query = "select column_name::text, udt_name::text, is_nullable::text, character_maximum_length::int
                     from information_schema.columns where table_name = $1 order by ordinal_position";
        for row in client.query(query, &[&table.name]).await.context(table.name)? {
            let column = Column {
                name: row.get(0),
                kind: row.get(1),
                nullable: row.get::<_, String>(2) == "YES",
                length: row.get(3),
            };
            if column.name == table.key {
                continue;
            }
            if column.name != "id" && is_reference(&column.name) {
                ways.push(Way::Swap(*table, column.clone()));
            }
            if !is_key(*table, &column.name) {
                ways.push(Way::Column(*table, column));
            }
        }
        if ![FORMS, CASES].contains(table) {
            ways.push(Way::Move(*table));
        }
        if ![FORMS, CASES].contains(table) {
            ways.extend([Way::Delete(*table), Way::Insert(*table)]);
        }
    }
    ways.extend([Way::DeleteDocument, Way::Rename, Way::CouchGone, Way::CouchRename]);
    ways.extend([const { Way::CouchReference }; 8]);
    match group {
        Group::Forms => {
            ways.extend([Way::Xml, Way::Xml, Way::XmlGone, Way::CouchType, Way::CouchType]);
            ways.extend(["auth_context", "openrosa_headers"].map(|column| Way::Member(FORMS, column)));
            ways.extend([Depth::Top; 10].map(Way::Couch));
            ways.extend([Depth::Any; 14].map(Way::Couch));
        }
        Group::Cases => {
            ways.push(Way::CouchType);
            ways.extend([const { Way::Member(CASES, "case_json") }; 4]);
            ways.extend([Depth::Top; 18].map(Way::Couch));
            ways.extend([Depth::Any; 18].map(Way::Couch));
        }
    }
    Ok(ways)
}

/// What is to be done in SQL.
#[derive(Clone, Debug)]
pub(super) struct Statement {
    pub(super) sql: String,
    pub(super) text: Option<String>,
}

/// Chooses what happens to the usable rows of a document; none if it has no such row.
pub(super) fn statement(
    rng: &mut StdRng,
    way: &Way,
    id: &str,
    rows: &Rows,
    usable: &dyn Fn(Table, &Row) -> bool,
) -> Option<Statement> {
    let pick = |rng: &mut StdRng, table: Table| {
        let rows: Vec<&Row> = rows.of(table).iter().filter(|row| usable(table, row)).collect();
        rows.choose(rng).map(|row| (*row).clone())
    };
    let row_id = |row: &Row| row["id"].as_i64();
    match way {
        Way::Column(table, column) => {
            let row = pick(rng, *table)?;
            let text = other_value(rng, column, &row[&column.name], *table)?;
            let cast = &column.kind;
            Some(Statement {
                sql: format!(
                    "update {} set {} = $1::text::{cast} where id = {}",
                    table.name,
                    column.name,
                    row_id(&row)?
                ),
                text,
            })
        }
        Way::Delete(table) => {
            let row = pick(rng, *table)?;
            let sql = format!(
                "delete from {} where id = {} and $1::text is null",
                table.name,
                row_id(&row)?
            );
            Some(Statement { sql, text: None })
        }
        Way::Insert(table) => insertion(*table, id, rows, pick(rng, *table).as_ref()),
        Way::Member(table, column) => {
            let row = rows.of(*table).first()?.clone();
            let mut object: Value = serde_json::from_str(row[*column].as_str()?).ok()?;
            let members = object.as_object_mut()?;
            let name = members.keys().cloned().collect::<Vec<_>>().choose(rng).cloned();
            match (rng.random_range(0..3_u8), name) {
                (0, Some(name)) => drop(members.remove(&name)),
                (1, Some(name)) => {
                    let other = other_json(rng, &members[&name]);
                    members.insert(name, other);
                }
                _ => drop(members.insert("damage".to_owned(), json!("damage"))),
            }
            Some(Statement {
                sql: format!(
                    "update {} set {column} = $1::text where id = {}",
                    table.name,
                    row_id(&row)?
                ),
                text: Some(object.to_string()),
            })
        }
        Way::DeleteDocument
        | Way::Swap(..)
        | Way::Move(_)
        | Way::Rename
        | Way::Xml
        | Way::XmlGone
        | Way::Couch(_)
        | Way::CouchReference
        | Way::CouchRename
        | Way::CouchType
        | Way::CouchGone => None,
    }
}

/// A row more: one of its own, or another like one that the document has.
fn insertion(table: Table, id: &str, rows: &Rows, like: Option<&Row>) -> Option<Statement> {
    let parent = if [OPERATIONS, BLOBMETA].contains(&table) {
        FORMS
    } else {
        CASES
    };
    rows.of(parent).first()?;
    let sql = match table {
        OPERATIONS => {
            "insert into form_processor_xformoperationsql (form_id, user_id, operation, date)
                       values ($1, 'u', 'archive', now())"
        }
        INDICES => {
            "insert into form_processor_commcarecaseindexsql
                        (case_id, domain, identifier, referenced_id, referenced_type, relationship_id)
                    values ($1, 'mutate', 'damage', 'damage', 'damage', 1)"
        }
        TRANSACTIONS => {
            "insert into form_processor_casetransaction (case_id, form_id, server_date, type, revoked, details)
                         values ($1, 'damage', now(), 1, false, '{}')"
        }
        ATTACHMENTS => {
            "insert into form_processor_caseattachmentsql (case_id, attachment_id, name, properties, blob_id, md5)
                        values ($1, gen_random_uuid(), 'damage', '{}', 'damage', '')"
        }
        _ => {
            let row = like?["id"].as_i64()?;
            let other = match table {
                BLOBMETA => json!({"name": "damage", "key": "damage", "type_code": 3}),
                LEDGER_VALUES | STATES => json!({"section_id": "damage"}),
                _ => json!({}),
            };
            let name = table.name;
            return Some(Statement {
                sql: format!(
                    "insert into {name} select other.* from {name} t, json_populate_record(null::{name},
                         (row_to_json(t)::jsonb || $1::text::jsonb
                          || jsonb_build_object('id', nextval(pg_get_serial_sequence('{name}', 'id'))))::json) other
                     where t.id = {row}"
                ),
                text: Some(other.to_string()),
            });
        }
    };
    Some(Statement {
        sql: sql.to_owned(),
        text: Some(id.to_owned()),
    })
}

/// Another value of a column, as text; the outer `None` if there is none, the inner one for null.
#[allow(clippy::option_option, reason = "null is a value")]
fn other_value(rng: &mut StdRng, column: &Column, present: &Value, table: Table) -> Option<Option<String>> {
    let only_null = (table, column.name.as_str()) == (STATES, "sql_location_id")
        || (table, column.name.as_str()) == (STOCK_TRANSACTIONS, "sql_location_id");
    if column.nullable && !present.is_null() && (only_null || rng.random_bool(0.25)) {
        return Some(None);
    }
    if only_null {
        return None;
    }
    let number = present.as_i64().unwrap_or_default();
    if column.name == "id" {
        // Far from those that other rows have.
        return Some(Some((number + 1_000_000).to_string()));
    }
    let text = match (table, column.name.as_str()) {
        (FORMS, "state") => [1, 2, 4, 8, 16, 65]
            .into_iter()
            .filter(|state| *state != number)
            .collect::<Vec<_>>()
            .choose(rng)?
            .to_string(),
        (INDICES, "relationship_id") => (3 - number).to_string(),
        (FORMS, "auth_context" | "openrosa_headers") | (CASES, "case_json") | (TRANSACTIONS, "details") => {
            json!({"damage": "damage"}).to_string()
        }
        _ => match column.kind.as_str() {
            "bool" => (present != &json!(true)).to_string(),
            "int2" | "int4" | "int8" => (number + rng.random_range(1..5)).to_string(),
            "numeric" => format!("{}.5", rng.random_range(1..1000)),
            "timestamptz" => {
                let time = present
                    .as_str()
                    .and_then(|text| DateTime::parse_from_rfc3339(text).ok());
                let time = time.map_or(DateTime::UNIX_EPOCH, |time| time.with_timezone(&Utc));
                let by = if rng.random_bool(0.5) {
                    Duration::microseconds(1)
                } else {
                    Duration::days(3)
                };
                (time + by).to_rfc3339()
            }
            "uuid" => uuid::Uuid::from_u128(rng.random()).to_string(),
            _ => {
                let text = if rng.random_bool(0.2) {
                    String::new()
                } else {
                    format!("damage{}", rng.random_range(0..100))
                };
                let text = if present.as_str() == Some(&text) {
                    format!("{text}x")
                } else {
                    text
                };
                let length = column.length.and_then(|length| usize::try_from(length).ok());
                text.chars().take(length.unwrap_or(usize::MAX)).collect()
            }
        },
    };
    (present.as_str() != Some(&text)).then_some(Some(text))
}

/// Another value, of the same type or of another one.
fn other_json(rng: &mut StdRng, present: &Value) -> Value {
    let same = match present {
        Value::String(text) => match rng.random_range(0..4_u8) {
            0 => json!(format!("0{text}")),
            1 => json!(""),
            _ => json!(format!("{text}-damage")),
        },
        Value::Number(number) => json!(number.as_i64().unwrap_or_default() + 7),
        Value::Bool(flag) => json!(!flag),
        Value::Null => json!("damage"),
        Value::Array(items) => {
            let mut items = items.clone();
            if rng.random_bool(0.5) && items.len() > 1 {
                items.reverse();
            } else {
                items.push(json!("damage"));
            }
            Value::Array(items)
        }
        Value::Object(members) => {
            let mut members = members.clone();
            members.insert("damage".to_owned(), json!("damage"));
            Value::Object(members)
        }
    };
    let others = [
        json!(null),
        json!(41),
        json!(true),
        json!("damage"),
        json!(["damage"]),
        json!({"damage": "damage"}),
    ];
    let chosen = if rng.random_bool(0.6) {
        same
    } else {
        others.choose(rng).cloned().unwrap_or_default()
    };
    if chosen == *present { json!("damage") } else { chosen }
}

/// Another type of the same group.
pub(super) fn other_type(rng: &mut StdRng, group: Group, present: &str) -> Option<&'static str> {
    let types: &[&str] = match group {
        Group::Forms => &[
            "XFormInstance",
            "XFormArchived",
            "XFormDeprecated",
            "XFormDuplicate",
            "XFormError",
            "HQSubmission",
            "XFormInstance-Deleted",
        ],
        Group::Cases => &["CommCareCase", "CommCareCase-Deleted"],
    };
    let others: Vec<&'static str> = types.iter().copied().filter(|one| *one != present).collect();
    others.choose(rng).copied()
}

/// Properties that are not damaged in passing: they decide which document it is, or belong to the server.
fn is_kept(name: &str) -> bool {
    matches!(name, "_id" | "_rev" | "_attachments" | "doc_type")
}

/// Damages a Couch document at one place. Gives the place, or none if there is none.
pub(super) fn damage_json(rng: &mut StdRng, document: &mut Value, depth: Depth) -> Option<String> {
    let mut spots: Vec<String> = Vec::new();
    collect(document, "", depth, &mut spots);
    let spot = spots.choose(rng)?.clone();
    let (parent, name) = spot.rsplit_once('/')?;
    let name = name.replace("~1", "/").replace("~0", "~");
    let parent = document.pointer_mut(parent)?;
    match (rng.random_range(0..5_u8), parent) {
        (0, Value::Object(members)) => drop(members.remove(&name)),
        (1, Value::Object(members)) => drop(members.insert("damage".to_owned(), json!("damage"))),
        (_, Value::Object(members)) => {
            let other = other_json(rng, members.get(&name)?);
            members.insert(name, other);
        }
        (0, Value::Array(items)) => drop(items.remove(name.parse().ok()?)),
        (_, Value::Array(items)) => {
            let place: usize = name.parse().ok()?;
            items[place] = other_json(rng, items.get(place)?);
        }
        _ => return None,
    }
    Some(spot)
}

pub(super) fn collect(value: &Value, at: &str, depth: Depth, spots: &mut Vec<String>) {
    let is_top = at.is_empty();
    let mut visit = |name: &str, child: &Value| {
        if is_top && is_kept(name) {
            return;
        }
        let spot = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        if depth == Depth::Any {
            collect(child, &spot, depth, spots);
        }
        spots.push(spot);
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(name, child)| visit(name, child)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(place, child)| visit(&place.to_string(), child)),
        _ => {}
    }
}

/// Gives an answer of a form another text, in its XML and in the body that is made of it; none if no text stands for one
/// answer alone.
pub(super) fn change_answer(rng: &mut StdRng, xml: &str, body: &mut Value) -> Option<String> {
    let mut spots = Vec::new();
    collect(body, "", Depth::Any, &mut spots);
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for spot in spots {
        if let Some(text) = body.pointer(&spot).and_then(Value::as_str) {
            texts.entry(text.to_owned()).or_default().push(spot);
        }
    }
    let alone: Vec<(String, String)> = texts
        .into_iter()
        .filter(|(text, spots)| {
            let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b' ');
            is_plain && spots.len() == 1 && xml.matches(&format!(">{text}<")).count() == 1
        })
        // What stands about the submission is read in its own way.
        .filter(|(_, spots)| !spots[0].starts_with("/meta") && !spots[0].contains('@'))
        .map(|(text, mut spots)| (text, spots.remove(0)))
        .collect();
    let (text, spot) = alone.choose(rng)?.clone();
    *body.pointer_mut(&spot)? = json!("damage");
    Some(xml.replace(&format!(">{text}<"), ">damage<"))
}

/// The blob of a form's XML, if that is not compressed: it would have to be compressed again.
pub(super) fn xml_key(rows: &Rows) -> Option<String> {
    let (key, is_compressed) = rows.xml()?;
    (!is_compressed).then(|| key.to_owned())
}
