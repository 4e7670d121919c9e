//! The `coordinator` program.

use std::process::ExitCode;

use clap::Parser;
use coordinator::cli::{self, Cli, Command};
use coordinator::failure::Failure;
use service::process::{self, Life};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let life = if matches!(cli.command, Command::Serve | Command::Standalone) {
        Life::Service
    } else {
        Life::Command
    };
    let file = cli.config.clone();
    process::run("coordinator", file.as_deref(), life, |config, stop| async move {
        let ended: Result<_, Failure> = cli::run(cli, config, stop).await;
        match ended {
            Ok(exit) => exit.into(),
            Err(failure) => {
                eprintln!("{failure}");
                ExitCode::from(1)
            }
        }
    })
}
