//! Options of `couch_sql_diff` beside those that all of its actions share.

use clap::Args;
use docdiff::DiffType;
use state::records::RecordTable;

use super::cases::Reset;
use super::select::Selection;
use super::show::{Extent, Output, ShowOrder};
use super::shown::Narrow;
use crate::failure::{Failure, Result};

/// Options of `show`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct ShowArgs {
    /// show: CSV.
    #[arg(long)]
    pub csv: bool,
    /// show: a JSON object per line.
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// show: only differences with this path, its elements joined by `/`; with all below it when it ends with `/*`.
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// show: only differences of this kind: diff, type, missing, set_mismatch or complex.
    #[arg(long, value_name = "KIND")]
    pub diff_type: Option<String>,
    /// show: only changes with this reason.
    #[arg(long, value_name = "REASON")]
    pub reason: Option<String>,
    /// show: counts by type, path, kind and reason, with three examples each.
    #[arg(long)]
    pub summary: bool,
    /// show: every difference, however many there are.
    #[arg(long, conflicts_with = "summary")]
    pub all: bool,
}

impl ShowArgs {
    /// How to print.
    pub fn output(&self) -> Output {
        match (self.csv, self.json) {
            (true, _) => Output::Csv,
            (_, true) => Output::Json,
            _ => Output::Text,
        }
    }

    /// Whether they ask for less than everything, or for a summary, or against one.
    pub fn narrows(&self) -> bool {
        let csv_and_json = Self {
            csv: self.csv,
            json: self.json,
            ..Self::default()
        };
        *self != csv_and_json
    }

    /// The order that they make, with what all actions share.
    ///
    /// # Errors
    /// `C2S-0105` for a kind of difference that there is not, and those of the selection.
    pub fn order(&self, table: RecordTable, select: Option<&str>, batch: i64) -> Result<ShowOrder> {
        if let Some(kind) = &self.diff_type
            && DiffType::parse(kind).is_none()
        {
            let known: Vec<&str> = DiffType::ALL.iter().map(|kind| kind.as_str()).collect();
            return Err(Failure::new(
                "C2S-0105",
                format!("--diff-type: {kind} is no kind of difference"),
                format!("use one of {}", known.join(", ")),
            ));
        }
        Ok(ShowOrder {
            table,
            selection: Selection::parse(select)?,
            narrow: Narrow {
                path: self.path.clone(),
                diff_type: self.diff_type.clone(),
                reason: self.reason.clone(),
            },
            output: self.output(),
            extent: match (self.all, self.summary) {
                (true, _) => Extent::All,
                (_, true) => Extent::Summary,
                _ => Extent::AsFits,
            },
            batch,
            asks: true,
        })
    }
}

/// Options of `cases`, `forms` and `filter`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct AgainArgs {
    /// cases: one batch at a time, and no further than the first difference. filter --dry-run: ask after each batch.
    #[arg(short = 'x', long)]
    pub stop: bool,
    /// filter: say what would get shorter, and store nothing. patch: print each patch form and what it does, and write nothing.
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// cases: forget all comparisons of cases (`delete`), or say what that would be (`prepare`).
    #[arg(long, value_name = "HOW")]
    pub reset: Option<Reset>,
}
