//! The start of a run: preflight, reconciliation with what HQ and the target say, and HQ's progress flag.

use chrono::{DateTime, Utc};
use hqsql::Status as HqStatus;
use serde_json::Value;
use state::Status;
use state::run::Run;

use super::{Driver, Step, scan};
use crate::domain_doc::DomainDoc;
use crate::failure::{Failure, Result};
use crate::rules::{Command, Mode, Situation, allow};

impl Driver {
    /// Checks everything before anything is changed, then opens the domain for the workers. Gives the cut-off of the run, if
    /// it is a live one.
    pub(super) async fn start(&self, run: &Run) -> Step<Option<DateTime<Utc>>> {
        let context = &self.context;
        let domain = &self.migration.domain;
        let mode = run
            .arguments
            .get("mode")
            .and_then(Value::as_str)
            .and_then(Mode::parse)
            .unwrap_or_default();
        let doc = DomainDoc::read(&context.domains_db, domain).await?;
        allow(
            Command::Migrate(mode),
            Situation {
                migration: Some(&self.migration),
                on_sql: doc.is_on_sql(),
            },
        )?;
        context.forms_db.ensure_view(scan::DESIGN, scan::VIEW).await?;
        context.target.check_tables().await?;
        self.reconcile().await?;

        let first = self.migration.status == Status::NotStarted;
        if first && context.target.has_rows(domain).await? {
            return Err(Failure::new(
                "C2S-4020",
                format!(
                    "the target already holds forms or cases of {domain}, and this state schema knows nothing of them"
                ),
                "find out where they come from; `reset` deletes them",
            )
            .into());
        }
        if first {
            super::blob_check::check(self).await?;
        }
        let status = mode.leads_to(self.migration.status);
        let options = context.domain_options(domain).to_json();
        let info = context.forms_db.info().await?;
        let cutoff = if status == Status::DryRun {
            Some(self.cutoff(info.date)?)
        } else {
            None
        };
        context
            .state
            .mark_started(&self.lease, status, &info.update_seq, &options)
            .await?;
        let cutoff = context.state.set_cutoff(&self.lease, run.id, cutoff).await?;
        self.set_hq_flag(status).await?;
        context.state.mark_progress_set(&self.lease).await?;
        context.target.open_fence(domain, self.migration.epoch).await?;
        Ok(cutoff)
    }

    /// What is younger than the minimum age by the source's own clock may still change, or not be in its view yet.
    fn cutoff(&self, source_clock: Option<DateTime<Utc>>) -> Result<DateTime<Utc>> {
        let age = chrono::Duration::from_std(self.context.config.live.minimum_age).unwrap_or_default();
        source_clock.map(|now| now - age).ok_or_else(|| {
            Failure::new(
                "C2S-4055",
                "the source sends no date, by which a live migration knows what is too young",
                "check what stands between this program and CouchDB: it must let the header Date through",
            )
        })
    }

    /// Brings HQ's progress flag to this status, and tells HQ's caches.
    async fn set_hq_flag(&self, status: Status) -> Result<()> {
        let context = &self.context;
        let domain = &self.migration.domain;
        let found = context.target.progress(domain).await?.status;
        let now = context.state.now().await?;
        match (found, status) {
            (HqStatus::InProgress, Status::DryRun) => context.target.set_unfinished(domain, now).await?,
            (_, Status::DryRun) => context.target.set_started(domain, HqStatus::DryRun, now).await?,
            _ => context.target.set_started(domain, HqStatus::InProgress, now).await?,
        }
        context.tell_hq(domain).await
    }

    /// Stops when HQ's progress row, the target's fence and the state schema contradict each other: one of them was
    /// restored from a back-up, or somebody else migrates the domain.
    async fn reconcile(&self) -> Result<()> {
        let context = &self.context;
        let domain = &self.migration.domain;
        let hq = context.target.progress(domain).await?.status;
        let ours = self.migration.status;
        let contradicts = match ours {
            Status::NotStarted => hq != HqStatus::NotStarted,
            // A change of ours that died before it reached HQ's flag is mended by setting the flag.
            Status::InProgress | Status::DryRun => hq == HqStatus::Complete,
            Status::Complete => hq != HqStatus::Complete,
        };
        if contradicts {
            return Err(Failure::new(
                "C2S-4021",
                format!("HQ's progress row of {domain} says {hq}, the state schema says {ours}: needs_reconcile"),
                "another tool migrates this domain, or one side was restored from a back-up; find out before you go on",
            ));
        }
        if let Some((epoch, _)) = context.target.fence(domain).await?
            && epoch > self.migration.epoch
        {
            return Err(Failure::new(
                "C2S-4022",
                format!(
                    "the target's fence of {domain} is of epoch {epoch}, the state schema is at {}: needs_reconcile",
                    self.migration.epoch
                ),
                "the state schema is older than the target: it was restored from a back-up, or this is another one",
            ));
        }
        Ok(())
    }
}
