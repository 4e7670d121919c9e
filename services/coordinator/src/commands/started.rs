//! `show_started_migrations`: every domain whose migration has begun and not ended, by status, with what is half done.

use std::collections::BTreeMap;

use state::{Migration, Status};

use super::half_done::HalfDone;
use super::stats;
use crate::context::Context;
use crate::failure::{Exit, Result};

/// Whether to print the table of each domain too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tables {
    /// Names and dates only.
    None,
    /// The rows that have something, as `stats` prints them.
    Stats,
}

/// Prints the list.
///
/// # Errors
/// Those of the state schema.
pub async fn show(context: &Context, tables: Tables) -> Result<Exit> {
    let mut by_status: BTreeMap<&str, Vec<Migration>> = BTreeMap::new();
    for migration in context.state.started_migrations().await? {
        if migration.status != Status::Complete || migration.uncommit_step.is_some() {
            by_status.entry(migration.status.as_str()).or_default().push(migration);
        }
    }
    for (status, migrations) in by_status {
        println!("{status}");
        for migration in migrations {
            match migration.started_at {
                Some(date) => println!("  {} ({})", migration.domain, date.format("%Y-%m-%d")),
                None => println!("  {}", migration.domain),
            }
            for line in HalfDone::of(context, &migration).await?.lines() {
                println!("    {line}");
            }
            if tables == Tables::Stats {
                stats::print_indented(context, &migration.domain).await?;
            }
        }
    }
    Ok(Exit::Clean)
}
