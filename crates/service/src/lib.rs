//! What every process shares.
//!
//! A process starts by reading its configuration ([`config`]), sets up logs and traces ([`telemetry`]) and metrics, opens
//! its small HTTP server ([`http`]), and listens for the signals that tell it to stop ([`shutdown`]). A worker then runs
//! the loop of [`worker`]: take a message, claim its batch, hand it to the handler, record what came of it. [`names`] is
//! the one list of metrics; [`process`] is the life of a process around all that; [`connect`] turns the configuration into
//! the settings of each client; [`domain_options`] are the choices that are frozen with each migration.

pub mod config;
pub mod connect;
pub mod domain_options;
pub mod http;
pub mod names;
pub mod operator_rules;
pub mod process;
pub mod shutdown;
pub mod telemetry;
pub mod worker;
