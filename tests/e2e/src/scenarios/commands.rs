//! The commands of steps: to their end, stopped by Ctrl-C, or with documents that change while they are read.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use couch_standin::{Action, FaultRule, OpKind, Predicate};
use tokio::time::timeout;

use super::changes;
use super::expected::Row;
use super::folder::{Folder, Meanwhile, Moment};
use super::runner::Stage;
use crate::program::{Output, RunningCommand, Signal};

/// The longest that a command may take.
const PATIENCE: Duration = Duration::from_secs(100);
/// The command that compares cases again; what else a step runs are actions of the command that migrates.
const DIFF_COMMAND: &str = "couch_sql_diff";

/// Runs a step's command to its end.
pub(super) async fn command_output(stage: &Stage, folder: &Folder, command: &str) -> Result<Output> {
    begin(stage, folder, command).await?.end(PATIENCE).await
}

/// Begins a step's command.
async fn begin(stage: &Stage, folder: &Folder, command: &str) -> Result<RunningCommand> {
    let command = folder.in_domain(command);
    let mut words = command.split_whitespace();
    let action = words.next().context("an empty command")?;
    let flags: Vec<&str> = words.collect();
    let mut world = stage.world.lock().await;
    if action == DIFF_COMMAND {
        world.begin(&[&[action, &folder.domain], flags.as_slice()].concat())
    } else {
        world.begin_domain(&folder.domain, action, &flags)
    }
}

/// Begins a command, and makes changes while a document stands where they say.
pub(super) async fn interfered(
    stage: &Stage,
    folder: &Folder,
    command: &str,
    meanwhile: &Meanwhile,
    loaded: &mut Vec<Row>,
) -> Result<Output> {
    // Ids stand in quotes in the JSON that asks for documents.
    let document = folder.in_domain(&format!("\"{}\"", meanwhile.of));
    let asked = Predicate::op(OpKind::BulkGet).asking_for(&document);
    let action = match meanwhile.when {
        Moment::Scanned => Action::Hold,
        Moment::Read => Action::HoldAnswer,
    };
    let faults = stage.world.lock().await.source().stand_in().faults();
    let rule = faults.add(FaultRule::once(asked, action));
    let running = begin(stage, folder, command).await?;
    let reached = timeout(PATIENCE, faults.reached(rule, 1)).await;
    let made = match reached {
        Ok(_) => changes::make(stage, folder, &meanwhile.changes(), loaded).await,
        Err(_) => Err(anyhow!("{command} never asked for {document}")),
    };
    // Whatever happened, nobody waits for it any more.
    faults.remove(rule);
    let output = running.end(PATIENCE).await?;
    made.with_context(|| output.told())?;
    Ok(output)
}

/// Begins a command, and stops it while the source does not answer what it asks of the domain's documents.
pub(super) async fn interrupted(stage: &Stage, folder: &Folder, command: &str, times: usize) -> Result<Output> {
    let (faults, rule) = {
        let world = stage.world.lock().await;
        let faults = world.source().stand_in().faults();
        // The key of a view's row, which begins with the domain.
        let asked = Predicate::op(OpKind::ViewPage).on(&format!("%5B%22{}%22", folder.domain));
        let rule = faults.add(FaultRule::once(asked, Action::Hold));
        (faults, rule)
    };
    let running = begin(stage, folder, command).await?;
    ensure!(faults.reached(rule, 1).await, "{command} never asked for documents");
    for _ in 0..times {
        running.signal(Signal::Interrupt)?;
    }
    faults.remove(rule);
    running.end(PATIENCE).await
}
