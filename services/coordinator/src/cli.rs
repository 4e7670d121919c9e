//! The command line.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use proto::ids::Domain;
use service::config::Config;
use service::process::Life;
use state::records::RecordTable;
use tokio_util::sync::CancellationToken;

use crate::commands::commit::{Accepted, Whose};
use crate::commands::couch_sql_diff::ShowOrder;
use crate::commands::cutover::Cutover;
use crate::commands::init::TargetTables;
use crate::commands::migrate::{CaseDiff, Forms, OnError, Order, Record, Then, Wait};
use crate::commands::report::Values;
use crate::commands::started::Tables;
use crate::commands::stats::Format;
use crate::commands::{
    Confirmation, commit, couch_sql_diff, forecast, init, migrate, multiple, plan, report, reset, rewind, serve,
    started, stats, uncommit, unfinish,
};
use crate::context::Context;
use crate::driver::MissingDocs;
use crate::failure::{Exit, Failure, Result};
use crate::rules::Mode;

mod diff;
mod domain;
mod rules;

pub use diff::{DiffAction, DiffArgs};
pub use domain::{Action, CaseDiffWay, MigrateArgs};
pub use rules::{RulesAction, RulesArgs};

/// Moves CommCare HQ domains from CouchDB to PostgreSQL.
#[derive(Debug, Parser)]
#[command(
    name = "coordinator",
    version,
    about,
    after_help = "Example:\n  coordinator migrate_domain_from_couch_to_sql my-domain MIGRATE\n\nExit status: 0 clean, 1 differences or refusal, 2 misuse, 3 back to live, 130 stopped."
)]
pub struct Cli {
    /// Configuration file; else $COUCH_SQL_CONFIG, else ./couch-sql.toml.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// A command.
#[derive(Debug, Subcommand)]
#[command(rename_all = "snake_case")]
pub enum Command {
    /// Create or upgrade the state schema, and our fence table in the target.
    Init(InitArgs),
    /// Look at the configuration.
    Config {
        /// What to do with it.
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Migrate one domain, or see how it stands.
    #[command(
        name = "migrate_domain_from_couch_to_sql",
        after_help = "Example:\n  coordinator migrate_domain_from_couch_to_sql my-domain stats"
    )]
    MigrateDomain(MigrateArgs),
    /// Migrate the domains of a list, several at a time; commit those that are clean, reset the others.
    #[command(
        name = "migrate_multiple_domains_from_couch_to_sql",
        after_help = "Example:\n  coordinator migrate_multiple_domains_from_couch_to_sql domain-list.txt"
    )]
    MigrateMultiple(multiple::MultipleArgs),
    /// List the domains whose migration has begun and not ended, by status.
    #[command(
        name = "show_started_migrations",
        after_help = "Example:\n  coordinator show_started_migrations --stats"
    )]
    ShowStarted {
        /// Print the table of each domain too.
        #[arg(long)]
        stats: bool,
    },
    /// Show recorded differences, or compare cases again.
    #[command(
        name = "couch_sql_diff",
        after_help = "Example:\n  coordinator couch_sql_diff my-domain show --select=CommCareCase --csv"
    )]
    CouchSqlDiff(DiffArgs),
    /// List the domains that are on CouchDB by size class, with the time that each will take.
    #[command(after_help = "Example:\n  coordinator domains --output-dir ./domains")]
    Domains {
        /// Write a file of names for each class, and domains.csv, into this folder.
        #[arg(short, long = "output-dir", value_name = "DIR")]
        output_dir: Option<PathBuf>,
        /// JSON.
        #[arg(long)]
        json: bool,
    },
    /// Look at a domain as a first MIGRATE would: checks, counts, time, disk. Writes nothing anywhere.
    #[command(after_help = "Example:\n  coordinator plan my-domain")]
    Plan {
        /// Domain.
        domain: String,
        /// JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say what is left of a migration, and how long MIGRATE --finish will take.
    #[command(after_help = "Example:\n  coordinator forecast my-domain")]
    Forecast {
        /// Domain.
        domain: String,
        /// JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the notice by which a customer's agreement to a live migration is asked for.
    #[command(
        name = "support-request",
        after_help = "Example:\n  coordinator support-request my-domain"
    )]
    SupportRequest {
        /// Domain.
        domain: String,
    },
    /// Take a COMMIT back, as long as nothing has changed in SQL since.
    #[command(after_help = "Example:\n  coordinator uncommit my-domain")]
    Uncommit {
        /// Domain.
        domain: String,
        /// Ask nothing.
        #[arg(long = "no-input")]
        no_input: bool,
    },
    /// Print every rule by which a difference is not reported; or look after the rules of one domain.
    #[command(after_help = "Example:\n  coordinator rules add my-domain ./rules.toml")]
    Rules(RulesArgs),
    /// Write a page and a JSON file for the decision to commit.
    #[command(after_help = "Example:\n  coordinator report my-domain --output ./reports")]
    Report {
        /// Domain.
        domain: String,
        /// Folder for both files.
        #[arg(long, value_name = "DIR", default_value = ".")]
        output: PathBuf,
        /// Show values of documents too: health data.
        #[arg(long)]
        values: bool,
    },
    /// Stop the run of a domain, after the batches in flight.
    Stop {
        /// Domain.
        domain: String,
    },
    /// Drive runs until stopped: those that commands put on record, and those whose driver died.
    Serve,
    /// As serve, with the workers and the broker in this process: for a laptop, or a small migration.
    Standalone,
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Create HQ's own tables too, for a fresh database.
    #[arg(long)]
    pub create_target: bool,
    /// Print the least rights that each role needs on the target, and change nothing.
    #[arg(long, conflicts_with = "create_target")]
    pub print_grants: bool,
}

/// What to do with the configuration.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum ConfigAction {
    /// Say what is used, and reach every server.
    Check,
}

impl Cli {
    /// What the process is for, by which it logs.
    pub fn life(&self) -> Life {
        let is_debugging = match &self.command {
            Command::Serve | Command::Standalone => return Life::Service,
            Command::MigrateDomain(args) => args.debug,
            Command::MigrateMultiple(args) => args.debug,
            Command::CouchSqlDiff(args) => args.debug,
            _ => false,
        };
        if is_debugging { Life::Debugging } else { Life::Command }
    }
}

/// Runs the command.
///
/// # Errors
/// The refusal or failure, for one line on standard error.
pub async fn run(cli: Cli, mut config: Config, stop: CancellationToken) -> Result<Exit> {
    match cli.command {
        Command::Init(args) if args.print_grants => Ok(init::grants(&config)),
        Command::Init(args) => {
            let tables = if args.create_target {
                TargetTables::Create
            } else {
                TargetTables::AsFound
            };
            init::init(&config, tables).await
        }
        Command::Config {
            action: ConfigAction::Check,
        } => init::check(&config).await,
        Command::MigrateDomain(args) => Box::pin(migrate_domain(&Context::connect(config).await?, &args, stop)).await,
        Command::MigrateMultiple(args) => {
            state_dir(args.state_dir.as_ref());
            let domains = multiple::read_list(&args.domains)?;
            let context = Context::connect(config).await?;
            multiple::migrate_all(&context, domains, args.order(), stop).await
        }
        Command::ShowStarted { stats } => {
            let tables = if stats { Tables::Stats } else { Tables::None };
            started::show(Context::of_state(config).await?.as_ref(), tables).await
        }
        Command::CouchSqlDiff(args) => {
            let context = if args.action == DiffAction::Show {
                Context::of_state(config).await?
            } else {
                Context::connect(config).await?
            };
            diff::run(&context, &args, stop).await
        }
        Command::Rules(args) => rules::run(config, args).await,
        Command::Report { domain, output, values } => {
            let values = if values { Values::Shown } else { Values::Hidden };
            let context = Context::connect(config).await?;
            report::report(&context, &Domain::new(domain), &output, values).await
        }
        Command::Forecast { domain, json } => {
            let output = if json {
                forecast::Output::Json
            } else {
                forecast::Output::Text
            };
            forecast::print(Context::connect(config).await?.as_ref(), &Domain::new(domain), output).await
        }
        Command::Uncommit { domain, no_input } => {
            let confirmation = if no_input {
                Confirmation::Given
            } else {
                Confirmation::Needed
            };
            let context = Context::connect(config).await?;
            until_stopped(stop, uncommit::uncommit(&context, &Domain::new(domain), confirmation)).await
        }
        Command::Domains { output_dir, json } => {
            let context = Context::connect(config).await?;
            until_stopped(stop, plan::domains(&context, shown(json), output_dir.as_deref())).await
        }
        Command::Plan { domain, json } => {
            let context = Context::connect(config).await?;
            until_stopped(stop, plan::plan(&context, &Domain::new(domain), shown(json))).await
        }
        Command::SupportRequest { domain } => {
            let context = Context::connect(config).await?;
            until_stopped(stop, plan::support_request(&context, &Domain::new(domain))).await
        }
        Command::Stop { domain } => {
            unfinish::stop(Context::of_state(config).await?.as_ref(), &Domain::new(domain)).await
        }
        Command::Serve => serve::serve(&Context::connect(config).await?, stop).await,
        Command::Standalone => {
            config.broker.url = "memory:"
                .parse()
                .map_err(|_| Failure::new("C2S-0110", "no in-process broker", ""))?;
            serve::serve(&Context::connect(config).await?, stop).await
        }
    }
}

async fn migrate_domain(context: &Arc<Context>, args: &MigrateArgs, stop: CancellationToken) -> Result<Exit> {
    state_dir(args.state_dir.as_ref());
    let domain = Domain::new(args.domain.clone());
    let confirmation = if args.no_input {
        Confirmation::Given
    } else {
        Confirmation::Needed
    };
    if args.missing_docs.is_some() && !matches!(args.action, Action::Migrate | Action::Stats) {
        return Err(Failure::new(
            "C2S-0125",
            "--missing-docs belongs to MIGRATE and stats",
            "leave it out",
        ));
    }
    match args.action {
        Action::Migrate => {
            let wait = if args.detach { Wait::No } else { Wait::UntilEnd };
            let order = Order {
                mode: mode(args.live, args.finish),
                forms: if args.patch {
                    Forms::Missing
                } else {
                    Forms::parse(args.forms.as_deref())?
                },
                case_diff: case_diff(args),
                missing_docs: args
                    .missing_docs
                    .filter(|how| *how != MissingDocs::Cached)
                    .unwrap_or_default(),
                cutover: Cutover {
                    max_downtime: args.max_downtime,
                    commit: if args.commit_if_clean {
                        Some(Accepted::parse(args.accept_diffs.as_deref().unwrap_or_default())?)
                    } else {
                        None
                    },
                },
                on_error: if args.stop_on_error {
                    OnError::Stop
                } else {
                    OnError::GoOn
                },
                record: if args.rebuild_state {
                    Record::Checked
                } else {
                    Record::Trusted
                },
                then: if args.follow { Then::Follow } else { Then::End },
            };
            migrate::migrate(context, &domain, &order, wait, stop).await
        }
        Action::Commit if args.abort => until_stopped(stop, commit::abort(context, &domain, confirmation)).await,
        Action::Commit => {
            let accepted = Accepted::parse(args.accept_diffs.as_deref().unwrap_or_default())?;
            until_stopped(
                stop,
                commit::commit(context, &domain, &accepted, Whose::Anybodys, confirmation),
            )
            .await
        }
        Action::Unfinish => until_stopped(stop, unfinish::unfinish(context, &domain)).await,
        Action::Reset => until_stopped(stop, reset::reset(context, &domain, Whose::Anybodys, confirmation)).await,
        Action::Rewind => {
            let to = rewind::To::parse(args.to.as_deref().unwrap_or_default())?;
            rewind::rewind(context, &domain, &to, stop).await
        }
        Action::Info => stats::info(context, &domain).await,
        Action::Stats => {
            let format = match (args.json, args.verbose) {
                (true, _) => Format::Json,
                (false, true) => Format::Verbose,
                (false, false) => Format::Table,
            };
            let how = args.missing_docs.unwrap_or(MissingDocs::Cached);
            stats::stats_after_look(context, &domain, format, how, stop).await
        }
        Action::Diff => {
            for table in [RecordTable::Diffs, RecordTable::Changes] {
                let order = ShowOrder {
                    asks: !args.no_input,
                    ..ShowOrder::everything(table)
                };
                couch_sql_diff::show(context, &domain, &order).await?;
            }
            Ok(Exit::Clean)
        }
    }
}

fn case_diff(args: &MigrateArgs) -> CaseDiff {
    match args.case_diff {
        _ if args.patch => CaseDiff::Patch,
        None | Some(CaseDiffWay::After) => CaseDiff::After,
        Some(CaseDiffWay::Patch) => CaseDiff::Patch,
        Some(CaseDiffWay::None) => CaseDiff::None,
        Some(CaseDiffWay::Asap) => {
            eprintln!(
                "--case-diff=asap is the same as after: cases are compared by many workers once forms are migrated"
            );
            CaseDiff::After
        }
    }
}

fn shown(json: bool) -> plan::Shown {
    if json { plan::Shown::Json } else { plan::Shown::Table }
}

fn mode(live: bool, finish: bool) -> Mode {
    match (live, finish) {
        (true, _) => Mode::Live,
        (_, true) => Mode::Finish,
        _ => Mode::AsItIs,
    }
}

/// Ends a command whose every step is safe to leave when the operator wants it to stop.
async fn until_stopped(stop: CancellationToken, command: impl Future<Output = Result<Exit>>) -> Result<Exit> {
    tokio::select! {
        ended = command => ended,
        () = stop.cancelled() => {
            eprintln!("stopped; run the command again to go on");
            Ok(Exit::Stopped)
        }
    }
}

fn state_dir(given: Option<&PathBuf>) {
    if given.is_some() {
        eprintln!("--state-dir is not used: the state of migrations is in PostgreSQL");
    }
}

#[cfg(test)]
mod tests;
