//! A domain of a supply chain: locations, each a case with its stock, that report what they have, receive, use up and pass
//! on.
//!
//! Locations stand together in districts of up to ten, between which nothing moves: a district is a [`Piece`] of its own.

mod district;
mod report;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::couch_stock::LastIds;
use crate::form::{User, random_hex};
use crate::options::{Options, Weights};
use crate::stock::{Product, StockRows};
use crate::story::{Story, users};
use crate::stream::{GeneratedDomain, Piece, collect, domain_doc, domain_seed, mix};

/// What a supply chain is like. The same options give the same bytes.
#[derive(Clone, Debug)]
pub struct SupplyOptions {
    /// Name of the domain.
    pub domain: String,
    /// Locations, each with a case of type `supply-point`.
    pub locations: usize,
    /// Products. The last of three or more is archived.
    pub products: usize,
    /// Weeks of reports; each location reports once a week.
    pub weeks: usize,
    /// Seed of all choices.
    pub seed: u64,
    /// When the domain began.
    pub start: DateTime<Utc>,
    /// Proportions of everything else.
    pub weights: SupplyWeights,
}

impl SupplyOptions {
    /// A small supply chain with the usual proportions: six locations, three products, eight weeks.
    pub fn new(domain: impl Into<String>, seed: u64) -> Self {
        Self {
            domain: domain.into(),
            locations: 6,
            products: 3,
            weeks: 8,
            seed,
            start: Options::default().start,
            weights: SupplyWeights::default(),
        }
    }

    fn plain(&self) -> Options {
        Options {
            domain: self.domain.clone(),
            seed: self.seed,
            start: self.start,
            days: 1,
            weights: Weights {
                legacy: 0.0,
                ties: 0.0,
                ..Weights::default()
            },
            ..Options::default()
        }
    }
}

/// Probabilities between 0 and 1.
#[derive(Clone, Debug)]
pub struct SupplyWeights {
    /// A report arrives some weeks late, with the date of the day that it is about.
    pub late: f64,
    /// A form is edited at once, before anything else comes in.
    pub edits: f64,
    /// A form is edited weeks later.
    pub late_edits: f64,
    /// A form is submitted again under another id.
    pub duplicates: f64,
    /// A further form is archived.
    pub archived: f64,
    /// A further form is of a kind that never reaches the stock: failed, with a problem, soft-deleted, a device's log.
    pub ineffective: f64,
    /// A location moves stock to another one, in a week.
    pub transfers: f64,
    /// A report also updates its location's case.
    pub case_blocks: f64,
    /// Ledger blocks have a prefix.
    pub prefixed: f64,
    /// Parts stand in and around the ledger blocks that look alike and mean nothing.
    pub decoys: f64,
    /// A form gives its quantities with fractions.
    pub fractions: f64,
    /// Two forms are received at one moment.
    pub ties: f64,
    /// The daily consumption of a ledger was worked out.
    pub daily_consumption: f64,
}

impl Default for SupplyWeights {
    fn default() -> Self {
        Self {
            late: 0.04,
            edits: 0.03,
            late_edits: 0.01,
            duplicates: 0.03,
            archived: 0.02,
            ineffective: 0.03,
            transfers: 0.35,
            case_blocks: 0.3,
            prefixed: 0.15,
            decoys: 0.15,
            fractions: 0.03,
            ties: 0.05,
            daily_consumption: 0.05,
        }
    }
}

impl SupplyWeights {
    /// Proportions that leave nothing to report: whatever comes, comes in order.
    pub fn orderly() -> Self {
        Self {
            late: 0.0,
            late_edits: 0.0,
            fractions: 0.0,
            daily_consumption: 0.0,
            ..Self::default()
        }
    }
}

/// Locations of one district.
const DISTRICT: usize = 10;

/// Generates a supply chain piece by piece; no more than one district is in memory.
pub fn stream(options: &SupplyOptions) -> impl Iterator<Item = Piece> + use<> {
    let plain = options.plain();
    let seed = domain_seed(&plain);
    Districts {
        products: products(options, seed),
        users: users(seed),
        seed,
        options: options.clone(),
        plain,
        number: 0,
        ids: LastIds::default(),
    }
}

/// Generates a whole supply chain.
pub fn generate(options: &SupplyOptions) -> GeneratedDomain {
    collect(self::domain_document(options), stream(options))
}

/// The Couch `Domain` document, on the Couch backend.
pub fn domain_document(options: &SupplyOptions) -> serde_json::Value {
    domain_doc(&options.plain())
}

struct Districts {
    options: SupplyOptions,
    plain: Options,
    products: Vec<Product>,
    users: Vec<User>,
    seed: u64,
    number: usize,
    ids: LastIds,
}

impl Iterator for Districts {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let made = self.number * DISTRICT;
        let locations = self.options.locations.saturating_sub(made).min(DISTRICT);
        if locations == 0 {
            return None;
        }
        let seed = mix(self.seed, self.number as u64);
        let story = Story::new(&self.plain, &self.users, seed, usize::MAX);
        let mut piece = district::District::new(story, &self.options, &self.products).piece(locations, &mut self.ids);
        if self.number == 0 {
            piece.stock.products.clone_from(&self.products);
        }
        self.number += 1;
        Some(piece)
    }
}

fn products(options: &SupplyOptions, seed: u64) -> Vec<Product> {
    const NAMES: [&str; 6] = [
        "ORS sachets",
        "पैरासिटामोल",
        "Amoxicillin 250 mg",
        "አርቴሜተር",
        "Condoms",
        "Zinc",
    ];
    let mut rng = StdRng::seed_from_u64(mix(seed, 0x570c));
    let archived = (options.products >= 3).then(|| options.products - 1);
    (0..options.products)
        .map(|number| Product {
            id: i32::try_from(number + 1).unwrap_or(i32::MAX),
            domain: options.domain.clone(),
            product_id: random_hex(&mut rng),
            name: format!("{} {number}", NAMES[number % NAMES.len()]),
            code: format!("p{number}"),
            is_archived: archived == Some(number),
            created_at: options.start - Duration::days(30),
        })
        .collect()
}

fn row_ids(products: &[Product]) -> BTreeMap<String, i32> {
    products
        .iter()
        .map(|product| (product.product_id.clone(), product.id))
        .collect()
}

fn archived(products: &[Product]) -> BTreeSet<String> {
    let archived = products.iter().filter(|product| product.is_archived);
    archived.map(|product| product.product_id.clone()).collect()
}

/// Rows of the stock tables beside those that forms brought.
fn beside(rows: StockRows, more: StockRows) -> StockRows {
    let mut all = rows;
    all.absorb(more);
    all
}
