//! `stats`: how a migration stands. It only reads, and may be run at any time.

use std::sync::Arc;
use std::time::Duration;

use proto::doctype::DocType;
use proto::ids::Domain;
use serde_json::json;
use state::Status;
use state::blob_change::BlobOrigin;
use state::follow::Follow;
use state::operator_rules::IgnoredCount;
use state::patch::PatchCounts;
use state::stats::TypeStats;
use tokio_util::sync::CancellationToken;

use super::half_done::HalfDone;
use super::{behind, forecast, human};
use crate::context::Context;
use crate::domain_doc::DomainDoc;
use crate::driver::{MissingDocs, couch_counts, look_for_missing, stopped_for};
use crate::failure::{Exit, Result};
use crate::forecast::Forecast;

/// Lines of a listing at most.
const LISTED: i64 = 50;
/// Width of the first column.
const KIND_WIDTH: usize = 22;

/// How to show the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The table.
    #[default]
    Table,
    /// The table, with errors and missing ids below it.
    Verbose,
    /// One JSON object.
    Json,
}

/// Rows of the table, with what belongs below it.
struct Found {
    status: Status,
    rows: Vec<(DocType, TypeStats)>,
    errors: i64,
    parked: i64,
    dirty: i64,
    undiffed: i64,
    /// Those of them that Couch has changed after the cut-off of a live migration.
    young: i64,
    /// What operators' rules have set aside.
    ignored: Vec<IgnoredCount>,
    /// Forms whose lost XML was restored.
    restored_xml: i64,
    /// Rows of blob metadata that were removed.
    removed_blobmeta: i64,
    patches: PatchCounts,
    /// Forms that reached Couch after the domain was switched.
    late: i64,
    /// How a followed domain stands to the feed of changes.
    follow: Option<Follow>,
}

impl Found {
    /// What is too young for a live migration is no difference: its time comes with a later run.
    fn has_diffs(&self) -> bool {
        self.errors > 0
            || self.parked > 0
            || self.dirty > 0
            || self.undiffed > self.young
            || self.late > 0
            || self
                .rows
                .iter()
                .any(|(_, row)| row.diffs + row.missing + row.changes > 0)
    }
}

/// Prints the statistics of a domain.
///
/// # Errors
/// Unknown domain; servers that cannot be reached.
pub async fn stats(context: &Context, domain: &Domain, format: Format) -> Result<Exit> {
    let doc = DomainDoc::read(&context.domains_db, domain).await?;
    let migration = context.state.migration(domain).await?;
    let started = migration
        .as_ref()
        .is_some_and(|migration| migration.status != Status::NotStarted);
    let found = if started {
        recorded(context, domain).await?
    } else {
        counted(context, domain, doc.is_on_sql()).await?
    };
    let stopped = match &migration {
        Some(migration) => stopped_for(context, migration).await?,
        None => None,
    };
    let ahead = match &migration {
        Some(migration) if migration.status == Status::DryRun => Some(forecast::of(context, migration).await?),
        _ => None,
    };
    let half_done = match &migration {
        Some(migration) => HalfDone::of(context, migration).await?,
        None => HalfDone::default(),
    };
    if format == Format::Json {
        let mut shown = as_json(domain, &found, ahead.as_ref(), stopped);
        shown["half_done"] = half_done.to_json();
        println!("{shown}");
        return Ok(Exit::Clean);
    }
    println!("Couch to SQL migration status for {domain}: {}", found.status);
    if let Some(migration) = &migration
        && started
    {
        let driver = migration
            .driver
            .as_deref()
            .map_or_else(|| "nobody drives it".to_owned(), |name| format!("driven by {name}"));
        println!("phase: {} ({driver})", migration.phase);
        if let Some(stopped) = stopped {
            println!("HQ has refused submissions for {}.", human(stopped));
        }
        if let Some(follow) = &found.follow {
            println!("changes: {}", behind::behind(follow, context.state.now().await?));
        }
    }
    for line in half_done.lines() {
        println!("{line}");
    }
    print_table(&found.rows, "");
    print_pending(domain, &found);
    if let Some(ahead) = &ahead {
        println!("{}", forecast::line(ahead));
    }
    if format == Format::Verbose
        && let Some(migration) = migration
    {
        print_lists(context, &migration).await?;
    }
    Ok(Exit::Clean)
}

/// Prints the status of a domain, and what CouchDB has of it, whatever is on record.
///
/// # Errors
/// Unknown domain; servers that cannot be reached.
pub async fn info(context: &Context, domain: &Domain) -> Result<Exit> {
    let doc = DomainDoc::read(&context.domains_db, domain).await?;
    let mut found = counted(context, domain, doc.is_on_sql()).await?;
    if let Some(migration) = context.state.migration(domain).await? {
        found.status = migration.status;
    }
    println!("Couch to SQL migration status for {domain}: {}", found.status);
    print_table(&found.rows, "");
    Ok(Exit::Clean)
}

/// Prints the table after a run, with only the rows that have something. Whether the migration is clean.
pub(crate) async fn print_after_run(context: &Context, domain: &Domain) -> Result<bool> {
    let mut found = recorded(context, domain).await?;
    found.rows.retain(|(_, row)| *row != TypeStats::default());
    println!("Couch to SQL migration status for {domain}: {}", found.status);
    print_table(&found.rows, "");
    print_pending(domain, &found);
    Ok(!found.has_diffs())
}

/// Looks for documents that only one side has, then prints the statistics.
///
/// # Errors
/// The refusal, or what went wrong; what was found stays on record.
pub async fn stats_after_look(
    context: &Arc<Context>,
    domain: &Domain,
    format: Format,
    how: MissingDocs,
    stop: CancellationToken,
) -> Result<Exit> {
    if how != MissingDocs::Cached {
        super::couch_sql_diff::cases::may_compare(context, domain).await?;
        let migration = super::migration_of(context, domain).await?;
        if !look_for_missing(context, &migration, how, stop).await? {
            return Ok(Exit::Stopped);
        }
    }
    stats(context, domain, format).await
}

async fn recorded(context: &Context, domain: &Domain) -> Result<Found> {
    let migration = super::migration_of(context, domain).await?;
    let obstacles = context.state.obstacles(migration.id).await?;
    let (restored_xml, removed_blobmeta) = context.state.blob_repairs(migration.id).await?;
    Ok(Found {
        status: migration.status,
        rows: context.state.type_stats(migration.id).await?,
        errors: obstacles.errors.iter().map(|(_, count)| count).sum(),
        parked: obstacles.parked,
        dirty: obstacles.dirty,
        undiffed: obstacles.undiffed,
        young: context.state.young_cases(migration.id).await?,
        ignored: context.state.ignored_counts(migration.id).await?,
        restored_xml,
        removed_blobmeta,
        patches: context.state.patch_counts(migration.id).await?,
        late: context.state.late_forms(migration.id, 0).await?.0,
        follow: context.state.following(migration.id).await?,
    })
}

/// Without a migration, the counts are those of Couch.
async fn counted(context: &Context, domain: &Domain, on_sql: bool) -> Result<Found> {
    let rows = couch_counts(context, domain).await?;
    let rows = rows
        .into_iter()
        .map(|(kind, docs)| {
            (
                kind,
                TypeStats {
                    docs,
                    ..TypeStats::default()
                },
            )
        })
        .collect();
    let status = if on_sql { Status::Complete } else { Status::NotStarted };
    Ok(Found {
        status,
        rows,
        errors: 0,
        parked: 0,
        dirty: 0,
        undiffed: 0,
        young: 0,
        ignored: Vec::new(),
        restored_xml: 0,
        removed_blobmeta: 0,
        patches: PatchCounts::default(),
        late: 0,
        follow: None,
    })
}

/// Prints the rows that have something, indented, below the line of the domain in a list; nothing without differences.
pub(crate) async fn print_indented(context: &Context, domain: &Domain) -> Result<()> {
    let mut found = recorded(context, domain).await?;
    if found.has_diffs() {
        found.rows.retain(|(_, row)| *row != TypeStats::default());
        print_table(&found.rows, "    ");
    }
    Ok(())
}

fn print_table(rows: &[(DocType, TypeStats)], indent: &str) {
    println!(
        "{indent}{:KIND_WIDTH$} {:>10} {:>8} {:>8} {:>8}",
        "", "Docs", "Diffs", "Missing", "Changes"
    );
    for (kind, row) in rows {
        let line = format!(
            "{indent}{:KIND_WIDTH$} {:>10} {:>8} {:>8} {:>8}",
            kind.as_str(),
            row.docs,
            blank_zero(row.diffs),
            blank_zero(row.missing),
            blank_zero(row.changes)
        );
        println!("{}", line.trim_end());
    }
}

fn blank_zero(count: i64) -> String {
    if count == 0 { String::new() } else { count.to_string() }
}

fn print_pending(domain: &Domain, found: &Found) {
    if found.dirty > 0 {
        println!("There are {} cases to replay.", found.dirty);
    }
    if found.undiffed > found.young {
        println!(
            "There are {} case diffs pending. `couch_sql_diff {domain} cases --select=pending` compares them.",
            found.undiffed - found.young
        );
    }
    if found.young > 0 {
        println!(
            "There are {} cases that changed after the cut-off of the live migration: a later run compares them.",
            found.young
        );
    }
    if found.errors > 0 {
        println!(
            "There are {} documents with errors: `stats --verbose` lists them; MIGRATE tries them again.",
            found.errors
        );
    }
    for ignored in &found.ignored {
        println!(
            "{} differences of {} {} documents are set aside by the operator's rule {}.",
            ignored.diffs, ignored.documents, ignored.kind, ignored.rule
        );
    }
    if found.restored_xml > 0 {
        println!(
            "There are {} forms whose form.xml was lost and has been restored: `stats --verbose` lists them.",
            found.restored_xml
        );
    }
    if found.removed_blobmeta > 0 {
        println!(
            "{} rows of blob metadata led to no blob and were removed; `reset` would put them back.",
            found.removed_blobmeta
        );
    }
    if found.patches.cases > 0 {
        println!(
            "{} cases were patched: `couch_sql_diff {domain} show --patched` shows what was recorded.",
            found.patches.cases
        );
    }
    if found.patches.refused > 0 {
        println!(
            "{} records could not be patched: `stats --verbose` tells why.",
            found.patches.refused
        );
    }
    if found.late > 0 {
        println!(
            "{} or more forms reached Couch after the domain was switched: they are not in SQL; `stats --verbose` lists them.",
            found.late
        );
    }
    if found.rows.iter().any(|(_, row)| row.missing > 0) {
        println!("Run MIGRATE again for what is missing in SQL; `stats --verbose` lists it.");
    }
    if found.rows.iter().any(|(_, row)| row.diffs + row.changes > 0) {
        println!("Look at differences with `couch_sql_diff {domain} show`.");
    }
}

async fn print_lists(context: &Context, migration: &state::Migration) -> Result<()> {
    let errors = context.state.error_records(migration.id, LISTED).await?;
    if !errors.is_empty() {
        println!("\nErrors (the first {LISTED} at most):");
    }
    for error in errors {
        println!("  {} {} {}: {}", error.kind, error.doc_id, error.code, error.message);
    }
    let missing = context.state.missing_records(migration.id, LISTED).await?;
    if !missing.is_empty() {
        println!("\nMissing in SQL (the first {LISTED} at most):");
    }
    for (kind, doc_id) in missing {
        println!("  {kind} {doc_id}");
    }
    let refusals = context.state.patch_refusals(migration.id, LISTED).await?;
    if !refusals.is_empty() {
        println!("\nNot patched (the first {LISTED} at most):");
    }
    for refusal in &refusals {
        println!("  {}", super::patch::refused(refusal));
    }
    let (_, late) = context.state.late_forms(migration.id, LISTED).await?;
    if !late.is_empty() {
        println!("\nReached Couch after the switch (the first {LISTED} at most):");
    }
    for form_id in late {
        println!("  {form_id}");
    }
    let restored = context.state.restored_xml(migration.id, LISTED).await?;
    if !restored.is_empty() {
        println!("\nForms with restored XML (the first {LISTED} at most):");
    }
    for form in restored {
        let origin = match form.origin {
            BlobOrigin::XmlProperty => "from the document's #xml",
            _ => "rebuilt from the document's form JSON",
        };
        println!("  {} {origin}, blob {}", form.form_id, form.key);
    }
    Ok(())
}

fn as_json(domain: &Domain, found: &Found, ahead: Option<&Forecast>, stopped: Option<Duration>) -> serde_json::Value {
    let rows: Vec<_> = found
        .rows
        .iter()
        .map(|(kind, row)| json!({"doc_type": kind.as_str(), "docs": row.docs, "diffs": row.diffs, "missing": row.missing, "changes": row.changes}))
        .collect();
    let ignored: Vec<_> = found
        .ignored
        .iter()
        .map(|ignored| {
            json!({"rule": ignored.rule, "doc_type": ignored.kind, "documents": ignored.documents, "diffs": ignored.diffs})
        })
        .collect();
    json!({
        "domain": domain.as_str(),
        "status": found.status.as_str(),
        "doc_types": rows,
        "errors": found.errors,
        "parked_batches": found.parked,
        "cases_to_replay": found.dirty,
        "pending_case_diffs": found.undiffed,
        "cases_after_cutoff": found.young,
        "ignored_by_operator_rules": ignored,
        "restored_form_xml": found.restored_xml,
        "removed_blob_metadata": found.removed_blobmeta,
        "patched_cases": found.patches.cases,
        "patch_refusals": found.patches.refused,
        "late_forms": found.late,
        "submissions_stopped_seconds": stopped.map(|stopped| stopped.as_secs_f64()),
        "forecast": ahead.map(|ahead| forecast::as_json(domain, ahead)),
        "follow": found.follow.as_ref().map(behind::as_json),
    })
}
