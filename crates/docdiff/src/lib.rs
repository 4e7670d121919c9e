//! Whether a document in SQL says the same as the one in Couch.
//!
//! Both sides are compared as JSON: the Couch document as it is, the SQL document as HQ would show it ([`sqljson`]). A
//! plain comparison ([`json_diff`]) finds every difference; a table of rules ([`rules`]) then drops those that mean
//! nothing, or replaces several by one that says it better. What is left is reported to the operator, and keeps the domain
//! from being switched over:
//!
//! ```text
//!   Couch JSON --+
//!                +--> compare, key by key --> rules of the doc type, then of its group --> diffs
//!   SQL JSON ----+
//! ```
//!
//! Comparison and types are Python's, since HQ's tools and the diffs that operators know come from there: `1`, `1.0` and
//! `true` are equal, `1` and `1.5` differ in type.

mod cases;
mod datetime;
mod diff;
mod filter;
mod json;
mod ledgers;
mod operator_rules;
mod patch;
mod patched;
mod python;
mod reason;
mod record;
pub mod rules;
mod second_chance;
pub mod sqljson;

use std::collections::HashSet;

use serde_json::Value;

pub use cases::{
    AbsentFrom, FormInCase, FormState, form_check, missing_document, missing_with_forms, reason_of_absence,
};
pub use datetime::{couch_date, is_datetime_text};
pub use diff::{Diff, DiffJsonError, DiffType, PathElement, Side};
pub use json::{ANY_INDEX, ListIndices, json_diff};
pub use ledgers::{
    CaseLedgers, DifferenceKind, LastChange, LedgerDifference, LedgerReferences, LedgerVerdict, compare_ledgers,
    has_duplicates,
};
pub use operator_rules::{OperatorRule, OperatorRules, RuleFault, SortedOut};
pub use patch::{
    CannotPatch, DirectPatch, LedgerStock, PATCH_DEVICE, PATCH_OPERATION, PatchEffect, PatchPlan, PatchSubject,
    plan_patch,
};
pub use patched::{
    LedgerFacts, PATCH_XMLNS, PatchRecord, is_case_patched, is_ledger_patched, is_patchable, possible_patch_forms,
};
pub use reason::ChangeReason;
pub use record::{LEDGER_KIND, RecordedDiff};
pub use second_chance::{forms_in_doubt, forms_of_sql_ledgers, is_only_in_sql};

use filter::Filter;
use rules::{Group, RuleBook};

/// A document of a type that has no rules, and is never compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("documents of type {0:?} are not compared")]
pub struct UnknownDocType(pub String);

/// Compares a form. A form that SQL lacks is compared with an empty object.
///
/// # Errors
/// [`UnknownDocType`] when the Couch document is no form, or a submission error log.
pub fn diff_form(couch: &Value, sql: &Value) -> Result<Vec<Diff>, UnknownDocType> {
    diff_document(RuleBook::standard(), Group::Forms, couch, sql)
}

/// Compares a case. Forms in `no_action_forms` may be missing in the Couch case's `xform_ids`: Couch did not record forms
/// whose block for the case had no part.
///
/// # Errors
/// [`UnknownDocType`] when the Couch document is no case.
pub fn diff_case(couch: &Value, sql: &Value, no_action_forms: &HashSet<String>) -> Result<Vec<Diff>, UnknownDocType> {
    let diffs = diff_document(RuleBook::standard(), Group::Cases, couch, sql)?;
    Ok(cases::without_no_action_forms(diffs, no_action_forms))
}

/// Compares a ledger value.
pub fn diff_ledger(couch: &Value, sql: &Value) -> Vec<Diff> {
    diff_ledger_by(RuleBook::standard(), couch, sql)
}

/// Runs stored diffs of a form through the rules again, with the present documents.
///
/// # Errors
/// [`UnknownDocType`] as for [`diff_form`].
pub fn refilter_form(couch: &Value, sql: &Value, diffs: &[Diff]) -> Result<Vec<Diff>, UnknownDocType> {
    refilter(RuleBook::standard(), Group::Forms, couch, sql, diffs)
}

/// Runs stored diffs of a case through the rules again, with the present documents.
///
/// # Errors
/// [`UnknownDocType`] as for [`diff_case`].
pub fn refilter_case(couch: &Value, sql: &Value, diffs: &[Diff]) -> Result<Vec<Diff>, UnknownDocType> {
    refilter(RuleBook::standard(), Group::Cases, couch, sql, diffs)
}

/// Runs stored diffs of a ledger value through the rules again.
pub fn refilter_ledger(diffs: &[Diff]) -> Vec<Diff> {
    let book = RuleBook::standard();
    let mut filter = Filter::new(book, book.ledgers(), None, None);
    take_stored(&mut filter, diffs);
    filter.into_diffs()
}

fn diff_ledger_by(book: &RuleBook, couch: &Value, sql: &Value) -> Vec<Diff> {
    let mut filter = Filter::new(book, book.ledgers(), None, None);
    json::walk(couch, sql, ListIndices::Untracked, &mut |found| filter.take(found));
    filter.into_diffs()
}

fn diff_document(book: &RuleBook, group: Group, couch: &Value, sql: &Value) -> Result<Vec<Diff>, UnknownDocType> {
    let rules = book.of_document(group, couch)?;
    let mut filter = Filter::new(book, rules, couch.as_object(), sql.as_object());
    json::walk_except(couch, sql, rules.dropped_whole(), &mut |found| filter.take(found));
    Ok(filter.into_diffs())
}

fn refilter(
    book: &RuleBook,
    group: Group,
    couch: &Value,
    sql: &Value,
    diffs: &[Diff],
) -> Result<Vec<Diff>, UnknownDocType> {
    let rules = book.of_document(group, couch)?;
    let mut filter = Filter::new(book, rules, couch.as_object(), sql.as_object());
    take_stored(&mut filter, diffs);
    Ok(filter.into_diffs())
}

fn take_stored(filter: &mut Filter<'_>, diffs: &[Diff]) {
    for diff in diffs {
        let path: Vec<json::Step<'_>> = diff.path.iter().map(json::Step::of).collect();
        filter.take(&json::Found {
            diff_type: diff.diff_type,
            path: &path,
            old: diff.old.as_value(),
            new: diff.new.as_value(),
        });
    }
}
