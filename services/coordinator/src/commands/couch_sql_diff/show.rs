//! `couch_sql_diff DOMAIN show`: prints recorded differences.

use std::io::{BufRead, IsTerminal, Write};

use proto::ids::Domain;
use serde_json::json;
use state::migration::Migration;
use state::records::RecordFilter;
use state::records::{DiffRecord, RecordTable};

use super::related::Related;
use super::select::{Parts, Selection};
use super::shown::{Narrow, Shown, as_json, shown, side, wanted};
use super::summary::Summary;
use crate::commands::migration_of;
use crate::commands::output::{cell, unwritable, unwritable_csv};
use crate::context::Context;
use crate::failure::{Exit, Result};

/// Old and new together longer than this are printed on lines of their own.
const ONE_LINE: usize = 60;
/// More documents than this are summed up, unless the operator wants them all.
const LARGE: i64 = 1000;
/// Records read at once for a summary.
const PAGE: i64 = 500;

/// How `show` prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// CSV.
    Csv,
    /// A JSON object per line.
    Json,
}

/// How much `show` prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// Every difference; for people, a summary when there are very many.
    #[default]
    AsFits,
    /// Every difference.
    All,
    /// Counts and examples.
    Summary,
}

/// What is to be shown.
#[derive(Clone, Debug)]
pub struct ShowOrder {
    /// Diffs or changes.
    pub table: RecordTable,
    /// Of which documents.
    pub selection: Selection,
    /// Which differences of them.
    pub narrow: Narrow,
    /// How.
    pub output: Output,
    /// How much.
    pub extent: Extent,
    /// Documents at a time.
    pub batch: i64,
    /// Whether to ask after each batch, when there is somebody to ask.
    pub asks: bool,
}

impl ShowOrder {
    /// All records of a table, for people.
    pub fn everything(table: RecordTable) -> Self {
        Self {
            table,
            selection: Selection::default(),
            narrow: Narrow::default(),
            output: Output::Text,
            extent: Extent::All,
            batch: 100,
            asks: true,
        }
    }
}

/// Prints recorded differences.
///
/// # Errors
/// The domain is not being migrated; servers that cannot be reached.
pub async fn show(context: &Context, domain: &Domain, order: &ShowOrder) -> Result<Exit> {
    let migration = migration_of(context, domain).await?;
    let detail = json!({"changes": order.table == RecordTable::Changes});
    context
        .state
        .audit(domain, &context.operator, "couch_sql_diff show", &detail)
        .await?;
    if let Some(summary) = summary(context, &migration, order).await? {
        print_summary(&summary, domain, order)?;
    } else {
        print_all(context, &migration, order).await?;
    }
    Ok(Exit::Clean)
}

/// The summary, when it is what is to be printed.
async fn summary(context: &Context, migration: &Migration, order: &ShowOrder) -> Result<Option<Summary>> {
    match (order.extent, order.output) {
        (Extent::All, _) | (Extent::AsFits, Output::Csv | Output::Json) => return Ok(None),
        (Extent::Summary, _) => return summed_up(context, migration, order).await.map(Some),
        (Extent::AsFits, Output::Text) => {}
    }
    let state = &context.state;
    let filter = &order.selection.filter;
    if state
        .count_records(migration.id, order.table, filter, LARGE + 1)
        .await?
        <= LARGE
    {
        return Ok(None);
    }
    let summary = summed_up(context, migration, order).await?;
    let large = u64::try_from(LARGE).unwrap_or(u64::MAX);
    // Of many records few may be wanted.
    let is_all = order.narrow.is_open() && order.selection.parts == Parts::All;
    Ok((is_all || summary.documents > large).then_some(summary))
}

/// Counts all that is wanted, page by page.
async fn summed_up(context: &Context, migration: &Migration, order: &ShowOrder) -> Result<Summary> {
    let mut summary = Summary::default();
    let mut after: Option<(String, String)> = None;
    loop {
        let records = page(context, migration, order, after.as_ref(), PAGE).await?;
        for record in &records {
            for document in wanted(record, &order.selection.parts, &order.narrow)? {
                summary.add(&document);
            }
        }
        let Some(last) = records.last() else { return Ok(summary) };
        after = Some((last.kind.clone(), last.doc_id.clone()));
    }
}

/// A summary of everything in a table.
///
/// # Errors
/// The state schema's.
pub(crate) async fn summary_of(context: &Context, migration: &Migration, table: RecordTable) -> Result<Summary> {
    summed_up(context, migration, &ShowOrder::everything(table)).await
}

fn print_summary(summary: &Summary, domain: &Domain, order: &ShowOrder) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let changes = order.table == RecordTable::Changes;
    let lines = match order.output {
        Output::Text => summary.lines(domain, changes),
        Output::Json => summary.to_json().iter().map(ToString::to_string).collect(),
        Output::Csv => {
            let mut csv = csv::Writer::from_writer(&mut out);
            csv.write_record([
                "doc_type",
                "path",
                "diff_type",
                "reason",
                "documents",
                "diffs",
                "examples",
            ])
            .map_err(unwritable_csv)?;
            for (key, group) in summary.groups() {
                let reason = key.reason.as_deref().unwrap_or_default();
                let (documents, diffs) = (group.documents.to_string(), group.diffs.to_string());
                let examples: Vec<&str> = group.examples.iter().map(|example| example.doc_id.as_str()).collect();
                let row = [
                    key.doc_type.as_str(),
                    &key.path,
                    key.diff_type,
                    reason,
                    &documents,
                    &diffs,
                    &examples.join(" "),
                ];
                csv.write_record(row.map(cell)).map_err(unwritable_csv)?;
            }
            return csv.flush().map_err(|error| unwritable(&error));
        }
    };
    lines
        .iter()
        .try_for_each(|line| writeln!(out, "{line}"))
        .map_err(|error| unwritable(&error))
}

async fn print_all(context: &Context, migration: &Migration, order: &ShowOrder) -> Result<()> {
    let mut csv = csv::Writer::from_writer(std::io::stdout());
    if order.output == Output::Csv {
        csv.write_record(heading(order.table)).map_err(unwritable_csv)?;
    }
    let mut after: Option<(String, String)> = None;
    loop {
        let records = page(context, migration, order, after.as_ref(), order.batch).await?;
        let related = match order.output {
            Output::Csv => Related::read(context, &records).await?,
            _ => Related::default(),
        };
        for record in &records {
            for document in wanted(record, &order.selection.parts, &order.narrow)? {
                match order.output {
                    Output::Text => print_lines(&text(&document))?,
                    Output::Json => print_lines(&[as_json(&document).to_string()])?,
                    Output::Csv => write_csv(&mut csv, &document, order.table, related.of(&document.of))?,
                }
            }
        }
        csv.flush().map_err(|error| unwritable(&error))?;
        let Some(last) = records.last() else { return Ok(()) };
        after = Some((last.kind.clone(), last.doc_id.clone()));
        let full = i64::try_from(records.len()).unwrap_or(i64::MAX) >= order.batch;
        if !full || (order.output == Output::Text && order.asks && !go_on("show more?")) {
            return Ok(());
        }
    }
}

/// Prints the records of documents, for people.
pub(super) async fn print_documents(
    context: &Context,
    migration: &Migration,
    table: RecordTable,
    filter: &RecordFilter,
    limit: i64,
) -> Result<()> {
    let state = &context.state;
    for record in state.records_after(migration.id, table, filter, None, limit).await? {
        for document in shown(&record)? {
            print_lines(&text(&document))?;
        }
    }
    Ok(())
}

async fn page(
    context: &Context,
    migration: &Migration,
    order: &ShowOrder,
    after: Option<&(String, String)>,
    limit: i64,
) -> Result<Vec<DiffRecord>> {
    let after = after.map(|(kind, id)| (kind.as_str(), id.as_str()));
    Ok(context
        .state
        .records_after(migration.id, order.table, &order.selection.filter, after, limit)
        .await?)
}

/// Asks whether to go on, when there is somebody to ask.
pub(super) fn go_on(question: &str) -> bool {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return true;
    }
    eprint!("{question} (Y/n) ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).is_ok() && !answer.trim().eq_ignore_ascii_case("n")
}

fn print_lines(lines: &[String]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    lines
        .iter()
        .try_for_each(|line| writeln!(out, "{line}"))
        .map_err(|error| unwritable(&error))
}

/// A document for people.
pub(super) fn text(document: &Shown) -> Vec<String> {
    let reason = document
        .reason
        .as_deref()
        .map(|reason| format!(" {reason}"))
        .unwrap_or_default();
    let mut lines = vec![format!("{} {}{reason}", document.kind, document.doc_id)];
    for diff in &document.diffs {
        let (old, new) = (side(&diff.old), side(&diff.new));
        let head = format!("  {} [{}]", diff.diff_type.as_str(), diff.path_text());
        if old.len() + new.len() > ONE_LINE {
            lines.extend([head, format!("    - {old}"), format!("    + {new}")]);
        } else {
            lines.push(format!("{head} {old} -> {new}"));
        }
    }
    lines
}

const COLUMNS: [&str; 9] = [
    "doc_type",
    "doc_id",
    "user_id",
    "server_date",
    "diff_type",
    "path",
    "old_value",
    "new_value",
    "reason",
];

/// The reason is a column of changes only.
fn heading(table: RecordTable) -> &'static [&'static str] {
    match table {
        RecordTable::Diffs => &COLUMNS[..8],
        RecordTable::Changes => &COLUMNS,
    }
}

fn write_csv(
    csv: &mut csv::Writer<impl Write>,
    document: &Shown,
    table: RecordTable,
    (user_id, server_date): (&str, &str),
) -> Result<()> {
    for diff in &document.diffs {
        let reason = document.reason.as_deref().unwrap_or_default();
        let row = [
            document.kind.as_str(),
            &document.doc_id,
            user_id,
            server_date,
            diff.diff_type.as_str(),
            &diff.path_text(),
            &side(&diff.old),
            &side(&diff.new),
            reason,
        ]
        .map(cell);
        csv.write_record(&row[..heading(table).len()]).map_err(unwritable_csv)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::shown::tests::record_of_a_case_with_ledgers;
    use super::*;

    #[test]
    fn csv_rows_have_the_columns_of_their_heading() {
        let documents = shown(&record_of_a_case_with_ledgers()).unwrap();
        for (table, expected) in [
            (
                RecordTable::Diffs,
                "CommCareCase,c,u,2019,diff,a,1,2\nCommCareCase,c,u,2019,missing,b,1,[MISSING]\n",
            ),
            (
                RecordTable::Changes,
                "CommCareCase,c,u,2019,diff,a,1,2,rebuild case\nCommCareCase,c,u,2019,missing,b,1,[MISSING],rebuild case\n",
            ),
        ] {
            let mut csv = csv::Writer::from_writer(Vec::new());
            write_csv(&mut csv, &documents[0], table, ("u", "2019")).unwrap();
            assert_eq!(String::from_utf8(csv.into_inner().unwrap()).unwrap(), expected);
        }
        assert_eq!(
            heading(RecordTable::Diffs).join(","),
            "doc_type,doc_id,user_id,server_date,diff_type,path,old_value,new_value"
        );
        assert_eq!(
            heading(RecordTable::Changes).join(","),
            "doc_type,doc_id,user_id,server_date,diff_type,path,old_value,new_value,reason"
        );
    }

    #[test]
    fn a_short_difference_stands_on_one_line_and_a_long_one_on_three() {
        let documents = shown(&record_of_a_case_with_ledgers()).unwrap();
        assert_eq!(
            text(&documents[0]),
            [
                "CommCareCase c rebuild case",
                "  diff [a] 1 -> 2",
                "  missing [b] 1 -> [MISSING]"
            ]
        );
        let long = DiffRecord {
            kind: "XFormInstance".to_owned(),
            doc_id: "f".to_owned(),
            diffs: json!([{"type": "diff", "path": ["form", "a"], "old_value": "x".repeat(28), "new_value": "y".repeat(28)}])
                .to_string(),
            reason: None,
        };
        assert_eq!(text(&shown(&long).unwrap()[0])[1].split(" -> ").count(), 1 + 1);
        let longer = DiffRecord {
            diffs: json!([{"type": "diff", "path": ["form", "a"], "old_value": "x".repeat(28), "new_value": "y".repeat(29)}])
                .to_string(),
            ..long
        };
        assert_eq!(
            text(&shown(&longer).unwrap()[0])[1..],
            [
                "  diff [form/a]".to_owned(),
                format!("    - \"{}\"", "x".repeat(28)),
                format!("    + \"{}\"", "y".repeat(29))
            ]
        );
    }
}
