//! How many requests may be in flight, how many per second, and a pause of all when the server asks for one.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Gate that every request passes.
pub(crate) struct Throttle {
    permits: Arc<Semaphore>,
    rate: Option<DefaultDirectRateLimiter>,
    paused_until: Mutex<Option<Instant>>,
}

impl Throttle {
    pub(crate) fn new(max_concurrency: usize, max_per_second: Option<u32>) -> Self {
        let rate = max_per_second.and_then(NonZeroU32::new).map(|per_second| {
            // A tenth of a second's worth at once: enough to fill the permits, too little to be felt as a burst.
            let burst = NonZeroU32::new(per_second.get() / 10).unwrap_or(NonZeroU32::MIN);
            RateLimiter::direct(Quota::per_second(per_second).allow_burst(burst))
        });
        Self {
            permits: Arc::new(Semaphore::new(max_concurrency.clamp(1, Semaphore::MAX_PERMITS))),
            rate,
            paused_until: Mutex::new(None),
        }
    }

    /// Waits until a request may be sent; the permit is held until its answer is read.
    pub(crate) async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed, so this is always a permit.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        if let Some(rate) = &self.rate {
            rate.until_ready().await;
        }
        while let Some(until) = self.pause() {
            tokio::time::sleep_until(until).await;
        }
        permit
    }

    /// Holds every request back for this long: the server has said that it is too busy.
    pub(crate) fn pause_for(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut paused = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        *paused = Some(paused.map_or(until, |other| other.max(until)));
    }

    fn pause(&self) -> Option<Instant> {
        let mut paused = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        *paused = paused.filter(|until| *until > Instant::now());
        *paused
    }
}
