//! Every metric, with its unit and meaning: the one list that code, dashboards and documentation share.
//!
//! Labels have few values: `stage`, `outcome`; never a domain or an id.

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
    /// What it means, with its labels.
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

const fn metric(name: &'static str, kind: MetricKind, unit: Unit, help: &'static str) -> Metric {
    Metric { name, kind, unit, help }
}

use MetricKind::{Counter, Gauge, Histogram};

/// All metrics.
#[rustfmt::skip]
pub const ALL: &[Metric] = &[
    metric(PUBLISHED, Counter, Unit::Count, "Batches published by the driver, by stage"),
    metric(DEAD_LETTERS, Counter, Unit::Count, "Dead letters that the driver has taken away, by outcome (republished, dropped, unreadable)"),
    metric(MESSAGES, Counter, Unit::Count, "Messages that a worker did not work on, by outcome (refused, stale)"),
    metric(BATCHES, Counter, Unit::Count, "Batches that a worker has ended, by stage and outcome"),
    metric(BATCH_SECONDS, Histogram, Unit::Seconds, "Time from the claim of a batch to its end, by stage"),
    metric(LATE_FORMS, Counter, Unit::Count, "Forms that reached Couch after their domain was switched to SQL: they are not in SQL"),
    metric(broker::metric_names::PUBLISHED, Counter, Unit::Count, "Messages handed to the broker, by stage and outcome"),
    metric(broker::metric_names::PUBLISH_SECONDS, Histogram, Unit::Seconds, "Time until the broker confirmed a message, by stage"),
    metric(broker::metric_names::DELIVERED, Counter, Unit::Count, "Messages handed to workers, by stage and outcome (first, redelivered)"),
    metric(broker::metric_names::SETTLED, Counter, Unit::Count, "Messages settled by workers, by stage and outcome (ack, requeue, dead_letter, stale)"),
    metric(broker::metric_names::CONNECTED, Gauge, Unit::Count, "1 while there is a connection to the broker"),
    metric(broker::metric_names::BLOCKED, Gauge, Unit::Count, "1 while the broker takes no messages for want of memory or disk"),
    metric(broker::metric_names::RECONNECTS, Counter, Unit::Count, "Connections to the broker that were rebuilt after a loss"),
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
            assert!(!metric.help.is_empty(), "{name}");
        }
    }
}
