//! What was begun on a domain and has not come to its end, with what to do about it.

use serde_json::{Value, json};
use state::Migration;
use state::migration::CommitStep;
use state::run::Run;

use crate::context::Context;
use crate::failure::Result;

/// What is half done.
#[derive(Clone, Debug, Default)]
pub(super) struct HalfDone {
    is_resetting: bool,
    commit: Option<&'static str>,
    uncommit: Option<&'static str>,
    /// Open, and without a driver.
    run: Option<Run>,
}

impl HalfDone {
    /// Of a migration. What somebody works on is not half done; of a reset, that is not on record.
    pub(super) async fn of(context: &Context, migration: &Migration) -> Result<Self> {
        if migration.driver.is_some() {
            return Ok(Self::default());
        }
        let open = context.state.open_run(migration.id).await?;
        Ok(Self {
            is_resetting: migration.purging,
            commit: migration
                .commit_step
                .filter(|step| *step < CommitStep::Done)
                .map(CommitStep::as_str),
            uncommit: migration.uncommit_step.map(|step| step.as_str()),
            run: open,
        })
    }

    /// A line for each.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.is_resetting {
            lines.push("reset has begun and not ended: if nobody is at it, run it again.".to_owned());
        }
        if let Some(step) = self.commit {
            lines.push(format!(
                "COMMIT has begun (step {step}) and HQ refuses submissions: run COMMIT again, or COMMIT --abort."
            ));
        }
        if let Some(step) = self.uncommit {
            lines.push(format!("uncommit has begun (step {step}): run it again."));
        }
        if let Some(run) = &self.run {
            lines.push(format!(
                "Run {} is {} and nobody drives it: MIGRATE goes on with it, `coordinator stop` ends it.",
                run.id,
                run.state.as_str()
            ));
        }
        lines
    }

    /// The same for programs.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "reset": self.is_resetting,
            "commit_step": self.commit,
            "uncommit_step": self.uncommit,
            "run_without_driver": self.run.as_ref().map(|run| run.id),
        })
    }
}
