//! Where the broker is, and the limits we keep to.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri};
use secrecy::SecretString;
use url::{Host, Url};

use crate::error::BrokerError;

/// How to reach the broker.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    endpoint: Endpoint,
    /// PEM file with the authorities that may sign the server's certificate, beside the system's own. For `amqps` only.
    pub ca_file: Option<PathBuf>,
    /// Put before the name of every queue and exchange, so that two installations can share a virtual host.
    pub name_prefix: String,
    /// What the broker's management pages call our connection.
    pub connection_name: String,
    /// From the first packet to a connection with topology.
    pub connect_timeout: Duration,
    /// For each request but publishing.
    pub operation_timeout: Duration,
    /// From the call of publish, waiting for a connection included, to the broker's confirmation.
    pub publish_timeout: Duration,
    /// A connection that is silent for twice as long is given up. Whole seconds, at least one.
    pub heartbeat: Duration,
    /// Publishes that may wait for their confirmation at a time; further ones wait before they send.
    pub max_unconfirmed: usize,
    /// Pause before the second attempt to reconnect; doubled each time.
    pub reconnect_min: Duration,
    /// Longest pause between attempts to reconnect.
    pub reconnect_max: Duration,
}

/// The kind of broker and its address.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// Queues in this process.
    Memory,
    /// RabbitMQ.
    Amqp(AmqpEndpoint),
}

/// Address and credentials of a RabbitMQ server.
#[derive(Clone)]
pub struct AmqpEndpoint {
    /// Everything but the password.
    pub(crate) uri: AMQPUri,
    pub(crate) password: SecretString,
}

impl AmqpEndpoint {
    /// `host:port`, for messages.
    pub fn address(&self) -> String {
        format!("{}:{}", self.uri.authority.host, self.uri.authority.port)
    }

    pub(crate) fn tls(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }
}

impl fmt::Debug for AmqpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpEndpoint")
            .field("tls", &self.tls())
            .field("address", &self.address())
            .field("username", &self.uri.authority.userinfo.username)
            .field("vhost", &self.uri.vhost)
            .finish_non_exhaustive()
    }
}

impl BrokerConfig {
    /// A configuration for this address with the usual limits: `amqp://user:password@host:port/vhost`, `amqps://…`, or
    /// `memory:`. User and password default to `guest`, the virtual host to `/`.
    ///
    /// # Errors
    /// [`BrokerError::Address`], which does not repeat the address, since that may hold a password.
    pub fn new(url: &str) -> Result<Self, BrokerError> {
        Ok(Self {
            endpoint: parse(url)?,
            ca_file: None,
            name_prefix: String::new(),
            connection_name: "couch-sql".to_owned(),
            connect_timeout: Duration::from_secs(10),
            operation_timeout: Duration::from_secs(10),
            publish_timeout: Duration::from_secs(30),
            heartbeat: Duration::from_secs(10),
            max_unconfirmed: 256,
            reconnect_min: Duration::from_millis(200),
            reconnect_max: Duration::from_secs(10),
        })
    }

    /// The same with this password, in place of the one in the address.
    #[must_use]
    pub fn with_password(mut self, password: SecretString) -> Self {
        if let Endpoint::Amqp(amqp) = &mut self.endpoint {
            amqp.password = password;
        }
        self
    }

    /// The kind of broker and its address.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

fn parse(text: &str) -> Result<Endpoint, BrokerError> {
    let refuse = |reason| BrokerError::Address { reason };
    let url = Url::parse(text).map_err(|_| refuse("it is not a URL"))?;
    match url.scheme() {
        "memory" => return Ok(Endpoint::Memory),
        "amqp" | "amqps" => {}
        _ => return Err(refuse("its scheme is none of amqp, amqps, memory")),
    }
    let host = match url.host() {
        None => return Err(refuse("it names no host")),
        Some(Host::Domain("")) => return Err(refuse("it names no host")),
        // The AMQP parser would take an IPv6 address for no host at all, and connect to localhost.
        Some(Host::Ipv6(address)) => Some(address.to_string()),
        Some(_) => None,
    };
    let mut uri: AMQPUri = text
        .parse()
        .map_err(|_| refuse("user, password, virtual host or an option in it cannot be read"))?;
    if let Some(host) = host {
        uri.authority.host = host;
    }
    if uri.vhost.is_empty() {
        // A final slash means the default virtual host to everyone but the letter of the AMQP URI specification.
        uri.vhost = "/".to_owned();
    }
    let password = SecretString::from(std::mem::take(&mut uri.authority.userinfo.password));
    Ok(Endpoint::Amqp(AmqpEndpoint { uri, password }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use secrecy::ExposeSecret;

    use super::*;

    fn amqp(url: &str) -> AmqpEndpoint {
        match BrokerConfig::new(url).unwrap().endpoint {
            Endpoint::Amqp(endpoint) => endpoint,
            Endpoint::Memory => panic!("{url} is not AMQP"),
        }
    }

    #[test]
    fn addresses() {
        for (url, tls, address, username, password, vhost) in [
            ("amqp://mq.example", false, "mq.example:5672", "guest", "guest", "/"),
            ("amqp://mq.example/", false, "mq.example:5672", "guest", "guest", "/"),
            ("amqp://mq.example/%2f", false, "mq.example:5672", "guest", "guest", "/"),
            (
                "amqps://migrator@mq.example/couch-sql",
                true,
                "mq.example:5671",
                "migrator",
                "guest",
                "couch-sql",
            ),
            (
                "amqp://a%40b:p%2Fw%3a@10.0.0.7:25/x",
                false,
                "10.0.0.7:25",
                "a@b",
                "p/w:",
                "x",
            ),
            ("amqp://[::1]:5673/x", false, "::1:5673", "guest", "guest", "x"),
        ] {
            let endpoint = amqp(url);
            assert_eq!(endpoint.tls(), tls, "{url}");
            assert_eq!(endpoint.address(), address, "{url}");
            assert_eq!(endpoint.uri.authority.userinfo.username, username, "{url}");
            assert_eq!(endpoint.password.expose_secret(), password, "{url}");
            assert_eq!(endpoint.uri.vhost, vhost, "{url}");
        }
        assert!(matches!(
            BrokerConfig::new("memory:").unwrap().endpoint,
            Endpoint::Memory
        ));
    }

    #[test]
    fn unusable_addresses_are_refused_without_being_repeated() {
        for url in [
            "",
            "mq.example",
            "http://u:secret-word@mq.example/",
            "amqp:secret-word",
            "amqp://",
            "amqp://u:secret-word@host:notaport/",
            "amqp://u:%ff@host/?secret-word",
            "amqp://u:secret-word@host/?heartbeat=secret-word",
        ] {
            let error = BrokerConfig::new(url).unwrap_err();
            assert!(matches!(error, BrokerError::Address { .. }), "{url}");
            assert!(
                !format!("{error} {error:?}").contains("secret-word"),
                "{url}: {error:?}"
            );
            assert_eq!(error.code(), "C2S-1303");
        }
    }

    #[test]
    fn debug_does_not_show_the_password() {
        let config = BrokerConfig::new("amqp://u:secret-word@mq.example/x").unwrap();
        assert!(!format!("{config:?}").contains("secret-word"));
        let config = config.with_password(SecretString::from("other-word"));
        assert!(!format!("{config:?}").contains("other-word"));
        assert!(format!("{config:?}").contains("mq.example:5672"));
    }
}
