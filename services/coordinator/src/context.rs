//! What every command works with: configuration, connections, and who is asking.

use std::process::Stdio;
use std::sync::Arc;

use broker::Broker;
use couch::{Couch, Database};
use hqsql::Target;
use proto::ids::Domain;
use service::config::Config;
use service::connect;
use service::domain_options::DomainOptions;
use service::process::operator;
use state::State;
use state::run::Operator;

use crate::failure::{Failure, Result};

/// Configuration and connections of a command.
pub struct Context {
    /// Configuration.
    pub config: Config,
    /// State schema.
    pub state: State,
    /// HQ's tables.
    pub target: Target,
    /// Couch server.
    pub couch: Couch,
    /// Database of forms and cases.
    pub forms_db: Database,
    /// Database of Domain documents.
    pub domains_db: Database,
    /// Who gives the command.
    pub operator: Operator,
    /// Name of this process in leases.
    pub name: String,
}

impl Context {
    /// Connects to everything but the broker.
    ///
    /// # Errors
    /// One line that says which server cannot be reached, or what is wrong with it.
    pub async fn connect(config: Config) -> Result<Arc<Self>> {
        let state = State::connect(&connect::state_config(&config)).await?;
        let target = Target::connect(&connect::target_config(&config)).await?;
        let couch = Couch::new(connect::couch_config(&config))?;
        couch.ping().await?;
        let forms_db = couch.database(&config.source.forms_db);
        let domains_db = couch.database(&config.source.domains_db);
        let operator = operator();
        let name = format!("{}@{} pid {}", operator.who, operator.host, operator.pid);
        Ok(Arc::new(Self {
            config,
            state,
            target,
            couch,
            forms_db,
            domains_db,
            operator,
            name,
        }))
    }

    /// Options of a domain as the configuration has them now.
    pub fn domain_options(&self, domain: &Domain) -> DomainOptions {
        DomainOptions {
            case_attachments: self
                .config
                .domains
                .case_attachments
                .iter()
                .any(|name| name == domain.as_str()),
        }
    }

    /// Connects to the broker.
    ///
    /// # Errors
    /// The broker's.
    pub async fn broker(&self) -> Result<Arc<dyn Broker>> {
        Ok(broker::connect(&connect::broker_config(&self.config, &self.name)?).await?)
    }

    /// Runs the hook that makes HQ forget what it has cached of the domain, if one is configured.
    ///
    /// # Errors
    /// `C2S-4030` when the hook fails.
    pub async fn tell_hq(&self, domain: &Domain) -> Result<()> {
        let hook = self.config.hq.cache_hook.as_deref().unwrap_or_default();
        let Some((program, arguments)) = hook.split_first() else {
            return Ok(());
        };
        let status = tokio::process::Command::new(program)
            .args(arguments)
            .arg(domain.as_str())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .status();
        let outcome = tokio::time::timeout(self.config.hq.cache_hook_timeout, status).await;
        let why = match outcome {
            Ok(Ok(status)) if status.success() => return Ok(()),
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it did not end in time".to_owned(),
        };
        Err(Failure::new(
            "C2S-4030",
            format!("the hook hq.cache_hook ({program}) failed: {why}"),
            "HQ's caches may be out of date; mend the hook and run the command again",
        ))
    }
}
