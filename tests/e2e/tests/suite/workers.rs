//! The number of workers and the number of deliveries decide nothing.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::world::{Options, WORKERS, World};
use proto::doctype::DocType;
use proto::ids::{BatchId, Domain, Epoch};
use proto::message::{BatchBody, BatchMessage, VERSION};
use proto::topology::Stage;

use crate::{PATIENCE, assert_clean, domain, migrate_cleanly};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_2_4_8_give_the_same_rows() -> Result<()> {
    let generated = domain("crowd", 800);
    let mut world = World::start(Options::default().workers(0).with("worker.concurrency", "1")).await?;
    world.load(&generated).await?;
    for (more, together) in [(2, 2), (2, 4), (4, 8)] {
        for worker in WORKERS {
            world.start_workers(worker, more).await?;
            ensure!(world.pids(worker).len() == together);
        }
        migrate_cleanly(&mut world, "crowd", &generated.model)
            .await
            .with_context(|| format!("{together} workers"))?;
        world.domain("crowd", "reset", &[]).await?.ok();
    }
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_twice_gives_the_same_rows() -> Result<()> {
    let generated = domain("echo", 800);
    let mut world = World::start(Options::default()).await?;
    world.load(&generated).await?;
    let command = world.begin_domain("echo", "MIGRATE", &[])?;
    let mut ended = Box::pin(command.end(PATIENCE));
    let mut copies: HashMap<i64, u32> = HashMap::new();
    let output = loop {
        tokio::select! {
            output = &mut ended => break output?,
            repeated = repeat_messages(&world, &mut copies) => repeated?,
        }
    };
    output.ok();
    ensure!(
        copies.len() > 10,
        "messages of {} batches only were repeated",
        copies.len()
    );
    assert_clean(&world.stats("echo").await?, &generated.model)?;
    world.assert_same_rows("echo", &generated.model).await?;
    world.end()
}

/// Publishes another message for each batch row, whatever its state: some before the driver does, some while a worker has
/// the batch, some when it is done.
async fn repeat_messages(world: &World, copies: &mut HashMap<i64, u32>) -> Result<()> {
    let rows = world
        .state()
        .query(
            "select b.id, b.stage, b.doc_type, b.item_count, b.attempt, m.domain, m.epoch
             from batch b join migration m on m.id = b.migration_id",
            &[],
        )
        .await?;
    for row in rows {
        let id: i64 = row.get("id");
        let count = copies.entry(id).or_default();
        if *count < 3 {
            *count += 1;
            world.queues().publish_batch(&message(&row)?).await?;
        }
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    Ok(())
}

fn message(row: &tokio_postgres::Row) -> Result<BatchMessage> {
    let count = u32::try_from(row.get::<_, i32>("item_count"))?;
    let body = match Stage::parse(row.get("stage")).context("stage")? {
        Stage::Form => BatchBody::Form {
            doc_type: DocType::parse(row.get("doc_type")).context("type")?,
            count,
        },
        Stage::Case => BatchBody::Case { count },
        Stage::Diff => BatchBody::Diff { count },
    };
    Ok(BatchMessage {
        version: VERSION,
        domain: Domain::new(row.get::<_, String>("domain")),
        epoch: Epoch(row.get("epoch")),
        batch_id: BatchId(row.get("id")),
        attempt: row.get("attempt"),
        body,
    })
}
