//! The `coordinator` program.

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};
use coordinator::cli::{self, Cli};
use coordinator::commands::output::NOBODY_READS;
use coordinator::failure::Failure;
use coordinator::misuse;
use service::process;

/// Gives freed memory back whichever thread it came from: what a process holds follows what it works on.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    if let Some(complaint) = misuse::complaint(&matches) {
        Cli::command().error(ErrorKind::ArgumentConflict, complaint).exit();
    }
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let (file, life) = (cli.config.clone(), cli.life());
    process::run("coordinator", file.as_deref(), life, |config, stop| async move {
        let ended: Result<_, Failure> = cli::run(cli, config, stop).await;
        match ended {
            Ok(exit) => exit.into(),
            // Whoever was reading has seen enough.
            Err(failure) if failure.code == NOBODY_READS => ExitCode::SUCCESS,
            Err(failure) => {
                eprintln!("{failure}");
                failure.exit()
            }
        }
    })
}
