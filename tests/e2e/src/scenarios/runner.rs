//! Runs scenarios side by side in one world.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::commands::{command_output, interfered, interrupted};
use super::expected::{BlobmetaChanges, Expected, Record, Row};
use super::folder::{Description, Folder, Step, home};
use super::input::{self, Defaults};
use super::outcome::Report;
use super::patches::PatchNames;
use super::rows::{BLOBMETA, CASE, FORM, OF_CASES, OPERATION, Reader, Table};
use super::{changes, compare};
use crate::load;
use crate::settings::Settings;
use crate::world::{Options, World};

/// Scenarios at a time; each has one command at a time.
pub const AT_A_TIME: usize = 6;

/// The world of a run, and what all scenarios share.
pub(super) struct Stage {
    pub(super) world: Mutex<World>,
    reader: Reader,
    pub(super) defaults: Defaults,
    /// When it began, as columns show times.
    began: String,
}

/// Runs scenarios. What is wrong with one is in the report.
///
/// # Errors
/// A file cannot be read; the servers cannot be reached; a process ended by itself.
pub async fn run(mut folders: Vec<Folder>) -> Result<Report> {
    let started = Instant::now();
    let defaults = Defaults::read(&home())?;
    let mut settings = Settings::for_tests();
    settings.set("telemetry.log_filter", "\"warn\"");
    // As in HQ; what is younger waits for the end of a live migration.
    settings.set("live.minimum_age", "\"1h\"");
    settings.set(
        "domains.case_attachments",
        domains(&folders, |description| description.case_attachments),
    );
    settings.set(
        "domains.restricted",
        domains(&folders, |description| description.restricted),
    );
    let world = World::start(Options {
        settings,
        ..Options::default()
    })
    .await?;
    for folder in &mut folders {
        folder.set_forms_db(world.source().forms().name());
    }
    let began: String = world
        .target()
        .query_one(
            "select to_char(now() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
            &[],
        )
        .await?
        .try_get(0)?;
    let stage = Stage {
        reader: Reader::new(world.target()).await?,
        world: Mutex::new(world),
        defaults,
        began,
    };
    let mut report = Report::default();
    let playing = &stage;
    let mut running = futures::stream::iter(&folders)
        .map(|folder| async move {
            let began = Instant::now();
            let problems = match play(playing, folder).await {
                Ok(problems) => problems,
                Err(error) => vec![format!("{error:#}")],
            };
            (folder, problems, began.elapsed())
        })
        .buffer_unordered(AT_A_TIME);
    while let Some((folder, problems, took)) = running.next().await {
        report.add(folder, problems, took);
    }
    drop(running);
    report.sort();
    report.took = started.elapsed();
    stage.world.into_inner().end()?;
    Ok(report)
}

/// The domains of these scenarios, as a list in TOML.
fn domains(folders: &[Folder], are_meant: impl Fn(&Description) -> bool) -> String {
    let meant = folders.iter().filter(|folder| are_meant(&folder.description));
    let names: Vec<String> = meant.map(|folder| format!("\"{}\"", folder.domain)).collect();
    format!("[{}]", names.join(", "))
}

/// Plays a scenario; what is wrong, each a line.
async fn play(stage: &Stage, folder: &Folder) -> Result<Vec<String>> {
    if !folder.plays() {
        return Ok(Vec::new());
    }
    let mut loaded = Vec::new();
    let own = input::read(folder, &stage.defaults, Path::new(""))?;
    changes::put(stage, own, &mut loaded).await?;
    let domain = json!({"doc_type": "Domain", "name": folder.domain, "use_sql_backend": false});
    let mut domain = stage.defaults.fill(folder, "domain document", &domain)?;
    domain.insert("_id".to_owned(), json!(format!("domain-{}", folder.domain)));
    load::write_documents(stage.world.lock().await.source().domains(), &[Value::Object(domain)]).await?;
    let mut problems = Vec::new();
    let steps = folder.description.steps.len();
    for (number, step) in folder.description.steps.iter().enumerate() {
        let found = play_step(stage, folder, step, &mut loaded).await?;
        let place = if steps > 1 {
            format!("step {}: ", number + 1)
        } else {
            String::new()
        };
        problems.extend(found.into_iter().map(|problem| format!("{place}{problem}")));
        if !problems.is_empty() {
            break;
        }
    }
    Ok(problems)
}

async fn play_step(stage: &Stage, folder: &Folder, step: &Step, loaded: &mut Vec<Row>) -> Result<Vec<String>> {
    changes::make(stage, folder, &step.changes(), loaded).await?;
    let mut problems = Vec::new();
    if let Some(command) = &step.run {
        let output = match &step.meanwhile {
            Some(meanwhile) => interfered(stage, folder, command, meanwhile, loaded).await?,
            None if step.interrupt > 0 => interrupted(stage, folder, command, step.interrupt).await?,
            None => command_output(stage, folder, command).await?,
        };
        if output.status != Some(step.status) {
            problems.push(format!("expected exit status {}: {}", step.status, output.told()));
        }
        for text in &step.says {
            let text = folder.in_domain(text);
            if !output.stdout.contains(&text) && !output.stderr.contains(&text) {
                problems.push(format!("nothing says {text:?}: {}", output.told()));
            }
        }
    }
    if let Some(file) = &step.expect {
        let expected = Expected::read(folder, &stage.defaults, file)?;
        problems.extend(look(stage, folder, &expected, loaded).await?);
    }
    Ok(problems)
}

/// Compares everything.
async fn look(stage: &Stage, folder: &Folder, expected: &Expected, loaded: &[Row]) -> Result<Vec<String>> {
    let output = command_output(stage, folder, "stats --json").await?;
    let stats: Value = serde_json::from_str(&output.stdout).with_context(|| output.told())?;
    let mut problems = compare_stats(&stats, expected);
    let world = stage.world.lock().await;
    let domain = &folder.domain;

    let forms = with_children(stage, &world, FORM, "form_id", &[OPERATION], domain).await?;
    let cases = with_children(stage, &world, CASE, "case_id", &OF_CASES, domain).await?;
    let names = PatchNames::of(&forms, &cases);
    let (forms, cases) = (names.in_rows(forms)?, names.in_rows(cases)?);
    problems.extend(compare::by_key(
        "form",
        "form_id",
        &expected.forms,
        &forms,
        &stage.began,
    ));
    for (wanted, found) in pairs(&expected.forms, &forms, "form_id") {
        problems.extend(operations_in_order(wanted, found));
    }
    problems.extend(compare::by_key(
        "case",
        "case_id",
        &expected.cases,
        &cases,
        &stage.began,
    ));
    let metadata = names.in_rows(stage.reader.rows(world.target(), &BLOBMETA, domain).await?)?;
    let wanted = changed_metadata(&expected.blobmeta, loaded)?;
    problems.extend(compare::in_any_order("blob metadata", &wanted, &metadata, &stage.began));
    for written in &expected.written {
        let key = metadata
            .iter()
            .find(|row| row["parent_id"] == written.parent_id && row["name"] == written.name)
            .and_then(|row| row["key"].as_str());
        let content = match key {
            Some(key) => std::fs::read_to_string(world.folder().join("blobs").join(key)).unwrap_or_default(),
            None => String::new(),
        };
        for text in written.contains.iter().filter(|text| !content.contains(text.as_str())) {
            problems.push(format!(
                "{} of {} lacks {text:?}: {content}",
                written.name, written.parent_id
            ));
        }
    }

    problems.extend(compare::records(
        "diffs",
        &expected.diffs,
        &records(&world, domain, "doc_diff", &names).await?,
    ));
    problems.extend(compare::records(
        "changes",
        &expected.changes,
        &records(&world, domain, "doc_change", &names).await?,
    ));
    let not_patched: Vec<(String, String)> = state_rows(&world, domain, "standing_patch_refusal", "doc_id, code")
        .await?
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    problems.extend(compare::sets("not patched", &expected.not_patched, &not_patched));
    let missing: Vec<(String, String)> = state_rows(&world, domain, "missing_doc", "kind, doc_id")
        .await?
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    problems.extend(compare::sets("missing", &expected.missing, &missing));
    let errors: Vec<(String, String, String)> = state_rows(&world, domain, "doc_error", "kind, doc_id, code")
        .await?
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    problems.extend(compare::sets("errors", &expected.errors, &errors));
    if !expected.domain.is_empty() {
        let found = world.source().domain_doc(domain).await?;
        for (member, value) in &expected.domain {
            if found[member] != *value {
                problems.push(format!(
                    "Domain document: {member}: expected {value}, found {}",
                    found[member]
                ));
            }
        }
    }
    for wanted in &expected.couch {
        let id = wanted["_id"].as_str().unwrap_or_default();
        let forms = world.source().forms().name();
        let found = world.source().stand_in().get(forms, id).unwrap_or_default();
        for (member, value) in wanted.as_object().into_iter().flatten() {
            if found[member] != *value {
                problems.push(format!(
                    "Couch {id}: {member}: expected {value}, found {}",
                    found[member]
                ));
            }
        }
    }
    Ok(problems)
}

fn pairs<'a>(expected: &'a [Row], found: &'a [Row], key: &'a str) -> impl Iterator<Item = (&'a Row, &'a Row)> {
    expected
        .iter()
        .filter_map(move |row| Some((row, found.iter().find(|other| other.get(key) == row.get(key))?)))
}

/// Operations have an order, which their serial numbers keep.
fn operations_in_order(expected: &Row, found: &Row) -> Vec<String> {
    let texts = |row: &Row| -> Vec<Value> {
        let list = row.get(OPERATION.list).and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .map(|item| item["operation"].clone())
            .collect()
    };
    let (wanted, present) = (texts(expected), texts(found));
    if wanted == present {
        return Vec::new();
    }
    vec![format!(
        "form {}: operations in the order {present:?}",
        expected["form_id"]
    )]
}

async fn with_children(
    stage: &Stage,
    world: &World,
    table: Table,
    key: &str,
    children: &[Table],
    domain: &str,
) -> Result<Vec<Row>> {
    let mut parents = stage.reader.rows(world.target(), &table, domain).await?;
    for child in children {
        let rows = stage.reader.rows(world.target(), child, domain).await?;
        for parent in &mut parents {
            let own: Vec<Value> = rows
                .iter()
                .filter(|row| row.get(key) == parent.get(key))
                .cloned()
                .map(Value::Object)
                .collect();
            parent.insert(child.list.to_owned(), Value::Array(own));
        }
    }
    Ok(parents)
}

/// Blob metadata as it was loaded, with the expected changes.
fn changed_metadata(changes: &BlobmetaChanges, loaded: &[Row]) -> Result<Vec<Row>> {
    let mut rows = loaded.to_vec();
    for key in &changes.removed {
        let place = rows.iter().position(|row| row["key"] == *key);
        rows.remove(place.with_context(|| format!("no blob metadata {key} was loaded"))?);
    }
    for change in &changes.changed {
        let row = rows.iter_mut().find(|row| row.get("key") == change.get("key"));
        let row = row.with_context(|| format!("no blob metadata {:?} was loaded", change.get("key")))?;
        row.extend(change.clone());
    }
    rows.extend(changes.added.iter().cloned());
    Ok(rows)
}

fn compare_stats(stats: &Value, expected: &Expected) -> Vec<String> {
    let mut problems = Vec::new();
    let wanted = expected.status.as_deref().unwrap_or("in_progress");
    if stats["status"] != wanted {
        problems.push(format!("status: expected {wanted}, found {}", stats["status"]));
    }
    let counts = [
        ("errors", expected.errors.len()),
        ("parked_batches", 0),
        ("cases_to_replay", 0),
        ("pending_case_diffs", expected.pending),
        ("patch_refusals", expected.not_patched.len()),
        ("patched_cases", patched_cases(expected)),
    ];
    for (name, count) in counts {
        if stats[name] != json!(count) {
            problems.push(format!("stats: {name}: expected {count}, found {}", stats[name]));
        }
    }
    for row in stats["doc_types"].as_array().into_iter().flatten() {
        let kind = row["doc_type"].as_str().unwrap_or_default();
        for column in ["docs", "diffs", "missing", "changes"] {
            let count = expected
                .stats
                .get(kind)
                .map_or(0, |counts| counts[column].as_u64().unwrap_or(0));
            if row[column] != json!(count) {
                problems.push(format!(
                    "stats: {column} of {kind}: expected {count}, found {}",
                    row[column]
                ));
            }
        }
    }
    problems
}

fn patched_cases(expected: &Expected) -> usize {
    let cases = expected
        .patches
        .iter()
        .map(|patch| patch.get("case_id").and_then(Value::as_str));
    cases.collect::<std::collections::BTreeSet<_>>().len()
}

async fn state_rows(world: &World, domain: &str, table: &str, columns: &str) -> Result<Vec<tokio_postgres::Row>> {
    let sql =
        format!("select {columns} from {table} where migration_id in (select id from migration where domain = $1)");
    world.state().query(&sql, &[&domain]).await.context(sql)
}

async fn records(world: &World, domain: &str, table: &str, names: &PatchNames) -> Result<Vec<Record>> {
    let reason = if table == "doc_change" { "reason" } else { "null::text" };
    let columns = format!("kind, doc_id, diffs, {reason}");
    let mut records = Vec::new();
    for row in state_rows(world, domain, table, &columns).await? {
        let text = names.in_text(row.get(2));
        records.push(Record {
            kind: row.get(0),
            doc_id: row.get(1),
            reason: row.get(3),
            diffs: serde_json::from_str(&text).with_context(|| format!("diffs that are no list: {text}"))?,
        });
    }
    Ok(records)
}
