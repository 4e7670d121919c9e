//! The rules of the replay, through its public interface.
#![allow(clippy::unwrap_used)]
#![recursion_limit = "256"]

mod attachments;
mod blocks;
mod checkpoints;
mod couch_order;
mod deleted;
mod forms;
mod history;
mod ledgers;
mod only_in_sql;
mod sequences;
mod values;
