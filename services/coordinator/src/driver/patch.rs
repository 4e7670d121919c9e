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

/// Ids that are named in the audit log at most.
const NAMED: usize = 100;

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
    batch: Option<usize>,
) -> Result<bool> {
    let driver = steps::held_driver(context, broker, migration, signals).await?;
    let patched = patch(&driver.driver, &context.operator, scope, batch).await;
    Ok(driver.end(context, patched).await?.is_some())
}

/// Makes patch forms, replays their cases, and compares what is pending then. Who asked goes on record before anything is
/// written, and what came of it however it ends.
pub(super) async fn patch(driver: &Driver, operator: &Operator, scope: &PatchScope, batch: Option<usize>) -> Step<()> {
    let state = &driver.context.state;
    let (id, domain) = (driver.migration.id, &driver.migration.domain);
    let selected = match scope {
        PatchScope::Recorded => json!("recorded"),
        PatchScope::Ids(ids) => some_of(ids),
    };
    let before = state.patch_counts(id).await?;
    state
        .audit(domain, operator, "patch", &json!({"selected": selected}))
        .await?;
    let batch = batch.unwrap_or(driver.context.config.driver.diff_batch);
    let patched = make_patches(driver, scope, batch).await;
    let counts = state.patch_counts(id).await?;
    let forms = counts.forms - before.forms;
    tracing::info!(forms, refused = counts.refused, "patch forms are written");
    let detail = json!({"patch_forms": forms, "refused": counts.refused, "interrupted": patched.is_err()});
    state.audit(domain, operator, "patch ended", &detail).await?;
    patched?;
    driver.diff_pending().await
}

async fn make_patches(driver: &Driver, scope: &PatchScope, batch: usize) -> Step<()> {
    let state = &driver.context.state;
    end_earlier_requests(driver).await?;
    match scope {
        PatchScope::Ids(case_ids) => state.request_patches(&driver.lease, case_ids, batch).await?,
        PatchScope::Recorded => {
            let mut after = String::new();
            loop {
                let case_ids = state.patchable_after(driver.migration.id, &after, PAGE).await?;
                let Some(last) = case_ids.last() else { break };
                after.clone_from(last);
                state.request_patches(&driver.lease, &case_ids, batch).await?;
            }
        }
    }
    forms_and_replays(driver).await
}

/// Ids for the audit log: all of a few, else how many, and the first.
fn some_of(ids: &[String]) -> serde_json::Value {
    if ids.len() <= NAMED {
        return json!(ids);
    }
    json!({"count": ids.len(), "first": ids[..NAMED]})
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audit_log_names_some_ids_and_counts_many() {
        let ids: Vec<String> = (0..=NAMED).map(|number| format!("case-{number}")).collect();
        assert_eq!(some_of(&ids[..2]), json!(["case-0", "case-1"]));
        let many = some_of(&ids);
        assert_eq!(many["count"], NAMED + 1);
        assert_eq!(many["first"].as_array().map(Vec::len), Some(NAMED));
    }
}
