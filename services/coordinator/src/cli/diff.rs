//! `couch_sql_diff`: its arguments, and which command they mean.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use proto::ids::Domain;
use state::records::RecordTable;
use tokio_util::sync::CancellationToken;

use super::{state_dir, until_stopped};
use crate::commands::couch_sql_diff::args::AgainArgs;
use crate::commands::couch_sql_diff::select::Selection;
use crate::commands::couch_sql_diff::{Cases, FilterOrder, ShowArgs, ShowOrder};
use crate::commands::patch::{PatchOrder, PatchRun, PatchedSelection};
use crate::commands::{Confirmation, couch_sql_diff, patch};
use crate::context::Context;
use crate::driver::Pace;
use crate::failure::{Exit, Failure, Result};

/// What to do with differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DiffAction {
    /// Print what is on record.
    Show,
    /// Run what is on record through the present ignore rules, and store what gets shorter.
    Filter,
    /// Compare cases again.
    Cases,
    /// Make SQL cases say what their Couch cases say, as far as forms can, and compare them again.
    Patch,
    /// Compare migrated forms again.
    Forms,
}

/// Arguments of `couch_sql_diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Domain.
    pub domain: String,
    /// What to do.
    pub action: DiffAction,
    /// show, filter: TYPE, TYPE:id1,id2, TYPE1,TYPE2, forms, cases, `stock state`, or a path to a CSV file (type, id). cases:
    /// pending, with-diffs, with-changes, ids, or a path to a file of ids. forms: with-diffs, ids, or a path to a file of ids.
    #[arg(long)]
    pub select: Option<String>,
    /// show, filter: changes instead of diffs.
    #[arg(long)]
    pub changes: bool,
    /// show: what patch forms recorded. --select is then forms:id,id or cases:id,id.
    #[arg(long, conflicts_with = "changes")]
    pub patched: bool,
    /// Options of `show`.
    #[command(flatten)]
    pub show: ShowArgs,
    /// Options of `cases`, `forms` and `filter`.
    #[command(flatten)]
    pub again: AgainArgs,
    /// Documents at a time: 100 for show and filter, else as configured.
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch_size: Option<u32>,
    /// Log what is done, step by step.
    #[arg(long)]
    pub debug: bool,
    /// Ask nothing.
    #[arg(long)]
    pub no_input: bool,
    /// Accepted for old runbooks and not used: state is in PostgreSQL.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

pub(super) async fn run(context: &Arc<Context>, args: &DiffArgs, stop: CancellationToken) -> Result<Exit> {
    state_dir(args.state_dir.as_ref());
    let domain = Domain::new(args.domain.clone());
    let table = if args.changes {
        RecordTable::Changes
    } else {
        RecordTable::Diffs
    };
    let select = args.select.as_deref();
    let page = i64::from(args.batch_size.unwrap_or(100));
    let pace = Pace {
        batch: args.batch_size.and_then(|batch| usize::try_from(batch).ok()),
        stop_at_first: args.again.stop,
    };
    args.check()?;
    match args.action {
        DiffAction::Patch => {
            let run = if args.again.dry_run {
                PatchRun::Preview
            } else {
                PatchRun::Write
            };
            let order = PatchOrder {
                scope: patch::scope(select)?,
                run,
                batch: pace.batch,
            };
            patch::patch(context, &domain, &order, stop).await
        }
        DiffAction::Show if args.patched => {
            let selection = PatchedSelection::parse(select)?;
            patch::show_patched(context, &domain, &selection, args.show.output(), page).await
        }
        DiffAction::Show => {
            let order = ShowOrder {
                asks: !args.no_input,
                ..args.show.order(table, select, page)?
            };
            couch_sql_diff::show(context, &domain, &order).await
        }
        DiffAction::Filter => {
            let order = FilterOrder {
                table,
                selection: Selection::parse(select)?,
                batch: page,
                dry_run: args.again.dry_run,
                ask: args.again.stop && !args.no_input,
            };
            until_stopped(stop, couch_sql_diff::filter(context, &domain, &order)).await
        }
        DiffAction::Forms => {
            let forms = couch_sql_diff::forms::selected(select)?;
            couch_sql_diff::forms(context, &domain, &forms, pace, stop).await
        }
        DiffAction::Cases => match args.again.reset {
            Some(reset) => {
                let confirmation = if args.no_input {
                    Confirmation::Given
                } else {
                    Confirmation::Needed
                };
                couch_sql_diff::cases::reset(context, &domain, reset, confirmation).await
            }
            None => couch_sql_diff::cases(context, &domain, &Cases::parse(select)?, pace, stop).await,
        },
    }
}

impl DiffArgs {
    /// Refuses options that the action has no use for: they would seem to have been heeded.
    fn check(&self) -> Result<()> {
        let (action, again) = (self.action, &self.again);
        let shows = action == DiffAction::Show;
        let stray = [
            (
                !shows && self.show != ShowArgs::default(),
                "C2S-0111",
                "--csv, --json and what narrows or sums up belong to `show`",
            ),
            (
                self.changes && !matches!(action, DiffAction::Show | DiffAction::Filter),
                "C2S-0111",
                "--changes belongs to `show` and `filter`",
            ),
            (self.patched && !shows, "C2S-0121", "--patched belongs to `show`"),
            (
                self.patched && self.show.narrows(),
                "C2S-0111",
                "--patched shows whole patch forms: only --select, --csv, --json and --batch-size go with it",
            ),
            (
                again.reset.is_some() && self.batch_size.is_some(),
                "C2S-0111",
                "--reset compares nothing: it takes no --batch-size",
            ),
            (
                again.dry_run && !matches!(action, DiffAction::Filter | DiffAction::Patch),
                "C2S-0121",
                "--dry-run belongs to `filter` and `patch`",
            ),
            (
                again.reset.is_some() && action != DiffAction::Cases,
                "C2S-0111",
                "--reset belongs to `cases`",
            ),
            (
                again.reset.is_some() && self.select.is_some(),
                "C2S-0111",
                "--reset forgets the comparisons of all cases: it takes no --select",
            ),
            (
                again.stop && !(action == DiffAction::Cases || (action == DiffAction::Filter && again.dry_run)),
                "C2S-0111",
                "--stop belongs to `cases` and to `filter --dry-run`",
            ),
        ];
        match stray.into_iter().find(|(is_stray, ..)| *is_stray) {
            Some((_, code, what)) => Err(Failure::new(code, what, "leave it out")),
            None => Ok(()),
        }
    }
}
