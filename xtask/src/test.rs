//! `cargo xtask test`

use std::io::{BufRead, BufReader};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;

use crate::services;
use crate::workspace::Workspace;

#[derive(Args)]
pub(crate) struct TestArguments {
    /// Arguments for `cargo test`, instead of `--workspace`
    #[arg(last = true)]
    cargo: Vec<String>,
}

/// What the summary lines of `cargo test` add up to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Totals {
    /// Adds one line of output; lines that are no summary count nothing.
    fn add(&mut self, line: &str) {
        // test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            let Some((number, name)) = count.split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else { continue };
            match name {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

/// Starts the services, builds every binary, runs the tests, and ends with one line of totals.
pub(crate) fn run(workspace: &Workspace, arguments: &TestArguments) -> Result<ExitCode> {
    let start = Instant::now();
    let outcome = run_tests(workspace, arguments);
    let seconds = start.elapsed().as_secs();
    match outcome {
        Ok((
            true,
            Totals {
                passed,
                failed: 0,
                ignored,
            },
        )) => {
            println!("test: ok passed={passed} failed=0 ignored={ignored} seconds={seconds}");
            Ok(ExitCode::SUCCESS)
        }
        Ok((
            _,
            Totals {
                passed,
                failed,
                ignored,
            },
        )) => {
            println!("test: failed passed={passed} failed={failed} ignored={ignored} seconds={seconds}");
            Ok(ExitCode::FAILURE)
        }
        Err(error) => {
            println!("test: failed ({error:#}) seconds={seconds}");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn run_tests(workspace: &Workspace, arguments: &TestArguments) -> Result<(bool, Totals)> {
    // Before anything is built: the build may replace this very program.
    let this_program = std::env::current_exe().context("cannot tell this program's path")?;
    let register = services::start(workspace)?.require_all()?;
    let build = workspace
        .cargo(&["build", "--workspace", "--bins"])
        .status()
        .context("cannot run cargo")?;
    anyhow::ensure!(build.success(), "the build failed");

    let mut cargo = workspace.cargo(&["test", "--no-fail-fast"]);
    if arguments.cargo.is_empty() {
        cargo.arg("--workspace");
    }
    cargo
        .args(&arguments.cargo)
        .envs(register.addresses())
        .env("C2S_TEST_BIN_DIR", workspace.target()?.join("debug"))
        .env("C2S_TEST_RABBIT_CTL", format!("'{}' rabbit", this_program.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = cargo.spawn().context("cannot run cargo test")?;
    let output = child.stdout.take().context("cargo test has no output")?;
    let mut totals = Totals::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        totals.add(&line);
    }
    Ok((child.wait()?.success(), totals))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_the_sums_of_all_summary_lines() {
        let output = "\
running 2 tests
test a ... ok
test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

     Running tests/main.rs
test result: FAILED. 40 passed; 3 failed; 0 ignored; 0 measured; 7 filtered out; finished in 12.50s
the test result: ok. 9 passed; 9 failed
";
        let mut totals = Totals::default();
        output.lines().for_each(|line| totals.add(line));
        assert_eq!(
            totals,
            Totals {
                passed: 42,
                failed: 3,
                ignored: 1
            }
        );
    }
}
