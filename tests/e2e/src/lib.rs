//! Drives the whole system from outside, as an operator would: through its programs, its configuration file, and the
//! servers around it.
//!
//! ```text
//!   Options ─> World ── Databases     target and state, created for this world and dropped with it
//!                    ├─ Source        the Couch stand-in in this process, or databases on a server
//!                    ├─ Settings      the configuration file
//!                    ├─ Programs      workers and `coordinator serve`, each a process with its log
//!                    └─ Queues        RabbitMQ itself, past everything under test
//! ```
//!
//! A [`World`](world::World) has its own databases, but RabbitMQ's queues have fixed names: worlds that use RabbitMQ take
//! turns, also between processes ([`turn`]). The addresses of the servers come from the environment ([`environment`]);
//! `cargo xtask test` provides them.

pub mod database;
pub mod environment;
pub mod ledger_report;
pub mod load;
pub mod mutate;
pub mod program;
pub mod queues;
pub mod scenarios;
pub mod settings;
pub mod soak;
pub mod source;
pub mod submissions;
pub mod supply_chain;
pub mod turn;
pub mod usage;
pub mod world;
