//! Every metric of every crate, with its unit, labels and meaning: the one list that code, dashboards and `docs/metrics.md`
//! share, and that a test compares with what the sources record.
//!
//! Labels have few values: `stage`, `outcome`, `table`; never a domain or an id.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// What a metric does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Goes up only.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Name.
    pub name: &'static str,
    /// What it does over time.
    pub kind: MetricKind,
    /// What its number counts.
    pub unit: Unit,
    /// Names of its labels, in the order in which they are recorded.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

/// Counter. Batches that the driver has published, by `stage`.
pub const PUBLISHED: &str = "c2s_batches_published_total";
/// Counter. Dead letters that the driver has taken away, by `outcome` (`republished`, `dropped`, `unreadable`).
pub const DEAD_LETTERS: &str = "c2s_dead_letters_total";
/// Counter. Messages that a worker did not work on, by `outcome` (`refused`, `stale`).
pub const MESSAGES: &str = "c2s_messages_skipped_total";
/// Counter. Batches that a worker has ended, by `stage` and `outcome`.
pub const BATCHES: &str = "c2s_batches_total";
/// Histogram, seconds. From the claim of a batch to its end, by `stage`.
pub const BATCH_SECONDS: &str = "c2s_batch_seconds";
/// Counter. Forms that reached Couch after their domain was switched to SQL.
pub const LATE_FORMS: &str = "c2s_late_forms_total";

use MetricKind::{Counter, Gauge, Histogram};

const fn metric(
    name: &'static str,
    kind: MetricKind,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric {
        name,
        kind,
        unit,
        labels,
        help,
    }
}

/// All metrics, of all crates.
#[rustfmt::skip]
pub const ALL: &[Metric] = &[
    metric(PUBLISHED, Counter, Unit::Count, &["stage"], "Batches published by the driver"),
    metric(DEAD_LETTERS, Counter, Unit::Count, &["outcome"], "Dead letters that the driver has taken away"),
    metric(MESSAGES, Counter, Unit::Count, &["outcome"], "Messages that a worker did not work on"),
    metric(BATCHES, Counter, Unit::Count, &["stage", "outcome"], "Batches that a worker has ended"),
    metric(BATCH_SECONDS, Histogram, Unit::Seconds, &["stage"], "Time from the claim of a batch to its end"),
    metric(LATE_FORMS, Counter, Unit::Count, &[], "Forms that reached Couch after their domain was switched to SQL: they are not in SQL"),
    metric(state::names::CLAIMS, Counter, Unit::Count, &["stage", "outcome"], "Attempts to claim a batch"),
    metric(state::names::REPLAY_INPUTS, Counter, Unit::Count, &["from"], "Staged effects of forms on cases that were read for replays"),
    metric(broker::metric_names::PUBLISHED, Counter, Unit::Count, &["stage", "outcome"], "Messages handed to the broker"),
    metric(broker::metric_names::PUBLISH_SECONDS, Histogram, Unit::Seconds, &["stage"], "Time until the broker confirmed a message"),
    metric(broker::metric_names::DELIVERED, Counter, Unit::Count, &["stage", "outcome"], "Messages handed to workers"),
    metric(broker::metric_names::SETTLED, Counter, Unit::Count, &["stage", "outcome"], "Messages settled by workers"),
    metric(broker::metric_names::CONNECTED, Gauge, Unit::Count, &[], "1 while there is a connection to the broker"),
    metric(broker::metric_names::BLOCKED, Gauge, Unit::Count, &[], "1 while the broker takes no messages for want of memory or disk"),
    metric(broker::metric_names::RECONNECTS, Counter, Unit::Count, &[], "Connections to the broker that were rebuilt after a loss"),
    metric(couch::metrics_names::REQUESTS, Counter, Unit::Count, &["op", "outcome"], "Requests sent to CouchDB, each attempt counted"),
    metric(couch::metrics_names::REQUEST_SECONDS, Histogram, Unit::Seconds, &["op"], "Time of one attempt of a request to CouchDB, to the last byte of its answer"),
    metric(couch::metrics_names::RESPONSE_BYTES, Counter, Unit::Bytes, &[], "Bytes of CouchDB's answers, decoded"),
    metric(couch::metrics_names::RETRIES, Counter, Unit::Count, &["op"], "Requests to CouchDB that were tried again"),
    metric(couch::metrics_names::IN_FLIGHT, Gauge, Unit::Count, &[], "Requests to CouchDB in flight"),
    metric(blobs::metrics_names::BLOBS, Counter, Unit::Count, &["op", "outcome"], "Blobs asked for or written"),
    metric(blobs::metrics_names::SECONDS, Histogram, Unit::Seconds, &["op"], "Time of one call of the blob store, of one or many blobs"),
    metric(blobs::metrics_names::BYTES, Counter, Unit::Bytes, &[], "Bytes of blobs read"),
    metric(hqsql::metric::ROWS, Counter, Unit::Count, &["table", "change"], "Rows written to HQ's tables"),
    metric(hqsql::metric::UNCHANGED, Counter, Unit::Count, &["table"], "Rows that a merge found equal and left alone"),
    metric(hqsql::metric::STEP_SECONDS, Histogram, Unit::Seconds, &["step"], "Time of one step of a transaction of the target"),
    metric(hqsql::metric::ENDED_SESSIONS, Counter, Unit::Count, &[], "Sessions ended because they held up a fence"),
];

/// Tells the recorder of this process what the metrics mean.
pub fn describe() {
    for metric in ALL {
        match metric.kind {
            MetricKind::Counter => describe_counter!(metric.name, metric.unit, metric.help),
            MetricKind::Gauge => describe_gauge!(metric.name, metric.unit, metric.help),
            MetricKind::Histogram => describe_histogram!(metric.name, metric.unit, metric.help),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_prometheus() {
        let mut seen = BTreeSet::new();
        for metric in ALL {
            let name = metric.name;
            assert!(seen.insert(name), "{name} is listed twice");
            assert!(name.starts_with("c2s_"), "{name}");
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
            assert_eq!(metric.kind == Counter, name.ends_with("_total"), "{name}");
            assert_eq!(metric.unit == Unit::Seconds, name.ends_with("_seconds"), "{name}");
            assert_eq!(metric.unit == Unit::Bytes, name.contains("_bytes"), "{name}");
            assert!(!metric.help.is_empty(), "{name}");
        }
    }
}
