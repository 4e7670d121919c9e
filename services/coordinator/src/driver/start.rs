//! The start of a run: preflight, reconciliation with what HQ and the target say, and HQ's progress flag.

use chrono::{DateTime, Utc};
use hqsql::Status as HqStatus;
use serde_json::Value;
use state::Status;
use state::run::Run;

use super::{Driver, Step};
use crate::domain_doc::DomainDoc;
use crate::failure::{Failure, Result};
use crate::preflight;
use crate::rules::Mode;

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
        let ours = self.migration.status;
        preflight::allowed(context, domain, mode, &doc, Some(&self.migration))?;
        preflight::view(context).await?;
        preflight::tables(context).await?;
        preflight::flag(context, domain, ours).await?;
        preflight::fence(context, domain, self.migration.epoch).await?;

        let first = ours == Status::NotStarted;
        if first {
            preflight::no_rows(context, domain).await?;
            super::blob_check::check(self).await?;
        }
        let status = mode.leads_to(self.migration.status);
        let options = context.domain_options(domain).to_json();
        let info = context.forms_db.info().await?;
        let cutoff = if status == Status::DryRun {
            Some(self.cutoff_at(info.date)?)
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
        context
            .target
            .open_fence(&self.claim(), domain, self.migration.epoch)
            .await?;
        Ok(cutoff)
    }

    /// What is younger than the minimum age by the source's own clock may still change, or not be in its view yet.
    pub(super) fn cutoff_at(&self, source_clock: Option<DateTime<Utc>>) -> Result<DateTime<Utc>> {
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
        let claim = self.claim();
        match (found, status) {
            (HqStatus::InProgress, Status::DryRun) => context.target.set_unfinished(&claim, domain, now).await?,
            (_, Status::DryRun) => {
                context
                    .target
                    .set_started(&claim, domain, HqStatus::DryRun, now)
                    .await?;
            }
            _ => {
                context
                    .target
                    .set_started(&claim, domain, HqStatus::InProgress, now)
                    .await?;
            }
        }
        context.tell_hq(domain).await
    }
}
