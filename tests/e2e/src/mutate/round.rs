//! One round: some documents are damaged, all of them and some others are compared again, and everything is put back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use serde_json::Value;
use tokio_postgres::Client;

use super::damage::{self, Way};
use super::ledgers::Hidden;
use super::oracle::{self, Expectation, Group};
use super::rows::{self, LEDGER_TRANSACTIONS, LEDGER_VALUES, Rows, STATES, STOCK_TRANSACTIONS, Table};
use super::{DOMAIN, Document, Documents, Outcome, ledgers};
use crate::world::World;

/// Damages of one round at most.
const AT_ONCE: usize = 200;
/// Documents that are looked at for one way to damage them.
const TRIES: usize = 40;

pub(super) struct Round<'a> {
    group: Group,
    documents: &'a Documents,
    hidden: &'a Hidden,
    wanted: usize,
}

/// What was done to a document.
struct Damaged {
    label: String,
    /// The Couch document as it is now; none if it is gone.
    couch: Option<Value>,
    /// What the XML says now.
    body: Value,
    /// A file that was changed, with what it held.
    file: Option<(PathBuf, Vec<u8>)>,
}

impl<'a> Round<'a> {
    pub(super) fn new(group: Group, documents: &'a Documents, hidden: &'a Hidden, wanted: usize) -> Self {
        Self {
            group,
            documents,
            hidden,
            wanted: wanted.min(AT_ONCE).min(documents.len().div_ceil(2)),
        }
    }

    pub(super) async fn play(
        &self,
        world: &mut World,
        client: &mut Client,
        rng: &mut StdRng,
        ways: &mut impl Iterator<Item = Way>,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let mut damaged: BTreeMap<String, Damaged> = BTreeMap::new();
        let mut unfit = 0;
        while damaged.len() < self.wanted {
            let way = ways.next().context("there is no way to damage anything")?;
            let free: Vec<&String> = self.documents.keys().filter(|id| !damaged.contains_key(*id)).collect();
            let mut done = None;
            for _ in 0..TRIES {
                let Some(id) = free.iter().choose(rng) else { break };
                done = self
                    .damage(world, client, rng, &way, id)
                    .await?
                    .map(|one| ((*id).clone(), one));
                if done.is_some() {
                    break;
                }
            }
            match done {
                Some((id, one)) => drop(damaged.insert(id, one)),
                None => unfit += 1,
            }
            ensure!(unfit < 10_000, "nothing is left to be damaged");
        }
        let ids: Vec<String> = damaged.keys().cloned().collect();
        let rows = rows::read(client, self.group, &ids).await?;
        // Some that are in order, too.
        let others = self
            .documents
            .keys()
            .filter(|id| !damaged.contains_key(*id) && rng.random_bool(0.15));
        let recorded = compare(world, self.group, ids.iter().chain(others)).await?;
        let after = rows::read(client, self.group, &ids).await?;
        for (id, one) in &damaged {
            let nothing = Rows::default();
            let sides = (rows.get(id).unwrap_or(&nothing), after.get(id).unwrap_or(&nothing));
            self.judge(id, one, sides, recorded.get(id), outcome);
        }
        for (id, found) in recorded.iter().filter(|(id, _)| !damaged.contains_key(*id)) {
            outcome.extra.push(format!("{id}, which was not damaged: {found:?}"));
        }
        self.restore(world, client, &damaged).await
    }

    /// Damages a document, if it can be damaged in this way.
    async fn damage(
        &self,
        world: &World,
        client: &mut Client,
        rng: &mut StdRng,
        way: &Way,
        id: &str,
    ) -> Result<Option<Damaged>> {
        let document = &self.documents[id];
        let mut damaged = Damaged {
            label: way.label(),
            couch: Some(document.couch.clone()),
            body: document.body.clone(),
            file: None,
        };
        let database = world.source().forms().name();
        let is_legacy = !document.couch["_attachments"].is_null();
        match way {
            Way::Couch(depth) => {
                let Some(couch) = damaged.couch.as_mut().filter(|_| !is_legacy) else {
                    return Ok(None);
                };
                let Some(spot) = damage::damage_json(rng, self.group, couch, *depth) else {
                    return Ok(None);
                };
                damaged.label = format!("{} {spot}", way.label());
                world.source().stand_in().put(database, couch)?;
            }
            Way::CouchType => {
                let present = document.couch["doc_type"].as_str().unwrap_or_default();
                let other = damage::other_type(rng, self.group, present).filter(|_| !is_legacy);
                let (Some(couch), Some(other)) = (damaged.couch.as_mut(), other) else {
                    return Ok(None);
                };
                couch["doc_type"] = other.into();
                world.source().stand_in().put(database, couch)?;
            }
            Way::CouchGone => {
                if is_legacy || !world.source().stand_in().delete(database, id) {
                    return Ok(None);
                }
                damaged.couch = None;
            }
            Way::Xml | Way::XmlGone => {
                let Some(key) = damage::xml_key(&document.rows) else {
                    return Ok(None);
                };
                let path = world.folder().join("blobs").join(key);
                let Ok(content) = std::fs::read(&path) else {
                    return Ok(None);
                };
                if *way == Way::XmlGone {
                    std::fs::remove_file(&path)?;
                    damaged.body = Value::Object(serde_json::Map::new());
                } else {
                    let xml = String::from_utf8_lossy(&content).into_owned();
                    let Some(other) = damage::change_answer(rng, &xml, &mut damaged.body) else {
                        return Ok(None);
                    };
                    std::fs::write(&path, other)?;
                }
                damaged.file = Some((path, content));
            }
            Way::DeleteDocument => {
                let tx = client.transaction().await?;
                let tables = self.group.tables().iter().rev();
                for table in tables.filter(|table| ![STATES, STOCK_TRANSACTIONS].contains(*table)) {
                    tx.execute(&format!("delete from {} where {} = $1", table.name, table.key), &[&id])
                        .await?;
                }
                tx.commit().await?;
            }
            _ => {
                let usable = |table: Table, row: &rows::Row| self.is_usable(way, &document.rows, table, row);
                let Some(statement) = damage::statement(rng, way, id, &document.rows, &usable) else {
                    return Ok(None);
                };
                if client.execute(&statement.sql, &[&statement.text]).await.is_err() {
                    // A constraint of the table does not let it happen.
                    return Ok(None);
                }
            }
        }
        Ok(Some(damaged))
    }

    /// Where no state is shown, stock transactions are what is compared: a world of its own. Another state of an archived
    /// product would not be shown either.
    fn is_usable(&self, way: &Way, rows: &Rows, table: Table, row: &rows::Row) -> bool {
        let is_same = |state: &&rows::Row| {
            ["section_id", "product_id"]
                .iter()
                .all(|name| state[*name] == row[*name])
        };
        match table {
            STOCK_TRANSACTIONS => {
                let state = rows.of(STATES).iter().find(is_same);
                state.is_some_and(|state| !self.hidden.contains(state))
            }
            STATES if *way == Way::Insert(STATES) => !self.hidden.contains(row),
            _ => true,
        }
    }

    fn expect(&self, id: &str, document: &Document, one: &Damaged, rows: &Rows) -> Expectation {
        let nothing = Value::Object(serde_json::Map::new());
        // Where the rows lead to the XML no more, or not as it is stored, the form is empty for HQ.
        let leads_there = rows.xml() == document.rows.xml();
        let sql = super::json(self.group, rows, if leads_there { &one.body } else { &nothing });
        let mut expectation = Expectation::default();
        let is_elsewhere = |side: &Value| side["domain"] != DOMAIN;
        match (self.group, &one.couch, &sql) {
            (Group::Forms, Some(couch), sql) => {
                return oracle::expect(self.group, couch, sql.as_ref().unwrap_or(&nothing), &document.no_action);
            }
            (Group::Cases, Some(couch), sql) => {
                if is_elsewhere(couch) || sql.as_ref().is_some_and(is_elsewhere) {
                    expectation.keep("diff", "domain");
                    return expectation;
                }
                match sql {
                    Some(sql) => expectation = oracle::expect(self.group, couch, sql, &document.no_action),
                    None => expectation.keep("missing", "*"),
                }
                for path in ledgers::expect(id, &document.rows, rows, self.hidden) {
                    expectation.keep("", path);
                }
            }
            (Group::Cases, None, Some(_)) => expectation.keep("missing", "*"),
            (_, None, _) => {}
        }
        expectation
    }

    fn judge(
        &self,
        id: &str,
        one: &Damaged,
        (rows, after): (&Rows, &Rows),
        recorded: Option<&BTreeSet<(String, String)>>,
        outcome: &mut Outcome,
    ) {
        let document = &self.documents[id];
        let expectation = self.expect(id, document, one, rows);
        let nothing = BTreeSet::new();
        let recorded = recorded.unwrap_or(&nothing);
        outcome.count += 1;
        let label = one.label.split(" /").next().unwrap_or_default().to_owned();
        *outcome.damaged.entry(label).or_default() += 1;
        let roots = expectation.roots();
        let reported: BTreeSet<&str> = recorded.iter().map(|(_, path)| oracle::root(path)).collect();
        // A case that differs is looked at again by its forms, which may be told beside what differs.
        let unknown: Vec<&&str> = reported
            .iter()
            .filter(|root| !roots.contains(**root) && **root != "?")
            .collect();
        if !unknown.is_empty() {
            outcome
                .extra
                .push(format!("{id}, damaged at {}: {unknown:?} beside {roots:?}", one.label));
        }
        if roots.is_empty() {
            *outcome
                .allowed
                .entry(self.allowed_by(document, one, &expectation))
                .or_default() += 1;
            return;
        }
        let silent: Vec<&&str> = roots.iter().filter(|root| !reported.contains(**root)).collect();
        if silent.is_empty() {
            outcome.found += 1;
        } else if recorded.is_empty() && self.is_repaired(document, one, after) {
            outcome.found += 1;
            outcome.repaired += 1;
        } else {
            outcome.missed.push(format!(
                "{id}, damaged at {}: {silent:?} of {roots:?}, on record {reported:?}",
                one.label
            ));
        }
    }

    /// Whether a comparison that rebuilds cases has made SQL's side what it was.
    fn is_repaired(&self, document: &Document, one: &Damaged, after: &Rows) -> bool {
        let is_same = |table| document.rows.of(table).len() == after.of(table).len();
        self.group == Group::Cases
            && one.couch.as_ref() == Some(&document.couch)
            && is_same(LEDGER_VALUES)
            && rows::case_json(&document.rows) == rows::case_json(after)
    }

    /// By which rule a damage is allowed that is not to be reported.
    fn allowed_by(&self, document: &Document, one: &Damaged, expectation: &Expectation) -> String {
        let sql = super::json(self.group, &document.rows, &document.body).unwrap_or_default();
        let clean = oracle::expect(self.group, &document.couch, &sql, &document.no_action);
        let known = |raw: &oracle::Raw| clean.allowed.iter().any(|(other, _)| other == raw);
        let rule = expectation.allowed.iter().find(|(raw, _)| !known(raw));
        let table = [LEDGER_TRANSACTIONS, STATES, STOCK_TRANSACTIONS];
        let of_stock = table.iter().find(|table| one.label.starts_with(table.name));
        match (rule, of_stock) {
            (Some((_, rule)), _) => rule.clone(),
            (None, Some(table)) => format!("stock: {} beside what is compared of a ledger", table.name),
            (None, None) if one.label.starts_with("Couch") => "Couch: equal to what SQL says".to_owned(),
            (None, None) => format!("SQL: {} is not in HQ's JSON", one.label),
        }
    }

    async fn restore(&self, world: &World, client: &mut Client, damaged: &BTreeMap<String, Damaged>) -> Result<()> {
        let database = world.source().forms().name();
        for (id, one) in damaged {
            let document = &self.documents[id];
            if one.couch.as_ref() != Some(&document.couch) {
                world.source().stand_in().put(database, &document.couch)?;
            }
            if let Some((path, content)) = &one.file {
                std::fs::write(path, content)?;
            }
        }
        let rows = damaged
            .keys()
            .map(|id| (id.clone(), self.documents[id].rows.clone()))
            .collect();
        rows::restore(client, self.group, &rows).await
    }
}

/// Compares these documents. What is on record of each afterwards, as (kind, path).
pub(super) async fn compare(
    world: &mut World,
    group: Group,
    ids: impl Iterator<Item = &String>,
) -> Result<BTreeMap<String, BTreeSet<(String, String)>>> {
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
    let mut recorded: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
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

/// A recorded difference as (kind, path).
fn told(entry: &Value) -> (String, String) {
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
