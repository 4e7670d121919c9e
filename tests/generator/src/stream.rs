//! A domain as a stream of pieces.

use serde_json::{Value, json};

use crate::form::User;
use crate::household;
use crate::model::{ExpectedBlobMeta, Model};
use crate::oddities;
use crate::options::Options;
use crate::stock::StockRows;
use crate::story::{Story, users};

/// A self-contained part of a domain: forms, all cases they touch, and what is expected of them.
#[derive(Clone, Debug, Default)]
pub struct Piece {
    /// Couch documents, without `_rev`.
    pub docs: Vec<Value>,
    /// Blobs by key.
    pub blobs: Vec<(String, Vec<u8>)>,
    /// Blob metadata rows that exist before the migration.
    pub blobmeta: Vec<ExpectedBlobMeta>,
    /// Rows of HQ's stock tables.
    pub stock: StockRows,
    /// The rows expected of this piece.
    pub model: Model,
}

/// A whole domain.
#[derive(Clone, Debug)]
pub struct GeneratedDomain {
    /// Couch documents, without `_rev`.
    pub docs: Vec<Value>,
    /// Blobs by key.
    pub blobs: Vec<(String, Vec<u8>)>,
    /// Blob metadata rows that exist before the migration.
    pub blobmeta: Vec<ExpectedBlobMeta>,
    /// Rows of HQ's stock tables.
    pub stock: StockRows,
    /// The Couch `Domain` document, for the database of domains.
    pub domain_doc: Value,
    /// The expected rows.
    pub model: Model,
}

/// Generates a domain piece by piece; no more than one household is in memory.
pub fn stream(options: &Options) -> impl Iterator<Item = Piece> + use<> {
    let seed = domain_seed(options);
    Clusters {
        options: options.clone(),
        users: users(seed),
        seed,
        number: 0,
        made: 0,
    }
}

/// Generates a whole domain.
pub fn generate(options: &Options) -> GeneratedDomain {
    collect(domain_doc(options), stream(options))
}

/// A domain in one piece.
pub(crate) fn collect(domain_doc: Value, pieces: impl Iterator<Item = Piece>) -> GeneratedDomain {
    let mut domain = GeneratedDomain {
        docs: Vec::new(),
        blobs: Vec::new(),
        blobmeta: Vec::new(),
        stock: StockRows::default(),
        domain_doc,
        model: Model::default(),
    };
    for piece in pieces {
        domain.docs.extend(piece.docs);
        domain.blobs.extend(piece.blobs);
        domain.blobmeta.extend(piece.blobmeta);
        domain.stock.absorb(piece.stock);
        domain.model.absorb(piece.model);
    }
    domain
}

/// The Couch `Domain` document, on the Couch backend.
pub fn domain_doc(options: &Options) -> Value {
    json!({
        "_id": format!("{:032x}", mix(domain_seed(options), 0xd0) | 1 << 60),
        "doc_type": "Domain",
        "name": options.domain,
        "hr_name": options.domain,
        "is_active": true,
        "date_created": crate::moment::couch_time(options.start),
        "default_timezone": "Asia/Kolkata",
        "use_sql_backend": false,
    })
}

struct Clusters {
    options: Options,
    users: Vec<User>,
    seed: u64,
    number: u64,
    made: usize,
}

/// A census and a hub come once in so many clusters, besides those that every domain has.
const SPECIAL_EVERY: u64 = 500;

impl Iterator for Clusters {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let room = self.options.forms.saturating_sub(self.made);
        if room == 0 {
            return None;
        }
        let mut story = Story::new(&self.options, &self.users, mix(self.seed, self.number), room);
        match self.number % SPECIAL_EVERY {
            0 if self.number == 0 => oddities::sampler(&mut story),
            1 => household::census(&mut story),
            2 if room > 1 => household::hub(&mut story),
            _ => household::household(&mut story),
        }
        self.number += 1;
        self.made += story.form_count();
        Some(story.finish())
    }
}

/// Domains differ in all of their ids, whatever their seed.
pub(crate) fn domain_seed(options: &Options) -> u64 {
    options
        .domain
        .bytes()
        .fold(options.seed, |seed, byte| mix(seed, u64::from(byte)))
}

/// A seed of its own for each cluster (the finaliser of SplitMix64).
pub(crate) fn mix(seed: u64, number: u64) -> u64 {
    let mut mixed = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
