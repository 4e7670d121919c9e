//! `migrate_multiple_domains_from_couch_to_sql`: a list of domains, several at a time.
//!
//! With downtime, a domain that ends clean is committed and any other is reset. Live, every domain is left live, to be
//! looked at and finished by itself; or, if that was asked for, finished, and committed or taken back to live.
//!
//! A list owns nothing but the domains in its hands, each under a lease of its own (`state::lists`): two lists share their
//! domains, and a list that died is gone on with by whoever runs it again.

mod arguments;
mod list;
mod one;
mod outcome;
mod queue;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::StreamExt;
use proto::doctype::DocType;
use proto::ids::Domain;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::driver::{DESIGN, VIEW, all_of};
use crate::failure::{Exit, Failure, Result};
use crate::transport::Transport;

pub use arguments::MultipleArgs;
pub use list::read_list;
use one::Turned;
use outcome::{Report, Row};
use queue::{Queue, Size};

/// Pause between two looks at domains that another list has in hand.
const LOOK: Duration = Duration::from_secs(1);
/// Requests for the sizes of domains at a time.
const COUNTS_AT_ONCE: usize = 8;

/// What becomes of a domain whose run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With downtime: committed if clean, else reset.
    CommitOrReset,
    /// Left live.
    Live,
    /// Begun live, finished, and committed if clean, else taken back to live.
    LiveThenCommit,
}

/// Whether differences of soft-deleted cases stand against a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// They do not; missing ones do.
    Usual,
    /// They do.
    Strict,
}

/// What to do with domains that a command of their own has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// They are left alone, and reported.
    LeftAlone,
    /// The list goes on with them. It never resets them.
    GoneOnWith,
}

/// Share of the workers that each domain of a list gets, beside others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Priority {
    /// A quarter of the usual share.
    Low,
    /// The usual share.
    #[default]
    Normal,
    /// Four times the usual share.
    High,
}

impl Priority {
    const fn weight(self) -> i16 {
        match self {
            Self::Low => state::lists::USUAL_WEIGHT / 4,
            Self::Normal => state::lists::USUAL_WEIGHT,
            Self::High => state::lists::USUAL_WEIGHT * 4,
        }
    }
}

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Printed {
    /// A table.
    Table,
    /// One JSON object.
    Json,
}

/// What a list is asked to do.
#[derive(Clone, Copy, Debug)]
pub struct ListOrder {
    /// What becomes of each domain.
    pub ending: Ending,
    /// Which differences count.
    pub strictness: Strictness,
    /// What to do with domains that are being migrated already.
    pub begun: Begun,
    /// Share of the workers.
    pub priority: Priority,
    /// Domains at a time.
    pub at_most: usize,
    /// How the result is printed.
    pub printed: Printed,
}

/// What the tasks of a list share.
struct Work {
    context: Arc<Context>,
    order: ListOrder,
    /// By the state server's clock.
    began: DateTime<Utc>,
    /// One connection for all its domains.
    transport: Transport,
    stop: CancellationToken,
}

/// Migrates the domains of a list.
///
/// # Errors
/// The list's; failures of single domains are told in the summary.
pub async fn migrate_all(
    context: &Arc<Context>,
    domains: Vec<Domain>,
    order: ListOrder,
    stop: CancellationToken,
) -> Result<Exit> {
    let work = Arc::new(Work {
        context: Arc::clone(context),
        order,
        began: context.state.now().await?,
        transport: Transport::new(context),
        stop: stop.clone(),
    });
    let mut report = Report::new(domains.len());
    let queue = Queue::new(sizes(context, domains).await, order.at_most);
    let worked = run_queue(&work, queue, &mut report).await;
    work.transport.close().await;
    worked?;
    let report = report.ended();
    match order.printed {
        Printed::Json => println!("{}", report.to_json()),
        Printed::Table => print!("{report}"),
    }
    Ok(report.exit(stop.is_cancelled()))
}

/// Works through the queue: as many domains at a time as are allowed, and those that another list has in hand at the end.
async fn run_queue(work: &Arc<Work>, mut queue: Queue, report: &mut Report) -> Result<()> {
    let mut tasks: JoinSet<(Domain, Size, Turned)> = JoinSet::new();
    loop {
        while !work.stop.is_cancelled()
            && let Some((domain, size)) = queue.next()
        {
            let work = Arc::clone(work);
            tasks.spawn(async move {
                let turned = one::migrate(&work, &domain).await;
                (domain, size, turned)
            });
        }
        if let Some(ended) = tasks.join_next().await {
            let (domain, size, turned) = ended.map_err(|error| {
                Failure::new(
                    "C2S-4110",
                    format!("the work on a domain broke off: {error}"),
                    "run the list again",
                )
            })?;
            match turned {
                Turned::Held { by } => queue.set_aside(domain, size, by),
                Turned::Ended(row) => {
                    queue.ended(size);
                    report.add(*row);
                }
            }
            continue;
        }
        if work.stop.is_cancelled() {
            for domain in queue.rest() {
                report.add(Row::not_begun(&domain));
            }
            return Ok(());
        }
        match queue.take_up_aside() {
            None => return Ok(()),
            Some((domain, by)) => eprintln_once(report, &domain, &by),
        }
        tokio::select! {
            () = work.stop.cancelled() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn eprintln_once(report: &mut Report, domain: &Domain, by: &str) {
    if report.waits_for(domain) {
        eprintln!("{domain} is in the hands of another list ({by}); waiting for it");
    }
}

/// Which domains are large. One request each; a domain whose size cannot be told counts as small, and its own run will say
/// what is wrong.
async fn sizes(context: &Arc<Context>, domains: Vec<Domain>) -> Vec<(Domain, Size)> {
    futures::stream::iter(domains)
        .map(|domain| async move {
            let (start, end) = all_of(domain.as_str(), DocType::XFormInstance);
            let counted = context
                .forms_db
                .view_count(DESIGN, VIEW, Some(&start), Some(&end))
                .await;
            let size = Size::of(counted.ok().flatten().unwrap_or(0));
            (domain, size)
        })
        .buffered(COUNTS_AT_ONCE)
        .collect()
        .await
}

/// How long a domain took.
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}
