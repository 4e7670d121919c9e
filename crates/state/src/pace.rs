//! How fast the work of a migration went: measured by every run, and read by forecasts.

use std::fmt;

use proto::topology::Stage;
use sqlx::Row;

use crate::migration::DriverLease;
use crate::unusable::UNUSABLE_ID;
use crate::{MigrationId, State, StateError};

/// A kind of work whose time depends on a number of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Work {
    /// Forms and deleted cases are scanned and staged.
    Forms,
    /// Cases are replayed.
    Replay,
    /// The ids of the cases of both sides are put on record.
    List,
    /// Cases are compared.
    Diff,
    /// All documents of Couch are looked up.
    Missing,
    /// A commit takes down what the rows in SQL are.
    Snapshot,
}

impl Work {
    /// All of it, in the order in which a run and its commit do it.
    pub const ALL: [Self; 6] = [
        Self::Forms,
        Self::Replay,
        Self::List,
        Self::Diff,
        Self::Missing,
        Self::Snapshot,
    ];

    /// Its name in the state schema.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forms => "forms",
            Self::Replay => "replay",
            Self::List => "list",
            Self::Diff => "diff",
            Self::Missing => "missing",
            Self::Snapshot => "snapshot",
        }
    }

    /// The work of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|work| work.as_str() == text)
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// What was done.
    pub work: Work,
    /// With how many documents.
    pub documents: i64,
    /// In how many seconds.
    pub seconds: f64,
}

/// Measurements of each kind of work that count: the newest. What was measured long before says little of today's servers.
const RECENT: i64 = 12;
/// Snapshots of fewer documents that count, and of more: those nearest to the number in question say most.
const NEAREST: i64 = 4;

impl State {
    /// Puts a measurement on record.
    ///
    /// # Errors
    /// Database errors.
    pub async fn record_pace(&self, held: &DriverLease, run_id: Option<i64>, pace: Pace) -> Result<(), StateError> {
        sqlx::query("insert into pace (migration_id, run_id, work, documents, seconds) values ($1, $2, $3, $4, $5)")
            .bind(held.migration_id.0)
            .bind(run_id)
            .bind(pace.work.as_str())
            .bind(pace.documents)
            .bind(pace.seconds)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Measurements of snapshots of about so many documents. A domain is committed once: those of all domains count.
    ///
    /// # Errors
    /// Database errors.
    pub async fn snapshot_paces(&self, documents: i64) -> Result<Vec<Pace>, StateError> {
        let rows: Vec<(i64, f64)> = sqlx::query_as(
            "(select documents, seconds from pace where work = 'snapshot' and documents <= $1
              order by documents desc, id desc limit $2)
             union all
             (select documents, seconds from pace where work = 'snapshot' and documents > $1
              order by documents, id limit $2)",
        )
        .bind(documents)
        .bind(NEAREST)
        .fetch_all(&self.pool)
        .await?;
        let snapshot = |(documents, seconds)| Pace {
            work: Work::Snapshot,
            documents,
            seconds,
        };
        Ok(rows.into_iter().map(snapshot).collect())
    }

    /// The newest measurements of a migration's runs, of each kind of work, oldest first.
    ///
    /// # Errors
    /// Database errors.
    pub async fn paces(&self, id: MigrationId) -> Result<Vec<Pace>, StateError> {
        let rows = sqlx::query(
            "select work, documents, seconds from (
                 select id, work, documents, seconds, row_number() over (partition by work order by id desc) as age
                 from pace where migration_id = $1 and work <> 'snapshot') p
             where age <= $2 order by id",
        )
        .bind(id.0)
        .bind(RECENT)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                let work: String = row.try_get("work")?;
                Ok(Pace {
                    work: Work::parse(&work).ok_or(StateError::Corrupt("work"))?,
                    documents: row.try_get("documents")?,
                    seconds: row.try_get("seconds")?,
                })
            })
            .collect()
    }

    /// How many documents the runs of a migration have done of this work so far; of lists and lookups, which begin anew each
    /// time, how many the last one had.
    ///
    /// # Errors
    /// Database errors.
    pub async fn documents_done(&self, id: MigrationId, work: Work) -> Result<i64, StateError> {
        let (sql, stage) = match work {
            Work::Forms => (ITEMS, Stage::Form.as_str()),
            Work::Replay => (ITEMS, Stage::Case.as_str()),
            Work::Diff => (ITEMS, Stage::Diff.as_str()),
            Work::List => (
                "select coalesce(sum(scanned), 0)::bigint from scan_cursor
                 where migration_id = $1 and (scan like 'case:%' or scan like $2)",
                "sql:%",
            ),
            Work::Missing | Work::Snapshot => (
                "select coalesce(sum(value), 0)::bigint from doc_count where migration_id = $1 and $2 <> ''",
                "all",
            ),
        };
        Ok(sqlx::query_scalar(sql)
            .bind(id.0)
            .bind(stage)
            .fetch_one(&self.pool)
            .await?)
    }

    /// The most cases that a run of the migration has replayed for each document that it staged; none when no run has
    /// staged any.
    ///
    /// # Errors
    /// Database errors.
    pub async fn cases_per_document(&self, id: MigrationId) -> Result<Option<f64>, StateError> {
        Ok(sqlx::query_scalar(
            "select max(replayed / staged)::double precision from (
                 select sum(documents) filter (where work = 'replay') as replayed,
                        sum(documents) filter (where work = 'forms') as staged
                 from pace where migration_id = $1 group by run_id) runs
             where staged > 0",
        )
        .bind(id.0)
        .fetch_one(&self.pool)
        .await?)
    }

    /// Documents that wait for the form stage: those in open batches, and those that the next run tries again.
    ///
    /// # Errors
    /// Database errors.
    pub async fn documents_waiting(&self, id: MigrationId) -> Result<i64, StateError> {
        Ok(sqlx::query_scalar(
            "select (select coalesce(sum(item_count), 0)::bigint from batch
                     where migration_id = $1 and stage = 'form' and state in ('ready', 'claimed'))
                  + (select count(*) from (
                         select doc_id from doc_error where migration_id = $1 and kind <> 'CommCareCase' and code <> $2
                         union select doc_id from missing_doc where migration_id = $1 and kind <> 'CommCareCase'
                         union select doc_id from doc_diff where migration_id = $1 and kind not like 'CommCareCase%') again)",
        )
        .bind(id.0)
        .bind(UNUSABLE_ID)
        .fetch_one(&self.pool)
        .await?)
    }
}

const ITEMS: &str = "select coalesce(sum(items), 0)::bigint from (
     select items from stage_total where migration_id = $1 and stage = $2
     union all select item_count from batch where migration_id = $1 and stage = $2 and state = 'done') s";
