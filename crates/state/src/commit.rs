//! What stands against a commit, and the steps of one.

use std::time::Duration;

use sqlx::Row;

use crate::migration::{CommitStep, DriverLease, held_update};
use crate::{MigrationId, State, StateError};

/// Everything that stands against a commit, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Obstacles {
    /// Open batches.
    pub open_batches: i64,
    /// Batches set aside.
    pub parked: i64,
    /// Cases with inputs that were not replayed.
    pub dirty: i64,
    /// Cases not compared at their last generation.
    pub undiffed: i64,
    /// Documents with an error, by kind.
    pub errors: Vec<(String, i64)>,
    /// Documents with diffs, by kind.
    pub diffs: Vec<(String, i64)>,
    /// Documents with changes, by kind.
    pub changes: Vec<(String, i64)>,
    /// Missing documents, by kind.
    pub missing: Vec<(String, i64)>,
    /// Staged effects of other rules than those of this program.
    pub other_rules: i64,
    /// Records set aside by rules of the operator that are no more: their removal was interrupted.
    pub without_rule: i64,
}

impl State {
    /// What stands against a commit.
    ///
    /// # Errors
    /// Database errors.
    pub async fn obstacles(&self, id: MigrationId) -> Result<Obstacles, StateError> {
        // Open batches first: one that ends after this look may make cases dirty, and those are looked at afterwards.
        let row = sqlx::query(
            "select (select count(*) from batch where migration_id = $1 and state in ('ready', 'claimed')) as open,
                    (select count(*) from batch where migration_id = $1 and state = 'parked') as parked,
                    (select count(*) from staged_update where migration_id = $1 and (rules < $2 or rules > $2)) as other_rules,
                    (select count(*) from ignored_diff i where i.migration_id = $1 and not exists (
                         select from operator_rule r where r.migration_id = $1 and r.name = i.rule)) as without_rule",
        )
        .bind(id.0)
        .bind(proto::effects::RULES_VERSION)
        .fetch_one(&self.pool)
        .await?;
        let (dirty, undiffed) = self.pending_cases(id).await?;
        let counts: Vec<(String, String, i64)> = sqlx::query_as(
            "select 'error' as what, kind, count(*) from doc_error where migration_id = $1 group by kind
             union all select 'diff', kind, count(*) from doc_diff where migration_id = $1 group by kind
             union all select 'change', kind, count(*) from doc_change where migration_id = $1 group by kind
             union all select 'missing', kind, count(*) from missing_doc where migration_id = $1 group by kind
             order by what, kind",
        )
        .bind(id.0)
        .fetch_all(&self.pool)
        .await?;
        let by_kind = |what: &str| {
            let of_this = counts.iter().filter(|(counted, _, _)| counted == what);
            of_this.map(|(_, kind, count)| (kind.clone(), *count)).collect()
        };
        Ok(Obstacles {
            open_batches: row.try_get("open")?,
            parked: row.try_get("parked")?,
            dirty,
            undiffed,
            errors: by_kind("error"),
            diffs: by_kind("diff"),
            changes: by_kind("change"),
            missing: by_kind("missing"),
            other_rules: row.try_get("other_rules")?,
            without_rule: row.try_get("without_rule")?,
        })
    }

    /// Records a step of the commit, before the next one is taken. [`CommitStep::Done`] also completes the migration.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn set_commit_step(
        &self,
        held: &DriverLease,
        step: CommitStep,
        domain_rev: Option<&str>,
    ) -> Result<(), StateError> {
        held_update(
            &sqlx::query(
                "update migration
                 set commit_step = $4, commit_rev = coalesce($5, commit_rev),
                     status = case when $4 = 'done' then 'complete' else status end,
                     committed_at = case when $4 = 'done' then now() end,
                     switched_at = case when $4 in ('switched', 'done') then coalesce(switched_at, now()) end
                 where id = $1 and driver_token = $2 and epoch = $3",
            )
            .bind(held.migration_id.0)
            .bind(held.token)
            .bind(held.epoch.0)
            .bind(step.as_str())
            .bind(domain_rev)
            .execute(&self.pool)
            .await?,
        )
    }

    /// For how long the Domain document has been switched; zero before that is on record.
    ///
    /// # Errors
    /// Database errors.
    pub async fn switched_for(&self, id: MigrationId) -> Result<Duration, StateError> {
        let seconds: f64 = sqlx::query_scalar(
            "select coalesce(extract(epoch from now() - switched_at), 0)::float8 from migration where id = $1",
        )
        .bind(id.0)
        .fetch_one(&self.pool)
        .await?;
        Ok(Duration::try_from_secs_f64(seconds).unwrap_or_default())
    }

    /// Takes the intent back: only after the Domain document was written to say Couch.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn clear_commit(&self, held: &DriverLease) -> Result<(), StateError> {
        held_update(
            &sqlx::query(
                "update migration set commit_step = null, commit_rev = null, switched_at = null
                 where id = $1 and driver_token = $2 and epoch = $3 and status <> 'complete'",
            )
            .bind(held.migration_id.0)
            .bind(held.token)
            .bind(held.epoch.0)
            .execute(&self.pool)
            .await?,
        )
    }
}
