//! Runs the scenarios and prints a table of them.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use e2e::scenarios::{self, Verdict};

/// Runs the scenarios of tests/scenarios in one run through the real services.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Only scenarios whose name has this in it; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Show how long each took
    #[arg(long)]
    verbose: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            println!("scenarios: failed ({error:#})");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut folders = scenarios::all()?;
    if !arguments.only.is_empty() {
        folders.retain(|folder| arguments.only.iter().any(|part| folder.name.contains(part)));
    }
    ensure!(!folders.is_empty(), "no scenario has such a name");
    let report = scenarios::run(folders).await?;
    print!("{}", report.table(arguments.verbose));
    println!("{}", report.summary());
    Ok(if report.count(Verdict::Failed) == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
