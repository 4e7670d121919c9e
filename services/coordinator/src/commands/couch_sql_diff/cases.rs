//! `couch_sql_diff DOMAIN cases`: compares cases again.

use std::sync::Arc;

use proto::doctype::DocType;
use proto::ids::Domain;
use serde_json::json;
use state::records::RecordFilter;
use state::records::RecordTable;
use tokio_util::sync::CancellationToken;

use super::show::print_documents;
use crate::commands::{Confirmation, HeldDomain, confirm, ids_of, migration_of, stats};
use crate::context::Context;
use crate::domain_doc::DomainDoc;
use crate::driver::{Compared, Ended, Pace, StopSignals, compare_again};
use crate::failure::{Exit, Result};
use crate::rules::{Command, Situation, allow};
use crate::workers::Workforce;

/// Cases of the last batch that are counted at most when the comparison stops at the first of them.
const COUNTED: i64 = 1000;

/// Which cases to compare again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cases {
    /// All cases of both sides.
    All,
    /// Those that were not compared at their present generation.
    Pending,
    /// Those with a record.
    With(RecordTable),
    /// These.
    Ids(Vec<String>),
}

impl Cases {
    /// `pending`, `with-diffs`, `with-changes`, ids, or a path (`/…` or `./…`) to a file with one id a line.
    ///
    /// # Errors
    /// `C2S-0107` when the file cannot be read.
    pub fn parse(text: Option<&str>) -> Result<Self> {
        Ok(match text {
            None => Self::All,
            Some("pending") => Self::Pending,
            Some("with-diffs") => Self::With(RecordTable::Diffs),
            Some("with-changes") => Self::With(RecordTable::Changes),
            Some(ids) => Self::Ids(ids_of(ids)?),
        })
    }
}

/// Compares cases again. The exit status says whether differences are on record afterwards.
///
/// # Errors
/// The refusal, or what went wrong; what was not compared stays pending.
pub async fn cases(
    context: &Arc<Context>,
    domain: &Domain,
    cases: &Cases,
    pace: Pace,
    stop: CancellationToken,
) -> Result<Exit> {
    may_compare(context, domain).await?;
    let what = match cases {
        Cases::All => Compared::AllCases,
        Cases::Pending => Compared::PendingCases,
        Cases::With(table) => Compared::CasesWith(*table),
        Cases::Ids(ids) => Compared::Cases(ids.clone()),
    };
    run(context, domain, &what, pace, stop).await
}

/// Refuses unless documents of the domain may be compared.
pub(crate) async fn may_compare(context: &Context, domain: &Domain) -> Result<()> {
    let doc = DomainDoc::read(&context.domains_db, domain).await?;
    let found = context.state.migration(domain).await?;
    allow(
        Command::DiffCases,
        Situation {
            migration: found.as_ref(),
            on_sql: doc.is_on_sql(),
        },
    )
}

/// Has the workers compare, and says how the domain stands afterwards.
pub(super) async fn run(
    context: &Arc<Context>,
    domain: &Domain,
    what: &Compared,
    pace: Pace,
    stop: CancellationToken,
) -> Result<Exit> {
    let migration = migration_of(context, domain).await?;
    let broker = context.broker().await?;
    let workforce = Workforce::if_in_process(context, &broker).await?;
    let signals = StopSignals {
        operator: stop,
        ..StopSignals::default()
    };
    let ended = compare_again(context, Arc::clone(&broker), &migration, signals, what, pace).await;
    if let Some(workforce) = workforce {
        workforce.stop().await;
    }
    broker.close().await;
    match ended? {
        Ended::Stopped => return Ok(Exit::Stopped),
        Ended::Done => {}
        Ended::WithUnknown(count) => println!("{count} of the cases that were named are on neither side"),
        Ended::AtFirst(since) => {
            // Values are shown: who asked goes on record before.
            let detail = json!({"stop": true});
            context
                .state
                .audit(domain, &context.operator, "couch_sql_diff cases", &detail)
                .await?;
            let mut found = context.state.cases_recorded_since(migration.id, since, COUNTED).await?;
            let others = found.len().saturating_sub(1);
            found.truncate(1);
            for table in [RecordTable::Diffs, RecordTable::Changes] {
                let filter = RecordFilter {
                    kinds: Vec::new(),
                    documents: found.clone(),
                };
                print_documents(context, &migration, table, &filter, 1).await?;
            }
            println!("stopped at the first difference; `--select=pending` goes on");
            if others > 0 {
                println!("{others} more cases of its batch differ too; `show` prints them");
            }
        }
    }
    let clean = stats::print_after_run(context, domain).await?;
    Ok(if clean { Exit::Clean } else { Exit::Differences })
}

/// What `--reset` is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Reset {
    /// Say what would be forgotten, and how to keep a copy.
    Prepare,
    /// Forget it.
    Delete,
}

/// Forgets all comparisons of live cases, so that every case is pending again; `prepare` only says what that would be.
///
/// # Errors
/// The refusal, or what went wrong.
pub async fn reset(context: &Context, domain: &Domain, reset: Reset, confirmation: Confirmation) -> Result<Exit> {
    may_compare(context, domain).await?;
    let migration = migration_of(context, domain).await?;
    let of_cases = RecordFilter {
        kinds: vec![DocType::CommCareCase.as_str().to_owned()],
        documents: Vec::new(),
    };
    let state = &context.state;
    let count = async |table| state.count_records(migration.id, table, &of_cases, i64::MAX).await;
    let (diffs, changes) = (count(RecordTable::Diffs).await?, count(RecordTable::Changes).await?);
    println!("{domain}: cases with diffs: {diffs}, with changes: {changes}");
    if reset == Reset::Prepare {
        println!(
            "`couch_sql_diff {domain} cases --reset=delete` forgets them, the list of missing cases, and which cases were compared.\n\
             To keep a copy first: pg_dump --schema={} of the state database.",
            state::SCHEMA
        );
        return Ok(Exit::Clean);
    }
    confirm("Forget all comparisons of cases?", confirmation)?;
    let held = HeldDomain::take(context, &migration).await?;
    let forgotten = state.forget_case_diffs(&held.lease, &context.operator).await;
    held.give_back(context).await?;
    let cases = forgotten?;
    println!("{cases} cases are pending; `couch_sql_diff {domain} cases --select=pending` compares them");
    Ok(Exit::Clean)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn selections() {
        assert_eq!(Cases::parse(None).unwrap(), Cases::All);
        assert_eq!(Cases::parse(Some("pending")).unwrap(), Cases::Pending);
        assert_eq!(
            Cases::parse(Some("a,b")).unwrap(),
            Cases::Ids(vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(Cases::parse(Some("./no-such-file")).unwrap_err().code, "C2S-0107");
        for nothing in ["", ",", " "] {
            assert_eq!(Cases::parse(Some(nothing)).unwrap_err().code, "C2S-0127");
        }
    }
}
