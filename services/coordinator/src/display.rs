//! The live progress of a run, on standard error: a line that is redrawn on a terminal, a line every few seconds elsewhere.
//!
//! It reads the state schema, so that it shows the same whoever drives the run.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use proto::ids::Domain;
use state::stats::Progress;
use state::{Migration, Phase};
use tokio_util::sync::CancellationToken;

use crate::commands::behind::behind;
use crate::commands::human;
use crate::context::Context;
use crate::driver::stopped_for;
use crate::failure::Result;

/// Pause between two readings on a terminal.
const REDRAW: Duration = Duration::from_millis(500);
/// Pause between two lines elsewhere.
const LINE: Duration = Duration::from_secs(5);

/// The counts of a large domain take their time: the display waits this many times as long as its last reading took, so
/// that it never costs more than a small share of the state database.
const COST_SHARE: u32 = 20;

/// A display that runs until it is finished.
pub struct ProgressDisplay {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl ProgressDisplay {
    /// Starts the display of a domain's migration.
    ///
    /// # Errors
    /// The state schema's.
    pub async fn start(context: &Arc<Context>, domain: &Domain) -> Result<Self> {
        let stop = CancellationToken::new();
        let migration = super::commands::migration_of(context, domain).await?;
        let task = tokio::spawn(show(Arc::clone(context), migration, stop.clone()));
        Ok(Self { stop, task })
    }

    /// Ends the display.
    pub async fn finish(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

async fn show(context: Arc<Context>, migration: Migration, stop: CancellationToken) {
    let terminal = std::io::stderr().is_terminal();
    let bar = if terminal {
        ProgressBar::new_spinner()
    } else {
        ProgressBar::hidden()
    };
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    let pause = if terminal { REDRAW } else { LINE };
    let mut rate = Rate::new();
    let mut cost = Duration::ZERO;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause.max(cost * COST_SHARE)) => {}
        }
        let asked = Instant::now();
        let now = context.state.migration(&migration.domain).await;
        let progress = context.state.progress(migration.id).await;
        cost = asked.elapsed();
        let (Ok(Some(now)), Ok(progress)) = (now, progress) else {
            continue;
        };
        let mut line = line(&now, &progress, rate.per_second(now.phase, &progress));
        if let Ok(Some(stopped)) = stopped_for(&context, &now).await {
            line.push_str(&format!(", submissions off for {}", human(stopped)));
        }
        if now.phase == Phase::Follow
            && let Ok(Some(follow)) = context.state.following(migration.id).await
        {
            line.push_str(&format!("; {}", behind(&follow, chrono::Utc::now())));
        }
        if terminal {
            bar.set_message(line);
            bar.tick();
        } else {
            eprintln!("{line}");
        }
    }
    bar.finish_and_clear();
}

fn line(migration: &Migration, progress: &Progress, rate: f64) -> String {
    let mut line = format!(
        "{} {:<8} {} of {} documents staged, {} cases, {} diffed, {:.0}/s",
        migration.domain, migration.phase, progress.staged, progress.scanned, progress.cases, progress.diffed, rate
    );
    if progress.dirty > 0 {
        line.push_str(&format!(", {} to replay", progress.dirty));
    }
    if progress.errors > 0 {
        line.push_str(&format!(", {} errors", progress.errors));
    }
    line
}

/// Documents per second since the phase began.
struct Rate {
    phase: Option<Phase>,
    since: Instant,
    at_start: i64,
}

impl Rate {
    fn new() -> Self {
        Self {
            phase: None,
            since: Instant::now(),
            at_start: 0,
        }
    }

    fn per_second(&mut self, phase: Phase, progress: &Progress) -> f64 {
        let done = match phase {
            Phase::Replay => progress.replayed,
            Phase::Diff => progress.diffed,
            _ => progress.staged,
        };
        if self.phase != Some(phase) {
            *self = Self {
                phase: Some(phase),
                since: Instant::now(),
                at_start: done,
            };
        }
        let seconds = self.since.elapsed().as_secs_f64();
        let counted = f64::from(u32::try_from(done - self.at_start).unwrap_or(0));
        if seconds > 0.0 { counted / seconds } else { 0.0 }
    }
}
