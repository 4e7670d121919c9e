//! What is left of a migration, counted without doing any of it; and how fast the driver does each kind of work.

use std::time::{Duration, Instant};

use proto::doctype::DocType;
use serde_json::Value;
use state::follow::Follow;
use state::pace::{Pace, Work};
use state::scan::Cursor;
use state::{Migration, Status};

use super::scan::{DESIGN, VIEW, staged_types};
use super::{Driver, Interruption, Step, all_of, couch_counts, scan_page_after};
use crate::context::Context;
use crate::failure::Result;
use crate::forecast::Left;

impl Driver {
    /// Does some work, and puts on record with how many documents and in what time. An end by the operator or by the process
    /// counts too: what was done was done in that time.
    pub(super) async fn measured<T>(&self, work: Work, doing: impl Future<Output = Step<T>>) -> Step<T> {
        let state = &self.context.state;
        let counts_on = matches!(work, Work::Forms | Work::Replay | Work::Diff);
        let before = if counts_on {
            state.documents_done(self.migration.id, work).await?
        } else {
            0
        };
        let started = Instant::now();
        let done = doing.await;
        if matches!(done, Ok(_) | Err(Interruption::Operator | Interruption::Shutdown)) {
            let pace = Pace {
                work,
                documents: state.documents_done(self.migration.id, work).await? - before,
                seconds: started.elapsed().as_secs_f64(),
            };
            // The rounds of a run that follows are many, and most have next to nothing to do: they would push out what says
            // more. A look that was broken off has looked at nobody knows how many.
            if self.says_enough(pace) && (done.is_ok() || (counts_on && pace.documents > 0)) {
                state.record_pace(&self.lease, self.run_id, pace).await?;
            }
        }
        done
    }

    fn says_enough(&self, pace: Pace) -> bool {
        let batch = i64::try_from(self.context.config.driver.form_batch).unwrap_or(i64::MAX);
        !self.is_following || pace.documents >= batch
    }
}

/// Counts what is left of a migration that has begun.
///
/// # Errors
/// Those of Couch and of the state schema.
pub async fn left(context: &Context, migration: &Migration) -> Result<Left> {
    let state = &context.state;
    let (dirty, pending) = state.pending_cases(migration.id).await?;
    let counts = couch_counts(context, &migration.domain).await?;
    let cases: i64 = counts
        .iter()
        .filter(|(doc_type, _)| !doc_type.is_form())
        .map(|(_, count)| count)
        .sum();
    let wait = context.config.hq.cache_wait();
    let stopped = stopped_for(context, migration).await?;
    let new = new_documents(context, migration).await? + state.documents_waiting(migration.id).await?;
    let all: i64 = counts.iter().map(|(_, count)| count).sum();
    // A finish that relies on the feed lists no cases, and looks up what has changed. Much of that is new.
    let followed = state.following(migration.id).await?.filter(Follow::is_whole);
    let (documents, listed, looked_up) = match followed {
        Some(follow) => (new.max(follow.waiting), 0, follow.waiting.min(all)),
        // Those of Couch, and those of SQL: what is not the same is a difference, and rare.
        None => (new, 2 * cases, all),
    };
    Ok(Left {
        documents,
        dirty,
        pending,
        listed,
        looked_up,
        cases_per_document: state.cases_per_document(migration.id).await?,
        snapshot: if context.config.hq.uncommit_window.is_zero() {
            0
        } else {
            all
        },
        settle: wait.saturating_sub(stopped.unwrap_or_default()),
        commit: wait,
        stopped: stopped.unwrap_or_default(),
    })
}

/// For how long HQ has refused submissions of the domain; `None` when it takes them.
///
/// # Errors
/// Those of the state schema.
pub async fn stopped_for(context: &Context, migration: &Migration) -> Result<Option<Duration>> {
    let (Status::InProgress, Some(since)) = (migration.status, migration.progress_set_at) else {
        return Ok(None);
    };
    let now = context.state.now().await?;
    Ok(Some((now - since).to_std().unwrap_or_default()))
}

/// Documents that the view lists behind the place where each scan stands. Those of equal dates with the last one that was
/// scanned may be counted again.
async fn new_documents(context: &Context, migration: &Migration) -> Result<i64> {
    let mut all = 0;
    for (doc_type, cursor) in context.state.form_cursors(migration.id, staged_types()).await? {
        all += documents_after(context, migration, doc_type, &cursor).await?;
    }
    Ok(all)
}

async fn documents_after(context: &Context, migration: &Migration, doc_type: DocType, cursor: &Cursor) -> Result<i64> {
    let domain = &migration.domain;
    let page = context.config.driver.scan_page;
    // Most often little has come, and one page tells exactly how much.
    let first = scan_page_after(context, domain, doc_type, cursor, page).await?;
    if first.end {
        return Ok(i64::try_from(first.rows.len()).unwrap_or(i64::MAX));
    }
    let (first_key, end) = all_of(domain.as_str(), doc_type);
    let start = cursor
        .after_key
        .as_deref()
        .and_then(|key| serde_json::from_str::<Value>(key).ok())
        .unwrap_or(first_key);
    let reduced = context
        .forms_db
        .view_count(DESIGN, VIEW, Some(&start), Some(&end))
        .await?;
    if let Some(count) = reduced {
        return Ok(i64::try_from(count).unwrap_or(i64::MAX));
    }
    let mut place = cursor.clone();
    place.scanned = 0;
    super::scan::advance(&mut place, &first);
    while !place.complete {
        let next = scan_page_after(context, domain, doc_type, &place, page).await?;
        super::scan::advance(&mut place, &next);
    }
    Ok(place.scanned)
}
