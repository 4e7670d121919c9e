//! Queues inside this process.
//!
//! Each stage has a queue of messages and a semaphore with one permit per ready message: whoever takes a permit owns one
//! message. The semaphore is fair, so that consumers of one stage share the work, and waiting can be cancelled safely.
//! The driver's window bounds how many messages there are.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use metrics::counter;
use proto::topology::Stage;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::delivery::{Consumer, Delivery, Receipt as AnyReceipt, Settled, Source, Verdict};
use crate::{Broker, BrokerError, DeadLetter, OutgoingMessage, metric_names};

/// Dead letters kept; older ones are dropped. They only explain what the state schema says anyway.
const MAX_DEAD_LETTERS: usize = 1_000;

/// The in-process broker.
#[derive(Debug)]
pub(crate) struct MemoryBroker {
    queues: [Arc<Queue>; Stage::ALL.len()],
    dead: Arc<Mutex<VecDeque<DeadLetter>>>,
}

#[derive(Debug)]
struct Queue {
    messages: Mutex<VecDeque<Stored>>,
    /// One permit per message in `messages`, added after it was put there.
    ready: Semaphore,
    dead: Arc<Mutex<VecDeque<DeadLetter>>>,
}

#[derive(Debug)]
struct Stored {
    message: OutgoingMessage,
    redelivered: bool,
}

/// A poisoned lock is taken all the same: no code panics between two changes that belong together.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryBroker {
    pub(crate) fn new() -> Self {
        let dead = Arc::new(Mutex::new(VecDeque::new()));
        let queues = Stage::ALL.map(|_| {
            Arc::new(Queue {
                messages: Mutex::default(),
                ready: Semaphore::new(0),
                dead: Arc::clone(&dead),
            })
        });
        Self { queues, dead }
    }

    fn queue(&self, stage: Stage) -> &Arc<Queue> {
        match stage {
            Stage::Form => &self.queues[0],
            Stage::Case => &self.queues[1],
            Stage::Diff => &self.queues[2],
        }
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn publish(&self, stage: Stage, message: OutgoingMessage) -> Result<(), BrokerError> {
        let queue = self.queue(stage);
        if queue.ready.is_closed() {
            return Err(BrokerError::Closed);
        }
        if let Some(name) = message.headers.keys().find(|name| name.len() > 255) {
            return Err(BrokerError::HeaderName(name.len()));
        }
        lock(&queue.messages).push_back(Stored {
            message,
            redelivered: false,
        });
        queue.ready.add_permits(1);
        counter!(metric_names::PUBLISHED, "stage" => stage.as_str(), "outcome" => "confirmed").increment(1);
        Ok(())
    }

    async fn consume(&self, stage: Stage, prefetch: u16) -> Result<Consumer, BrokerError> {
        let queue = self.queue(stage);
        if queue.ready.is_closed() {
            return Err(BrokerError::Closed);
        }
        let subscription = Subscription {
            stage,
            queue: Arc::clone(queue),
            allowed: Arc::new(Semaphore::new(usize::from(prefetch.max(1)))),
        };
        Ok(Consumer::new(stage, Source::Memory(subscription)))
    }

    async fn queue_depth(&self, stage: Stage) -> Result<u64, BrokerError> {
        Ok(lock(&self.queue(stage).messages).len() as u64)
    }

    async fn take_dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, BrokerError> {
        let mut dead = lock(&self.dead);
        let count = max.min(dead.len());
        Ok(dead.drain(..count).collect())
    }

    async fn declare_topology(&self) -> Result<(), BrokerError> {
        Ok(())
    }

    fn is_connected(&self) -> bool {
        !self.queues[0].ready.is_closed()
    }

    async fn close(&self) {
        for queue in &self.queues {
            queue.ready.close();
        }
    }
}

/// One consumer's view of a queue.
#[derive(Debug)]
pub(crate) struct Subscription {
    stage: Stage,
    queue: Arc<Queue>,
    /// Deliveries that this consumer may still have outstanding.
    allowed: Arc<Semaphore>,
}

impl Subscription {
    pub(crate) async fn next(&mut self) -> Option<Delivery> {
        let allowed = Arc::clone(&self.allowed).acquire_owned().await.ok()?;
        let ready = self.queue.ready.acquire().await.ok()?;
        let stored = lock(&self.queue.messages).pop_front()?;
        ready.forget();
        let OutgoingMessage { payload, headers } = stored.message;
        let receipt = Receipt {
            queue: Arc::clone(&self.queue),
            message: OutgoingMessage {
                payload: payload.clone(),
                headers: headers.clone(),
            },
            _allowed: allowed,
        };
        Some(Delivery::new(
            self.stage,
            payload,
            headers,
            stored.redelivered,
            AnyReceipt::Memory(receipt),
        ))
    }
}

/// What a delivery of this broker is settled with: the message itself, and the place it takes in its consumer's prefetch.
#[derive(Debug)]
pub(crate) struct Receipt {
    queue: Arc<Queue>,
    message: OutgoingMessage,
    _allowed: OwnedSemaphorePermit,
}

impl Receipt {
    pub(crate) fn settle(self, verdict: Verdict) -> Settled {
        match verdict {
            Verdict::Ack => {}
            Verdict::Requeue => {
                lock(&self.queue.messages).push_front(Stored {
                    message: self.message,
                    redelivered: true,
                });
                self.queue.ready.add_permits(1);
            }
            Verdict::DeadLetter => {
                let OutgoingMessage { payload, headers } = self.message;
                let mut dead = lock(&self.queue.dead);
                if dead.len() == MAX_DEAD_LETTERS {
                    dead.pop_front();
                }
                dead.push_back(DeadLetter { payload, headers });
            }
        }
        Settled::Done
    }
}
