//! The two ways to see that nothing is left: to look at everything, or at what has changed since that was done.

use std::time::{Duration, Instant};

use state::Phase;
use state::pace::Work;

use super::missing_docs::{MissingDocs, ROUNDS};
use super::{Driver, Step, feed, follow, place};
use crate::commands::migrate::{CaseDiff, Order, Record};

impl Driver {
    /// Looks at whatever this run has to look at before it may end or stay. Gives how long that only waited for HQ's caches.
    pub(super) async fn look(&mut self, order: &Order) -> Step<Duration> {
        let is_live = self.cutoff.is_some();
        // A live run that does not follow looks at everything; a finish needs to look only at what has changed.
        let may_rely = self.reader.is_some() || !is_live;
        let asks_for_all = order.case_diff != CaseDiff::After
            || order.missing_docs == MissingDocs::Rebuild
            || order.record == Record::Checked;
        if may_rely && !asks_for_all && follow::is_whole(self).await? {
            // A run that stays looks in its rounds.
            if is_live || Box::pin(self.look_at_changes()).await? {
                return Ok(Duration::ZERO);
            }
        }
        Box::pin(self.look_at_everything(order)).await
    }

    /// Migrates and compares all documents, and looks for those that are missing or have changed since. Gives how long that
    /// only waited for HQ's caches.
    pub(super) async fn look_at_everything(&mut self, order: &Order) -> Step<Duration> {
        self.unmet_only = false;
        let generation = follow::standing(self).await?.map(|follow| follow.generation);
        self.scan_and_replay().await?;
        let began = Instant::now();
        self.settle().await?;
        let waited = began.elapsed();
        self.look_at_all(order).await?;
        if let Some(generation) = generation.filter(|_| order.case_diff != CaseDiff::None) {
            self.context.state.mark_whole(&self.lease, generation).await?;
        }
        Ok(waited)
    }

    /// The same for a migration that was followed until now: only what has changed since is looked at. False: changes may
    /// have been missed.
    async fn look_at_changes(&mut self) -> Step<bool> {
        self.unmet_only = true;
        feed::catch_up(self).await?;
        follow::take(self).await?;
        self.scan_and_replay().await?;
        self.settle().await?;
        for _ in 0..ROUNDS {
            self.phase(Phase::Diff).await?;
            self.measured(Work::Diff, Box::pin(self.diff_pending())).await?;
            self.phase(Phase::Missing).await?;
            follow::settle_taken(self).await?;
            let stands = place::now(&self.context).await?;
            feed::catch_up(self).await?;
            if !follow::is_whole(self).await? {
                return Ok(false);
            }
            self.context.state.set_looked(&self.lease, &stands).await?;
            if follow::take(self).await? == 0 {
                break;
            }
            self.scan_and_replay().await?;
        }
        follow::settle_taken(self).await?;
        follow::look_at_one_sided(self).await?;
        follow::count_documents(self).await?;
        Ok(true)
    }
}
