//! The `form-worker` program.

use std::process::ExitCode;
use std::sync::Arc;

use couch::Couch;
use form_worker::{FormHandler, SourceAccess};
use service::connect;
use service::process::{StartFailure, run_worker};
use service::worker::BatchHandler;

/// Gives freed memory back whichever thread it came from: what a process holds follows what it works on.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    run_worker(
        "form-worker",
        "Migrates forms and stages what they do to cases.",
        |config, state, target| async move {
            let blobs = connect::blob_store(&config)
                .await
                .map_err(|error| StartFailure::new(error.code(), &error))?;
            let couch =
                Couch::new(connect::couch_config(&config)).map_err(|error| StartFailure::new(error.code(), &error))?;
            let forms_db = couch.database(&config.source.forms_db);
            let access = SourceAccess::of(&config);
            Ok(Arc::new(FormHandler::new(state, target, forms_db, blobs, access)) as Arc<dyn BatchHandler>)
        },
    )
}
