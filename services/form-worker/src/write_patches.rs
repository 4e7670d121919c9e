//! Writes patch forms: rows, XML and effects as those of a migrated form.
//!
//! A patch form is on record before anything of it is written, and its time is when it went on record. So a worker that
//! takes a batch over from one that died writes the same rows, and forms that the other one had begun and that are not
//! wanted any more are given up together with their rows.

use std::collections::{BTreeMap, HashMap, HashSet};

use blobs::FORM_XML;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use docdiff::{DirectPatch, PATCH_OPERATION, PATCH_XMLNS};
use formmodel::MigratedForm;
use hqsql::ShardId;
use proto::doctype::DocType;
use proto::effects::{CaseEvent, LedgerConsumption};
use proto::rows::BLOB_FORM_XML;
use serde_json::{Value, json};
use service::worker::BatchFailure;
use state::batch::Claim;
use state::blob_change::BlobOrigin;
use state::form_stage::{DocIntent, FormResults};
use state::patch::PatchRefusal;

use crate::FormHandler;
use crate::patches::{Patcher, PlannedPatch};
use crate::plan::{Candidate, NewMeta, derived_key};
use crate::write::{Written, encode, staged_form};

/// The revision under which patch forms are on record: they never have another.
const ONLY_REV: &str = "1-patch";

impl FormHandler {
    /// Patches the cases of a batch, and adds to `results` what is to be staged.
    pub(crate) async fn patch(&self, claim: &Claim, results: &mut FormResults) -> Result<(), BatchFailure> {
        let patcher = Patcher::new(self.state.clone(), self.target.clone(), self.forms_db.clone());
        let patches = patcher.plan(claim.migration_id, &claim.domain, &claim.ids).await?;
        results.patches.refused = patches.refused;
        results.patches.outdated = patches.outdated;
        let forms: Vec<_> = patches.planned.iter().map(|patch| patch.form.clone()).collect();
        self.state.begin_patches(claim, &forms).await?;
        let unfinished = self.state.unfinished_patches(claim.migration_id, &claim.ids).await?;
        let wanted: HashSet<&str> = forms.iter().map(|form| form.form_id.as_str()).collect();
        let given_up = unfinished
            .into_iter()
            .filter(|form_id| !wanted.contains(form_id.as_str()));
        results.gone.extend(given_up);
        self.write_patches(claim, patches.planned, results).await
    }

    async fn write_patches(
        &self,
        claim: &Claim,
        planned: Vec<PlannedPatch>,
        results: &mut FormResults,
    ) -> Result<(), BatchFailure> {
        if planned.is_empty() {
            return Ok(());
        }
        let intents: Vec<DocIntent> = planned
            .iter()
            .map(|patch| DocIntent {
                doc_id: patch.form.form_id.clone(),
                doc_type: DocType::XFormInstance.as_str().to_owned(),
                rev: ONLY_REV.to_owned(),
            })
            .collect();
        let standings = self.state.begin_forms(claim, &intents, &[]).await?;
        let mut candidates = Vec::with_capacity(planned.len());
        let mut by_form: HashMap<String, (PlannedPatch, DateTime<Utc>)> = HashMap::with_capacity(planned.len());
        for patch in planned {
            let Some(standing) = standings.get(&patch.form.form_id) else {
                return Err(BatchFailure::defect("a patch form was recorded and is not there"));
            };
            let time = standing.first_staged_at;
            candidates.push(self.candidate(claim, &patch, time).await?);
            by_form.insert(patch.form.form_id.clone(), (patch, time));
        }
        let mut by_shard: BTreeMap<ShardId, Vec<(Candidate, MigratedForm)>> = BTreeMap::new();
        for (candidate, mut form) in self.migrate(&claim.domain, candidates, results).await? {
            if let Some((patch, time)) = by_form.get(&candidate.doc_id) {
                take_place(&mut form, patch.place.unwrap_or(*time));
            }
            let shard = self.target.shard_of(&candidate.doc_id);
            by_shard.entry(shard).or_default().push((candidate, form));
        }
        let mut written = Vec::with_capacity(by_form.len());
        for (shard, forms) in by_shard {
            written.extend(self.write_shard(claim, shard, forms, results).await?);
        }
        settle(written, by_form, results)
    }

    /// The patch form as if it were a document, with its XML in the blob store.
    async fn candidate(
        &self,
        claim: &Claim,
        patch: &PlannedPatch,
        time: DateTime<Utc>,
    ) -> Result<Candidate, BatchFailure> {
        let form_id = &patch.form.form_id;
        let xml = Bytes::from(patch.plan.xml(form_id, time));
        let key = derived_key(form_id, FORM_XML, &xml);
        self.blobs.put_if_absent(&key, xml.clone()).await?;
        let document = document(claim.domain.as_str(), patch, time);
        let mut candidate = Candidate::new(form_id, ONLY_REV.to_owned(), DocType::XFormInstance, document);
        candidate.missing_meta.push(NewMeta {
            name: FORM_XML.to_owned(),
            key,
            type_code: BLOB_FORM_XML,
            content_length: i64::try_from(xml.len()).unwrap_or(i64::MAX),
            content_type: Some("text/xml".to_owned()),
            origin: BlobOrigin::Patch,
        });
        candidate.xml = xml;
        Ok(candidate)
    }
}

/// What was written is staged; what could not be is refused, and given up with whatever there is of it.
fn settle(
    written: Vec<Written>,
    mut by_form: HashMap<String, (PlannedPatch, DateTime<Utc>)>,
    results: &mut FormResults,
) -> Result<(), BatchFailure> {
    for failed in std::mem::take(&mut results.failed) {
        let Some((patch, _)) = by_form.remove(&failed.doc_id) else {
            continue;
        };
        results.gone.push(failed.doc_id);
        results.patches.refused.push(PatchRefusal {
            doc_id: patch.form.case_id,
            kind: DocType::CommCareCase.as_str().to_owned(),
            table: patch.form.table,
            code: failed.code,
            message: failed.message,
        });
    }
    for one in written {
        let Some((patch, _)) = by_form.remove(&one.candidate.doc_id) else {
            return Err(BatchFailure::defect("a form was written that is no patch"));
        };
        if !patch.plan.direct.is_empty() {
            let event = correction(&patch.form.case_id, &patch.plan.direct)?;
            let form_id = patch.form.form_id.clone();
            results.patches.corrections.push((form_id, encode(&event)?));
        }
        results.patches.patched.push(patch.form);
        results.forms.push(staged_form(one, None)?);
    }
    Ok(())
}

/// What a patch sets in ledgers of its case beside its form.
fn correction(case_id: &str, direct: &[DirectPatch]) -> Result<CaseEvent, BatchFailure> {
    let mut consumptions = Vec::with_capacity(direct.len());
    for patch in direct {
        let ledger = patch
            .ledger
            .strip_prefix(case_id)
            .and_then(|rest| rest.strip_prefix('/'));
        let Some((section_id, entry_id)) = ledger.and_then(|rest| rest.rsplit_once('/')) else {
            return Err(BatchFailure::defect("a ledger of another case is corrected"));
        };
        consumptions.push(LedgerConsumption {
            section_id: section_id.to_owned(),
            entry_id: entry_id.to_owned(),
            daily_consumption: patch.daily_consumption.clone(),
        });
    }
    Ok(CaseEvent::LedgerCorrection { consumptions })
}

/// What Couch would hold of the form if it had been submitted there.
fn document(domain: &str, patch: &PlannedPatch, time: DateTime<Utc>) -> Value {
    let time = time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let user_id = patch.plan.user_id.as_str();
    json!({
        "_id": patch.form.form_id,
        "_rev": ONLY_REV,
        "doc_type": DocType::XFormInstance.as_str(),
        "domain": domain,
        "xmlns": PATCH_XMLNS,
        "received_on": time,
        "server_modified_on": time,
        "initial_processing_complete": true,
        "form": {"@xmlns": PATCH_XMLNS, "meta": {"userID": user_id}},
        "history": [{"user": user_id, "operation": PATCH_OPERATION, "date": time}],
    })
}

/// A patch stands where its comparison ended, whatever its own time is: forms that come to light later, and are newer,
/// are applied after it. A block without parts is none that Couch has left out.
fn take_place(form: &mut MigratedForm, place: DateTime<Utc>) {
    for (_, effects) in &mut form.cases {
        effects.form.received_on = place;
    }
    form.has_noop_block = false;
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::HashMap;

    use docdiff::{PatchRecord, PatchSubject, RecordedDiff, plan_patch};
    use formmodel::Treatment;
    use proto::effects::{CaseAction, KnownProperty, LedgerKind, PropertyValue};
    use proto::ids::Domain;
    use state::patch::PatchFormRecord;
    use state::records::RecordTable;

    use super::*;

    fn planned(couch: &Value, records: &[Value]) -> PlannedPatch {
        let records: Vec<RecordedDiff> = records
            .iter()
            .map(|record| RecordedDiff::from_json(record).unwrap())
            .collect();
        let changed: DateTime<Utc> = "2014-08-04T18:25:00Z".parse().unwrap();
        let stock = docdiff::LedgerStock {
            state_changed: Some(changed),
            transactions: Vec::new(),
        };
        let plan = plan_patch(&PatchSubject {
            domain: "demo",
            couch: Some(couch),
            records: &records,
            stock: &HashMap::from([("c/stock/soap".to_owned(), stock)]),
        })
        .unwrap();
        PlannedPatch {
            form: PatchFormRecord {
                form_id: "p".to_owned(),
                case_id: "c".to_owned(),
                table: RecordTable::Diffs,
            },
            plan,
            place: None,
        }
    }

    fn migrated(patch: &PlannedPatch, time: DateTime<Utc>) -> MigratedForm {
        let xml = patch.plan.xml(&patch.form.form_id, time);
        let document = document("demo", patch, time);
        formmodel::migrate(
            &Domain::new("demo"),
            DocType::XFormInstance,
            &document,
            xml.as_bytes(),
            Vec::new(),
            Treatment::AsItSays,
        )
        .unwrap()
    }

    fn couch() -> Value {
        json!({"_id": "c", "domain": "demo", "name": "Zena & <co>\r\n\"x\"", "type": "t", "user_id": "u", "closed": true,
            "owner_id": "o", "modified_on": "2015-08-04T18:25:56.656000Z", "opened_on": "2010-09-08T00:00:00Z"})
    }

    /// The XML goes through the same reader as any form's.
    #[test]
    fn a_patch_form_does_what_its_plan_says() {
        let time: DateTime<Utc> = "2020-10-11T12:13:14.000015Z".parse().unwrap();
        let index = json!({"identifier": "parent", "referenced_type": "house", "referenced_id": "h", "relationship": "extension"});
        let patch = planned(
            &couch(),
            &[
                json!({"type": "diff", "path": ["name"], "old_value": "Zena", "new_value": "x"}),
                json!({"type": "diff", "path": ["closed"], "old_value": true, "new_value": false}),
                json!({"type": "diff", "path": ["age"], "old_value": " 7 & 8 ", "new_value": "9"}),
                json!({"type": "missing", "path": ["gone"], "new_value": "9"}),
                json!({"type": "missing", "path": ["indices", "[*]"], "old_value": index}),
                json!({"type": "diff", "path": {"stock_id": "c/stock/soap", "path": ["balance"]}, "old_value": 34,
                    "new_value": 3}),
            ],
        );
        let mut form = migrated(&patch, time);
        let row = &form.bundle.form;
        assert_eq!(
            (
                row.form_id.as_str(),
                row.xmlns.as_str(),
                row.user_id.as_deref(),
                row.state,
                row.received_on
            ),
            ("p", PATCH_XMLNS, Some("u"), 1, time)
        );
        let operation = &form.bundle.operations[0];
        assert_eq!(
            (
                operation.operation.as_str(),
                operation.user_id.as_deref(),
                operation.date
            ),
            ("Couch to SQL case patch", Some("u"), time)
        );
        assert_eq!(form.bundle.operations.len(), 1);
        let place: DateTime<Utc> = "2016-01-01T00:00:00Z".parse().unwrap();
        take_place(&mut form, place);
        let [(case_id, effects)] = form.cases.as_slice() else {
            panic!("{:?}", form.cases)
        };
        assert_eq!((case_id.as_str(), effects.form.received_on), ("c", place));
        let [update] = effects.updates.as_slice() else {
            panic!("{:?}", effects.updates)
        };
        assert_eq!(update.user_id.as_deref(), Some("u"));
        assert_eq!(update.modified_on, Some("2015-08-04T18:25:56.656Z".parse().unwrap()));
        let text = |text: &str| PropertyValue::Text(text.to_owned());
        let CaseAction::Update { known, dynamic } = &update.actions[0] else {
            panic!("{:?}", update.actions)
        };
        assert_eq!(
            *known,
            [
                (KnownProperty::Type, text("t")),
                (KnownProperty::Name, text("Zena & <co>\r\n\"x\"")),
                (KnownProperty::OwnerId, text("o")),
                (KnownProperty::OpenedOn, text("2010-09-08T00:00:00.000000Z")),
            ]
        );
        assert_eq!(
            *dynamic,
            [("age".to_owned(), text(" 7 & 8 ")), ("gone".to_owned(), text(""))]
        );
        assert!(update.actions.contains(&CaseAction::Close));
        let [ledger] = effects.ledgers.as_slice() else {
            panic!("{:?}", effects.ledgers)
        };
        assert_eq!(
            (ledger.kind, ledger.quantity.as_str(), ledger.report_date),
            (LedgerKind::Balance, "34", "2014-08-04T00:00:00Z".parse().unwrap())
        );
    }

    #[test]
    fn the_record_comes_back_from_the_forms_json() {
        let patch = planned(
            &couch(),
            &[json!({"type": "diff", "path": ["opened_by"], "old_value": "<a & b> &amp; é", "new_value": "b"})],
        );
        let mut form = migrated(&patch, DateTime::UNIX_EPOCH);
        assert!(form.has_noop_block);
        take_place(&mut form, DateTime::UNIX_EPOCH);
        assert!(
            !form.has_noop_block,
            "a patch's empty block is a record, not one that Couch forgot"
        );
        let left = [
            json!({"type": "diff", "path": ["opened_by"], "old_value": "<a & b> &amp; é", "new_value": "c"}),
            json!({"type": "set_mismatch", "path": ["xform_ids", "[*]"], "old_value": "", "new_value": "p"}),
        ];
        let left: Vec<docdiff::Diff> = left
            .iter()
            .map(|diff| docdiff::Diff::from_json(diff).unwrap())
            .collect();
        let patches = [("p".to_owned(), PatchRecord::of_form(&form.body))];
        assert!(docdiff::is_case_patched("c", &left, &patches));
        assert!(!docdiff::is_case_patched("d", &left, &patches));
    }

    #[test]
    fn an_index_is_removed_by_an_entry_without_a_case() {
        let index =
            json!({"identifier": "parent", "referenced_type": "house", "referenced_id": "h", "relationship": "child"});
        let patch = planned(
            &couch(),
            &[json!({"type": "missing", "path": ["indices", "[*]"], "new_value": index})],
        );
        let form = migrated(&patch, DateTime::UNIX_EPOCH);
        let actions = &form.cases[0].1.updates[0].actions;
        let CaseAction::Index(changes) = &actions[1] else {
            panic!("{actions:?}")
        };
        assert_eq!(
            (changes[0].identifier.as_str(), changes[0].referenced_id.as_str()),
            ("parent", "")
        );
    }
}
