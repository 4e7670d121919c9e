//! Cases that SQL lacks because a live run has left their newest forms for another one.

use chrono::{DateTime, Utc};
use couch::Outcome;
use serde_json::Value;

use super::{Driver, Step};

/// Bytes of Couch cases that are held at once, as JSON text.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// Without the cases of which a form is later than the cut-off: `opened_on`, by which the view lists cases, is the phone's.
pub(super) async fn without_late_actions(
    driver: &Driver,
    missing: Vec<String>,
    cutoff: DateTime<Utc>,
) -> Step<Vec<String>> {
    let mut kept = Vec::with_capacity(missing.len());
    let mut reader = driver.context.forms_db.bounded_reader(&missing, READ_BYTES);
    while let Some(read) = reader.next().await? {
        for fetched in read {
            if !matches!(&fetched.outcome, Outcome::Found(case) if has_late_action(case, cutoff)) {
                kept.push(fetched.id);
            }
        }
    }
    Ok(kept)
}

fn has_late_action(case: &Value, cutoff: DateTime<Utc>) -> bool {
    let actions = case.get("actions").and_then(Value::as_array);
    actions.into_iter().flatten().any(|action| {
        let date = action.get("server_date").and_then(Value::as_str);
        date.and_then(docdiff::couch_date).is_some_and(|date| date > cutoff)
    })
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_case_is_late_if_one_of_its_forms_was_received_after_the_cutoff() {
        let cutoff = DateTime::UNIX_EPOCH + TimeDelta::hours(1);
        let received = |dates: &[&str]| {
            let actions: Vec<Value> = dates.iter().map(|date| json!({"server_date": date})).collect();
            json!({"actions": actions, "opened_on": "1970-01-01T02:00:00Z", "server_modified_on": "1970-01-01T02:00:00Z"})
        };
        let undated = json!({"actions": [{"server_date": null, "date": "1970-01-01T02:00:00Z"}, {}]});
        for (case, expected) in [
            (
                received(&["1970-01-01T00:30:00Z", "1970-01-01T01:00:00.000000Z"]),
                false,
            ),
            (received(&["1970-01-01T01:00:00.000001Z", "1970-01-01T00:30:00Z"]), true),
            (received(&["1970-01-01T00:30:00Z", "1970-01-01T01:00:01+00:00Z"]), true),
            (received(&["soon"]), false),
            (received(&[]), false),
            (undated, false),
            (json!({}), false),
        ] {
            assert_eq!(has_late_action(&case, cutoff), expected, "{case}");
        }
    }
}
