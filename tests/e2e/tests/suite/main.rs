//! The whole system, driven through its programs against real servers.
//!
//! Expected rows come from the generator's model, which shares no code with what is tested here. Worlds that use RabbitMQ
//! take turns; those with the broker in the process run beside them.
#![allow(clippy::unwrap_used, reason = "tests")]

mod blobs;
mod commands;
mod commit;
mod compared_again;
mod crashes;
mod cutover;
mod damage;
mod errors;
mod follow;
mod hook;
mod interrupts;
mod ledgers;
mod lists;
mod live;
mod malformed;
mod mutate;
mod patches;
mod plan;
mod priority;
mod replay;
mod reset;
mod rewind;
mod scenarios;
mod sizes;
mod standalone;
mod telemetry;
mod whole_domain;
mod workers;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::world::World;
use generator::{GeneratedDomain, Model, Options};
use serde_json::Value;

/// The longest a migration in the background may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// A domain with the usual proportions.
fn domain(name: &str, forms: usize) -> GeneratedDomain {
    generator::generate(&Options::new(name, forms, 7))
}

/// Documents that the form stage reads: all forms and the deleted cases.
fn staged(model: &Model) -> usize {
    model
        .doc_counts
        .iter()
        .filter(|(kind, _)| *kind != "CommCareCase")
        .map(|(_, count)| count)
        .sum()
}

/// Couch cases, deleted or not.
fn couch_cases(model: &Model) -> usize {
    model
        .doc_counts
        .iter()
        .filter(|(kind, _)| kind.starts_with("CommCareCase"))
        .map(|(_, count)| count)
        .sum()
}

/// Checks that the statistics count all documents and nothing else.
fn assert_clean(stats: &Value, model: &Model) -> Result<()> {
    let mut docs: BTreeMap<String, usize> = BTreeMap::new();
    for row in stats["doc_types"].as_array().into_iter().flatten() {
        for column in ["diffs", "missing", "changes"] {
            ensure!(row[column] == 0, "{column} in {row}");
        }
        let count = row["docs"].as_u64().unwrap_or_default();
        if count > 0 {
            docs.insert(
                row["doc_type"].as_str().unwrap_or_default().to_owned(),
                usize::try_from(count)?,
            );
        }
    }
    for obstacle in ["errors", "parked_batches", "cases_to_replay", "pending_case_diffs"] {
        ensure!(stats[obstacle] == 0, "{obstacle} in {stats}");
    }
    ensure!(
        docs == model.doc_counts,
        "statistics count {docs:?}, the domain has {:?}",
        model.doc_counts
    );
    Ok(())
}

/// Migrates, and checks that nothing differs: neither by the system's own account nor by the model.
async fn migrate_cleanly(world: &mut World, name: &str, model: &Model) -> Result<()> {
    let output = world.domain(name, "MIGRATE", &[]).await?.ok();
    ensure!(output.stdout.contains("clean"), "{}", output.told());
    assert_clean(&world.stats(name).await?, model)?;
    world.assert_same_rows(name, model).await
}
