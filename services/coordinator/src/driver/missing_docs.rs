//! `--missing-docs`: how the documents that only one side has are looked for.

use std::sync::Arc;

use serde_json::Value;
use state::pace::Work;
use state::run::Run;
use state::{Migration, Phase};
use tokio_util::sync::CancellationToken;

use super::missing::{self, Begin, Depth};
use super::steps::held_driver;
use super::{Driver, Step, StopSignals, place};
use crate::commands::migrate::Order;
use crate::context::Context;
use crate::failure::Result;

/// How often the last look may find changed documents before the run ends with what it has: submissions are blocked, so
/// that changes come from a few operations only. Whatever is left is not diffed at its revision, and stands against COMMIT.
pub(super) const ROUNDS: usize = 5;

/// How documents that only one side has are looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum MissingDocs {
    /// Take the list as it is.
    Cached,
    /// Go on with a look that was interrupted, or look anew.
    #[default]
    Resume,
    /// Look anew.
    Rebuild,
    /// Ask SQL again for what is on the list.
    Recheck,
}

impl MissingDocs {
    /// Its name on the command line and among a run's arguments.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Resume => "resume",
            Self::Rebuild => "rebuild",
            Self::Recheck => "recheck",
        }
    }

    /// As a run was ordered.
    pub(crate) fn of(run: &Run) -> Self {
        let ordered = run.arguments.get("missing_docs").and_then(Value::as_str);
        let all = [Self::Cached, Self::Resume, Self::Rebuild, Self::Recheck];
        all.into_iter()
            .find(|mode| Some(mode.as_str()) == ordered)
            .unwrap_or_default()
    }

    const fn begin(self) -> Begin {
        match self {
            Self::Rebuild => Begin::Anew,
            Self::Cached | Self::Resume | Self::Recheck => Begin::WhereItStood,
        }
    }
}

impl Driver {
    /// Compares what is pending and looks at all documents, until nothing has changed meanwhile. No run ends without a look.
    pub(super) async fn look_at_all(&self, order: &Order) -> Step<()> {
        let how = order.missing_docs;
        if how == MissingDocs::Recheck {
            missing::recheck(self).await?;
        }
        let mut begin = how.begin();
        for _ in 0..ROUNDS {
            self.diff(order.case_diff).await?;
            self.phase(Phase::Missing).await?;
            let stands = place::now(&self.context).await?;
            let look = Box::pin(missing::find(self, begin, Depth::Revisions));
            let seen = self.measured(Work::Missing, look).await?;
            begin = Begin::Anew;
            if !seen.resumed {
                self.context.state.set_looked(&self.lease, &stands).await?;
            }
            if seen.changed == 0 {
                // What an earlier run has looked at may have changed since. A live migration is looked at again anyway, unless
                // its run stays and relies on the look.
                if seen.resumed && (self.cutoff.is_none() || self.reader.is_some()) {
                    continue;
                }
                return Ok(());
            }
            tracing::info!(
                documents = seen.changed,
                "documents have changed since; they are migrated or compared again"
            );
            self.scan_and_replay().await?;
        }
        Ok(())
    }
}

/// Looks for documents that only one side has, for a command that needs no run. False when it was stopped; the next look goes
/// on from there.
///
/// # Errors
/// Somebody else drives the domain, or what went wrong.
pub async fn look_for_missing(
    context: &Arc<Context>,
    migration: &Migration,
    how: MissingDocs,
    stop: CancellationToken,
) -> Result<bool> {
    if how == MissingDocs::Cached {
        return Ok(true);
    }
    let broker = context.broker().await?;
    let signals = StopSignals {
        operator: stop,
        ..StopSignals::default()
    };
    let held = held_driver(context, Arc::clone(&broker), migration, signals).await?;
    let looked = if how == MissingDocs::Recheck {
        missing::recheck(&held.driver).await.map(drop)
    } else {
        look_again(&held.driver, how).await
    };
    broker.close().await;
    Ok(held.end(context, looked).await?.is_some())
}

/// A migration that was finished is so again when the whole look has been taken, and not before.
async fn look_again(driver: &Driver, how: MissingDocs) -> Step<()> {
    let before = driver.migration.phase;
    missing::find(driver, how.begin(), Depth::Existence).await?;
    if before == Phase::Finished {
        driver.phase(Phase::Finished).await?;
    }
    Ok(())
}
