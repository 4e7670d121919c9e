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
use super::recorded::{Recorded, compare};
use super::rows::{self, LEDGER_TRANSACTIONS, LEDGER_VALUES, Rows, STATES, STOCK_TRANSACTIONS, Table};
use super::{DOMAIN, Document, Documents, Outcome, keys, ledgers};
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
    /// Another document that has a row of this one now.
    other: Option<String>,
    /// The Couch document's id of now, where it has another one.
    stray: Option<String>,
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
                    .damage(world, client, rng, &way, (id, &free))
                    .await?
                    .map(|one| ((*id).clone(), one));
                if done.is_some() {
                    break;
                }
            }
            match done {
                Some((id, one)) => {
                    if let Some(other) = &one.other {
                        let label = format!("{}, there", one.label);
                        damaged.insert(other.clone(), self.untouched(other, label));
                    }
                    damaged.insert(id, one);
                }
                None => {
                    unfit += 1;
                    *outcome.impossible.entry(way.label()).or_default() += 1;
                }
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
        self.forget_uncompared(world, &damaged).await?;
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
        (id, free): (&str, &[&String]),
    ) -> Result<Option<Damaged>> {
        let document = &self.documents[id];
        let mut damaged = self.untouched(id, way.label());
        let database = world.source().forms().name();
        let is_legacy = !document.couch["_attachments"].is_null();
        match way {
            Way::Couch(depth) => {
                let Some(couch) = damaged.couch.as_mut().filter(|_| !is_legacy) else {
                    return Ok(None);
                };
                let Some(spot) = damage::damage_json(rng, couch, *depth) else {
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
            Way::CouchReference => {
                let Some(couch) = damaged.couch.as_mut().filter(|_| !is_legacy) else {
                    return Ok(None);
                };
                let Some(spot) = keys::couch_reference(rng, self.documents, id, couch) else {
                    return Ok(None);
                };
                damaged.label = format!("{} {spot}", way.label());
                world.source().stand_in().put(database, couch)?;
            }
            Way::CouchRename => {
                if is_legacy || !world.source().stand_in().delete(database, id) {
                    return Ok(None);
                }
                let mut renamed = document.couch.clone();
                let stray = keys::unknown(id);
                renamed["_id"] = stray.as_str().into();
                if let Some(members) = renamed.as_object_mut() {
                    members.remove("_rev");
                }
                world.source().stand_in().put(database, &renamed)?;
                damaged.stray = Some(stray);
                damaged.couch = None;
            }
            Way::Rename => {
                if !keys::rename(client, self.group, id).await? {
                    return Ok(None);
                }
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
                let pick = |rng: &mut StdRng, table: Table| {
                    let rows = document.rows.of(table).iter().filter(|row| usable(table, row));
                    rows.choose(rng)
                };
                let statement = match way {
                    Way::Swap(table, column) => {
                        pick(rng, *table).and_then(|row| keys::swap(rng, self.documents, id, (*table, column), row))
                    }
                    Way::Move(table) => pick(rng, *table)
                        .and_then(|row| keys::move_row(rng, free, id, *table, row))
                        .map(|(statement, other)| {
                            damaged.other = other;
                            statement
                        }),
                    _ => damage::statement(rng, way, id, &document.rows, &usable),
                };
                let Some(statement) = statement else {
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

    /// Takes off the record what earlier rounds have left there of forms that nobody compares as they are now.
    async fn forget_uncompared(&self, world: &World, damaged: &BTreeMap<String, Damaged>) -> Result<()> {
        let is_compared = |one: &Damaged| one.couch.as_ref().is_some_and(|couch| couch["domain"] == DOMAIN);
        let ids: Vec<&String> = damaged
            .iter()
            .filter(|(_, one)| self.group == Group::Forms && !is_compared(one))
            .map(|(id, _)| id)
            .collect();
        for table in ["doc_diff", "doc_change"] {
            let delete = format!("delete from {table} where doc_id = any($1)");
            world.state().execute(&delete, &[&ids]).await?;
        }
        Ok(())
    }

    /// A document to which nothing was done itself.
    fn untouched(&self, id: &str, label: String) -> Damaged {
        let document = &self.documents[id];
        Damaged {
            label,
            couch: Some(document.couch.clone()),
            body: document.body.clone(),
            file: None,
            other: None,
            stray: None,
        }
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
        // Where the rows lead to no XML any more, or not as it is stored, the form is empty for HQ; or it says what the form says
        // to whose XML they lead.
        let body = if rows.xml() == document.rows.xml() {
            &one.body
        } else {
            let others = self.documents.values().filter(|_| rows.xml().is_some());
            let mut owners = others.filter(|other| other.rows.xml() == rows.xml());
            owners.next().map_or(&nothing, |owner| &owner.body)
        };
        let sql = super::json(self.group, rows, body);
        let mut expectation = Expectation::default();
        let is_elsewhere = |side: &Value| side["domain"] != DOMAIN;
        match (self.group, &one.couch, &sql) {
            // Such a form is none of this domain's, and is left to whoever migrates that one.
            (Group::Forms, Some(couch), _) if is_elsewhere(couch) => {}
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
        recorded: Option<&BTreeSet<Recorded>>,
        outcome: &mut Outcome,
    ) {
        let document = &self.documents[id];
        let expectation = self.expect(id, document, one, rows);
        let nothing = BTreeSet::new();
        let recorded = recorded.unwrap_or(&nothing);
        outcome.count += 1;
        let label = one.label.split(" /").next().unwrap_or_default().to_owned();
        *outcome.damaged.entry(label).or_default() += 1;
        let expected = &expectation.found;
        let reported: BTreeSet<&(String, String)> = recorded.iter().map(|one| &one.at).collect();
        // A case that differs is looked at again by its forms, which may be told beside what differs.
        let unknown: Vec<&&(String, String)> = reported
            .iter()
            .filter(|at| !expected.contains(**at) && at.1 != "?")
            .collect();
        if !unknown.is_empty() {
            outcome.extra.push(format!(
                "{id}, damaged at {}: {unknown:?} beside {expected:?}",
                one.label
            ));
        }
        // Whoever explains a difference by what a rebuild makes of the forms says that Couch's side is wrong. Other reasons are
        // those of a side that has no stock, whose damage they rightly name.
        let is_founded = |found: &Recorded| match found.reason.as_deref() {
            None | Some("missing couch stock transaction") => true,
            // A rebuild leaves the owner empty where no action names one, and HQ's rules take any owner for right beside that.
            Some("rebuild case") if found.at.1 == "owner_id" => true,
            Some(_) => one.couch.as_ref() != Some(&document.couch),
        };
        let unfounded: Vec<&Recorded> = recorded.iter().filter(|found| !is_founded(found)).collect();
        if !unfounded.is_empty() {
            outcome
                .extra
                .push(format!("{id}, damaged at {}: explained by {unfounded:?}", one.label));
        }
        for found in recorded {
            let reason = found.reason.clone().unwrap_or_else(|| "a difference".to_owned());
            *outcome.reasons.entry(reason).or_default() += 1;
        }
        if expected.is_empty() {
            *outcome
                .allowed
                .entry(self.allowed_by(document, one, &expectation))
                .or_default() += 1;
            return;
        }
        let silent: Vec<&(String, String)> = expected.iter().filter(|at| !reported.contains(at)).collect();
        if silent.is_empty() {
            outcome.found += 1;
        } else if recorded.is_empty() && self.is_repaired(document, one, after) {
            outcome.found += 1;
            outcome.repaired += 1;
        } else {
            outcome.missed.push(format!(
                "{id}, damaged at {}: {silent:?} of {expected:?}, on record {reported:?}",
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
        match (self.group, &one.couch) {
            (Group::Forms, None) => {
                return "forms: gone from Couch, which the look for missing documents finds".to_owned();
            }
            (Group::Forms, Some(couch)) if couch["domain"] != DOMAIN => {
                return "forms: of another domain in Couch, which none of this domain's commands reads".to_owned();
            }
            _ => {}
        }
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
            if let Some(stray) = &one.stray {
                world.source().stand_in().delete(database, stray);
            }
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
