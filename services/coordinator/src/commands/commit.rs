//! `COMMIT`: makes a domain use SQL.
//!
//! The steps, each recorded before the next is taken, and each safe to repeat:
//!
//! 1. intent: the decision and the revision of the Domain document are on record;
//! 2. fenced: the target's fences are closed, so that no worker can write any more;
//! 3. switched: the Domain document says SQL. HQ's caches are told, and given the time they need; meanwhile a snapshot of the
//!    domain's rows is taken, by which the commit can be taken back for a while;
//! 4. done: HQ's progress rows say complete.
//!
//! A commit that died anywhere goes on from its last step when it is run again. Between the intent and the end, only that
//! or an explicit abort is allowed; the abort writes the Domain document back to Couch before anything else.

use proto::doctype::DocType;
use proto::ids::Domain;
use serde_json::json;
use service::names;
use state::Phase;
use state::migration::{CommitStep, DriverLease, Migration};
use state::run::Operator;
use state::scan::form_scan;

pub use super::verdict::Accepted;
use super::verdict::against;
use super::{Confirmation, HeldDomain, confirm, human, migration_of, snapshot, unchanged};
use crate::context::Context;
use crate::domain_doc::DomainDoc;
use crate::driver::scan_page_after;
use crate::failure::{Exit, Failure, Result};
use crate::rules::{Command, Situation, allow};

/// Forms of the list of late ones at most.
const LATE_LISTED: usize = 20;
/// Attempts to write a Domain document that others write too.
const SWITCH_ATTEMPTS: usize = 5;

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
    let held = HeldDomain::take_when_dead(context, &migration_of(context, domain).await?).await?;
    let result = Box::pin(commit_held(context, &held, accepted, confirmation)).await;
    held.give_back(context).await?;
    result
}

async fn commit_held(
    context: &Context,
    held: &HeldDomain,
    accepted: &Accepted,
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
    let committing = Committing {
        context,
        migration,
        lease: &held.lease,
        operator: &context.operator,
    };
    if migration.commit_step.is_none() {
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
    } else {
        eprintln!("COMMIT of {domain} goes on from where it was interrupted");
    }
    let late = Box::pin(committing.carry_out(accepted)).await?;
    eprintln!("{domain} is on SQL.");
    Ok(if late == 0 { Exit::Clean } else { Exit::Differences })
}

/// A commit that may be carried out: by a command, or by the driver at the end of its run.
pub(crate) struct Committing<'a> {
    pub(crate) context: &'a Context,
    /// As it is since the lease was taken.
    pub(crate) migration: &'a Migration,
    pub(crate) lease: &'a DriverLease,
    pub(crate) operator: &'a Operator,
}

impl Committing<'_> {
    /// Checks, unless the decision is on record already, and carries it out. Gives the number of late forms.
    pub(crate) async fn run(&self, accepted: &Accepted) -> Result<usize> {
        match self.migration.commit_step {
            None => check(self.context, self.migration, accepted).await?,
            // All was done before whoever did it died.
            Some(CommitStep::Done) => {
                let (late, _) = self.context.state.late_forms(self.migration.id, 0).await?;
                return Ok(usize::try_from(late).unwrap_or(usize::MAX));
            }
            Some(_) => {}
        }
        Box::pin(self.carry_out(accepted)).await
    }

    async fn carry_out(&self, accepted: &Accepted) -> Result<usize> {
        let Self {
            context,
            migration,
            lease,
            operator,
        } = *self;
        let domain = &migration.domain;
        let step = match migration.commit_step {
            Some(step) => step,
            None => {
                let doc = DomainDoc::read(&context.domains_db, domain).await?;
                let detail = json!({ "accepted": accepted.kinds(), "accepted_differences": accepted.compared(), "domain_rev": doc.rev() });
                context.state.audit(domain, operator, "COMMIT", &detail).await?;
                context
                    .state
                    .set_commit_step(lease, CommitStep::Intent, Some(doc.rev()))
                    .await?;
                CommitStep::Intent
            }
        };
        if step < CommitStep::Fenced {
            context.target.close_fence(domain, migration.epoch).await?;
            context.state.set_commit_step(lease, CommitStep::Fenced, None).await?;
        }
        if step < CommitStep::Switched {
            switch_to_sql(context, lease, domain).await?;
            context.tell_hq(domain).await?;
            context.state.set_commit_step(lease, CommitStep::Switched, None).await?;
        }
        // Nobody writes to the domain's rows now: not the workers, by the fences, and not HQ, which refuses submissions. Once
        // its flag says complete it may have written: then the snapshot that was taken before that is the right one.
        let open_in_hq = context.target.progress(domain).await?.status == hqsql::Status::Complete;
        let taking = async {
            if open_in_hq {
                Ok(())
            } else {
                Box::pin(snapshot::take(context, lease, migration)).await
            }
        };
        tokio::try_join!(settle(context, domain), taking)?;
        let time_zones = !context.target.time_zones_are_complete(domain).await?;
        // The lease is checked once more before HQ lets submissions through.
        context.state.note_time_zones(lease, time_zones).await?;
        context.target.set_complete(domain, context.state.now().await?).await?;
        context.tell_hq(domain).await?;
        let late = record_late_forms(context, migration).await?;
        let late = late.len() + unchanged::record_late_changes(context, migration, &late).await?;
        // Before the last step, so that a crash does not swallow it; it may be run twice instead.
        context.tell_staff(domain).await;
        context.state.set_commit_step(lease, CommitStep::Done, None).await?;
        Ok(late)
    }
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
pub(super) async fn switch_to_couch(context: &Context, domain: &Domain) -> Result<()> {
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

/// Forms that the view lists after the place where the last scan ended, as (type, id).
async fn late_forms(context: &Context, migration: &Migration) -> Result<Vec<(String, String)>> {
    let mut late = Vec::new();
    for doc_type in DocType::FORMS {
        let cursor = context.state.cursor(migration.id, &form_scan(doc_type)).await?;
        let page = scan_page_after(context, &migration.domain, doc_type, &cursor, LATE_LISTED).await?;
        late.extend(page.rows.into_iter().map(|row| (doc_type.as_str().to_owned(), row.id)));
    }
    Ok(late)
}

/// Raises the alarm when forms have reached Couch too late: on record, where `stats` shows it, in the log, and as a metric.
async fn record_late_forms(context: &Context, migration: &Migration) -> Result<Vec<(String, String)>> {
    let late = late_forms(context, migration).await?;
    if late.is_empty() {
        return Ok(late);
    }
    context.state.record_late_forms(migration.id, &late).await?;
    metrics::counter!(names::LATE_FORMS).increment(u64::try_from(late.len()).unwrap_or(u64::MAX));
    tracing::error!(
        code = "C2S-4045",
        forms = late.len(),
        "forms reached Couch after the domain was switched"
    );
    let ids: Vec<&str> = late.iter().take(LATE_LISTED).map(|(_, id)| id.as_str()).collect();
    eprintln!(
        "C2S-4045: {} or more forms reached Couch after the last scan; they are not in SQL: {}",
        late.len(),
        ids.join(", ")
    );
    Ok(late)
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
    switch_to_couch(context, domain).await?;
    context.tell_hq(domain).await?;
    context.target.open_fence(domain, held.migration.epoch).await?;
    context.state.clear_commit(&held.lease).await?;
    println!("{domain} stays on Couch; its migration is as it was before COMMIT.");
    Ok(Exit::Clean)
}
