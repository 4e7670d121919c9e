//! The steps of a commit, by a command or by the driver at the end of its run.
//!
//! 1. intent: the decision and the revision of the Domain document are on record;
//! 2. fenced: the target's fences are closed, so that no worker can write any more; a snapshot of the domain's rows is taken,
//!    by which the commit can be taken back for a while;
//! 3. switched: the Domain document says SQL. HQ's caches are told, and given the time they need;
//! 4. done: HQ's progress rows say complete.
//!
//! Until the Domain document is written nobody but us knows of the commit: what fails until then, or is not done in time, is
//! taken back at once, and everything is as it was. From the switch on some of HQ's processes may work with SQL, and only
//! forward is left.

use std::time::Duration;

use hqsql::Claim;
use proto::doctype::DocType;
use proto::ids::Domain;
use serde_json::json;
use service::names;
use state::migration::{CommitStep, DriverLease, Migration};
use state::run::Operator;
use tokio::time::Instant;

use super::commit::{Accepted, check};
use super::{human, snapshot, unchanged};
use crate::claim::Leased;
use crate::context::Context;
use crate::domain_doc::DomainDoc;
use crate::driver::{ids, scan_page_after};
use crate::failure::{Failure, Result};

/// Forms of the list of late ones at most.
pub(super) const LATE_LISTED: usize = 20;
/// Attempts to write a Domain document that others write too.
const SWITCH_ATTEMPTS: usize = 5;

/// The commit has begun, and could neither go on nor be taken back.
pub(crate) const UNDECIDED: &str = "C2S-4145";
/// The commit has failed behind its switch.
pub(crate) const BEHIND_THE_SWITCH: &str = "C2S-4146";

/// A commit that may be carried out.
pub(crate) struct Committing<'a> {
    pub(crate) context: &'a Context,
    /// As it is since the lease was taken.
    pub(crate) migration: &'a Migration,
    pub(crate) lease: &'a DriverLease,
    pub(crate) operator: &'a Operator,
}

/// What came of taking a commit back.
enum TakenBack {
    /// All is as it was before.
    Done,
    /// The Domain document says SQL: it is too late.
    TooLate,
}

impl Committing<'_> {
    /// Checks, unless the decision is on record already, and carries it out; the switch must be reached within the time, if
    /// there is one. Gives the number of late forms.
    ///
    /// # Errors
    /// [`UNDECIDED`] and [`BEHIND_THE_SWITCH`] when the commit is open; with any other the commit has not begun, or was
    /// taken back.
    pub(crate) async fn run(&self, accepted: &Accepted, time: Option<Duration>) -> Result<usize> {
        let state = &self.context.state;
        // All was done before whoever did it died.
        if self.migration.commit_step == Some(CommitStep::Done) {
            let (late, _) = state.late_forms(self.migration.id, 0).await?;
            return Ok(usize::try_from(late).unwrap_or(usize::MAX));
        }
        if self.migration.commit_step < Some(CommitStep::Switched) {
            let switched = Box::pin(self.up_to_the_switch(accepted, time)).await;
            if let Err(failure) = switched {
                return Err(Box::pin(self.give_up(failure)).await);
            }
        }
        Box::pin(self.behind_the_switch()).await.map_err(behind_the_switch)
    }

    async fn up_to_the_switch(&self, accepted: &Accepted, time: Option<Duration>) -> Result<()> {
        let (context, domain) = (self.context, &self.migration.domain);
        // Who died in the middle may have written the document.
        let is_switched =
            self.migration.commit_step.is_some() && DomainDoc::read(&context.domains_db, domain).await?.is_on_sql();
        if !is_switched {
            Box::pin(self.prepare(accepted, time.map(|time| Instant::now() + time))).await?;
        }
        switch_to_sql(context, self.lease, domain).await
    }

    /// Everything before the switch; none of it does harm when it is done again.
    async fn prepare(&self, accepted: &Accepted, until: Option<Instant>) -> Result<()> {
        let Self {
            context,
            migration,
            lease,
            operator,
        } = *self;
        let (state, domain) = (&context.state, &migration.domain);
        if migration.commit_step.is_none() {
            self.in_time(until, check(context, migration, accepted)).await?;
            let doc = DomainDoc::read(&context.domains_db, domain).await?;
            let detail = json!({ "accepted": accepted.kinds(), "accepted_differences": accepted.compared(), "domain_rev": doc.rev() });
            state.audit(domain, operator, "COMMIT", &detail).await?;
            state
                .set_commit_step(lease, CommitStep::Intent, Some(doc.rev()))
                .await?;
        }
        if migration.commit_step < Some(CommitStep::Fenced) {
            let claim = self.claim();
            let closing = context.target.close_fence(&claim, domain, migration.epoch);
            self.in_time(until, closing).await?;
            state.set_commit_step(lease, CommitStep::Fenced, None).await?;
        }
        // Nobody writes to the domain's rows now: not the workers, by the fences, and not HQ, which refuses submissions.
        self.in_time(until, snapshot::take(context, lease, migration)).await
    }

    /// Leaves what takes too long. The steps themselves are not left in the middle: what is on record must be known.
    async fn in_time(&self, until: Option<Instant>, work: impl Future<Output = Result<()>>) -> Result<()> {
        let Some(until) = until else {
            return work.await;
        };
        tokio::time::timeout_at(until, work).await.unwrap_or_else(|_| {
            Err(Failure::new(
                "C2S-4147",
                format!(
                    "the COMMIT of {} did not come to its switch in time",
                    self.migration.domain
                ),
                "it was taken back; give it more time",
            ))
        })
    }

    async fn behind_the_switch(&self) -> Result<usize> {
        let Self {
            context,
            migration,
            lease,
            ..
        } = *self;
        let (state, domain) = (&context.state, &migration.domain);
        if migration.commit_step < Some(CommitStep::Switched) {
            context.tell_hq(domain).await?;
            state.set_commit_step(lease, CommitStep::Switched, None).await?;
        }
        settle(context, domain, state.switched_for(migration.id).await?).await?;
        let time_zones = !context.target.time_zones_are_complete(domain).await?;
        state.note_time_zones(lease, time_zones).await?;
        context
            .target
            .set_complete(&self.claim(), domain, state.now().await?)
            .await?;
        context.tell_hq(domain).await?;
        let late = record_late_forms(context, migration).await?;
        let late = late.len() + unchanged::record_late_changes(context, migration, &late).await?;
        // Before the last step, so that a crash does not swallow it; it may be run twice instead.
        context.tell_staff(domain).await;
        state.set_commit_step(lease, CommitStep::Done, None).await?;
        Ok(late)
    }

    /// Takes back what has failed before the switch. Gives the failure to tell.
    async fn give_up(&self, failure: Failure) -> Failure {
        if failure.is_lost_lease() {
            return failure;
        }
        match self.take_back().await {
            Ok(TakenBack::Done) => failure,
            Ok(TakenBack::TooLate) => behind_the_switch(failure),
            Err(lost) if lost.is_lost_lease() => lost,
            Err(why) => Failure::new(
                UNDECIDED,
                format!("{failure}; and the COMMIT could not be taken back: {why}"),
                "HQ refuses submissions until COMMIT is run again to finish it, or COMMIT --abort and then `unfinish`",
            ),
        }
    }

    async fn take_back(&self) -> Result<TakenBack> {
        let (context, domain) = (self.context, &self.migration.domain);
        let now = super::migration_of(context, domain).await?;
        if now.commit_step.is_none() {
            return Ok(TakenBack::Done);
        }
        if DomainDoc::read(&context.domains_db, domain).await?.is_on_sql() {
            return Ok(TakenBack::TooLate);
        }
        // A request to write it that got lost may still arrive: it must meet another revision.
        switch_to_couch(context, &self.claim(), domain).await?;
        context.target.open_fence(&self.claim(), domain, now.epoch).await?;
        context.state.clear_commit(self.lease).await?;
        context
            .state
            .audit(domain, self.operator, "COMMIT taken back", &json!({}))
            .await?;
        Ok(TakenBack::Done)
    }

    fn claim(&self) -> Leased<'_> {
        Leased {
            state: &self.context.state,
            lease: self.lease,
        }
    }
}

fn behind_the_switch(failure: Failure) -> Failure {
    if failure.is_lost_lease() {
        return failure;
    }
    Failure::new(
        BEHIND_THE_SWITCH,
        format!("the Domain document was switched to SQL, and the rest of the COMMIT failed: {failure}"),
        "only forward is left, and HQ refuses submissions until then: mend the cause, and run COMMIT again",
    )
}

/// Writes the Domain document against the revision that is on record. When HQ has changed something else in it meanwhile,
/// the new revision goes on record first, which only the holder of the lease can do: a command that was stopped for long
/// and continued after an abort cannot switch the domain.
async fn switch_to_sql(context: &Context, lease: &DriverLease, domain: &Domain) -> Result<()> {
    for _ in 0..SWITCH_ATTEMPTS {
        let doc = DomainDoc::read(&context.domains_db, domain).await?;
        if doc.is_on_sql() {
            return Ok(());
        }
        context
            .state
            .set_commit_step(lease, CommitStep::Fenced, Some(doc.rev()))
            .await?;
        match doc.switch(&context.domains_db, true).await {
            Err(couch::Error::Conflict) => {}
            other => return Ok(other?),
        }
    }
    Err(keeps_changing(domain))
}

/// Writes the Domain document to say Couch, even if it does: its revision moves, so that a COMMIT that was stopped cannot
/// go on with what it had read. Each revision that is read is written only by who holds the lease after that: whoever was
/// suspended before, and has lost it, meets another revision.
pub(super) async fn switch_to_couch(context: &Context, claim: &Leased<'_>, domain: &Domain) -> Result<()> {
    for _ in 0..SWITCH_ATTEMPTS {
        let doc = DomainDoc::read(&context.domains_db, domain).await?;
        claim.check().await?;
        match doc.switch(&context.domains_db, false).await {
            Err(couch::Error::Conflict) => {}
            other => return Ok(other?),
        }
    }
    Err(keeps_changing(domain))
}

fn keeps_changing(domain: &Domain) -> Failure {
    Failure::new(
        "C2S-4043",
        format!("the Domain document of {domain} keeps changing"),
        "run the command again",
    )
}

/// HQ's processes may go by what they have cached for a while, of which some is over already.
pub(super) async fn wait_for_caches(context: &Context, domain: &Domain, over: Duration) {
    let wait = context.config.hq.cache_wait().saturating_sub(over);
    if !wait.is_zero() {
        eprintln!(
            "waiting {} for HQ's caches of {domain}; submissions stay blocked until then",
            human(wait)
        );
        tokio::time::sleep(wait).await;
    }
}

/// HQ's processes may hold the old Domain document for a while: the progress flag blocks submissions until that is over.
async fn settle(context: &Context, domain: &Domain, switched: Duration) -> Result<()> {
    wait_for_caches(context, domain, switched).await;
    // The switch must have been seen by whoever reads Couch afterwards.
    if DomainDoc::read(&context.domains_db, domain).await?.is_on_sql() {
        return Ok(());
    }
    Err(Failure::new(
        "C2S-4044",
        format!("the Domain document of {domain} says Couch again"),
        "find out who wrote it, then run COMMIT again",
    ))
}

/// Forms that the view lists after the place where the last scan ended, as (type, id).
pub(super) async fn late_forms(context: &Context, migration: &Migration) -> Result<Vec<(String, String)>> {
    let mut late = Vec::new();
    for (doc_type, cursor) in context.state.form_cursors(migration.id, DocType::FORMS).await? {
        let page = scan_page_after(context, &migration.domain, doc_type, &cursor, LATE_LISTED).await?;
        let rows = page.rows.iter();
        late.extend(rows.map(|row| (doc_type.as_str().to_owned(), ids::on_record(&row.id))));
    }
    Ok(late)
}

/// Raises the alarm when forms have reached Couch too late: on record, where `stats` shows it, in the log, and as a metric.
async fn record_late_forms(context: &Context, migration: &Migration) -> Result<Vec<(String, String)>> {
    let late = late_forms(context, migration).await?;
    if late.is_empty() {
        return Ok(late);
    }
    context.state.record_late_forms(migration.id, &late).await?;
    metrics::counter!(names::LATE_FORMS).increment(u64::try_from(late.len()).unwrap_or(u64::MAX));
    tracing::error!(
        code = "C2S-4045",
        forms = late.len(),
        "forms reached Couch after the domain was switched"
    );
    let ids: Vec<&str> = late.iter().take(LATE_LISTED).map(|(_, id)| id.as_str()).collect();
    eprintln!(
        "C2S-4045: {} or more forms reached Couch after the last scan; they are not in SQL: {}",
        late.len(),
        ids.join(", ")
    );
    Ok(late)
}
