//! Damages a migrated domain at random, and sees whether the diff finds what it must.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use e2e::mutate::{self, Kinds, Options};

/// Lines that are shown of what was missed, and of what was too much.
const SHOWN: usize = 60;

/// Damages a migrated domain at random, and sees whether the diff finds every damage that the rules do not allow.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Damages
    #[arg(long, default_value_t = 2000)]
    count: usize,
    /// Decides domain and damages
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Forms of households in the domain
    #[arg(long, default_value_t = 1500)]
    forms: usize,
    /// Locations of a supply chain in the domain
    #[arg(long, default_value_t = 40)]
    locations: usize,
    /// Damage these only
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// Show what was damaged, and how often
    #[arg(long)]
    verbose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Only {
    /// Cases with their ledgers
    Cases,
    /// Forms
    Forms,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            println!("mutate: failed ({error:#})");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<ExitCode> {
    let options = Options {
        count: arguments.count,
        seed: arguments.seed,
        forms: arguments.forms,
        locations: arguments.locations,
        documents: match arguments.only {
            None => Kinds::All,
            Some(Only::Cases) => Kinds::Cases,
            Some(Only::Forms) => Kinds::Forms,
        },
    };
    let outcome = mutate::run(&options).await?;
    if arguments.verbose {
        println!("damaged");
        for (what, count) in &outcome.damaged {
            println!("{count:6}  {what}");
        }
    }
    for (title, tally) in [
        (
            "not possible, by HQ's own constraints or for want of such documents",
            &outcome.impossible,
        ),
        ("recorded as", &outcome.reasons),
    ] {
        println!("{title}");
        for (what, count) in tally {
            println!("{count:6}  {what}");
        }
    }
    println!("allowed by");
    for (rule, count) in &outcome.allowed {
        println!("{count:6}  {rule}");
    }
    println!("{:6}  of those found were repaired by the comparison", outcome.repaired);
    for (what, lines) in [("missed", &outcome.missed), ("extra", &outcome.extra)] {
        for line in lines.iter().take(SHOWN) {
            println!("{what}: {line}");
        }
    }
    let is_ok = outcome.missed.is_empty() && outcome.extra.is_empty();
    println!(
        "mutate: {} count={} found={} allowed={} missed={} extra={}",
        if is_ok { "ok" } else { "failed" },
        outcome.count,
        outcome.found,
        outcome.allowed.values().sum::<usize>(),
        outcome.missed.len(),
        outcome.extra.len()
    );
    Ok(if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
