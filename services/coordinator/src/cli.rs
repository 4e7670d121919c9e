//! The command line.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use proto::ids::Domain;
use service::config::Config;
use state::stats::RecordTable;
use tokio_util::sync::CancellationToken;

use crate::commands::commit::Accepted;
use crate::commands::couch_sql_diff::{Cases, Output, Selection};
use crate::commands::cutover::Cutover;
use crate::commands::init::TargetTables;
use crate::commands::migrate::{CaseDiff, Forms, Order, Wait};
use crate::commands::patch::{PatchRun, PatchedSelection};
use crate::commands::started::Tables;
use crate::commands::stats::Format;
use crate::commands::{
    Confirmation, commit, couch_sql_diff, forecast, init, migrate, multiple, patch, reset, serve, started, stats,
    uncommit,
};
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::rules::Mode;

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
    MigrateMultiple(MultipleArgs),
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
    /// Say what is left of a migration, and how long MIGRATE --finish will take.
    #[command(after_help = "Example:\n  coordinator forecast my-domain")]
    Forecast {
        /// Domain.
        domain: String,
        /// JSON.
        #[arg(long)]
        json: bool,
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

/// What to do with a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Migrate it; again, to go on or to take what came since.
    #[value(name = "MIGRATE")]
    Migrate,
    /// Make it use SQL.
    #[value(name = "COMMIT")]
    Commit,
    /// Undo the migration: delete its SQL forms and cases and all that is on record.
    #[value(name = "reset", alias = "blow-away")]
    Reset,
    /// Take a migration in progress back to live: submissions go on.
    #[value(name = "unfinish")]
    Unfinish,
    /// How it stands.
    #[value(name = "stats")]
    Stats,
    /// Print all recorded differences, then all changes.
    #[value(name = "diff")]
    Diff,
}

/// Arguments of `migrate_domain_from_couch_to_sql`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Domain.
    pub domain: String,
    /// What to do.
    pub action: Action,
    /// Ask nothing.
    #[arg(long)]
    pub no_input: bool,
    /// MIGRATE: leave submissions on, and take what is old enough. The migration stays live until --finish.
    #[arg(long, conflicts_with = "finish")]
    pub live: bool,
    /// MIGRATE: refuse submissions from now on, and take the rest of a live migration.
    #[arg(long)]
    pub finish: bool,
    /// MIGRATE --finish: the longest that submissions may be off, COMMIT included: `10m`. Refused at once when the forecast
    /// says that it cannot be kept; a run that cannot keep it takes the domain back to live by itself.
    #[arg(long, value_name = "TIME", requires = "finish", value_parser = humantime::parse_duration)]
    pub max_downtime: Option<Duration>,
    /// MIGRATE: when the run ends clean, COMMIT is part of it. With --accept-diffs, as for COMMIT.
    #[arg(long, conflicts_with = "live")]
    pub commit_if_clean: bool,
    /// MIGRATE: forms that get a second chance: `missing` (those that a difference of a case names as applied in Couch only),
    /// ids with commas, or a path to a file of ids.
    #[arg(long, value_name = "FORMS", conflicts_with_all = ["live", "finish"])]
    pub forms: Option<String>,
    /// MIGRATE: when cases are compared, and whether differences are patched then.
    #[arg(long, value_enum)]
    pub case_diff: Option<CaseDiffWay>,
    /// MIGRATE: the same as --forms=missing --case-diff=patch.
    #[arg(long, conflicts_with_all = ["forms", "case_diff", "live"])]
    pub patch: bool,
    /// MIGRATE: put the run on record for `serve` and return.
    #[arg(long)]
    pub detach: bool,
    /// stats: list errors and missing ids too.
    #[arg(long)]
    pub verbose: bool,
    /// stats: JSON.
    #[arg(long, conflicts_with = "verbose")]
    pub json: bool,
    /// COMMIT: differences that do not stand against it: document types, `errors` or `all`, with commas. On record in the
    /// audit log.
    #[arg(long, value_name = "KINDS")]
    pub accept_diffs: Option<String>,
    /// COMMIT: give an interrupted COMMIT up and go back to Couch.
    #[arg(long, conflicts_with = "accept_diffs")]
    pub abort: bool,
    /// Accepted for old runbooks and not used: state is in PostgreSQL.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

/// Arguments of `migrate_multiple_domains_from_couch_to_sql`.
#[derive(Debug, Args)]
pub struct MultipleArgs {
    /// File with one domain a line, or names with colons between.
    pub domains: String,
    /// Migrate live: leave submissions on, and every domain live for its own MIGRATE --finish and COMMIT.
    #[arg(long)]
    pub live: bool,
    /// Domains at a time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub at_most: u16,
    /// Accepted for old runbooks and not used: state is in PostgreSQL.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

/// When cases are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CaseDiffWay {
    /// When all forms are migrated.
    After,
    /// Also migrate forms that differences put in doubt, then patch, then compare again.
    Patch,
    /// Not in this run; cases stay pending.
    None,
    /// Understood for old runbooks: the same as after.
    Asap,
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
    /// Accepted for old runbooks and not used: state is in PostgreSQL.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
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
            let mode = mode(args.live, false);
            multiple::migrate_all(&context, domains, usize::from(args.at_most), mode, stop).await
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
