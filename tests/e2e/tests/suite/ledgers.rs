//! Supply chains: every ledger is migrated, every ledger whose stock in Couch differs is reported, and domains without
//! stock do not pay for them.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use e2e::ledger_report;
use e2e::world::{Options, World};
use generator::LedgerDiff;
use generator::ledger_damage::{self, Hurt};
use generator::supply::{self, SupplyOptions, SupplyWeights};
use serde_json::json;

use crate::{domain, migrate_cleanly};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_supply_chain_migrates_to_the_model() -> Result<()> {
    let generated = supply::generate(&SupplyOptions {
        locations: 40,
        products: 8,
        weeks: 24,
        weights: SupplyWeights::orderly(),
        ..SupplyOptions::new("supply", 7)
    });
    let rows = generated
        .model
        .cases
        .values()
        .map(|case| case.ledger_transactions.len());
    ensure!(rows.sum::<usize>() > 8000 && generated.model.forms.len() > 1300);
    let mut world = World::start(Options {
        shards: 2,
        ..Options::default()
    })
    .await?;
    world.load(&generated).await?;
    migrate_cleanly(&mut world, "supply", &generated.model).await?;
    world.domain("supply", "COMMIT", &[]).await?.ok();
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_reports_and_damaged_stock_are_reported_exactly() -> Result<()> {
    let mut generated = supply::generate(&SupplyOptions {
        locations: 14,
        products: 5,
        weeks: 14,
        ..SupplyOptions::new("late", 11)
    });
    let mut expected = generated.model.ledger_diffs.clone();
    ensure!(expected.iter().any(|diff| diff.path == "balance"), "nothing came late");
    let mut hurt = BTreeSet::new();
    for seed in 0..3 {
        for damage in [
            ledger_damage::change_balance,
            ledger_damage::change_last_form,
            ledger_damage::set_consumption,
            ledger_damage::drop_state,
            ledger_damage::drop_state_and_transactions,
            ledger_damage::add_state,
            ledger_damage::duplicate_transaction,
        ] {
            let Hurt { reference, diffs } =
                damage(&mut generated, seed, &hurt).context("nothing is left to be damaged")?;
            hurt.insert(reference);
            expected.extend(diffs);
        }
    }

    let mut world = World::start(Options::in_process()).await?;
    world.load(&generated).await?;
    world.domain("late", "MIGRATE", &[]).await?.ended_with(1);
    world.assert_same_rows("late", &generated.model).await?;
    assert_reported(&world, &expected).await?;

    // Now SQL's side: a balance, and a ledger that is gone.
    let (case_id, value) = ledger_damage::whole_ledger(&generated, 1, &hurt).context("no whole ledger is left")?;
    let changed = format!("{case_id}/{}/{}", value.section_id, value.entry_id);
    let statement = "update form_processor_ledgervalue set balance = balance + 11
                     where case_id = $1 and section_id = $2 and entry_id = $3";
    alter(&world, statement, &[&case_id, &value.section_id, &value.entry_id]).await?;
    hurt.insert(changed.clone());
    expected.push(LedgerDiff {
        case_id,
        reference: changed,
        path: "balance",
        old: json!(value.balance),
        new: json!(value.balance + 11),
        reason: None,
    });
    let (case_id, value) = ledger_damage::whole_ledger(&generated, 2, &hurt).context("no whole ledger is left")?;
    let gone = format!("{case_id}/{}/{}", value.section_id, value.entry_id);
    let statement = "delete from form_processor_ledgervalue where case_id = $1 and section_id = $2 and entry_id = $3";
    alter(&world, statement, &[&case_id, &value.section_id, &value.entry_id]).await?;
    expected.push(LedgerDiff {
        case_id,
        reference: gone,
        path: "*",
        old: json!({"form_state": "present"}),
        new: json!({"form_state": "present"}),
        reason: None,
    });
    // One batch with everything. As in a domain that was never compared, it is not on record yet whether there is stock.
    world
        .state()
        .batch_execute("update migration set couch_stock = false")
        .await?;
    world
        .coordinator(&["couch_sql_diff", "late", "cases", "--stop", "--batch-size=100000"])
        .await?
        .ended_with(1);
    assert_reported(&world, &expected).await?;

    let shown = world
        .coordinator(&["couch_sql_diff", "late", "show", "--csv"])
        .await?
        .ok();
    for diff in expected.iter().filter(|diff| diff.reason.is_none()) {
        let line = shown.stdout.lines().find(|line| {
            line.starts_with("stock state,") && line.contains(&diff.reference) && line.contains(diff.path)
        });
        ensure!(line.is_some(), "{diff:?} not in {}", shown.told());
    }
    world.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_without_stock_does_not_read_the_stock_of_its_cases() -> Result<()> {
    let generated = domain("households", 300);
    let mut world = World::start(Options::in_process()).await?;
    world.load(&generated).await?;
    // Whoever reads the stock of a case reads one of these, and would have to wait.
    let holder = world.another_target().await?;
    holder
        .batch_execute("begin; lock table stock_stockreport, locations_sqllocation in access exclusive mode")
        .await?;
    migrate_cleanly(&mut world, "households", &generated.model).await?;
    holder.batch_execute("rollback").await?;
    world.end()
}

/// Changes one row, wherever it is.
async fn alter(world: &World, statement: &str, key: &[&String; 3]) -> Result<()> {
    let mut altered = 0;
    for client in world.shards().clients() {
        altered += client.execute(statement, &[key[0], key[1], key[2]]).await?;
    }
    ensure!(altered == 1, "{altered} rows were altered");
    Ok(())
}

/// Checks that these differences are on record, as diffs and as changes, and no others.
async fn assert_reported(world: &World, expected: &[LedgerDiff]) -> Result<()> {
    let mut wanted: Vec<String> = expected.iter().map(ledger_report::line).collect();
    let mut found = ledger_report::on_record(world.state(), None).await?;
    for table in ["missing_doc", "doc_error"] {
        ensure!(
            world.number(&format!("select count(*) from {table}")).await? == 0,
            "{table}"
        );
    }
    wanted.sort();
    found.sort();
    let silent: Vec<_> = wanted.iter().filter(|line| !found.contains(line)).collect();
    let unknown: Vec<_> = found.iter().filter(|line| !wanted.contains(line)).collect();
    ensure!(
        silent.is_empty() && unknown.is_empty() && wanted.len() == found.len(),
        "not reported:\n{silent:#?}\nreported in error:\n{unknown:#?}"
    );
    Ok(())
}
