//! The driver of one domain: takes its lease, and leads the migration through its phases.
//!
//! ```text
//!   start -> scan (form batches) -> replay (case batches) -> settle -> diff (diff batches) -> missing -> patch -> finished
//! ```
//!
//! A phase begins when the one before it has drained, and drained means that the rows say so. Every write of the driver
//! checks its lease; if it is lost, the driver stops where it stands, and whoever takes the lease goes on from there.

mod blob_check;
mod changed_since;
mod compare_again;
mod dead_letters;
mod dispatch;
mod downtime;
mod feed;
mod first_run;
pub(crate) mod follow;
pub(crate) mod ids;
mod interruption;
mod late_actions;
mod lease;
mod left;
mod looks;
mod lost_forms;
mod missing;
mod missing_docs;
mod on_error;
mod only_in_sql;
mod patch;
mod place;
mod ranges;
mod rebuild;
mod rewound;
mod ruled_forms;
mod scan;
mod second_chance;
mod start;
mod steps;
mod stop_looks;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use broker::Broker;
use chrono::{DateTime, Utc};
use proto::topology::Stage;
use state::migration::DriverLease;
use state::pace::Work;
use state::run::{Run, RunState, STOPPED};
use state::scan::{CutLimits, DIFF_PASS, REPLAY_PASS};
use state::{Kind, Migration, Phase};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::claim::Leased;
use crate::commands::migrate::{CaseDiff, Forms, Order, Then};
use crate::commands::verdict;
use crate::context::Context;
use crate::failure::Result;

use dispatch::Dispatcher;
use interruption::{Interruption, Step};
use stop_looks::StopLooks;

pub use blob_check::check_blobs;
pub use changed_since::{ChangedSince, changed_since};
pub use compare_again::{Compared, Ended, Pace, compare_again};
pub use left::{left, stopped_for};
pub use missing_docs::{MissingDocs, look_for_missing};
pub use patch::{PatchScope, patch_only};
pub(crate) use ranges::all_of;
pub use scan::scan_page_after;
pub(crate) use scan::{DESIGN, VIEW};
pub use steps::{couch_count, couch_counts, scanned_page};

/// Staged rows and KiB of one case batch at most, together; a case above it goes alone.
const CASE_BATCH_WEIGHT: i64 = 4000;
/// Replays that comparisons may ask for before a case is settled: one to try the order in which Couch applied its forms, one
/// to take that back.
const ORDER_REPLAYS: usize = 2;
/// Windows of batches that are cut ahead of the workers: enough that they never wait for a cut.
const CUT_AHEAD: usize = 2;

/// How a drive ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driven {
    /// It went through all phases.
    Finished,
    /// An operator stopped it.
    Stopped,
    /// This process is going away; the run waits for another driver.
    LeftForOthers,
    /// Somebody else drives the domain.
    Busy,
}

/// Why a drive is to end early.
#[derive(Clone, Debug, Default)]
pub struct StopSignals {
    /// The operator wants the run to stop.
    pub operator: CancellationToken,
    /// The process is going away.
    pub shutdown: CancellationToken,
    /// Set by the driver once the run has been through all phases and only follows: it costs little from then on.
    pub following: Arc<AtomicBool>,
}

/// Drives one domain for one run.
pub struct Driver {
    context: Arc<Context>,
    dispatcher: Dispatcher,
    migration: Migration,
    lease: DriverLease,
    signals: StopSignals,
    lost: CancellationToken,
    run_id: Option<i64>,
    looks_for_stop: StopLooks,
    /// In a live migration: what is later is left for another run.
    cutoff: Option<DateTime<Utc>>,
    /// Errors of documents since then end the run.
    errors_since: Option<DateTime<Utc>>,
    /// Scans leave out what is on record already: whatever of that changes is in the feed.
    unmet_only: bool,
    /// The phases are those of a round of following.
    is_following: bool,
    reader: Option<feed::FeedReader>,
}

/// Drives the domain of a run until the run is over, or until this process must stop.
///
/// # Errors
/// Why the run failed; the run's outcome says the same.
pub async fn drive(context: &Arc<Context>, broker: Arc<dyn Broker>, run: &Run, signals: StopSignals) -> Result<Driven> {
    let state = &context.state;
    let migration = state.ensure_migration(&run.domain).await?;
    let lease_time = context.config.worker.lease;
    let Some(lease) = state.take_lease(migration.id, &context.name, lease_time).await? else {
        return Ok(Driven::Busy);
    };
    // What was read before the lease may be out of date: a reset or a commit may have been in between.
    let migration = state.ensure_migration(&run.domain).await?;
    let lost = CancellationToken::new();
    let renewal = lease::renew(state.clone(), lease.clone(), lease_time, lost.clone());
    // What was asked to stop does not begin; but a commit, or the way back to live, goes on to its end.
    let only_stops = state.run(run.id).await?.state == RunState::Stopping
        && migration.commit_step.is_none()
        && !state.goes_back_to_live(run.id).await?;
    let begun = if only_stops {
        state
            .end_run(&lease, run.id, RunState::Stopped, STOPPED)
            .await
            .map(|()| false)
    } else {
        state.begin_run(&lease, run.id).await
    };
    if !matches!(begun, Ok(true)) {
        renewal.abort();
        return match begun {
            Err(error) if error.kind() == Kind::Lost => Ok(Driven::LeftForOthers),
            Err(error) => Err(error.into()),
            // The run may have ended since it was found: by another driver, by its operator, or by a reset.
            Ok(_) => {
                state.drop_lease(&lease).await?;
                Ok(if only_stops {
                    Driven::Stopped
                } else {
                    Driven::LeftForOthers
                })
            }
        };
    }
    let span = tracing::info_span!("drive", domain = %run.domain, run = run.id);
    let mut driver = Driver {
        context: Arc::clone(context),
        dispatcher: Dispatcher::new(state.clone(), broker, migration.clone(), &context.config),
        migration,
        lease: lease.clone(),
        signals,
        lost,
        run_id: Some(run.id),
        looks_for_stop: StopLooks::default(),
        cutoff: None,
        errors_since: None,
        unmet_only: false,
        is_following: false,
        reader: None,
    };
    let mut ended = Box::pin(driver.run(run)).instrument(span).await;
    if let Err(Interruption::Failed(failure)) = &ended
        && driver.must_go_back(run).await
    {
        ended = Err(Interruption::TooLong(failure.to_string()));
    }
    if let Some(reader) = driver.reader.take() {
        reader.stop().await;
    }
    let (end, driven) = match ended {
        Ok(outcome) => (Some((RunState::Finished, outcome)), Ok(Driven::Finished)),
        Err(Interruption::Operator) => (Some((RunState::Stopped, STOPPED.to_owned())), Ok(Driven::Stopped)),
        // Without a lease: a reset has ended the run already; another driver leads it otherwise.
        Err(Interruption::Shutdown | Interruption::LeaseLost) => (None, Ok(Driven::LeftForOthers)),
        // Whoever takes the run up goes on with its commit.
        Err(Interruption::Failed(failure)) if downtime::leaves_open(&failure) => (None, Err(failure)),
        Err(Interruption::Failed(failure)) => (Some((RunState::Failed, failure.to_string())), Err(failure)),
        Err(Interruption::TooLong(why)) => match driver.back_to_live(run, &why).await {
            Ok(outcome) => (Some((RunState::Failed, outcome)), Ok(Driven::Finished)),
            // The run stays open: whoever takes it up goes on with the way back.
            Err(failure) => (None, Err(failure)),
        },
    };
    let recorded = match end {
        Some((ended, outcome)) => state.end_run(&lease, run.id, ended, &outcome).await,
        None => Ok(()),
    };
    renewal.abort();
    state.drop_lease(&lease).await?;
    match recorded {
        Ok(()) => driven,
        // Another driver has taken the run up meanwhile: its end is not ours to tell.
        Err(error) if error.kind() == Kind::Lost => Ok(Driven::LeftForOthers),
        Err(error) => Err(error.into()),
    }
}

impl Driver {
    /// For changes of HQ's rows and of fences.
    fn claim(&self) -> Leased<'_> {
        Leased {
            state: &self.context.state,
            lease: &self.lease,
        }
    }

    async fn phases(&mut self, run: &Run) -> Step<String> {
        let order = Order::of(run);
        let state = self.context.state.clone();
        self.dispatcher.begin().await?;
        // First, so that the documents of batches that were set aside are not tried twice.
        state.unpark(self.migration.id).await?;
        let again = state
            .requeue_failed(&self.lease, self.context.config.driver.form_batch)
            .await?;
        if again > 0 {
            tracing::info!(
                documents = again,
                "documents that failed or were missing are tried again"
            );
        }
        if order.forms == Forms::Missing {
            only_in_sql::judge(self, &run.operator).await?;
        }
        if order.case_diff != CaseDiff::Patch {
            second_chance::requeue(self, &order.forms).await?;
        }
        let measure = first_run::Measure::begin(self).await?;
        let follows = self.cutoff.is_some() && order.then == Then::Follow;
        if follows {
            follow::begin(self).await?;
        }
        let measure = measure.less(self.look(&order).await?);
        if order.case_diff == CaseDiff::Patch {
            if order.forms != Forms::Missing {
                only_in_sql::judge(self, &run.operator).await?;
            }
            second_chance::requeue(self, &Forms::Missing).await?;
            self.scan_and_replay().await?;
            // Cases that a form has now made are missing no longer, and need no patch.
            missing::recheck(self).await?;
            self.phase(Phase::Diff).await?;
            self.diff_pending().await?;
            self.phase(Phase::Patch).await?;
            patch::patch(self, &run.operator, &PatchScope::Recorded, None).await?;
        }
        measure.end(self).await?;
        if follows {
            match Box::pin(follow::stay(self, run)).await? {}
        }
        self.phase(Phase::Finished).await?;
        let obstacles = state.obstacles(self.migration.id).await?;
        Ok(match self.cutoff {
            None => verdict::verdict(&obstacles),
            Some(cutoff) => verdict::live_verdict(&obstacles, cutoff),
        })
    }

    async fn scan_and_replay(&self) -> Step<()> {
        scan::reopen(self).await?;
        loop {
            self.phase(Phase::Scan).await?;
            self.measured(Work::Forms, Box::pin(self.scan())).await?;
            self.phase(Phase::Replay).await?;
            self.measured(Work::Replay, Box::pin(self.replay())).await?;
            // A replay may send a form through its stage again.
            if self
                .context
                .state
                .open_batches(self.migration.id, Stage::Form)
                .await?
                .is_drained()
            {
                return Ok(());
            }
        }
    }

    /// Scans, and dispatches what the scan has found already.
    async fn scan(&self) -> Step<()> {
        let scanned = CancellationToken::new();
        let scanning = async {
            let result = scan::scan_all(self).await;
            scanned.cancel();
            result
        };
        let dispatching = async {
            loop {
                let drained = self.tick(Stage::Form).await?;
                if drained && scanned.is_cancelled() {
                    // A batch may have been inserted between the look and the end of the scan.
                    if self.tick(Stage::Form).await? {
                        return Ok(());
                    }
                } else if drained {
                    tokio::select! {
                        () = scanned.cancelled() => {}
                        paused = self.pause(self.dispatcher.breath()) => paused?,
                    }
                }
            }
        };
        tokio::try_join!(scanning, dispatching).map(|_| ())
    }

    async fn replay(&self) -> Step<()> {
        let state = &self.context.state;
        let settings = &self.context.config.driver;
        let limits = CutLimits {
            cases: settings.case_batch,
            weight: CASE_BATCH_WEIGHT,
            batches: settings.window * CUT_AHEAD,
        };
        // A replay may make cases dirty again, as many as it has done: it refuses a form, and the form's other cases follow.
        // Cases whose batch was set aside stay dirty; they are on record, no pass can help them, and none is cut for them.
        while state.has_replays(self.migration.id).await? {
            let drained = state.open_batches(self.migration.id, Stage::Case).await?.is_drained();
            state.restart_scan(&self.lease, REPLAY_PASS).await?;
            if self.pass(Stage::Case, &limits).await? == 0 && drained {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn diff(&self, which: CaseDiff) -> Step<()> {
        self.phase(Phase::Diff).await?;
        self.measured(Work::List, Box::pin(scan::record_all_cases(self)))
            .await?;
        match which {
            CaseDiff::None => Ok(()),
            CaseDiff::After | CaseDiff::Patch => self.measured(Work::Diff, Box::pin(self.diff_pending())).await,
        }
    }

    async fn diff_pending(&self) -> Step<()> {
        self.diff_pending_by(self.context.config.driver.diff_batch).await
    }

    /// Compares what is pending, so many cases a batch.
    async fn diff_pending_by(&self, cases: usize) -> Step<()> {
        let state = &self.context.state;
        self.note_stock().await?;
        let settings = &self.context.config.driver;
        let limits = CutLimits {
            cases,
            weight: i64::MAX,
            batches: settings.window * CUT_AHEAD,
        };
        // Batches that an earlier command has left, of forms perhaps: no pass over pending cases would wait for them.
        while !self.tick(Stage::Diff).await? {}
        // A comparison may ask for a replay in another order, and a second one to take that back.
        for _ in 0..=ORDER_REPLAYS {
            self.compare_pending(&limits).await?;
            let (dirty, _) = state.pending_cases(self.migration.id).await?;
            if dirty == 0 {
                return Ok(());
            }
            self.replay().await?;
        }
        Ok(())
    }

    /// Compares until nothing is pending, or nothing gets less.
    async fn compare_pending(&self, limits: &CutLimits) -> Step<()> {
        let state = &self.context.state;
        let (_, mut pending) = state.pending_cases(self.migration.id).await?;
        while pending > 0 {
            state.restart_scan(&self.lease, DIFF_PASS).await?;
            self.pass(Stage::Diff, limits).await?;
            let (_, after) = state.pending_cases(self.migration.id).await?;
            if after >= pending {
                return Ok(());
            }
            pending = after;
        }
        Ok(())
    }

    /// One pass over the pending cases: cuts batches as workers take them, until all are done. Gives how many were cut.
    async fn pass(&self, stage: Stage, limits: &CutLimits) -> Step<usize> {
        let state = &self.context.state;
        let mut at_end = false;
        let mut batches = 0;
        loop {
            let open = state.open_batches(self.migration.id, stage).await?;
            let waiting = usize::try_from(open.ready).unwrap_or(0);
            if !at_end && waiting < limits.batches {
                let cut = match stage {
                    Stage::Diff => state.cut_diff_batches(&self.lease, limits).await?,
                    _ => state.cut_case_batches(&self.lease, limits).await?,
                };
                // Fewer than were allowed: whatever comes now is for the next pass.
                at_end = cut < limits.batches;
                batches += cut;
            }
            if self.tick(stage).await? && at_end {
                return Ok(batches);
            }
        }
    }

    /// HQ's caches may let submissions through for a while after its flag was set: waits until that is over, then takes
    /// what came meanwhile.
    ///
    /// A live migration blocks no submissions: there is nothing to wait for.
    async fn settle(&self) -> Step<()> {
        if self.cutoff.is_some() {
            return Ok(());
        }
        self.phase(Phase::Settle).await?;
        let state = &self.context.state;
        let migration = state
            .migration(&self.migration.domain)
            .await?
            .ok_or(Interruption::LeaseLost)?;
        if let Some(set_at) = migration.progress_set_at {
            let wait = chrono::Duration::from_std(self.context.config.hq.cache_wait()).unwrap_or_default();
            let until = set_at + wait;
            if state.now().await? < until {
                tracing::info!(until = %until, "waiting for HQ's caches of the migration flag");
            }
            while state.now().await? < until {
                self.pause(Duration::from_secs(1)).await?;
            }
        }
        self.scan_and_replay().await
    }

    async fn phase(&self, phase: Phase) -> Step<()> {
        if self.is_following {
            return Ok(());
        }
        tracing::info!(phase = phase.as_str(), "phase");
        Ok(self.context.state.set_phase(&self.lease, phase).await?)
    }

    /// Publishes what is due. Takes a short breath while workers are at it. Whether the stage has drained.
    async fn tick(&self, stage: Stage) -> Step<bool> {
        let drained = self.dispatcher.tick(stage).await?;
        self.stop_on_error().await?;
        self.pause(if drained {
            Duration::ZERO
        } else {
            self.dispatcher.breath()
        })
        .await?;
        Ok(drained)
    }
}
