//! The downtime of a run: its limit, the way back to live when the limit cannot be kept, and the `COMMIT` that ends it.

use std::time::Duration;

use serde_json::json;
use state::run::Run;
use state::{Migration, Status};

use super::{Driver, Interruption, Step, stopped_for};
use crate::commands::commit;
use crate::commands::committing::{BEHIND_THE_SWITCH, Committing, UNDECIDED};
use crate::commands::cutover::{BACK_TO_LIVE, Cutover, time_left};
use crate::commands::human;
use crate::failure::{Failure, Result};

/// Failures behind which a commit is open: the run is too, so that whoever takes it up goes on with that.
const LEFT_OPEN: [&str; 2] = [UNDECIDED, BEHIND_THE_SWITCH];
/// Attempts at what leaves submissions off as long as it fails, before the run is left to the next driver.
const ATTEMPTS: usize = 3;
/// Pause between them: long enough for a server that restarts, short beside any downtime.
const PAUSE: Duration = Duration::from_secs(5);

/// Whether a failure leaves the run open, for whoever takes it up.
pub(super) fn leaves_open(failure: &Failure) -> bool {
    LEFT_OPEN.contains(&failure.code)
}

fn too_long(cutover: &Cutover) -> Interruption {
    let limit = human(cutover.max_downtime.unwrap_or_default());
    Interruption::TooLong(format!(
        "the end was not in sight in time for a downtime of {limit} at most"
    ))
}

impl Driver {
    /// Leads the run to its end, whatever that is.
    pub(super) async fn run(&mut self, run: &Run) -> Step<String> {
        let cutover = Cutover::of(run);
        if self.context.state.goes_back_to_live(run.id).await? {
            return Err(Interruption::TooLong(
                "it was interrupted on its way back to live".to_owned(),
            ));
        }
        // A run whose driver died while it committed.
        if let (Some(_), Some(accepted)) = (self.migration.commit_step, &cutover.commit) {
            return Box::pin(self.commit(run, accepted, &cutover)).await;
        }
        // The clock begins before submissions stop, so that whatever is slow in between counts.
        let time = self.time_left(&cutover).await?;
        let working = Box::pin(async {
            self.cutoff = Box::pin(self.start(run)).await?;
            self.prepare(run).await?;
            Box::pin(self.phases(run)).await
        });
        let found = match time {
            None => working.await?,
            Some(time) => tokio::select! {
                biased;
                ended = working => ended?,
                // Whatever is being done: every step may be left at any time, and is done again by the next run.
                () = tokio::time::sleep(time) => return Err(too_long(&cutover)),
            },
        };
        let Some(accepted) = &cutover.commit else {
            return self.with_time_for_commit(found, &cutover).await;
        };
        match Box::pin(self.commit(run, accepted, &cutover)).await {
            Err(Interruption::Failed(refusal)) if commit::NOT_CLEAN.contains(&refusal.code) => {
                if cutover.max_downtime.is_some() {
                    Err(Interruption::TooLong(format!("it was not committed: {refusal}")))
                } else {
                    Ok(format!("{found}; not committed: {refusal}"))
                }
            }
            other => other,
        }
    }

    /// For how long the run may still work before it must go back to live; `None` without a limit.
    async fn time_left(&self, cutover: &Cutover) -> Step<Option<Duration>> {
        let Some(limit) = cutover.max_downtime else {
            return Ok(None);
        };
        let stopped = stopped_for(&self.context, &self.migration_now().await?).await?;
        let wait = self.context.config.hq.cache_wait();
        Ok(Some(time_left(limit, stopped.unwrap_or_default(), wait)))
    }

    /// Nobody holds the operator to the limit: the outcome says how much time there is.
    async fn with_time_for_commit(&self, found: String, cutover: &Cutover) -> Step<String> {
        let Some(limit) = cutover.max_downtime else {
            return Ok(found);
        };
        let stopped = stopped_for(&self.context, &self.migration_now().await?).await?;
        let left = limit
            .saturating_sub(stopped.unwrap_or_default())
            .saturating_sub(self.context.config.hq.cache_wait());
        Ok(format!(
            "{found}; begin COMMIT or `unfinish` within {}, for a downtime of {} at most",
            human(left),
            human(limit)
        ))
    }

    /// Commits, by the protocol. What has failed in the middle is tried again, since nobody else can end it sooner.
    async fn commit(&self, run: &Run, accepted: &commit::Accepted, cutover: &Cutover) -> Step<String> {
        let mut attempt = 1;
        loop {
            let migration = self.migration_now().await?;
            let committing = Committing {
                context: &self.context,
                migration: &migration,
                lease: &self.lease,
                operator: &run.operator,
            };
            let time = self.time_left(cutover).await?;
            let committed = tokio::select! {
                biased;
                committed = Box::pin(committing.run(accepted, time)) => committed,
                // Every step may be left at any time; whoever takes the run up goes on from the one on record.
                () = self.signals.shutdown.cancelled() => return Err(Interruption::Shutdown),
            };
            match committed {
                Ok(0) => return Ok(format!("clean and committed: {} is on SQL", migration.domain)),
                Ok(late) => {
                    return Ok(format!(
                        "committed: {} is on SQL; {late} or more forms reached Couch too late and are not there",
                        migration.domain
                    ));
                }
                Err(failure) if LEFT_OPEN.contains(&failure.code) && attempt < ATTEMPTS => {
                    tracing::error!(code = failure.code, attempt, "{failure}");
                    attempt += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    async fn migration_now(&self) -> Step<Migration> {
        self.context
            .state
            .migration(&self.migration.domain)
            .await?
            .ok_or(Interruption::LeaseLost)
    }

    /// Whether a run that failed leaves submissions off although it has a limit that nobody would keep any more.
    pub(super) async fn must_go_back(&self, run: &Run) -> bool {
        if Cutover::of(run).max_downtime.is_none() {
            return false;
        }
        let now = self.migration_now().await;
        matches!(now, Ok(now) if now.status == Status::InProgress && now.commit_step.is_none())
    }

    /// Takes the domain back to live, trying again when that fails: submissions are off until then. Gives the run's outcome.
    pub(super) async fn back_to_live(&self, run: &Run, why: &str) -> Result<String> {
        for _ in 1..ATTEMPTS {
            match self.go_back_to_live(run, why).await {
                Err(failure) if !failure.is_lost_lease() => {
                    tracing::error!(code = failure.code, "the way back to live: {failure}");
                    tokio::time::sleep(PAUSE).await;
                }
                done => return done,
            }
        }
        self.go_back_to_live(run, why).await
    }

    /// HQ takes submissions again. It can be repeated from any point: the run is on record as going back before anything else happens.
    async fn go_back_to_live(&self, run: &Run, why: &str) -> Result<String> {
        let context = &self.context;
        let domain = &self.migration.domain;
        tracing::warn!(code = BACK_TO_LIVE, why, "the domain goes back to live");
        context.state.go_back_to_live(&self.lease, run.id).await?;
        context
            .target
            .set_unfinished(&self.claim(), domain, context.state.now().await?)
            .await?;
        context
            .state
            .audit(
                domain,
                &run.operator,
                "back to live",
                &json!({ "run": run.id, "why": why }),
            )
            .await?;
        // HQ takes submissions by its own row now. If its caches cannot be told, they find out by themselves, later.
        let told = context
            .tell_hq(domain)
            .await
            .err()
            .map(|failure: Failure| format!(" ({failure})"))
            .unwrap_or_default();
        Ok(format!(
            "{BACK_TO_LIVE}: {why}; {domain} is live again and HQ takes submissions{told}"
        ))
    }
}
