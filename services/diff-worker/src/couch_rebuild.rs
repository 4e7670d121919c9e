//! Rebuilds Couch cases in memory from their forms, which are read in bulk.

use std::collections::{HashMap, HashSet};

use casemodel::couch_rebuild::{CouchForm as FormOfCase, rebuild};
use chrono::{DateTime, Utc};
use proto::doctype::DocType;
use proto::effects::CaseUpdate;
use serde_json::Value;
use service::worker::BatchFailure;
use state::batch::Claim;

use crate::DiffHandler;
use crate::couch_forms::CouchForm;
use crate::sides::{Sides, acting_forms, domain_of, listed_forms};

/// Forms of the cases that are rebuilt together. What they do to their cases is in memory at once; a case with more of them
/// goes alone.
const FORMS_IN_MEMORY: usize = 5_000;

/// A case, and the forms that may belong to it.
pub(crate) struct FormsOfCase<'a> {
    pub(crate) case_id: &'a str,
    form_ids: Vec<String>,
}

/// What the forms of a case do to it; `None` if they cannot be read as Couch's processor reads them.
type Gathered<'a> = HashMap<&'a str, Option<Vec<FormOfCase>>>;

impl DiffHandler {
    /// The forms that may belong to each of these cases: those that are staged for it, those that the Couch case names, and
    /// those of HQ's reports of its stock. In groups whose forms fit into memory.
    pub(crate) async fn forms_to_rebuild_from<'a>(
        &self,
        claim: &Claim,
        sides: &Sides,
        case_ids: &[&'a str],
    ) -> Result<Vec<Vec<FormsOfCase<'a>>>, BatchFailure> {
        let ids: Vec<String> = case_ids.iter().map(|case_id| (*case_id).to_owned()).collect();
        let mut forms: HashMap<&str, HashSet<String>> = HashMap::new();
        for case_id in case_ids {
            let named = forms.entry(case_id).or_default();
            if let Some(couch) = sides.couch.get(*case_id) {
                named.extend(listed_forms(couch).chain(acting_forms(couch)).map(str::to_owned));
            }
        }
        for (case_id, form_id) in self.state.forms_naming(claim.migration_id, &ids).await? {
            if let Some(named) = forms.get_mut(case_id.as_str()) {
                named.insert(form_id);
            }
        }
        if sides.couch_stock {
            for (case_id, form_id) in self.target.stock_forms(&ids).await? {
                if let Some(named) = forms.get_mut(case_id.as_str()) {
                    named.insert(form_id);
                }
            }
        }
        let mut groups: Vec<Vec<FormsOfCase<'a>>> = Vec::new();
        let mut room = 0;
        for case_id in case_ids {
            let form_ids: Vec<String> = forms.remove(case_id).unwrap_or_default().into_iter().collect();
            let case = FormsOfCase { case_id, form_ids };
            match groups.last_mut().filter(|_| case.form_ids.len() <= room) {
                Some(group) => {
                    room -= case.form_ids.len();
                    group.push(case);
                }
                None => {
                    room = FORMS_IN_MEMORY.saturating_sub(case.form_ids.len());
                    groups.push(vec![case]);
                }
            }
        }
        Ok(groups)
    }

    /// Rebuilds the cases of a group. Of those that cannot be rebuilt, nothing is given.
    pub(crate) async fn rebuild_couch_cases<'a>(
        &self,
        sides: &Sides,
        group: &[FormsOfCase<'a>],
    ) -> Result<HashMap<&'a str, Value>, BatchFailure> {
        let mut gathered: Gathered<'a> = group.iter().map(|case| (case.case_id, Some(Vec::new()))).collect();
        let mut wanted: HashMap<&str, Vec<&'a str>> = HashMap::new();
        for case in group {
            for form_id in &case.form_ids {
                wanted.entry(form_id).or_default().push(case.case_id);
            }
        }
        let mut ids: Vec<String> = wanted.keys().map(|form_id| (*form_id).to_owned()).collect();
        ids.sort_unstable();
        let db_name = self.forms_db.name();
        self.each_couch_form(&ids, &mut |form_id, form| {
            let case_ids = wanted.get(form_id).map_or(&[][..], Vec::as_slice);
            gather(&mut gathered, sides, (form_id, form), case_ids, db_name);
        })
        .await?;
        let mut rebuilt = HashMap::new();
        for (case_id, forms) in gathered {
            let (Some(case), Some(forms)) = (sides.couch.get(case_id), forms) else {
                tracing::warn!(
                    case_id,
                    "the forms of a Couch case cannot be read; it is compared as it is"
                );
                continue;
            };
            match rebuild(case, forms) {
                Ok(document) => drop(rebuilt.insert(case_id, document)),
                Err(error) => {
                    tracing::warn!(case_id, %error, "a Couch case cannot be rebuilt; it is compared as it is");
                }
            }
        }
        Ok(rebuilt)
    }
}

/// Adds what a form does to these cases. Only normal forms count, those with a problem among them. One of another domain,
/// or with blocks in error, stops the rebuild of its cases, as in Couch's processor.
fn gather(
    gathered: &mut Gathered<'_>,
    sides: &Sides,
    (form_id, form): (&str, &CouchForm),
    case_ids: &[&str],
    db_name: &str,
) {
    let Some(document) = &form.document else { return };
    if document.get("doc_type").and_then(Value::as_str) != Some(DocType::XFormInstance.as_str()) {
        return;
    }
    let is_ours = domain_of(document) == sides.domain.as_str();
    let Some(mut read) = is_ours.then(|| read_form(form, document)).flatten() else {
        for case_id in case_ids {
            if let Some(forms) = gathered.get_mut(*case_id) {
                *forms = None;
            }
        }
        return;
    };
    for case_id in case_ids {
        let Some(Some(forms)) = gathered.get_mut(*case_id) else {
            continue;
        };
        let updates = read.updates.remove(*case_id).unwrap_or_default();
        let changes_ledgers = read.ledger_cases.contains(*case_id);
        if updates.is_empty() && !changes_ledgers {
            continue;
        }
        forms.push(FormOfCase {
            form_id: form_id.to_owned(),
            received_on: read.received_on,
            user_id: read.user_id.clone(),
            attachments: if updates.is_empty() {
                Vec::new()
            } else {
                attachments(db_name, form_id, document)
            },
            updates,
            changes_ledgers,
        });
    }
}

/// What a form says of itself and its cases.
struct ReadForm {
    received_on: DateTime<Utc>,
    user_id: Option<String>,
    updates: HashMap<String, Vec<CaseUpdate>>,
    ledger_cases: HashSet<String>,
}

/// Reads the blocks from the document's own JSON, as Couch's processor does, and ledgers from the XML, which alone tells
/// of them.
fn read_form(form: &CouchForm, document: &Value) -> Option<ReadForm> {
    let body = document.get("form")?;
    let received_on = formmodel::dates::parse(document.get("received_on")?.as_str()?)?;
    let updates = xform::case_updates(body).ok()?;
    let ledgers = match &form.xml {
        Some(xml) => xform::ledger_updates(xml, received_on).ok()?,
        None => Vec::new(),
    };
    Some(ReadForm {
        received_on,
        user_id: xform::metadata_user_id(body),
        updates: updates
            .into_iter()
            .map(|(case_id, updates)| (case_id.as_str().to_owned(), updates))
            .collect(),
        ledger_cases: ledgers
            .into_iter()
            .map(|instruction| instruction.case_id.as_str().to_owned())
            .collect(),
    })
}

fn attachments(db_name: &str, form_id: &str, document: &Value) -> Vec<(String, Option<u64>)> {
    let refs = blobs::blob_refs(db_name, form_id, document).unwrap_or_default();
    refs.into_iter().map(|blob| (blob.name, blob.content_length)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use bytes::Bytes;
    use proto::ids::Domain;
    use serde_json::json;

    use super::*;

    const LEDGER: &str = r#"<balance xmlns="http://commcarehq.org/ledger/v1" entity-id="c" section-id="stock">
        <entry id="soap" quantity="5"/></balance>"#;

    fn document() -> Value {
        json!({"_id": "f", "doc_type": "XFormInstance", "domain": "d", "received_on": "2020-03-01T10:00:00.000000Z",
            "problem": "broken", "initial_processing_complete": false,
            "external_blobs": {"a.jpg": {"key": "k", "content_length": 7}},
            "form": {"meta": {"userID": "u"}, "case": {"@case_id": "c", "@date_modified": "2020-03-01T09:00:00.000000Z",
                "@xmlns": "http://commcarehq.org/case/transaction/v2", "update": {"age": "27"}}}})
    }

    fn with(change: impl FnOnce(&mut Value)) -> CouchForm {
        let mut document = document();
        change(&mut document);
        CouchForm {
            document: Some(document),
            xml: Some(Bytes::from_static(b"<data xmlns=\"http://visit\"/>")),
        }
    }

    /// What a form does to case `c`; the outer option is none if the case cannot be rebuilt.
    fn gathered(form: &CouchForm) -> Option<Vec<FormOfCase>> {
        let sides = Sides {
            domain: Domain::new("d"),
            couch: HashMap::new(),
            sql: HashMap::new(),
            no_action: HashSet::new(),
            couch_stock: false,
            rules: std::sync::Arc::default(),
        };
        let mut gathered: Gathered<'_> = HashMap::from([("c", Some(Vec::new())), ("other", Some(Vec::new()))]);
        gather(&mut gathered, &sides, ("f", form), &["c"], "db");
        assert_eq!(gathered["other"], Some(Vec::new()), "the form was not asked for it");
        gathered.remove("c").unwrap()
    }

    #[test]
    fn a_normal_form_counts_whatever_it_says_of_its_processing() {
        let forms = gathered(&with(|_| {})).unwrap();
        let [form] = forms.as_slice() else { panic!("{forms:?}") };
        assert_eq!((form.form_id.as_str(), form.user_id.as_deref()), ("f", Some("u")));
        assert_eq!((form.updates.len(), form.changes_ledgers), (1, false));
        assert_eq!(form.attachments, [("a.jpg".to_owned(), Some(7))]);
        assert_eq!(form.received_on.to_rfc3339(), "2020-03-01T10:00:00+00:00");
    }

    #[test]
    fn forms_of_other_types_and_forms_that_couch_lacks_do_nothing() {
        for doc_type in ["XFormArchived", "XFormError", "XFormDuplicate", "XFormInstance-Deleted"] {
            assert_eq!(
                gathered(&with(|form| form["doc_type"] = json!(doc_type))),
                Some(Vec::new())
            );
        }
        assert_eq!(gathered(&CouchForm::default()), Some(Vec::new()));
    }

    #[test]
    fn a_form_of_another_domain_or_with_blocks_in_error_stops_the_rebuild() {
        let no_ledger = LEDGER
            .replace(r#"id="soap" "#, "")
            .replace("balance", "transfer")
            .replace("entity-id", "src");
        let bad_ledger = CouchForm {
            xml: Some(Bytes::from(format!("<data>{no_ledger}</data>"))),
            ..with(|_| {})
        };
        for form in [
            with(|form| form["domain"] = json!("elsewhere")),
            with(|form| drop(form["domain"].take())),
            with(|form| form["form"]["case"]["@case_id"] = json!("")),
            with(|form| form["received_on"] = json!("yesterday")),
            bad_ledger,
        ] {
            assert_eq!(gathered(&form), None, "{form:?}");
        }
    }

    #[test]
    fn a_form_of_stock_alone_counts_by_its_ledgers() {
        let stock = CouchForm {
            xml: Some(Bytes::from(format!("<data>{LEDGER}</data>"))),
            ..with(|form| drop(form["form"]["case"].take()))
        };
        let forms = gathered(&stock).unwrap();
        let [form] = forms.as_slice() else { panic!("{forms:?}") };
        assert!(form.changes_ledgers && form.updates.is_empty());
        assert!(form.attachments.is_empty(), "ledgers take none");
        let of_another = CouchForm {
            xml: Some(Bytes::from(format!(
                "<data>{}</data>",
                LEDGER.replace(r#""c""#, r#""x""#)
            ))),
            ..with(|form| form["form"]["case"]["@case_id"] = json!("x"))
        };
        assert_eq!(gathered(&of_another), Some(Vec::new()), "it names another case");
    }
}
