//! One domain of a list, from whatever state it is in to the end that the list is to bring it to.

use proto::ids::Domain;
use state::lists::{ListedDomain, Turn};
use state::migration::{CommitStep, Migration};
use state::run::{Run, RunState};
use state::{State, Status};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::outcome::{AfterDifferences, Became, Counts, Row};
use super::{Begun, Clock, Ending, Strictness, Work};
use crate::commands::commit::{self, Whose};
use crate::commands::migrate::run_listed;
use crate::commands::verdict::Accepted;
use crate::commands::{Confirmation, reset, unfinish};
use crate::domain_doc::DomainDoc;
use crate::failure::{Exit, Failure, Result};
use crate::rules::Mode;

/// What came of a domain's turn.
pub(super) enum Turned {
    /// Another list works on it.
    Held { by: String },
    /// It is done with, one way or the other.
    Ended(Box<Row>),
}

/// Migrates a domain, if it is this list's turn. Never fails: what went wrong is the outcome.
pub(super) async fn migrate(work: &Work, domain: &Domain) -> Turned {
    let clock = Clock::start();
    let row = |result, counts, without_submissions| {
        Turned::Ended(Box::new(Row {
            domain: domain.clone(),
            result,
            seconds: clock.seconds(),
            counts,
            without_submissions,
        }))
    };
    let (state, lease) = (&work.context.state, work.context.config.worker.lease);
    // First, so that a name that was mistyped leaves nothing behind.
    match DomainDoc::read(&work.context.domains_db, domain).await {
        Ok(_) => {}
        Err(failure) if failure.code == "C2S-4010" => return row(Became::Unknown, None, false),
        Err(failure) => return row(failed(failure), None, false),
    }
    let held = match state.take_listed(domain, &work.context.name, work.began, lease).await {
        Ok(Turn::Mine(held)) => held,
        Ok(Turn::Held { by }) => return Turned::Held { by },
        Ok(Turn::Ended { by, outcome }) => return row(Became::of_another(by, &outcome), None, false),
        Err(error) => return row(failed(error.into()), None, false),
    };
    let (stop, _renewal) = keep(work, &held);
    let mut counts = None;
    let result = to_the_end(work, domain, stop, &mut counts).await.unwrap_or_else(failed);
    if let Err(error) = state.end_listed(&held, result.for_others().as_deref()).await {
        tracing::warn!(code = error.code(), %domain, "the end of the work on a domain could not be put on record");
    }
    let without_submissions = !matches!(result, Became::Migrated) && refuses_submissions(work, domain).await;
    row(result, counts, without_submissions)
}

/// Whether the migration has HQ refuse submissions. Where that cannot be told, the failure that is told says enough.
async fn refuses_submissions(work: &Work, domain: &Domain) -> bool {
    let migration = work.context.state.migration(domain).await;
    migration.ok().flatten().is_some_and(|migration| {
        migration.status == Status::InProgress || migration.commit_step.is_some_and(|step| step < CommitStep::Done)
    })
}

fn failed(failure: Failure) -> Became {
    if failure.code == "C2S-4113" {
        return Became::LeftAlone(format!("{}: {}", failure.code, failure.what));
    }
    Became::Failed {
        code: failure.code.to_owned(),
        what: failure.what,
    }
}

/// Keeps the domain this list's. The token is cancelled when the operator stops the list, or another list has taken the
/// domain: this process was silent for longer than a lease.
fn keep(work: &Work, held: &ListedDomain) -> (CancellationToken, DropGuard) {
    let stop = work.stop.child_token();
    let ended = CancellationToken::new();
    let lease = work.context.config.worker.lease;
    tokio::spawn({
        let (state, held, stop, ended): (State, _, _, _) =
            (work.context.state.clone(), held.clone(), stop.clone(), ended.clone());
        async move {
            let mut tick = tokio::time::interval(lease / 3);
            loop {
                tokio::select! {
                    () = ended.cancelled() => return,
                    _ = tick.tick() => {}
                }
                match state.keep_listed(&held, lease).await {
                    Ok(()) => {}
                    Err(error) if error.kind() == state::Kind::Retry => {
                        tracing::warn!(code = error.code(), "a domain of the list could not be renewed");
                    }
                    Err(_) => return stop.cancel(),
                }
            }
        }
    });
    (stop, ended.drop_guard())
}

/// From whatever state the domain is in.
async fn to_the_end(
    work: &Work,
    domain: &Domain,
    stop: CancellationToken,
    counts: &mut Option<Counts>,
) -> Result<Became> {
    let context = &work.context;
    let found = context.state.migration(domain).await?;
    let commit_is_open = found
        .as_ref()
        .is_some_and(|migration| migration.commit_step.is_some_and(|step| step < CommitStep::Done));
    if commit_is_open {
        let begun_by_list = match &found {
            Some(migration) => context.state.begun_by_list(migration.id).await?,
            None => false,
        };
        if work.order.ending == Ending::Live || !begun_by_list {
            return Ok(Became::LeftAlone(
                "C2S-4001: a COMMIT of it has begun; run COMMIT again by itself, or COMMIT --abort".to_owned(),
            ));
        }
        let ended = commit::commit(
            context,
            domain,
            &Accepted::default(),
            Whose::OfLists,
            Confirmation::Given,
        )
        .await?;
        return Ok(committed(ended));
    }
    if DomainDoc::read(&context.domains_db, domain).await?.is_on_sql() {
        return Ok(Became::OnSqlAlready);
    }
    let is_ours = match &found {
        None => true,
        Some(migration) => is_ours(work, migration).await?,
    };
    if let Some(migration) = &found {
        if let Some(why) = left_alone(work, migration, is_ours) {
            return Ok(Became::LeftAlone(why.to_owned()));
        }
        if migration.purging {
            reset::reset(context, domain, Whose::Anybodys, Confirmation::Given).await?;
        }
    }
    let whose = if is_ours { Whose::OfLists } else { Whose::Anybodys };
    let is_finishing = found
        .as_ref()
        .is_some_and(|migration| migration.status == Status::InProgress);
    match work.order.ending {
        Ending::CommitOrReset => {
            let ended = run(work, domain, Mode::AsItIs, &stop).await?;
            if let Some(early) = ended_early(&ended) {
                return Ok(early);
            }
            let otherwise = if is_ours { Otherwise::Reset } else { Otherwise::Leave };
            commit_or(work, domain, whose, counts, otherwise).await
        }
        Ending::Live => {
            let ended = run(work, domain, Mode::Live, &stop).await?;
            if let Some(early) = ended_early(&ended) {
                return Ok(early);
            }
            *counts = Some(counted(work, domain).await?);
            Ok(Became::Live)
        }
        Ending::LiveThenCommit => {
            // What was begun with downtime has no live migration that it could be taken back to.
            let was_live = match &found {
                Some(migration) if is_finishing => context.state.was_live(migration.id).await?,
                _ => true,
            };
            let otherwise = if was_live {
                Otherwise::Unfinish
            } else {
                Otherwise::Leave
            };
            // A list that died while it finished goes on with that: submissions are off.
            let modes: &[Mode] = if is_finishing {
                &[Mode::Finish]
            } else {
                &[Mode::Live, Mode::Finish]
            };
            let ended = finish(work, domain, whose, modes, otherwise, &stop, counts).await;
            match ended.unwrap_or_else(failed) {
                Became::Failed { code, what } => Ok(submissions_after(work, domain, otherwise, code, what).await),
                became => Ok(became),
            }
        }
    }
}

/// The runs of a live domain to their end, and its commit.
async fn finish(
    work: &Work,
    domain: &Domain,
    whose: Whose,
    modes: &[Mode],
    otherwise: Otherwise,
    stop: &CancellationToken,
    counts: &mut Option<Counts>,
) -> Result<Became> {
    for mode in modes {
        let ended = run(work, domain, *mode, stop).await?;
        if let Some(early) = ended_early(&ended) {
            return Ok(early);
        }
    }
    commit_or(work, domain, whose, counts, otherwise).await
}

/// A domain that was to be finished and has failed does not stay without submissions, unless only a person can tell what is
/// right.
async fn submissions_after(
    work: &Work,
    domain: &Domain,
    otherwise: Otherwise,
    code: String,
    mut what: String,
) -> Became {
    let context = &work.context;
    let told = async {
        let Some(migration) = context.state.migration(domain).await? else {
            return Ok("");
        };
        if migration.status != Status::InProgress {
            return Ok("");
        }
        if migration.commit_step.is_some() {
            return Ok("; COMMIT is to be run again");
        }
        if otherwise == Otherwise::Leave || migration.driver.is_some() {
            return Ok("");
        }
        unfinish::unfinish(context, domain).await?;
        Ok::<_, Failure>("; it is live again")
    };
    match told.await {
        Ok(told) => what.push_str(told),
        Err(failure) => what.push_str(&format!("; it could not be taken back to live: {failure}")),
    }
    Became::Failed { code, what }
}

/// Whether a list has begun the migration, so that a list may end it. What was not begun is anybody's.
async fn is_ours(work: &Work, migration: &Migration) -> Result<bool> {
    if migration.status == Status::NotStarted && !migration.purging && migration.driver.is_none() {
        return Ok(true);
    }
    Ok(work.context.state.begun_by_list(migration.id).await?)
}

/// Why this list does not touch a migration, if it does not.
fn left_alone(work: &Work, migration: &Migration, is_ours: bool) -> Option<&'static str> {
    let by_itself = !is_ours && work.order.begun == Begun::LeftAlone;
    match (work.order.ending, migration.status) {
        (Ending::CommitOrReset, Status::DryRun) => {
            Some("C2S-4111: it is live; MIGRATE --finish and COMMIT it by itself, or list it with --live")
        }
        (Ending::Live, Status::InProgress) => {
            Some("C2S-4112: it is in progress with submissions off; `unfinish` takes it back to live")
        }
        _ if by_itself => {
            Some("C2S-4113: migration is in progress, begun by a command of its own; --resume goes on with it")
        }
        _ => None,
    }
}

async fn run(work: &Work, domain: &Domain, mode: Mode, stop: &CancellationToken) -> Result<Run> {
    let weight = work.order.priority.weight();
    run_listed(
        &work.context,
        domain,
        &mode.into(),
        weight,
        &work.transport,
        stop.clone(),
    )
    .await
}

/// What a run came to that did not go through all phases.
fn ended_early(run: &Run) -> Option<Became> {
    match run.state {
        RunState::Finished => None,
        RunState::Stopped => Some(Became::Stopped),
        RunState::Failed => Some(Became::Failed {
            code: "C2S-4009".to_owned(),
            what: run.outcome.clone().unwrap_or_else(|| "the run failed".to_owned()),
        }),
        RunState::Queued | RunState::Running | RunState::Stopping => Some(Became::Detached),
    }
}

/// What to do with a domain that cannot be committed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Otherwise {
    Reset,
    Unfinish,
    Leave,
}

async fn commit_or(
    work: &Work,
    domain: &Domain,
    whose: Whose,
    counts: &mut Option<Counts>,
    otherwise: Otherwise,
) -> Result<Became> {
    let context = &work.context;
    *counts = Some(counted(work, domain).await?);
    let accepted = match work.order.strictness {
        Strictness::Usual => Accepted::differences_of_deleted_cases(),
        Strictness::Strict => Accepted::default(),
    };
    match commit::commit(context, domain, &accepted, whose, Confirmation::Given).await {
        Ok(ended) => Ok(committed(ended)),
        Err(refusal) if commit::NOT_CLEAN.contains(&refusal.code) => {
            eprintln!("{domain}: {refusal}");
            Ok(Became::Differences(match otherwise {
                Otherwise::Reset => {
                    reset::reset(context, domain, whose, Confirmation::Given).await?;
                    AfterDifferences::Reset
                }
                Otherwise::Unfinish => {
                    unfinish::unfinish(context, domain).await?;
                    AfterDifferences::TakenBackToLive
                }
                Otherwise::Leave => AfterDifferences::LeftAsItIs,
            }))
        }
        Err(failure) => Err(failure),
    }
}

/// What a COMMIT came to that was carried out: it is on SQL, but forms may have come to Couch late.
fn committed(ended: Exit) -> Became {
    if ended == Exit::Clean {
        return Became::Migrated;
    }
    Became::Failed {
        code: "C2S-4045".to_owned(),
        what: "on SQL, but forms reached Couch after the last scan; see `stats`".to_owned(),
    }
}

/// The columns of `stats` for the domain, as they are now: a reset forgets them.
async fn counted(work: &Work, domain: &Domain) -> Result<Counts> {
    let state = &work.context.state;
    let migration = crate::commands::migration_of(&work.context, domain).await?;
    let obstacles = state.obstacles(migration.id).await?;
    Ok(Counts {
        types: state.type_stats(migration.id).await?,
        pending: obstacles.undiffed,
        errors: obstacles.errors.iter().map(|(_, count)| count).sum(),
    })
}
