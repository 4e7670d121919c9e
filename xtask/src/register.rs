//! What is remembered about the services between commands: `.dev/services.json`, and `.dev/env` for shells.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::process::ProcessRef;
use crate::workspace::Workspace;
use crate::{ports, secret};

/// Everything remembered. Holds passwords: its file is readable by its owner alone.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Register {
    pub(crate) postgres: Record,
    pub(crate) epmd: Record,
    pub(crate) rabbitmq: Record,
    /// The port of Erlang's distribution; the process is RabbitMQ's.
    pub(crate) rabbitmq_distribution: Record,
    pub(crate) pouchdb: Record,
}

/// What is remembered about one service.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<String>,
    pub(crate) process: Option<ProcessRef>,
}

impl Record {
    /// The process, if it still runs.
    pub(crate) fn running(&self) -> Option<ProcessRef> {
        self.process.filter(|process| process.is_running())
    }

    /// The password, made up when there is none yet.
    pub(crate) fn password(&mut self) -> Result<String> {
        if let Some(password) = &self.password {
            return Ok(password.clone());
        }
        let password = secret::random()?;
        self.password = Some(password.clone());
        Ok(password)
    }

    /// The port and the password, once both are known.
    pub(crate) fn endpoint(&self) -> Option<(u16, &str)> {
        Some((self.port?, self.password.as_deref()?))
    }
}

impl Register {
    pub(crate) fn load(workspace: &Workspace) -> Result<Self> {
        let path = path(workspace)?;
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| {
                format!(
                    "{} cannot be read: remove it, and `cargo xtask up` makes a new one",
                    path.display()
                )
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    pub(crate) fn save(&self, workspace: &Workspace) -> Result<()> {
        secret::write_private(&path(workspace)?, &serde_json::to_string_pretty(self)?)?;
        let lines: String = self
            .addresses()
            .iter()
            .map(|(name, url)| format!("export {name}='{url}'\n"))
            .collect();
        secret::write_private(&workspace.dev()?.join("env"), &lines)
    }

    /// A port for a service that is about to start: its old one if free, else a new one no other service has.
    pub(crate) fn choose_port(&self, remembered: Option<u16>, seed: &str) -> Result<u16> {
        let records = [
            &self.postgres,
            &self.epmd,
            &self.rabbitmq,
            &self.rabbitmq_distribution,
            &self.pouchdb,
        ];
        let taken: Vec<u16> = records.iter().filter_map(|record| record.port).collect();
        ports::keep_or_choose(remembered, &taken, seed)
    }

    /// The addresses of the services, credentials included, under the names the tests read them by.
    pub(crate) fn addresses(&self) -> Vec<(&'static str, String)> {
        let mut addresses = Vec::new();
        if let Some((port, password)) = self.postgres.endpoint() {
            addresses.push((
                "C2S_TEST_PG_URL",
                format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres"),
            ));
        }
        if let Some((port, password)) = self.rabbitmq.endpoint() {
            addresses.push((
                "C2S_TEST_AMQP_URL",
                format!("amqp://couch-sql:{password}@127.0.0.1:{port}/couch-sql"),
            ));
        }
        if let Some((port, password)) = self.pouchdb.endpoint() {
            addresses.push((
                "C2S_TEST_POUCHDB_URL",
                format!("http://admin:{password}@127.0.0.1:{port}"),
            ));
        }
        addresses
    }
}

fn path(workspace: &Workspace) -> Result<PathBuf> {
    Ok(workspace.dev()?.join("services.json"))
}
