//! The command line.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand, ValueEnum};
use proto::ids::Domain;
use service::config::Config;
use service::process::Life;
use state::stats::RecordTable;
use tokio_util::sync::CancellationToken;

use crate::commands::commit::Accepted;
use crate::commands::couch_sql_diff::{Cases, Output, Selection};
use crate::commands::cutover::Cutover;
use crate::commands::init::TargetTables;
use crate::commands::migrate::{CaseDiff, Forms, OnError, Order, Record, Wait};
use crate::commands::patch::{PatchRun, PatchedSelection};
use crate::commands::started::Tables;
use crate::commands::stats::Format;
use crate::commands::{
    Confirmation, commit, couch_sql_diff, forecast, init, migrate, multiple, patch, plan, reset, rewind, serve,
    started, stats, uncommit,
};
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::rules::Mode;

mod domain;

pub use domain::{Action, CaseDiffWay, MigrateArgs};

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
        #[arg(short, long, value_name = "DIR")]
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
        #[arg(long)]
        no_input: bool,
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

/// What to do with differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DiffAction {
    /// Print what is on record.
    Show,
    /// Compare cases again.
    Cases,
    /// Make SQL cases say what their Couch cases say, as far as forms can, and compare them again.
    Patch,
}

/// Arguments of `couch_sql_diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Domain.
    pub domain: String,
    /// What to do.
    pub action: DiffAction,
    /// show: TYPE, TYPE:id1,id2, TYPE1,TYPE2, forms or cases. cases: pending, with-diffs, with-changes, ids, or a path to a
    /// file of ids.
    #[arg(long)]
    pub select: Option<String>,
    /// show: changes instead of diffs.
    #[arg(long)]
    pub changes: bool,
    /// show: what patch forms recorded. --select is then forms:id,id or cases:id,id.
    #[arg(long, conflicts_with = "changes")]
    pub patched: bool,
    /// patch: print each patch form and what it does, and write nothing.
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// show: CSV.
    #[arg(long)]
    pub csv: bool,
    /// show: a JSON object per line.
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// show: documents at a time.
    #[arg(short, long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    pub batch_size: i64,
    /// Log what is done, step by step.
    #[arg(long)]
    pub debug: bool,
    /// Accepted for old runbooks and not used: state is in PostgreSQL.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
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
            started::show(Context::connect(config).await?.as_ref(), tables).await
        }
        Command::CouchSqlDiff(args) => diff(&Context::connect(config).await?, &args, stop).await,
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
        Command::Stop { domain } => migrate::stop(Context::connect(config).await?.as_ref(), &Domain::new(domain)).await,
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
            };
            migrate::migrate(context, &domain, &order, wait, stop).await
        }
        Action::Commit if args.abort => until_stopped(stop, commit::abort(context, &domain, confirmation)).await,
        Action::Commit => {
            let accepted = Accepted::parse(args.accept_diffs.as_deref().unwrap_or_default())?;
            until_stopped(stop, commit::commit(context, &domain, &accepted, confirmation)).await
        }
        Action::Unfinish => until_stopped(stop, migrate::unfinish(context, &domain)).await,
        Action::Reset => until_stopped(stop, reset::reset(context, &domain, confirmation)).await,
        Action::Rewind => {
            let to = rewind::To::parse(args.to.as_deref().unwrap_or_default())?;
            until_stopped(stop, rewind::rewind(context, &domain, &to)).await
        }
        Action::Info => stats::info(context, &domain).await,
        Action::Stats => {
            let format = match (args.json, args.verbose) {
                (true, _) => Format::Json,
                (false, true) => Format::Verbose,
                (false, false) => Format::Table,
            };
            stats::stats(context, &domain, format).await
        }
        Action::Diff => {
            let all = Selection::default();
            for table in [RecordTable::Diffs, RecordTable::Changes] {
                couch_sql_diff::show(context, &domain, table, &all, Output::Text, 100).await?;
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

async fn diff(context: &Arc<Context>, args: &DiffArgs, stop: CancellationToken) -> Result<Exit> {
    state_dir(args.state_dir.as_ref());
    let domain = Domain::new(args.domain.clone());
    if (args.dry_run && args.action != DiffAction::Patch) || (args.patched && args.action != DiffAction::Show) {
        return Err(Failure::new(
            "C2S-0121",
            "--dry-run belongs to `patch`, and --patched to `show`",
            "leave it out",
        ));
    }
    match args.action {
        DiffAction::Patch => {
            let run = if args.dry_run {
                PatchRun::Preview
            } else {
                PatchRun::Write
            };
            patch::patch(context, &domain, &patch::scope(args.select.as_deref())?, run, stop).await
        }
        DiffAction::Show => {
            let table = if args.changes {
                RecordTable::Changes
            } else {
                RecordTable::Diffs
            };
            let output = match (args.csv, args.json) {
                (true, _) => Output::Csv,
                (_, true) => Output::Json,
                _ => Output::Text,
            };
            if args.patched {
                let selection = PatchedSelection::parse(args.select.as_deref())?;
                return patch::show_patched(context, &domain, &selection, output).await;
            }
            let selection = Selection::parse(args.select.as_deref())?;
            couch_sql_diff::show(context, &domain, table, &selection, output, args.batch_size).await
        }
        DiffAction::Cases => {
            if args.csv || args.changes || args.json {
                return Err(Failure::new(
                    "C2S-0111",
                    "--csv, --json and --changes belong to `show`",
                    "leave them out",
                ));
            }
            couch_sql_diff::cases(context, &domain, &Cases::parse(args.select.as_deref())?, stop).await
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
