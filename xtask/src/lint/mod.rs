//! `cargo xtask lint`: every check runs, each finding is one line, the last line is the verdict.

mod anchors;
mod codes;
mod dependencies;
mod length;
mod licences;
mod links;

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::workspace::Workspace;

/// What a check has found: lines to print. None at all is a pass.
type Findings = Vec<String>;

/// Whether findings of a check fail the lint.
enum Weight {
    Failure,
    Warning,
}

struct Check {
    name: &'static str,
    weight: Weight,
    run: fn(&Workspace) -> Result<Findings>,
}

/// Cheap checks first, so that their findings are seen while the compiler works.
const CHECKS: [Check; 9] = [
    Check {
        name: "rustfmt",
        weight: Weight::Failure,
        run: rustfmt,
    },
    Check {
        name: "links of the docs",
        weight: Weight::Failure,
        run: links::check,
    },
    Check {
        name: "error codes",
        weight: Weight::Failure,
        run: codes::check,
    },
    Check {
        name: "length of files",
        weight: Weight::Warning,
        run: length::check,
    },
    Check {
        name: "unused dependencies",
        weight: Weight::Failure,
        run: dependencies::check,
    },
    Check {
        name: "licences",
        weight: Weight::Failure,
        run: licences::check_licences,
    },
    Check {
        name: "banned crates",
        weight: Weight::Failure,
        run: licences::check_bans,
    },
    Check {
        name: "clippy",
        weight: Weight::Failure,
        run: clippy,
    },
    Check {
        name: "rustdoc",
        weight: Weight::Failure,
        run: rustdoc,
    },
];

/// Runs all checks.
pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let start = Instant::now();
    let mut failed = Vec::new();
    let mut warnings = 0;
    for check in CHECKS {
        let check_start = Instant::now();
        let findings = (check.run)(workspace).unwrap_or_else(|error| vec![format!("{error:#}")]);
        let verdict = match (findings.is_empty(), &check.weight) {
            (true, _) => "ok",
            (false, Weight::Warning) => "warning",
            (false, Weight::Failure) => "failed",
        };
        println!(
            "{}: {verdict} ({:.1} s)",
            check.name,
            check_start.elapsed().as_secs_f64()
        );
        findings.iter().for_each(|finding| println!("  {finding}"));
        match verdict {
            "failed" => failed.push(check.name),
            "warning" => warnings += findings.len(),
            _ => {}
        }
    }
    let seconds = start.elapsed().as_secs();
    if failed.is_empty() {
        println!("lint: ok checks={} warnings={warnings} seconds={seconds}", CHECKS.len());
        Ok(ExitCode::SUCCESS)
    } else {
        println!(
            "lint: failed ({}) warnings={warnings} seconds={seconds}",
            failed.join(", ")
        );
        Ok(ExitCode::FAILURE)
    }
}

fn rustfmt(workspace: &Workspace) -> Result<Findings> {
    let output = workspace
        .cargo(&["fmt", "--all", "--", "--check", "-l"])
        .output()
        .context("cannot run cargo fmt")?;
    let files = String::from_utf8_lossy(&output.stdout);
    let root = format!("{}/", workspace.root().display());
    let mut findings: Findings = files
        .lines()
        .filter(|line| !line.is_empty())
        .map(|file| {
            format!(
                "{}: not formatted: run cargo fmt --all",
                file.strip_prefix(&root).unwrap_or(file)
            )
        })
        .collect();
    if findings.is_empty() && !output.status.success() {
        findings.push(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(findings)
}

fn clippy(workspace: &Workspace) -> Result<Findings> {
    let arguments = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ];
    must_succeed(workspace.cargo(&arguments))
}

fn rustdoc(workspace: &Workspace) -> Result<Findings> {
    let mut doc = workspace.cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    must_succeed(doc)
}

/// Runs a tool that prints its own findings.
fn must_succeed(mut tool: Command) -> Result<Findings> {
    let status = tool.status().context("cannot run cargo")?;
    ensure!(status.success(), "see the messages above");
    Ok(Findings::new())
}
