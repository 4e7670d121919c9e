//! Migrates a generated supply chain of any size through the real programs, and compares every row with the generator's
//! model.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use e2e::settings::Settings;
use e2e::supply_chain;
use e2e::world::{BrokerKind, Options, World};
use generator::supply::SupplyOptions;

/// Differences that are shown.
const SHOWN: usize = 40;

/// Migrates a supply chain and compares every row with the generator's model.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Locations, each with a case
    #[arg(long, default_value_t = 1000)]
    locations: usize,
    /// Products that each location counts
    #[arg(long, default_value_t = 50)]
    products: usize,
    /// Weeks of reports
    #[arg(long, default_value_t = 52)]
    weeks: usize,
    /// The same seed gives the same documents
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What carries the batches
    #[arg(long, value_enum, default_value_t = Broker::Rabbitmq)]
    broker: Broker,
    /// Workers of each kind, with RabbitMQ
    #[arg(long, default_value_t = 1)]
    workers: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Broker {
    /// Workers are processes of their own
    Rabbitmq,
    /// All stages run in the coordinator's process
    InProcess,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            println!("supply-chain: failed ({error:#})");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<ExitCode> {
    let started = Instant::now();
    let options = SupplyOptions {
        locations: arguments.locations,
        products: arguments.products,
        weeks: arguments.weeks,
        ..SupplyOptions::new("supply", arguments.seed)
    };
    let in_process = arguments.broker == Broker::InProcess;
    let mut world = World::start(Options {
        broker: if in_process {
            BrokerKind::InProcess
        } else {
            BrokerKind::RabbitMq
        },
        workers: if in_process { 0 } else { arguments.workers },
        shards: 2,
        settings: Settings::for_measurements(),
        ..Options::default()
    })
    .await?;
    let loaded = supply_chain::load(&world, &options).await?;
    println!(
        "loaded     {} forms, {} cases, {} rows of stock in {:.0} s",
        loaded.forms,
        loaded.cases,
        loaded.stock,
        started.elapsed().as_secs_f64()
    );
    let begun = Instant::now();
    supply_chain::migrate(&mut world, &options.domain).await?;
    println!("migrated   in {:.0} s", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    let compared = supply_chain::compare_all(&world, &options).await?;
    let rows = compared.rows;
    println!(
        "compared   {} forms, {} cases, {} transactions of cases, {} expected differences in {:.0} s",
        rows.forms,
        rows.cases,
        rows.transactions,
        compared.reported,
        begun.elapsed().as_secs_f64()
    );
    for line in compared.differing.iter().take(SHOWN) {
        println!("{line}");
    }
    let differing = compared.differing.len();
    println!(
        "supply-chain: {} locations={} products={} values={} transactions={} differing={differing} seconds={:.0}",
        if differing == 0 { "ok" } else { "failed" },
        options.locations,
        options.products,
        rows.ledger_values,
        rows.ledger_transactions,
        started.elapsed().as_secs_f64()
    );
    world.end()?;
    Ok(if differing == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
