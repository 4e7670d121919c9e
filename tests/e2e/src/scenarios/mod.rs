//! Scenarios: each a folder with the documents of one domain and everything that must be true after they were migrated.
//!
//! ```text
//!   tests/scenarios/defaults.json      boring members and columns, declared once
//!   tests/scenarios/<name>/ ──Folder── what it is, its steps, its inputs
//!        │                                │ load
//!        │                                v
//!        └── expected.json ──compare── World: one source, one RabbitMQ, one PostgreSQL, shared workers
//! ```
//!
//! All scenarios run in one [`World`](crate::world::World), several commands at a time. `tests/scenarios/README.md`
//! describes the format.

mod changes;
mod commands;
mod compare;
mod elsewhere;
mod expected;
mod folder;
mod input;
mod outcome;
mod patches;
mod rows;
mod runner;

pub use elsewhere::{Elsewhere, Place, elsewhere};
pub use folder::{Folder, Outcome, all, home};
pub use outcome::{Report, Verdict};
pub use runner::{AT_A_TIME, run};
