//! `cargo xtask lists`

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::bench::SERVICES;
use crate::services;
use crate::workspace::Workspace;

#[derive(Args)]
pub(crate) struct ListsArguments {
    /// How many small domains
    #[arg(long, default_value_t = 200)]
    small: u64,
    /// Forms of the large domain
    #[arg(long, default_value_t = 20_000)]
    large_forms: u64,
    /// Further arguments for the measurement itself, such as --coordinators 2
    #[arg(last = true)]
    more: Vec<String>,
}

/// Builds in release mode and runs package e2e's `lists` with the services up. Ends with one line of figures.
pub(crate) fn run(workspace: &Workspace, arguments: &ListsArguments) -> Result<ExitCode> {
    let outcome = build_and_run(workspace, arguments);
    if let Err(error) = &outcome {
        println!(
            "lists: failed small={} large_forms={} ({error:#})",
            arguments.small, arguments.large_forms
        );
        return Ok(ExitCode::FAILURE);
    }
    outcome
}

fn build_and_run(workspace: &Workspace, arguments: &ListsArguments) -> Result<ExitCode> {
    let register = services::start(workspace)?.require(&["postgres", "rabbitmq"])?;
    let mut build = workspace.cargo(&["build", "--release", "-p", "e2e", "--bin", "lists"]);
    for service in SERVICES {
        build.args(["-p", service, "--bin", service]);
    }
    anyhow::ensure!(
        build.status().context("cannot run cargo")?.success(),
        "the build failed"
    );
    let binaries = workspace.target()?.join("release");
    let status = std::process::Command::new(binaries.join("lists"))
        .current_dir(workspace.root())
        .envs(register.addresses())
        .env("C2S_TEST_BIN_DIR", &binaries)
        .args(["--small", &arguments.small.to_string()])
        .args(["--large-forms", &arguments.large_forms.to_string()])
        .args(&arguments.more)
        .status()
        .context("cannot run the measurement")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
