//! Comparing documents again, for commands that need no run: cases, all at once or batch by batch, and forms.

use std::sync::Arc;

use broker::Broker;
use chrono::{DateTime, Utc};
use proto::topology::Stage;
use state::Migration;
use state::scan::{CutLimits, DIFF_PASS};

use super::steps::held_driver;
use super::{Driver, Step, StopSignals, scan};
use crate::context::Context;
use crate::failure::Result;

/// Ids handed over to batches at once.
const PAGE: i64 = 5000;

/// What is to be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compared {
    /// All cases of both sides.
    AllCases,
    /// Cases that are pending.
    PendingCases,
    /// These forms.
    Forms(Vec<String>),
    /// Forms with recorded diffs.
    FormsWithDiffs,
}

/// How.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Documents of one batch, if not as configured.
    pub batch: Option<usize>,
    /// One batch of cases at a time, and no further than the first with differences.
    pub stop_at_first: bool,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All was compared.
    Done,
    /// Cases that were compared after this time have differences, and the rest is pending.
    AtFirst(DateTime<Utc>),
    /// The operator stopped it.
    Stopped,
}

/// Compares documents again, without the other phases.
///
/// # Errors
/// Somebody else drives the domain, or what went wrong.
pub async fn compare_again(
    context: &Arc<Context>,
    broker: Arc<dyn Broker>,
    migration: &Migration,
    signals: StopSignals,
    what: &Compared,
    pace: Pace,
) -> Result<Ended> {
    let held = held_driver(context, broker, migration, signals).await?;
    let compared = held.driver.compare(what, pace).await;
    Ok(held.end(context, compared).await?.unwrap_or(Ended::Stopped))
}

impl Driver {
    async fn compare(&self, what: &Compared, pace: Pace) -> Step<Ended> {
        let batch = pace.batch.unwrap_or(self.context.config.driver.diff_batch);
        let state = &self.context.state;
        match what {
            Compared::AllCases => scan::record_all_cases(self).await?,
            Compared::PendingCases => {}
            Compared::Forms(ids) => {
                for ids in ids.chunks(usize::try_from(PAGE).unwrap_or(usize::MAX)) {
                    state.request_form_diffs(&self.lease, ids, batch).await?;
                }
                return self.drain_diffs().await;
            }
            Compared::FormsWithDiffs => {
                let mut after = String::new();
                loop {
                    let ids = state.forms_with_diffs_after(self.migration.id, &after, PAGE).await?;
                    let Some(last) = ids.last() else { break };
                    after.clone_from(last);
                    state.request_form_diffs(&self.lease, &ids, batch).await?;
                }
                return self.drain_diffs().await;
            }
        }
        if pace.stop_at_first {
            return self.until_first(batch).await;
        }
        self.diff_pending_by(batch).await?;
        Ok(Ended::Done)
    }

    /// Waits for the batches of the diff stage, those of an earlier command that was interrupted among them.
    async fn drain_diffs(&self) -> Step<Ended> {
        while !self.tick(Stage::Diff).await? {}
        Ok(Ended::Done)
    }

    /// Compares one batch of cases after the other, up to the first with differences.
    async fn until_first(&self, cases: usize) -> Step<Ended> {
        let state = &self.context.state;
        self.drain_diffs().await?;
        let since = state.now().await?;
        state.restart_scan(&self.lease, DIFF_PASS).await?;
        let one = CutLimits {
            cases,
            weight: i64::MAX,
            batches: 1,
        };
        while state.cut_diff_batches(&self.lease, &one).await? > 0 {
            self.drain_diffs().await?;
            if !state
                .cases_recorded_since(self.migration.id, since, 1)
                .await?
                .is_empty()
            {
                return Ok(Ended::AtFirst(since));
            }
        }
        Ok(Ended::Done)
    }
}
