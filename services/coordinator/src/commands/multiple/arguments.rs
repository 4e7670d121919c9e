//! The command line of a list.

use std::path::PathBuf;

use clap::Args;

use super::{Begun, Ending, ListOrder, Printed, Priority, Strictness};

/// Arguments of `migrate_multiple_domains_from_couch_to_sql`.
#[derive(Debug, Args)]
pub struct MultipleArgs {
    /// File with one domain a line (# begins a comment), or names with colons between, such as :one:two.
    pub domains: String,
    /// Migrate live: leave submissions on, and every domain live for its own MIGRATE --finish and COMMIT.
    #[arg(long)]
    pub live: bool,
    /// With --live: finish each domain once it is live, commit it if it is clean, and take it back to live if not.
    #[arg(long, requires = "live")]
    pub commit_if_clean: bool,
    /// Differences of soft-deleted cases count too.
    #[arg(long)]
    pub strict: bool,
    /// Go on with domains that a command of their own has begun; they are never reset.
    #[arg(long)]
    pub resume: bool,
    /// Share of the workers for each domain of this list, beside other domains.
    #[arg(long, value_enum, default_value_t)]
    pub priority: Priority,
    /// Domains at a time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub at_most: u16,
    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
    /// Log what is done, step by step.
    #[arg(long)]
    pub debug: bool,
    /// Accepted for old runbooks and not used: state is in PostgreSQL.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

impl MultipleArgs {
    /// What the list is asked to do.
    pub(crate) fn order(&self) -> ListOrder {
        ListOrder {
            ending: match (self.live, self.commit_if_clean) {
                (false, _) => Ending::CommitOrReset,
                (true, false) => Ending::Live,
                (true, true) => Ending::LiveThenCommit,
            },
            strictness: if self.strict {
                Strictness::Strict
            } else {
                Strictness::Usual
            },
            begun: if self.resume {
                Begun::GoneOnWith
            } else {
                Begun::LeftAlone
            },
            priority: self.priority,
            at_most: usize::from(self.at_most),
            printed: if self.json { Printed::Json } else { Printed::Table },
        }
    }
}
