//! `cargo xtask scenarios`

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::bench::SERVICES;
use crate::services;
use crate::workspace::Workspace;

#[derive(Args)]
pub(crate) struct ScenariosArguments {
    /// Only scenarios whose name has this in it; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Show how long each took
    #[arg(long)]
    verbose: bool,
}

/// Builds the services and runs package e2e's `scenarios` with the servers up. Ends with one line of totals.
pub(crate) fn run(workspace: &Workspace, arguments: &ScenariosArguments) -> Result<ExitCode> {
    let outcome = build_and_run(workspace, arguments);
    if let Err(error) = &outcome {
        println!("scenarios: failed ({error:#})");
        return Ok(ExitCode::FAILURE);
    }
    outcome
}

fn build_and_run(workspace: &Workspace, arguments: &ScenariosArguments) -> Result<ExitCode> {
    let register = services::start(workspace)?.require(&["postgres", "rabbitmq"])?;
    let mut build = workspace.cargo(&["build", "-p", "e2e", "--bin", "scenarios"]);
    for service in SERVICES {
        build.args(["-p", service, "--bin", service]);
    }
    anyhow::ensure!(
        build.status().context("cannot run cargo")?.success(),
        "the build failed"
    );
    let binaries = workspace.target()?.join("debug");
    let mut command = std::process::Command::new(binaries.join("scenarios"));
    for name in &arguments.only {
        command.args(["--only", name]);
    }
    if arguments.verbose {
        command.arg("--verbose");
    }
    let status = command
        .current_dir(workspace.root())
        .envs(register.addresses())
        .env("C2S_TEST_BIN_DIR", &binaries)
        .status()
        .context("cannot run the scenarios")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
