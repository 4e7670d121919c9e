//! What a report on a migration tells beside the statistics: commands and their times, decisions, errors by their kind.

use chrono::{DateTime, Utc};
use proto::ids::Domain;
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::{MigrationId, State, StateError};

/// A run with its times.
#[derive(Clone, Debug)]
pub struct RunRecord {
    /// Command.
    pub command: String,
    /// Its arguments, as JSON text.
    pub arguments: String,
    /// Who gave it.
    pub who: String,
    /// State.
    pub state: String,
    /// How it ended, in words.
    pub outcome: Option<String>,
    /// When it was given.
    pub queued_at: DateTime<Utc>,
    /// When somebody began to drive it.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

/// An entry of the audit log.
#[derive(Clone, Debug)]
pub struct AuditRecord {
    /// When.
    pub at: DateTime<Utc>,
    /// Who.
    pub who: String,
    /// What.
    pub action: String,
    /// Particulars, as JSON text.
    pub detail: String,
}

/// Documents on a list, by what they have in common.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Kind of the documents.
    pub kind: String,
    /// Code of the error; empty for documents that are missing.
    pub code: String,
    /// How many.
    pub documents: i64,
    /// Some of their ids.
    pub examples: Vec<String>,
}

/// How much was verified.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verified {
    /// Cases that either side has.
    pub cases: i64,
    /// Of these, compared as they are now.
    pub compared: i64,
    /// Cases that were patched.
    pub patched: i64,
}

impl State {
    /// The newest runs, the oldest of them first.
    ///
    /// # Errors
    /// Database errors.
    pub async fn run_records(&self, id: MigrationId, limit: i64) -> Result<Vec<RunRecord>, StateError> {
        let rows = sqlx::query(
            "select * from (select id, command, arguments::text as arguments, who, state, outcome, queued_at, started_at, ended_at
                            from run where migration_id = $1 order by id desc limit $2) newest order by id",
        )
        .bind(id.0)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(RunRecord {
                    command: row.try_get("command")?,
                    arguments: row.try_get("arguments")?,
                    who: row.try_get("who")?,
                    state: row.try_get("state")?,
                    outcome: row.try_get("outcome")?,
                    queued_at: row.try_get("queued_at")?,
                    started_at: row.try_get("started_at")?,
                    ended_at: row.try_get("ended_at")?,
                })
            })
            .collect()
    }

    /// The newest entries of the audit log, the oldest of them first.
    ///
    /// # Errors
    /// Database errors.
    pub async fn audit_records(&self, domain: &Domain, limit: i64) -> Result<Vec<AuditRecord>, StateError> {
        let rows = sqlx::query(
            "select * from (select id, at, who, action, detail::text as detail from audit_log
                            where domain = $1 order by id desc limit $2) newest order by id",
        )
        .bind(domain.as_str())
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(audit_record).collect()
    }

    /// All entries of the audit log that say that somebody let something pass, the oldest first.
    ///
    /// # Errors
    /// Database errors.
    pub async fn decisions(&self, domain: &Domain) -> Result<Vec<AuditRecord>, StateError> {
        let rows = sqlx::query(
            "select at, who, action, detail::text as detail from audit_log
             where domain = $1 and (action like '%COMMIT%' or action like '%rules %' or action like '%cases --reset%')
             order by id",
        )
        .bind(domain.as_str())
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(audit_record).collect()
    }

    /// How many entries the audit log has of a domain, and how many runs there are of it.
    ///
    /// # Errors
    /// Database errors.
    pub async fn history(&self, id: MigrationId) -> Result<(i64, i64), StateError> {
        Ok(sqlx::query_as(
            "select (select count(*) from audit_log a join migration m on m.domain = a.domain where m.id = $1),
                    (select count(*) from run where migration_id = $1)",
        )
        .bind(id.0)
        .fetch_one(&self.pool)
        .await?)
    }

    /// Names of the looks for documents of one side alone that have come to their end.
    ///
    /// # Errors
    /// Database errors.
    pub async fn whole_looks(&self, id: MigrationId) -> Result<Vec<String>, StateError> {
        Ok(sqlx::query_scalar(
            "select split_part(scan, '#', 1) from scan_cursor where migration_id = $1 and scan like 'missing:%'
             group by 1 having bool_and(complete) order by 1",
        )
        .bind(id.0)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Documents with errors, and documents that SQL lacks (without a code), in groups.
    ///
    /// # Errors
    /// Database errors.
    pub async fn listed(&self, id: MigrationId, examples: i64) -> Result<Vec<Listed>, StateError> {
        let rows = sqlx::query(
            "select kind, code, count(*) as documents, (array_agg(doc_id order by place) filter (where place <= $2)) as examples
             from (select kind, code, doc_id, row_number() over (partition by kind, code order by doc_id) as place
                   from (select kind, code, doc_id from doc_error where migration_id = $1
                         union all select kind, '', doc_id from missing_doc where migration_id = $1) listed) placed
             group by kind, code order by kind collate \"C\", code collate \"C\"",
        )
        .bind(id.0)
        .bind(examples)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Listed {
                    kind: row.try_get("kind")?,
                    code: row.try_get("code")?,
                    documents: row.try_get("documents")?,
                    examples: row.try_get("examples")?,
                })
            })
            .collect()
    }

    /// How much was verified.
    ///
    /// # Errors
    /// Database errors.
    pub async fn verified(&self, id: MigrationId) -> Result<Verified, StateError> {
        let row = sqlx::query(
            "select (select count(*) from case_state where migration_id = $1) as cases,
                    (select count(*) from case_state where migration_id = $1 and diffed_generation = generation) as compared,
                    (select count(*) from patched_case where migration_id = $1) as patched",
        )
        .bind(id.0)
        .fetch_one(&self.pool)
        .await?;
        Ok(Verified {
            cases: row.try_get("cases")?,
            compared: row.try_get("compared")?,
            patched: row.try_get("patched")?,
        })
    }
}

fn audit_record(row: &PgRow) -> Result<AuditRecord, StateError> {
    Ok(AuditRecord {
        at: row.try_get("at")?,
        who: row.try_get("who")?,
        action: row.try_get("action")?,
        detail: row.try_get("detail")?,
    })
}
