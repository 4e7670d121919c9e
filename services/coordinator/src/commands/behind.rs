//! How far a followed domain is behind its source, for `stats` and the progress display.

use chrono::{DateTime, Utc};
use serde_json::json;
use state::follow::Follow;

/// In words.
pub(crate) fn behind(follow: &Follow, now: DateTime<Utc>) -> String {
    let mut text = match follow.caught_up_at {
        Some(at) => format!("read up to {} s ago", (now - at).num_seconds().max(0)),
        None => "not read to their end yet".to_owned(),
    };
    if let Some(pending @ 1..) = follow.pending {
        text.push_str(&format!(", {pending} of the source not read"));
    }
    text.push_str(&format!(", {} wait", follow.waiting));
    if !follow.is_whole() {
        text.push_str("; everything is looked at before they are relied on");
    } else if follow.reader.is_none() {
        text.push_str("; nobody reads them now");
    }
    text
}

/// As `stats --json` has it.
pub(crate) fn as_json(follow: &Follow) -> serde_json::Value {
    json!({
        "caught_up_at": follow.caught_up_at,
        "unread_changes": follow.pending,
        "waiting_documents": follow.waiting,
        "relied_on": follow.is_whole(),
        "reader": follow.reader,
    })
}
