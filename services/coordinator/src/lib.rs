//! The coordinator: the commands of operators, and the driver that leads a domain through its migration.
//!
//! * [`cli`]: the command line.
//! * [`commands`]: one module a command.
//! * [`driver`]: scans, dispatch and phases of one domain, under a lease.
//! * [`rules`]: which command is allowed in which state.
//! * [`domain_doc`]: the Domain document, which decides what backend a domain is on.
//! * [`context`]: configuration and connections. [`workers`]: the workers in this process, for the in-process broker.
//! * [`forecast`]: how long the end of a migration will take. [`display`]: live progress. [`failure`]: exit status and the one line of a refusal.

mod claim;
pub mod cli;
pub mod commands;
pub mod context;
pub mod display;
pub mod domain_doc;
pub mod driver;
pub mod failure;
pub mod forecast;
pub mod misuse;
mod preflight;
pub mod rules;
#[cfg(test)]
mod surface;
mod transport;
pub mod workers;
