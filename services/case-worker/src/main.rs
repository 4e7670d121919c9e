//! The `case-worker` program.

use std::process::ExitCode;
use std::sync::Arc;

use case_worker::CaseHandler;
use service::process::run_worker;
use service::worker::BatchHandler;

fn main() -> ExitCode {
    run_worker(
        "case-worker",
        "Replays cases from what was staged.",
        |_, state, target| async move { Ok(Arc::new(CaseHandler::new(state, target)) as Arc<dyn BatchHandler>) },
    )
}
