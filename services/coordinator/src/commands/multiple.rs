//! `migrate_multiple_domains_from_couch_to_sql`: a list of domains, several at a time. With downtime, a domain that ends
//! clean is committed and any other is reset. Live, every domain is left live, to be looked at and finished by itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::ids::Domain;
use state::migration::CommitStep;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::commit::{self, Accepted};
use super::migrate::{Wait, migrate};
use super::{Confirmation, reset};
use crate::context::Context;
use crate::domain_doc::DomainDoc;
use crate::failure::{Exit, Failure, Result};
use crate::rules::Mode;

/// What became of a domain of the list.
struct Outcome {
    domain: Domain,
    /// `None`: migrated.
    error: Option<String>,
}

/// Reads a list: a file with one domain a line (`#` begins a comment), or names with colons between.
///
/// # Errors
/// `C2S-0107` when the file cannot be read, `C2S-0108` when nothing is in the list.
pub fn read_list(argument: &str) -> Result<Vec<Domain>> {
    let names: Vec<String> = if argument.contains(':') {
        argument.split(':').map(str::to_owned).collect()
    } else {
        let text = std::fs::read_to_string(argument).map_err(|error| {
            Failure::new(
                "C2S-0107",
                format!("{argument} cannot be read: {error}"),
                "check the path",
            )
        })?;
        text.lines()
            .map(|line| line.split('#').next().unwrap_or_default().to_owned())
            .collect()
    };
    let mut seen = BTreeSet::new();
    let domains: Vec<Domain> = names
        .iter()
        .map(|name| name.trim())
        .filter(|name| !name.is_empty() && seen.insert((*name).to_owned()))
        .map(Domain::new)
        .collect();
    if domains.is_empty() {
        return Err(Failure::new(
            "C2S-0108",
            format!("{argument} names no domain"),
            "one domain a line",
        ));
    }
    Ok(domains)
}

/// Migrates the domains of a list, `at_once` at a time.
///
/// # Errors
/// The list's; failures of single domains are told in the summary.
pub async fn migrate_all(
    context: &Arc<Context>,
    domains: Vec<Domain>,
    at_once: usize,
    mode: Mode,
    stop: CancellationToken,
) -> Result<Exit> {
    let permits = Arc::new(Semaphore::new(at_once.max(1)));
    let mut tasks = JoinSet::new();
    for domain in domains {
        let (context, permits, stop) = (Arc::clone(context), Arc::clone(&permits), stop.clone());
        tasks.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let error = if stop.is_cancelled() {
                Some("stopped by operator".to_owned())
            } else {
                one(&context, &domain, mode, stop)
                    .await
                    .err()
                    .map(|failure| failure.to_string())
            };
            match &error {
                None if mode == Mode::Live => println!("Domain is live: {domain}"),
                None => println!("Domain migrated: {domain}"),
                Some(error) => eprintln!("{domain}: {error}"),
            }
            Outcome { domain, error }
        });
    }
    let mut outcomes = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        outcomes.extend(ended.ok());
    }
    outcomes.sort_by(|a, b| a.domain.cmp(&b.domain));
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.error.is_some()).collect();
    if failed.is_empty() {
        println!("All migrations successful!");
        return Ok(Exit::Clean);
    }
    println!("Errors:");
    for outcome in failed {
        println!("{}: {}", outcome.domain, outcome.error.as_deref().unwrap_or_default());
    }
    Ok(if stop.is_cancelled() {
        Exit::Stopped
    } else {
        Exit::Differences
    })
}

async fn one(context: &Arc<Context>, domain: &Domain, mode: Mode, stop: CancellationToken) -> Result<()> {
    let found = context.state.migration(domain).await?;
    if found.is_some_and(|migration| migration.commit_step.is_some_and(|step| step < CommitStep::Done)) {
        commit::commit(context, domain, &Accepted::default(), Confirmation::Given).await?;
        return Ok(());
    }
    if DomainDoc::read(&context.domains_db, domain).await?.is_on_sql() {
        eprintln!("{domain} is on SQL already");
        return Ok(());
    }
    match migrate(context, domain, &mode.into(), Wait::UntilEnd, stop).await? {
        Exit::Clean | Exit::Differences if mode == Mode::Live => Ok(()),
        Exit::Clean => {
            commit::commit(context, domain, &Accepted::default(), Confirmation::Given).await?;
            Ok(())
        }
        Exit::Differences | Exit::BackToLive => {
            reset::reset(context, domain, Confirmation::Given).await?;
            Err(Failure::new(
                "C2S-4050",
                "has diffs",
                "the domain was reset; migrate it by itself to look at them",
            ))
        }
        Exit::Stopped => Err(Failure::new(
            "C2S-4051",
            "stopped by operator",
            "run the list again to go on",
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lists_have_comments_blank_lines_and_repetitions() {
        assert_eq!(
            read_list(":one:two:one").unwrap(),
            [Domain::new("one"), Domain::new("two")]
        );
        assert_eq!(read_list("/no/such/list").unwrap_err().code, "C2S-0107");
        assert_eq!(read_list(":").unwrap_err().code, "C2S-0108");
    }
}
