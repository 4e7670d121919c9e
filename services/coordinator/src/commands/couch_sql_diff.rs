//! `couch_sql_diff`: shows recorded differences, and compares cases again.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;

use docdiff::{Diff, LEDGER_KIND, RecordedDiff};
use proto::doctype::DocType;
use proto::ids::Domain;
use serde_json::{Value, json};
use state::migration::Migration;
use state::stats::{DiffRecord, RecordTable};
use tokio_util::sync::CancellationToken;

use super::migration_of;
use crate::context::Context;
use crate::domain_doc::DomainDoc;
use crate::driver::{DiffScope, StopSignals, diff_only};
use crate::failure::{Exit, Failure, Result};
use crate::rules::{Command, Situation, allow};
use crate::workers::Workforce;

/// Old and new together longer than this are printed on lines of their own.
const ONE_LINE: usize = 60;

/// How `show` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Text,
    /// CSV.
    Csv,
    /// A JSON object per line.
    Json,
}

/// Which documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    kinds: Vec<String>,
    ids: Vec<String>,
}

impl Selection {
    /// For `show`: `TYPE`, `TYPE:id1,id2`, `TYPE1,TYPE2`, `forms`, `cases`.
    ///
    /// # Errors
    /// `C2S-0105` for something else.
    pub fn parse(text: Option<&str>) -> Result<Self> {
        let Some(text) = text else { return Ok(Self::default()) };
        let (kinds, ids) = text
            .split_once(':')
            .map_or((text, None), |(kinds, ids)| (kinds, Some(ids)));
        let mut selection = Self::default();
        for kind in kinds.split(',').map(str::trim).filter(|kind| !kind.is_empty()) {
            match (kind, DocType::parse(kind)) {
                ("forms", _) => selection
                    .kinds
                    .extend(DocType::FORMS.iter().map(|kind| kind.as_str().to_owned())),
                ("cases", _) => selection
                    .kinds
                    .extend(["CommCareCase", "CommCareCase-Deleted"].map(str::to_owned)),
                (_, Some(kind)) => selection.kinds.push(kind.as_str().to_owned()),
                (_, None) => {
                    return Err(Failure::new(
                        "C2S-0105",
                        format!("--select: {kind} is not a document type"),
                        "use a document type, TYPE:id1,id2, forms, or cases",
                    ));
                }
            }
        }
        if let Some(ids) = ids {
            selection.ids = ids
                .split(',')
                .map(str::trim)
                .filter(|id| !id.is_empty())
                .map(str::to_owned)
                .collect();
        }
        Ok(selection)
    }
}

/// Prints recorded differences.
///
/// # Errors
/// The domain is not being migrated; servers that cannot be reached.
pub async fn show(
    context: &Context,
    domain: &Domain,
    table: RecordTable,
    selection: &Selection,
    output: Output,
    batch: i64,
) -> Result<Exit> {
    let migration = migration_of(context, domain).await?;
    context
        .state
        .audit(domain, &context.operator, "couch_sql_diff show", &json!({}))
        .await?;
    let mut csv = csv::Writer::from_writer(std::io::stdout());
    if output == Output::Csv {
        let heading = [
            "doc_type",
            "doc_id",
            "diff_type",
            "path",
            "old_value",
            "new_value",
            "reason",
        ];
        csv.write_record(heading).map_err(|error| broken_pipe(&error))?;
    }
    let mut after: Option<(String, String)> = None;
    loop {
        let records = page(context, &migration, table, selection, after.as_ref(), batch).await?;
        for record in &records {
            for document in shown(record)? {
                match output {
                    Output::Text => print_text(&document),
                    Output::Json => println!("{}", as_json(&document)),
                    Output::Csv => write_csv(&mut csv, &document)?,
                }
            }
        }
        csv.flush().map_err(|error| broken_pipe(&error.into()))?;
        let Some(last) = records.last() else { break };
        after = Some((last.kind.clone(), last.doc_id.clone()));
        let full = i64::try_from(records.len()).unwrap_or(i64::MAX) >= batch;
        if !full || (output == Output::Text && !more()) {
            break;
        }
    }
    Ok(Exit::Clean)
}

async fn page(
    context: &Context,
    migration: &Migration,
    table: RecordTable,
    selection: &Selection,
    after: Option<&(String, String)>,
    limit: i64,
) -> Result<Vec<DiffRecord>> {
    let after = after.map(|(kind, id)| (kind.as_str(), id.as_str()));
    let state = &context.state;
    Ok(match table {
        RecordTable::Diffs => {
            state
                .diff_records(migration.id, &selection.kinds, &selection.ids, after, limit)
                .await?
        }
        RecordTable::Changes => {
            state
                .change_records(migration.id, &selection.kinds, &selection.ids, after, limit)
                .await?
        }
    })
}

/// Asks whether to go on, when there is somebody to ask.
fn more() -> bool {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return true;
    }
    eprint!("show more? (Y/n) ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).is_ok() && !answer.trim().eq_ignore_ascii_case("n")
}

/// A document as it is shown: a case, a form, or a ledger of a case.
struct Shown {
    kind: String,
    doc_id: String,
    diffs: Vec<Diff>,
    reason: Option<String>,
}

/// The document of a record, and each ledger that stands with it as a document of its own; diffs by type and path.
fn shown(record: &DiffRecord) -> Result<Vec<Shown>> {
    let unreadable = || {
        Failure::new(
            "C2S-1510",
            format!("the recorded diffs of {} cannot be read", record.doc_id),
            "",
        )
    };
    let list: Vec<Value> = serde_json::from_str(&record.diffs).map_err(|_| unreadable())?;
    let entries = list
        .iter()
        .map(RecordedDiff::from_json)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| unreadable())?;
    let mut documents: BTreeMap<Option<String>, Shown> = BTreeMap::new();
    for entry in entries {
        let document = documents.entry(entry.ledger.clone()).or_insert_with(|| Shown {
            kind: if entry.ledger.is_some() {
                LEDGER_KIND.to_owned()
            } else {
                record.kind.clone()
            },
            doc_id: entry.ledger.clone().unwrap_or_else(|| record.doc_id.clone()),
            diffs: Vec::new(),
            reason: None,
        });
        document.diffs.push(entry.diff);
        document.reason = entry.reason.or_else(|| record.reason.clone());
    }
    let mut documents: Vec<Shown> = documents.into_values().collect();
    for document in &mut documents {
        document
            .diffs
            .sort_by_key(|diff| (diff.diff_type.as_str(), diff.path_text()));
    }
    Ok(documents)
}

fn side(side: &docdiff::Side) -> String {
    match side {
        docdiff::Side::Missing => "[MISSING]".to_owned(),
        docdiff::Side::Value(value) => value.to_string(),
    }
}

fn print_text(document: &Shown) {
    let reason = document
        .reason
        .as_deref()
        .map(|reason| format!(" {reason}"))
        .unwrap_or_default();
    println!("{} {}{reason}", document.kind, document.doc_id);
    for diff in &document.diffs {
        let (old, new) = (side(&diff.old), side(&diff.new));
        let head = format!("  {} [{}]", diff.diff_type.as_str(), diff.path_text());
        if old.len() + new.len() > ONE_LINE {
            println!("{head}\n    - {old}\n    + {new}");
        } else {
            println!("{head} {old} -> {new}");
        }
    }
}

fn as_json(document: &Shown) -> Value {
    let diffs: Vec<Value> = document.diffs.iter().map(Diff::to_json).collect();
    let mut object = json!({"doc_type": document.kind, "doc_id": document.doc_id, "diffs": diffs});
    if let (Some(reason), Some(map)) = (&document.reason, object.as_object_mut()) {
        map.insert("reason".to_owned(), json!(reason));
    }
    object
}

fn write_csv(csv: &mut csv::Writer<std::io::Stdout>, document: &Shown) -> Result<()> {
    for diff in &document.diffs {
        let (path, old, new) = (diff.path_text(), side(&diff.old), side(&diff.new));
        let reason = document.reason.as_deref().unwrap_or_default();
        csv.write_record([
            &document.kind,
            &document.doc_id,
            diff.diff_type.as_str(),
            &path,
            &old,
            &new,
            reason,
        ])
        .map_err(|error| broken_pipe(&error))?;
    }
    Ok(())
}

fn broken_pipe(error: &csv::Error) -> Failure {
    Failure::new("C2S-0106", format!("the output could not be written: {error}"), "")
}

/// Which cases to compare again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cases {
    /// All cases of both sides.
    All,
    /// Those that were not compared at their present generation.
    Pending,
    /// Those with a record.
    With(RecordTable),
    /// These.
    Ids(Vec<String>),
}

impl Cases {
    /// `pending`, `with-diffs`, `with-changes`, ids, or a path (`/…` or `./…`) to a file with one id a line.
    ///
    /// # Errors
    /// `C2S-0107` when the file cannot be read.
    pub fn parse(text: Option<&str>) -> Result<Self> {
        Ok(match text {
            None => Self::All,
            Some("pending") => Self::Pending,
            Some("with-diffs") => Self::With(RecordTable::Diffs),
            Some("with-changes") => Self::With(RecordTable::Changes),
            Some(ids) => Self::Ids(super::ids_of(ids)?),
        })
    }
}

/// Compares cases again. The exit status says whether differences are on record afterwards.
///
/// # Errors
/// The refusal, or what went wrong; what was not compared stays pending.
pub async fn cases(context: &Arc<Context>, domain: &Domain, cases: &Cases, stop: CancellationToken) -> Result<Exit> {
    let doc = DomainDoc::read(&context.domains_db, domain).await?;
    let found = context.state.migration(domain).await?;
    allow(
        Command::DiffCases,
        Situation {
            migration: found.as_ref(),
            on_sql: doc.is_on_sql(),
        },
    )?;
    let migration = migration_of(context, domain).await?;
    let requested = match cases {
        Cases::All => context.state.request_diff(migration.id, None).await?,
        Cases::Pending => 0,
        Cases::With(table) => {
            let ids = context.state.cases_with_records(migration.id, *table).await?;
            context.state.request_diff(migration.id, Some(&ids)).await?
        }
        Cases::Ids(ids) => context.state.request_diff(migration.id, Some(ids)).await?,
    };
    tracing::info!(cases = requested, "cases are compared again");
    let broker = context.broker().await?;
    let workforce = Workforce::if_in_process(context, &broker).await?;
    let signals = StopSignals {
        operator: stop,
        shutdown: CancellationToken::new(),
    };
    let scope = if *cases == Cases::All {
        DiffScope::AllCases
    } else {
        DiffScope::Pending
    };
    let compared = diff_only(context, Arc::clone(&broker), &migration, signals, scope).await;
    if let Some(workforce) = workforce {
        workforce.stop().await;
    }
    broker.close().await;
    if !compared? {
        return Ok(Exit::Stopped);
    }
    let clean = super::stats::print_after_run(context, domain).await?;
    Ok(if clean { Exit::Clean } else { Exit::Differences })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ledgers_of_a_case_are_documents_of_their_own() {
        let balance = |stock_id: &str, reason: &str| {
            json!({"type": "diff", "path": {"stock_id": stock_id, "path": ["balance"]}, "old_value": 2, "new_value": 1,
                "reason": reason})
        };
        let record = DiffRecord {
            kind: "CommCareCase".to_owned(),
            doc_id: "c".to_owned(),
            diffs: json!([
                balance("c/stock/q", "duplicate stock transaction"),
                {"type": "missing", "path": ["b"], "old_value": 1, "reason": "rebuild case"},
                {"type": "diff", "path": ["a"], "old_value": 1, "new_value": 2, "reason": "rebuild case"},
                balance("c/stock/p", "duplicate stock transaction"),
            ])
            .to_string(),
            reason: Some("duplicate stock transaction, rebuild case".to_owned()),
        };
        let documents = shown(&record).unwrap();
        let told: Vec<_> = documents
            .iter()
            .map(|document| {
                (
                    document.kind.as_str(),
                    document.doc_id.as_str(),
                    document.reason.as_deref().unwrap(),
                    document.diffs.iter().map(Diff::path_text).collect::<Vec<_>>().join(" "),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("CommCareCase", "c", "rebuild case", "a b".to_owned()),
                (
                    "stock state",
                    "c/stock/p",
                    "duplicate stock transaction",
                    "balance".to_owned()
                ),
                (
                    "stock state",
                    "c/stock/q",
                    "duplicate stock transaction",
                    "balance".to_owned()
                ),
            ]
        );
        assert_eq!(
            as_json(&documents[1]),
            json!({"doc_type": "stock state", "doc_id": "c/stock/p", "reason": "duplicate stock transaction",
                "diffs": [{"type": "diff", "path": ["balance"], "old_value": 2, "new_value": 1}]})
        );
        let broken = DiffRecord {
            diffs: json!([{"type": "diff", "path": {"path": []}}]).to_string(),
            ..record
        };
        assert_eq!(shown(&broken).err().unwrap().code, "C2S-1510");
    }

    #[test]
    fn selections() {
        assert_eq!(Selection::parse(None).unwrap(), Selection::default());
        let one = Selection::parse(Some("CommCareCase:a, b")).unwrap();
        assert_eq!(
            (one.kinds, one.ids),
            (vec!["CommCareCase".to_owned()], vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(Selection::parse(Some("forms")).unwrap().kinds.len(), 8);
        assert_eq!(Selection::parse(Some("Case")).unwrap_err().code, "C2S-0105");
        assert_eq!(Cases::parse(Some("pending")).unwrap(), Cases::Pending);
        assert_eq!(
            Cases::parse(Some("a,b")).unwrap(),
            Cases::Ids(vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(Cases::parse(Some("./no-such-file")).unwrap_err().code, "C2S-0107");
    }
}
