//! Before a migration: which domains there are and how long they take (`domains`), what would stand in the way of one
//! (`plan`), and the notice to its customer (`support-request`). None of this writes anything.

mod classes;
mod domains;
mod estimate;
mod notice;

use std::time::Duration;

use proto::doctype::DocType;
use proto::ids::Domain;
use serde_json::{Value, json};
use state::Status;

use super::human;
use crate::context::Context;
use crate::domain_doc::DomainDoc;
use crate::driver::{check_blobs, couch_counts};
use crate::failure::{Exit, Failure, Result};
use crate::preflight;
use crate::rules::Mode;

pub use domains::domains;
use domains::last_submission;
use estimate::{Estimate, estimate};
pub use notice::support_request;

/// Bytes of HQ's databases for a form, its operations and blob metadata, and its transactions, with all indexes. Measured on
/// generated domains, and rounded up.
const TARGET_BYTES_PER_FORM: i64 = 2500;
/// The same for a case with its indices.
const TARGET_BYTES_PER_CASE: i64 = 2000;
/// Bytes of the state database for a form: its revision, and what is staged for its cases.
const STATE_BYTES_PER_FORM: i64 = 3000;
/// Room for vacuum, temporary tables and the write-ahead log: as much again.
const HEADROOM: i64 = 2;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// For people.
    Table,
    /// One JSON object.
    Json,
}

/// A check of the plan.
struct Check {
    what: &'static str,
    /// What was found.
    found: std::result::Result<String, Failure>,
}

/// Everything a plan has to say.
struct Plan {
    counts: Vec<(DocType, i64)>,
    last_form: Option<String>,
    checks: Vec<Check>,
    time: Option<Estimate>,
    learnt_from: usize,
    cache_wait: Duration,
}

/// Looks at a domain as a first `MIGRATE` would, and writes nothing: not in the state schema, not in HQ's databases, not in
/// CouchDB. The broker is not spoken to: to connect creates queues.
///
/// # Errors
/// Unknown domain; servers that cannot be reached.
pub async fn plan(context: &Context, domain: &Domain, shown: Shown) -> Result<Exit> {
    let doc = DomainDoc::read(&context.domains_db, domain).await?;
    let checks = checks(context, domain, &doc).await;
    let counts = couch_counts(context, domain).await?;
    let past = context.state.first_runs().await?;
    let plan = Plan {
        time: estimate(&past, total_forms(&counts)),
        last_form: last_submission(context, domain).await?,
        counts,
        checks,
        learnt_from: past.len(),
        cache_wait: context.config.hq.cache_wait(),
    };
    match shown {
        Shown::Json => println!("{}", plan.to_json(domain)),
        Shown::Table => print!("{}", plan.to_text(context, domain)),
    }
    Ok(if plan.is_ready() {
        Exit::Clean
    } else {
        Exit::Differences
    })
}

async fn checks(context: &Context, domain: &Domain, doc: &DomainDoc) -> Vec<Check> {
    let check = |what, found| Check { what, found };
    vec![
        check("domain", standing(context, domain, doc).await),
        check(
            "CouchDB's view",
            preflight::view(context).await.map(|()| "there".to_owned()),
        ),
        check(
            "HQ's tables",
            preflight::tables(context).await.map(|()| "as they must be".to_owned()),
        ),
        check("HQ's flag", flag(context, domain).await),
        check("rows in HQ's tables", rows(context, domain).await),
        check(
            "blob store",
            check_blobs(context, domain)
                .await
                .map(|()| "has XML of the domain's forms".to_owned()),
        ),
    ]
}

/// Whether `MIGRATE` would be allowed.
async fn standing(context: &Context, domain: &Domain, doc: &DomainDoc) -> Result<String> {
    let found = context.state.migration(domain).await?;
    preflight::allowed(context, domain, Mode::AsItIs, doc, found.as_ref())?;
    Ok(match found {
        Some(migration) if migration.status != Status::NotStarted => {
            format!("migration is {} already, phase {}", migration.status, migration.phase)
        }
        _ => "on Couch, not begun".to_owned(),
    })
}

async fn flag(context: &Context, domain: &Domain) -> Result<String> {
    let found = context.state.migration(domain).await?;
    let hq = preflight::flag(context, domain, preflight::status_of(found.as_ref())).await?;
    if let Some(migration) = &found {
        preflight::fence(context, domain, migration.epoch).await?;
    }
    Ok(hq.to_string())
}

async fn rows(context: &Context, domain: &Domain) -> Result<String> {
    let found = context.state.migration(domain).await?;
    if preflight::status_of(found.as_ref()) != Status::NotStarted {
        return Ok("of a migration that is on".to_owned());
    }
    preflight::no_rows(context, domain).await?;
    Ok("none".to_owned())
}

/// All forms, of whatever type.
fn total_forms(counts: &[(DocType, i64)]) -> i64 {
    counts
        .iter()
        .filter(|(kind, _)| kind.is_form())
        .map(|(_, count)| count)
        .sum()
}

impl Plan {
    fn is_ready(&self) -> bool {
        self.checks.iter().all(|check| check.found.is_ok())
    }

    /// (HQ's databases, state database), in bytes.
    fn disk(&self) -> (i64, i64) {
        let forms = total_forms(&self.counts);
        let cases: i64 = self
            .counts
            .iter()
            .filter(|(kind, _)| !kind.is_form())
            .map(|(_, count)| count)
            .sum();
        (
            HEADROOM * (forms * TARGET_BYTES_PER_FORM + cases * TARGET_BYTES_PER_CASE),
            HEADROOM * forms * STATE_BYTES_PER_FORM,
        )
    }

    fn to_text(&self, context: &Context, domain: &Domain) -> String {
        let mut text = format!("Plan for {domain}; nothing was changed.\n\nIn CouchDB\n");
        for (kind, count) in &self.counts {
            text.push_str(&format!("  {:<24} {count:>10}\n", kind.as_str()));
        }
        let last = self.last_form.as_deref().unwrap_or("none");
        text.push_str(&format!("  last submission          {last}\n\nChecks\n"));
        for check in &self.checks {
            let found = match &check.found {
                Ok(found) => format!("ok: {found}"),
                Err(failure) => format!("NOT OK: {failure}"),
            };
            text.push_str(&format!("  {:<24} {found}\n", check.what));
        }
        let attachments = if context.domain_options(domain).case_attachments {
            "cases keep attachments (domains.case_attachments)"
        } else {
            "cases keep no attachments"
        };
        text.push_str(&format!("\nOptions, frozen at the start\n  {attachments}\n\nTime\n"));
        text.push_str(&match self.time {
            Some(_) => format!(
                "  {} (learnt from {} first runs)\n",
                between(self.time),
                self.learnt_from
            ),
            None => "  unknown: no first run has ended here yet\n".to_owned(),
        });
        if !self.cache_wait.is_zero() {
            text.push_str(&format!(
                "  and twice {} for HQ's caches, once at the end of the run and once at COMMIT\n",
                human(self.cache_wait)
            ));
        }
        let (target, state) = self.disk();
        text.push_str(&format!(
            "\nDisk, with room for vacuum and logs\n  HQ's databases together  {}\n  state database           {}\n",
            bytes(target),
            bytes(state)
        ));
        text.push_str(
            "\nThe broker was not looked at, since to connect creates queues; `coordinator config check` does.\n",
        );
        text.push_str(if self.is_ready() { "Ready.\n" } else { "Not ready.\n" });
        text
    }

    fn to_json(&self, domain: &Domain) -> Value {
        let counts: serde_json::Map<String, Value> = self
            .counts
            .iter()
            .map(|(kind, count)| (kind.as_str().to_owned(), json!(count)))
            .collect();
        let checks: Vec<Value> = self
            .checks
            .iter()
            .map(|check| match &check.found {
                Ok(found) => json!({"check": check.what, "ok": true, "found": found}),
                Err(failure) => {
                    json!({"check": check.what, "ok": false, "code": failure.code, "found": failure.what})
                }
            })
            .collect();
        let (target, state) = self.disk();
        json!({
            "domain": domain.as_str(),
            "ready": self.is_ready(),
            "documents": counts,
            "last_submission": self.last_form,
            "checks": checks,
            "seconds": self.time.map(|time| json!({"low": time.low, "likely": time.likely, "high": time.high})),
            "learnt_from_runs": self.learnt_from,
            "target_bytes": target,
            "state_bytes": state,
        })
    }
}

/// An estimate for people.
fn between(time: Option<Estimate>) -> String {
    let Some(time) = time else {
        return "unknown".to_owned();
    };
    let shown = |seconds: f64| human(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
    format!(
        "{} to {}, likely {}",
        shown(time.low),
        shown(time.high),
        shown(time.likely)
    )
}

/// A number of bytes for people.
fn bytes(number: i64) -> String {
    let mut amount = number as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if amount < 1000.0 {
            return format!("{amount:.0} {unit}");
        }
        amount /= 1000.0;
    }
    format!("{amount:.1} TB")
}
