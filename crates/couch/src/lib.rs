//! A CouchDB client for reading one database fast without hurting it.
//!
//! [`Couch`] is a connection to a server, [`Database`] one of its databases; both are cheap to clone and share one pool
//! of connections, one limit on concurrent requests and one limit on requests per second. Every request goes through
//! `transport`: it waits for a permit, reads the body up to a byte limit and never past it, tries again with back-off
//! when trying again can help, and counts what it did ([`metrics_names`]). On top of it are
//!
//! * `view`: pages of keys and ids of a view, by start key and start document id, and counts by its reduce;
//! * `bulk`: bodies of many documents by `_bulk_get`, existence of many by `_all_docs`, writes by `_bulk_docs`;
//! * `bounded`: the same bodies, a bounded number of bytes at a time;
//! * `changes`: the feed of changes, and the identity of the database that its sequences belong to; `went_back`: whether the
//!   database was restored since;
//! * `attachment`: attachments of one document or of many;
//! * `database`: single documents and facts about the database.
//!
//! Servers that only resemble CouchDB are catered for where they differ, by what they answer and not by their name.
//! Errors ([`Error`]) say what is to be done ([`ErrorKind`]), have a stable code, and never hold a document's content,
//! an id or a password. Nothing here knows what a form or a case is.

mod attachment;
mod backoff;
mod bounded;
mod bulk;
mod changes;
mod config;
mod database;
mod error;
mod leaf;
pub mod metrics_names;
mod paging;
mod path;
mod server;
mod throttle;
mod transport;
mod view;
mod went_back;

pub use attachment::{Attachments, AttachmentsOutcome, InlineAttachment};
pub use bounded::BoundedReader;
pub use bulk::{BulkWritten, Fetched, Outcome, WriteOutcome};
pub use changes::{Change, Changes, ChangesPage};
pub use config::CouchConfig;
pub use database::{Database, DatabaseInfo};
pub use error::{CODES, Error, ErrorKind, Result};
pub use server::{Couch, ServerInfo};
pub use view::{Cursor, Page, Row, ViewPage};
