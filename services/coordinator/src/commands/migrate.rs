//! `MIGRATE`: puts a run on record and follows it. If nobody drives the domain, this process does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::ids::Domain;
use serde_json::{Value, json};
use state::Status;
use state::run::{Giver, Run, RunState, STOPPED};
use tokio_util::sync::CancellationToken;

pub use super::chosen_forms::Forms;
use super::cutover::{BACK_TO_LIVE, Cutover};
use super::{forecast, human, stats};
use crate::context::Context;
use crate::display::ProgressDisplay;
use crate::domain_doc::DomainDoc;
use crate::driver::follow::is_asked;
use crate::driver::{Driven, MissingDocs, StopSignals, drive};
use crate::failure::{Exit, Failure, Result};
use crate::preflight;
use crate::rules::Mode;
use crate::transport::Transport;

/// Pause between two looks at a run.
const LOOK: Duration = Duration::from_millis(250);
/// How long a `serve` that is alive has to take a queued run before this process drives it.
const SERVE_GRACE: Duration = Duration::from_secs(5);

/// Whether to wait for the end of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Follow it.
    UntilEnd,
    /// `--detach`: leave it to `serve`.
    No,
}

/// When cases are compared, and whether they are patched then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaseDiff {
    /// `--case-diff=after`: when all forms are migrated.
    #[default]
    After,
    /// `--case-diff=patch`: then also forms that differences put in doubt are migrated, what differs is patched, and
    /// compared once more.
    Patch,
    /// `--case-diff=none`: they stay pending.
    None,
}

impl CaseDiff {
    const fn as_str(self) -> &'static str {
        match self {
            Self::After => "after",
            Self::Patch => "patch",
            Self::None => "none",
        }
    }
}

/// What a `MIGRATE` is asked to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Live, to the end, or as it is.
    pub mode: Mode,
    /// Forms that get a second chance.
    pub forms: Forms,
    /// Whether cases are compared and patched.
    pub case_diff: CaseDiff,
    /// How its downtime ends.
    pub cutover: Cutover,
    /// How documents that only one side has are looked for.
    pub missing_docs: MissingDocs,
    /// What a document with an error does to the run.
    pub on_error: OnError,
    /// What the run does first about what is on record.
    pub record: Record,
    /// What a live run does when it is through.
    pub then: Then,
}

/// What a live run does when it has been through all phases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Then {
    /// It ends.
    #[default]
    End,
    /// `--follow`: it stays and takes what changes, until it is stopped.
    Follow,
}

/// What a document with an error does to a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// It is recorded, and the run goes on.
    #[default]
    GoOn,
    /// `--stop-on-error`: the run ends, and goes on from there when MIGRATE is given again.
    Stop,
}

impl OnError {
    /// That of a run on record.
    pub(crate) fn of(run: &Run) -> Self {
        match run.arguments.get("stop_on_error") {
            Some(Value::Bool(true)) => Self::Stop,
            _ => Self::GoOn,
        }
    }
}

/// What a run does first about what is on record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Record {
    /// It goes on from there.
    #[default]
    Trusted,
    /// `--rebuild-state`: it is checked against both databases, and what does not agree is done again.
    Checked,
}

impl Record {
    /// That of a run on record.
    pub(crate) fn of(run: &Run) -> Self {
        match run.arguments.get("rebuild_state") {
            Some(Value::Bool(true)) => Self::Checked,
            _ => Self::Trusted,
        }
    }
}

impl Order {
    /// That of a run on record.
    pub(crate) fn of(run: &Run) -> Self {
        let text = |key: &str| run.arguments.get(key).and_then(Value::as_str).unwrap_or_default();
        let ways = [CaseDiff::After, CaseDiff::Patch, CaseDiff::None];
        Self {
            mode: Mode::parse(text("mode")).unwrap_or_default(),
            forms: Forms::of(run),
            case_diff: ways
                .into_iter()
                .find(|way| way.as_str() == text("case_diff"))
                .unwrap_or_default(),
            cutover: Cutover::of(run),
            on_error: OnError::of(run),
            record: Record::of(run),
            missing_docs: MissingDocs::of(run),
            then: if is_asked(run) { Then::Follow } else { Then::End },
        }
    }

    fn to_json(&self) -> Value {
        let mut arguments = json!({
            "mode": self.mode.as_str(), "forms": self.forms.to_json(), "case_diff": self.case_diff.as_str(),
            "missing_docs": self.missing_docs.as_str(), "stop_on_error": self.on_error == OnError::Stop,
            "rebuild_state": self.record == Record::Checked, "follow": self.then == Then::Follow,
        });
        self.cutover.add_to(&mut arguments);
        arguments
    }

    /// Patching migrates missing forms on its way; other forms are another order.
    fn check(&self) -> Result<()> {
        match (self.case_diff, &self.forms) {
            (CaseDiff::Patch, Forms::Ids(_)) => Err(Failure::new(
                "C2S-0120",
                "--case-diff=patch goes with --forms=missing only",
                "migrate these forms first, then run MIGRATE --patch",
            )),
            _ => Ok(()),
        }
    }
}

impl From<Mode> for Order {
    fn from(mode: Mode) -> Self {
        Self {
            mode,
            ..Self::default()
        }
    }
}

/// Migrates a domain.
///
/// # Errors
/// The refusal, or why the run failed.
pub async fn migrate(
    context: &Arc<Context>,
    domain: &Domain,
    order: &Order,
    wait: Wait,
    stop: CancellationToken,
) -> Result<Exit> {
    order.check()?;
    if wait == Wait::No && context.state.alive("serve").await? == 0 {
        return Err(Failure::new(
            "C2S-4008",
            "no `coordinator serve` is running, so that nobody would drive the run",
            "start one, or leave --detach out",
        ));
    }
    let transport = Transport::new(context);
    let migrated = Box::pin(migrate_by(&transport, context, domain, order, wait, stop)).await;
    transport.close().await;
    migrated
}

async fn migrate_by(
    transport: &Transport,
    context: &Arc<Context>,
    domain: &Domain,
    order: &Order,
    wait: Wait,
    stop: CancellationToken,
) -> Result<Exit> {
    let started = Instant::now();
    let status = Box::pin(may_begin(context, domain, order, Giver::Command, transport)).await?;
    // Not before everything else is known to be right: a finish that is refused leaves the domain followed.
    if order.mode == Mode::Finish && !Box::pin(end_following(context, domain, &stop)).await? {
        return Ok(Exit::Stopped);
    }
    let run = queue(context, domain, order, status, Giver::Command).await?;
    if wait == Wait::No {
        println!("run {} of {domain} is on record; see `stats`", run.id);
        return Ok(Exit::Clean);
    }
    let display = ProgressDisplay::start(context, domain).await?;
    let ended = follow(context, &run, transport, stop).await;
    display.finish().await;
    let ended = ended?;
    match ended.state {
        RunState::Finished => {
            let clean = stats::print_after_run(context, domain).await?;
            println!("{} in {}", ended.outcome.unwrap_or_default(), human(started.elapsed()));
            // What was accepted stays on record: it counts no more once the domain is on SQL.
            let done = match order.cutover.commit {
                None => clean,
                Some(_) => is_committed(context, domain).await?,
            };
            Ok(if done { Exit::Clean } else { Exit::Differences })
        }
        RunState::Stopped => {
            eprintln!("{domain}: {}", ended.outcome.unwrap_or_else(|| "stopped".to_owned()));
            Ok(Exit::Stopped)
        }
        RunState::Failed
            if ended
                .outcome
                .as_deref()
                .is_some_and(|why| why.starts_with(BACK_TO_LIVE)) =>
        {
            eprintln!("{domain}: {}", ended.outcome.unwrap_or_default());
            Ok(Exit::BackToLive)
        }
        RunState::Failed => Err(Failure::new(
            "C2S-4009",
            ended.outcome.unwrap_or_else(|| "the run failed".to_owned()),
            "",
        )),
        RunState::Queued | RunState::Running | RunState::Stopping => {
            eprintln!(
                "{domain}: the run goes on without this command; see `stats`, or end it with `coordinator stop {domain}`"
            );
            Ok(Exit::Stopped)
        }
    }
}

/// Whether the `COMMIT` that was asked for was carried out, and left no form behind.
async fn is_committed(context: &Context, domain: &Domain) -> Result<bool> {
    let migration = super::migration_of(context, domain).await?;
    let (late, _) = context.state.late_forms(migration.id, 0).await?;
    Ok(migration.status == Status::Complete && late == 0)
}

/// The checks that need no lease, so that a refusal changes nothing. Gives the status that the migration has.
async fn may_begin(
    context: &Arc<Context>,
    domain: &Domain,
    order: &Order,
    giver: Giver,
    transport: &Transport,
) -> Result<Status> {
    let doc = DomainDoc::read(&context.domains_db, domain).await?;
    let found = context.state.migration(domain).await?;
    preflight::allowed(context, domain, order.mode, &doc, found.as_ref())?;
    let status = preflight::status_of(found.as_ref());
    order.cutover.check(order.mode, status)?;
    let started = status != Status::NotStarted;
    if order.forms != Forms::AsFound && order.case_diff != CaseDiff::Patch && !started {
        return Err(Failure::new(
            "C2S-4006",
            format!("{domain} is not being migrated, so that none of its forms can be missing"),
            "start with MIGRATE",
        ));
    }
    if order.mode == Mode::Finish
        && let Some(migration) = &found
    {
        let ahead = forecast::of(context, migration).await?;
        if giver == Giver::Command {
            print!("{}", forecast::text(domain, &ahead));
        }
        if let Some(limit) = order.cutover.max_downtime {
            forecast::within(domain, &ahead, limit)?;
        }
    }
    transport.servers_are_there().await?;
    Ok(status)
}

/// Puts a run on record, or finds the one that is on.
async fn queue(context: &Arc<Context>, domain: &Domain, order: &Order, status: Status, giver: Giver) -> Result<Run> {
    let migration = context.state.ensure_migration(domain).await?;
    let (run, new) = context
        .state
        .queue_run_of(migration.id, "MIGRATE", &order.to_json(), &context.operator, giver)
        .await?;
    if !new {
        if matches!(giver, Giver::List { .. }) && !run.from_list {
            return Err(Failure::new(
                "C2S-4113",
                format!("run {} of {domain} was begun by a command of its own", run.id),
                "a list does not end what it has not begun; run the list again when that run is over",
            ));
        }
        // What is explicitly asked for: submissions on, or off.
        let elsewhere =
            order.mode != Mode::AsItIs && order.mode.leads_to(status) != Order::of(&run).mode.leads_to(status);
        let asks_for_more = elsewhere
            || order.mode == Mode::Finish
            || order.forms != Forms::AsFound
            || order.then == Then::Follow
            || order.case_diff != CaseDiff::After
            || order.missing_docs != MissingDocs::default()
            || order.cutover != Cutover::default()
            || order.on_error == OnError::Stop
            || order.record == Record::Checked;
        if asks_for_more && run.arguments != order.to_json() {
            return Err(Failure::new(
                "C2S-4056",
                format!(
                    "a run of {domain} is on that does not do what is asked for (run {})",
                    run.id
                ),
                "wait until it has ended (see `stats`), or stop it with `coordinator stop`; then give the command again",
            ));
        }
        eprintln!(
            "{domain} is being migrated already: run {} of {}@{} (pid {}), since {}; following it",
            run.id,
            run.operator.who,
            run.operator.host,
            run.operator.pid,
            run.queued_at.format("%Y-%m-%d %H:%M:%S UTC")
        );
    }
    Ok(run)
}

/// Puts a run of a domain of a list on record, and waits for its end; it shows nothing. Gives the run as it was last seen.
pub(crate) async fn run_listed(
    context: &Arc<Context>,
    domain: &Domain,
    order: &Order,
    weight: i16,
    transport: &Transport,
    stop: CancellationToken,
) -> Result<Run> {
    let giver = Giver::List { weight };
    let status = may_begin(context, domain, order, giver, transport).await?;
    let run = queue(context, domain, order, status, giver).await?;
    follow(context, &run, transport, stop).await
}

/// A finish ends a run that only follows: asks it to stop, and waits until it has. False when the operator stops that.
async fn end_following(context: &Arc<Context>, domain: &Domain, stop: &CancellationToken) -> Result<bool> {
    let Some(migration) = context.state.migration(domain).await? else {
        return Ok(true);
    };
    let Some(run) = context.state.open_run(migration.id).await?.filter(is_asked) else {
        return Ok(true);
    };
    eprintln!("{domain} is followed by run {}; it is stopped", run.id);
    context.state.stop_run(migration.id).await?;
    while !context.state.run_state(run.id).await?.is_over() {
        let driven = context.state.migration(domain).await?.and_then(|now| now.driver);
        if driven.is_none() {
            // Its driver died: there is nobody to end it.
            let outcome = "stopped by MIGRATE --finish";
            context
                .state
                .end_undriven_run(run.id, RunState::Stopped, outcome)
                .await?;
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(false),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    // The driver gives its lease back a moment later.
    Ok(true)
}

/// Waits for the end of a run, and drives it when nobody else does. Gives the run as it was last seen.
async fn follow(context: &Arc<Context>, run: &Run, transport: &Transport, stop: CancellationToken) -> Result<Run> {
    let state = &context.state;
    let started = Instant::now();
    loop {
        if state.run_state(run.id).await?.is_over() {
            return state.run(run.id).await.map_err(Failure::from);
        }
        let driven = state
            .migration(&run.domain)
            .await?
            .is_some_and(|migration| migration.driver.is_some());
        let served = state.alive("serve").await? > 0 && started.elapsed() < SERVE_GRACE;
        if !driven && !served {
            if stop.is_cancelled() {
                state.end_undriven_run(run.id, RunState::Stopped, STOPPED).await?;
                continue;
            }
            drive_here(context, run, transport, &stop).await?;
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => return state.run(run.id).await.map_err(Failure::from),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Drives the run in this process; with the in-process broker, the workers are here too.
async fn drive_here(context: &Arc<Context>, run: &Run, transport: &Transport, stop: &CancellationToken) -> Result<()> {
    let broker = match transport.broker().await {
        Ok(broker) => broker,
        Err(failure) => {
            // Nobody is to take the run up long after its operator has read that it failed.
            let outcome = failure.to_string();
            let ended = context
                .state
                .end_undriven_run(run.id, RunState::Failed, &outcome)
                .await?;
            return if ended { Err(failure) } else { Ok(()) };
        }
    };
    let signals = StopSignals {
        operator: stop.clone(),
        ..StopSignals::default()
    };
    match drive(context, broker, run, signals).await? {
        Driven::Busy => tokio::time::sleep(LOOK).await,
        Driven::Finished | Driven::Stopped | Driven::LeftForOthers => {}
    }
    Ok(())
}
