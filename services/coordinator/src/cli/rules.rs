//! `rules`: its arguments, and which command they mean.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use proto::ids::Domain;
use service::config::Config;

use crate::commands::ignore_rules;
use crate::context::Context;
use crate::failure::{Exit, Result};

/// Arguments of `rules`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct RulesArgs {
    /// JSON.
    #[arg(long)]
    pub json: bool,
    /// What to do with the rules of a domain.
    #[command(subcommand)]
    pub action: Option<RulesAction>,
}

/// What to do with the ignore rules of a domain.
#[derive(Debug, Subcommand)]
pub enum RulesAction {
    /// Add the rules of a file.
    Add {
        /// Domain.
        domain: String,
        /// TOML file with a `[[rule]]` for each.
        file: PathBuf,
    },
    /// Remove rules, and put back what they had set aside.
    Remove {
        /// Domain.
        domain: String,
        /// Names of the rules.
        #[arg(required_unless_present = "all")]
        names: Vec<String>,
        /// All rules of the domain.
        #[arg(long, conflicts_with = "names")]
        all: bool,
    },
    /// Print its rules, and what each has set aside.
    Show {
        /// Domain.
        domain: String,
        /// JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(config: Config, args: RulesArgs) -> Result<Exit> {
    let Some(action) = args.action else {
        return Ok(ignore_rules::print_table(args.json));
    };
    let context = Context::connect(config).await?;
    match action {
        RulesAction::Add { domain, file } => ignore_rules::add(&context, &Domain::new(domain), &file).await,
        RulesAction::Remove { domain, names, .. } => ignore_rules::remove(&context, &Domain::new(domain), &names).await,
        RulesAction::Show { domain, json } => ignore_rules::show(&context, &Domain::new(domain), json).await,
    }
}
