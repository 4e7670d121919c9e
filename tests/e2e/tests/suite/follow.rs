//! Following: a live run that stays takes what users do, and leaves little for the finish.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use couch_standin::{Action, FaultRule, OpKind, Predicate};
use e2e::environment;
use e2e::program::{RunningCommand, Signal};
use e2e::settings::Settings;
use e2e::soak::Soak;
use e2e::source::SourceKind;
use e2e::submissions::{Kind, Submissions, Write};
use e2e::world::{Options, World};
use generator::GeneratedDomain;
use serde_json::{Value, json};

use crate::{PATIENCE, assert_clean, domain};

/// Loads the domain as it stands at first, with the blobs of all that comes.
async fn load(world: &World, generated: &GeneratedDomain, late: usize) -> Result<Vec<Write>> {
    let Submissions { before, writes } = Submissions::of(generated.docs.clone(), late);
    world
        .load(&GeneratedDomain {
            docs: before,
            ..generated.clone()
        })
        .await?;
    Ok(writes)
}

async fn write(world: &World, writes: &[Write]) -> Result<()> {
    for write in writes {
        world.load_documents(write.docs.clone()).await?;
    }
    Ok(())
}

fn begin(world: &mut World) -> Result<RunningCommand> {
    world.begin_domain("followed", "MIGRATE", &["--live", "--follow"])
}

/// Everything that was written until now to the domains that are followed has been read, taken, replayed and compared.
async fn followed_up(world: &World) -> Result<()> {
    let now = world.text("select clock_timestamp()::text").await?.unwrap_or_default();
    world
        .wait_until(&format!(
            "select bool_and(m.phase = 'follow' and f.whole_generation = c.generation and c.caught_up_at > '{now}')
                and not exists (select from changed_doc) and not exists (select from dirty_case)
                and not exists (select from batch where state in ('ready', 'claimed'))
                and not exists (select from case_state where diffed_generation is distinct from generation)
             from migration m join followed f on f.migration_id = m.id join change_feed c on c.source = f.source"
        ))
        .await
}

async fn following(world: &World) -> Result<()> {
    world
        .wait_until("select count(*) = 1 from migration where phase = 'follow'")
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_followed_domain_leaves_little_to_the_finish() -> Result<()> {
    let generated = domain("followed", 500);
    let mut world = World::start(Options::default().workers(1).with("live.follow_pause", "\"200ms\"")).await?;
    let writes = load(&world, &generated, 150).await?;
    let (early, rest) = writes.split_at(writes.len() / 3);
    let (lost, late) = rest.split_at(rest.len() / 2);

    let command = begin(&mut world)?;
    following(&world).await?;
    write(&world, early).await?;
    followed_up(&world).await?;
    let stats = world.stats("followed").await?;
    ensure!(
        stats["status"] == "dry_run" && stats["follow"]["relied_on"] == true,
        "{stats}"
    );
    let told = world.domain("followed", "stats", &[]).await?.ok();
    ensure!(told.stdout.contains("phase: follow"), "{}", told.told());

    // The driver dies, and the feed is of another database when its run goes on: what was written meanwhile is in no feed.
    command.kill().await?;
    write(&world, lost).await?;
    let seq = world.source().forms().info().await?.update_seq;
    world
        .state()
        .execute("update change_feed set identity = 'another', seq = $1", &[&seq])
        .await?;
    let command = begin(&mut world)?;
    world.wait_until("select generation = 3 from change_feed").await?;
    followed_up(&world).await?;

    let forms = world.source().forms().name().to_owned();
    let older = world.source().stand_in().back_up(&forms).context("a database")?;
    write(&world, late).await?;
    followed_up(&world).await?;
    // A back-up is put back, as the same database. What SQL has in a newer revision is listed, until Couch has that again.
    let newer = world.source().stand_in().back_up(&forms).context("a database")?;
    world.source().stand_in().restore(&forms, &older)?;
    world.wait_until("select generation = 4 from change_feed").await?;
    let went_back = "select count(*) > 0 from doc_error where code = 'C2S-2360'";
    world.wait_until(went_back).await?;
    world.source().stand_in().restore(&forms, &newer)?;
    followed_up(&world).await?;
    let stats = world.stats("followed").await?;
    ensure!(stats["errors"] == 0, "{stats}");
    let to_do = |work: usize| &stats["forecast"]["work"][work]["documents"];
    ensure!(
        to_do(2)["high"] == 0 && to_do(4)["high"] == 0,
        "all is looked at: {stats}"
    );
    let documents = generated.docs.len();
    ensure!(
        stats["forecast"]["commit_snapshot"]["documents"] == documents,
        "{stats}"
    );

    // What is refused leaves the run as it is.
    let slow = world.configuration_with("slow.toml", &[("hq.cache_wait", "\"10m\"")])?;
    let limited = ["MIGRATE", "--no-input", "--finish", "--max-downtime", "5m"];
    let arguments = [
        &["--config", &slow, "migrate_domain_from_couch_to_sql", "followed"][..],
        &limited,
    ]
    .concat();
    let refused = world.coordinator_bare(&arguments, &[]).await?.ended_with(1);
    ensure!(refused.stderr.contains("C2S-4090"), "{}", refused.told());
    ensure!(world.number("select count(*) from run where state = 'running'").await? == 1);

    world.source().stand_in().reset_requests();
    let finish = world.domain("followed", "MIGRATE", &["--finish"]).await?.ok();
    ensure!(finish.stdout.contains("clean"), "{}", finish.told());
    let read = world.source().stand_in().requests().of(OpKind::BulkGet).documents;
    ensure!(read == 0, "the finish read {read} documents that had been followed");
    command.end(PATIENCE).await?.ended_with(130);
    assert_clean(&world.stats("followed").await?, &generated.model)?;
    world.assert_same_rows("followed", &generated.model).await?;
    world.domain("followed", "COMMIT", &[]).await?.ok();
    world.end()
}

/// The same where sequences are numbers, pages say nothing of what is behind them, and every write needs a revision.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_on_pouchdb_server_is_followed() -> Result<()> {
    let generated = domain("followed", 200);
    let mut world = World::start(
        Options {
            source: SourceKind::Server(environment::pouchdb()?),
            ..Options::in_process()
        }
        .with("live.follow_pause", "\"200ms\""),
    )
    .await?;
    let writes = load(&world, &generated, 60).await?;
    let fleeting = json!({"_id": "0-fleeting", "doc_type": "XFormError", "domain": "followed", "received_on": "2019-01-01T00:00:00Z"});
    let command = begin(&mut world)?;
    following(&world).await?;
    let (early, late) = writes.split_at(writes.len() / 2);
    write(&world, early).await?;
    world.load_documents(vec![fleeting]).await?;
    followed_up(&world).await?;
    let met = "select exists (select from doc_revision where doc_id = '0-fleeting' and not deleted)";
    world.wait_until(met).await?;
    world.source().delete("0-fleeting").await?;
    write(&world, late).await?;
    followed_up(&world).await?;
    command.signal(Signal::Interrupt)?;
    command.end(PATIENCE).await?.ended_with(130);

    let finish = world.domain("followed", "MIGRATE", &["--finish"]).await?.ok();
    ensure!(finish.stdout.contains("clean"), "{}", finish.told());
    assert_clean(&world.stats("followed").await?, &generated.model)?;
    world.assert_same_rows("followed", &generated.model).await?;
    world.domain("followed", "COMMIT", &[]).await?.ok();
    world.end()
}

/// Documents change type, move from one id to another, come and vanish between the scan that found them and the read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_between_scan_and_read_is_taken_as_it_is() -> Result<()> {
    let generated = domain("followed", 300);
    let mut world = World::start(Options::in_process().with("live.follow_pause", "\"200ms\"")).await?;
    let writes = load(&world, &generated, 100).await?;
    // Forms that will be gone before they are read, and one that comes and goes while the run follows.
    let mut fleeting: Vec<Value> = generated
        .docs
        .iter()
        .filter(|doc| doc["doc_type"] == "XFormInstance")
        .take(4)
        .cloned()
        .collect();
    for (number, doc) in fleeting.iter_mut().enumerate() {
        doc["_id"] = json!(format!("0-fleeting-{number}"));
    }
    let (never, later) = fleeting.split_at(3);
    world.load_documents(never.to_vec()).await?;
    let stand_in = world.source().stand_in();
    let forms = world.source().forms().name().to_owned();
    let held = stand_in
        .faults()
        .add(FaultRule::once(Predicate::op(OpKind::BulkGet), Action::Hold));
    let command = begin(&mut world)?;
    let stand_in = world.source().stand_in();
    let reached = tokio::time::timeout(PATIENCE, stand_in.faults().reached(held, 1)).await;
    ensure!(reached == Ok(true), "no form was read");
    for doc in never {
        ensure!(stand_in.delete(&forms, doc["_id"].as_str().unwrap_or_default()));
    }
    let (early, late) = writes.split_at(writes.len() / 2);
    write(&world, early).await?;
    world.source().stand_in().faults().remove(held);
    following(&world).await?;

    world.load_documents(later.to_vec()).await?;
    followed_up(&world).await?;
    ensure!(
        world
            .source()
            .stand_in()
            .delete(&forms, later[0]["_id"].as_str().unwrap_or_default())
    );
    write(&world, late).await?;
    followed_up(&world).await?;
    command.signal(Signal::Interrupt)?;
    command.end(PATIENCE).await?.ended_with(130);
    ensure!(world.stats("followed").await?["status"] == "dry_run");
    let finish = world.domain("followed", "MIGRATE", &["--finish"]).await?.ok();
    ensure!(finish.stdout.contains("clean"), "{}", finish.told());
    assert_clean(&world.stats("followed").await?, &generated.model)?;
    world.assert_same_rows("followed", &generated.model).await?;
    world.end()
}

/// Two coordinators follow two domains of one database, and one of them reads for both. That one dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_reader_serves_all_followed_domains_and_another_takes_over() -> Result<()> {
    let (mine, other) = (domain("followed", 200), domain("beside", 200));
    let options = Options::default().workers(1);
    let mut world = World::start(options.with("live.follow_pause", "\"200ms\"")).await?;
    let (of_mine, of_other) = (load(&world, &mine, 60).await?, load(&world, &other, 60).await?);
    let command = begin(&mut world)?;
    following(&world).await?;
    world.start_program("serve", "coordinator", &["serve"])?;
    world
        .wait_until("select count(*) > 0 from instance where kind = 'serve'")
        .await?;
    world
        .domain("beside", "MIGRATE", &["--live", "--follow", "--detach"])
        .await?
        .ok();
    world
        .wait_until("select count(*) = 2 from migration where phase = 'follow'")
        .await?;
    let reads_for_both = "select bool_or(c.reader_name = m.driver_name) and count(distinct m.driver_name) = 2
                          from migration m cross join change_feed c";
    world.wait_until(reads_for_both).await?;
    let (early, late) = of_other.split_at(of_other.len() / 2);
    write(&world, early).await?;
    followed_up(&world).await?;

    command.kill().await?;
    write(&world, &of_mine).await?;
    write(&world, late).await?;
    followed_up(&world).await?;
    let drives_both = "select bool_and(c.reader_name = m.driver_name) from migration m cross join change_feed c";
    world.wait_until(drives_both).await?;
    for generated in [&mine, &other] {
        let name = generated.domain_doc["name"].as_str().unwrap_or_default();
        let finish = world.domain(name, "MIGRATE", &["--finish"]).await?.ok();
        ensure!(finish.stdout.contains("clean"), "{}", finish.told());
        assert_clean(&world.stats(name).await?, &generated.model)?;
        world.assert_same_rows(name, &generated.model).await?;
    }
    world.end()
}

/// The whole soak, in seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak() -> Result<()> {
    let soak = Soak {
        forms: 300,
        time: Duration::from_secs(3),
        rate: 20.0,
        workers: 1,
        minimum_age: Duration::from_secs(1),
        finish_within: PATIENCE,
        seed: 5,
    };
    let (report, ended) = e2e::soak::run(soak, Settings::for_tests()).await;
    ended?;
    ensure!(report.writes[&Kind::Submitted] == 60, "{report}");
    Ok(())
}
