//! `uncommit`: takes a `COMMIT` back, as long as nothing has changed in SQL since.
//!
//! The steps, each recorded before the next is taken, and each safe to repeat:
//!
//! 1. intent: the decision is on record; from here on only this command may go on;
//! 2. blocked: HQ's flag says in progress, HQ's caches were told and given their time, and the rows in SQL were compared
//!    with the snapshot of the commit. If anything differs, or fails, HQ's flag says complete again, and the commit stands;
//! 3. switched: the Domain document says Couch, and HQ's caches were told and given their time;
//! 4. the fences are open, HQ's time-zone row is as it was before the commit, and the migration is in progress.
//!
//! The rows are compared before anything is done, too: what is sure to be refused is refused without a downtime.

use std::time::Duration;

use proto::ids::Domain;
use serde_json::json;
use state::migration::Migration;
use state::snapshot::UncommitStep;

use super::committing::{switch_to_couch, wait_for_caches};
use super::{Confirmation, HeldDomain, confirm, human, migration_of, snapshot};
use crate::claim::Leased;
use crate::context::Context;
use crate::domain_doc::DomainDoc;
use crate::failure::{Exit, Failure, Result};
use crate::rules::{Command, Situation, allow};

/// Takes a commit back.
///
/// # Errors
/// The refusal with its reasons, or what went wrong; running it again goes on from the last step.
pub async fn uncommit(context: &Context, domain: &Domain, confirmation: Confirmation) -> Result<Exit> {
    permitted(context, domain).await?;
    let held = HeldDomain::take_when_dead(context, &migration_of(context, domain).await?).await?;
    let result = Box::pin(uncommit_held(context, &held, confirmation)).await;
    held.give_back(context).await?;
    result
}

async fn permitted(context: &Context, domain: &Domain) -> Result<()> {
    let doc = DomainDoc::read(&context.domains_db, domain).await?;
    let found = context.state.migration(domain).await?;
    allow(
        Command::Uncommit,
        Situation {
            migration: found.as_ref(),
            on_sql: doc.is_on_sql(),
        },
    )
}

async fn uncommit_held(context: &Context, held: &HeldDomain, confirmation: Confirmation) -> Result<Exit> {
    let (migration, lease) = (&held.migration, &held.lease);
    let (state, domain) = (&context.state, &migration.domain);
    permitted(context, domain).await?;
    if migration.uncommit_step.is_none() {
        within_window(context, migration).await?;
        unchanged(context, migration).await?;
        confirm(
            &format!("Take {domain} back to Couch? HQ refuses submissions until it is live or committed again."),
            confirmation,
        )?;
        state.audit(domain, &context.operator, "uncommit", &json!({})).await?;
        state.set_uncommit_step(lease, Some(UncommitStep::Intent)).await?;
    } else {
        eprintln!("uncommit of {domain} goes on from where it was interrupted");
    }
    let step = migration.uncommit_step.unwrap_or(UncommitStep::Intent);
    let claim = held.claim(context);
    if step < UncommitStep::Blocked {
        if let Err(refusal) = block(context, migration, &claim).await {
            return Err(stands(context, held, refusal).await);
        }
        state.set_uncommit_step(lease, Some(UncommitStep::Blocked)).await?;
    }
    if step < UncommitStep::Switched {
        switch_to_couch(context, &claim, domain).await?;
        context.tell_hq(domain).await?;
        state.set_uncommit_step(lease, Some(UncommitStep::Switched)).await?;
    }
    wait_for_caches(context, domain, Duration::ZERO).await;
    if state.committed(migration.id).await?.time_zones {
        context.target.take_back_time_zones(&claim, domain).await?;
        context.tell_hq(domain).await?;
    }
    context.target.open_fence(&claim, domain, migration.epoch).await?;
    let (late, _) = state.late_forms(migration.id, 0).await?;
    state.uncommitted(lease).await?;
    println!("{domain} is on Couch again. Its migration is in_progress: HQ refuses submissions.");
    println!(
        "Nothing has changed in SQL since the COMMIT, so that what was migrated stays, and nothing must be staged anew,"
    );
    if late > 0 {
        println!("but for {late} or more forms that had reached Couch too late: MIGRATE takes them.");
    } else {
        println!("but for what may have reached Couch since: MIGRATE takes that.");
    }
    println!("Next: `unfinish` makes it live and gives submissions back; or MIGRATE, then COMMIT; or `reset`.");
    Ok(Exit::Clean)
}

/// Blocks submissions, and looks whether everything is as the commit left it.
async fn block(context: &Context, migration: &Migration, claim: &Leased<'_>) -> Result<()> {
    let domain = &migration.domain;
    // It may have been interrupted for long, and the snapshot may be gone.
    within_window(context, migration).await?;
    let now = context.state.now().await?;
    context.target.set_incomplete(claim, domain, now).await?;
    context.tell_hq(domain).await?;
    // Submissions that are still let through.
    wait_for_caches(context, domain, Duration::ZERO).await;
    unchanged(context, migration).await
}

/// The commit stands, whatever the refusal: nothing but HQ's flag was touched, and it says complete again. Gives the failure
/// to tell.
async fn stands(context: &Context, held: &HeldDomain, refusal: Failure) -> Failure {
    let domain = &held.migration.domain;
    let completed = async {
        let now = context.state.now().await?;
        context.target.set_complete(&held.claim(context), domain, now).await?;
        // By its own row HQ takes submissions already. If its caches cannot be told, they find out by themselves, later.
        let told = context.tell_hq(domain).await.err();
        context.state.set_uncommit_step(&held.lease, None).await?;
        Ok::<_, Failure>(told)
    };
    match completed.await {
        Err(lost) if lost.is_lost_lease() => lost,
        Ok(None) => refusal,
        Ok(Some(untold)) if untold.code == refusal.code => refusal,
        Ok(Some(untold)) => Failure::new(
            refusal.code,
            format!("{} (HQ's caches could not be told: {untold})", refusal.what),
            refusal.remedy,
        ),
        Err(why) => Failure::new(
            "C2S-4148",
            format!("{refusal}; and HQ's flag of {domain} could not be set back to complete: {why}"),
            "HQ refuses submissions until then: run uncommit again, which ends in one way or the other",
        ),
    }
}

/// Only a commit of which there is a snapshot, and only for a while.
async fn within_window(context: &Context, migration: &Migration) -> Result<()> {
    let window = context.config.hq.uncommit_window;
    let committed = context.state.committed(migration.id).await?;
    let now = context.state.now().await?;
    let age = committed.at.map(|at| (now - at).to_std().unwrap_or(Duration::ZERO));
    let why = match age {
        None => "it was committed by a version that kept no record of it".to_owned(),
        Some(age) if age > window => format!(
            "it was committed {} ago, and hq.uncommit_window is {}",
            human(age),
            human(window)
        ),
        Some(_) if !committed.snapshot => "no snapshot was taken then (hq.uncommit_window was 0)".to_owned(),
        Some(_) => return Ok(()),
    };
    Err(Failure::new(
        "C2S-4094",
        format!("the COMMIT of {} can no longer be taken back: {why}", migration.domain),
        "the domain stays on SQL",
    ))
}

/// Refuses when any row is not as the commit left it, and says which.
async fn unchanged(context: &Context, migration: &Migration) -> Result<()> {
    let found = Box::pin(snapshot::compare(context, migration)).await?;
    if found.is_empty() {
        return Ok(());
    }
    for line in found.lines() {
        println!("{line}");
    }
    Err(Failure::new(
        "C2S-4095",
        format!(
            "{} has changed in SQL since its COMMIT: {}; Couch knows nothing of that, and it would be lost",
            migration.domain,
            found.summary()
        ),
        "the domain stays complete, on SQL; to give it up all the same, put these documents into Couch by hand, and into SQL \
         what was there before",
    ))
}
