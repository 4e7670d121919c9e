//! What an operator types.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{COMMAND_PATIENCE, World};
use crate::program::{Launch, Output, RunningCommand};

impl World {
    /// Runs `coordinator` to its end.
    ///
    /// # Errors
    /// It cannot be run, or does not end in time.
    pub async fn coordinator(&mut self, arguments: &[&str]) -> Result<Output> {
        self.begin(arguments)?.end(COMMAND_PATIENCE).await
    }

    /// Runs `coordinator` with exactly these arguments and these environment variables.
    ///
    /// # Errors
    /// It cannot be run, or does not end in time.
    pub async fn coordinator_bare(&mut self, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Output> {
        let launch = Launch {
            program: self.binaries.join("coordinator"),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            variables: variables
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        };
        RunningCommand::start(&launch, self.folder.path(), &mut self.watchdog)?
            .end(COMMAND_PATIENCE)
            .await
    }

    /// Starts `coordinator` and leaves it running.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn begin(&mut self, arguments: &[&str]) -> Result<RunningCommand> {
        let launch = self.launch("coordinator", arguments);
        RunningCommand::start(&launch, self.folder.path(), &mut self.watchdog)
    }

    /// Runs a command on a domain: `MIGRATE`, `COMMIT`, `stats`, `reset`; asks nothing.
    ///
    /// # Errors
    /// It cannot be run, or does not end in time.
    pub async fn domain(&mut self, domain: &str, action: &str, flags: &[&str]) -> Result<Output> {
        self.begin_domain(domain, action, flags)?.end(COMMAND_PATIENCE).await
    }

    /// Starts a command on a domain and leaves it running.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn begin_domain(&mut self, domain: &str, action: &str, flags: &[&str]) -> Result<RunningCommand> {
        let mut arguments = vec!["migrate_domain_from_couch_to_sql", domain, action, "--no-input"];
        arguments.extend(flags);
        self.begin(&arguments)
    }

    /// The statistics of a domain, as `stats --json` has them.
    ///
    /// # Errors
    /// The command failed.
    pub async fn stats(&mut self, domain: &str) -> Result<Value> {
        let output = self.domain(domain, "stats", &["--json"]).await?;
        ensure!(output.status == Some(0), "{}", output.told());
        serde_json::from_str(&output.stdout).with_context(|| output.told())
    }
}
