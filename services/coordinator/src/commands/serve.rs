//! `serve`: the long-running driver. It adopts every run that nobody drives, whoever put it on record, and runs several
//! domains side by side. `standalone` is the same with the workers in this process.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use service::process::{record_metrics, serve_pages};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::context::Context;
use crate::driver::{StopSignals, drive};
use crate::failure::{Exit, Result};
use crate::workers::Workforce;

/// Pause between two looks for runs.
const LOOK: Duration = Duration::from_millis(500);

/// Serves until `stop` is cancelled. Runs in hand are left for another driver then.
///
/// # Errors
/// The broker's and the blob store's, at the start.
pub async fn serve(context: &Arc<Context>, stop: CancellationToken) -> Result<Exit> {
    let metrics = record_metrics()?;
    let broker = context.broker().await?;
    let pages = serve_pages(&context.config, metrics, &broker, stop.clone()).await?;
    let workforce = Workforce::if_in_process(context, &broker).await?;
    let id = Uuid::new_v4();
    let mut tasks: JoinSet<i64> = JoinSet::new();
    // With each run, whether it only follows: those take no place of the domains at a time.
    let mut driving: HashMap<i64, Arc<AtomicBool>> = HashMap::new();
    while !stop.is_cancelled() {
        while let Some(ended) = tasks.try_join_next() {
            if let Ok(run_id) = ended {
                driving.remove(&run_id);
            }
        }
        match look(context, id).await {
            Ok(runs) => {
                for run in runs {
                    let busy = driving.values().filter(|following| !following.load(Ordering::Relaxed));
                    if busy.count() >= context.config.driver.domains_at_once || driving.contains_key(&run.id) {
                        continue;
                    }
                    let (context, broker) = (Arc::clone(context), Arc::clone(&broker));
                    let signals = StopSignals {
                        shutdown: stop.clone(),
                        ..StopSignals::default()
                    };
                    driving.insert(run.id, Arc::clone(&signals.following));
                    tasks.spawn(async move {
                        if let Err(failure) = drive(&context, broker, &run, signals).await {
                            tracing::error!(code = failure.code, domain = %run.domain, "{failure}");
                        }
                        run.id
                    });
                }
            }
            Err(failure) => tracing::warn!(code = failure.code, "{failure}"),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    while tasks.join_next().await.is_some() {}
    if let Some(workforce) = workforce {
        workforce.stop().await;
    }
    broker.close().await;
    context.state.sign_off(id).await?;
    pages.stopped().await;
    Ok(Exit::Clean)
}

async fn look(context: &Context, id: Uuid) -> Result<Vec<state::run::Run>> {
    context.state.heartbeat(id, "serve", &context.operator).await?;
    Ok(context.state.orphaned_runs().await?)
}
