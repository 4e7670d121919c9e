//! `couch_sql_diff`: shows recorded differences, and compares documents again.
//!
//! * `show`: prints what is on record, or sums it up.
//! * `filter`: runs what is on record through the present ignore rules.
//! * `cases`, `forms`: compare documents again.

pub mod args;
pub mod cases;
pub mod filter;
pub mod forms;
mod related;
pub mod select;
pub mod show;
pub(crate) mod shown;
pub(crate) mod summary;

pub use args::ShowArgs;
pub use cases::{Cases, cases};
pub use filter::{FilterOrder, filter};
pub use forms::forms;
pub use show::{Output, ShowOrder, show};
