//! `reset`: undoes a migration.
//!
//! It is logical at once: the epoch ends in the state schema, then the target's fences close (which waits for the
//! transactions in flight), and nothing of the old epoch can be written any more. The purge that follows can be
//! interrupted; running `reset` again goes on with it. Blobs are never deleted, and of blob metadata only our own changes
//! are undone.

use proto::ids::{Domain, Epoch};
use serde_json::json;
use state::StateError;
use state::blob_change::{BlobAction, BlobChange};
use state::migration::Migration;

use super::commit::{Whose, not_of_lists};
use super::{Confirmation, confirm};
use crate::claim::Resetting;
use crate::context::Context;
use crate::domain_doc::DomainDoc;
use crate::failure::{Exit, Failure, Result};
use crate::rules::{Command, Situation, allow};

/// Rows of one step of the purge.
const CHUNK: i64 = 5000;
/// The same, for the target.
const TARGET_CHUNK: usize = 5000;

/// Resets.
///
/// # Errors
/// The refusal, or what went wrong; running it again goes on.
pub async fn reset(context: &Context, domain: &Domain, whose: Whose, confirmation: Confirmation) -> Result<Exit> {
    let found = check(context, domain).await?;
    let driver = found.and_then(|migration| migration.driver);
    if let Some(driver) = &driver {
        eprintln!("{domain} is being migrated by {driver}; its work ends with the reset");
    }
    confirm(
        &format!("Delete all SQL forms and cases of {domain}, and everything its migration has recorded?"),
        confirmation,
    )?;
    // The answer may have taken long.
    check(context, domain).await?;
    let migration = context.state.ensure_migration(domain).await?;
    context
        .state
        .audit(
            domain,
            &context.operator,
            "reset",
            &json!({ "interrupted_driver": driver }),
        )
        .await?;
    let epoch = match whose {
        Whose::Anybodys => context.state.begin_reset(migration.id).await?,
        Whose::OfLists => context
            .state
            .begin_reset_of_list(migration.id)
            .await?
            .ok_or_else(|| not_of_lists(domain))?,
    };
    eprintln!("waiting for the transactions in flight");
    let claim = Resetting {
        state: &context.state,
        id: migration.id,
        epoch,
    };
    match undo(context, &migration, &claim).await {
        // Another reset has ended it meanwhile: what is there now is a new migration's, or nothing.
        Err(over) if over.code == StateError::EpochOver.code() => {}
        other => other?,
    }
    eprintln!("{domain} was reset: no form and no case of it is left in SQL, and its migration can start anew.");
    Ok(Exit::Clean)
}

async fn undo(context: &Context, migration: &Migration, claim: &Resetting<'_>) -> Result<()> {
    let (target, domain) = (&context.target, &migration.domain);
    target.close_fence(claim, domain, claim.epoch).await?;
    // HQ takes submissions again, to Couch; deleting what was written may take long, and nobody has to wait for that.
    if target.progress(domain).await?.status != hqsql::Status::NotStarted {
        target.set_not_started(claim, domain).await?;
        eprintln!("HQ takes submissions to {domain}; the rows that were written are being deleted");
    }
    // Every time, in case the one before died between the row and this. A hook that fails does not keep the rows.
    let told = context.tell_hq(domain).await;
    purge(context, migration, claim).await?;
    told?;
    Ok(context.state.end_reset(migration.id, claim.epoch).await?)
}

/// Everything that must be true: the domain is on Couch, whoever is asked, and what would be deleted is ours.
async fn check(context: &Context, domain: &Domain) -> Result<Option<Migration>> {
    let doc = DomainDoc::read(&context.domains_db, domain).await?;
    let found = context.state.migration(domain).await?;
    allow(
        Command::Reset,
        Situation {
            migration: found.as_ref(),
            on_sql: doc.is_on_sql(),
        },
    )?;
    let hq = context.target.progress(domain).await?.status;
    let ours = found
        .as_ref()
        .is_some_and(|migration| migration.purging || migration.status != state::Status::NotStarted);
    if hq == hqsql::Status::Complete || (hq != hqsql::Status::NotStarted && !ours) {
        return Err(Failure::new(
            "C2S-4021",
            format!(
                "HQ's progress row of {domain} says {hq}, and no migration on record here explains it: needs_reconcile"
            ),
            "another tool migrates this domain, or one side was restored from a back-up; find out before you delete",
        ));
    }
    let fence = context.target.fence(domain).await?;
    let epoch = found.as_ref().map_or(Epoch(0), |migration| migration.epoch);
    if fence.is_some_and(|(fenced, _)| fenced > epoch) {
        return Err(Failure::new(
            "C2S-4022",
            format!("the target's fence of {domain} is of a later epoch than the state schema: needs_reconcile"),
            "the state schema is older than the target: it was restored from a back-up, or this is another one",
        ));
    }
    Ok(found)
}

/// Deletes the domain's rows in the target, undoes blob changes, then deletes what is on record here.
async fn purge(context: &Context, migration: &Migration, claim: &Resetting<'_>) -> Result<()> {
    let domain = &migration.domain;
    let mut deleted: u64 = 0;
    let mut told = 0;
    let mut tell = |deleted: u64| {
        if deleted - told >= 100_000 {
            eprintln!("{deleted} rows deleted");
            told = deleted;
        }
    };
    loop {
        let rows = context.target.purge_chunk(claim, domain, TARGET_CHUNK).await?;
        if rows == 0 {
            break;
        }
        deleted += rows;
        tell(deleted);
    }
    loop {
        let changes = context.state.blob_changes(migration.id, CHUNK).await?;
        if changes.is_empty() {
            break;
        }
        let undo: Vec<hqsql::BlobChange> = changes.iter().map(|change| to_undo(domain, change)).collect();
        context.target.undo_blob_changes(domain, &undo).await?;
        context.state.forget_blob_changes(migration.id, &changes).await?;
    }
    loop {
        let rows = context.state.purge_chunk(migration.id, CHUNK).await?;
        if rows == 0 {
            return Ok(());
        }
        deleted += rows;
        tell(deleted);
    }
}

fn to_undo(domain: &Domain, change: &BlobChange) -> hqsql::BlobChange {
    match &change.action {
        BlobAction::Insert { .. } => hqsql::BlobChange::Inserted {
            domain: domain.clone(),
            parent_id: change.parent_id.clone(),
            key: change.key.clone(),
        },
        BlobAction::Remove { row } => hqsql::BlobChange::Removed {
            parent_id: change.parent_id.clone(),
            row: row.clone(),
        },
        BlobAction::Retype { from } => hqsql::BlobChange::Retyped {
            domain: domain.clone(),
            retype: hqsql::BlobRetype {
                parent_id: change.parent_id.clone(),
                key: change.key.clone(),
                from: *from,
                to: change.type_code,
            },
        },
    }
}
