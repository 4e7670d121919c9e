//! Runs the scenarios and prints a table of them.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use e2e::scenarios::{self, Report, Verdict};

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
    let is_meant = |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|part| name.contains(part));
    let mut folders = scenarios::all()?;
    folders.retain(|folder| is_meant(&folder.name));
    let mut elsewhere = scenarios::elsewhere()?;
    elsewhere.retain(|scenario| is_meant(&scenario.name));
    ensure!(
        !folders.is_empty() || !elsewhere.is_empty(),
        "no scenario has such a name"
    );
    let mut report = if folders.is_empty() {
        Report::default()
    } else {
        scenarios::run(folders).await?
    };
    report.add_elsewhere(&elsewhere);
    print!("{}", report.table(arguments.verbose));
    println!("{}", report.summary());
    Ok(if report.count(Verdict::Failed) == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
