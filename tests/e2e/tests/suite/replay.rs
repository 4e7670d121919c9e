//! A form that is staged while its case is being replayed.

use anyhow::{Context, Result, ensure};
use e2e::world::{Options, World};
use generator::GeneratedDomain;
use proto::doctype::DocType;
use proto::ids::{BatchId, Domain, Epoch};
use proto::message::{BatchBody, BatchMessage, VERSION};
use serde_json::Value;

use crate::{PATIENCE, assert_clean, domain};

/// Whether somebody waits for a lock in HQ's database.
const SOMEBODY_WAITS: &str =
    "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn form_staged_during_replay_is_never_lost() -> Result<()> {
    let mut generated = domain("late", 120);
    let late = take_later_form(&mut generated)?;
    let form_id = late["_id"].as_str().context("the form's id")?.to_owned();
    // All cases are in one batch, so that the case of the late form is held with the others.
    let options = Options::default().workers(1).with("driver.case_batch", "1000");
    let mut world = World::start(options).await?;
    world.load(&generated).await?;

    // A case worker has read the inputs of its replay when it writes transactions, and here it must wait.
    let holder = world.another_target().await?;
    holder
        .batch_execute("begin; lock table form_processor_casetransaction in share row exclusive mode")
        .await?;
    let command = world.begin_domain("late", "MIGRATE", &[])?;
    world
        .until("the replay is held", async |world| Ok(waiting(world).await? > 0))
        .await?;
    let case_id: String = held_case(&world, &generated, &form_id).await?;
    let dirty = format!("select count(*) from dirty_case where case_id = '{case_id}'");
    let dirty_before = world.number(&dirty).await?;
    ensure!(dirty_before > 0, "case {case_id} is not being replayed");

    // Now the form comes: its document, and a batch for it.
    world.load_documents(vec![late]).await?;
    let batch = insert_batch(&world, &form_id).await?;
    world.queues().publish_batch(&batch).await?;
    world
        .wait_until(&format!(
            "select count(*) > 0 from staged_update where form_id = '{form_id}'"
        ))
        .await?;
    ensure!(
        world.number(&dirty).await? > dirty_before,
        "the form left no dirty row of its own"
    );
    ensure!(
        waiting(&world).await? > 0,
        "the replay was not held until the form was staged"
    );

    holder.batch_execute("rollback").await?;
    command.end(PATIENCE).await?.ok();
    assert_clean(&world.stats("late").await?, &generated.model)?;
    world.assert_same_rows("late", &generated.model).await?;
    let generation = world
        .number(&format!(
            "select generation from case_state where case_id = '{case_id}'"
        ))
        .await?;
    ensure!(generation >= 2, "the case was replayed {generation} times");
    world.end()
}

async fn waiting(world: &World) -> Result<i64> {
    Ok(world.target().query_one(SOMEBODY_WAITS, &[]).await?.get(0))
}

/// Takes a form out of the documents whose cases all have other forms besides, so that they are replayed without it too.
fn take_later_form(generated: &mut GeneratedDomain) -> Result<Value> {
    let cases = &generated.model.cases;
    let touched = |form_id: &str| {
        cases
            .values()
            .filter(|case| {
                case.transactions
                    .iter()
                    .any(|row| row.form_id.as_deref() == Some(form_id))
            })
            .count()
    };
    let suits = |doc: &Value| {
        let form_id = doc["_id"].as_str().unwrap_or_default();
        let others_remain = cases
            .values()
            .filter(|case| {
                case.transactions
                    .iter()
                    .any(|row| row.form_id.as_deref() == Some(form_id))
            })
            .all(|case| !case.deleted && case.transactions.len() > 1);
        doc["doc_type"] == "XFormInstance" && doc.get("problem").is_none() && touched(form_id) > 0 && others_remain
    };
    let place = generated.docs.iter().rposition(suits).context("no form suits")?;
    Ok(generated.docs.remove(place))
}

/// A case of the form that is in the batch which a case worker holds.
async fn held_case(world: &World, generated: &GeneratedDomain, form_id: &str) -> Result<String> {
    let held: Vec<String> = world
        .state()
        .query_one("select ids from batch where stage = 'case' and state = 'claimed'", &[])
        .await
        .context("one case batch is held")?
        .get(0);
    let case = generated.model.cases.values().find(|case| {
        held.contains(&case.case_id)
            && case
                .transactions
                .iter()
                .any(|row| row.form_id.as_deref() == Some(form_id))
    });
    Ok(case
        .context("the form's case is not in the held batch")?
        .case_id
        .clone())
}

async fn insert_batch(world: &World, form_id: &str) -> Result<BatchMessage> {
    let row = world
        .state()
        .query_one(
            "insert into batch (migration_id, stage, doc_type, ids, item_count, published_at)
             select id, 'form', 'XFormInstance', array[$1::text], 1, now() from migration
             returning id, (select epoch from migration) as epoch",
            &[&form_id],
        )
        .await?;
    Ok(BatchMessage {
        version: VERSION,
        domain: Domain::new("late"),
        epoch: Epoch(row.get("epoch")),
        batch_id: BatchId(row.get("id")),
        attempt: 0,
        body: BatchBody::Form {
            doc_type: DocType::XFormInstance,
            count: 1,
        },
    })
}
