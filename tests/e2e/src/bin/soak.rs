//! Lets users work on a domain while it migrates, then finishes and commits it.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use e2e::settings::Settings;
use e2e::soak::{self, Soak};

/// Submits forms at a steady rate while a domain migrates live and is followed; then finishes, commits and compares.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// How long users go on
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Forms of the domain at first
    #[arg(long, default_value_t = 50_000)]
    forms: usize,
    /// Forms that arrive in a second
    #[arg(long, default_value_t = 5.0)]
    rate: f64,
    /// Workers of each kind
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Documents younger than this are left for the finish, in seconds
    #[arg(long, default_value_t = 60.0)]
    minimum_age: f64,
    /// The longest that the finish may take, in seconds
    #[arg(long, default_value_t = 60.0)]
    finish_within: f64,
    /// The same seed gives the same domain
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let soak = Soak {
        forms: arguments.forms,
        time: Duration::from_secs_f64(arguments.minutes.max(0.0) * 60.0),
        rate: arguments.rate,
        workers: arguments.workers,
        minimum_age: Duration::from_secs_f64(arguments.minimum_age.max(0.0)),
        finish_within: Duration::from_secs_f64(arguments.finish_within.max(0.0)),
        seed: arguments.seed,
    };
    match soak::run(soak, Settings::for_measurements()).await {
        (report, Ok(())) => {
            println!("soak: ok {report}");
            ExitCode::SUCCESS
        }
        (report, Err(error)) => {
            eprintln!("{error:#}");
            println!("soak: failed {report}");
            ExitCode::FAILURE
        }
    }
}
