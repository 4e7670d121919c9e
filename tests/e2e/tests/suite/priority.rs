//! What `--priority` does: by it, the domains of a list get their part of the queue to the workers.

use anyhow::{Result, ensure};
use e2e::world::{Options, World};

use crate::domain;

const COMMAND: &str = "migrate_multiple_domains_from_couch_to_sql";

fn published(name: &str) -> String {
    format!(
        "select count(*) from batch b join migration m on m.id = b.migration_id
         where m.domain = '{name}' and b.state = 'ready' and b.published_at is not null"
    )
}

/// Nobody takes batches, so that what each domain may have in the queue stays there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_of_low_priority_gets_its_part_of_the_queue_and_no_more() -> Result<()> {
    let options = Options::default()
        .workers(0)
        .with("driver.form_batch", "5")
        .with("driver.window", "16");
    let mut world = World::start(options).await?;
    for name in ["urgent", "usual", "whenever"] {
        world.load(&domain(name, 150)).await?;
    }
    let mut commands = Vec::new();
    // Alone it has the whole window; then four to sixteen; then one to sixteen and four. That is less than one batch of 16.
    for (name, priority, expected) in [("urgent", "high", 16), ("usual", "normal", 3), ("whenever", "low", 1)] {
        commands.push(world.begin(&[COMMAND, "--priority", priority, &format!(":{name}")])?);
        world
            .wait_until(&format!(
                "select count(*) >= 20 and count(published_at) > 0 from batch b
                 join migration m on m.id = b.migration_id where m.domain = '{name}'"
            ))
            .await?;
        world
            .wait_until(&format!("select ({}) >= {expected}", published(name)))
            .await?;
        let found = world.number(&published(name)).await?;
        ensure!(found == expected, "{found} batches of {name} are in the queue");
    }
    for command in commands {
        command.kill().await?;
    }
    world.end()
}
