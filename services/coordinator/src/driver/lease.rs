//! Renewing the driver's lease.

use std::time::Duration;

use state::migration::DriverLease;
use state::{Kind, State};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Renews the lease until it is lost, and tells so. However a drive ends, the renewal ends with it, since it is dropped: a
/// lease that nobody uses must run out.
pub(super) fn renew(
    state: State,
    lease: DriverLease,
    lease_time: Duration,
    lost: CancellationToken,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut tick = tokio::time::interval(lease_time / 3);
        loop {
            tick.tick().await;
            match state.renew_lease(&lease, lease_time).await {
                Ok(()) => {}
                Err(error) if error.kind() == Kind::Retry => {
                    tracing::warn!(code = error.code(), "the driver's lease could not be renewed");
                }
                Err(_) => {
                    lost.cancel();
                    return;
                }
            }
        }
    }))
}
