//! `couch_sql_diff DOMAIN filter`: runs recorded differences through the present ignore rules, and stores what gets shorter.

use std::collections::{HashMap, HashSet};

use couch::{ErrorKind, Fetched, Outcome};
use docdiff::{Diff, OperatorRules, RecordedDiff, SortedOut};
use proto::ids::Domain;
use serde_json::{Map, Value, json};
use service::operator_rules;
use state::operator_rules::Ignored;
use state::records::Shorter;
use state::records::{DiffRecord, RecordTable};

use super::cases::may_compare;
use super::select::{Parts, Selection};
use super::show::go_on;
use super::shown::entries;
use crate::commands::migration_of;
use crate::commands::output::say;
use crate::context::Context;
use crate::failure::{Exit, Result};

/// Records whose documents are read at once.
const AT_ONCE: usize = 100;
/// Bytes of Couch documents in memory at once, as JSON text; one above it is read alone.
const READ_BYTES: usize = 8 * 1024 * 1024;

/// What is to be filtered.
#[derive(Clone, Debug)]
pub struct FilterOrder {
    /// Diffs or changes.
    pub table: RecordTable,
    /// Of which documents.
    pub selection: Selection,
    /// Documents at a time.
    pub batch: i64,
    /// Only say what would be stored.
    pub dry_run: bool,
    /// In a dry run: ask after each batch.
    pub ask: bool,
}

/// Filters records.
///
/// # Errors
/// The refusal, or what went wrong; what was stored stays.
pub async fn filter(context: &Context, domain: &Domain, order: &FilterOrder) -> Result<Exit> {
    may_compare(context, domain).await?;
    let migration = migration_of(context, domain).await?;
    let rules = operator_rules::of_domain(&context.state, migration.id).await?;
    let what = match order.table {
        RecordTable::Diffs => "diffs",
        RecordTable::Changes => "changes",
    };
    if !order.dry_run {
        context
            .state
            .audit(domain, &context.operator, "couch_sql_diff filter", &json!({"of": what}))
            .await?;
    }
    let mut after: Option<(String, String)> = None;
    let (mut looked_at, mut shorter, mut emptied) = (0_usize, 0_usize, 0_usize);
    loop {
        let place = after.as_ref().map(|(kind, id)| (kind.as_str(), id.as_str()));
        let records = context
            .state
            .records_after(migration.id, order.table, &order.selection.filter, place, order.batch)
            .await?;
        let Some(last) = records.last() else { break };
        after = Some((last.kind.clone(), last.doc_id.clone()));
        looked_at += records.len();
        for records in records.chunks(AT_ONCE) {
            let (found, ignored) = filtered(context, &rules, &order.selection.parts, records).await?;
            if order.dry_run {
                for one in &found {
                    say(&format!(
                        "{} {}: {} -> {} {what}",
                        one.kind, one.doc_id, one.before, one.after
                    ))?;
                }
                shorter += found.len();
                emptied += found.iter().filter(|one| one.after == 0).count();
                continue;
            }
            let gone = found.iter().filter(|one| one.after == 0).count();
            let records: Vec<Shorter> = found.into_iter().map(|one| one.record).collect();
            shorter += context
                .state
                .shorten_records(migration.id, order.table, &records, &ignored)
                .await?;
            emptied += gone;
        }
        if order.dry_run && order.ask && !go_on("go on?") {
            break;
        }
    }
    let would = if order.dry_run { "would get" } else { "got" };
    say(&format!(
        "{looked_at} records looked at, {shorter} {would} shorter, of {emptied} nothing is left"
    ))?;
    Ok(Exit::Clean)
}

/// A record that gets shorter.
struct Found {
    kind: String,
    doc_id: String,
    before: usize,
    after: usize,
    record: Shorter,
}

async fn filtered(
    context: &Context,
    rules: &OperatorRules,
    parts: &Parts,
    records: &[DiffRecord],
) -> Result<(Vec<Found>, Vec<Ignored>)> {
    let (mut shorter, mut ignored) = (Vec::new(), Vec::new());
    let mut ids: Vec<&str> = records.iter().map(|record| record.doc_id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut reader = context.forms_db.bounded_reader(&ids, READ_BYTES);
    while let Some(couch) = reader.next().await? {
        let read: HashSet<&str> = couch.iter().map(|fetched| fetched.id.as_str()).collect();
        let records: Vec<&DiffRecord> = records
            .iter()
            .filter(|record| read.contains(record.doc_id.as_str()))
            .collect();
        let documents = both_sides(context, &records, couch).await?;
        for record in records {
            let stored = entries(record)?;
            let before = stored.len();
            let sides = documents.get(&record.doc_id).map(|(couch, sql)| (couch, sql));
            let sorted = sorted_out(rules, parts, &record.kind, sides, stored);
            let after = sorted.kept.len();
            if after < before {
                ignored.extend(operator_rules::ignored(&record.kind, &record.doc_id, &sorted));
                shorter.push(Found {
                    kind: record.kind.clone(),
                    doc_id: record.doc_id.clone(),
                    before,
                    after,
                    record: Shorter {
                        kind: record.kind.clone(),
                        doc_id: record.doc_id.clone(),
                        before: record.diffs.clone(),
                        after: (after > 0).then(|| RecordedDiff::list_to_text(&sorted.kept)),
                        reason: SortedOut::reasons(&sorted.kept),
                    },
                });
            }
        }
    }
    Ok((shorter, ignored))
}

/// Both sides of each document that both have, as JSON. The answers of forms are left out of SQL's: no rule looks at them,
/// and each would cost a read of its XML.
async fn both_sides(
    context: &Context,
    records: &[&DiffRecord],
    couch: Vec<Fetched>,
) -> Result<HashMap<String, (Value, Value)>> {
    let (cases, forms): (Vec<_>, Vec<_>) = records
        .iter()
        .partition(|record| record.kind.starts_with("CommCareCase"));
    let ids =
        |records: &[&&DiffRecord]| -> Vec<String> { records.iter().map(|record| record.doc_id.clone()).collect() };
    let mut sql: HashMap<String, Value> = HashMap::new();
    for bundle in context.target.read_cases(&ids(&cases)).await? {
        sql.insert(bundle.case.case_id.clone(), docdiff::sqljson::case_json(&bundle));
    }
    let nothing = Value::Object(Map::new());
    for bundle in context.target.read_forms(&ids(&forms)).await? {
        sql.insert(
            bundle.form.form_id.clone(),
            docdiff::sqljson::form_json(&bundle, &nothing),
        );
    }
    let mut both = HashMap::new();
    for fetched in couch {
        match fetched.outcome {
            Outcome::Found(couch) => {
                if let Some(sql) = sql.remove(&fetched.id) {
                    both.insert(fetched.id, (couch, sql));
                }
            }
            Outcome::Missing | Outcome::Deleted { .. } => {}
            // Of one that cannot be read nobody can tell what its rules would say.
            Outcome::Failed(error) if error.kind() == ErrorKind::Document => {}
            Outcome::Failed(error) => return Err(error.into()),
        }
    }
    Ok(both)
}

/// The entries of a record by what the rules say now. Entries that were not selected stay as they are.
fn sorted_out(
    rules: &OperatorRules,
    parts: &Parts,
    kind: &str,
    sides: Option<(&Value, &Value)>,
    stored: Vec<RecordedDiff>,
) -> SortedOut {
    let (wanted, others): (Vec<_>, Vec<_>) = stored
        .into_iter()
        .partition(|entry| parts.wants(entry.ledger.as_deref()));
    let mut sorted = rules.sort_out(kind, refiltered(kind, sides, wanted));
    sorted.kept.extend(others);
    sorted
}

/// The entries of a record that the rules leave. Entries of one reason go through them together, and ledgers by the rules of
/// ledgers. A document of a type that has no rules keeps all of its entries; so does one that a side lacks by now, since rules
/// look at both.
fn refiltered(kind: &str, sides: Option<(&Value, &Value)>, stored: Vec<RecordedDiff>) -> Vec<RecordedDiff> {
    let mut groups: Vec<(Option<String>, Option<String>, Vec<Diff>)> = Vec::new();
    for RecordedDiff { ledger, diff, reason } in stored {
        match groups
            .iter_mut()
            .find(|(of, because, _)| *of == ledger && *because == reason)
        {
            Some((_, _, diffs)) => diffs.push(diff),
            None => groups.push((ledger, reason, vec![diff])),
        }
    }
    let mut kept = Vec::new();
    for (ledger, reason, diffs) in groups {
        let left = if ledger.is_some() {
            docdiff::refilter_ledger(&diffs)
        } else {
            let refilter = if kind.starts_with("CommCareCase") {
                docdiff::refilter_case
            } else {
                docdiff::refilter_form
            };
            sides
                .and_then(|(couch, sql)| refilter(couch, sql, &diffs).ok())
                .unwrap_or(diffs)
        };
        kept.extend(left.into_iter().map(|diff| RecordedDiff {
            ledger: ledger.clone(),
            diff,
            reason: reason.clone(),
        }));
    }
    kept
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn stored(list: &Value) -> Vec<RecordedDiff> {
        list.as_array()
            .unwrap()
            .iter()
            .map(|entry| RecordedDiff::from_json(entry).unwrap())
            .collect()
    }

    #[test]
    fn what_a_rule_drops_now_is_left_out_and_the_rest_stays_as_it_was() {
        let case = json!({"doc_type": "CommCareCase"});
        let list = json!([
            {"type": "diff", "path": ["age"], "old_value": "1", "new_value": "2", "reason": "rebuild case"},
            // Dates in another notation, which a rule drops.
            {"type": "diff", "path": ["opened_on"], "old_value": "2019-01-01T00:00:00Z",
             "new_value": "2019-01-01T00:00:00.000000Z", "reason": "rebuild case"},
            // The same key in a ledger, where a rule for ledgers drops it and one for cases would not.
            {"type": "diff", "path": {"stock_id": "c/stock/p", "path": ["_id"]}, "old_value": "x", "new_value": 1},
            {"type": "diff", "path": {"stock_id": "c/stock/p", "path": ["owner_id"]}, "old_value": "", "new_value": "o"},
        ]);
        let kept = refiltered("CommCareCase", Some((&case, &json!({}))), stored(&list));
        let kept: Vec<Value> = kept.iter().map(RecordedDiff::to_json).collect();
        assert_eq!(kept, [list[0].clone(), list[3].clone()]);
        // Of a type without rules everything stays.
        let log = json!({"doc_type": "SubmissionErrorLog"});
        let kept = refiltered("SubmissionErrorLog", Some((&log, &json!({}))), stored(&list));
        assert_eq!(kept.len(), 3);
    }

    #[test]
    fn of_a_document_that_a_side_lacks_only_ledgers_get_shorter() {
        let list = json!([
            {"type": "diff", "path": ["opened_on"], "old_value": "2019-01-01T00:00:00Z",
             "new_value": "2019-01-01T00:00:00.000000Z"},
            {"type": "diff", "path": {"stock_id": "c/stock/p", "path": ["_id"]}, "old_value": "x", "new_value": 1},
        ]);
        let kept = refiltered("CommCareCase", None, stored(&list));
        let kept: Vec<Value> = kept.iter().map(RecordedDiff::to_json).collect();
        assert_eq!(kept, [list[0].clone()]);
    }

    #[test]
    fn entries_that_were_not_selected_stay() {
        let rules = [
            json!({"name": "a", "documents": "cases", "path": ["age"], "reason": "why"}),
            json!({"name": "b", "documents": "stock state", "path": ["owner_id"], "reason": "why"}),
        ];
        let rules = OperatorRules::from_json(&rules).unwrap();
        let of_ledger = |ledger: &str| json!({"type": "diff", "path": {"stock_id": ledger, "path": ["owner_id"]}, "old_value": "", "new_value": "o"});
        let list = json!([
            {"type": "diff", "path": ["age"], "old_value": "1", "new_value": "2"}, of_ledger("c/stock/p"), of_ledger("c/stock/q"),
        ]);
        let p = Parts::Ledgers(["c/stock/p".to_owned()].into());
        for (parts, left) in [
            (p, vec![0, 2]),
            (Parts::Ledgers([].into()), vec![0]),
            (Parts::All, vec![]),
        ] {
            let sorted = sorted_out(&rules, &parts, "CommCareCase", None, stored(&list));
            let kept: Vec<Value> = sorted.kept.iter().map(RecordedDiff::to_json).collect();
            let left: Vec<Value> = left.into_iter().map(|place: usize| list[place].clone()).collect();
            assert_eq!(kept, left, "{parts:?}");
        }
    }
}
