//! `cargo xtask soak`

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::bench::SERVICES;
use crate::services;
use crate::workspace::Workspace;

#[derive(Args)]
pub(crate) struct SoakArguments {
    /// How long users go on
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Forms of the domain at first
    #[arg(long, default_value_t = 50_000)]
    forms: u64,
    /// Forms that arrive in a second
    #[arg(long, default_value_t = 5.0)]
    rate: f64,
}

/// Builds in release mode and runs package e2e's `soak` with the servers up. Ends with one line of figures.
pub(crate) fn run(workspace: &Workspace, arguments: &SoakArguments) -> Result<ExitCode> {
    let outcome = build_and_run(workspace, arguments);
    if let Err(error) = &outcome {
        eprintln!("{error:#}");
        println!("soak: failed forms={} rate={}", arguments.forms, arguments.rate);
        return Ok(ExitCode::FAILURE);
    }
    outcome
}

fn build_and_run(workspace: &Workspace, arguments: &SoakArguments) -> Result<ExitCode> {
    let register = services::start(workspace)?.require(&["postgres", "rabbitmq"])?;
    let mut build = workspace.cargo(&["build", "--release", "-p", "e2e", "--bin", "soak"]);
    for service in SERVICES {
        build.args(["-p", service, "--bin", service]);
    }
    anyhow::ensure!(
        build.status().context("cannot run cargo")?.success(),
        "the build failed"
    );
    let binaries = workspace.target()?.join("release");
    let status = std::process::Command::new(binaries.join("soak"))
        .current_dir(workspace.root())
        .envs(register.addresses())
        .env("C2S_TEST_BIN_DIR", &binaries)
        .args(["--minutes", &arguments.minutes.to_string()])
        .args(["--forms", &arguments.forms.to_string()])
        .args(["--rate", &arguments.rate.to_string()])
        .status()
        .context("cannot run the soak")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
