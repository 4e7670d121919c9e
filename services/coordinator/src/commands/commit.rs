//! `COMMIT`: makes a domain use SQL.
//!
//! The steps, each recorded before the next is taken, and each safe to repeat:
//!
//! 1. intent: the decision and the revision of the Domain document are on record;
//! 2. fenced: the target's fences are closed, so that no worker can write any more;
//! 3. switched: the Domain document says SQL. HQ's caches are told, and given the time they need;
//! 4. done: HQ's progress rows say complete.
//!
//! A commit that died anywhere goes on from its last step when it is run again. Between the intent and the end, only that
//! or an explicit abort is allowed; the abort writes the Domain document back to Couch before anything else.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use proto::doctype::DocType;
use proto::ids::Domain;
use serde_json::json;
use state::Phase;
use state::commit::Obstacles;
use state::migration::{CommitStep, DriverLease, Migration};
use state::scan::form_scan;

use super::{Confirmation, HeldDomain, confirm, migration_of};
use crate::context::Context;
use crate::domain_doc::DomainDoc;
use crate::driver::scan_page_after;
use crate::failure::{Exit, Failure, Result};
use crate::rules::{Command, Situation, allow};

/// Forms of the list of late ones at most.
const LATE_LISTED: usize = 20;
/// Attempts to write a Domain document that others write too.
const SWITCH_ATTEMPTS: usize = 5;

/// Kinds of differences that the operator accepts.
#[derive(Clone, Debug, Default)]
pub struct Accepted {
    /// Document types, or `errors`, or `all`.
    kinds: BTreeSet<String>,
}

impl Accepted {
    /// From a comma-separated list of document types, `errors` and `all`.
    ///
    /// # Errors
    /// `C2S-0104` for a kind that does not exist.
    pub fn parse(text: &str) -> Result<Self> {
        let kinds: BTreeSet<String> = text
            .split(',')
            .map(str::trim)
            .filter(|kind| !kind.is_empty())
            .map(str::to_owned)
            .collect();
        for kind in &kinds {
            if kind != "errors" && kind != "all" && DocType::parse(kind).is_none() {
                let known: Vec<&str> = DocType::ALL.iter().map(|kind| kind.as_str()).collect();
                return Err(Failure::new(
                    "C2S-0104",
                    format!("--accept-diffs: {kind} is not a kind of difference"),
                    format!("use document types ({}), errors, or all", known.join(", ")),
                ));
            }
        }
        Ok(Self { kinds })
    }

    fn has(&self, kind: &str) -> bool {
        self.kinds.contains("all") || self.kinds.contains(kind)
    }
}

/// What a finished run found, in a few words.
pub(crate) fn verdict(obstacles: &Obstacles) -> String {
    let reasons = against(obstacles, &Accepted::default());
    if reasons.is_empty() {
        "clean: COMMIT may follow".to_owned()
    } else {
        reasons.join("; ")
    }
}

/// What a finished run of a live migration found. Cases that are still pending are those that changed after the cut-off.
pub(crate) fn live_verdict(obstacles: &Obstacles, cutoff: DateTime<Utc>) -> String {
    let pending = obstacles.undiffed;
    let obstacles = Obstacles {
        undiffed: 0,
        ..obstacles.clone()
    };
    let reasons = against(&obstacles, &Accepted::default());
    let found = if reasons.is_empty() {
        "no differences".to_owned()
    } else {
        reasons.join("; ")
    };
    format!(
        "live up to {}: {found}; {pending} cases changed later; MIGRATE again takes what has come since, MIGRATE --finish the rest",
        cutoff.format("%Y-%m-%d %H:%M:%S UTC")
    )
}

/// What stands against a commit, but for what is accepted.
fn against(obstacles: &Obstacles, accepted: &Accepted) -> Vec<String> {
    let mut reasons = Vec::new();
    // These say that the work is not done: no one can accept them.
    for (count, what) in [
        (obstacles.open_batches, "batches are open"),
        (obstacles.dirty, "cases are not replayed"),
        (obstacles.undiffed, "cases are not diffed"),
        (obstacles.other_rules, "staged forms are of other document rules"),
    ] {
        if count > 0 {
            reasons.push(format!("{count} {what}"));
        }
    }
    if obstacles.parked > 0 && !accepted.has("errors") {
        reasons.push(format!("{} batches are set aside", obstacles.parked));
    }
    if !accepted.has("errors") {
        reasons.extend(
            obstacles
                .errors
                .iter()
                .map(|(kind, count)| format!("{count} {kind} with errors")),
        );
    }
    for (list, what) in [
        (&obstacles.diffs, "with diffs"),
        (&obstacles.missing, "missing"),
        (&obstacles.changes, "with changes"),
    ] {
        reasons.extend(
            list.iter()
                .filter(|(kind, _)| !accepted.has(kind))
                .map(|(kind, count)| format!("{count} {kind} {what}")),
        );
    }
    reasons
}

/// Commits.
///
/// # Errors
/// The refusal with its reasons, or what went wrong; running it again goes on from the last step.
pub async fn commit(
    context: &Context,
    domain: &Domain,
    accepted: &Accepted,
    confirmation: Confirmation,
) -> Result<Exit> {
    let doc = DomainDoc::read(&context.domains_db, domain).await?;
    let found = context.state.migration(domain).await?;
    allow(
        Command::Commit,
        Situation {
            migration: found.as_ref(),
            on_sql: doc.is_on_sql(),
        },
    )?;
    let held = HeldDomain::take(context, &migration_of(context, domain).await?).await?;
    let result = commit_held(context, &held, accepted, confirmation).await;
    held.give_back(context).await?;
    result
}

async fn commit_held(
    context: &Context,
    held: &HeldDomain,
    accepted: &Accepted,
    confirmation: Confirmation,
) -> Result<Exit> {
    let (migration, lease) = (&held.migration, &held.lease);
    let domain = &migration.domain;
    let doc = DomainDoc::read(&context.domains_db, domain).await?;
    allow(
        Command::Commit,
        Situation {
            migration: Some(migration),
            on_sql: doc.is_on_sql(),
        },
    )?;
    if migration.commit_step.is_none() {
        check(context, migration, accepted).await?;
        confirm(&format!("Make {domain} use SQL? This cannot be undone."), confirmation)?;
        let doc = DomainDoc::read(&context.domains_db, domain).await?;
        let detail = json!({ "accepted": accepted.kinds, "domain_rev": doc.rev() });
        context
            .state
            .audit(domain, &context.operator, "COMMIT", &detail)
            .await?;
        context
            .state
            .set_commit_step(lease, CommitStep::Intent, Some(doc.rev()))
            .await?;
    } else {
        eprintln!("COMMIT of {domain} goes on from where it was interrupted");
    }
    let step = migration.commit_step.unwrap_or(CommitStep::Intent);
    if step < CommitStep::Fenced {
        context.target.close_fence(domain, migration.epoch).await?;
        context.state.set_commit_step(lease, CommitStep::Fenced, None).await?;
    }
    if step < CommitStep::Switched {
        switch_to_sql(context, lease, domain).await?;
        context.tell_hq(domain).await?;
        context.state.set_commit_step(lease, CommitStep::Switched, None).await?;
    }
    settle(context, domain).await?;
    // The lease is checked once more before HQ lets submissions through.
    context.state.set_commit_step(lease, CommitStep::Switched, None).await?;
    context.target.set_complete(domain, context.state.now().await?).await?;
    context.tell_hq(domain).await?;
    context.state.set_commit_step(lease, CommitStep::Done, None).await?;
    println!("{domain} is on SQL.");
    warn_of_late_forms(context, migration).await
}

/// Everything that must be true before the intent.
async fn check(context: &Context, migration: &Migration, accepted: &Accepted) -> Result<()> {
    let domain = &migration.domain;
    if migration.phase != Phase::Finished {
        return Err(Failure::new(
            "C2S-4040",
            format!("the migration of {domain} has not finished (phase {})", migration.phase),
            "run MIGRATE until it ends",
        ));
    }
    let reasons = against(&context.state.obstacles(migration.id).await?, accepted);
    if !reasons.is_empty() {
        return Err(Failure::new(
            "C2S-4041",
            format!("{domain} is not clean: {}", reasons.join("; ")),
            "look at them with `couch_sql_diff show` and `stats --verbose`, run MIGRATE again when they are mended, or accept them by --accept-diffs",
        ));
    }
    let late = late_forms(context, migration).await?;
    if !late.is_empty() {
        return Err(Failure::new(
            "C2S-4042",
            format!(
                "{} or more forms reached Couch after the last scan of {domain}",
                late.len()
            ),
            "run MIGRATE again",
        ));
    }
    let fence = context.target.fence(domain).await?;
    if fence != Some((migration.epoch, true)) {
        return Err(Failure::new(
            "C2S-4046",
            format!("the target's fence of {domain} is not open at the epoch of this migration"),
            "run MIGRATE again; if that says needs_reconcile, find out which state schema the target belongs to",
        ));
    }
    Ok(())
}

/// Writes the Domain document against the revision that is on record. When HQ has changed something else in it meanwhile,
/// the new revision goes on record first, which only the holder of the lease can do: a command that was stopped for long
/// and continued after an abort cannot switch the domain.
async fn switch_to_sql(context: &Context, lease: &DriverLease, domain: &Domain) -> Result<()> {
    for _ in 0..SWITCH_ATTEMPTS {
        let doc = DomainDoc::read(&context.domains_db, domain).await?;
        if doc.is_on_sql() {
            return Ok(());
        }
        context
            .state
            .set_commit_step(lease, CommitStep::Fenced, Some(doc.rev()))
            .await?;
        match doc.switch(&context.domains_db, true).await {
            Err(couch::Error::Conflict) => {}
            other => return Ok(other?),
        }
    }
    Err(keeps_changing(domain))
}

/// Writes the Domain document to say Couch, even if it does: its revision moves, so that a COMMIT that was stopped cannot
/// go on with what it had read.
async fn switch_to_couch(context: &Context, domain: &Domain) -> Result<()> {
    for _ in 0..SWITCH_ATTEMPTS {
        let doc = DomainDoc::read(&context.domains_db, domain).await?;
        match doc.switch(&context.domains_db, false).await {
            Err(couch::Error::Conflict) => {}
            other => return Ok(other?),
        }
    }
    Err(keeps_changing(domain))
}

fn keeps_changing(domain: &Domain) -> Failure {
    Failure::new(
        "C2S-4043",
        format!("the Domain document of {domain} keeps changing"),
        "run the command again",
    )
}

/// HQ's processes may hold the old Domain document for a while: the progress flag blocks submissions until that is over.
async fn settle(context: &Context, domain: &Domain) -> Result<()> {
    let wait = context.config.hq.cache_wait();
    if !wait.is_zero() {
        eprintln!(
            "waiting {} for HQ's caches of {domain}; submissions stay blocked until then",
            super::human(wait)
        );
        tokio::time::sleep(wait).await;
    }
    // The switch must have been seen by whoever reads Couch afterwards.
    if DomainDoc::read(&context.domains_db, domain).await?.is_on_sql() {
        return Ok(());
    }
    Err(Failure::new(
        "C2S-4044",
        format!("the Domain document of {domain} says Couch again"),
        "find out who wrote it, then run COMMIT again",
    ))
}

/// Forms that the view lists after the place where the last scan ended.
async fn late_forms(context: &Context, migration: &Migration) -> Result<Vec<String>> {
    let mut late = Vec::new();
    for doc_type in DocType::FORMS {
        let cursor = context.state.cursor(migration.id, &form_scan(doc_type)).await?;
        let page = scan_page_after(context, &migration.domain, doc_type, &cursor, LATE_LISTED).await?;
        late.extend(page.rows.into_iter().map(|row| row.id));
    }
    Ok(late)
}

async fn warn_of_late_forms(context: &Context, migration: &Migration) -> Result<Exit> {
    let late = late_forms(context, migration).await?;
    if late.is_empty() {
        return Ok(Exit::Clean);
    }
    tracing::error!(
        code = "C2S-4045",
        forms = late.len(),
        "forms reached Couch after the domain was switched"
    );
    eprintln!(
        "C2S-4045: {} or more forms reached Couch after the last scan; they are not in SQL: {}",
        late.len(),
        late.iter().take(LATE_LISTED).cloned().collect::<Vec<_>>().join(", ")
    );
    Ok(Exit::Differences)
}

/// Goes back to Couch before a commit is done: the Domain document first, then the fences.
///
/// # Errors
/// The refusal, or what went wrong; it can be run again.
pub async fn abort(context: &Context, domain: &Domain, confirmation: Confirmation) -> Result<Exit> {
    let doc = DomainDoc::read(&context.domains_db, domain).await?;
    let found = context.state.migration(domain).await?;
    allow(
        Command::AbortCommit,
        Situation {
            migration: found.as_ref(),
            on_sql: doc.is_on_sql(),
        },
    )?;
    confirm(
        &format!("Abort the COMMIT of {domain} and leave it on Couch?"),
        confirmation,
    )?;
    let held = HeldDomain::take(context, &migration_of(context, domain).await?).await?;
    let result = abort_held(context, &held).await;
    held.give_back(context).await?;
    result
}

async fn abort_held(context: &Context, held: &HeldDomain) -> Result<Exit> {
    let domain = &held.migration.domain;
    let doc = DomainDoc::read(&context.domains_db, domain).await?;
    allow(
        Command::AbortCommit,
        Situation {
            migration: Some(&held.migration),
            on_sql: doc.is_on_sql(),
        },
    )?;
    // From here on HQ may have taken submissions into SQL.
    if context.target.progress(domain).await?.status == hqsql::Status::Complete {
        return Err(Failure::new(
            "C2S-4047",
            format!("HQ's progress row says that {domain} is complete: it may have taken submissions into SQL"),
            "only forward is left: run COMMIT again",
        ));
    }
    context
        .state
        .audit(domain, &context.operator, "COMMIT --abort", &json!({}))
        .await?;
    switch_to_couch(context, domain).await?;
    context.tell_hq(domain).await?;
    context.target.open_fence(domain, held.migration.epoch).await?;
    context.state.clear_commit(&held.lease).await?;
    println!("{domain} stays on Couch; its migration is as it was before COMMIT.");
    Ok(Exit::Clean)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn differences_can_be_accepted_by_kind_and_unfinished_work_cannot() {
        let obstacles = Obstacles {
            undiffed: 2,
            errors: vec![("XFormInstance".to_owned(), 1)],
            diffs: vec![("CommCareCase".to_owned(), 3), ("XFormError".to_owned(), 1)],
            ..Obstacles::default()
        };
        let accepted = Accepted::parse("CommCareCase, errors").unwrap();
        assert_eq!(
            against(&obstacles, &accepted),
            ["2 cases are not diffed", "1 XFormError with diffs"]
        );
        assert_eq!(
            against(&obstacles, &Accepted::parse("all").unwrap()),
            ["2 cases are not diffed"]
        );
        assert_eq!(against(&obstacles, &Accepted::default()).len(), 4);
        assert_eq!(Accepted::parse("Cases").unwrap_err().code, "C2S-0104");
    }
}
