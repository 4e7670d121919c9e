//! Developer commands of this workspace: private services, tests, lints, a demonstration, a benchmark.
//!
//! `cargo xtask up` starts PostgreSQL, RabbitMQ and PouchDB Server for this clone alone, under `.dev/` and on
//! free loopback ports; every other command builds on that. Linux only: processes are recognised through `/proc`.
//! Progress goes to stderr, results to stdout.

mod account;
mod demo;
mod fuzz;
mod lint;
mod packages;
mod ports;
mod process;
mod program;
mod register;
mod secret;
mod services;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::program::ProgramArguments;
use crate::services::rabbitmq::BrokerAction;
use crate::workspace::Workspace;

/// Developer commands of this workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the private PostgreSQL, RabbitMQ and PouchDB Server, installing what is missing
    Up,
    /// Stop the private services; their data stays
    Down,
    /// Show the private services: pid, port, state
    Status,
    /// Stop, start, restart or kill the private RabbitMQ alone, as tests of broker failures need it
    Rabbit {
        #[arg(value_enum)]
        action: BrokerAction,
    },
    /// Start the services, build everything, run every test of the workspace
    #[command(after_help = "Example: cargo xtask test -- -p state")]
    Test(test::TestArguments),
    /// Check formatting, clippy, licences, unused dependencies, links of the docs, rustdoc
    Lint,
    /// Migrate a generated domain from start to finish and show every step
    #[command(after_help = "Example: cargo xtask demo --forms 20000")]
    Demo(demo::DemoArguments),
    /// Migrate the domains of tests/scenarios in one run and compare everything with what is expected
    #[command(after_help = "Example: cargo xtask scenarios --only deleted_case")]
    Scenarios(ProgramArguments),
    /// Measure a migration in release mode, beside the raw read and the raw write of the same documents
    #[command(after_help = "Example: cargo xtask bench --forms 100000 --source stand-in")]
    Bench(ProgramArguments),
    /// Submit forms at a steady rate while a domain migrates live, then finish, commit and compare
    #[command(after_help = "Example: cargo xtask soak --minutes 3 --forms 10000 --rate 5")]
    Soak(ProgramArguments),
    /// Migrate a generated supply chain and compare every ledger, row by row, with the generator's model
    #[command(after_help = "Example: cargo xtask supply-chain --locations 100 --products 20")]
    SupplyChain(ProgramArguments),
    /// Migrate many small domains and a large one in one list, and print how long each took
    #[command(after_help = "Example: cargo xtask lists --small 200 --large-forms 20000")]
    Lists(ProgramArguments),
    /// Damage a migrated domain at random and see whether the diff finds every damage that the rules do not allow
    #[command(after_help = "Example: cargo xtask mutate --count 2000 --seed 7")]
    Mutate(ProgramArguments),
    /// Feed made-up forms to every reader of forms, watching for panics, hangs and memory
    #[command(after_help = "Example: cargo xtask fuzz --seconds 600 --seed 7")]
    Fuzz(fuzz::FuzzArguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    match command {
        Command::Up => services::up(&workspace),
        Command::Down => services::down(&workspace),
        Command::Status => services::status(&workspace),
        Command::Rabbit { action } => services::rabbit(&workspace, action),
        Command::Test(arguments) => test::run(&workspace, &arguments),
        Command::Lint => lint::run(&workspace),
        Command::Demo(arguments) => demo::run(&workspace, &arguments),
        Command::Scenarios(arguments) => program::SCENARIOS.run(&workspace, &arguments),
        Command::Bench(arguments) => program::BENCH.run(&workspace, &arguments),
        Command::Soak(arguments) => program::SOAK.run(&workspace, &arguments),
        Command::SupplyChain(arguments) => program::SUPPLY_CHAIN.run(&workspace, &arguments),
        Command::Lists(arguments) => program::LISTS.run(&workspace, &arguments),
        Command::Mutate(arguments) => program::MUTATE.run(&workspace, &arguments),
        Command::Fuzz(arguments) => fuzz::run(&workspace, &arguments),
    }
}
