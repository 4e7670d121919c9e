//! What a first run took, on record for the estimates of others.

use std::time::{Duration, Instant};

use super::{Driver, Step};

/// Forms below which a run says nothing: it is all start and end.
const ENOUGH: i64 = 10;

/// The pace of a run, while it is measured.
pub(super) struct Measure {
    began: Instant,
    /// Time that the run only waited.
    waited: Duration,
    /// Nothing had been scanned when it began: later runs take what is left, and their pace says little.
    is_first: bool,
}

impl Measure {
    pub(super) async fn begin(driver: &Driver) -> Step<Self> {
        let scanned = driver.context.state.progress(driver.migration.id).await?.scanned;
        Ok(Self {
            began: Instant::now(),
            waited: Duration::ZERO,
            is_first: scanned == 0,
        })
    }

    /// Leaves out what the run has only waited.
    pub(super) fn less(mut self, waited: Duration) -> Self {
        self.waited += waited;
        self
    }

    pub(super) async fn end(self, driver: &Driver) -> Step<()> {
        let (Some(run_id), true) = (driver.run_id, self.is_first) else {
            return Ok(());
        };
        let scanned = driver.context.state.progress(driver.migration.id).await?.scanned;
        let seconds = self.began.elapsed().saturating_sub(self.waited).as_secs_f64();
        if scanned >= ENOUGH && seconds > 0.0 {
            driver.context.state.record_first_run(run_id, scanned, seconds).await?;
        }
        Ok(())
    }
}
