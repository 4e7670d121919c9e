//! Everything that needs a real PostgreSQL: `C2S_TEST_PG_URL` names a server on which databases may be created.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod blobs;
mod cases;
mod claims;
mod database;
mod digests;
mod fences;
mod forms;
mod plans;
mod progress;
mod purge;
mod rows;
mod schema;
mod shards;
mod stock;
