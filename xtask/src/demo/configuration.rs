//! The configuration file of the demonstration.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{DOMAINS_DATABASE, FORMS_DATABASE, STATE_DATABASE, TARGET_DATABASE};
use crate::register::Register;
use crate::secret;

/// The server with the documents; its user is `admin`.
pub(super) struct Source {
    pub(super) port: u16,
    pub(super) password: String,
}

impl Source {
    pub(super) fn pouchdb(register: &Register) -> Result<Self> {
        let (port, password) = register
            .pouchdb
            .endpoint()
            .context("PouchDB Server was never started")?;
        Ok(Self {
            port,
            password: password.to_owned(),
        })
    }
}

/// What carries the batches.
pub(super) enum Broker {
    InProcess,
    RabbitMq { port: u16, password: String },
}

impl Broker {
    pub(super) fn rabbitmq(register: &Register) -> Result<Self> {
        let (port, password) = register.rabbitmq.endpoint().context("RabbitMQ was never started")?;
        Ok(Self::RabbitMq {
            port,
            password: password.to_owned(),
        })
    }
}

/// Everything the file says.
pub(super) struct Configuration<'run> {
    pub(super) source: Source,
    pub(super) broker: Broker,
    pub(super) blobs: PathBuf,
    pub(super) register: &'run Register,
}

impl Configuration<'_> {
    /// Writes the file, for its owner's eyes only: it holds passwords.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        secret::write_private(path, &self.text()?)
    }

    fn text(&self) -> Result<String> {
        let (postgres_port, postgres_password) = self
            .register
            .postgres
            .endpoint()
            .context("PostgreSQL was never started")?;
        let Source {
            port: source_port,
            password: source_password,
        } = &self.source;
        let blobs = quoted(&self.blobs.to_string_lossy());
        let broker = match &self.broker {
            Broker::InProcess => "url = \"memory:\"".to_owned(),
            Broker::RabbitMq { port, password } => {
                format!("url = \"amqp://couch-sql@127.0.0.1:{port}/couch-sql\"\npassword = \"{password}\"")
            }
        };
        Ok(format!(
            r#"# Written by `cargo xtask demo`; written anew by the next one.

[source]
url = "http://127.0.0.1:{source_port}"
forms_db = "{FORMS_DATABASE}"
domains_db = "{DOMAINS_DATABASE}"
username = "admin"
password = "{source_password}"
max_requests_per_second = 2000   # nobody else uses this server

[blobs]
kind = "fs"
path = {blobs}

[target]
default = "postgres://postgres@127.0.0.1:{postgres_port}/{TARGET_DATABASE}"
password = "{postgres_password}"

[state]
url = "postgres://postgres@127.0.0.1:{postgres_port}/{STATE_DATABASE}"
password = "{postgres_password}"

[broker]
{broker}

[live]
minimum_age = "0s"               # nobody writes to this domain

[hq]
cache_wait = "0s"                # there is no HQ that caches anything

[telemetry]
log_format = "text"
"#
        ))
    }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::register::Record;

    fn text(broker: Broker) -> String {
        let record = Record {
            port: Some(21_000),
            password: Some("pg-secret".to_owned()),
            process: None,
        };
        let register = Register {
            postgres: record,
            ..Register::default()
        };
        let source = Source {
            port: 21_001,
            password: "couch-secret".to_owned(),
        };
        Configuration {
            source,
            broker,
            blobs: PathBuf::from("/a \"b\""),
            register: &register,
        }
        .text()
        .unwrap()
    }

    #[test]
    fn passwords_stand_apart_from_urls() {
        let text = text(Broker::RabbitMq {
            port: 21_002,
            password: "mq-secret".to_owned(),
        });
        assert!(text.contains("default = \"postgres://postgres@127.0.0.1:21000/demo_hq\"\npassword = \"pg-secret\"\n"));
        assert!(text.contains("url = \"amqp://couch-sql@127.0.0.1:21002/couch-sql\"\npassword = \"mq-secret\"\n"));
        assert!(text.contains("path = \"/a \\\"b\\\"\"\n"));
    }

    #[test]
    fn without_rabbitmq_the_broker_is_in_the_process() {
        assert!(text(Broker::InProcess).contains("[broker]\nurl = \"memory:\"\n\n"));
    }
}
