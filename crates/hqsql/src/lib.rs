//! HQ's PostgreSQL tables: where a row belongs, how it is read, and how it is written without harm.
//!
//! A [`Target`] is HQ's `default` database and, on a sharded install, the databases that share the forms and cases. It
//! has one connection pool per database and knows by HQ's own hash which database an id belongs to ([`ShardId`]).
//!
//! Every write of forms, cases and blob metadata goes through a [`FencedTx`]: a transaction on one shard that has read
//! the domain's *fence* (`for share`) and stops unless the fence is open at the epoch of the work. Who resets or commits a
//! domain moves the fence first ([`Target::close_fence`]), which waits for the transactions in flight; afterwards nothing
//! of the old epoch can be written any more. Fences and HQ's progress rows are moved under a [`Claim`]: it is asked once more
//! while the row is locked, so that a process that has lost the domain without knowing cannot move them.
//!
//! A merge ([`FencedTx::merge_forms`], [`FencedTx::merge_cases`]) makes the tables equal to the given rows, and touches no
//! row that is equal already:
//!
//! 1. the rows that exist are read, by unique index, and the parents are checked to belong to the domain;
//! 2. a pure function decides what must be inserted, updated and deleted (`changes`);
//! 3. rows to delete go first, rows to update are copied into a temporary table and joined by primary key, rows to insert
//!    are copied straight into the table.
//!
//! Comparing here and not in SQL keeps the common case, a form that was never there, at one index probe and one binary
//! COPY: no second write through a temporary table, no sequence value lost to a conflict, and no cached plan that was
//! made while the table was still empty. Temporary tables come into play for updates only.
//!
//! Writers that might meet on one row are serialised by [`FencedTx::lock_buckets`] (cases) and
//! [`FencedTx::lock_form_rows`] (forms). If two sessions insert the same id all the same, the later one gets an error of
//! kind [`ErrorKind::Retry`].
//!
//! The pools keep prepared statements, temporary tables and session settings on their connections: a pooler between this
//! crate and PostgreSQL must pool whole sessions, not transactions.

mod blobmeta;
mod case_rows;
mod changes;
mod claim;
mod config;
mod consumption;
mod copy;
mod ddl;
mod digest;
mod error;
mod fence;
mod form_rows;
mod merge_cases;
mod merge_forms;
pub mod metric;
mod progress;
mod purge;
mod ranges;
mod read;
mod roles;
mod routing;
mod schema;
mod stock;
mod table;
mod target;
mod tls;
mod transaction;

pub use blobmeta::{BlobChange, BlobRetype, RemovedBlob};
pub use claim::{Alone, Claim};
pub use config::{ConnectionConfig, ShardConfig, TargetConfig};
pub use consumption::DailyConsumption;
pub use digest::{Digests, Documents};
pub use error::{Error, ErrorKind, Fault, Result};
pub use fence::FENCE_TABLE;
pub use merge_forms::MergeCounts;
pub use progress::{Progress, Status};
pub use ranges::FormPlace;
pub use read::CaseCounts;
pub use roles::{Role, role_grants};
pub use routing::ShardId;
pub use stock::StockStates;
pub use table::{RowError, RowFault, check_blobmeta, check_case, check_form};
pub use target::Target;
pub use transaction::FencedTx;
