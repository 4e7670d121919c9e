//! Connections: accepted, served one by one, and cut on demand.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::http::ConnectionCut;

/// How long answers under way may take after a stop; live feeds never end by themselves.
const GRACE: Duration = Duration::from_secs(2);

/// The accepting task and its stop signal.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stopping: CancellationToken,
    accepting: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(bind: SocketAddr, router: Router) -> std::io::Result<Self> {
        let listener = TcpListener::bind(bind).await?;
        let address = listener.local_addr()?;
        let stopping = CancellationToken::new();
        let accepting = tokio::spawn(accept(listener, router, stopping.clone()));
        Ok(Self {
            address,
            stopping,
            accepting,
        })
    }

    /// Accepts nothing more and lets the answers under way finish.
    pub(crate) async fn stop(self) {
        self.stopping.cancel();
        // An error could only say that the task was aborted or panicked: it is over in any case.
        let _ = self.accepting.await;
    }

    /// Closes the port and all connections at once.
    pub(crate) async fn kill(self) {
        self.accepting.abort();
        let _ = self.accepting.await;
    }
}

/// Accepts until told to stop. The connections are in a set that this task owns: they end with it.
async fn accept(listener: TcpListener, router: Router, stopping: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => { connections.spawn(serve(stream, router.clone(), stopping.clone())); }
                // For want of file handles, say: others are closed soon.
                Err(_) => tokio::task::yield_now().await,
            },
            _ = connections.join_next(), if !connections.is_empty() => {}
            () = stopping.cancelled() => break,
        }
    }
    drop(listener);
    let all_done = async { while connections.join_next().await.is_some() {} };
    // Those that are not done in time are cut when the set goes.
    let _ = tokio::time::timeout(GRACE, all_done).await;
}

fn serve(stream: TcpStream, router: Router, stopping: CancellationToken) -> impl Future<Output = ()> + Send {
    let cut = CancellationToken::new();
    let service = TowerToHyperService::new(router.layer(Extension(ConnectionCut(cut.clone()))));
    async move {
        // Without it, small answers wait for acknowledgements of the ones before.
        let _ = stream.set_nodelay(true);
        let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        let mut is_told = false;
        loop {
            tokio::select! {
                // A client that goes away is no concern of ours.
                _ = connection.as_mut() => break,
                () = cut.cancelled() => break,
                () = stopping.cancelled(), if !is_told => {
                    connection.as_mut().graceful_shutdown();
                    is_told = true;
                }
            }
        }
    }
}
