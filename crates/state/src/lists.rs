//! Lists of domains: who works on which domain of a list, what a list has begun, and fair shares among domains that are
//! driven at the same time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use proto::ids::Domain;
use sqlx::Row;
use uuid::Uuid;

use crate::{MigrationId, State, StateError};

/// Weight of a domain whose run says nothing else.
pub const USUAL_WEIGHT: i16 = 4;

/// Proof that this list works on the domain.
#[derive(Clone, Debug)]
pub struct ListedDomain {
    domain: Domain,
    token: Uuid,
}

/// What a list finds when it wants to begin a domain.
#[derive(Clone, Debug)]
pub enum Turn {
    /// It is this list's.
    Mine(ListedDomain),
    /// Another list works on it.
    Held {
        /// Name of the process.
        by: String,
    },
    /// Another list has ended it since this one began.
    Ended {
        /// Name of the process.
        by: String,
        /// What it has put on record.
        outcome: String,
    },
}

/// A domain's share of what is shared by the domains that are driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Weight of this one.
    pub own: i64,
    /// Weight of all, this one included.
    pub all: i64,
}

impl State {
    /// Takes a domain for a list that began at `began`, unless another list has it, or has ended it since.
    ///
    /// # Errors
    /// Database errors.
    pub async fn take_listed(
        &self,
        domain: &Domain,
        holder: &str,
        began: DateTime<Utc>,
        lease: Duration,
    ) -> Result<Turn, StateError> {
        let token = Uuid::new_v4();
        let taken: Option<Uuid> = sqlx::query_scalar(
            "insert into listed_domain as l (domain, token, holder, until)
             values ($1, $2, $3, now() + make_interval(secs => $4))
             on conflict (domain) do update
             set token = excluded.token, holder = excluded.holder, until = excluded.until, outcome = null, ended_at = null
             where l.until <= now() and (l.ended_at is null or l.ended_at < $5)
             returning token",
        )
        .bind(domain.as_str())
        .bind(token)
        .bind(holder)
        .bind(lease.as_secs_f64())
        .bind(began)
        .fetch_optional(&self.pool)
        .await?;
        if taken.is_some() {
            return Ok(Turn::Mine(ListedDomain {
                domain: domain.clone(),
                token,
            }));
        }
        let row = sqlx::query("select holder, outcome from listed_domain where domain = $1")
            .bind(domain.as_str())
            .fetch_one(&self.pool)
            .await?;
        let by = row.try_get("holder")?;
        Ok(match row.try_get("outcome")? {
            Some(outcome) => Turn::Ended { by, outcome },
            None => Turn::Held { by },
        })
    }

    /// Keeps a domain for another while.
    ///
    /// # Errors
    /// [`StateError::LostLease`] when another list has taken it.
    pub async fn keep_listed(&self, held: &ListedDomain, lease: Duration) -> Result<(), StateError> {
        let kept = sqlx::query(
            "update listed_domain set until = now() + make_interval(secs => $3) where domain = $1 and token = $2",
        )
        .bind(held.domain.as_str())
        .bind(held.token)
        .bind(lease.as_secs_f64())
        .execute(&self.pool)
        .await?
        .rows_affected();
        if kept == 1 { Ok(()) } else { Err(StateError::LostLease) }
    }

    /// Ends the work on a domain. Without an outcome, other lists take it as if nobody had had it.
    ///
    /// # Errors
    /// Database errors.
    pub async fn end_listed(&self, held: &ListedDomain, outcome: Option<&str>) -> Result<(), StateError> {
        sqlx::query(
            "update listed_domain set until = now(), outcome = $3, ended_at = case when $3 is not null then now() end
             where domain = $1 and token = $2",
        )
        .bind(held.domain.as_str())
        .bind(held.token)
        .bind(outcome)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Whether every run of a migration since its start was given by a list. A migration without any was not.
    ///
    /// # Errors
    /// Database errors.
    pub async fn begun_by_list(&self, id: MigrationId) -> Result<bool, StateError> {
        begun_by_list(&self.pool, id).await
    }

    /// The share of a domain among those that are driven now, but for those whose driver only waits. Its own weight is
    /// counted in any case.
    ///
    /// # Errors
    /// Database errors.
    pub async fn share(&self, id: MigrationId) -> Result<Share, StateError> {
        let row = sqlx::query(
            "select coalesce(sum(w.weight) filter (where m.id = $1), $2)::bigint as own,
                    coalesce(sum(w.weight) filter (where m.id <> $1), 0)::bigint as others
             from migration m
             cross join lateral (
                 select coalesce((select r.weight from run r
                                  where r.migration_id = m.id and r.state in ('queued', 'running', 'stopping')
                                  order by r.id limit 1), $2) as weight
             ) w
             where m.driver_until > now() and (m.id = $1 or m.phase not in ('idle', 'settle', 'finished'))",
        )
        .bind(id.0)
        .bind(USUAL_WEIGHT)
        .fetch_one(&self.pool)
        .await?;
        let own = row.try_get("own")?;
        let others: i64 = row.try_get("others")?;
        Ok(Share { own, all: own + others })
    }
}

pub(crate) async fn begun_by_list(executor: impl sqlx::PgExecutor<'_>, id: MigrationId) -> Result<bool, StateError> {
    Ok(sqlx::query_scalar(
        "select coalesce(bool_and(r.from_list), false) from run r join migration m on m.id = r.migration_id
         where m.id = $1 and (m.started_at is null or r.ended_at is null or r.ended_at >= m.started_at)",
    )
    .bind(id.0)
    .fetch_one(executor)
    .await?)
}
