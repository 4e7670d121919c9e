//! One connection to the server, from opening to its loss.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use lapin::options::ConfirmSelectOptions;
use lapin::tcp::OwnedTLSConfig;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, Event};
use metrics::gauge;
use secrecy::ExposeSecret;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::topology;
use crate::config::{AmqpEndpoint, BrokerConfig};
use crate::{BrokerError, metric_names};

/// AMQP's code for a normal end.
pub(super) const CLOSE_CODE: u16 = 200;
/// The reply codes for wrong credentials or permissions, and for a virtual host that is not there or not ours.
const NO_ENTRY: [u16; 2] = [403, 530];
/// How often a link looks at its own connection, in case an event was missed.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// How long a lost connection is given to say goodbye. The server takes its messages back when it closes.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection with its topology declared and a channel for publishing.
pub(super) struct Link {
    generation: u64,
    connection: Connection,
    publisher: Channel,
    given_up: CancellationToken,
}

impl Link {
    pub(super) async fn open(
        config: &BrokerConfig,
        endpoint: &AmqpEndpoint,
        generation: u64,
    ) -> Result<Self, BrokerError> {
        let tls = tls_config(config, endpoint).await?;
        let opening = async {
            let connection = connect(config, endpoint, tls)
                .await
                .map_err(|error| refused(endpoint, error))?;
            let publisher = connection
                .create_channel()
                .await
                .map_err(|error| refused(endpoint, error))?;
            let select = publisher.confirm_select(ConfirmSelectOptions::default());
            select.await.map_err(|error| refused(endpoint, error))?;
            let link = Self {
                generation,
                connection,
                publisher,
                given_up: CancellationToken::new(),
            };
            link.declare_topology(config).await?;
            Ok(link)
        };
        timeout(config.connect_timeout, opening)
            .await
            .unwrap_or_else(|elapsed| {
                Err(BrokerError::Unreachable {
                    address: endpoint.address(),
                    source: Box::new(elapsed),
                })
            })
    }

    /// Counts the connections of this broker; for the log.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn publisher(&self) -> &Channel {
        &self.publisher
    }

    /// Marks the link as of no more use: the supervisor closes it and opens the next.
    pub(super) fn give_up(&self) {
        self.given_up.cancel();
    }

    /// Ends when the link is of no more use.
    pub(super) async fn given_up(&self) {
        self.given_up.cancelled().await;
    }

    pub(super) fn is_up(&self) -> bool {
        !self.given_up.is_cancelled() && self.connection.status().connected()
    }

    /// A new channel. An error on it concerns nobody else.
    pub(super) async fn channel(&self, limit: Duration, operation: &'static str) -> Result<Channel, BrokerError> {
        let result = within(limit, operation, self.connection.create_channel()).await;
        if result.is_err() {
            self.give_up();
        }
        result
    }

    pub(super) async fn declare_topology(&self, config: &BrokerConfig) -> Result<(), BrokerError> {
        const OPERATION: &str = "declaring queues";
        let channel = self.channel(config.operation_timeout, OPERATION).await?;
        timeout(config.operation_timeout, topology::declare(&channel, config))
            .await
            .unwrap_or(Err(BrokerError::TimedOut { operation: OPERATION }))?;
        within(
            config.operation_timeout,
            OPERATION,
            channel.close(CLOSE_CODE, "done".into()),
        )
        .await
    }

    /// Ends when the link has been given up by somebody, or its connection has ended; then it is given up in any case.
    /// Returns why, where that is known.
    pub(super) async fn lost(&self) -> Option<lapin::Error> {
        let mut events = Box::pin(self.connection.events_listener());
        let mut checks = interval(CHECK_EVERY);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let blocked = gauge!(metric_names::BLOCKED);
        let connected = gauge!(metric_names::CONNECTED);
        let reason = loop {
            tokio::select! {
                () = self.given_up.cancelled() => break None,
                event = events.next() => match event {
                    Some(Event::Error(error)) => break Some(error),
                    Some(Event::ConnectionBlocked(reason)) => {
                        tracing::warn!(%reason, "the message broker takes no messages for now");
                        blocked.set(1.0);
                    }
                    Some(Event::ConnectionUnblocked) => {
                        tracing::info!("the message broker takes messages again");
                        blocked.set(0.0);
                    }
                    Some(_) => {}
                    None => break None,
                },
                _ = checks.tick() => {
                    if !self.connection.status().connected() || !self.publisher.status().connected() {
                        break None;
                    }
                    // Again and again, for a recorder that was installed after we had connected.
                    connected.set(1.0);
                }
            }
        };
        blocked.set(0.0);
        self.give_up();
        reason
    }

    /// Closes the connection, so that the server takes back what was delivered over it.
    pub(super) async fn close(&self) {
        self.give_up();
        let goodbye = self.connection.close(CLOSE_CODE, "closing".into());
        if !matches!(timeout(GOODBYE_TIMEOUT, goodbye).await, Ok(Ok(()))) {
            tracing::debug!(generation = self.generation, "a connection ended without a goodbye");
        }
    }
}

async fn connect(config: &BrokerConfig, endpoint: &AmqpEndpoint, tls: OwnedTLSConfig) -> lapin::Result<Connection> {
    let mut uri = endpoint.uri.clone();
    endpoint
        .password
        .expose_secret()
        .clone_into(&mut uri.authority.userinfo.password);
    let seconds = u16::try_from(config.heartbeat.as_secs().max(1)).unwrap_or(u16::MAX);
    uri.query.heartbeat.get_or_insert(seconds);
    let milliseconds = u64::try_from(config.connect_timeout.as_millis()).unwrap_or(u64::MAX);
    uri.query.connection_timeout.get_or_insert(milliseconds);
    let properties = ConnectionProperties::default().with_connection_name(config.connection_name.as_str().into());
    let runtime = lapin::runtime::default_runtime()?;
    Connection::connect_uri_with_config(uri, properties, tls, runtime).await
}

async fn tls_config(config: &BrokerConfig, endpoint: &AmqpEndpoint) -> Result<OwnedTLSConfig, BrokerError> {
    let cert_chain = match &config.ca_file {
        Some(path) if endpoint.tls() => Some(read_authorities(path).await.map_err(|source| BrokerError::CaFile {
            path: path.display().to_string(),
            source,
        })?),
        _ => None,
    };
    Ok(OwnedTLSConfig {
        identity: None,
        cert_chain,
    })
}

async fn read_authorities(path: &Path) -> std::io::Result<String> {
    let pem = tokio::fs::read_to_string(path).await?;
    if pem.contains("-----BEGIN CERTIFICATE-----") {
        Ok(pem)
    } else {
        Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "there is no PEM certificate in it",
        ))
    }
}

/// The AMQP reply code of an error, if the server sent one.
pub(super) fn reply_code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

fn refused(endpoint: &AmqpEndpoint, error: lapin::Error) -> BrokerError {
    let address = endpoint.address();
    if reply_code(&error).is_some_and(|code| NO_ENTRY.contains(&code)) {
        BrokerError::Refused {
            address,
            username: endpoint.uri.authority.userinfo.username.clone(),
            vhost: endpoint.uri.vhost.clone(),
            source: Box::new(error),
        }
    } else {
        BrokerError::Unreachable {
            address,
            source: Box::new(error),
        }
    }
}

pub(super) fn disconnected(operation: &'static str, error: lapin::Error) -> BrokerError {
    BrokerError::Disconnected {
        operation,
        source: Some(Box::new(error)),
    }
}

/// The result of a request to the server, or a time-out.
pub(super) async fn within<T>(
    limit: Duration,
    operation: &'static str,
    request: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    match timeout(limit, Box::pin(request)).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(disconnected(operation, error)),
        Err(_) => Err(BrokerError::TimedOut { operation }),
    }
}
