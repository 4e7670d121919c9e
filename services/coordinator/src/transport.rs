//! The way from a command to the workers: opened at first need, and shared by all runs that the command drives.
//!
//! A list may drive hundreds of domains in a minute. A connection to the broker, with its queues declared and checked, takes
//! about as long as a tiny domain's form stage.

use std::sync::Arc;

use broker::Broker;
use tokio::sync::{Mutex, OnceCell};

use crate::context::Context;
use crate::failure::Result;
use crate::preflight;
use crate::workers::Workforce;

/// A broker, and workers where they are part of this process.
pub(crate) struct Transport {
    context: Arc<Context>,
    opened: OnceCell<Opened>,
    servers: OnceCell<()>,
}

struct Opened {
    broker: Arc<dyn Broker>,
    workforce: Mutex<Option<Workforce>>,
}

impl Transport {
    /// Nothing is connected yet.
    pub(crate) fn new(context: &Arc<Context>) -> Self {
        Self {
            context: Arc::clone(context),
            opened: OnceCell::new(),
            servers: OnceCell::new(),
        }
    }

    /// What any driver would find missing at once: a run that cannot begin is not put on record, or the next `serve` would
    /// take it up long after the operator has read that it failed. Looked at until all is there, then not again: each run
    /// looks for itself when it starts.
    ///
    /// # Errors
    /// Those of Couch, the target and the broker.
    pub(crate) async fn servers_are_there(&self) -> Result<()> {
        let looked = self.servers.get_or_try_init(async || {
            preflight::view(&self.context).await?;
            preflight::tables(&self.context).await?;
            if self.context.state.alive("serve").await? == 0 {
                self.broker().await?;
            }
            Ok(())
        });
        looked.await.copied()
    }

    /// The broker. The first call connects; a connection that is lost later mends itself.
    ///
    /// # Errors
    /// The broker's; with the in-process broker, the blob store's.
    pub(crate) async fn broker(&self) -> Result<Arc<dyn Broker>> {
        let opened = self.opened.get_or_try_init(async || {
            let broker = self.context.broker().await?;
            let workforce = Workforce::if_in_process(&self.context, &broker).await?;
            Ok::<_, crate::failure::Failure>(Opened {
                broker,
                workforce: Mutex::new(workforce),
            })
        });
        Ok(Arc::clone(&opened.await?.broker))
    }

    /// Ends the workers after the batches in hand, then the connection.
    pub(crate) async fn close(&self) {
        let Some(opened) = self.opened.get() else { return };
        if let Some(workforce) = opened.workforce.lock().await.take() {
            workforce.stop().await;
        }
        opened.broker.close().await;
    }
}
