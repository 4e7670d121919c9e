//! The ways out of a run and out of the downtime: `stop` and `unfinish`.

use proto::ids::Domain;
use serde_json::json;
use state::Status;
use state::run::Stopping;

use super::HeldDomain;
use crate::context::Context;
use crate::domain_doc::DomainDoc;
use crate::failure::{Exit, Result};
use crate::rules::{Command, Situation, allow};

/// Asks the run of a domain to stop.
///
/// # Errors
/// `C2S-4006` when the domain is not being migrated.
pub async fn stop(context: &Context, domain: &Domain) -> Result<Exit> {
    let migration = super::migration_of(context, domain).await?;
    println!(
        "{}",
        match context.state.stop_run(migration.id).await? {
            Stopping::Asked => format!("the run of {domain} stops after the batches in flight"),
            Stopping::Ended => format!("nobody drove the run of {domain}; it has ended"),
            Stopping::NoRun => format!("no run of {domain} is on"),
        }
    );
    Ok(Exit::Clean)
}

/// Takes a migration in progress back to live: HQ takes submissions again.
///
/// # Errors
/// The refusal, or what went wrong; running it again goes on.
pub async fn unfinish(context: &Context, domain: &Domain) -> Result<Exit> {
    let doc = DomainDoc::read(&context.domains_db, domain).await?;
    let migration = super::migration_of(context, domain).await?;
    let held = HeldDomain::take(context, &migration).await?;
    let done = async {
        // An `unfinish` that died between our record and HQ's flag is ended by running it again.
        let half_done = held.migration.status == Status::DryRun
            && context.target.progress(domain).await?.status == hqsql::Status::InProgress;
        if !half_done {
            allow(
                Command::Unfinish,
                Situation {
                    migration: Some(&held.migration),
                    on_sql: doc.is_on_sql(),
                },
            )?;
            context.state.unfinish(&held.lease).await?;
        }
        context
            .target
            .set_unfinished(&held.claim(context), domain, context.state.now().await?)
            .await?;
        context
            .state
            .audit(domain, &context.operator, "unfinish", &json!({}))
            .await?;
        context.tell_hq(domain).await
    }
    .await;
    held.give_back(context).await?;
    done?;
    eprintln!("{domain} is live again: HQ takes submissions");
    Ok(Exit::Clean)
}
