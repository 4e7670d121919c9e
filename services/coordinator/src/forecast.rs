//! How long the end of a migration will take: from what is left, and from how long the same work took before.
//!
//! Pure: counts and measurements in, spans of time out. Two things are taken for granted of every kind of work: more
//! documents never take less time, and a document among many never takes longer than one among few (each run pays for its
//! scans and its pauses once). So a measurement of `m` documents in `s` seconds puts the time for `n` documents between `s`
//! and `s·n/m`, whichever of them is larger being the upper end. Measurements near to `n` say much, others little; all of
//! them hold at once.

use std::time::Duration;

use state::pace::{Pace, Work};

/// How much longer or shorter than measured it may take: the machines have other work too, at other times.
const VARIATION: f64 = 1.25;

/// A time that is known within bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Span {
    /// At least.
    pub low: Duration,
    /// At most; `None` when nothing is known that it could be told from.
    pub high: Option<Duration>,
}

impl Span {
    /// A time that is known.
    pub const fn exactly(time: Duration) -> Self {
        Self {
            low: time,
            high: Some(time),
        }
    }

    /// One after the other.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        Self {
            low: self.low + next.low,
            high: self.high.zip(next.high).map(|(one, other)| one + other),
        }
    }

    /// Both at the same time.
    #[must_use]
    pub fn beside(self, other: Self) -> Self {
        Self {
            low: self.low.max(other.low),
            high: self.high.zip(other.high).map(|(one, other)| one.max(other)),
        }
    }
}

/// A number that is known within bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// At least.
    pub low: i64,
    /// At most.
    pub high: i64,
}

impl Count {
    const fn exactly(count: i64) -> Self {
        Self {
            low: count,
            high: count,
        }
    }
}

/// What is left of a migration.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Left {
    /// Documents that came since the last cut-off, and those that are tried again.
    pub documents: i64,
    /// Cases to replay.
    pub dirty: i64,
    /// Cases that are not compared at their newest state.
    pub pending: i64,
    /// Cases of both sides, which are listed before the comparison.
    pub listed: i64,
    /// Documents of Couch, which are all looked up at the end.
    pub looked_up: i64,
    /// The most cases that a run has replayed for each document that it staged.
    pub cases_per_document: Option<f64>,
    /// How long HQ's caches must be waited for, from now, before the last scan.
    pub settle: Duration,
    /// How long a COMMIT waits for them after the switch.
    pub commit: Duration,
    /// Documents that a COMMIT takes a snapshot of.
    pub snapshot: i64,
    /// How long submissions have been stopped already.
    pub stopped: Duration,
}

/// One kind of work in a forecast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece {
    /// What.
    pub work: Work,
    /// How many documents.
    pub documents: Count,
    /// How long.
    pub time: Span,
}

/// How long it will take.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// By kind of work, in order.
    pub pieces: Vec<Piece>,
    /// The wait for HQ's caches, beside the first two pieces.
    pub settle: Duration,
    /// Until the run ends.
    pub run: Span,
    /// The snapshot that COMMIT takes before its switch; its time is none if it takes none.
    pub snapshot: Piece,
    /// The wait of COMMIT.
    pub commit: Duration,
    /// Without submissions, from their stop to the end of COMMIT.
    pub downtime: Span,
}

impl Forecast {
    /// Kinds of work of which the migration has no measurement yet.
    pub fn unmeasured(&self) -> impl Iterator<Item = Work> {
        self.pieces
            .iter()
            .chain([&self.snapshot])
            .filter(|piece| piece.time.high.is_none())
            .map(|piece| piece.work)
    }
}

/// Forecasts the end of a migration.
pub fn forecast(left: &Left, paces: &[Pace]) -> Forecast {
    let replay = Count {
        low: left.dirty,
        high: left.dirty + touched(left),
    };
    let diff = Count {
        low: left.pending.max(left.dirty),
        high: left.pending + replay.high,
    };
    let counts = [
        (Work::Forms, Count::exactly(left.documents)),
        (Work::Replay, replay),
        (Work::List, Count::exactly(left.listed)),
        (Work::Diff, diff),
        (Work::Missing, Count::exactly(left.looked_up)),
    ];
    let pieces: Vec<Piece> = counts
        .into_iter()
        .map(|(work, documents)| Piece {
            work,
            documents,
            time: estimate(work, documents, paces),
        })
        .collect();
    let time = |work: Work| {
        pieces
            .iter()
            .find(|piece| piece.work == work)
            .map_or(Span::default(), |piece| piece.time)
    };
    // After the wait, what came meanwhile is scanned and replayed.
    let once_more =
        estimate(Work::Forms, Count::default(), paces).then(estimate(Work::Replay, Count::default(), paces));
    let first = time(Work::Forms).then(time(Work::Replay));
    let look = time(Work::List).then(time(Work::Diff)).then(time(Work::Missing));
    let rounds = Span {
        low: look.low,
        // Documents that were edited meanwhile make the run look once more at everything.
        high: look
            .then(once_more)
            .then(time(Work::List))
            .then(time(Work::Missing))
            .high,
    };
    let snapshot = Piece {
        work: Work::Snapshot,
        documents: Count::exactly(left.snapshot),
        time: snapshot_time(left.snapshot, paces),
    };
    let run = first.beside(Span::exactly(left.settle)).then(once_more).then(rounds);
    Forecast {
        pieces,
        settle: left.settle,
        run,
        snapshot,
        commit: left.commit,
        downtime: Span::exactly(left.stopped)
            .then(run)
            .then(snapshot.time)
            .then(Span::exactly(left.commit)),
    }
}

/// The time for the snapshot of a commit. Before the first commit of all it is known only that it does no more with a document
/// than a comparison does, which reads the same rows, and the other side too.
fn snapshot_time(documents: i64, paces: &[Pace]) -> Span {
    if documents == 0 {
        return Span::exactly(Duration::ZERO);
    }
    let count = Count::exactly(documents);
    if paces.iter().any(|pace| pace.work == Work::Snapshot) {
        return estimate(Work::Snapshot, count, paces);
    }
    Span {
        low: Duration::ZERO,
        high: estimate(Work::Diff, count, paces).high,
    }
}

/// Cases that the documents that are left may touch, at most; without experience, one for each.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a forecast: counts are far below 2^52"
)]
fn touched(left: &Left) -> i64 {
    (left.documents as f64 * left.cases_per_document.unwrap_or(1.0)).ceil() as i64
}

#[allow(clippy::cast_precision_loss, reason = "a forecast: counts are far below 2^52")]
fn estimate(work: Work, documents: Count, paces: &[Pace]) -> Span {
    let bounds = |count: i64| {
        let count = count.max(0) as f64;
        let (mut least, mut most) = (0.0_f64, f64::INFINITY);
        for pace in paces.iter().filter(|pace| pace.work == work) {
            let measured = pace.documents.max(0) as f64;
            let in_proportion = if measured > 0.0 {
                pace.seconds * count / measured
            } else if count > 0.0 {
                f64::INFINITY
            } else {
                pace.seconds
            };
            least = least.max(in_proportion.min(pace.seconds));
            most = most.min(in_proportion.max(pace.seconds));
        }
        // Two measurements that contradict each other: it was now faster, now slower.
        if least <= most { (least, most) } else { (most, least) }
    };
    let (low, _) = bounds(documents.low);
    let (_, high) = bounds(documents.high);
    Span {
        low: seconds(low / VARIATION).unwrap_or_default(),
        high: seconds(high * VARIATION),
    }
}

/// Finite and not absurd, or nothing.
fn seconds(time: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(time).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pace(work: Work, documents: i64, seconds: f64) -> Pace {
        Pace {
            work,
            documents,
            seconds,
        }
    }

    fn secs(time: f64) -> Duration {
        Duration::from_secs_f64(time)
    }

    fn all(documents: i64, seconds: f64) -> Vec<Pace> {
        Work::ALL.map(|work| pace(work, documents, seconds)).to_vec()
    }

    /// Bounds without the allowance for variation.
    fn measured(documents: i64, paces: &[Pace]) -> (f64, Option<f64>) {
        let span = estimate(Work::Forms, Count::exactly(documents), paces);
        let round = |time: f64| (time * 1000.0).round() / 1000.0;
        (
            round(span.low.as_secs_f64() * VARIATION),
            span.high.map(|high| round(high.as_secs_f64() / VARIATION)),
        )
    }

    #[test]
    fn a_measurement_bounds_other_numbers_of_documents() {
        let one = [pace(Work::Forms, 1000, 10.0)];
        assert_eq!(measured(1000, &one), (10.0, Some(10.0)));
        // Fewer: not slower than that, and each not faster.
        assert_eq!(measured(100, &one), (1.0, Some(10.0)));
        // More: not faster than that, and each not slower.
        assert_eq!(measured(5000, &one), (10.0, Some(50.0)));
        assert_eq!(measured(0, &one), (0.0, Some(10.0)));
    }

    #[test]
    fn the_nearest_measurements_narrow_the_range() {
        // The first run of a large domain, and a top-up.
        let two = [pace(Work::Forms, 1_000_000, 10_000.0), pace(Work::Forms, 900, 12.0)];
        assert_eq!(measured(1000, &two), (12.0, Some(13.333)));
        // A run that found nothing costs what it costs.
        let three = [two[0], two[1], pace(Work::Forms, 0, 0.5)];
        assert_eq!(measured(0, &three), (0.5, Some(0.5)));
        assert_eq!(measured(1000, &three), (12.0, Some(13.333)));
    }

    #[test]
    fn contradictions_are_a_wider_range() {
        let both = [pace(Work::Forms, 1000, 10.0), pace(Work::Forms, 1000, 30.0)];
        assert_eq!(measured(1000, &both), (10.0, Some(30.0)));
        assert_eq!(measured(2000, &both), (20.0, Some(30.0)));
    }

    #[test]
    fn without_a_measurement_nothing_is_promised() {
        assert_eq!(measured(10, &[]), (0.0, None));
        assert_eq!(measured(10, &[pace(Work::Diff, 10, 1.0)]), (0.0, None));
        // Runs that had no such document do not tell how long one takes, but for what they took.
        assert_eq!(measured(10, &[pace(Work::Forms, 0, 0.5)]), (0.5, None));
        let found = forecast(&Left::default(), &[pace(Work::Forms, 5, 1.0)]);
        assert_eq!(found.unmeasured().collect::<Vec<_>>(), Work::ALL[1..5]);
        assert_eq!((found.run.high, found.downtime.high), (None, None));
    }

    #[test]
    fn the_wait_for_caches_runs_beside_the_first_scan() {
        let left = Left {
            documents: 1000,
            settle: secs(3660.0),
            commit: secs(61.0),
            stopped: secs(5.0),
            ..Left::default()
        };
        let paces = all(1000, 10.0);
        let found = forecast(&left, &paces);
        // Ten seconds of forms are nothing beside the hour.
        assert_eq!(found.run.low, secs(3660.0));
        assert_eq!(found.downtime.low, secs(3660.0 + 61.0 + 5.0));
        let long = forecast(
            &Left {
                documents: 1_000_000,
                settle: secs(61.0),
                ..left
            },
            &all(1_000_000, 10_000.0),
        );
        assert_eq!(long.run.low, secs(8000.0));
    }

    #[test]
    fn the_snapshot_of_a_commit_is_downtime_and_not_of_the_run() {
        let left = Left {
            snapshot: 10_000,
            commit: secs(60.0),
            ..Left::default()
        };
        let without = forecast(&Left { snapshot: 0, ..left }, &all(1000, 10.0)).downtime;
        let commits = [pace(Work::Snapshot, 5000, 1.0), pace(Work::Snapshot, 20_000, 3.0)];
        // Not slower than twice the smaller one, not faster than half of the larger one.
        let found = forecast(&left, &[all(1000, 10.0)[..5].to_vec(), commits.to_vec()].concat());
        assert_eq!(found.snapshot.time.low, secs(1.5 / VARIATION));
        assert_eq!(found.snapshot.time.high, Some(secs(2.0 * VARIATION)));
        assert_eq!(found.downtime.low, without.low + found.snapshot.time.low);
        assert_eq!(
            found.downtime.high.unwrap(),
            without.high.unwrap() + found.snapshot.time.high.unwrap()
        );
        assert_eq!(found.run, forecast(&Left { snapshot: 0, ..left }, &all(1000, 10.0)).run);

        // Before the first commit: nothing, up to what comparisons took, 10 ms each.
        let first = forecast(&left, &all(1000, 10.0)[..5]);
        assert_eq!(first.snapshot.time.low, Duration::ZERO);
        assert_eq!(first.snapshot.time.high, Some(secs(100.0 * VARIATION)));
        assert_eq!(first.unmeasured().count(), 0);
        let none = forecast(&left, &[]);
        assert!(none.unmeasured().any(|work| work == Work::Snapshot));
    }

    #[test]
    fn a_followed_domain_has_nothing_to_list_at_best() {
        let all_of_it = Left {
            documents: 100,
            listed: 2000,
            looked_up: 5000,
            ..Left::default()
        };
        let followed = Left {
            listed: 0,
            looked_up: 100,
            ..all_of_it
        };
        let paces = [all(5000, 50.0), all(100, 1.0)].concat();
        let (whole, little) = (forecast(&all_of_it, &paces), forecast(&followed, &paces));
        let low = |found: &Forecast, work| {
            let piece = found.pieces.iter().find(|piece| piece.work == work).unwrap();
            piece.time.low
        };
        assert_eq!(low(&little, Work::List), Duration::ZERO);
        assert_eq!(low(&little, Work::Missing), secs(1.0 / VARIATION));
        assert_eq!(low(&whole, Work::List), secs(20.0 / VARIATION));
        assert_eq!(low(&whole, Work::Missing), secs(50.0 / VARIATION));
        assert_eq!(whole.run.low - little.run.low, secs((20.0 + 50.0 - 1.0) / VARIATION));
        assert!(little.run.high < whole.run.high);
    }

    #[test]
    fn what_documents_will_touch_is_counted_in_the_upper_end_only() {
        let left = Left {
            documents: 100,
            dirty: 10,
            pending: 4,
            listed: 2000,
            looked_up: 5000,
            cases_per_document: Some(2.5),
            ..Left::default()
        };
        let found = forecast(&left, &all(100, 1.0));
        let count = |work| found.pieces.iter().find(|piece| piece.work == work).unwrap().documents;
        assert_eq!(count(Work::Forms), Count { low: 100, high: 100 });
        assert_eq!(count(Work::Replay), Count { low: 10, high: 260 });
        assert_eq!(count(Work::Diff), Count { low: 10, high: 264 });
        assert_eq!(count(Work::List), Count::exactly(2000));
        assert_eq!(count(Work::Missing), Count::exactly(5000));
        // Edits meanwhile make it list and look up everything twice.
        let twice = found
            .pieces
            .iter()
            .filter(|piece| matches!(piece.work, Work::List | Work::Missing))
            .map(|piece| piece.time.high.unwrap() * 2)
            .sum::<Duration>();
        assert!(found.run.high.unwrap() > twice);
        assert!(found.run.low < found.run.high.unwrap());
    }
}
