//! `couch_sql_diff DOMAIN filter`: runs recorded differences through the present ignore rules, and stores what gets shorter.

use std::collections::HashMap;

use couch::Outcome;
use docdiff::{Diff, OperatorRules, RecordedDiff, SortedOut};
use proto::ids::Domain;
use serde_json::{Map, Value, json};
use service::operator_rules;
use state::operator_rules::Ignored;
use state::records::Shorter;
use state::records::{DiffRecord, RecordTable};

use super::cases::may_compare;
use super::select::Selection;
use super::show::go_on;
use super::shown::entries;
use crate::commands::migration_of;
use crate::context::Context;
use crate::failure::{Exit, Result};

/// Documents of both sides in memory at once.
const AT_ONCE: usize = 100;

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
            let (found, ignored) = filtered(context, &rules, records).await?;
            if order.dry_run {
                for one in &found {
                    println!("{} {}: {} -> {} {what}", one.kind, one.doc_id, one.before, one.after);
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
    println!("{looked_at} records looked at, {shorter} {would} shorter, of {emptied} nothing is left");
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
    records: &[DiffRecord],
) -> Result<(Vec<Found>, Vec<Ignored>)> {
    let mut documents = read_both(context, records).await?;
    let (mut shorter, mut ignored) = (Vec::new(), Vec::new());
    for record in records {
        let stored = entries(record)?;
        let before = stored.len();
        // Without the Couch document, the record's kind says which rules there are.
        let (couch, sql) = documents
            .remove(&record.doc_id)
            .unwrap_or_else(|| (json!({"doc_type": record.kind}), Value::Object(Map::new())));
        let kept = refiltered(&record.kind, &couch, &sql, stored);
        let sorted = rules.sort_out(&record.kind, kept);
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
    Ok((shorter, ignored))
}

/// Both sides of each document, as JSON. The answers of forms are left out of SQL's: no rule looks at them, and each would
/// cost a read of its XML.
async fn read_both(context: &Context, records: &[DiffRecord]) -> Result<HashMap<String, (Value, Value)>> {
    let (cases, forms): (Vec<_>, Vec<_>) = records
        .iter()
        .partition(|record| record.kind.starts_with("CommCareCase"));
    let ids = |records: &[&DiffRecord]| -> Vec<String> { records.iter().map(|record| record.doc_id.clone()).collect() };
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
    let all: Vec<&str> = records.iter().map(|record| record.doc_id.as_str()).collect();
    let mut both = HashMap::new();
    for fetched in context.forms_db.bulk_get(&all).await? {
        if let Outcome::Found(couch) = fetched.outcome {
            let sql = sql.remove(&fetched.id).unwrap_or_else(|| nothing.clone());
            both.insert(fetched.id, (couch, sql));
        }
    }
    Ok(both)
}

/// The entries of a record that the rules leave. Entries of one reason go through them together, and ledgers by the rules of
/// ledgers. A document of a type that has no rules keeps all of its entries.
fn refiltered(kind: &str, couch: &Value, sql: &Value, stored: Vec<RecordedDiff>) -> Vec<RecordedDiff> {
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
        } else if kind.starts_with("CommCareCase") {
            docdiff::refilter_case(couch, sql, &diffs).unwrap_or(diffs)
        } else {
            docdiff::refilter_form(couch, sql, &diffs).unwrap_or(diffs)
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
        let kept = refiltered("CommCareCase", &case, &json!({}), stored(&list));
        let kept: Vec<Value> = kept.iter().map(RecordedDiff::to_json).collect();
        assert_eq!(kept, [list[0].clone(), list[3].clone()]);
        // Of a type without rules everything stays.
        let log = json!({"doc_type": "SubmissionErrorLog"});
        let kept = refiltered("SubmissionErrorLog", &log, &json!({}), stored(&list));
        assert_eq!(kept.len(), 3);
    }
}
