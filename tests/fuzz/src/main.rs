//! `cargo xtask fuzz` builds and runs this program.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use fuzz::check::check;
use fuzz::inputs::Inputs;
use fuzz::run::{MAX_TIME, Options, run, save};

/// Feed made-up forms to every reader of forms, watching for panics, hangs and memory
#[derive(Parser)]
#[command(after_help = "Example: fuzz --seconds 60 --seed 1 --folder .dev/fuzz")]
struct Arguments {
    /// How long to go on
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Decides all inputs
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where a failing input is written
    #[arg(long)]
    folder: PathBuf,
    /// Only write the input with this number to a file, and say which
    #[arg(long)]
    write: Option<u64>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(number) = arguments.write {
        let input = Inputs::new(arguments.seed).input(number);
        std::fs::create_dir_all(&arguments.folder)?;
        println!("{}", save(&arguments.folder, arguments.seed, number, &input)?.display());
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options {
        seed: arguments.seed,
        time: Duration::from_secs(arguments.seconds),
        most: MAX_TIME,
        folder: arguments.folder,
    };
    let outcome = run(&options, check)?;
    println!("{outcome}");
    Ok(if outcome.failure.is_none() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
