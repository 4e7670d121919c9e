//! Being told to stop: SIGTERM, or Ctrl-C.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit status of a process that was stopped by Ctrl-C before it was done.
pub const STOPPED: i32 = 130;

/// A token that is cancelled by the first SIGTERM or SIGINT. A second SIGINT ends the process at once: somebody is waiting
/// at a terminal, and everything is safe to leave half done.
///
/// # Errors
/// When the signals cannot be listened to.
pub fn listen() -> std::io::Result<CancellationToken> {
    let terminate = signal(SignalKind::terminate())?;
    let interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    tokio::spawn(follow(terminate, interrupt, stop.clone()));
    Ok(stop)
}

async fn follow(mut terminate: Signal, mut interrupt: Signal, stop: CancellationToken) {
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::warn!("interrupted: stopping after the work in hand; once more stops at once"),
    }
    stop.cancel();
    interrupt.recv().await;
    std::process::exit(STOPPED);
}
