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
        let context = Self::of_state(config).await?;
        context.target.reach().await?;
        context.couch.ping().await?;
        Ok(context)
    }

    /// Connects to the state schema only, for commands that must work while the other servers are away; those are connected
    /// to when they are asked for something.
    ///
    /// # Errors
    /// Those of the state schema.
    pub async fn of_state(config: Config) -> Result<Arc<Self>> {
        let state = State::connect(&connect::state_config(&config)).await?;
        let target = Target::open(&connect::target_config(&config))?;
        let couch = Couch::new(connect::couch_config(&config))?;
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
        self.run_hook(hook, domain).await.map_err(|why| {
            Failure::new(
                "C2S-4030",
                format!("the hook hq.cache_hook failed: {why}"),
                "HQ's caches may be out of date; mend the hook and run the command again",
            )
        })
    }

    /// Runs the hook that tells people that a domain is on SQL, if one is configured. That it fails changes nothing: the
    /// domain is on SQL, and the failure is told.
    pub async fn tell_staff(&self, domain: &Domain) {
        let hook = self.config.hq.committed_hook.as_deref().unwrap_or_default();
        if let Err(why) = self.run_hook(hook, domain).await {
            tracing::error!(code = "C2S-4098", why, "the hook hq.committed_hook failed");
            eprintln!(
                "C2S-4098: the hook hq.committed_hook failed: {why}; tell whom it concerns that {domain} is on SQL"
            );
        }
    }

    /// Runs a program with its arguments and the domain's name; an empty hook is none.
    async fn run_hook(&self, hook: &[String], domain: &Domain) -> std::result::Result<(), String> {
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
        match tokio::time::timeout(self.config.hq.cache_hook_timeout, status).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("{program}: {status}")),
            Ok(Err(error)) => Err(format!("{program}: {error}")),
            Err(_) => Err(format!("{program} did not end in time")),
        }
    }
}
