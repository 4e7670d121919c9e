//! The commands that run a program of package e2e: `bench`, `lists`, `mutate`, `scenarios`, `soak`, `supply-chain`. Each program
//! reads its own options, and shows them with `--help`; here is only what it needs around it.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::services;
use crate::workspace::Workspace;

/// The binaries of a migration whose workers are processes of their own.
pub(crate) const SERVICES: [&str; 4] = ["coordinator", "form-worker", "case-worker", "diff-worker"];

/// What is given to the program as it is.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct ProgramArguments {
    /// Options of the program; --help shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

/// A program of package e2e.
pub(crate) struct Program {
    /// Name of the command and of the binary.
    name: &'static str,
    /// Whether times are measured.
    profile: Profile,
    /// Binaries that it starts.
    services: &'static [&'static str],
    /// Servers that it talks to.
    servers: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Profile {
    Dev,
    Release,
}

const BROKERED: &[&str] = &["postgres", "rabbitmq"];

pub(crate) const BENCH: Program = Program {
    name: "bench",
    profile: Profile::Release,
    services: &SERVICES,
    servers: BROKERED,
};
pub(crate) const LISTS: Program = Program {
    name: "lists",
    profile: Profile::Release,
    services: &SERVICES,
    servers: BROKERED,
};
pub(crate) const MUTATE: Program = Program {
    name: "mutate",
    profile: Profile::Dev,
    services: &["coordinator"],
    servers: &["postgres"],
};
pub(crate) const SCENARIOS: Program = Program {
    name: "scenarios",
    profile: Profile::Dev,
    services: &SERVICES,
    servers: BROKERED,
};
pub(crate) const SOAK: Program = Program {
    name: "soak",
    profile: Profile::Release,
    services: &SERVICES,
    servers: BROKERED,
};
pub(crate) const SUPPLY_CHAIN: Program = Program {
    name: "supply-chain",
    profile: Profile::Dev,
    services: &SERVICES,
    servers: BROKERED,
};

impl Program {
    /// Builds it with its services, and runs it with its servers up. It ends with one line of figures; so does this when it
    /// cannot be run.
    pub(crate) fn run(&self, workspace: &Workspace, arguments: &ProgramArguments) -> Result<ExitCode> {
        let outcome = self.build_and_run(workspace, &arguments.options);
        if let Err(error) = &outcome {
            println!("{}: failed ({error:#})", self.name);
            return Ok(ExitCode::FAILURE);
        }
        outcome
    }

    fn build_and_run(&self, workspace: &Workspace, options: &[String]) -> Result<ExitCode> {
        let (folder, build) = match self.profile {
            Profile::Dev => ("debug", &["build"][..]),
            Profile::Release => ("release", &["build", "--release"][..]),
        };
        let mut build = workspace.cargo(build);
        build.args(["-p", "e2e", "--bin", self.name]);
        for service in self.services {
            build.args(["-p", service, "--bin", service]);
        }
        ensure!(
            build.status().context("cannot run cargo")?.success(),
            "the build failed"
        );
        let binaries = workspace.target()?.join(folder);
        let mut program = Command::new(binaries.join(self.name));
        program
            .args(options)
            .current_dir(workspace.root())
            .env("C2S_TEST_BIN_DIR", &binaries);
        if !options.iter().any(|option| matches!(option.as_str(), "-h" | "--help")) {
            let register = services::start(workspace)?.require(self.servers)?;
            program.envs(register.addresses());
        }
        let status = program.status().context("cannot run the program")?;
        Ok(if status.success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
