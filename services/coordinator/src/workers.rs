//! The three workers in this process, for the in-process broker.

use std::sync::Arc;

use broker::Broker;
use case_worker::CaseHandler;
use diff_worker::DiffHandler;
use form_worker::{FormHandler, SourceAccess};
use service::worker::{BatchHandler, WorkerOptions};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::failure::Result;

/// Workers of all stages, in this process.
pub struct Workforce {
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Workforce {
    /// Starts the workers when the configured broker lives in this process: no other process could take its messages.
    ///
    /// # Errors
    /// The blob store's.
    pub async fn if_in_process(context: &Arc<Context>, broker: &Arc<dyn Broker>) -> Result<Option<Self>> {
        if service::connect::is_in_process(&context.config) {
            Self::start(context, broker).await.map(Some)
        } else {
            Ok(None)
        }
    }

    async fn start(context: &Arc<Context>, broker: &Arc<dyn Broker>) -> Result<Self> {
        let blobs = service::connect::blob_store(&context.config).await?;
        let (state, target) = (context.state.clone(), context.target.clone());
        let forms_db = context.forms_db.clone();
        let handlers: [Arc<dyn BatchHandler>; 3] = [
            Arc::new(FormHandler::new(
                state.clone(),
                target.clone(),
                forms_db.clone(),
                blobs.clone(),
                SourceAccess::of(&context.config),
            )),
            Arc::new(CaseHandler::new(
                state.clone(),
                target.clone(),
                context.config.worker.checkpoint_from,
            )),
            Arc::new(DiffHandler::new(state.clone(), target, forms_db, blobs)),
        ];
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for handler in handlers {
            let options = WorkerOptions::of(&context.config, &context.name);
            let (state, broker, stop) = (state.clone(), Arc::clone(broker), stop.clone());
            tasks.spawn(async move {
                if let Err(error) = service::worker::run(state, broker, handler, options, stop).await {
                    tracing::error!(code = error.code(), %error, "a worker ended");
                }
            });
        }
        Ok(Self { stop, tasks })
    }

    /// Stops them, after the batches in hand.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}
