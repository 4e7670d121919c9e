//! Plans patches: reads the recorded differences of cases, their Couch documents and HQ's stock, and says for each record
//! which patch form it gets or why it gets none. Nothing is written here, so that a preview plans as a worker does.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use couch::{Database, Fetched, Outcome};
use docdiff::{LedgerStock, PatchPlan, PatchSubject, RecordedDiff, plan_patch};
use hqsql::{StockStates, Target};
use proto::doctype::DocType;
use proto::ids::Domain;
use serde::Deserialize;
use serde_json::Value;
use service::worker::{BatchFailure, chain};
use state::patch::{PatchFormRecord, PatchRefusal, RecordToPatch};
use state::records::RecordTable;
use state::{MigrationId, State};
use uuid::Uuid;

use crate::READ_BYTES;

/// Namespace of the ids of patch forms.
const FORM_NAMESPACE: Uuid = Uuid::from_u128(0x3f61_9b0c_27d4_4c5e_8f0a_91b6_e2d3_57c8);
/// Staged effects read at once, to find the newest form of each case: some megabytes.
const STAGED_PAGE: i64 = 1000;

/// What cases are patched from.
#[derive(Clone, Debug)]
pub struct Patcher {
    state: State,
    target: Target,
    forms_db: Database,
}

/// A patch form without its time.
#[derive(Clone, Debug)]
pub struct PlannedPatch {
    /// Its id, derived from what it does and for which comparison: every attempt gives the same.
    pub form: PatchFormRecord,
    /// What it does.
    pub plan: PatchPlan,
    /// Its place among the forms of the case: right after the newest one that the comparison had seen. None when there
    /// is no form, nor any date of the case.
    pub place: Option<DateTime<Utc>>,
}

/// What becomes of the records of some cases.
#[derive(Clone, Debug, Default)]
pub struct Patches {
    /// Patch forms.
    pub planned: Vec<PlannedPatch>,
    /// Records that get none.
    pub refused: Vec<PatchRefusal>,
    /// Cases that are no longer what was compared.
    pub outdated: Vec<String>,
}

/// What Couch has of cases, or the code and the reason why it cannot be read.
type CouchCases = HashMap<String, Result<Value, (String, String)>>;

/// What is read for some cases, once for all of their records.
struct Known {
    newest: HashMap<String, DateTime<Utc>>,
    couch: CouchCases,
    stock: HashMap<String, LedgerStock>,
    cutoff: Option<DateTime<Utc>>,
}

/// Why a record is not patched now.
enum Hindrance {
    Refused(String, String),
    Outdated,
}

impl Patcher {
    /// On these stores.
    pub fn new(state: State, target: Target, forms_db: Database) -> Self {
        Self {
            state,
            target,
            forms_db,
        }
    }

    /// Plans the patches of these cases.
    ///
    /// # Errors
    /// A server that cannot be reached.
    pub async fn plan(&self, id: MigrationId, domain: &Domain, case_ids: &[String]) -> Result<Patches, BatchFailure> {
        let mut case_ids = case_ids.to_vec();
        case_ids.sort_unstable();
        case_ids.dedup();
        let mut patches = Patches::default();
        let mut reader = self.forms_db.bounded_reader(&case_ids, READ_BYTES);
        while let Some(couch) = reader.next().await? {
            let part: Vec<String> = couch.iter().map(|fetched| fetched.id.clone()).collect();
            self.plan_part((id, domain), &part, couch, &mut patches).await?;
        }
        Ok(patches)
    }

    /// Plans the patches of cases whose Couch documents were read together. A document that was read before its records
    /// were made is not the one that was compared: its revision tells.
    async fn plan_part(
        &self,
        (id, domain): (MigrationId, &Domain),
        case_ids: &[String],
        couch: Vec<Fetched>,
        patches: &mut Patches,
    ) -> Result<(), BatchFailure> {
        // In this order: a form that is staged in between makes its case's records outdated.
        let newest = self.newest_forms(id, case_ids).await?;
        let records = self.state.records_to_patch(id, case_ids).await?;
        let mut read = Vec::with_capacity(records.len());
        for record in records {
            let entries = read_entries(&record.diffs)?;
            read.push((record, entries));
        }
        let known = Known {
            newest,
            couch: couch_cases(couch)?,
            stock: self.stock(&read).await?,
            cutoff: self.state.live_cutoff(id).await?,
        };
        let mut places: HashMap<String, DateTime<Utc>> = HashMap::new();
        for (record, entries) in &read {
            match known.plan(domain, record, entries) {
                Ok(plan) => {
                    // Two patches of one case stand one after the other.
                    let place = places
                        .get(&record.doc_id)
                        .copied()
                        .or_else(|| known.newest(&record.doc_id));
                    let place = place.map(|newest| newest + TimeDelta::microseconds(1));
                    if let Some(place) = place {
                        places.insert(record.doc_id.clone(), place);
                    }
                    patches.planned.push(PlannedPatch {
                        form: PatchFormRecord {
                            form_id: form_id(domain, record, &plan),
                            case_id: record.doc_id.clone(),
                            table: record.table,
                        },
                        plan,
                        place,
                    });
                }
                Err(Hindrance::Refused(code, message)) => patches.refused.push(refusal(record, &code, message)),
                Err(Hindrance::Outdated) => {
                    let why = "the case or its Couch document has changed since they were compared".to_owned();
                    patches.refused.push(refusal(record, "C2S-2350", why));
                    patches.outdated.push(record.doc_id.clone());
                }
            }
        }
        Ok(())
    }

    /// When the newest staged form of each case was received.
    async fn newest_forms(
        &self,
        id: MigrationId,
        case_ids: &[String],
    ) -> Result<HashMap<String, DateTime<Utc>>, BatchFailure> {
        #[derive(Deserialize)]
        struct Effects {
            form: Received,
        }
        #[derive(Deserialize)]
        struct Received {
            received_on: DateTime<Utc>,
        }
        let mut newest: HashMap<String, DateTime<Utc>> = HashMap::new();
        let mut after = None;
        loop {
            let page = self
                .state
                .staged_page(id, case_ids, after.as_ref(), STAGED_PAGE)
                .await?;
            for ((_, case_id, _), payload) in &page {
                let effects: Effects = rmp_serde::from_slice(payload)
                    .map_err(|_| BatchFailure::defect("a staged effect cannot be read"))?;
                let newest = newest.entry(case_id.clone()).or_insert(effects.form.received_on);
                *newest = (*newest).max(effects.form.received_on);
            }
            match page.into_iter().next_back() {
                Some((place, _)) => after = Some(place),
                None => return Ok(newest),
            }
        }
    }

    /// Stock of the ledgers that have recorded differences.
    async fn stock(
        &self,
        records: &[(RecordToPatch, Vec<RecordedDiff>)],
    ) -> Result<HashMap<String, LedgerStock>, BatchFailure> {
        let mut case_ids: Vec<String> = records
            .iter()
            .filter(|(_, entries)| entries.iter().any(|entry| entry.ledger.is_some()))
            .map(|(record, _)| record.doc_id.clone())
            .collect();
        case_ids.dedup();
        let (states, transactions) = tokio::join!(
            self.target.stock_states(&case_ids, StockStates::WithArchived),
            self.target.stock_transactions(&case_ids),
        );
        let mut stock: HashMap<String, LedgerStock> = HashMap::new();
        for state in states? {
            let known = stock.entry(state.ledger.to_string()).or_default();
            known.state_changed = Some(state.last_modified_date);
        }
        for transaction in transactions? {
            let known = stock.entry(transaction.ledger.to_string()).or_default();
            known.transactions.push(transaction);
        }
        Ok(stock)
    }
}

impl Known {
    fn plan(&self, domain: &Domain, record: &RecordToPatch, entries: &[RecordedDiff]) -> Result<PatchPlan, Hindrance> {
        let refused = |code: &str, why: &str| Hindrance::Refused(code.to_owned(), why.to_owned());
        if record.kind != DocType::CommCareCase.as_str() {
            let why = "only cases that are not deleted are patched";
            return Err(refused("C2S-2349", why));
        }
        let couch = match self.couch.get(&record.doc_id) {
            Some(Ok(document)) => Some(document),
            Some(Err((code, message))) => return Err(refused(code, message)),
            None => None,
        };
        let plan = plan_patch(&PatchSubject {
            domain: domain.as_str(),
            couch,
            records: entries,
            stock: &self.stock,
        })
        .map_err(|error| refused(error.code(), &error.to_string()))?;
        let rev = couch.and_then(|document| document.get("_rev")).and_then(Value::as_str);
        if !record.is_current || rev != record.couch_rev.as_deref() {
            return Err(Hindrance::Outdated);
        }
        if let (Some(cutoff), Some(modified)) = (self.cutoff, couch.and_then(server_modified_on))
            && modified > cutoff
        {
            let why = "Couch has changed the case since the cut-off of the live migration";
            return Err(refused("C2S-2351", why));
        }
        Ok(plan)
    }

    fn newest(&self, case_id: &str) -> Option<DateTime<Utc>> {
        let of_couch = || {
            let document = self.couch.get(case_id)?.as_ref().ok()?;
            server_modified_on(document)
        };
        self.newest.get(case_id).copied().or_else(of_couch)
    }
}

fn couch_cases(couch: Vec<Fetched>) -> Result<CouchCases, BatchFailure> {
    let mut cases = CouchCases::new();
    for found in couch {
        match found.outcome {
            Outcome::Found(document) => {
                cases.insert(found.id, Ok(document));
            }
            Outcome::Missing | Outcome::Deleted { .. } => {}
            Outcome::Failed(error) if error.kind() == couch::ErrorKind::Document => {
                cases.insert(found.id, Err((error.code().to_owned(), chain(&error))));
            }
            Outcome::Failed(error) => return Err(error.into()),
        }
    }
    Ok(cases)
}

fn server_modified_on(couch: &Value) -> Option<DateTime<Utc>> {
    let text = couch.get("server_modified_on").and_then(Value::as_str)?;
    docdiff::couch_date(text)
}

fn read_entries(diffs: &str) -> Result<Vec<RecordedDiff>, BatchFailure> {
    let unreadable = || BatchFailure::defect("a recorded difference cannot be read");
    let list: Vec<Value> = serde_json::from_str(diffs).map_err(|_| unreadable())?;
    let entries = list.iter().map(RecordedDiff::from_json).collect::<Result<_, _>>();
    entries.map_err(|_| unreadable())
}

fn refusal(record: &RecordToPatch, code: &str, message: String) -> PatchRefusal {
    PatchRefusal {
        doc_id: record.doc_id.clone(),
        kind: record.kind.clone(),
        table: record.table,
        code: code.to_owned(),
        message,
    }
}

/// The id of a patch form: the same for every attempt at the same differences of the same comparison, and another one when
/// the case has been replayed since.
fn form_id(domain: &Domain, record: &RecordToPatch, plan: &PatchPlan) -> String {
    let table = match record.table {
        RecordTable::Diffs => "diffs",
        RecordTable::Changes => "changes",
    };
    let seed = format!(
        "{}\n{}\n{table}\n{}\n{}",
        domain.as_str(),
        record.doc_id,
        record.generation,
        plan.content()
    );
    Uuid::new_v5(&FORM_NAMESPACE, seed.as_bytes()).simple().to_string()
}
