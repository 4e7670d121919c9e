//! Damages a migrated domain that is in order, one place a document, and sees whether the diff finds each damage that the
//! rules do not allow, and nothing else.
//!
//! ```text
//!   generated domain -> MIGRATE -> round: damage some documents -> what must be found?   (oracle: HQ's rules, a second time)
//!                                    ^    compare them again     -> what is on record?   (couch_sql_diff)
//!                                    +--- put everything back
//! ```
//!
//! The expectation shares no code with what is tested: rows are read by plain queries, made into HQ's JSON and compared
//! with the Couch document here.

mod damage;
mod keys;
mod ledgers;
mod oracle;
mod recorded;
mod round;
mod rows;
mod rules;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use generator::supply::{self, SupplyOptions, SupplyWeights};
use generator::{GeneratedDomain, Weights};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde_json::Value;
use tokio_postgres::Client;

use self::oracle::{Group, Tally};
use self::rows::Rows;
use crate::world::{self, World};

/// The domain.
const DOMAIN: &str = "mutate";

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Options {
    /// Damages.
    pub count: usize,
    /// Decides all of them.
    pub seed: u64,
    /// Forms of households in the domain.
    pub forms: usize,
    /// Locations of a supply chain in the domain.
    pub locations: usize,
    /// What is damaged.
    pub documents: Kinds,
}

/// Kinds of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinds {
    /// Forms and cases with their ledgers.
    All,
    /// Cases with their ledgers.
    Cases,
    /// Forms.
    Forms,
}

impl Kinds {
    const fn groups(self) -> &'static [Group] {
        match self {
            Self::All => &[Group::Cases, Group::Forms],
            Self::Cases => &[Group::Cases],
            Self::Forms => &[Group::Forms],
        }
    }
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Damages done.
    pub count: usize,
    /// Damages that were found; of them those that the comparison repaired.
    pub found: usize,
    /// Damages of cases in SQL that the comparison itself has undone by a rebuild.
    pub repaired: usize,
    /// Damages that the rules allow, by rule.
    pub allowed: Tally,
    /// What was damaged how often.
    pub damaged: Tally,
    /// What could not be damaged, and how often that was tried: no document has such a thing, or a constraint of HQ's tables
    /// does not let it happen.
    pub impossible: Tally,
    /// Whether what was found counts as a difference, or as a change, with its reason.
    pub reasons: Tally,
    /// Damages that had to be found, and were not.
    pub missed: Vec<String>,
    /// Findings that nobody expected.
    pub extra: Vec<String>,
}

/// A document that is in order.
struct Document {
    couch: Value,
    rows: Rows,
    /// What the XML of a form says; of cases nothing.
    body: Value,
    /// Forms that Couch's case does not list, since they did nothing to it.
    no_action: BTreeSet<String>,
}

/// All documents of a group, by id.
type Documents = BTreeMap<String, Document>;

/// Migrates a domain, damages it, compares, and so on until there are enough damages.
///
/// # Errors
/// Those of the servers; a domain that is not in order before the first damage or after the last.
pub async fn run(options: &Options) -> Result<Outcome> {
    let settings = world::Options::in_process().with("domains.case_attachments", &format!("[\"{DOMAIN}\"]"));
    let mut world = World::start(settings).await?;
    world.load(&domain(options)).await?;
    let migrated = world.domain(DOMAIN, "MIGRATE", &[]).await?;
    ensure!(migrated.status == Some(0), "{}", migrated.told());
    let mut client = world.another_target().await?;

    let mut rng = StdRng::seed_from_u64(options.seed);
    let mut outcome = Outcome::default();
    let mut groups = Vec::new();
    for &group in options.documents.groups() {
        let documents = documents(&world, &client, group).await?;
        let mut ways = damage::ways(&client, group).await?;
        ways.shuffle(&mut rng);
        groups.push((group, documents, ways.into_iter().cycle()));
    }
    let hidden = ledgers::Hidden::read(&client).await?;
    let mut turn = 0;
    while outcome.count < options.count {
        let kinds = groups.len();
        let (group, documents, ways) = &mut groups[turn % kinds];
        turn += 1;
        let round = round::Round::new(*group, documents, &hidden, options.count - outcome.count);
        round
            .play(&mut world, &mut client, &mut rng, ways, &mut outcome)
            .await?;
        eprintln!(
            "{} damages: {} found, {} missed, {} findings too many",
            outcome.count,
            outcome.found,
            outcome.missed.len(),
            outcome.extra.len()
        );
    }
    // Everything was put back: a comparison finds nothing, and takes back what is on record.
    for (group, documents, _) in &groups {
        let left = recorded::compare(&mut world, *group, documents.keys()).await?;
        let left = left
            .iter()
            .map(|(id, found)| format!("{id}, which was put back: {found:?}"));
        outcome.extra.extend(left);
    }
    let all = world.coordinator(&["couch_sql_diff", DOMAIN, "cases"]).await?;
    if all.status != Some(0) {
        outcome
            .extra
            .push(format!("when everything was put back: {}", all.told()));
    }
    world.end()?;
    Ok(outcome)
}

/// Households and a supply chain in one domain.
fn domain(options: &Options) -> GeneratedDomain {
    let households = generator::Options {
        case_attachments: true,
        weights: Weights::default(),
        ..generator::Options::new(DOMAIN, options.forms, options.seed)
    };
    let mut domain = generator::generate(&households);
    let chain = supply::generate(&SupplyOptions {
        locations: options.locations,
        products: 4,
        weeks: 6,
        weights: SupplyWeights::orderly(),
        ..SupplyOptions::new(DOMAIN, options.seed.wrapping_add(1))
    });
    domain.docs.extend(chain.docs);
    domain.blobs.extend(chain.blobs);
    domain.blobmeta.extend(chain.blobmeta);
    domain.stock.absorb(chain.stock);
    domain
}

/// The documents that both sides have. The expectation must agree that they are in order.
async fn documents(world: &World, client: &Client, group: Group) -> Result<Documents> {
    let stand_in = world.source().stand_in();
    let database = world.source().forms().name();
    let mut couch: BTreeMap<String, Value> = BTreeMap::new();
    for id in stand_in.ids(database) {
        let Some(document) = stand_in.get(database, &id) else {
            continue;
        };
        let kind = document["doc_type"].as_str().unwrap_or_default();
        let is_case = kind.starts_with("CommCareCase");
        let is_form = !is_case && !kind.is_empty() && kind != "SubmissionErrorLog";
        if (group == Group::Cases && is_case) || (group == Group::Forms && is_form) {
            couch.insert(id, document);
        }
    }
    let ids: Vec<String> = couch.keys().cloned().collect();
    let rows = rows::read(client, group, &ids).await?;
    let mut documents = Documents::new();
    for (id, rows) in rows {
        let couch = couch.remove(&id).context("an id that nobody asked for")?;
        let body = couch["form"].clone();
        let mut document = Document {
            couch,
            rows,
            body,
            no_action: BTreeSet::new(),
        };
        let Some(sql) = json(group, &document.rows, &document.body) else {
            continue;
        };
        let listed = |side: &Value| -> BTreeSet<String> {
            let ids = side["xform_ids"].as_array().into_iter().flatten();
            ids.filter_map(|id| id.as_str().map(str::to_owned)).collect()
        };
        document.no_action = &listed(&sql) - &listed(&document.couch);
        let clean = oracle::expect(group, &document.couch, &sql, &document.no_action);
        ensure!(
            clean.found.is_empty(),
            "{id}, a {}, is not in order by the expectation: {:?}",
            document.couch["doc_type"],
            clean.found
        );
        documents.insert(id, document);
    }
    ensure!(!documents.is_empty(), "there are no documents to damage");
    Ok(documents)
}

/// HQ's JSON of a document with these rows; none if it is not there.
fn json(group: Group, rows: &Rows, body: &Value) -> Option<Value> {
    match group {
        Group::Forms => rows::form_json(rows, body),
        Group::Cases => rows::case_json(rows),
    }
}
