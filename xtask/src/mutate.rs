//! `cargo xtask mutate`

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::services;
use crate::workspace::Workspace;

#[derive(Args)]
pub(crate) struct MutateArguments {
    /// Damages
    #[arg(long, default_value_t = 2000)]
    count: usize,
    /// Decides the domain and the damages
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Show what was damaged, and how often
    #[arg(long)]
    verbose: bool,
    /// Further arguments for the program itself
    #[arg(last = true)]
    more: Vec<String>,
}

/// Builds the coordinator and runs package e2e's `mutate` with the servers up. Ends with one line of totals.
pub(crate) fn run(workspace: &Workspace, arguments: &MutateArguments) -> Result<ExitCode> {
    let outcome = build_and_run(workspace, arguments);
    if let Err(error) = &outcome {
        println!("mutate: failed ({error:#})");
        return Ok(ExitCode::FAILURE);
    }
    outcome
}

fn build_and_run(workspace: &Workspace, arguments: &MutateArguments) -> Result<ExitCode> {
    let register = services::start(workspace)?.require(&["postgres"])?;
    let build = workspace
        .cargo(&[
            "build",
            "-p",
            "e2e",
            "--bin",
            "mutate",
            "-p",
            "coordinator",
            "--bin",
            "coordinator",
        ])
        .status()
        .context("cannot run cargo")?;
    ensure!(build.success(), "the build failed");
    let binaries = workspace.target()?.join("debug");
    let mut command = std::process::Command::new(binaries.join("mutate"));
    command
        .args(["--count", &arguments.count.to_string()])
        .args(["--seed", &arguments.seed.to_string()])
        .args(&arguments.more);
    if arguments.verbose {
        command.arg("--verbose");
    }
    let status = command
        .current_dir(workspace.root())
        .envs(register.addresses())
        .env("C2S_TEST_BIN_DIR", &binaries)
        .status()
        .context("cannot run the program")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
