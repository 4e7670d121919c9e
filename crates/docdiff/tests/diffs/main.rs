//! The comparison of documents, through its public interface.
#![allow(clippy::unwrap_used)]

mod cases;
mod forms;
mod ledgers;
mod patch;
mod patched;
mod shown;
mod sql_json;
