//! What must be true before a `MIGRATE`. The command looks before it puts a run on record, the driver before it changes
//! anything, and `plan` to tell what stands in the way: each of these checks is here once.

use hqsql::Status as HqStatus;
use proto::ids::{Domain, Epoch};
use state::{Migration, Status};

use crate::context::Context;
use crate::domain_doc::DomainDoc;
use crate::driver::{DESIGN, VIEW};
use crate::failure::{Failure, Result};
use crate::rules::{Command, Mode, Situation, allow};

/// The status of a migration that may not have been recorded.
pub(crate) fn status_of(found: Option<&Migration>) -> Status {
    found.map_or(Status::NotStarted, |migration| migration.status)
}

/// Whether the configuration and the state of the migration allow this.
///
/// # Errors
/// `C2S-4058` for a domain that is not to be migrated; the refusal.
pub(crate) fn allowed(
    context: &Context,
    domain: &Domain,
    mode: Mode,
    doc: &DomainDoc,
    found: Option<&Migration>,
) -> Result<()> {
    let restricted = &context.config.domains.restricted;
    if restricted.iter().any(|name| name == domain.as_str()) {
        return Err(Failure::new(
            "C2S-4058",
            format!("migration restricted: {domain} is listed in domains.restricted"),
            "find out why before you take it off that list",
        ));
    }
    allow(
        Command::Migrate(mode),
        Situation {
            migration: found,
            on_sql: doc.is_on_sql(),
        },
    )
}

/// Whether CouchDB has the view by which documents are found.
///
/// # Errors
/// Couch's.
pub(crate) async fn view(context: &Context) -> Result<()> {
    Ok(context.forms_db.ensure_view(DESIGN, VIEW).await?)
}

/// Whether HQ's tables are as they must be.
///
/// # Errors
/// The target's.
pub(crate) async fn tables(context: &Context) -> Result<()> {
    Ok(context.target.check_tables().await?)
}

/// Stops when HQ's progress row and the state schema contradict each other: one of them was restored from a back-up, or
/// somebody else migrates the domain. Gives what HQ's row says.
///
/// # Errors
/// `C2S-4021`.
pub(crate) async fn flag(context: &Context, domain: &Domain, ours: Status) -> Result<HqStatus> {
    let hq = context.target.progress(domain).await?.status;
    let contradicts = match ours {
        Status::NotStarted => hq != HqStatus::NotStarted,
        // A change of ours that died before it reached HQ's flag is mended by setting the flag.
        Status::InProgress | Status::DryRun => hq == HqStatus::Complete,
        Status::Complete => hq != HqStatus::Complete,
    };
    if contradicts {
        return Err(Failure::new(
            "C2S-4021",
            format!("HQ's progress row of {domain} says {hq}, the state schema says {ours}: needs_reconcile"),
            "another tool migrates this domain, or one side was restored from a back-up; find out before you go on",
        ));
    }
    Ok(hq)
}

/// Stops when the target's fence is of a later epoch than the state schema.
///
/// # Errors
/// `C2S-4022`.
pub(crate) async fn fence(context: &Context, domain: &Domain, ours: Epoch) -> Result<()> {
    match context.target.fence(domain).await? {
        Some((epoch, _)) if epoch > ours => Err(Failure::new(
            "C2S-4022",
            format!(
                "the target's fence of {domain} is of epoch {epoch}, the state schema is at {ours}: needs_reconcile"
            ),
            "the state schema is older than the target: it was restored from a back-up, or this is another one",
        )),
        _ => Ok(()),
    }
}

/// Stops a first migration when HQ's tables hold rows of the domain already.
///
/// # Errors
/// `C2S-4020`.
pub(crate) async fn no_rows(context: &Context, domain: &Domain) -> Result<()> {
    if context.target.has_rows(domain).await? {
        return Err(Failure::new(
            "C2S-4020",
            format!("the target already holds forms or cases of {domain}, and this state schema knows nothing of them"),
            "find out where they come from; `reset` deletes them",
        ));
    }
    Ok(())
}
