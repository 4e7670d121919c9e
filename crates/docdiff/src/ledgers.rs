//! The ledgers of a case: what HQ's stock tables say against what SQL says.
//!
//! ```text
//!   stock state, or the latest stock transaction --as JSON--+
//!                                                           +--> compare --> judge --> diffs, or changes with a reason
//!   SQL ledger value -------------------------------as JSON-+
//! ```
//!
//! [`compare_ledgers`] finds the differences; what they mean depends on facts that are looked up only then
//! ([`LedgerDifference::form_id`], [`has_duplicates`]), and [`LedgerDifference::judge`] says it.

mod json;
mod references;

use std::collections::HashMap;

use proto::rows::LedgerValueRow;
use proto::stock::{LedgerRef, StockStateRow, StockTransactionRow};
use serde_json::{Map, Value};

use crate::cases::FormState;
use crate::diff::{Diff, DiffType, PathElement, Side};
use crate::operator_rules::OperatorRules;
use crate::reason::ChangeReason;
use crate::record::{LEDGER_KIND, RecordedDiff};

pub use references::{LedgerReferences, has_duplicates};

/// What both sides know of the ledgers of one case. All rows are of this case.
#[derive(Clone, Copy, Debug)]
pub struct CaseLedgers<'a> {
    /// The case.
    pub case_id: &'a str,
    /// Domain of the Couch case: that of its stock states where no other is on record.
    pub couch_domain: &'a str,
    /// Domain of the SQL case.
    pub sql_domain: &'a str,
    /// Domains of the ledger values that have another one than their case.
    pub foreign: &'a HashMap<LedgerRef, String>,
    /// Ledger values of the SQL case.
    pub values: &'a [LedgerValueRow],
    /// Daily consumption of those that have one.
    pub consumptions: &'a HashMap<LedgerRef, String>,
    /// Stock states that HQ shows.
    pub states: &'a [StockStateRow],
    /// The latest stock transaction of each ledger.
    pub latest: &'a [StockTransactionRow],
    /// The location whose supply point the case is.
    pub location_id: Option<&'a str>,
}

/// A ledger on which the sides do not agree.
#[derive(Clone, Debug, PartialEq)]
pub struct LedgerDifference {
    /// Which ledger.
    pub ledger: LedgerRef,
    /// How.
    pub kind: DifferenceKind,
}

/// How the sides disagree on a ledger.
#[derive(Clone, Debug, PartialEq)]
pub enum DifferenceKind {
    /// Both have it, and it differs.
    Values(Vec<Diff>),
    /// SQL has it; Couch has neither a state nor a transaction.
    OnlySql(LastChange),
    /// Couch has a state; SQL has no value.
    OnlyCouch(LastChange),
}

/// A ledger that one side lacks, as the other one shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct LastChange {
    /// Form that changed it last, when that is known.
    pub form_id: Option<String>,
    /// Its JSON.
    pub json: Value,
}

/// Compares the ledgers of a case. Where no state is shown, one is made from the ledger's latest transaction.
pub fn compare_ledgers(case: &CaseLedgers<'_>) -> Vec<LedgerDifference> {
    let states: HashMap<(&str, &str), &StockStateRow> =
        case.states.iter().map(|state| (key(&state.ledger), state)).collect();
    let latest: HashMap<(&str, &str), &StockTransactionRow> =
        case.latest.iter().map(|row| (key(&row.ledger), row)).collect();
    let mut found = Vec::new();
    for value in case.values {
        let at = (value.section_id.as_str(), value.entry_id.as_str());
        let ledger = LedgerRef {
            case_id: case.case_id.to_owned(),
            section_id: value.section_id.clone(),
            entry_id: value.entry_id.clone(),
        };
        let sql = json::of_value(case, &ledger, value);
        let couch = match (states.get(&at), latest.get(&at)) {
            (Some(state), _) => json::of_state(case, state),
            (None, Some(transaction)) => json::of_transaction(case, transaction),
            (None, None) => {
                found.push(LedgerDifference {
                    ledger,
                    kind: DifferenceKind::OnlySql(LastChange {
                        form_id: value.last_modified_form_id.clone(),
                        json: sql,
                    }),
                });
                continue;
            }
        };
        let diffs = crate::diff_ledger(&couch, &sql);
        if !diffs.is_empty() {
            found.push(LedgerDifference {
                ledger,
                kind: DifferenceKind::Values(diffs),
            });
        }
    }
    let is_in_sql = |ledger: &LedgerRef| {
        let mut values = case.values.iter();
        values.any(|value| (value.section_id.as_str(), value.entry_id.as_str()) == key(ledger))
    };
    for state in case.states.iter().filter(|state| !is_in_sql(&state.ledger)) {
        found.push(LedgerDifference {
            ledger: state.ledger.clone(),
            kind: DifferenceKind::OnlyCouch(LastChange {
                form_id: state.last_modified_form_id.clone(),
                json: json::of_state(case, state),
            }),
        });
    }
    found
}

fn key(ledger: &LedgerRef) -> (&str, &str) {
    (&ledger.section_id, &ledger.entry_id)
}

/// What is on record for a ledger: diffs, or changes when there is a reason.
#[derive(Clone, Debug, PartialEq)]
pub struct LedgerVerdict {
    /// Which ledger.
    pub ledger: LedgerRef,
    /// The differences.
    pub diffs: Vec<Diff>,
    /// Why they are expected.
    pub reason: Option<ChangeReason>,
}

impl LedgerVerdict {
    /// What no rule of operators drops of it, and what one does. Whether the ledger is patched is asked of the former.
    pub fn by_rules(self, rules: &OperatorRules) -> (Self, Self) {
        let Self { ledger, diffs, reason } = self;
        let with = |diffs| Self {
            ledger: ledger.clone(),
            diffs,
            reason,
        };
        let (open, dropped) = diffs.into_iter().partition(|diff| !rules.ignores(LEDGER_KIND, diff));
        (with(open), with(dropped))
    }

    /// As they are stored with the case.
    pub fn into_records(self) -> impl Iterator<Item = RecordedDiff> {
        let (ledger, reason) = (self.ledger.to_string(), self.reason);
        self.diffs.into_iter().map(move |diff| RecordedDiff {
            ledger: Some(ledger.clone()),
            ..RecordedDiff::of_case(diff, reason)
        })
    }
}

impl LedgerDifference {
    /// The form whose states in Couch and SQL say what a missing ledger means.
    pub fn form_id(&self) -> Option<&str> {
        match &self.kind {
            DifferenceKind::Values(_) => None,
            DifferenceKind::OnlySql(last) | DifferenceKind::OnlyCouch(last) => last.form_id.as_deref(),
        }
    }

    /// Whether it matters that HQ has applied a form twice.
    pub const fn may_be_duplicate(&self) -> bool {
        matches!(self.kind, DifferenceKind::Values(_))
    }

    /// What the difference means. `form` are the states of [`Self::form_id`] in Couch and in SQL, `duplicates` whether the
    /// ledger [`has_duplicates`].
    pub fn judge(self, form: Option<(FormState, FormState)>, duplicates: bool) -> LedgerVerdict {
        let (diffs, reason) = match self.kind {
            DifferenceKind::Values(diffs) => (diffs, duplicates.then_some(ChangeReason::DuplicateStockTransaction)),
            DifferenceKind::OnlySql(last) => {
                let is_in_couch = form.is_some_and(|(couch, _)| couch == FormState::Present);
                (
                    vec![missing(form, None, Some(last.json))],
                    is_in_couch.then_some(ChangeReason::MissingCouchStockTransaction),
                )
            }
            DifferenceKind::OnlyCouch(last) => (vec![missing(form, Some(last.json), None)], None),
        };
        LedgerVerdict {
            ledger: self.ledger,
            diffs,
            reason,
        }
    }
}

/// The diff of a ledger that one side lacks: the form's state on each side, and the ledger on the side that has it.
fn missing(form: Option<(FormState, FormState)>, couch: Option<Value>, sql: Option<Value>) -> Diff {
    let side = |state: Option<FormState>, ledger: Option<Value>| {
        let mut said = Map::new();
        said.insert(
            "form_state".to_owned(),
            Value::from(state.map_or("unknown", FormState::as_str)),
        );
        if let Some(ledger) = ledger {
            said.insert("ledger".to_owned(), ledger);
        }
        Side::Value(Value::Object(said))
    };
    Diff {
        diff_type: DiffType::Missing,
        path: vec![PathElement::key("*")],
        old: side(form.map(|(couch, _)| couch), couch),
        new: side(form.map(|(_, sql)| sql), sql),
    }
}
