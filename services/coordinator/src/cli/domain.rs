//! Arguments of `migrate_domain_from_couch_to_sql`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::driver::MissingDocs;

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
    /// Send the scan of the main forms back to --to; the next MIGRATE looks at them again from there.
    #[value(name = "rewind")]
    Rewind,
    /// How many documents CouchDB has, whatever is on record.
    #[value(name = "info")]
    Info,
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
    /// MIGRATE --live: when through, stay and take what changes, until `stop`, Ctrl-C or --finish.
    #[arg(long, requires = "live")]
    pub follow: bool,
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
    /// MIGRATE: end the run at the first document with an error. What is on record stays; MIGRATE goes on from there.
    #[arg(short = 'x', long)]
    pub stop_on_error: bool,
    /// MIGRATE: check what is on record against both databases first, and do again what does not agree.
    #[arg(long)]
    pub rebuild_state: bool,
    /// rewind: a date (2020-03-31, 2020-03-31T12:00:00Z), case-N (so far back that the forms touch cases N times), or resume-…
    /// (a place that a rewind has saved).
    #[arg(long, value_name = "PLACE", required_if_eq("action", "rewind"))]
    pub to: Option<String>,
    /// MIGRATE, stats: how to look for documents that only one side has. cached: not at all (stats; MIGRATE takes it for
    /// resume). resume: go on with an interrupted look (MIGRATE). rebuild: look anew. recheck: ask SQL again for the list.
    #[arg(long, value_name = "HOW")]
    pub missing_docs: Option<MissingDocs>,
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
    /// Log what is done, step by step.
    #[arg(long)]
    pub debug: bool,
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
