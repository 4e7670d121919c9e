//! Keeps a link to the server: watches the one there is, and opens the next when it is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use rand::Rng;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::link::Link;
use crate::config::{AmqpEndpoint, BrokerConfig};
use crate::{BrokerError, metric_names};

/// What publishers, subscriptions and the supervisor share.
pub(crate) struct Shared {
    pub(super) config: BrokerConfig,
    pub(super) endpoint: AmqpEndpoint,
    /// One permit per publish that may wait for its confirmation.
    pub(super) unconfirmed: Semaphore,
    pub(super) closed: CancellationToken,
    link: watch::Sender<Option<Arc<Link>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(config: BrokerConfig, endpoint: AmqpEndpoint) -> Self {
        let unconfirmed = Semaphore::new(config.max_unconfirmed.max(1));
        Self {
            config,
            endpoint,
            unconfirmed,
            closed: CancellationToken::new(),
            link: watch::Sender::new(None),
        }
    }

    pub(super) fn current_link(&self) -> Option<Arc<Link>> {
        self.link.borrow().clone()
    }

    pub(super) fn set_link(&self, link: Option<Arc<Link>>) {
        gauge!(metric_names::CONNECTED).set(if link.is_some() { 1.0 } else { 0.0 });
        self.link.send_replace(link);
    }

    /// Waits for a link that is up. The caller bounds the wait.
    pub(super) async fn link(&self, operation: &'static str) -> Result<Arc<Link>, BrokerError> {
        let mut links = self.link.subscribe();
        let found = tokio::select! {
            biased;
            () = self.closed.cancelled() => return Err(BrokerError::Closed),
            found = links.wait_for(|link| link.as_ref().is_some_and(|link| link.is_up())) => found,
        };
        match found.ok().and_then(|link| link.clone()) {
            Some(link) => Ok(link),
            None => Err(BrokerError::Disconnected {
                operation,
                source: None,
            }),
        }
    }
}

/// Watches the first link, which is set already, and its successors. Runs until the broker is closed.
pub(super) async fn supervise(shared: Arc<Shared>, first: Arc<Link>) {
    let mut link = first;
    let mut failures = 0;
    loop {
        let opened = Instant::now();
        let reason = tokio::select! {
            reason = link.lost() => reason,
            () = shared.closed.cancelled() => None,
        };

        shared.set_link(None);
        link.close().await;
        if shared.closed.is_cancelled() {
            return;
        }
        let reason = reason.map_or_else(|| "a channel failed".to_owned(), |error| error.to_string());
        tracing::warn!(generation = link.generation(), %reason, "lost the connection to the message broker");

        // A link that is lost as soon as it is open (no permission to read a queue, say) must not make us hammer the server.
        if opened.elapsed() > shared.config.reconnect_max {
            failures = 0;
        }
        match reopen(&shared, link.generation() + 1, &mut failures).await {
            Some(next) => link = Arc::new(next),
            None => return,
        }
        shared.set_link(Some(Arc::clone(&link)));
        tracing::info!(generation = link.generation(), "connected to the message broker again");
        counter!(metric_names::RECONNECTS).increment(1);
    }
}

/// Tries until it succeeds; `None` when the broker is closed meanwhile.
async fn reopen(shared: &Shared, generation: u64, failures: &mut u32) -> Option<Link> {
    loop {
        let chance = rand::rng().random_range(0.5..1.0);
        let pause = pause(&shared.config, *failures, chance);
        *failures = failures.saturating_add(1);
        let attempt = async {
            tokio::time::sleep(pause).await;
            Box::pin(Link::open(&shared.config, &shared.endpoint, generation)).await
        };
        tokio::select! {
            () = shared.closed.cancelled() => return None,
            result = attempt => match result {
                Ok(link) => return Some(link),
                Err(error) => {
                    let reason = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    tracing::warn!(code = error.code(), %error, %reason, "cannot connect to the message broker yet");
                }
            },
        }
    }
}

/// Doubles with each failure up to the configured maximum; `chance` (a half to one) spreads many processes apart.
fn pause(config: &BrokerConfig, failures: u32, chance: f64) -> Duration {
    let doubled = config
        .reconnect_min
        .saturating_mul(2_u32.saturating_pow(failures.min(16)));
    doubled.min(config.reconnect_max).mul_f64(chance)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pauses_double_and_stay_within_bounds() {
        let config = BrokerConfig::new("amqp://localhost").unwrap();
        let pauses: Vec<_> = (0..8)
            .map(|failures| pause(&config, failures, 1.0).as_millis())
            .collect();
        assert_eq!(pauses, [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        assert_eq!(pause(&config, u32::MAX, 0.5), Duration::from_secs(5));
    }
}
