//! The ledgers of a batch of cases: reads HQ's stock tables, and looks up what the differences mean.

use std::collections::{HashMap, HashSet};

use docdiff::{
    CaseLedgers, DifferenceKind, LedgerDifference, LedgerVerdict, RecordedDiff, compare_ledgers, has_duplicates,
};
use hqsql::StockStates;
use proto::ids::Domain;
use proto::rows::CaseBundle;
use proto::stock::{LedgerRef, StockStateRow, StockTransactionRow};
use serde_json::Value;
use service::worker::BatchFailure;

use crate::DiffHandler;
use crate::patches::Patches;
use crate::sides::{Sides, domain_of};

/// Ledger differences of a batch, by case, before it is known what they mean.
pub(crate) type Differences = HashMap<String, Vec<LedgerDifference>>;

/// What HQ's stock tables and SQL say of the ledgers of some cases.
struct Stock {
    states: HashMap<String, Vec<StockStateRow>>,
    latest: HashMap<String, Vec<StockTransactionRow>>,
    locations: HashMap<String, String>,
    consumptions: HashMap<LedgerRef, String>,
    foreign: HashMap<LedgerRef, String>,
}

impl DiffHandler {
    /// Compares the ledgers of the cases that Couch has. `couch_stock`: HQ has stock of the domain; without, only cases
    /// with ledgers in SQL are looked at, and a batch without any reads nothing.
    ///
    /// The stock tables have no revision. They are read after the Couch cases: a form that changes a ledger also adds an
    /// action to the case, so that a state newer than the case shows in the case's `_rev` later.
    pub(crate) async fn compare_ledgers(
        &self,
        domain: &Domain,
        couch_stock: bool,
        couch: &HashMap<String, Value>,
        sql: &HashMap<String, CaseBundle>,
    ) -> Result<Differences, BatchFailure> {
        let case_ids: Vec<String> = couch
            .iter()
            .filter(|(case_id, document)| {
                let bundle = sql.get(*case_id);
                domain_of(document) == domain.as_str()
                    && bundle.is_none_or(|bundle| bundle.case.domain == domain.as_str())
                    && (couch_stock || bundle.is_some_and(|bundle| !bundle.ledger_values.is_empty()))
            })
            .map(|(case_id, _)| case_id.clone())
            .collect();
        if case_ids.is_empty() {
            return Ok(Differences::new());
        }
        let stock = self.read_stock(&case_ids, sql).await?;
        let mut found = Differences::new();
        for case_id in case_ids {
            let bundle = sql.get(&case_id);
            let differences = compare_ledgers(&CaseLedgers {
                case_id: &case_id,
                couch_domain: couch.get(&case_id).map_or("", domain_of),
                sql_domain: domain.as_str(),
                foreign: &stock.foreign,
                values: bundle.map_or(&[], |bundle| &bundle.ledger_values),
                consumptions: &stock.consumptions,
                states: stock.states.get(&case_id).map_or(&[], Vec::as_slice),
                latest: stock.latest.get(&case_id).map_or(&[], Vec::as_slice),
                location_id: stock.locations.get(&case_id).map(String::as_str),
            });
            if !differences.is_empty() {
                found.insert(case_id, differences);
            }
        }
        Ok(found)
    }

    async fn read_stock(&self, case_ids: &[String], sql: &HashMap<String, CaseBundle>) -> Result<Stock, BatchFailure> {
        let states = self.target.stock_states(case_ids, StockStates::Shown).await?;
        let shown: HashSet<(&str, &str, &str)> = states.iter().map(|state| key(&state.ledger)).collect();
        // Cases with a ledger in SQL, and those of them where a transaction must stand in for a state.
        let (mut with_values, mut without_state) = (Vec::new(), Vec::new());
        for case_id in case_ids {
            let values = sql.get(case_id).map_or(&[][..], |bundle| &bundle.ledger_values);
            if values.is_empty() {
                continue;
            }
            with_values.push(case_id.clone());
            let is_shown = |section_id: &str, entry_id: &str| shown.contains(&(case_id.as_str(), section_id, entry_id));
            if values.iter().any(|value| !is_shown(&value.section_id, &value.entry_id)) {
                without_state.push(case_id.clone());
            }
        }
        let (latest, locations, consumptions, foreign) = tokio::join!(
            self.target.latest_stock_transactions(&without_state),
            self.target.supply_point_locations(&with_values),
            self.target.daily_consumptions(&with_values),
            self.target.foreign_ledgers(&with_values),
        );
        Ok(Stock {
            states: by_case(states, |state| &state.ledger),
            latest: by_case(latest?, |transaction| &transaction.ledger),
            locations: locations?,
            consumptions: consumptions?,
            foreign: foreign?,
        })
    }

    /// What the differences are recorded as: diffs and changes of each case. Of ledgers that a patch form has brought as
    /// far as it could, nothing is but what rules of operators drop.
    pub(crate) async fn judge_ledgers(
        &self,
        sides: &Sides,
        differences: Differences,
        patches: &Patches,
    ) -> Result<HashMap<String, Vec<RecordedDiff>>, BatchFailure> {
        let last_forms = differences.values().flatten();
        let last_forms = last_forms.filter_map(|found| found.form_id().map(str::to_owned));
        let forms = self.look_up_forms(last_forms.collect()).await?;
        let suspects: HashSet<&LedgerRef> = differences
            .values()
            .flatten()
            .filter(|found| found.may_be_duplicate())
            .map(|found| &found.ledger)
            .collect();
        let mut case_ids: Vec<String> = suspects.iter().map(|ledger| ledger.case_id.clone()).collect();
        case_ids.sort_unstable();
        case_ids.dedup();
        let mut repeated = self.target.repeated_stock_reports(&case_ids).await?;
        repeated.retain(|report| suspects.contains(&report.ledger));
        let form_ids: HashSet<String> = repeated.iter().map(|report| report.form_id.clone()).collect();
        let references = if form_ids.is_empty() {
            HashMap::new()
        } else {
            self.ledger_references(&sides.domain, form_ids).await?
        };
        Ok(differences
            .into_iter()
            .map(|(case_id, differences)| {
                let records = differences.into_iter().flat_map(|found| {
                    let form = found.form_id().map(|form_id| forms.states(form_id));
                    let duplicates = found.may_be_duplicate() && has_duplicates(&found.ledger, &repeated, &references);
                    let may_be_patched = !matches!(found.kind, DifferenceKind::OnlyCouch(_));
                    let verdict = found.judge(form, duplicates);
                    if may_be_patched && patches.account_for_ledger(&verdict) {
                        return Vec::new();
                    }
                    let (open, dropped) = verdict.by_rules(&sides.rules);
                    let is_patched = may_be_patched && !open.diffs.is_empty() && patches.account_for_ledger(&open);
                    let open = (!is_patched).then_some(open);
                    open.into_iter()
                        .chain([dropped])
                        .flat_map(LedgerVerdict::into_records)
                        .collect()
                });
                (case_id, records.collect())
            })
            .collect())
    }
}

fn key(ledger: &LedgerRef) -> (&str, &str, &str) {
    (&ledger.case_id, &ledger.section_id, &ledger.entry_id)
}

fn by_case<T>(rows: Vec<T>, ledger: fn(&T) -> &LedgerRef) -> HashMap<String, Vec<T>> {
    let mut cases: HashMap<String, Vec<T>> = HashMap::new();
    for row in rows {
        cases.entry(ledger(&row).case_id.clone()).or_default().push(row);
    }
    cases
}
