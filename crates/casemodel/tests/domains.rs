//! Whole sample domains: the replay of every case gives the rows that the generator's own model of HQ expects of it.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use casemodel::{Mode, Options, ReplayInput, replay};
use chrono::{DateTime, Utc};
use formmodel::Treatment;
use generator::compare::{Actual, compare};
use generator::supply::{self, SupplyOptions};
use generator::{
    ExpectedAttachment, ExpectedCase, ExpectedIndex, ExpectedLedgerTransaction, ExpectedLedgerValue,
    ExpectedTransaction, GeneratedDomain, Weights, generate,
};
use proptest::prelude::*;
use proto::doctype::DocType;
use proto::effects::{AttachmentFacts, CaseEvent, FormEffects};
use proto::ids::{CaseId, Domain};
use proto::rows::CaseBundle;
use serde_json::Value;

/// What the documents of a domain stage.
struct Staged {
    domain: Domain,
    options: Options,
    rows: Vec<(String, FormEffects)>,
    events: BTreeMap<String, CaseEvent>,
}

fn stage(name: &str, generated: &GeneratedDomain, case_attachments: bool) -> Staged {
    let domain = Domain::new(name);
    let blobs: HashMap<&str, &[u8]> = generated
        .blobs
        .iter()
        .map(|(key, bytes)| (key.as_str(), bytes.as_slice()))
        .collect();
    let mut staged = Staged {
        domain: domain.clone(),
        options: Options { case_attachments },
        rows: Vec::new(),
        events: BTreeMap::new(),
    };
    let mut metadata: HashMap<&str, Vec<_>> = HashMap::new();
    for row in &generated.model.blobmeta_after {
        metadata.entry(row.parent_id.as_str()).or_default().push(row);
    }
    for doc in &generated.docs {
        let id = doc["_id"].as_str().unwrap();
        match doc["doc_type"].as_str().and_then(DocType::parse) {
            None | Some(DocType::CommCareCase) => {}
            Some(DocType::CommCareCaseDeleted) => {
                let event = CaseEvent::CopiedDeleted {
                    doc: doc.to_string(),
                    staged_on: staged_on(),
                };
                staged.events.insert(id.to_owned(), event);
            }
            Some(doc_type) => {
                let rows = metadata.get(id).map(Vec::as_slice).unwrap_or_default();
                let xml = rows.iter().find(|row| row.type_code == 2).unwrap();
                let xml = blobs[xml.key.as_str()];
                let attachments = rows.iter().filter(|row| row.type_code == 3).map(|row| AttachmentFacts {
                    name: row.name.clone(),
                    key: row.key.clone(),
                    content_length: Some(row.content_length),
                    content_type: row.content_type.clone(),
                    properties: None,
                });
                let attachments = attachments.collect();
                let form = formmodel::migrate(&domain, doc_type, doc, xml, attachments, Treatment::AsItSays).unwrap();
                let rows = form
                    .cases
                    .into_iter()
                    .map(|(case_id, effects)| (case_id.into_string(), effects));
                staged.rows.extend(rows);
            }
        }
    }
    staged
}

/// Deleted documents are staged long after the last of these domains.
fn staged_on() -> DateTime<Utc> {
    DateTime::parse_from_rfc3339("2030-01-01T00:00:00Z").unwrap().to_utc()
}

impl Staged {
    fn case_ids(&self) -> BTreeSet<&str> {
        let of_rows = self.rows.iter().map(|(case_id, _)| case_id.as_str());
        of_rows.chain(self.events.keys().map(String::as_str)).collect()
    }

    /// Replays these cases. A generated domain holds no form that a replay refuses.
    fn replay(&self, case_ids: &BTreeSet<&str>) -> Actual {
        let mut forms: BTreeMap<&str, Vec<FormEffects>> = BTreeMap::new();
        for (case_id, effects) in &self.rows {
            forms.entry(case_id).or_default().push(effects.clone());
        }
        let mut actual = Actual::default();
        for case_id in case_ids {
            let replayed = replay(ReplayInput {
                domain: &self.domain,
                case_id: &CaseId::new(*case_id),
                forms: forms.remove(case_id).unwrap_or_default(),
                events: self.events.get(*case_id).cloned().into_iter().collect(),
                options: self.options,
                mode: Mode::AsProcessed,
            });
            assert_eq!(
                (replayed.rejected, replayed.errors),
                (Vec::new(), Vec::new()),
                "case {case_id}"
            );
            if let Some(bundle) = replayed.bundle {
                actual.cases.insert((*case_id).to_owned(), found(bundle));
            }
        }
        actual
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The rows as the generator compares them.
fn found(bundle: CaseBundle) -> ExpectedCase {
    let case = bundle.case;
    let domain = case.domain.clone();
    ExpectedCase {
        case_id: case.case_id,
        domain: case.domain,
        case_type: case.case_type,
        name: case.name,
        owner_id: case.owner_id,
        opened_on: case.opened_on,
        opened_by: case.opened_by,
        modified_on: case.modified_on,
        server_modified_on: Some(case.server_modified_on),
        modified_by: case.modified_by,
        closed: case.closed,
        closed_on: case.closed_on,
        closed_by: case.closed_by,
        deleted: case.deleted,
        deleted_on: case.deleted_on,
        deletion_id: case.deletion_id,
        external_id: case.external_id,
        location_id: case.location_id,
        case_json: json(&case.case_json).as_object().unwrap().clone(),
        indices: bundle
            .indices
            .into_iter()
            .map(|row| ExpectedIndex {
                identifier: row.identifier,
                referenced_id: row.referenced_id,
                referenced_type: row.referenced_type,
                relationship_id: row.relationship.id(),
            })
            .collect(),
        transactions: bundle
            .transactions
            .into_iter()
            .map(|row| ExpectedTransaction {
                form_id: row.form_id,
                sync_log_id: row.sync_log_id,
                server_date: row.server_date,
                client_date: row.client_date,
                kind: row.kind,
                revoked: row.revoked,
                details: json(&row.details),
            })
            .collect(),
        attachments: bundle
            .attachments
            .into_iter()
            .map(|row| ExpectedAttachment {
                name: row.name,
                content_type: row.content_type,
                content_length: row.content_length,
                properties: json(&row.properties),
                blob_id: row.blob_id,
                blob_bucket: row.blob_bucket,
                md5: row.md5,
            })
            .collect(),
        ledger_values: bundle
            .ledger_values
            .into_iter()
            .map(|row| ExpectedLedgerValue {
                section_id: row.section_id,
                entry_id: row.entry_id,
                domain: domain.clone(),
                balance: row.balance,
                last_modified: row.last_modified,
                last_modified_form_id: row.last_modified_form_id,
                daily_consumption: None,
            })
            .collect(),
        ledger_transactions: bundle
            .ledger_transactions
            .into_iter()
            .map(|row| ExpectedLedgerTransaction {
                section_id: row.section_id,
                entry_id: row.entry_id,
                form_id: row.form_id,
                server_date: row.server_date,
                report_date: row.report_date,
                kind: row.kind,
                user_defined_type: row.user_defined_type,
                delta: row.delta,
                updated_balance: row.updated_balance,
            })
            .collect(),
    }
}

/// How the replayed cases differ from the model; of the model only the named ones count.
fn differences(generated: &GeneratedDomain, mut actual: Actual, only: Option<&BTreeSet<&str>>) -> Vec<String> {
    let mut model = generated.model.clone();
    if let Some(only) = only {
        model.cases.retain(|case_id, _| only.contains(case_id.as_str()));
    }
    // Forms and blob metadata are not what is tested here.
    model.forms.clear();
    model.blobmeta_after.clear();
    actual.forms.clear();
    compare(&model, &actual, 10)
}

fn any_weights() -> impl Strategy<Value = Weights> {
    prop::array::uniform12(0.0..0.3_f64).prop_map(
        |[
            edits,
            legacy,
            noop,
            clock,
            ties,
            households,
            cases,
            referrals,
            closures,
            indices,
            users,
            names,
        ]| Weights {
            edits,
            legacy,
            noop,
            wrong_clock: clock,
            ties,
            deleted_households: households,
            deleted_cases: cases,
            referrals,
            closures,
            index_changes: indices,
            user_cases: users,
            long_names: names,
            never_created: names,
            ..Weights::default()
        },
    )
}

fn any_options() -> impl Strategy<Value = generator::Options> {
    (any::<u64>(), 40_usize..250, any::<bool>(), any::<bool>(), any_weights()).prop_map(
        |(seed, forms, case_attachments, old, weights)| generator::Options {
            case_attachments,
            couch_db: old.then(|| "commcarehq".to_owned()),
            weights,
            ..generator::Options::new("replayed", forms, seed)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn cases_of_households(options in any_options()) {
        let generated = generate(&options);
        let staged = stage(&options.domain, &generated, options.case_attachments);
        let actual = staged.replay(&staged.case_ids());
        prop_assert_eq!(differences(&generated, actual, None), Vec::<String>::new());
    }

    #[test]
    fn cases_and_ledgers_of_supply_chains(seed in any::<u64>()) {
        let options = SupplyOptions::new("replayed", seed);
        let generated = supply::generate(&options);
        let staged = stage("replayed", &generated, false);
        let actual = staged.replay(&staged.case_ids());
        prop_assert!(actual.cases.values().any(|case| case.ledger_values.len() > 1));
        prop_assert_eq!(differences(&generated, actual, None), Vec::<String>::new());
    }

    /// Staged rows come in any order and more than once, and any part of the cases is replayed at a time.
    #[test]
    fn any_part_in_any_order(
        seed in any::<u64>(),
        shuffle in any::<u64>(),
        size in 1_usize..40,
    ) {
        let options = generator::Options::new("replayed", 120, seed);
        let generated = generate(&options);
        let mut staged = stage(&options.domain, &generated, false);
        staged.rows.extend(staged.rows.clone());
        let place = |text: &str| text.bytes().fold(shuffle, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        staged.rows.sort_by_cached_key(|(case_id, effects)| place(&format!("{case_id}/{}", effects.form.form_id.as_str())));
        let mut case_ids: Vec<&str> = staged.case_ids().into_iter().collect();
        case_ids.sort_by_cached_key(|case_id| place(case_id));
        for part in case_ids.chunks(size) {
            let part: BTreeSet<&str> = part.iter().copied().collect();
            prop_assert_eq!(differences(&generated, staged.replay(&part), Some(&part)), Vec::<String>::new());
        }
    }
}
