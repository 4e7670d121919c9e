//! Names on the broker. One list: services, tools and documentation take them from here.

use serde::{Deserialize, Serialize};

/// The direct exchange that batches are published to; the routing key is the queue's name.
pub const EXCHANGE: &str = "c2s.batches";
/// Where the broker puts what was rejected or delivered too often.
pub const DEAD_LETTER_EXCHANGE: &str = "c2s.dead";
/// The queue bound to [`DEAD_LETTER_EXCHANGE`].
pub const DEAD_LETTER_QUEUE: &str = "c2s.dead";
/// Deliveries of one message before the broker dead-letters it. High on purpose: poison is decided by the attempts counted
/// in the state schema, and a crash of one batch raises the count of its innocent neighbours too.
pub const DELIVERY_LIMIT: u32 = 1000;

/// The work that a batch is for. Each has a queue and a kind of worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Read documents from Couch, write SQL forms, stage what they do to cases.
    Form,
    /// Replay dirty cases.
    Case,
    /// Compare cases in Couch with cases in SQL.
    Diff,
}

impl Stage {
    /// All stages, in the order in which a migration runs them.
    pub const ALL: [Self; 3] = [Self::Form, Self::Case, Self::Diff];

    /// Its queue.
    pub const fn queue(self) -> &'static str {
        match self {
            Self::Form => "c2s.form",
            Self::Case => "c2s.case",
            Self::Diff => "c2s.diff",
        }
    }

    /// Its name in the state schema, in metrics and in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Case => "case",
            Self::Diff => "diff",
        }
    }

    /// The stage of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.as_str() == text)
    }
}
