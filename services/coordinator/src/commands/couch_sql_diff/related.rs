//! Who is behind a document that differs, and since when: two columns of the CSV.

use std::collections::HashMap;

use chrono::DateTime;
use couch::Outcome;
use serde_json::Value;
use state::records::DiffRecord;

use crate::context::Context;
use crate::failure::Result;

/// Bytes of documents read at once, as JSON text, whatever the size of a page of records; one above it is read alone.
const READ_BYTES: usize = 8 * 1024 * 1024;

/// `user_id` and `server_date` of documents.
#[derive(Default)]
pub(super) struct Related(HashMap<String, (String, String)>);

impl Related {
    /// Reads the Couch documents of these records.
    pub(super) async fn read(context: &Context, records: &[DiffRecord]) -> Result<Self> {
        let mut found = HashMap::new();
        let mut ids: Vec<&str> = records.iter().map(|record| record.doc_id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut reader = context.forms_db.bounded_reader(&ids, READ_BYTES);
        while let Some(read) = reader.next().await? {
            for fetched in read {
                if let Outcome::Found(document) = fetched.outcome {
                    found.insert(fetched.id, (user_id(&document), server_date(&document)));
                }
            }
        }
        Ok(Self(found))
    }

    /// Those of a document; empty when Couch has none.
    pub(super) fn of(&self, doc_id: &str) -> (&str, &str) {
        self.0
            .get(doc_id)
            .map_or(("", ""), |(user_id, date)| (user_id.as_str(), date.as_str()))
    }
}

fn user_id(document: &Value) -> String {
    let of_form = document.pointer("/form/meta/userID");
    let found = of_form.or_else(|| document.get("user_id"));
    found.and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A form was received; a case was last touched by its latest action.
fn server_date(document: &Value) -> String {
    if let Some(received) = document.get("received_on").and_then(Value::as_str) {
        return received.to_owned();
    }
    let actions = document.get("actions").and_then(Value::as_array);
    let dates = actions
        .into_iter()
        .flatten()
        .filter_map(|action| action.get("server_date").and_then(Value::as_str));
    // As times: as texts, a date with a fraction sorts before the same second without.
    dates
        .max_by_key(|date| DateTime::parse_from_rfc3339(date).ok())
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn forms_have_their_user_and_arrival_and_cases_their_latest_action() {
        let form = json!({"form": {"meta": {"userID": "u1"}}, "received_on": "2019-01-01T00:00:00Z"});
        assert_eq!(
            (user_id(&form).as_str(), server_date(&form).as_str()),
            ("u1", "2019-01-01T00:00:00Z")
        );
        let case = json!({"user_id": "u2", "actions": [
            {"server_date": "2019-01-02T00:00:00.500000Z"}, {"server_date": "2019-01-02T00:00:00Z"}, {"server_date": null}, {}]});
        assert_eq!(
            (user_id(&case).as_str(), server_date(&case).as_str()),
            ("u2", "2019-01-02T00:00:00.500000Z")
        );
        assert_eq!(
            (
                user_id(&json!({})).as_str(),
                server_date(&json!({"actions": []})).as_str()
            ),
            ("", "")
        );
    }
}
