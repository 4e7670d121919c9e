//! Documents and messages that cannot be taken: recorded or dropped with a reason, and everything else goes on.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use e2e::load;
use e2e::world::{Options, WORKERS, World};
use generator::GeneratedDomain;
use generator::compare::{ActualCase, compare};
use generator::malformed::{self, Malformed, Outcome};
use proto::message::BatchMessage;
use proto::topology::{DEAD_LETTER_QUEUE, Stage};
use serde_json::Value;

use crate::domain;

/// Differences shown at most.
const SHOWN: usize = 10;

async fn load_malformed(world: &World, spoilt: &[Malformed]) -> Result<()> {
    for form in spoilt {
        world.load_documents(form.docs.clone()).await?;
        load::write_blobs(&world.folder().join("blobs"), form.blobs.clone()).await?;
        world.shards().load_blobmeta(&form.blobmeta).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_documents_are_recorded_and_everything_else_is_migrated() -> Result<()> {
    let mut generated = domain("rough", 400);
    let options = generator::Options::new("rough", 400, 7);
    let mut spoilt = malformed::all(&options);
    spoilt.push(malformed::other_domain(&options));
    spoilt.push(malformed::empty_document(&options));
    let (foreign_case, foreign_rows) = malformed::case_of_other_domain(&options);
    spoilt.push(foreign_case);
    let taken = take_form_id(&mut generated)?;
    let taken_id = taken.form_id.clone();
    spoilt.push(taken);

    let mut world = World::start(Options::default().with("worker.max_attempts", "3")).await?;
    world.load(&generated).await?;
    load_malformed(&world, &spoilt).await?;
    world.load_documents(malformed::unusable_ids(&options)).await?;
    for case in &foreign_rows {
        insert_case(&world, case).await?;
    }
    insert_form(&world, &taken_id).await?;

    world.domain("rough", "MIGRATE", &[]).await?.ended_with(1);
    let recorded: BTreeSet<String> = world
        .state()
        .query(
            "select doc_id from doc_error where kind not like 'CommCareCase%' and code <> 'C2S-4180'",
            &[],
        )
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let unusable = "select string_agg(kind, ' ' order by kind) from doc_error where code = 'C2S-4180'";
    ensure!(world.text(unusable).await?.as_deref() == Some("CommCareCase XFormInstance XFormInstance"));
    let verbose = world.domain("rough", "stats", &["--verbose"]).await?.ok();
    ensure!(verbose.stdout.contains("with\\0zero... ("), "{}", verbose.told());
    let mut wrong = Vec::new();
    for form in &spoilt {
        let listed = verbose
            .stdout
            .lines()
            .any(|line| line.contains(&form.form_id) && line.contains("C2S-"));
        let expected = form.outcome == Outcome::Refused;
        if recorded.contains(&form.form_id) != expected || listed != expected {
            wrong.push(format!(
                "{}: on record {}, listed {listed}",
                form.fault,
                recorded.contains(&form.form_id)
            ));
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}\n{}", verbose.told());
    let known: BTreeSet<String> = spoilt.iter().map(|form| form.form_id.clone()).collect();
    let innocent: Vec<_> = recorded.difference(&known).collect();
    ensure!(innocent.is_empty(), "recorded without reason: {innocent:?}");

    for form in spoilt.iter().filter(|form| form.outcome == Outcome::RebuiltFromJson) {
        assert_rebuilt(&world, form, &verbose.stdout).await?;
    }
    assert_others_are_migrated(&world, &generated.model, &spoilt).await?;
    let neighbour = world.actual("rough-neighbour").await?;
    for case in &foreign_rows {
        ensure!(
            neighbour.cases.get(&case.case_id) == Some(case),
            "the case of another domain has changed"
        );
    }
    ensure!(
        neighbour.forms.keys().eq([&taken_id]),
        "forms of another domain: {:?}",
        neighbour.forms.keys()
    );

    let commit = world.domain("rough", "COMMIT", &[]).await?.ended_with(1);
    ensure!(
        commit.stderr.contains("C2S-4041") && commit.stderr.contains("with errors"),
        "{}",
        commit.told()
    );
    world.end()
}

/// A sound form of the domain whose id a form of another domain has in SQL; it touches no case.
fn take_form_id(generated: &mut GeneratedDomain) -> Result<Malformed> {
    let archived = generated
        .model
        .forms
        .values()
        .find(|form| form.state == 2)
        .context("no form is archived")?;
    let form_id = archived.form_id.clone();
    generated.model.forms.remove(&form_id);
    generated.model.blobmeta_after.retain(|row| row.parent_id != form_id);
    Ok(Malformed {
        fault: "id of another domain's form",
        form_id,
        docs: Vec::new(),
        blobs: Vec::new(),
        blobmeta: Vec::new(),
        outcome: Outcome::Refused,
    })
}

/// The form is migrated, and its XML is a blob again, with the one row of metadata that HQ wants.
async fn assert_rebuilt(world: &World, form: &Malformed, verbose: &str) -> Result<()> {
    let states = world
        .target()
        .query(
            "select state from form_processor_xforminstancesql where form_id = $1",
            &[&form.form_id],
        )
        .await?;
    ensure!(states.len() == 1 && states[0].get::<_, i16>(0) == 1, "{}", form.fault);
    let rows = world
        .target()
        .query(
            "select key, type_code, content_type, content_length from blobs_blobmeta where parent_id = $1",
            &[&form.form_id],
        )
        .await?;
    ensure!(rows.len() == 1, "{} rows of blob metadata", rows.len());
    let (key, type_code): (String, i16) = (rows[0].get(0), rows[0].get(1));
    ensure!(type_code == 2 && rows[0].get::<_, Option<&str>>(2) == Some("text/xml"));
    ensure!(form.blobmeta.iter().all(|row| row.key != key), "the row leads nowhere");
    let blob = std::fs::read(world.folder().join("blobs").join(&key))?;
    ensure!(i64::try_from(blob.len())? == rows[0].get::<_, i64>(3));
    let listed = verbose
        .lines()
        .any(|line| line.contains(&form.form_id) && line.contains("rebuilt") && line.contains(&key));
    ensure!(listed, "{verbose}");
    Ok(())
}

/// The rows are the model's: nothing of the spoilt forms is there but what their blob metadata was before.
async fn assert_others_are_migrated(world: &World, model: &generator::Model, spoilt: &[Malformed]) -> Result<()> {
    let spoilt_ids: BTreeSet<&str> = spoilt.iter().map(|form| form.form_id.as_str()).collect();
    let mut actual = world.actual("rough").await?;
    actual
        .blobmeta
        .retain(|row| !spoilt_ids.contains(row.parent_id.as_str()));
    for form in spoilt.iter().filter(|form| form.outcome == Outcome::RebuiltFromJson) {
        ensure!(actual.forms.remove(&form.form_id).is_some(), "{}", form.fault);
        let before = actual.cases.len();
        let touches = |case: &ActualCase| {
            let mut forms = case.transactions.iter().map(|row| row.form_id.as_deref());
            forms.any(|id| id == Some(&form.form_id))
        };
        actual.cases.retain(|_, case| !touches(case));
        ensure!(
            before == actual.cases.len() + 1,
            "{}: its case is not there",
            form.fault
        );
    }
    let differences = compare(model, &actual, SHOWN);
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

/// A row of another domain, as HQ has it.
async fn insert_case(world: &World, case: &ActualCase) -> Result<()> {
    let json = Value::Object(case.case_json.clone()).to_string();
    let server_modified_on = case.server_modified_on.context("the case's server date")?;
    world
        .target()
        .execute(
            "insert into form_processor_commcarecasesql (case_id, domain, type, name, owner_id, opened_on, opened_by,
                 modified_on, server_modified_on, modified_by, closed, closed_on, closed_by, deleted, deleted_on,
                 deletion_id, external_id, location_id, case_json)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)",
            &[
                &case.case_id,
                &case.domain,
                &case.case_type,
                &case.name,
                &case.owner_id,
                &case.opened_on,
                &case.opened_by,
                &case.modified_on,
                &server_modified_on,
                &case.modified_by,
                &case.closed,
                &case.closed_on,
                &case.closed_by,
                &case.deleted,
                &case.deleted_on,
                &case.deletion_id,
                &case.external_id,
                &case.location_id,
                &json,
            ],
        )
        .await
        .context("insert a case")?;
    for row in &case.transactions {
        world
            .target()
            .execute(
                "insert into form_processor_casetransaction
                     (case_id, form_id, sync_log_id, server_date, client_date, type, revoked, details)
                 values ($1, $2, $3, $4, $5, $6, $7, $8)",
                &[
                    &case.case_id,
                    &row.form_id,
                    &row.sync_log_id,
                    &row.server_date,
                    &row.client_date,
                    &row.kind,
                    &row.revoked,
                    &row.details.to_string(),
                ],
            )
            .await
            .context("insert a case transaction")?;
    }
    Ok(())
}

async fn insert_form(world: &World, form_id: &str) -> Result<()> {
    world
        .target()
        .execute(
            "insert into form_processor_xforminstancesql (form_id, domain, xmlns, received_on, auth_context,
                 openrosa_headers, partial_submission, state, initial_processing_complete)
             values ($1, 'rough-neighbour', '', '2016-01-01T00:00:00Z', '{}', '{}', false, 1, true)",
            &[&form_id],
        )
        .await
        .context("insert a form")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_garbage_are_dead_lettered() -> Result<()> {
    let generated = domain("noisy", 200);
    let mut world = World::start(Options::default().workers(1)).await?;
    world.load(&generated).await?;
    let mut sent = 0;
    for stage in Stage::ALL {
        for junk in [
            b"".as_slice(),
            b"not MessagePack",
            &[0x81, 0xa7, b'v'],
            &[0xff; 100_000],
        ] {
            world.queues().publish(stage, junk).await?;
            sent += 1;
        }
    }
    world
        .until("all of it is dead-lettered", async |world| {
            Ok(world.queues().depth(DEAD_LETTER_QUEUE).await == Some(sent))
        })
        .await?;
    crate::migrate_cleanly(&mut world, "noisy", &generated.model).await?;
    ensure!(
        world.queues().depth(DEAD_LETTER_QUEUE).await == Some(0),
        "the driver takes dead letters away"
    );
    world.end()
}

/// A message that comes to nobody, while others keep its queue from being empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_became_a_dead_letter_is_published_again() -> Result<()> {
    let generated = domain("returned", 100);
    let mut world = World::start(Options::default().workers(0)).await?;
    world.load(&generated).await?;
    let command = world.begin_domain("returned", "MIGRATE", &[])?;
    let queue = Stage::Form.queue();
    world
        .until("a batch is published", async |world| {
            Ok(world.queues().depth(queue).await > Some(0))
        })
        .await?;
    let taken = world.queues().take(queue).await?.context("a message")?;
    let message = BatchMessage::decode(&taken.payload)?;
    let mut stale = message.clone();
    stale.epoch = stale.epoch.next(0);
    world.queues().publish_batch(&stale).await?;
    let row = format!("from batch where id = {}", message.batch_id);
    world
        .wait_until(&format!("select published_at is not null {row}"))
        .await?;
    let first = world.text(&format!("select published_at::text {row}")).await?;
    let first = first.context("a time")?;
    world.queues().bury(&taken.payload).await?;
    world
        .wait_until(&format!("select published_at > '{first}' {row}"))
        .await?;
    for worker in WORKERS {
        world.start_workers(worker, 1).await?;
    }
    command.end(crate::PATIENCE).await?.ok();
    crate::assert_clean(&world.stats("returned").await?, &generated.model)?;
    world.end()
}
