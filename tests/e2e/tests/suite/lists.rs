//! Lists of domains: what becomes of each, two lists at once, and running a list again.

use anyhow::{Context, Result, ensure};
use couch_standin::{Action, FaultRule, OpKind, Predicate};
use e2e::program::Output;
use e2e::world::{Options, World};
use generator::damage;
use serde_json::Value;

use crate::hook::Hook;
use crate::{PATIENCE, assert_clean, domain};

const COMMAND: &str = "migrate_multiple_domains_from_couch_to_sql";

/// (result, docs) of a domain in the summary.
fn result(output: &Output, name: &str) -> Result<(String, u64)> {
    let summary: Value = serde_json::from_str(&output.stdout).with_context(|| output.told())?;
    let row = summary["domains"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|row| row["domain"] == name)
        .with_context(|| format!("{name} in {}", output.told()))?;
    Ok((
        row["result"].as_str().unwrap_or_default().to_owned(),
        row["docs"].as_u64().unwrap_or_default(),
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_commits_resets_and_skips_and_goes_on_when_it_is_run_again() -> Result<()> {
    let mut world = World::start(Options::in_process()).await?;
    let clean = domain("clean", 60);
    let mut doubtful = domain("doubtful", 60);
    damage::change_property(&mut doubtful, 1);
    let by_hand = domain("by-hand", 60);
    for generated in [&clean, &doubtful, &by_hand, &domain("living", 60)] {
        world.load(generated).await?;
    }
    world.domain("by-hand", "MIGRATE", &[]).await?.ok();
    world.domain("living", "MIGRATE", &["--live"]).await?.ok();
    let path = world.folder().join("list.txt");
    std::fs::write(
        &path,
        "clean\n# of another team\n\ndoubtful\nno-such-domain\nby-hand\nliving\nclean\n",
    )?;
    let list = path.to_string_lossy().into_owned();

    let first = world.coordinator(&[COMMAND, &list, "--json"]).await?.ended_with(1);
    let docs = u64::try_from(clean.docs.len())?;
    ensure!(
        result(&first, "clean")? == ("migrated".to_owned(), docs),
        "{}",
        first.told()
    );
    for (name, expected) in [
        ("doubtful", "has_diffs"),
        ("no-such-domain", "unknown"),
        ("by-hand", "left_alone"),
        ("living", "left_alone"),
    ] {
        ensure!(result(&first, name)?.0 == expected, "{name}: {}", first.told());
    }
    assert_clean(&world.stats("clean").await?, &clean.model)?;
    world.assert_same_rows("clean", &clean.model).await?;
    ensure!(
        world.stats("doubtful").await?["status"] == "not_started",
        "it was reset"
    );
    ensure!(world.stats("by-hand").await?["status"] == "in_progress");
    ensure!(
        world
            .number("select count(*) from migration where domain = 'no-such-domain'")
            .await?
            == 0
    );

    // Asked to, it goes on with what a command has begun; and the table says the rest.
    let second = world.coordinator(&[COMMAND, &list, "--resume"]).await?.ended_with(1);
    for line in [
        "clean: on SQL already",
        "by-hand: migrated",
        "doubtful: C2S-4050: has diffs; it was reset",
    ] {
        ensure!(second.stderr.contains(line), "{line}: {}", second.told());
    }
    ensure!(second.stdout.contains("\nErrors:\n"), "{}", second.told());
    ensure!(world.stats("by-hand").await?["status"] == "complete");
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_list_that_commits_what_is_clean_takes_the_others_back_to_live() -> Result<()> {
    let mut world = World::start(Options::in_process()).await?;
    let mut doubtful = domain("doubtful", 60);
    damage::change_property(&mut doubtful, 1);
    for generated in [&domain("clean", 60), &doubtful] {
        world.load(generated).await?;
    }
    let output = world
        .coordinator(&[COMMAND, "--live", "--commit-if-clean", "--json", ":clean:doubtful"])
        .await?
        .ended_with(1);
    ensure!(result(&output, "clean")?.0 == "migrated", "{}", output.told());
    ensure!(result(&output, "doubtful")?.0 == "has_diffs", "{}", output.told());
    ensure!(world.stats("clean").await?["status"] == "complete");
    ensure!(
        world.stats("doubtful").await?["status"] == "dry_run",
        "HQ takes submissions again"
    );
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_list_leaves_no_domain_without_submissions_that_was_live() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let hook = Hook::create(folder.path().to_path_buf())?;
    let mut world = World::start(Options::in_process().with("hq.cache_hook", &hook.setting())).await?;
    let mut doubtful = domain("by-hand", 60);
    damage::change_property(&mut doubtful, 1);
    for generated in [&domain("living", 60), &doubtful] {
        world.load(generated).await?;
    }
    world.domain("by-hand", "MIGRATE", &[]).await?.ended_with(1);
    // Its flag goes live, then to in progress; and HQ cannot be told of that.
    hook.fail(hook.calls()? + 2)?;
    let list = [COMMAND, "--live", "--commit-if-clean", "--resume", "--json"];
    let failed = world
        .coordinator(&[&list[..], &[":living"]].concat())
        .await?
        .ended_with(1);
    ensure!(result(&failed, "living")?.0 == "failed", "{}", failed.told());
    ensure!(
        failed.stdout.contains("C2S-4030") && failed.stdout.contains("it is live again"),
        "{}",
        failed.told()
    );
    ensure!(world.stats("living").await?["status"] == "dry_run");

    // Begun with downtime, it has never been live.
    let left = world
        .coordinator(&[&list[..], &[":by-hand"]].concat())
        .await?
        .ended_with(1);
    ensure!(result(&left, "by-hand")?.0 == "has_diffs", "{}", left.told());
    ensure!(world.stats("by-hand").await?["status"] == "in_progress");
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_neither_follows_an_operators_run_nor_ends_an_operators_commit() -> Result<()> {
    let mut world = World::start(Options::in_process()).await?;
    for name in ["busy", "committing"] {
        world.load(&domain(name, 60)).await?;
    }
    world.domain("committing", "MIGRATE", &[]).await?.ok();
    // The operator's COMMIT has died right after its intent.
    world
        .state()
        .batch_execute("update migration set commit_step = 'intent' where domain = 'committing'")
        .await?;
    let faults = world.source().stand_in().faults();
    let held = faults.add(FaultRule::once(Predicate::op(OpKind::BulkGet), Action::Hold).after(1));
    let operator = world.begin_domain("busy", "MIGRATE", &[])?;
    ensure!(world.source().stand_in().faults().reached(held, 1).await);
    for resume in [&[][..], &["--resume"]] {
        let arguments = [&[COMMAND, "--json"], resume, &[":busy:committing"]].concat();
        let list = world.coordinator(&arguments).await?.ended_with(1);
        for (name, code) in [("busy", "C2S-4113"), ("committing", "C2S-4001")] {
            ensure!(result(&list, name)?.0 == "left_alone", "{name}: {}", list.told());
            ensure!(list.stdout.contains(code), "{code}: {}", list.told());
        }
    }
    world.source().stand_in().faults().remove(held);
    operator.end(PATIENCE).await?.ok();
    ensure!(
        world.stats("busy").await?["status"] == "in_progress",
        "it is the operator's"
    );
    let step = world
        .text("select commit_step from migration where domain = 'committing'")
        .await?;
    ensure!(step.as_deref() == Some("intent"), "{step:?}");
    ensure!(world.source().domain_doc("committing").await?["use_sql_backend"] == false);
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_lists_at_once_share_their_domains_and_none_is_done_twice() -> Result<()> {
    let mut world = World::start(Options::default()).await?;
    let names: Vec<String> = (0..10).map(|number| format!("village-{number}")).collect();
    for name in &names {
        // One of them has differences: the other list must not try it once more after its reset.
        let mut generated = domain(name, 40);
        if name.ends_with('5') {
            damage::change_property(&mut generated, 1);
        }
        world.load(&generated).await?;
    }
    let forward = format!(":{}", names.join(":"));
    let backward = format!(":{}", names.iter().rev().cloned().collect::<Vec<_>>().join(":"));
    // Neither may end before the other has begun. The first bulk read is the start's own look at the blob store.
    let rule = world
        .source()
        .stand_in()
        .faults()
        .add(FaultRule::once(Predicate::op(OpKind::BulkGet), Action::Hold).after(1));
    let first = world.begin(&[COMMAND, "--at-most", "2", "--json", &forward])?;
    ensure!(world.source().stand_in().faults().reached(rule, 1).await);
    let second = world.begin(&[COMMAND, "--at-most", "2", "--json", &backward])?;
    world
        .wait_until("select count(distinct holder) > 1 from listed_domain")
        .await?;
    world.source().stand_in().faults().remove(rule);
    let (first, second) = tokio::try_join!(first.end(PATIENCE), second.end(PATIENCE))?;

    let mut by_each = [0, 0];
    for name in &names {
        let results = [result(&first, name)?.0, result(&second, name)?.0];
        let done = if name.ends_with('5') { "has_diffs" } else { "migrated" };
        let doers = results.iter().filter(|result| *result == done).count();
        ensure!(doers == 1, "{name} was done by {doers}: {results:?}");
        for (count, result) in by_each.iter_mut().zip(&results) {
            *count += usize::from(result == done);
            ensure!(
                result == done || result == "on_sql_already" || result == "by_another_list",
                "{name}: {results:?}"
            );
        }
    }
    ensure!(
        by_each.iter().all(|count| *count > 0),
        "one list did it all: {by_each:?}"
    );
    ensure!(
        world.number("select count(*) from run").await? == 10,
        "a domain was migrated twice"
    );
    for output in [first, second] {
        output.ended_with(1);
    }
    world.end()
}
