//! `cargo xtask fuzz`

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::workspace::Workspace;

#[derive(Args)]
pub(crate) struct FuzzArguments {
    /// How long to go on
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Decides all inputs: the same seed gives the same inputs in the same order
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Builds and runs package `fuzz`. It says itself how it went, unless an input took the whole process with it.
pub(crate) fn run(workspace: &Workspace, arguments: &FuzzArguments) -> Result<ExitCode> {
    // Not in release mode: the checks of overflow and of debug builds are part of what is looked for.
    let status = workspace
        .cargo(&["build", "--quiet", "-p", "fuzz", "--bin", "fuzz"])
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "the build failed");
    let program = workspace.target()?.join("debug").join("fuzz");
    let folder = workspace.private_folder("fuzz")?;
    let status = fuzz(&program, &folder, arguments)
        .args(["--seconds", &arguments.seconds.to_string()])
        .status()
        .context("cannot run the fuzzing program")?;
    match status.code() {
        Some(0) => Ok(ExitCode::SUCCESS),
        Some(_) => Ok(ExitCode::FAILURE),
        None => {
            let number = number_in(&folder.join("current"))?;
            let written = fuzz(&program, &folder, arguments)
                .args(["--write", &number.to_string()])
                .output()
                .context("cannot write the input")?;
            let file = String::from_utf8_lossy(&written.stdout);
            println!(
                "fuzz: failed inputs={number} number={number} file={} reason=crash: {status}",
                file.trim()
            );
            Ok(ExitCode::FAILURE)
        }
    }
}

fn fuzz(program: &Path, folder: &Path, arguments: &FuzzArguments) -> Command {
    let mut command = Command::new(program);
    command
        .args(["--seed", &arguments.seed.to_string(), "--folder"])
        .arg(folder);
    command
}

/// The number of the input that was being read when the process died.
fn number_in(file: &Path) -> Result<u64> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let bytes: [u8; 8] = bytes
        .as_slice()
        .try_into()
        .with_context(|| format!("{} holds no number", file.display()))?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_the_number_of_an_input() {
        let file = std::env::temp_dir().join(format!("xtask-fuzz-{}", std::process::id()));
        fs::write(&file, 258_u64.to_le_bytes()).unwrap();
        assert_eq!(number_in(&file).unwrap(), 258);
        fs::write(&file, [1, 2]).unwrap();
        assert!(number_in(&file).is_err());
        fs::remove_file(&file).unwrap();
        assert!(number_in(&file).is_err());
    }
}
