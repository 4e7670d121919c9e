//! The start of a run: preflight, reconciliation with what HQ and the target say, and HQ's progress flag.

use hqsql::Status as HqStatus;
use state::Status;

use super::{Driver, Step, scan};
use crate::domain_doc::DomainDoc;
use crate::failure::{Failure, Result};
use crate::rules::{Command, Situation, allow};

impl Driver {
    /// Checks everything before anything is changed, then opens the domain for the workers.
    pub(super) async fn start(&self) -> Step<()> {
        let context = &self.context;
        let domain = &self.migration.domain;
        let doc = DomainDoc::read(&context.domains_db, domain).await?;
        allow(
            Command::Migrate,
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
        let status = if first {
            Status::InProgress
        } else {
            self.migration.status
        };
        let options = context.domain_options(domain).to_json();
        let seq = context.forms_db.info().await?.update_seq;
        context.state.mark_started(&self.lease, status, &seq, &options).await?;
        self.set_hq_flag().await?;
        context.state.mark_progress_set(&self.lease).await?;
        context.target.open_fence(domain, self.migration.epoch).await?;
        Ok(())
    }

    /// Sets HQ's progress flag, if it is not set, and tells HQ's caches.
    async fn set_hq_flag(&self) -> Result<()> {
        let context = &self.context;
        let domain = &self.migration.domain;
        if context.target.progress(domain).await?.status == HqStatus::NotStarted {
            context
                .target
                .set_started(domain, HqStatus::InProgress, context.state.now().await?)
                .await?;
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
            // A start that died between our record and HQ's flag is mended by setting the flag.
            Status::InProgress => !matches!(hq, HqStatus::InProgress | HqStatus::NotStarted),
            Status::DryRun => !matches!(hq, HqStatus::DryRun | HqStatus::NotStarted),
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
