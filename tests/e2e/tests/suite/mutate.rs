//! A migrated domain is damaged at random: the diff finds every damage that HQ's rules do not allow, and nothing else.

use anyhow::Result;
use e2e::mutate::{self, Kinds, Options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_diff_finds_every_damage_and_nothing_else() -> Result<()> {
    let outcome = mutate::run(&Options {
        count: 400,
        seed: 3,
        forms: 300,
        locations: 10,
        documents: Kinds::All,
    })
    .await?;
    assert!(
        outcome.missed.is_empty() && outcome.extra.is_empty(),
        "missed: {:#?}\nfound in error: {:#?}",
        outcome.missed,
        outcome.extra
    );
    let allowed: usize = outcome.allowed.values().sum();
    assert_eq!(outcome.found + allowed, outcome.count);
    assert!(
        outcome.found > 150 && allowed > 80,
        "{} found, {allowed} allowed",
        outcome.found
    );
    Ok(())
}
