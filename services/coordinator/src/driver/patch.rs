//! Patches the cases with recorded differences, and compares them again: that decides what is left.

use broker::Broker;
use proto::topology::Stage;
use state::run::Operator;
use std::sync::Arc;

use serde_json::json;
use state::Migration;

use super::{Driver, Step, StopSignals, steps};
use crate::context::Context;
use crate::failure::Result;

/// Cases with records looked at at once.
const PAGE: i64 = 500;

/// Which cases are patched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatchScope {
    /// All with a record.
    Recorded,
    /// These.
    Ids(Vec<String>),
}

/// Patches cases and compares them again, without the other phases. False when it was stopped.
///
/// # Errors
/// Somebody else drives the domain, or what went wrong.
pub async fn patch_only(
    context: &Arc<Context>,
    broker: Arc<dyn Broker>,
    migration: &Migration,
    signals: StopSignals,
    scope: &PatchScope,
) -> Result<bool> {
    let driver = steps::held_driver(context, broker, migration, signals).await?;
    let patched = patch(&driver.driver, &context.operator, scope).await;
    Ok(driver.end(context, patched).await?.is_some())
}

/// Makes patch forms, replays their cases, and compares what is pending then.
pub(super) async fn patch(driver: &Driver, operator: &Operator, scope: &PatchScope) -> Step<()> {
    let state = &driver.context.state;
    let id = driver.migration.id;
    let batch = driver.context.config.driver.diff_batch;
    end_earlier_requests(driver).await?;
    match scope {
        PatchScope::Ids(case_ids) => state.request_patches(&driver.lease, case_ids, batch).await?,
        PatchScope::Recorded => {
            let mut after = String::new();
            loop {
                let case_ids = state.patchable_after(id, &after, PAGE).await?;
                let Some(last) = case_ids.last() else { break };
                after.clone_from(last);
                state.request_patches(&driver.lease, &case_ids, batch).await?;
            }
        }
    }
    let before = state.patch_counts(id).await?;
    forms_and_replays(driver).await?;
    let counts = state.patch_counts(id).await?;
    let patched = counts.forms - before.forms;
    tracing::info!(forms = patched, refused = counts.refused, "patch forms are written");
    let selected = match scope {
        PatchScope::Recorded => json!("recorded"),
        PatchScope::Ids(ids) => json!(ids),
    };
    let detail = json!({"selected": selected, "patch_forms": patched, "refused": counts.refused});
    state
        .audit(&driver.migration.domain, operator, "patch", &detail)
        .await?;
    driver.diff_pending().await
}

/// A command that asked for patches earlier may have ended before they were made. What nobody has begun is asked for anew;
/// what workers have in hand comes to its end first, and is compared: no case is ever in two batches.
async fn end_earlier_requests(driver: &Driver) -> Step<()> {
    let state = &driver.context.state;
    state.withdraw_patch_requests(&driver.lease).await?;
    let open = state.open_batches(driver.migration.id, Stage::Form).await?;
    if open.is_drained() {
        return Ok(());
    }
    forms_and_replays(driver).await?;
    driver.diff_pending().await
}

/// Form batches, the replays that follow, and whatever a replay sends through the form stage again.
async fn forms_and_replays(driver: &Driver) -> Step<()> {
    loop {
        while !driver.tick(Stage::Form).await? {}
        driver.replay().await?;
        let open = driver
            .context
            .state
            .open_batches(driver.migration.id, Stage::Form)
            .await?;
        if open.is_drained() {
            return Ok(());
        }
    }
}
