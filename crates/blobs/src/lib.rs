//! Where the bytes of forms are: `form.xml` and attachments.
//!
//! A form document names its blobs in `external_blobs`, and in `_attachments` if it is so old that Couch itself still
//! keeps them. [`blob_refs`] turns both into [`BlobRef`]s, with the key under which the blob store has the bytes
//! ([`couch_blob_key`]), or without one if Couch has them. [`BlobStore`] reads keys from a directory or from S3, one or
//! many at once, and writes what is not there yet; it never overwrites and never deletes, because Couch and SQL forms share
//! their blobs. [`BlobStore::fetch_many`] reads references of both kinds. [`gunzip`] undoes the compression that the row of
//! a blob tells of.
//!
//! Keys are checked before they touch a path or a URL. Errors ([`Error`]) say what is to be done, have a stable code, and
//! hold no content. Reads are limited in number at once and in bytes each; what a caller holds at once it cuts by weight
//! ([`in_parts`]).

mod config;
mod error;
mod fetch;
mod files;
mod gzip;
mod key;
pub mod metrics_names;
mod parts;
mod reference;
mod s3;
mod store;

pub use config::{BlobConfig, BlobLocation, S3Config};
pub use error::{CODES, Error, ErrorKind, Result};
pub use fetch::Wanted;
pub use gzip::gunzip;
pub use key::{check_key, couch_blob_key, safe_id};
pub use parts::{expected_bytes, in_parts};
pub use reference::{BlobRef, FORM_XML, blob_refs};
pub use store::BlobStore;
