//! The `case-worker` program.

use std::process::ExitCode;
use std::sync::Arc;

use case_worker::CaseHandler;
use service::process::run_worker;
use service::worker::BatchHandler;

/// Gives freed memory back whichever thread it came from: what a process holds follows what it works on.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    run_worker(
        "case-worker",
        "Replays cases from what was staged.",
        |config, state, target| async move {
            let handler = CaseHandler::new(state, target, config.worker.checkpoint_from);
            Ok(Arc::new(handler) as Arc<dyn BatchHandler>)
        },
    )
}
