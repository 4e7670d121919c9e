//! The state schema against a real PostgreSQL: `C2S_TEST_PG_URL` names a server on which databases may be created.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod blob_changes;
mod burials;
mod cases;
mod changed;
mod claims;
mod commits;
mod contention;
mod cutover;
mod database;
mod diffs;
mod dispatch;
mod failures;
mod fixture;
mod follow;
mod form_diffs;
mod forms;
mod leases;
mod lists;
mod looks;
mod lost_forms;
mod model;
mod named;
mod operator_rules;
mod orders;
mod patch_outcomes;
mod patches;
mod plans;
mod records;
mod reset;
mod rewound;
mod scans;
mod schema;
mod statedb;
mod texts;
mod verdicts;
