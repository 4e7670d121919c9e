//! Sample domains for tests and measurements.
//!
//! The generator invents the life of a domain, household by household: who registers whom, who visits, what is edited,
//! archived, duplicated, deleted. From that intention, and not from any document, it writes three things side by side: the
//! CouchDB documents with their blobs, the blob metadata that a target holds beforehand, and the rows that a correct
//! migration must leave ([`Model`]). It shares no code with what it tests: it writes its own XML, its own form JSON and its
//! own expected rows.
//!
//! A household is a self-contained cluster of cases and forms, so a domain of any size is a [`stream`] of small
//! [`Piece`]s; [`generate`] collects them. The same [`Options`] give the same bytes.
//!
//! Besides domains of households there are those of a [`supply`] chain, where locations count and move stock. They come
//! with the rows of HQ's [`stock`] tables as the Couch era left them, and say where those differ from the ledgers in SQL.

mod block;
mod case;
pub mod compare;
mod couch_case;
mod couch_stock;
pub mod damage;
mod element;
mod fate;
mod form;
mod household;
mod ledger;
pub mod ledger_damage;
mod ledger_diffs;
mod ledger_rows;
pub mod malformed;
mod model;
mod moment;
mod oddities;
mod options;
mod questions;
#[cfg(feature = "postgres")]
pub mod sql;
pub mod stock;
mod story;
mod stream;
pub mod supply;
mod view;
mod words;

pub use ledger_diffs::LedgerDiff;
pub use model::{
    ExpectedAttachment, ExpectedBlobMeta, ExpectedCase, ExpectedForm, ExpectedIndex, ExpectedLedgerTransaction,
    ExpectedLedgerValue, ExpectedOperation, ExpectedTransaction, Model,
};
pub use options::{Options, Weights};
pub use stream::{GeneratedDomain, Piece, domain_doc, generate, stream};
pub use view::by_domain_design_doc;
