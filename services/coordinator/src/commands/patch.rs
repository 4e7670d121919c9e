//! `couch_sql_diff patch`: makes SQL cases say what their Couch cases say, as far as forms can; and what patch forms
//! recorded.

use std::sync::Arc;

use docdiff::PatchRecord;
use form_worker::{Patcher, patch_records};
use proto::ids::Domain;
use serde_json::{Value, json};
use state::Migration;
use state::patch::{PatchFormRecord, PatchRefusal};
use tokio_util::sync::CancellationToken;

use super::couch_sql_diff::Output;
use super::output::{cell, say, unwritable, unwritable_csv};
use super::{ids_of, migration_of, stats};
use crate::context::Context;
use crate::domain_doc::DomainDoc;
use crate::driver::{PatchScope, StopSignals, patch_only};
use crate::failure::{Exit, Failure, Result};
use crate::rules::{Command, Situation, allow};
use crate::workers::Workforce;

/// Cases of a preview planned at once.
const AT_ONCE: i64 = 100;
/// Refusals listed at most.
const LISTED: i64 = 50;

/// Whether anything is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchRun {
    /// Patch forms are written, and their cases compared again.
    Write,
    /// `--dry-run`: they are printed.
    Preview,
}

/// What `patch` is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchOrder {
    /// Which cases.
    pub scope: PatchScope,
    /// Whether anything is written.
    pub run: PatchRun,
    /// Cases of one batch, if not as configured.
    pub batch: Option<usize>,
}

/// Which cases, from `--select`: ids with commas, or a path to a file of ids; without it all that have a record.
///
/// # Errors
/// `C2S-0107` when the file cannot be read; `C2S-0122` for a selection of another kind.
pub fn scope(select: Option<&str>) -> Result<PatchScope> {
    match select {
        None => Ok(PatchScope::Recorded),
        Some(word @ ("pending" | "with-diffs" | "with-changes")) => Err(Failure::new(
            "C2S-0122",
            format!("--select={word}: cases to patch are selected by their ids"),
            "give ids or a path to a file of ids, or leave --select out to patch all recorded differences",
        )),
        Some(ids) => ids_of(ids).map(PatchScope::Ids),
    }
}

/// Patches cases with recorded differences. The exit status says whether differences are on record afterwards.
///
/// # Errors
/// The refusal, or what went wrong; running it again goes on.
pub async fn patch(
    context: &Arc<Context>,
    domain: &Domain,
    order: &PatchOrder,
    stop: CancellationToken,
) -> Result<Exit> {
    let scope = &order.scope;
    let doc = DomainDoc::read(&context.domains_db, domain).await?;
    let found = context.state.migration(domain).await?;
    allow(
        Command::Patch,
        Situation {
            migration: found.as_ref(),
            on_sql: doc.is_on_sql(),
        },
    )?;
    let migration = migration_of(context, domain).await?;
    if *scope == PatchScope::Recorded && context.state.patchable_after(migration.id, "", 1).await?.is_empty() {
        // Differences may stand all the same: of forms, or of cases that cannot be patched.
        say("nothing to patch")?;
        if order.run == PatchRun::Preview {
            return Ok(Exit::Clean);
        }
        let clean = stats::print_after_run(context, domain).await?;
        return Ok(if clean { Exit::Clean } else { Exit::Differences });
    }
    if let PatchScope::Ids(ids) = scope {
        let unknown = context.state.unknown_cases(migration.id, ids).await?;
        if unknown > 0 {
            eprintln!("nobody has met {unknown} of the {} cases that were named", ids.len());
        }
    }
    if order.run == PatchRun::Preview {
        return preview(context, &migration, scope).await;
    }
    let broker = context.broker().await?;
    let workforce = Workforce::if_in_process(context, &broker).await?;
    let signals = StopSignals {
        operator: stop,
        ..StopSignals::default()
    };
    let patched = patch_only(context, Arc::clone(&broker), &migration, signals, scope, order.batch).await;
    if let Some(workforce) = workforce {
        workforce.stop().await;
    }
    broker.close().await;
    if !patched? {
        return Ok(Exit::Stopped);
    }
    for refusal in context.state.patch_refusals(migration.id, LISTED).await? {
        say(&refused(&refusal))?;
    }
    let clean = stats::print_after_run(context, domain).await?;
    Ok(if clean { Exit::Clean } else { Exit::Differences })
}

/// A refusal in a line.
pub(crate) fn refused(refusal: &PatchRefusal) -> String {
    format!(
        "cannot patch {} {} ({}): {}: {}",
        refusal.kind,
        refusal.doc_id,
        refusal.table.as_str(),
        refusal.code,
        refusal.message
    )
}

/// Prints what would be written. Values are shown: who asked goes on record.
async fn preview(context: &Context, migration: &Migration, scope: &PatchScope) -> Result<Exit> {
    let domain = &migration.domain;
    context
        .state
        .audit(domain, &context.operator, "couch_sql_diff patch --dry-run", &json!({}))
        .await?;
    let patcher = Patcher::new(context.state.clone(), context.target.clone(), context.forms_db.clone());
    let mut after = String::new();
    loop {
        let case_ids = match scope {
            PatchScope::Ids(ids) => ids.clone(),
            PatchScope::Recorded => context.state.patchable_after(migration.id, &after, AT_ONCE).await?,
        };
        let Some(last) = case_ids.last() else { break };
        after.clone_from(last);
        for part in case_ids.chunks(usize::try_from(AT_ONCE).unwrap_or(1)) {
            let patches = patcher
                .plan(migration.id, domain, part)
                .await
                .map_err(|failure| Failure::new("C2S-4065", failure.to_string(), "run the command again"))?;
            let now = context.state.now().await?;
            for patch in &patches.planned {
                let PatchFormRecord {
                    form_id,
                    case_id,
                    table,
                } = &patch.form;
                say(&format!(
                    "CommCareCase {case_id} ({}): patch form {form_id}",
                    table.as_str()
                ))?;
                for effect in &patch.plan.effects {
                    say(&format!("  {effect}"))?;
                }
                say(&patch.plan.xml(form_id, now))?;
            }
            for refusal in &patches.refused {
                say(&refused(refusal))?;
            }
        }
        if matches!(scope, PatchScope::Ids(_)) {
            break;
        }
    }
    Ok(Exit::Clean)
}

/// Patch forms, from `--select`: `forms:id,…`, `cases:id,…`, or all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchedSelection {
    forms: Vec<String>,
    cases: Vec<String>,
}

impl PatchedSelection {
    /// From the option.
    ///
    /// # Errors
    /// `C2S-0122` for a selection of another kind.
    pub fn parse(select: Option<&str>) -> Result<Self> {
        let ids = |list: &str| -> Vec<String> {
            list.split(',')
                .map(str::trim)
                .filter(|id| !id.is_empty())
                .map(str::to_owned)
                .collect()
        };
        // Without ids it would stand for all patch forms.
        match select.map(|text| text.split_once(':')) {
            None => Ok(Self::default()),
            Some(Some(("forms", list))) if !ids(list).is_empty() => Ok(Self {
                forms: ids(list),
                cases: Vec::new(),
            }),
            Some(Some(("cases", list))) if !ids(list).is_empty() => Ok(Self {
                forms: Vec::new(),
                cases: ids(list),
            }),
            Some(_) => Err(Failure::new(
                "C2S-0122",
                "--select with --patched takes forms or cases",
                "use forms:id,id or cases:id,id, or leave --select out for all patch forms",
            )),
        }
    }
}

/// Prints what patch forms recorded.
///
/// # Errors
/// The domain is not being migrated; servers that cannot be reached.
pub async fn show_patched(
    context: &Context,
    domain: &Domain,
    selection: &PatchedSelection,
    output: Output,
    batch: i64,
) -> Result<Exit> {
    let migration = migration_of(context, domain).await?;
    context
        .state
        .audit(domain, &context.operator, "couch_sql_diff show --patched", &json!({}))
        .await?;
    let store = service::connect::blob_store(&context.config).await?;
    let mut csv = csv::Writer::from_writer(std::io::stdout());
    if output == Output::Csv {
        csv.write_record([
            "form_id",
            "case_id",
            "ledger",
            "patch",
            "path",
            "old_value",
            "new_value",
            "reason",
        ])
        .map_err(unwritable_csv)?;
    }
    let mut after = String::new();
    loop {
        let forms = context
            .state
            .patch_forms(migration.id, &selection.forms, &selection.cases, &after, batch)
            .await?;
        let Some(last) = forms.last() else { break };
        after.clone_from(&last.form_id);
        let ids: Vec<String> = forms.iter().map(|form| form.form_id.clone()).collect();
        let records = patch_records(&context.target, &store, &ids)
            .await
            .map_err(|failure| Failure::new("C2S-4065", failure.to_string(), "run the command again"))?;
        for form in &forms {
            let record = records.get(&form.form_id);
            match output {
                Output::Json => say(&as_json(form, record).to_string())?,
                Output::Text => lines_of(form, record).iter().try_for_each(|line| say(line))?,
                Output::Csv => {
                    for (ledger, entry) in record.iter().flat_map(|record| entries(record)) {
                        csv.write_record(csv_row(form, ledger, entry)).map_err(unwritable_csv)?;
                    }
                }
            }
        }
        csv.flush().map_err(|error| unwritable(&error))?;
    }
    Ok(Exit::Clean)
}

/// All entries of a record, with the ledger of those that are of one.
fn entries(record: &PatchRecord) -> impl Iterator<Item = (Option<&str>, &Value)> {
    let of_case = record.diffs().iter().map(|entry| (None, entry));
    let of_ledgers = record.ledgers().iter().flat_map(|(ledger, list)| {
        let list = list.as_array().into_iter().flatten();
        list.map(move |entry| (Some(ledger.as_str()), entry))
    });
    of_case.chain(of_ledgers)
}

fn as_json(form: &PatchFormRecord, record: Option<&PatchRecord>) -> Value {
    let mut shown = json!({"form_id": form.form_id, "case_id": form.case_id, "made_for": form.table.as_str()});
    if let (Some(record), Some(shown)) = (record, shown.as_object_mut()) {
        shown.insert("diffs".to_owned(), Value::Array(record.diffs().to_vec()));
        shown.insert("ledgers".to_owned(), Value::Object(record.ledgers().clone()));
    }
    shown
}

fn lines_of(form: &PatchFormRecord, record: Option<&PatchRecord>) -> Vec<String> {
    let mut lines = vec![format!(
        "CommCareCase {} patched by form {}",
        form.case_id, form.form_id
    )];
    let Some(record) = record else {
        lines.push("  its XML is not to be found, or cannot be read".to_owned());
        return lines;
    };
    for (ledger, entry) in entries(record) {
        let ledger = ledger.map(|ledger| format!("{ledger} ")).unwrap_or_default();
        let what = if entry["patch"] == true { "patched" } else { "recorded" };
        let side = |key: &str| entry.get(key).map_or_else(|| "[MISSING]".to_owned(), Value::to_string);
        lines.push(format!(
            "  {what} {ledger}[{}] {} -> {}",
            path_text(entry),
            side("old"),
            side("new")
        ));
    }
    lines
}

fn csv_row(form: &PatchFormRecord, ledger: Option<&str>, entry: &Value) -> [String; 8] {
    let side = |key: &str| entry.get(key).map_or_else(|| "[MISSING]".to_owned(), Value::to_string);
    [
        cell(&form.form_id),
        cell(&form.case_id),
        cell(ledger.unwrap_or_default()),
        entry["patch"].to_string(),
        cell(&path_text(entry)),
        cell(&side("old")),
        cell(&side("new")),
        cell(entry["reason"].as_str().unwrap_or_default()),
    ]
}

fn path_text(entry: &Value) -> String {
    let elements = entry["path"].as_array().into_iter().flatten();
    let elements: Vec<String> = elements
        .map(|element| element.as_str().map_or_else(|| element.to_string(), str::to_owned))
        .collect();
    elements.join("/")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn cases_are_selected_by_id() {
        assert_eq!(scope(None).unwrap(), PatchScope::Recorded);
        assert_eq!(
            scope(Some("a, b")).unwrap(),
            PatchScope::Ids(vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(scope(Some("with-diffs")).unwrap_err().code, "C2S-0122");
    }

    #[test]
    fn patch_forms_are_selected_by_form_or_case() {
        assert_eq!(PatchedSelection::parse(None).unwrap(), PatchedSelection::default());
        let cases = PatchedSelection::parse(Some("cases:a,b")).unwrap();
        assert_eq!(
            (cases.forms.len(), cases.cases),
            (0, vec!["a".to_owned(), "b".to_owned()])
        );
        let forms = PatchedSelection::parse(Some("forms:f")).unwrap();
        assert_eq!((forms.forms, forms.cases.len()), (vec!["f".to_owned()], 0));
        for other in ["a", "CommCareCase:a", "cases:", "forms: ,", "cases", ""] {
            assert_eq!(PatchedSelection::parse(Some(other)).unwrap_err().code, "C2S-0122");
        }
    }

    #[test]
    fn a_record_as_it_is_shown() {
        let said = json!({"case_id": "c",
            "diffs": [{"path": ["a", 1], "patch": true, "old": "1"}],
            "ledgers": {"c/s/e": [{"path": ["balance"], "patch": false, "old": 2, "new": 1, "reason": "r"}]}});
        let record = PatchRecord::of_form(&json!({"diff": said.to_string()}));
        let form = PatchFormRecord {
            form_id: "f".to_owned(),
            case_id: "c".to_owned(),
            table: state::records::RecordTable::Diffs,
        };
        let rows: Vec<String> = entries(&record)
            .map(|(ledger, entry)| csv_row(&form, ledger, entry).join("|"))
            .collect();
        assert_eq!(
            rows,
            ["f|c||true|a/1|\"1\"|[MISSING]|", "f|c|c/s/e|false|balance|2|1|r"]
        );
        assert_eq!(
            as_json(&form, Some(&record)),
            json!({"form_id": "f", "case_id": "c", "made_for": "diffs", "diffs": said["diffs"], "ledgers": said["ledgers"]})
        );
    }
}
