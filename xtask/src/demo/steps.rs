//! Commands that are shown before they run, as in a terminal.

use std::io::{IsTerminal, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::Places;

/// Runs the workspace's programs with the demonstration's configuration.
pub(super) struct Steps<'run> {
    places: &'run Places,
}

impl<'run> Steps<'run> {
    pub(super) fn new(places: &'run Places) -> Self {
        Self { places }
    }

    /// A line about what happens between commands.
    pub(super) fn say(&self, text: &str) {
        println!("\n# {text}");
    }

    /// A program with its configuration, as one would type it.
    pub(super) fn shown_command(&self, program: &str) -> String {
        let path = self.places.binaries.join(program);
        format!(
            "{} --config {}",
            self.places.shown(&path),
            self.places.shown(&self.places.configuration())
        )
    }

    /// Shows and runs a command; fails when it does.
    pub(super) fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let line = format!("{} {}", self.shown_command(program), arguments.join(" "));
        if std::io::stdout().is_terminal() {
            println!("\n\x1b[1m$ {line}\x1b[0m");
        } else {
            println!("\n$ {line}");
        }
        std::io::stdout().flush()?;
        let status = self
            .command(program, arguments)
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("cannot run {program}"))?;
        ensure!(
            status.success(),
            "`{program} {}` failed ({status})",
            arguments.join(" ")
        );
        Ok(())
    }

    /// How many documents the statistics count, over all document types.
    pub(super) fn count_docs(&self, arguments: &[&str]) -> Result<u64> {
        let output = self
            .command("coordinator", arguments)
            .output()
            .context("cannot run coordinator")?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let stats: serde_json::Value = serde_json::from_slice(&output.stdout).context("the statistics are no JSON")?;
        sum_docs(&stats).context("the statistics have no counts")
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.places.binaries.join(program));
        command
            .arg("--config")
            .arg(self.places.configuration())
            .args(arguments)
            .current_dir(&self.places.root);
        command
    }
}

fn sum_docs(stats: &serde_json::Value) -> Option<u64> {
    stats["doc_types"]
        .as_array()?
        .iter()
        .map(|row| row["docs"].as_u64())
        .sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_summed_over_all_types() {
        let stats = json!({ "doc_types": [
            { "doc_type": "XFormInstance", "docs": 30, "diffs": 0 },
            { "doc_type": "CommCareCase", "docs": 12, "diffs": 0 },
        ] });
        assert_eq!(sum_docs(&stats), Some(42));
        assert_eq!(
            sum_docs(&json!({ "doc_types": [ { "doc_type": "XFormInstance" } ] })),
            None
        );
    }
}
