//! Patch forms: what would have to be submitted to make an SQL case say what the Couch case says.
//!
//! ```text
//!   recorded differences + Couch case + HQ's stock --plan--> PatchPlan --xml(form id, time)--> form.xml
//!                                                  `--> CannotPatch, with which difference and why
//! ```
//!
//! A plan holds one case block, a `balance` for each ledger that a form can set, and the `diff` element, which records
//! every difference with both values: what was patched, and what could not be ([`crate::PatchRecord`] reads it back).
//! What a form cannot carry at all but a ledger can be given directly is listed apart ([`DirectPatch`]).
//!
//! Source: HQ's `casepatch.py`, and its general writer of case blocks (`casexml/apps/case/xml/generator.py`).

mod block;
mod ledgers;
mod record;
mod xml;

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use chrono::{DateTime, Utc};
use proto::stock::StockTransactionRow;
use serde_json::{Map, Value};

use crate::diff::{Diff, DiffType, PathElement, Side};
use crate::json::ANY_INDEX;
use crate::patched::XFORM_IDS;
use crate::record::RecordedDiff;

pub(crate) use crate::patched::PATCH_XMLNS;

/// `deviceID` of patch forms.
pub const PATCH_DEVICE: &str = "couch-to-sql/patch-case-diff";
/// The operation that stands in a patch form's history.
pub const PATCH_OPERATION: &str = "Couch to SQL case patch";

/// What HQ's stock tables say of a ledger that has recorded differences.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LedgerStock {
    /// When its stock state, shown or archived, was changed last; none if there is no state.
    pub state_changed: Option<DateTime<Utc>>,
    /// Its stock transactions, the oldest first.
    pub transactions: Vec<StockTransactionRow>,
}

/// What a patch is planned from.
#[derive(Clone, Copy, Debug)]
pub struct PatchSubject<'a> {
    /// Domain that is migrated.
    pub domain: &'a str,
    /// The Couch case, if it is there.
    pub couch: Option<&'a Value>,
    /// Its recorded differences, those of its ledgers included.
    pub records: &'a [RecordedDiff],
    /// Stock of the ledgers among them, by `case/section/entry`.
    pub stock: &'a HashMap<String, LedgerStock>,
}

/// A change of a ledger that no form can carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectPatch {
    /// The ledger, as `case/section/entry`.
    pub ledger: String,
    /// Its daily consumption, a decimal number as text.
    pub daily_consumption: String,
}

/// What a patch form does to its case, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatchEffect {
    /// Makes the case.
    Create,
    /// Writes these properties.
    Update(Vec<String>),
    /// Sets an index.
    SetIndex(String),
    /// Removes an index.
    RemoveIndex(String),
    /// Closes the case.
    Close,
    /// Sets the balance of a ledger.
    SetBalance {
        /// The ledger.
        ledger: String,
        /// The balance.
        quantity: String,
    },
    /// Sets the daily consumption of a ledger beside the form.
    SetConsumption(String),
    /// Records differences that nothing can change, at these paths.
    RecordOnly(Vec<String>),
}

impl fmt::Display for PatchEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create => f.write_str("creates the case"),
            Self::Update(names) => write!(f, "updates {}", names.join(", ")),
            Self::SetIndex(name) => write!(f, "sets the index {name}"),
            Self::RemoveIndex(name) => write!(f, "removes the index {name}"),
            Self::Close => f.write_str("closes the case"),
            Self::SetBalance { ledger, quantity } => write!(f, "sets the balance of {ledger} to {quantity}"),
            Self::SetConsumption(ledger) => write!(f, "sets the daily consumption of {ledger}"),
            Self::RecordOnly(paths) => write!(f, "records without patching: {}", paths.join(", ")),
        }
    }
}

/// A patch form that has neither id nor time yet.
#[derive(Clone, Debug, PartialEq)]
pub struct PatchPlan {
    /// The case.
    pub case_id: String,
    /// The Couch case's user, who counts as the form's.
    pub user_id: String,
    /// What it does.
    pub effects: Vec<PatchEffect>,
    /// What is to be done beside it.
    pub direct: Vec<DirectPatch>,
    /// The elements in the form's body.
    body: String,
}

impl PatchPlan {
    /// The elements that it puts into the form: all of it that depends on the case. Two plans with the same content are
    /// the same patch.
    pub fn content(&self) -> &str {
        &self.body
    }

    /// The form's XML.
    pub fn xml(&self, form_id: &str, time: DateTime<Utc>) -> String {
        xml::form(self, form_id, time)
    }
}

/// Why a record cannot be patched. Names and paths are told, values are not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotPatch {
    /// Couch does not have the case.
    #[error("Couch does not have the case")]
    NoCouchCase,
    /// The Couch case belongs to another domain.
    #[error("the Couch case belongs to another domain")]
    OtherDomain,
    /// Nothing is recorded.
    #[error("no difference is on record")]
    Nothing,
    /// A difference that forbids any patch.
    #[error("{0}: a case with this difference is not patched")]
    Illegal(String),
    /// What Couch has there is no text, or not a property of the case itself.
    #[error("{0}: a form can only set whole properties, and to texts")]
    Value(String),
    /// An update does not set a property of that name.
    #[error("{0}: an update does not write a property of this name")]
    Reserved(String),
    /// An index that differs in a way that no single entry mends.
    #[error("{0}: an index can be set or removed, not changed in part")]
    Index(String),
    /// A difference of a ledger that neither a form nor a correction mends.
    #[error("ledger {ledger}, {path}: neither a form nor a correction of the ledger mends it")]
    Ledger {
        /// The ledger.
        ledger: String,
        /// Where.
        path: String,
    },
    /// A name or a text that XML cannot hold.
    #[error("{0}: XML cannot hold its name or its value")]
    Unwritable(String),
}

impl CannotPatch {
    /// Stable code, with a page in `docs/errors.md`.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoCouchCase => "C2S-2340",
            Self::OtherDomain => "C2S-2341",
            Self::Nothing => "C2S-2342",
            Self::Illegal(_) => "C2S-2343",
            Self::Value(_) => "C2S-2344",
            Self::Reserved(_) => "C2S-2345",
            Self::Index(_) => "C2S-2346",
            Self::Ledger { .. } => "C2S-2347",
            Self::Unwritable(_) => "C2S-2348",
        }
    }
}

/// Plans the patch of a case.
///
/// # Errors
/// Which difference stands against it, and why.
pub fn plan_patch(subject: &PatchSubject<'_>) -> Result<PatchPlan, CannotPatch> {
    let couch = subject
        .couch
        .and_then(Value::as_object)
        .ok_or(CannotPatch::NoCouchCase)?;
    let text = |key: &str| couch.get(key).and_then(Value::as_str);
    if text("domain") != Some(subject.domain) {
        return Err(CannotPatch::OtherDomain);
    }
    let case_id = text("_id").ok_or(CannotPatch::NoCouchCase)?;
    let of_case: Vec<&RecordedDiff> = subject
        .records
        .iter()
        .filter(|record| record.ledger.is_none())
        .collect();
    let of_ledgers: Vec<&RecordedDiff> = subject
        .records
        .iter()
        .filter(|record| record.ledger.is_some())
        .collect();
    if of_case.is_empty() && of_ledgers.is_empty() {
        return Err(CannotPatch::Nothing);
    }
    let diffs: Vec<&Diff> = of_case.iter().map(|record| &record.diff).collect();
    let mut block = block::plan(couch, &diffs)?;
    let ledgers = ledgers::plan(&of_ledgers, subject.stock)?;
    let mut body = xml::case_block(case_id, couch, &block)?;
    for balance in &ledgers.balances {
        body.push_str(&xml::balance(case_id, balance)?);
    }
    let unmet = block.creates.then(|| forms_of_couch_only(couch)).flatten();
    let recorded: Vec<&RecordedDiff> = of_case.iter().copied().chain(unmet.as_ref()).collect();
    body.push_str(&record::element(case_id, &recorded, &of_ledgers, subject.stock));
    let mut effects = std::mem::take(&mut block.effects);
    effects.extend(ledgers.effects);
    let unpatched: Vec<String> = record::unpatched(subject.records, subject.stock);
    if !unpatched.is_empty() {
        effects.push(PatchEffect::RecordOnly(unpatched));
    }
    Ok(PatchPlan {
        case_id: case_id.to_owned(),
        user_id: text("user_id").unwrap_or_default().to_owned(),
        effects,
        direct: ledgers.direct,
        body,
    })
}

/// What the comparison of a case that SQL lacks would have said of its forms: only Couch lists them. Later comparisons hold
/// theirs against it, so that a form that comes to one side alone after the patch shows.
fn forms_of_couch_only(couch: &Map<String, Value>) -> Option<RecordedDiff> {
    let listed = couch.get(XFORM_IDS).and_then(Value::as_array)?;
    let listed: BTreeSet<&str> = listed.iter().filter_map(Value::as_str).collect();
    let listed = listed.into_iter().collect::<Vec<_>>().join(",");
    let diff = Diff {
        diff_type: DiffType::SetMismatch,
        path: vec![PathElement::key(XFORM_IDS), PathElement::key(ANY_INDEX)],
        old: Side::text(listed.as_str()),
        new: Side::text(""),
    };
    (!listed.is_empty()).then(|| RecordedDiff::of_case(diff, None))
}
