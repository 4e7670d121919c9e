//! `cargo xtask supply-chain`

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::bench::SERVICES;
use crate::services;
use crate::workspace::Workspace;

#[derive(Args)]
pub(crate) struct SupplyChainArguments {
    /// Locations, each with a case
    #[arg(long, default_value_t = 1000)]
    locations: usize,
    /// Products that each location counts
    #[arg(long, default_value_t = 50)]
    products: usize,
    /// Weeks of reports
    #[arg(long, default_value_t = 52)]
    weeks: usize,
    /// The same seed gives the same documents
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Further arguments for the program itself
    #[arg(last = true)]
    more: Vec<String>,
}

/// Builds the services and runs package e2e's `supply-chain` with the servers up. Ends with one line of totals.
pub(crate) fn run(workspace: &Workspace, arguments: &SupplyChainArguments) -> Result<ExitCode> {
    let outcome = build_and_run(workspace, arguments);
    if let Err(error) = &outcome {
        println!("supply-chain: failed ({error:#})");
        return Ok(ExitCode::FAILURE);
    }
    outcome
}

fn build_and_run(workspace: &Workspace, arguments: &SupplyChainArguments) -> Result<ExitCode> {
    let register = services::start(workspace)?.require(&["postgres", "rabbitmq"])?;
    let mut build = workspace.cargo(&["build", "-p", "e2e", "--bin", "supply-chain"]);
    for service in SERVICES {
        build.args(["-p", service, "--bin", service]);
    }
    ensure!(
        build.status().context("cannot run cargo")?.success(),
        "the build failed"
    );
    let binaries = workspace.target()?.join("debug");
    let status = std::process::Command::new(binaries.join("supply-chain"))
        .current_dir(workspace.root())
        .envs(register.addresses())
        .env("C2S_TEST_BIN_DIR", &binaries)
        .args(["--locations", &arguments.locations.to_string()])
        .args(["--products", &arguments.products.to_string()])
        .args(["--weeks", &arguments.weeks.to_string()])
        .args(["--seed", &arguments.seed.to_string()])
        .args(&arguments.more)
        .status()
        .context("cannot run the program")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
