//! What can go wrong between us and the broker.

use std::error::Error as StdError;

/// What a caller should do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// It may go away by itself: try again, with back-off.
    Retry,
    /// It will not go away until somebody changes something: stop and say so.
    Stop,
}

/// An error of the broker. Texts never hold a password or a message.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// No connection to the server.
    #[error("cannot reach the message broker at {address}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the network said.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The server is there and does not let us in.
    #[error("the message broker at {address} refuses user {username} on virtual host {vhost}")]
    Refused {
        /// Host and port.
        address: String,
        /// User name.
        username: String,
        /// Virtual host.
        vhost: String,
        /// What the server said.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The address in the configuration is none.
    #[error("the broker's address is not usable: {reason}")]
    Address {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The certificate file of the configuration cannot be used.
    #[error("cannot use the broker's certificate file {path}")]
    CaFile {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An exchange or queue exists with other properties than ours.
    #[error("{object} on the message broker is not as it must be")]
    Topology {
        /// Which exchange or queue.
        object: String,
        /// What the server said.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The connection went away while something was under way. Whether it happened is not known.
    #[error("lost the connection to the message broker during {operation}")]
    Disconnected {
        /// What was under way.
        operation: &'static str,
        /// Why, where known.
        #[source]
        source: Option<Box<dyn StdError + Send + Sync>>,
    },
    /// No answer in time. Whether it happened is not known.
    #[error("no answer from the message broker to {operation} in time")]
    TimedOut {
        /// What was under way.
        operation: &'static str,
    },
    /// The broker has no queue for the message.
    #[error("the message broker has no queue {queue}")]
    Unroutable {
        /// The queue.
        queue: String,
    },
    /// The broker did not take the message.
    #[error("the message broker did not accept a message for {queue}")]
    NotAccepted {
        /// The queue.
        queue: String,
    },
    /// This end was closed.
    #[error("the connection to the message broker has been closed by this process")]
    Closed,
    /// A header that the protocol cannot carry.
    #[error("message header name of {0} bytes is longer than 255")]
    HeaderName(usize),
}

impl BrokerError {
    /// Every code with its remedy; documentation is checked against this list.
    pub const CODES: [(&'static str, &'static str); 11] = [
        (
            "C2S-1301",
            "check that the broker runs and that [broker].url names its host and port",
        ),
        (
            "C2S-1302",
            "check user, password and virtual host of [broker], and the user's permissions there",
        ),
        (
            "C2S-1303",
            "write [broker].url as amqp://user@host:port/vhost, amqps://… or memory:",
        ),
        (
            "C2S-1304",
            "let [broker].ca_file name a readable PEM file with at least one certificate",
        ),
        (
            "C2S-1305",
            "stop all services, delete that queue or exchange on the broker, and start again; nothing is lost",
        ),
        (
            "C2S-1306",
            "none needed: the connection is rebuilt and the work is repeated",
        ),
        (
            "C2S-1307",
            "look at the broker's health: memory and disk alarms, a queue without a majority",
        ),
        (
            "C2S-1308",
            "none needed: missing queues are created again; find out who deleted them",
        ),
        ("C2S-1309", "look at the broker's log: it refused to store a message"),
        ("C2S-1310", "none: the process is stopping"),
        ("C2S-1311", "a bug in the caller: report it"),
    ];

    const fn index(&self) -> usize {
        match self {
            Self::Unreachable { .. } => 0,
            Self::Refused { .. } => 1,
            Self::Address { .. } => 2,
            Self::CaFile { .. } => 3,
            Self::Topology { .. } => 4,
            Self::Disconnected { .. } => 5,
            Self::TimedOut { .. } => 6,
            Self::Unroutable { .. } => 7,
            Self::NotAccepted { .. } => 8,
            Self::Closed => 9,
            Self::HeaderName(_) => 10,
        }
    }

    /// Stable code, listed in `docs/errors.md`.
    pub const fn code(&self) -> &'static str {
        Self::CODES[self.index()].0
    }

    /// What a person can do about it, in one line.
    pub const fn remedy(&self) -> &'static str {
        Self::CODES[self.index()].1
    }

    /// What a program should do about it.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable { .. }
            | Self::Disconnected { .. }
            | Self::TimedOut { .. }
            | Self::Unroutable { .. }
            | Self::NotAccepted { .. } => ErrorKind::Retry,
            Self::Refused { .. }
            | Self::Address { .. }
            | Self::CaFile { .. }
            | Self::Topology { .. }
            | Self::Closed
            | Self::HeaderName(_) => ErrorKind::Stop,
        }
    }
}
