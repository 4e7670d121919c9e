//! The commands.

pub(crate) mod behind;
mod chosen_forms;
pub mod commit;
pub(crate) mod committing;
pub mod couch_sql_diff;
pub mod cutover;
pub mod forecast;
mod half_done;
pub mod ignore_rules;
pub mod init;
pub mod migrate;
pub mod multiple;
pub mod output;
pub mod patch;
pub mod plan;
pub mod report;
pub mod reset;
pub mod rewind;
pub mod serve;
mod snapshot;
pub mod started;
pub mod stats;
mod unchanged;
pub mod uncommit;
pub mod unfinish;
pub(crate) mod verdict;

use std::io::{IsTerminal, Write};
use std::time::Duration;

use state::migration::{DriverLease, Migration};

use crate::claim::Leased;
use crate::context::Context;
use crate::failure::{Failure, Result};

/// Asks the operator, unless told not to.
///
/// # Errors
/// `C2S-0103` when the answer is no, or when nobody can be asked.
pub(crate) fn confirm(question: &str, confirmation: Confirmation) -> Result<()> {
    if confirmation == Confirmation::Given {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            "C2S-0103",
            "this asks for a confirmation and there is no terminal",
            "use --no-input",
        ));
    }
    eprint!("{question} [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Failure::new("C2S-0103", "not confirmed", "nothing was changed"))
    }
}

/// Whether the operator has agreed beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// `--no-input`.
    Given,
    /// Ask.
    Needed,
}

/// Pause between two looks at a lease that may run out: short beside a third of the shortest lease, after which it is renewed.
const WATCH: Duration = Duration::from_millis(200);

/// Holds the domain's lease while a short command works on it.
pub(crate) struct HeldDomain {
    pub(crate) lease: DriverLease,
    /// The migration as it is since the lease was taken: nobody else moves it now.
    pub(crate) migration: Migration,
    renewal: tokio::task::JoinHandle<()>,
}

impl HeldDomain {
    /// Takes the lease, or says who has it.
    pub(crate) async fn take(context: &Context, migration: &Migration) -> Result<Self> {
        let time = context.config.worker.lease;
        let Some(lease) = context.state.take_lease(migration.id, &context.name, time).await? else {
            let driver = context
                .state
                .migration(&migration.domain)
                .await?
                .and_then(|found| found.driver);
            return Err(Failure::new(
                "C2S-4007",
                format!(
                    "{} is being migrated by {}",
                    migration.domain,
                    driver.unwrap_or_else(|| "another process".to_owned())
                ),
                "wait until that has ended (see `stats`), or stop it with `coordinator stop`",
            ));
        };
        let state = context.state.clone();
        let held = lease.clone();
        let renewal = tokio::spawn(async move {
            let mut tick = tokio::time::interval(time / 3);
            loop {
                tick.tick().await;
                if let Err(error) = state.renew_lease(&held, time).await {
                    tracing::warn!(code = error.code(), "the domain's lease could not be renewed");
                }
            }
        });
        let migration = migration_of(context, &migration.domain).await?;
        Ok(Self {
            lease,
            migration,
            renewal,
        })
    }

    /// Takes the lease. When another process has it, this waits to see whether that one is alive: a live one renews its lease
    /// long before it runs out, and then it is left alone; a dead one's runs out, and it is taken.
    pub(crate) async fn take_when_dead(context: &Context, migration: &Migration) -> Result<Self> {
        let Some(mut holder) = context.state.holder(migration.id).await? else {
            return Self::take(context, migration).await;
        };
        eprintln!(
            "{} is held by {}. If that process is dead, its hold ends in {} and this command goes on then; if it is alive, \
             this command is refused",
            migration.domain,
            holder.name,
            human(holder.left)
        );
        loop {
            tokio::time::sleep(WATCH).await;
            match context.state.holder(migration.id).await? {
                // Renewed, or somebody else's.
                Some(now) if now.token != holder.token || now.left > holder.left => break,
                Some(now) => holder = now,
                None => break,
            }
        }
        Self::take(context, migration).await
    }

    /// For changes of HQ's rows and of fences.
    pub(crate) fn claim<'a>(&'a self, context: &'a Context) -> Leased<'a> {
        Leased {
            state: &context.state,
            lease: &self.lease,
        }
    }

    /// Gives the lease back.
    pub(crate) async fn give_back(self, context: &Context) -> Result<()> {
        self.renewal.abort();
        Ok(context.state.drop_lease(&self.lease).await?)
    }
}

/// The migration of a domain.
///
/// # Errors
/// `C2S-4006` when there is none.
pub(crate) async fn migration_of(context: &Context, domain: &proto::ids::Domain) -> Result<Migration> {
    context.state.migration(domain).await?.ok_or_else(|| {
        Failure::new(
            "C2S-4006",
            format!("{domain} is not being migrated"),
            "start with MIGRATE",
        )
    })
}

/// Ids with commas between, or a path (`/…` or `./…`) to a file with one id a line.
///
/// # Errors
/// `C2S-0107` when the file cannot be read, `C2S-0127` when there are no ids.
pub(crate) fn ids_of(text: &str) -> Result<Vec<String>> {
    let ids = |ids: &mut dyn Iterator<Item = &str>| -> Vec<String> {
        ids.map(str::trim)
            .filter(|id| !id.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let some = |ids: Vec<String>| {
        if ids.is_empty() {
            return Err(Failure::new(
                "C2S-0127",
                "the option names no ids",
                "give ids with commas between, or a path to a file with one id a line",
            ));
        }
        Ok(ids)
    };
    if text.starts_with('/') || text.starts_with("./") {
        let lines = std::fs::read_to_string(text)
            .map_err(|error| Failure::new("C2S-0107", format!("{text} cannot be read: {error}"), "check the path"))?;
        some(ids(&mut lines.lines()))
    } else {
        some(ids(&mut text.split(',')))
    }
}

/// A duration for people.
pub(crate) fn human(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, _) => format!("{:.1} s", time.as_secs_f64()),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}
