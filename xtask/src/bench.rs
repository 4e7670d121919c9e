//! `cargo xtask bench`

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::services;
use crate::workspace::Workspace;

/// The binaries that the benchmark runs as separate processes.
pub(crate) const SERVICES: [&str; 4] = ["coordinator", "form-worker", "case-worker", "diff-worker"];

#[derive(Args)]
pub(crate) struct BenchArguments {
    /// How many forms to migrate
    #[arg(long, default_value_t = 20_000)]
    forms: u64,
    /// Where the documents are read from: the URL of a CouchDB, or `stand-in`
    #[arg(long, default_value = "stand-in")]
    source: String,
    /// Further arguments for the benchmark itself
    #[arg(last = true)]
    more: Vec<String>,
}

/// Builds in release mode and runs package e2e's `bench` with the services up.
pub(crate) fn run(workspace: &Workspace, arguments: &BenchArguments) -> Result<ExitCode> {
    let register = services::start(workspace)?.require(&["postgres", "rabbitmq"])?;
    let mut build = workspace.cargo(&["build", "--release", "-p", "e2e", "--bin", "bench"]);
    for service in SERVICES {
        build.args(["-p", service, "--bin", service]);
    }
    anyhow::ensure!(
        build.status().context("cannot run cargo")?.success(),
        "the build failed"
    );
    let binaries = workspace.target()?.join("release");
    let status = std::process::Command::new(binaries.join("bench"))
        .current_dir(workspace.root())
        .envs(register.addresses())
        .env("C2S_TEST_BIN_DIR", &binaries)
        .args(["--forms", &arguments.forms.to_string(), "--source", &arguments.source])
        .args(&arguments.more)
        .status()
        .context("cannot run the benchmark")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
