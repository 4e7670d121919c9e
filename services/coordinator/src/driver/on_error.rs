//! `MIGRATE --stop-on-error`: the first error of a document ends the run.

use state::run::Run;

use super::{Driver, Interruption, Step, rebuild};
use crate::commands::migrate::{OnError, Record};
use crate::failure::Failure;

impl Driver {
    /// What a run's order asks for before its phases begin.
    pub(super) async fn prepare(&mut self, run: &Run) -> Step<()> {
        if OnError::of(run) == OnError::Stop {
            self.errors_since = Some(self.context.state.now().await?);
        }
        if Record::of(run) == Record::Checked {
            Box::pin(rebuild::check(self)).await?;
        }
        Ok(())
    }

    /// Ends the run, after the batches in flight, when a document has failed since it began. What is on record stays.
    pub(super) async fn stop_on_error(&self) -> Step<()> {
        let Some(since) = self.errors_since else {
            return Ok(());
        };
        let found = self.context.state.first_error_since(self.migration.id, since).await?;
        let Some((kind, id, code)) = found else {
            return Ok(());
        };
        let failure = Failure::new(
            "C2S-4114",
            format!("stopped at the first document with an error: {kind} {id} ({code})"),
            "`stats --verbose` tells more; MIGRATE goes on from here, and tries it again",
        );
        self.drain(Interruption::Failed(failure)).await
    }
}
