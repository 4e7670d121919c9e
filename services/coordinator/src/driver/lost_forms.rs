//! Forms that Couch has lost, while HQ still has their XML: they are put on record, so that form workers make them of it.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use couch::{ErrorKind, Outcome};
use proto::rows::BLOB_FORM_XML;
use serde_json::Value;
use state::lost_forms::LostForm;

use super::{Driver, Step, missing};

/// JSON of cases read together.
const MAX_BYTES: usize = 8 << 20;

/// A form, and the case in Couch that names it; none where an operator does.
pub(super) type Named = (Option<String>, String);

/// Puts those of these forms on record that Couch has lost and of whose XML there is blob metadata.
pub(super) async fn record(driver: &Driver, named: &[Named]) -> Step<()> {
    let mut form_ids: Vec<&str> = named.iter().map(|(_, form_id)| form_id.as_str()).collect();
    form_ids.sort_unstable();
    form_ids.dedup();
    if form_ids.is_empty() {
        return Ok(());
    }
    let absent = missing::absent(driver, &form_ids).await?;
    let context = &driver.context;
    let with_xml: HashSet<String> = context
        .target
        .read_blobmeta(&absent)
        .await?
        .into_iter()
        .filter(|row| row.type_code == BLOB_FORM_XML)
        .map(|row| row.parent_id)
        .collect();
    // The first case by its id tells when a form was received, where several name it.
    let mut lost: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    for (case_id, form_id) in named.iter().filter(|(_, form_id)| with_xml.contains(form_id)) {
        let case_id = case_id.as_deref();
        let first = lost.entry(form_id.as_str()).or_insert(case_id);
        *first = [*first, case_id].into_iter().flatten().min();
    }
    if lost.is_empty() {
        return Ok(());
    }
    let received = dates_of_receipt(driver, &lost).await?;
    let forms: Vec<LostForm> = lost
        .keys()
        .map(|form_id| LostForm {
            form_id: (*form_id).to_owned(),
            received_on: received.get(*form_id).copied(),
        })
        .collect();
    tracing::info!(forms = forms.len(), "forms that Couch has lost are made of their XML");
    Ok(context.state.record_lost_forms(&driver.lease, &forms).await?)
}

/// When forms were received, by the actions of the cases that name them.
async fn dates_of_receipt<'a>(
    driver: &Driver,
    lost: &BTreeMap<&'a str, Option<&str>>,
) -> Step<HashMap<&'a str, DateTime<Utc>>> {
    let mut by_case: BTreeMap<&str, Vec<&'a str>> = BTreeMap::new();
    for (form_id, case_id) in lost {
        if let Some(case_id) = case_id {
            by_case.entry(case_id).or_default().push(form_id);
        }
    }
    let case_ids: Vec<String> = by_case.keys().map(|id| (*id).to_owned()).collect();
    let mut reader = driver.context.forms_db.bounded_reader(&case_ids, MAX_BYTES);
    let mut dates = HashMap::new();
    while let Some(read) = reader.next().await? {
        driver.pause(std::time::Duration::ZERO).await?;
        for fetched in read {
            let case = match fetched.outcome {
                Outcome::Found(case) => case,
                Outcome::Missing | Outcome::Deleted { .. } => continue,
                Outcome::Failed(error) if error.kind() == ErrorKind::Document => continue,
                Outcome::Failed(error) => return Err(error.into()),
            };
            let forms = by_case.get(fetched.id.as_str()).into_iter().flatten();
            dates.extend(forms.filter_map(|form_id| Some((*form_id, received_by(&case, form_id)?))));
        }
    }
    Ok(dates)
}

/// The date of receipt of the first action of a form that has one.
fn received_by(case: &Value, form_id: &str) -> Option<DateTime<Utc>> {
    let actions = case.get("actions").and_then(Value::as_array);
    actions
        .into_iter()
        .flatten()
        .filter(|action| action["xform_id"] == form_id)
        .find_map(|action| action["server_date"].as_str().and_then(docdiff::couch_date))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::received_by;

    #[test]
    fn the_first_action_of_a_form_tells_when_it_was_received() {
        let case = json!({"actions": [
            {"xform_id": "a", "server_date": "2020-03-01T10:00:00Z"},
            {"xform_id": "b", "server_date": null},
            {"xform_id": "b", "server_date": "2020-03-02T10:00:00.250000Z"},
            {"xform_id": "b", "server_date": "2020-03-03T10:00:00Z"},
            {"server_date": "2020-03-04T10:00:00Z"},
            {"xform_id": "c"},
        ]});
        let date = |form_id| received_by(&case, form_id).map(|date| date.to_rfc3339());
        assert_eq!(date("b").as_deref(), Some("2020-03-02T10:00:00.250+00:00"));
        for unknown in ["c", "d"] {
            assert_eq!(date(unknown), None, "{unknown}");
        }
        assert_eq!(received_by(&json!({}), "a"), None);
    }
}
