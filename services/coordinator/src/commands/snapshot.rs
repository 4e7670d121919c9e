//! The snapshot of a domain's rows in SQL: taken by `COMMIT`, compared by `uncommit`.
//!
//! Both sides come in the order of ids, in parts, and are merged as they come: memory is bounded by a part of each, and what
//! was added, changed or deleted is known by its id.

use std::cmp::Ordering;
use std::time::Instant;

use hqsql::{Digests, Documents, ShardId};
use state::migration::{DriverLease, Migration};
use state::pace::{Pace, Work};
use state::snapshot::{DocKind, SnapshotPart};

use crate::context::Context;
use crate::failure::Result;

/// Documents of one part: some 60 kB.
const PART: u16 = 1000;
/// Ids of each kind of deviation that are shown at most.
const SHOWN: usize = 20;

/// Takes the snapshot, in place of one that was begun before. Nothing when the configuration says that a commit is final.
pub(super) async fn take(context: &Context, lease: &DriverLease, migration: &Migration) -> Result<()> {
    let window = context.config.hq.uncommit_window;
    let started = Instant::now();
    context.state.forget_old_snapshots(window).await?;
    context.state.drop_snapshot(lease).await?;
    if window.is_zero() {
        return Ok(());
    }
    let mut taken = 0;
    for (kind, documents) in KINDS {
        for shard in context.target.shards() {
            let mut digests = context.target.digests(shard, documents, &migration.domain).await?;
            for part in 0.. {
                let (ids, digests): (Vec<String>, Vec<i64>) = digests.next(PART).await?.into_iter().unzip();
                taken += i64::try_from(ids.len()).unwrap_or(i64::MAX);
                let content = SnapshotPart { ids, digests };
                context
                    .state
                    .store_snapshot_part(lease, kind, number(shard), part, &content)
                    .await?;
                // The end is stored too: a domain without documents has a snapshot as well.
                if content.ids.is_empty() {
                    break;
                }
            }
        }
    }
    let pace = Pace {
        work: Work::Snapshot,
        documents: taken,
        seconds: started.elapsed().as_secs_f64(),
    };
    Ok(context.state.record_pace(lease, None, pace).await?)
}

/// What is not as it was at the commit.
pub(super) async fn compare(context: &Context, migration: &Migration) -> Result<Deviations> {
    let mut found = Deviations::default();
    for (kind, documents) in KINDS {
        for shard in context.target.shards() {
            let mut before = Stored {
                context,
                migration,
                kind,
                shard: number(shard),
                next: 0,
            };
            let mut now = context.target.digests(shard, documents, &migration.domain).await?;
            merge(kind, &mut before, &mut now, &mut found).await?;
        }
    }
    Ok(found)
}

const KINDS: [(DocKind, Documents); 2] = [(DocKind::Form, Documents::Forms), (DocKind::Case, Documents::Cases)];

fn number(shard: ShardId) -> i32 {
    i32::try_from(shard.index()).unwrap_or(i32::MAX)
}

/// The snapshot of one kind on one shard.
struct Stored<'a> {
    context: &'a Context,
    migration: &'a Migration,
    kind: DocKind,
    shard: i32,
    next: i32,
}

impl Stored<'_> {
    async fn page(&mut self) -> Result<Vec<(String, i64)>> {
        let part = self
            .context
            .state
            .snapshot_part(self.migration.id, self.kind, self.shard, self.next)
            .await?
            .unwrap_or_default();
        self.next += 1;
        Ok(part.ids.into_iter().zip(part.digests).collect())
    }
}

/// Merges both sides until both are at their end.
async fn merge(kind: DocKind, before: &mut Stored<'_>, now: &mut Digests, found: &mut Deviations) -> Result<()> {
    let mut old = Side::default();
    let mut new = Side::default();
    loop {
        if old.needs_more() {
            old.refill(before.page().await?);
        }
        if new.needs_more() {
            new.refill(now.next(PART).await?);
        }
        match step(&mut old, &mut new) {
            Step::NeedsMore => {}
            Step::AtEnd => return Ok(()),
            Step::Deviation(deviation, id) => found.add(kind, deviation, id),
        }
    }
}

/// One side of the comparison: the rest of its present page.
#[derive(Debug, Default)]
struct Side {
    page: std::collections::VecDeque<(String, i64)>,
    at_end: bool,
}

impl Side {
    fn needs_more(&self) -> bool {
        self.page.is_empty() && !self.at_end
    }

    /// An empty page is the end.
    fn refill(&mut self, page: Vec<(String, i64)>) {
        self.at_end = page.is_empty();
        self.page = page.into();
    }
}

/// How a document is not as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deviation {
    /// It was not there.
    Added,
    /// Some row of it is another one now.
    Changed,
    /// It is not there any more.
    Deleted,
}

impl Deviation {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Deleted => "deleted",
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// A page is used up.
    NeedsMore,
    /// Both sides are.
    AtEnd,
    /// This document is not as it was.
    Deviation(Deviation, String),
}

/// Goes past documents that are equal, to the first that is not or to the end of a page.
fn step(old: &mut Side, new: &mut Side) -> Step {
    loop {
        if old.needs_more() || new.needs_more() {
            return Step::NeedsMore;
        }
        let order = match (old.page.front(), new.page.front()) {
            (None, None) => return Step::AtEnd,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((one, _)), Some((other, _))) => one.cmp(other),
        };
        let before = if order == Ordering::Greater {
            None
        } else {
            old.page.pop_front()
        };
        let now = if order == Ordering::Less {
            None
        } else {
            new.page.pop_front()
        };
        match (before, now) {
            (Some((id, was)), Some((_, is))) if was != is => return Step::Deviation(Deviation::Changed, id),
            (Some((id, _)), None) => return Step::Deviation(Deviation::Deleted, id),
            (None, Some((id, _))) => return Step::Deviation(Deviation::Added, id),
            _ => {}
        }
    }
}

/// What is not as it was: how many documents of each kind, and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Deviations {
    found: std::collections::BTreeMap<(Deviation, DocKind), (u64, Vec<String>)>,
}

impl Deviations {
    fn add(&mut self, kind: DocKind, deviation: Deviation, id: String) {
        let (count, first) = self.found.entry((deviation, kind)).or_default();
        *count += 1;
        if first.len() < SHOWN {
            first.push(id);
        }
    }

    /// Whether all is as it was.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// `2 forms added, 1 case changed`.
    pub(super) fn summary(&self) -> String {
        let counts: Vec<String> = self
            .found
            .iter()
            .map(|((deviation, kind), (count, _))| {
                let plural = if *count == 1 { "" } else { "s" };
                format!("{count} {}{plural} {}", kind.as_str(), deviation.as_str())
            })
            .collect();
        counts.join(", ")
    }

    /// One line for each document that is shown.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for ((deviation, kind), (count, first)) in &self.found {
            for id in first {
                lines.push(format!(
                    "{} {id} was {} since the COMMIT",
                    kind.as_str(),
                    deviation.as_str()
                ));
            }
            let shown = u64::try_from(first.len()).unwrap_or(u64::MAX);
            if *count > shown {
                lines.push(format!(
                    "and {} more {}s were {}",
                    count - shown,
                    kind.as_str(),
                    deviation.as_str()
                ));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    type Rows = [(&'static str, i64)];

    /// Compares two lists in pages of this size.
    fn compared(old: &Rows, new: &Rows, page: usize) -> Deviations {
        let pages = |rows: &Rows| -> std::vec::IntoIter<Vec<(String, i64)>> {
            let rows: Vec<_> = rows.iter().map(|(id, digest)| ((*id).to_owned(), *digest)).collect();
            rows.chunks(page).map(<[_]>::to_vec).collect::<Vec<_>>().into_iter()
        };
        let (mut old_pages, mut new_pages) = (pages(old), pages(new));
        let (mut old, mut new) = (Side::default(), Side::default());
        let mut found = Deviations::default();
        loop {
            if old.needs_more() {
                old.refill(old_pages.next().unwrap_or_default());
            }
            if new.needs_more() {
                new.refill(new_pages.next().unwrap_or_default());
            }
            match step(&mut old, &mut new) {
                Step::NeedsMore => {}
                Step::AtEnd => return found,
                Step::Deviation(deviation, id) => found.add(DocKind::Form, deviation, id),
            }
        }
    }

    #[test]
    fn what_was_added_changed_or_deleted_is_found_wherever_pages_end() {
        let before = [("a", 1), ("b", 2), ("c", 3), ("e", 5), ("f", 6)];
        let after = [("b", 2), ("c", 4), ("d", 4), ("e", 5), ("f", 6), ("g", 7)];
        for page in 1..8 {
            assert!(compared(&before, &before, page).is_empty(), "page {page}");
            let found = compared(&before, &after, page);
            assert_eq!(
                found.summary(),
                "2 forms added, 1 form changed, 1 form deleted",
                "page {page}"
            );
            assert_eq!(
                found.lines(),
                [
                    "form d was added since the COMMIT",
                    "form g was added since the COMMIT",
                    "form c was changed since the COMMIT",
                    "form a was deleted since the COMMIT"
                ]
            );
            assert_eq!(compared(&before, &[], page).summary(), "5 forms deleted");
            assert_eq!(compared(&[], &after, page).summary(), "6 forms added");
        }
        assert!(compared(&[], &[], 1).is_empty());
    }

    #[test]
    fn many_are_counted_and_the_first_shown() {
        let mut found = Deviations::default();
        for number in 0..SHOWN + 5 {
            found.add(DocKind::Case, Deviation::Added, number.to_string());
        }
        assert_eq!(found.summary(), "25 cases added");
        assert_eq!(found.lines().len(), SHOWN + 1);
        assert_eq!(found.lines().last().unwrap(), "and 5 more cases were added");
    }
}
