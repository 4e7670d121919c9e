//! Commands on record, and processes that are alive.

use chrono::{DateTime, Utc};
use proto::ids::Domain;
use serde_json::Value;
use sqlx::{PgExecutor, Postgres, Row, Transaction};
use uuid::Uuid;

use crate::lists::USUAL_WEIGHT;
use crate::migration::DriverLease;
use crate::{MigrationId, State, StateError};

/// Outcome of a run that its operator has stopped.
pub const STOPPED: &str = "stopped by the operator; MIGRATE goes on from here";

/// Who gives a command.
#[derive(Clone, Debug)]
pub struct Operator {
    /// Login name.
    pub who: String,
    /// Host.
    pub host: String,
    /// Process.
    pub pid: i32,
}

/// What came of asking a run to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopping {
    /// There is none that is open.
    NoRun,
    /// Its driver was asked to end it.
    Asked,
    /// It had no driver, and has ended.
    Ended,
}

/// For whom a run is put on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Giver {
    /// The domain's own command.
    Command,
    /// A list of domains.
    List {
        /// Weight of the domain among those that are driven at the same time.
        weight: i16,
    },
}

/// State of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Waits for a driver.
    Queued,
    /// A driver works on it.
    Running,
    /// An operator asked it to stop; the driver ends it after the batches in flight.
    Stopping,
    /// It went through all phases.
    Finished,
    /// It ended with an error that the outcome tells.
    Failed,
    /// It was stopped.
    Stopped,
}

impl RunState {
    fn parse(text: &str) -> Result<Self, StateError> {
        let known = Self::ALL.into_iter().find(|state| state.as_str() == text);
        known.ok_or(StateError::Corrupt("run state"))
    }

    const ALL: [Self; 6] = [
        Self::Queued,
        Self::Running,
        Self::Stopping,
        Self::Finished,
        Self::Failed,
        Self::Stopped,
    ];

    /// Its name in the state schema.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }

    /// Whether nothing more will happen to it.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Stopped)
    }
}

/// A command on record.
#[derive(Clone, Debug)]
pub struct Run {
    /// Key.
    pub id: i64,
    /// Domain.
    pub domain: Domain,
    /// Arguments of the command.
    pub arguments: Value,
    /// State.
    pub state: RunState,
    /// What came of it, for people.
    pub outcome: Option<String>,
    /// Who gave it.
    pub operator: Operator,
    /// When.
    pub queued_at: DateTime<Utc>,
    /// Whether a list of domains gave it.
    pub from_list: bool,
}

impl State {
    /// Puts a MIGRATE on record, unless one is open already for the domain: then that one is returned, with `false`.
    ///
    /// # Errors
    /// Database errors.
    pub async fn queue_run(
        &self,
        id: MigrationId,
        command: &str,
        arguments: &Value,
        operator: &Operator,
    ) -> Result<(Run, bool), StateError> {
        self.queue_run_of(id, command, arguments, operator, Giver::Command)
            .await
    }

    /// As [`State::queue_run`], and on record for whom.
    ///
    /// # Errors
    /// Database errors.
    pub async fn queue_run_of(
        &self,
        id: MigrationId,
        command: &str,
        arguments: &Value,
        operator: &Operator,
        giver: Giver,
    ) -> Result<(Run, bool), StateError> {
        let (from_list, weight) = match giver {
            Giver::Command => (false, USUAL_WEIGHT),
            Giver::List { weight } => (true, weight),
        };
        let mut tx = self.pool.begin().await?;
        // The row lock makes two commands at once see each other's run. Not `for update`, which would wait for workers.
        sqlx::query("select id from migration where id = $1 for no key update")
            .bind(id.0)
            .execute(&mut *tx)
            .await?;
        let open: Option<i64> = sqlx::query_scalar(
            "select id from run where migration_id = $1 and state in ('queued', 'running', 'stopping') order by id limit 1",
        )
        .bind(id.0)
        .fetch_optional(&mut *tx)
        .await?;
        let (run_id, new) = match open {
            Some(run_id) => {
                // A list that is run again may have other priorities; a command's own run has the usual weight.
                if from_list {
                    sqlx::query("update run set weight = $2 where id = $1 and from_list")
                        .bind(run_id)
                        .bind(weight)
                        .execute(&mut *tx)
                        .await?;
                }
                (run_id, false)
            }
            None => {
                let run_id: i64 = sqlx::query_scalar(
                    "insert into run (migration_id, command, arguments, who, host, pid, from_list, weight)
                     values ($1, $2, $3::jsonb, $4, $5, $6, $7, $8) returning id",
                )
                .bind(id.0)
                .bind(command)
                .bind(arguments.to_string())
                .bind(&operator.who)
                .bind(&operator.host)
                .bind(operator.pid)
                .bind(from_list)
                .bind(weight)
                .fetch_one(&mut *tx)
                .await?;
                (run_id, true)
            }
        };
        tx.commit().await?;
        Ok((self.run(run_id).await?, new))
    }

    /// A run by its key.
    ///
    /// # Errors
    /// Database errors.
    pub async fn run(&self, run_id: i64) -> Result<Run, StateError> {
        let row = sqlx::query(
            "select r.id, m.domain, r.arguments::text as arguments, r.state, r.outcome, r.who, r.host, r.pid, r.queued_at, r.from_list
             from run r join migration m on m.id = r.migration_id where r.id = $1",
        )
        .bind(run_id)
        .fetch_one(&self.pool)
        .await?;
        run_from(&row)
    }

    /// The state of a run alone: its arguments may name any number of forms.
    ///
    /// # Errors
    /// Database errors.
    pub async fn run_state(&self, run_id: i64) -> Result<RunState, StateError> {
        let state: String = sqlx::query_scalar("select state from run where id = $1")
            .bind(run_id)
            .fetch_one(&self.pool)
            .await?;
        RunState::parse(&state)
    }

    /// The run of a migration that is not over.
    ///
    /// # Errors
    /// Database errors.
    pub async fn open_run(&self, id: MigrationId) -> Result<Option<Run>, StateError> {
        let run_id: Option<i64> = sqlx::query_scalar(
            "select id from run where migration_id = $1 and state in ('queued', 'running', 'stopping') order by id limit 1",
        )
        .bind(id.0)
        .fetch_optional(&self.pool)
        .await?;
        Ok(match run_id {
            Some(run_id) => Some(self.run(run_id).await?),
            None => None,
        })
    }

    /// Runs that are not over and whose domain nobody drives: for `serve` to adopt, those of the greatest weight first.
    ///
    /// # Errors
    /// Database errors.
    pub async fn orphaned_runs(&self) -> Result<Vec<Run>, StateError> {
        let rows = sqlx::query(
            "select r.id, m.domain, r.arguments::text as arguments, r.state, r.outcome, r.who, r.host, r.pid, r.queued_at, r.from_list
             from run r join migration m on m.id = r.migration_id
             where r.state in ('queued', 'running', 'stopping') and (m.driver_until is null or m.driver_until <= now())
             order by r.weight desc, r.id",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(run_from).collect()
    }

    /// Records the state of a run. A run that is over stays as it is, and one that was asked to stop does not run on.
    ///
    /// # Errors
    /// Database errors.
    pub async fn set_run_state(&self, run_id: i64, state: RunState, outcome: Option<&str>) -> Result<(), StateError> {
        put_state(&self.pool, run_id, state, outcome).await.map(drop)
    }

    /// Records that a run is being driven. False when it is over: nobody is to drive it any more.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn begin_run(&self, held: &DriverLease, run_id: i64) -> Result<bool, StateError> {
        let mut tx = self.driver_tx(held).await?;
        let is_open = put_state(&mut *tx, run_id, RunState::Running, None).await?;
        tx.commit().await?;
        Ok(is_open)
    }

    /// As [`State::set_run_state`], by the run's driver, and only while it is that.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn end_run(
        &self,
        held: &DriverLease,
        run_id: i64,
        state: RunState,
        outcome: &str,
    ) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        put_state(&mut *tx, run_id, state, Some(outcome)).await?;
        Ok(tx.commit().await?)
    }

    /// As [`State::set_run_state`] for the end of a run, unless somebody drives its domain meanwhile: then that one leads it to
    /// its end. False: it does, or the run is over.
    ///
    /// # Errors
    /// Database errors.
    pub async fn end_undriven_run(&self, run_id: i64, state: RunState, outcome: &str) -> Result<bool, StateError> {
        let mut tx = self.pool.begin().await?;
        // Nobody takes the lease before this ends.
        let undriven: Option<i32> = sqlx::query_scalar(
            "select 1 from migration m join run r on r.migration_id = m.id
             where r.id = $1 and (m.driver_until is null or m.driver_until <= now()) for share of m",
        )
        .bind(run_id)
        .fetch_optional(&mut *tx)
        .await?;
        let ended = undriven.is_some() && put_state(&mut *tx, run_id, state, Some(outcome)).await?;
        tx.commit().await?;
        Ok(ended)
    }

    /// Asks the open run of a migration to stop. One that nobody drives ends at once, or whoever took it up later would begin
    /// it, and stop submissions, only to stop; unless it has to finish a commit, or its way back to live.
    ///
    /// # Errors
    /// Database errors.
    pub async fn stop_run(&self, id: MigrationId) -> Result<Stopping, StateError> {
        let mut tx = self.pool.begin().await?;
        // The row lock keeps drivers from taking the run up meanwhile.
        let is_idle: bool = sqlx::query_scalar(
            "select (driver_until is null or driver_until <= now()) and commit_step is null
                    and not exists (select from run r where r.migration_id = m.id and r.back_to_live_at is not null
                                    and r.state in ('queued', 'running', 'stopping'))
             from migration m where id = $1 for no key update",
        )
        .bind(id.0)
        .fetch_one(&mut *tx)
        .await?;
        let changed = if is_idle {
            end_open_runs(&mut tx, id, STOPPED).await?
        } else {
            sqlx::query(
                "update run set state = 'stopping'
                 where migration_id = $1 and state in ('queued', 'running', 'stopping')",
            )
            .bind(id.0)
            .execute(&mut *tx)
            .await?
            .rows_affected()
        };
        tx.commit().await?;
        Ok(match (changed, is_idle) {
            (0, _) => Stopping::NoRun,
            (_, true) => Stopping::Ended,
            (_, false) => Stopping::Asked,
        })
    }

    /// Ends the runs of a migration that are open: their driver is dead, since whoever asks for this holds the lease, and what
    /// they were to do is not to be done any more.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn end_runs(&self, held: &DriverLease, outcome: &str) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        end_open_runs(&mut tx, held.migration_id, outcome).await?;
        Ok(tx.commit().await?)
    }

    /// Whether a migration was ever live: a run of it since its start left submissions on. One that has begun with downtime and
    /// was never live has nothing that `unfinish` could take it back to.
    ///
    /// # Errors
    /// Database errors.
    pub async fn was_live(&self, id: MigrationId) -> Result<bool, StateError> {
        Ok(sqlx::query_scalar(
            "select exists (
                 select from run r join migration m on m.id = r.migration_id
                 where m.id = $1 and m.started_at is not null and (r.ended_at is null or r.ended_at >= m.started_at)
                   and (r.arguments->>'mode' = 'live' or r.cutoff is not null or r.back_to_live_at is not null))",
        )
        .bind(id.0)
        .fetch_one(&self.pool)
        .await?)
    }

    /// Says that a process is alive.
    ///
    /// # Errors
    /// Database errors.
    pub async fn heartbeat(&self, id: Uuid, kind: &str, operator: &Operator) -> Result<(), StateError> {
        sqlx::query(
            "insert into instance (id, kind, host, pid) values ($1, $2, $3, $4)
             on conflict (id) do update set seen_at = now()",
        )
        .bind(id)
        .bind(kind)
        .bind(&operator.host)
        .bind(operator.pid)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Says that a process has ended, and forgets those that have been silent for a day.
    ///
    /// # Errors
    /// Database errors.
    pub async fn sign_off(&self, id: Uuid) -> Result<(), StateError> {
        sqlx::query("delete from instance where id = $1 or seen_at < now() - interval '1 day'")
            .bind(id)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// How many processes of a kind were seen in the last ten seconds.
    ///
    /// # Errors
    /// Database errors.
    pub async fn alive(&self, kind: &str) -> Result<i64, StateError> {
        Ok(sqlx::query_scalar(
            "select count(*) from instance where kind = $1 and seen_at > now() - interval '10 seconds'",
        )
        .bind(kind)
        .fetch_one(&self.pool)
        .await?)
    }
}

/// False: the run is over, and stays as it is.
async fn put_state(
    executor: impl PgExecutor<'_>,
    run_id: i64,
    state: RunState,
    outcome: Option<&str>,
) -> Result<bool, StateError> {
    let put = sqlx::query(
        "update run set state = case when $2 = 'running' and state = 'stopping' then state else $2 end,
                outcome = coalesce($3, outcome),
                started_at = case when $2 = 'running' then coalesce(started_at, now()) else started_at end,
                ended_at = case when $4 then now() end
         where id = $1 and state in ('queued', 'running', 'stopping')",
    )
    .bind(run_id)
    .bind(state.as_str())
    .bind(outcome)
    .bind(state.is_over())
    .execute(executor)
    .await?;
    Ok(put.rows_affected() > 0)
}

pub(crate) async fn end_open_runs(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    outcome: &str,
) -> Result<u64, StateError> {
    let ended = sqlx::query(
        "update run set state = 'stopped', outcome = $2, ended_at = now()
         where migration_id = $1 and state in ('queued', 'running', 'stopping')",
    )
    .bind(id.0)
    .bind(outcome)
    .execute(&mut **tx)
    .await?;
    Ok(ended.rows_affected())
}

fn run_from(row: &sqlx::postgres::PgRow) -> Result<Run, StateError> {
    let state: String = row.try_get("state")?;
    let arguments: String = row.try_get("arguments")?;
    Ok(Run {
        id: row.try_get("id")?,
        domain: Domain::new(row.try_get::<String, _>("domain")?),
        arguments: serde_json::from_str(&arguments).map_err(|_| StateError::Corrupt("run arguments"))?,
        state: RunState::parse(&state)?,
        outcome: row.try_get("outcome")?,
        operator: Operator {
            who: row.try_get("who")?,
            host: row.try_get("host")?,
            pid: row.try_get("pid")?,
        },
        queued_at: row.try_get("queued_at")?,
        from_list: row.try_get("from_list")?,
    })
}
