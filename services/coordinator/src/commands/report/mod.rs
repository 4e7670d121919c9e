//! `report`: one page and one JSON file for the decision to commit.
//!
//! Values of documents are health data: they are left out unless the operator asks for them, and that is in the audit log.

mod checked;
mod page;

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use proto::ids::Domain;
use serde_json::{Value, json};
use state::migration::Migration;
use state::records::RecordTable;
use state::report::{AuditRecord, RunRecord};

use checked::Checked;

use super::couch_sql_diff::show::summary_of;
use super::couch_sql_diff::summary::Summary;
use super::{ignore_rules, migration_of};
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};

/// Examples of each group of errors.
const EXAMPLES: i64 = 3;
/// Runs and audit entries at most; the newest count.
const HISTORY: i64 = 500;
/// Groups of differences at most.
const GROUPS: usize = 500;

/// Refusals to patch at most.
const REFUSALS: i64 = 50;
/// Ids of a run's forms at most.
const IDS: usize = 20;

/// Whether values of documents are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// They are left out.
    Hidden,
    /// They are in the report.
    Shown,
}

/// Writes the report of a domain.
///
/// # Errors
/// The domain is not being migrated; servers that cannot be reached; files that cannot be written.
pub async fn report(context: &Context, domain: &Domain, folder: &Path, values: Values) -> Result<Exit> {
    let migration = migration_of(context, domain).await?;
    let detail = json!({"values": values == Values::Shown});
    context
        .state
        .audit(domain, &context.operator, "report", &detail)
        .await?;
    let content = content(context, &migration, values).await?;
    let name = file_name(domain);
    let text = format!("{content:#}\n");
    let html = page::render(&content);
    for (extension, bytes) in [("json", text), ("html", html)] {
        let path = folder.join(&name).with_extension(extension);
        write(&path, bytes.as_bytes()).map_err(|error| {
            Failure::new(
                "C2S-0126",
                format!("{} cannot be written: {error}", path.display()),
                "give a folder that exists and can be written with --output",
            )
        })?;
        println!("{}", path.display());
    }
    Ok(Exit::Clean)
}

/// Only the operator may read it. A file of that name is replaced by a new one: its rights, or whatever it is a link to, are
/// not the report's.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    // Of a process of the same number that died here.
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)
}

/// Names of domains are tame; a file's name must be, whatever the domain's is.
fn file_name(domain: &Domain) -> PathBuf {
    let tame = |letter: char| {
        if letter.is_ascii_alphanumeric() || letter == '-' {
            letter
        } else {
            '_'
        }
    };
    PathBuf::from(format!(
        "{}-migration",
        domain.as_str().chars().map(tame).collect::<String>()
    ))
}

/// All that the report tells.
async fn content(context: &Context, migration: &Migration, values: Values) -> Result<Value> {
    let state = &context.state;
    let id = migration.id;
    let stats: Vec<Value> = state
        .type_stats(id)
        .await?
        .into_iter()
        .map(|(kind, row)| {
            json!({"doc_type": kind.as_str(), "docs": row.docs, "diffs": row.diffs, "missing": row.missing,
                "changes": row.changes})
        })
        .collect();
    let obstacles = state.obstacles(id).await?;
    let verified = state.verified(id).await?;
    let (restored_xml, removed_blobmeta) = state.blob_repairs(id).await?;
    let diffs = summary_of(context, migration, RecordTable::Diffs).await?;
    let changes = summary_of(context, migration, RecordTable::Changes).await?;
    let listed: Vec<Value> = state
        .listed(id, EXAMPLES)
        .await?
        .into_iter()
        .map(|group| {
            json!({"doc_type": group.kind, "code": group.code, "documents": group.documents, "examples": group.examples})
        })
        .collect();
    let (missing, errors): (Vec<Value>, Vec<Value>) = listed.into_iter().partition(|group| group["code"] == "");
    let rules = ignore_rules::of_domain(context, migration).await?;
    let audit = state.audit_records(&migration.domain, HISTORY).await?;
    let decisions = state.decisions(&migration.domain).await?;
    let (entries, runs_in_all) = state.history(id).await?;
    let patches = state.patch_counts(id).await?;
    let refusals: Vec<String> = state
        .patch_refusals(id, REFUSALS)
        .await?
        .iter()
        .map(super::patch::refused)
        .collect();
    let checked = Checked {
        phase: migration.phase,
        undiffed: obstacles.undiffed,
        looks: state.whole_looks(id).await?,
    };
    let runs = state.run_records(id, HISTORY).await?;
    Ok(json!({
        "domain": migration.domain.as_str(),
        "written_at": time(state.now().await?),
        "values": if values == Values::Shown { "shown" } else { "hidden" },
        "status": migration.status.as_str(),
        "phase": migration.phase.as_str(),
        "started_at": migration.started_at.map(time),
        "finished_at": migration.finished_at.map(time),
        "options": migration.options,
        "doc_types": stats,
        "how_verified": checked.sentences(),
        "verified": {
            "cases": verified.cases,
            "cases_compared": verified.compared,
            "case_diffs_pending": obstacles.undiffed,
            "cases_to_replay": obstacles.dirty,
            "open_batches": obstacles.open_batches,
            "parked_batches": obstacles.parked,
        },
        "against_commit": super::verdict::of_migration(migration, &obstacles),
        "diffs": groups(&diffs, values),
        "changes": groups(&changes, values),
        "missing": missing,
        "errors": errors,
        "patched_cases": verified.patched,
        "patch_forms": patches.forms,
        "not_patched": patches.refused,
        "patch_refusals": refusals,
        "restored_form_xml": restored_xml,
        "removed_blob_metadata": removed_blobmeta,
        "operator_rules": rules.into_iter().map(|rule| without_values(rule, values)).collect::<Vec<_>>(),
        "accepted": decisions.iter().map(|entry| of_audit(entry, values)).collect::<Vec<_>>(),
        "audit_entries_left_out": left_out(entries, audit.len()),
        "runs_left_out": left_out(runs_in_all, runs.len()),
        "audit_log": audit.iter().map(|entry| of_audit(entry, values)).collect::<Vec<_>>(),
        "runs": runs.iter().map(of_run).collect::<Vec<_>>(),
    }))
}

fn groups(summary: &Summary, values: Values) -> Value {
    let shown = values == Values::Shown;
    let groups: Vec<Value> = summary
        .groups()
        .into_iter()
        .take(GROUPS)
        .map(|(key, group)| {
            let examples: Vec<Value> = group
                .examples
                .iter()
                .map(|example| match shown {
                    true => json!({"doc_id": example.doc_id, "couch": example.old, "sql": example.new}),
                    false => json!({"doc_id": example.doc_id}),
                })
                .collect();
            json!({
                "doc_type": key.doc_type, "path": key.path, "diff_type": key.diff_type, "reason": key.reason,
                "documents": group.documents, "diffs": group.diffs, "examples": examples,
            })
        })
        .collect();
    json!({
        "documents": summary.documents,
        "diffs": summary.diffs,
        "groups": groups,
        "groups_left_out": summary.groups().len().saturating_sub(GROUPS),
        "diffs_of_other_groups": summary.others,
    })
}

fn left_out(all: i64, shown: usize) -> i64 {
    (all - i64::try_from(shown).unwrap_or(all)).max(0)
}

fn of_audit(entry: &AuditRecord, values: Values) -> Value {
    let detail = serde_json::from_str(&entry.detail).unwrap_or(Value::Null);
    json!({
        "at": time(entry.at), "who": entry.who, "action": entry.action, "detail": without_values(detail, values),
    })
}

fn of_run(run: &RunRecord) -> Value {
    let seconds = run
        .ended_at
        .zip(run.started_at)
        .map(|(ended, started)| (ended - started).num_seconds());
    json!({
        "command": run.command, "who": run.who, "state": run.state, "outcome": run.outcome,
        "queued_at": time(run.queued_at), "started_at": run.started_at.map(time), "ended_at": run.ended_at.map(time),
        "seconds": seconds, "arguments": counted(serde_json::from_str(&run.arguments).unwrap_or(Value::Null)),
    })
}

/// The arguments of a run with the number of forms in the place of many ids.
fn counted(mut arguments: Value) -> Value {
    if let Some(forms) = arguments.get_mut("forms")
        && let Some(ids) = forms.as_array()
        && ids.len() > IDS
    {
        *forms = json!({"count": ids.len(), "first": ids[..IDS]});
    }
    arguments
}

/// A rule of an operator may name values of documents.
fn without_values(mut json: Value, values: Values) -> Value {
    if values == Values::Shown {
        return json;
    }
    match &mut json {
        Value::Object(object) => {
            for (key, value) in object.iter_mut() {
                if matches!(key.as_str(), "old" | "new") {
                    *value = json!("hidden");
                } else {
                    *value = without_values(value.take(), values);
                }
            }
        }
        Value::Array(list) => list
            .iter_mut()
            .for_each(|value| *value = without_values(value.take(), values)),
        _ => {}
    }
    json
}

fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn many_ids_of_a_run_are_counted() {
        let few = json!({"mode": "as_it_is", "forms": ["a", "b"]});
        assert_eq!(counted(few.clone()), few);
        let ids: Vec<String> = (0..=IDS).map(|number| number.to_string()).collect();
        let many = counted(json!({"mode": "as_it_is", "forms": ids}));
        assert_eq!(
            (&many["mode"], &many["forms"]["count"]),
            (&json!("as_it_is"), &json!(IDS + 1))
        );
        assert_eq!((left_out(503, 500), left_out(3, 3)), (3, 0));
    }

    #[test]
    fn values_of_rules_are_hidden_unless_asked_for() {
        let detail = json!({"rules": [{"name": "a", "old": {"value": "secret"}, "reason": "why"}]});
        let hidden = without_values(detail.clone(), Values::Hidden).to_string();
        assert!(!hidden.contains("secret") && hidden.contains("why"), "{hidden}");
        assert_eq!(without_values(detail.clone(), Values::Shown), detail);
    }

    #[test]
    fn files_are_named_after_the_domain_and_readable_by_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(file_name(&Domain::new("../a b")), PathBuf::from("___a_b-migration"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        write(&path, b"{}").unwrap();
        assert_eq!(mode(&path), 0o600);

        // Somebody else's file, and a link to one, are replaced.
        let (other, link) = (folder.path().join("other"), folder.path().join("link"));
        std::fs::write(&other, "theirs").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink(&other, &link).unwrap();
        for path in [&path, &link] {
            write(path, b"[]").unwrap();
            assert_eq!(mode(path), 0o600);
            assert_eq!(std::fs::read(path).unwrap(), b"[]");
        }
        assert_eq!(std::fs::read(&other).unwrap(), b"theirs");
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            3,
            "nothing is left over"
        );
    }
}
