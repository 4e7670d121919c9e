//! The driver's pauses: in them it looks whether its run was stopped, by its own process or another one.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use proto::topology::Stage;
use state::run::RunState;

use super::{Driver, Interruption, Step, dispatch};

/// Between two looks. Short for an operator who waits; a page of a small domain takes a few milliseconds, and a look before
/// each would cost as much as the page.
const EVERY: Duration = Duration::from_millis(200);

/// When the last look was.
#[derive(Debug, Default)]
pub(super) struct StopLooks(Mutex<Option<Instant>>);

impl StopLooks {
    /// Whether it is time for a look, which counts as taken then. The first is due at once.
    pub(super) fn is_due(&self) -> bool {
        self.is_due_at(Instant::now())
    }

    fn is_due_at(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| now.duration_since(last) >= EVERY);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

impl Driver {
    /// Waits, unless there is a reason to stop.
    pub(super) async fn pause(&self, time: Duration) -> Step<()> {
        if self.lost.is_cancelled() {
            return Err(Interruption::LeaseLost);
        }
        if let Some(run_id) = self.run_id
            && self.looks_for_stop.is_due()
            && let state = self.context.state.run_state(run_id).await?
            // One that is over was stopped by its operator before anybody drove it, or so it looked.
            && (state == RunState::Stopping || state.is_over())
        {
            self.signals.operator.cancel();
        }
        self.rest(time).await
    }

    /// As [`Driver::pause`], without asking any server.
    pub(super) async fn rest(&self, time: Duration) -> Step<()> {
        tokio::select! {
            biased;
            () = self.signals.operator.cancelled() => self.drain(Interruption::Operator).await,
            () = self.signals.shutdown.cancelled() => Err(Interruption::Shutdown),
            () = self.lost.cancelled() => Err(Interruption::LeaseLost),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    /// An operator's stop waits for the batches that workers have in hand.
    pub(super) async fn drain(&self, why: Interruption) -> Step<()> {
        loop {
            let mut claimed = 0;
            for stage in Stage::ALL {
                claimed += self.context.state.open_batches(self.migration.id, stage).await?.claimed;
            }
            if claimed == 0 {
                return Err(why);
            }
            self.context
                .state
                .expire_claims(self.migration.id, self.context.config.worker.max_attempts)
                .await?;
            tokio::select! {
                () = self.signals.shutdown.cancelled() => return Err(why),
                () = self.lost.cancelled() => return Err(Interruption::LeaseLost),
                () = tokio::time::sleep(dispatch::TICK) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_due_at_first_and_then_after_a_while() {
        let looks = StopLooks::default();
        let start = Instant::now();
        let due: Vec<bool> = [0, 199, 200, 399, 400, 5000, 5001]
            .map(|millis| looks.is_due_at(start + Duration::from_millis(millis)))
            .into();
        assert_eq!(due, [true, false, true, false, true, true, false]);
    }
}
