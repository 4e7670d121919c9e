//! `COMMIT`: makes a domain use SQL; and `COMMIT --abort`.
//!
//! A commit that died anywhere goes on from its last step when it is run again (`committing` has the steps). Between the intent
//! and the end, only that or an explicit abort is allowed; the abort writes the Domain document back to Couch before anything
//! else.

use std::time::Duration;

use proto::ids::Domain;
use serde_json::json;
use state::Phase;
use state::migration::Migration;

use super::committing::{Committing, late_forms, switch_to_couch, wait_for_caches};
pub use super::verdict::Accepted;
use super::verdict::against;
use super::{Confirmation, HeldDomain, confirm, human, migration_of, unchanged};
use crate::context::Context;
use crate::domain_doc::DomainDoc;
use crate::failure::{Exit, Failure, Result};
use crate::rules::{Command, Situation, allow};

/// Refusals of a migration that has gone through all phases: what is on record stands against it, forms have come since, or
/// documents have changed.
pub(crate) const NOT_CLEAN: [&str; 3] = ["C2S-4041", "C2S-4042", "C2S-4131"];

/// Whose migration may be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Whoever has begun it: the operator has named it.
    Anybodys,
    /// One that lists have begun, and nobody else has touched since.
    OfLists,
}

/// Commits.
///
/// # Errors
/// The refusal with its reasons, or what went wrong; running it again goes on from the last step.
pub async fn commit(
    context: &Context,
    domain: &Domain,
    accepted: &Accepted,
    whose: Whose,
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
    let held = HeldDomain::take_when_dead(context, &migration_of(context, domain).await?).await?;
    let result = Box::pin(commit_held(context, &held, accepted, whose, confirmation)).await;
    held.give_back(context).await?;
    result
}

async fn commit_held(
    context: &Context,
    held: &HeldDomain,
    accepted: &Accepted,
    whose: Whose,
    confirmation: Confirmation,
) -> Result<Exit> {
    let migration = &held.migration;
    let domain = &migration.domain;
    let doc = DomainDoc::read(&context.domains_db, domain).await?;
    allow(
        Command::Commit,
        Situation {
            migration: Some(migration),
            on_sql: doc.is_on_sql(),
        },
    )?;
    if whose == Whose::OfLists && !context.state.begun_by_list(migration.id).await? {
        return Err(not_of_lists(domain));
    }
    if migration.commit_step.is_some() {
        eprintln!("COMMIT of {domain} goes on from where it was interrupted");
    } else if confirmation == Confirmation::Needed {
        check(context, migration, accepted).await?;
        let window = context.config.hq.uncommit_window;
        let way_back = if window.is_zero() {
            "This cannot be undone.".to_owned()
        } else {
            format!(
                "`uncommit` can undo it for {}, until HQ changes something.",
                human(window)
            )
        };
        confirm(&format!("Make {domain} use SQL? {way_back}"), confirmation)?;
    }
    let committing = Committing {
        context,
        migration,
        lease: &held.lease,
        operator: &context.operator,
    };
    let late = Box::pin(committing.run(accepted, None)).await?;
    eprintln!("{domain} is on SQL.");
    Ok(if late == 0 { Exit::Clean } else { Exit::Differences })
}

/// A list neither commits nor resets what somebody else has begun, or has gone on with since.
pub(super) fn not_of_lists(domain: &Domain) -> Failure {
    Failure::new(
        "C2S-4113",
        format!("{domain} was migrated by a command of its own meanwhile"),
        "a list does not end what it has not begun",
    )
}

/// Everything that must be true before the intent.
pub(super) async fn check(context: &Context, migration: &Migration, accepted: &Accepted) -> Result<()> {
    let domain = &migration.domain;
    if migration.phase != Phase::Finished {
        return Err(Failure::new(
            "C2S-4040",
            format!("the migration of {domain} has not finished (phase {})", migration.phase),
            "run MIGRATE until it ends",
        ));
    }
    let in_hq = context.target.progress(domain).await?.status;
    if in_hq != hqsql::Status::InProgress {
        return Err(Failure::new(
            "C2S-4097",
            format!("HQ's own row says that the migration of {domain} is {}", in_hq.as_str()),
            "HQ may be taking submissions; find out who changed that row, then run MIGRATE again",
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
    unchanged::check(context, migration).await?;
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
    let held = HeldDomain::take_when_dead(context, &migration_of(context, domain).await?).await?;
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
    let claim = held.claim(context);
    switch_to_couch(context, &claim, domain).await?;
    context.tell_hq(domain).await?;
    if doc.is_on_sql() {
        // Some of HQ's processes may go by SQL: nobody may give submissions back before that is over.
        wait_for_caches(context, domain, Duration::ZERO).await;
    }
    context.target.open_fence(&claim, domain, held.migration.epoch).await?;
    context.state.clear_commit(&held.lease).await?;
    context
        .state
        .end_runs(&held.lease, "its COMMIT was aborted by the operator")
        .await?;
    println!("{domain} stays on Couch; its migration is as it was before COMMIT.");
    Ok(Exit::Clean)
}
