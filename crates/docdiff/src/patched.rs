//! Whether the differences of a case or a ledger are what a patch form has left behind.
//!
//! A *patch form* makes an SQL case or ledger equal to Couch's as far as forms can. What they cannot reach, its `diff` element
//! records ([`PatchRecord`]). When nothing else is left of the differences, the document counts as patched, and has none.
//!
//! Source: `is_case_patched` and `LedgerPatches` of HQ's `casediff.py`, `is_patchable` of its `casepatch.py`.

use std::collections::{BTreeSet, HashSet};

use proto::stock::StockTransactionRow;
use serde_json::{Map, Number, Value};

use crate::diff::{Diff, DiffType, PathElement, Side};
use crate::json::ANY_INDEX;
use crate::python::{equal, is_truthy};

/// `xmlns` of patch forms.
pub const PATCH_XMLNS: &str = "http://commcarehq.org/couch-to-sql/patch-case-diff";

/// The list of a case's forms.
pub(crate) const XFORM_IDS: &str = "xform_ids";

/// First elements of paths that no form can change as the migration would need it.
const UNPATCHABLE: [&str; 11] = [
    "closed_by",
    "closed_on",
    "deleted_on",
    "deletion_id",
    "external_id",
    "modified_by",
    "modified_on",
    "opened_by",
    "opened_on",
    "server_modified_on",
    XFORM_IDS,
];

/// What a patch form recorded. Early ones recorded nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PatchRecord {
    case_id: String,
    diffs: Vec<Value>,
    ledgers: Map<String, Value>,
}

impl PatchRecord {
    /// From the form's JSON. The text of the `diff` element is escaped once more than XML asks for.
    pub fn of_form(body: &Value) -> Self {
        let text = body.get("diff").and_then(Value::as_str).unwrap_or_default();
        let text = text.replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&");
        let Ok(Value::Object(mut said)) = serde_json::from_str(&text) else {
            return Self::default();
        };
        Self {
            case_id: said
                .get("case_id")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            diffs: said.get_mut("diffs").map_or_else(Vec::new, entries),
            ledgers: match said.remove("ledgers") {
                Some(Value::Object(ledgers)) => ledgers,
                _ => Map::new(),
            },
        }
    }

    /// Entries of the case itself.
    pub fn diffs(&self) -> &[Value] {
        &self.diffs
    }

    /// Lists of entries, by ledger.
    pub const fn ledgers(&self) -> &Map<String, Value> {
        &self.ledgers
    }
}

fn entries(list: &mut Value) -> Vec<Value> {
    match list.take() {
        Value::Array(entries) => entries,
        _ => Vec::new(),
    }
}

/// Whether a form could make the difference of a case go away.
pub fn is_patchable(diff: &Diff) -> bool {
    let first = match diff.path.first() {
        Some(PathElement::Key(name)) => name.as_ref(),
        _ => "",
    };
    // Nothing opens a closed case again.
    let reopens = diff.path == [PathElement::key("closed")]
        && !diff.old.as_value().is_some_and(is_truthy)
        && diff.new.as_value().is_some_and(is_truthy);
    !UNPATCHABLE.contains(&first) && !reopens
}

/// The forms that only SQL knows of the case, among which the patch forms are, in the order in which they are looked
/// through. `None`: something is left that a patch form would not have left, or SQL has no such form.
pub fn possible_patch_forms(diffs: &[Diff]) -> Option<Vec<&str>> {
    let extra = diffs.iter().find(|diff| is_xform_ids(diff))?;
    let form_ids = extra
        .new
        .as_value()
        .and_then(Value::as_str)
        .filter(|ids| !ids.is_empty())?;
    let leftovers: Vec<&Diff> = diffs.iter().filter(|diff| !is_xform_ids(diff)).collect();
    let distinct = |diff: &&Diff| leftovers.iter().filter(|other| other.path == diff.path).count() == 1;
    (leftovers.iter().all(|diff| is_leftover(diff)) && leftovers.iter().all(distinct))
        .then(|| form_ids.rsplit(',').collect())
}

/// Whether the patch forms, each with its id and in the order of [`possible_patch_forms`], account for all differences of
/// the case. At least one must be there. Beside the patch forms themselves, only such forms may stand on one side alone as
/// one of them recorded.
pub fn is_case_patched(case_id: &str, diffs: &[Diff], patches: &[(String, PatchRecord)]) -> bool {
    if possible_patch_forms(diffs).is_none() {
        return false;
    }
    let ours: HashSet<&str> = patches.iter().map(|(form_id, _)| form_id.as_str()).collect();
    let of_case = || {
        patches
            .iter()
            .map(|(_, patch)| patch)
            .filter(|patch| patch.case_id == case_id)
    };
    let one_sided = OneSided::of_diffs(diffs, &ours);
    if !one_sided.is_empty() && !of_case().any(|patch| one_sided == OneSided::recorded(&patch.diffs, &ours)) {
        return false;
    }
    let mut left: Vec<&Diff> = diffs.iter().filter(|diff| !is_xform_ids(diff)).collect();
    patches.iter().any(|(_, patch)| {
        if patch.case_id == case_id {
            left.retain(|diff| !is_recorded(&patch.diffs, diff, is_patchable(diff), None));
        }
        left.is_empty()
    })
}

/// Forms that only one side lists of a case, patch forms left out.
#[derive(Debug, Default, PartialEq, Eq)]
struct OneSided<'a> {
    couch: BTreeSet<&'a str>,
    sql: BTreeSet<&'a str>,
}

impl<'a> OneSided<'a> {
    fn new(couch: Option<&'a Value>, sql: Option<&'a Value>, ours: &HashSet<&str>) -> Self {
        let ids = |side: Option<&'a Value>| {
            let text = side.and_then(Value::as_str).unwrap_or_default();
            text.split(',')
                .filter(|id| !id.is_empty() && !ours.contains(id))
                .collect()
        };
        Self {
            couch: ids(couch),
            sql: ids(sql),
        }
    }

    fn of_diffs(diffs: &'a [Diff], ours: &HashSet<&str>) -> Self {
        diffs
            .iter()
            .find(|diff| is_xform_ids(diff))
            .map_or_else(Self::default, |diff| {
                Self::new(diff.old.as_value(), diff.new.as_value(), ours)
            })
    }

    fn recorded(entries: &'a [Value], ours: &HashSet<&str>) -> Self {
        let path = serde_json::json!([XFORM_IDS, ANY_INDEX]);
        let entry = entries.iter().find(|entry| entry.get("path") == Some(&path));
        entry.map_or_else(Self::default, |entry| {
            Self::new(entry.get("old"), entry.get("new"), ours)
        })
    }

    fn is_empty(&self) -> bool {
        self.couch.is_empty() && self.sql.is_empty()
    }
}

fn is_xform_ids(diff: &Diff) -> bool {
    diff.diff_type == DiffType::SetMismatch && diff.path == [PathElement::key(XFORM_IDS), PathElement::key(ANY_INDEX)]
}

/// What a patch form leaves behind: what no form can change, and a property that Couch lacks, or has null for, and that a
/// form can only make empty.
fn is_leftover(diff: &Diff) -> bool {
    let is_nothing = diff.old.as_value().is_none_or(Value::is_null);
    !is_patchable(diff) || (is_nothing && diff.new == Side::text(""))
}

/// What the check of a ledger must know beside its differences.
#[derive(Clone, Copy, Debug)]
pub struct LedgerFacts<'a> {
    /// The ledger, as `case/section/entry`.
    pub ledger: &'a str,
    /// HQ has a stock state of it, shown or archived.
    pub has_state: bool,
    /// HQ's stock transactions of it, the oldest first.
    pub transactions: &'a [StockTransactionRow],
}

/// Whether the patch forms of the case, each with its id and the newest first, account for all differences of the ledger.
pub fn is_ledger_patched(diffs: &[Diff], facts: &LedgerFacts<'_>, patches: &[(String, PatchRecord)]) -> bool {
    if diffs.iter().any(|diff| is_ledger_patchable(diff, facts.has_state)) {
        return false;
    }
    let transactions = transactions_json(facts.transactions);
    let mut left: Vec<&Diff> = diffs.iter().collect();
    patches.iter().any(|(form_id, patch)| {
        let by_patch = |diff: &&Diff| is_at(diff, "last_modified_form_id") && diff.new == Side::text(form_id.as_str());
        if left.iter().any(by_patch) {
            left.retain(|diff| !is_at(diff, "last_modified_form_id") && !is_at(diff, "last_modified"));
        }
        if let Some(Value::Array(recorded)) = patch.ledgers.get(facts.ledger) {
            left.retain(|diff| {
                let transactions = is_at(diff, "balance").then_some(&transactions);
                !is_recorded(recorded, diff, false, transactions)
            });
        }
        left.is_empty()
    })
}

pub(crate) fn is_ledger_patchable(diff: &Diff, has_state: bool) -> bool {
    let has_keys = |side: &Side, keys: &[&str]| {
        let object = side.as_value().and_then(Value::as_object);
        object.is_some_and(|object| object.len() == keys.len() && keys.iter().all(|key| object.contains_key(*key)))
    };
    let is_missing_in_couch = diff.diff_type == DiffType::Missing
        && is_at(diff, "*")
        && has_keys(&diff.old, &["form_state"])
        && has_keys(&diff.new, &["form_state", "ledger"]);
    let has_no_state = is_at(diff, "balance") && !has_state;
    !(is_at(diff, "last_modified") || is_at(diff, "last_modified_form_id") || is_missing_in_couch || has_no_state)
}

fn is_at(diff: &Diff, name: &'static str) -> bool {
    diff.path == [PathElement::key(name)]
}

/// Whether a patch form recorded this difference: the same path and Couch value. What SQL had may have changed since, and
/// the reason says nothing.
fn is_recorded(entries: &[Value], diff: &Diff, is_patchable: bool, transactions: Option<&Value>) -> bool {
    entries.iter().filter_map(Value::as_object).any(|entry| {
        let same = |key: &str, expected: Option<&Value>| match (entry.get(key), expected) {
            (None, None) => true,
            (Some(found), Some(expected)) => equal(found, expected),
            _ => false,
        };
        let stored = diff.to_json();
        let known = ["path", "patch", "old", "new", "reason", "couch_transactions"];
        entry.keys().all(|key| known.contains(&key.as_str()))
            && same("path", stored.get("path"))
            && entry.get("patch") == Some(&Value::Bool(is_patchable))
            && same("old", diff.old.as_value())
            && entry.contains_key("new") == diff.new.as_value().is_some()
            && same("couch_transactions", transactions)
    })
}

pub(crate) fn transactions_json(transactions: &[StockTransactionRow]) -> Value {
    let json = |row: &StockTransactionRow| {
        serde_json::json!({
            "form_id": row.form_id,
            "type": row.kind,
            "delta": row.quantity.as_deref().map(number),
            "balance": number(&row.stock_on_hand),
        })
    };
    transactions.iter().map(json).collect()
}

/// A decimal number as a patch form writes it: whole, or as a float.
fn number(decimal: &str) -> Value {
    let (whole, fraction) = decimal.split_once('.').unwrap_or((decimal, ""));
    if fraction.bytes().all(|digit| digit == b'0')
        && let Ok(whole) = whole.parse::<i64>()
    {
        return Value::from(whole);
    }
    let float = decimal.parse::<f64>().ok().and_then(Number::from_f64);
    float.map_or_else(|| Value::from(decimal), Value::Number)
}
