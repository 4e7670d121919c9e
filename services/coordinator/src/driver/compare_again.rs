//! Comparing documents again, for commands that need no run: cases, all at once or batch by batch, and forms.

use std::sync::Arc;

use broker::Broker;
use chrono::{DateTime, Utc};
use proto::topology::Stage;
use state::Migration;
use state::records::RecordTable;
use state::scan::{CutLimits, DIFF_PASS};

use super::steps::held_driver;
use super::{Driver, ORDER_REPLAYS, Step, StopSignals, scan};
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
    /// Cases with a record, and no others.
    CasesWith(RecordTable),
    /// These cases, and no others.
    Cases(Vec<String>),
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
    /// All was compared, and of the cases that were named so many are nowhere to be found.
    WithUnknown(u64),
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
    /// Puts on record whether HQ has stock of the domain: workers look for ledgers that SQL lacks only then. Whoever cuts
    /// batches of comparisons does this first.
    pub(super) async fn note_stock(&self) -> Step<()> {
        let has_stock = self.context.target.has_stock(&self.migration.domain).await?;
        Ok(self.context.state.record_couch_stock(&self.lease, has_stock).await?)
    }

    async fn compare(&self, what: &Compared, pace: Pace) -> Step<Ended> {
        let batch = pace.batch.unwrap_or(self.context.config.driver.diff_batch);
        let state = &self.context.state;
        match what {
            Compared::AllCases => {
                let cases = state.request_diff(&self.lease, None).await?;
                tracing::info!(cases, "cases are compared again");
                scan::record_all_cases(self).await?;
            }
            Compared::PendingCases => {}
            Compared::CasesWith(table) => {
                let ids = state.cases_with_records(self.migration.id, *table).await?;
                return self.compare_only(&ids, batch, pace).await;
            }
            Compared::Cases(ids) => {
                let ended = self.compare_only(ids, batch, pace).await?;
                let unknown = state.forget_unknown_cases(&self.lease, ids).await?;
                return Ok(match ended {
                    Ended::Done if unknown > 0 => Ended::WithUnknown(unknown),
                    ended => ended,
                });
            }
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

    /// Compares these cases, and none that is pending beside them. What is not compared stays pending.
    async fn compare_only(&self, ids: &[String], batch: usize, pace: Pace) -> Step<Ended> {
        let state = &self.context.state;
        self.note_stock().await?;
        self.drain_diffs().await?;
        let since = state.now().await?;
        let cases = state.request_diff(&self.lease, Some(ids)).await?;
        tracing::info!(cases, "cases are compared again");
        let page = if pace.stop_at_first {
            batch
        } else {
            usize::try_from(PAGE).unwrap_or(usize::MAX)
        };
        // A comparison may ask for a replay in another order, and a second one to take that back.
        for _ in 0..=ORDER_REPLAYS {
            for ids in ids.chunks(page.max(1)) {
                state.cut_diffs_of(&self.lease, ids, batch).await?;
                if pace.stop_at_first {
                    self.drain_diffs().await?;
                    if self.has_differed(since).await? {
                        return Ok(Ended::AtFirst(since));
                    }
                }
            }
            self.drain_diffs().await?;
            if !self.replayed_for_orders().await? {
                break;
            }
        }
        Ok(Ended::Done)
    }

    /// Compares one batch of pending cases after the other, up to the first with differences.
    async fn until_first(&self, cases: usize) -> Step<Ended> {
        let state = &self.context.state;
        self.note_stock().await?;
        self.drain_diffs().await?;
        let since = state.now().await?;
        let one = CutLimits {
            cases,
            weight: i64::MAX,
            batches: 1,
        };
        for _ in 0..=ORDER_REPLAYS {
            state.restart_scan(&self.lease, DIFF_PASS).await?;
            while state.cut_diff_batches(&self.lease, &one).await? > 0 {
                self.drain_diffs().await?;
                if self.has_differed(since).await? {
                    return Ok(Ended::AtFirst(since));
                }
            }
            if !self.replayed_for_orders().await? {
                break;
            }
        }
        Ok(Ended::Done)
    }

    async fn has_differed(&self, since: DateTime<Utc>) -> Step<bool> {
        let found = self.context.state.cases_recorded_since(self.migration.id, since, 1);
        Ok(!found.await?.is_empty())
    }

    /// Replays the cases for which comparisons want another order of forms. Whether there were any.
    async fn replayed_for_orders(&self) -> Step<bool> {
        let (dirty, _) = self.context.state.pending_cases(self.migration.id).await?;
        if dirty == 0 {
            return Ok(false);
        }
        self.replay().await?;
        Ok(true)
    }
}
