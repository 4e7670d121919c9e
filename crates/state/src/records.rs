//! Recorded differences as an operator selects them: read page by page, counted, and made shorter.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::audit::audit_in;
use crate::migration::DriverLease;
use crate::operator_rules::{Ignored, add_ignored};
use crate::outcome::lock_documents;
use crate::run::Operator;
use crate::{MigrationId, State, StateError};

/// Diffs or changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordTable {
    /// Unexpected differences.
    Diffs,
    /// Expected ones.
    Changes,
}

impl RecordTable {
    /// Its name in the state schema.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Diffs => "diffs",
            Self::Changes => "changes",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, StateError> {
        [Self::Diffs, Self::Changes]
            .into_iter()
            .find(|table| table.as_str() == text)
            .ok_or(StateError::Corrupt("kind of record"))
    }
}

/// A recorded set of differences.
#[derive(Clone, Debug)]
pub struct DiffRecord {
    /// Kind.
    pub kind: String,
    /// Document.
    pub doc_id: String,
    /// JSON text: a list of diffs.
    pub diffs: String,
    /// Reason, for changes.
    pub reason: Option<String>,
}

/// Which records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordFilter {
    /// All records of these kinds.
    pub kinds: Vec<String>,
    /// And those of these documents, as (kind, id). When both lists are empty: all records.
    pub documents: Vec<(String, String)>,
}

/// A record that is to be shorter than it was read.
#[derive(Clone, Debug)]
pub struct Shorter {
    /// Kind.
    pub kind: String,
    /// Document.
    pub doc_id: String,
    /// Its JSON text as it was read.
    pub before: String,
    /// Its JSON text from now on; none: nothing is left of it.
    pub after: Option<String>,
    /// Its reasons from now on, for changes.
    pub reason: Option<String>,
}

/// The records of a table that a filter selects, from `$2` on: kinds, kinds and ids of documents.
macro_rules! selected {
    ($columns:literal, $table:literal, $rest:literal) => {
        concat!(
            "select ",
            $columns,
            " from ",
            $table,
            " where migration_id = $1 and (cardinality($2::text[]) + cardinality($3::text[]) = 0 or kind = any($2)
                or (kind, doc_id) in (select * from unnest($3::text[], $4::text[]))) ",
            $rest
        )
    };
}

impl State {
    /// Records in the order of kind and id, after a place.
    ///
    /// # Errors
    /// Database errors.
    pub async fn records_after(
        &self,
        id: MigrationId,
        table: RecordTable,
        filter: &RecordFilter,
        after: Option<(&str, &str)>,
        limit: i64,
    ) -> Result<Vec<DiffRecord>, StateError> {
        let sql = match table {
            RecordTable::Diffs => selected!(
                "kind, doc_id, diffs, null::text as reason",
                "doc_diff",
                "and (kind, doc_id) > ($5, $6) order by kind, doc_id limit $7"
            ),
            RecordTable::Changes => selected!(
                "kind, doc_id, diffs, reason",
                "doc_change",
                "and (kind, doc_id) > ($5, $6) order by kind, doc_id limit $7"
            ),
        };
        let (kinds, ids) = columns(filter);
        let (after_kind, after_id) = after.unwrap_or(("", ""));
        let rows = sqlx::query(sql)
            .bind(id.0)
            .bind(&filter.kinds)
            .bind(kinds)
            .bind(ids)
            .bind(after_kind)
            .bind(after_id)
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(record).collect()
    }

    /// How many records there are; no more than `at_most` are counted.
    ///
    /// # Errors
    /// Database errors.
    pub async fn count_records(
        &self,
        id: MigrationId,
        table: RecordTable,
        filter: &RecordFilter,
        at_most: i64,
    ) -> Result<i64, StateError> {
        let sql = match table {
            RecordTable::Diffs => concat!(
                "select count(*) from (",
                selected!("1", "doc_diff", "limit $5"),
                ") found"
            ),
            RecordTable::Changes => concat!(
                "select count(*) from (",
                selected!("1", "doc_change", "limit $5"),
                ") found"
            ),
        };
        let (kinds, ids) = columns(filter);
        Ok(sqlx::query_scalar(sql)
            .bind(id.0)
            .bind(&filter.kinds)
            .bind(kinds)
            .bind(ids)
            .bind(at_most)
            .fetch_one(&self.pool)
            .await?)
    }

    /// Writes shorter records, and puts on record what operators' rules have set aside of them. A record that is no longer
    /// as it was read is left alone: somebody has compared its document since. Gives how many were written.
    ///
    /// # Errors
    /// Database errors.
    pub async fn shorten_records(
        &self,
        id: MigrationId,
        table: RecordTable,
        records: &[Shorter],
        ignored: &[Ignored],
    ) -> Result<usize, StateError> {
        let sql = match table {
            RecordTable::Diffs => {
                "with i as (select * from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
                                  i(kind, doc_id, before, after, reason)),
                 gone as (delete from doc_diff d using i
                          where d.migration_id = $1 and d.kind = i.kind and d.doc_id = i.doc_id and d.diffs = i.before
                            and i.after is null
                          returning d.kind, d.doc_id),
                 kept as (update doc_diff d set diffs = i.after from i
                          where d.migration_id = $1 and d.kind = i.kind and d.doc_id = i.doc_id and d.diffs = i.before
                            and i.after is not null
                          returning d.kind, d.doc_id)
                 select * from gone union all select * from kept"
            }
            RecordTable::Changes => {
                "with i as (select * from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
                                  i(kind, doc_id, before, after, reason)),
                 gone as (delete from doc_change d using i
                          where d.migration_id = $1 and d.kind = i.kind and d.doc_id = i.doc_id and d.diffs = i.before
                            and i.after is null
                          returning d.kind, d.doc_id),
                 kept as (update doc_change d set diffs = i.after, reason = coalesce(i.reason, d.reason) from i
                          where d.migration_id = $1 and d.kind = i.kind and d.doc_id = i.doc_id and d.diffs = i.before
                            and i.after is not null
                          returning d.kind, d.doc_id)
                 select * from gone union all select * from kept"
            }
        };
        let mut tx = self.pool.begin().await?;
        let documents = records.iter().map(|one| (one.kind.as_str(), one.doc_id.as_str()));
        lock_documents(&mut tx, id, documents).await?;
        let written: HashSet<(String, String)> = sqlx::query_as(sql)
            .bind(id.0)
            .bind(records.iter().map(|one| one.kind.as_str()).collect::<Vec<_>>())
            .bind(records.iter().map(|one| one.doc_id.as_str()).collect::<Vec<_>>())
            .bind(records.iter().map(|one| one.before.as_str()).collect::<Vec<_>>())
            .bind(records.iter().map(|one| one.after.as_deref()).collect::<Vec<_>>())
            .bind(records.iter().map(|one| one.reason.as_deref()).collect::<Vec<_>>())
            .fetch_all(&mut *tx)
            .await?
            .into_iter()
            .collect();
        let of_written: Vec<&Ignored> = ignored
            .iter()
            .filter(|one| written.contains(&(one.kind.clone(), one.doc_id.clone())))
            .collect();
        add_ignored(&mut tx, id, &of_written).await?;
        tx.commit().await?;
        Ok(written.len())
    }

    /// Ids of cases with a record in the diffs or in the changes.
    ///
    /// # Errors
    /// Database errors.
    pub async fn cases_with_records(&self, id: MigrationId, table: RecordTable) -> Result<Vec<String>, StateError> {
        let sql = match table {
            RecordTable::Diffs => {
                "select doc_id from doc_diff where migration_id = $1 and kind like 'CommCareCase%' order by 1"
            }
            RecordTable::Changes => {
                "select doc_id from doc_change where migration_id = $1 and kind like 'CommCareCase%' order by 1"
            }
        };
        Ok(sqlx::query_scalar(sql).bind(id.0).fetch_all(&self.pool).await?)
    }

    /// Documents, as (kind, id), with a diff or a change of a case that was recorded after a time.
    ///
    /// # Errors
    /// Database errors.
    pub async fn cases_recorded_since(
        &self,
        id: MigrationId,
        since: DateTime<Utc>,
        limit: i64,
    ) -> Result<Vec<(String, String)>, StateError> {
        Ok(sqlx::query_as(
            "select kind, doc_id from doc_diff where migration_id = $1 and kind like 'CommCareCase%' and compared_at > $2
             union select kind, doc_id from doc_change
             where migration_id = $1 and kind like 'CommCareCase%' and compared_at > $2
             order by 1, 2 limit $3",
        )
        .bind(id.0)
        .bind(since)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Forgets all comparisons of live cases: every case is pending again. The audit log says what was forgotten. Gives how
    /// many cases there are.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn forget_case_diffs(&self, held: &DriverLease, operator: &Operator) -> Result<u64, StateError> {
        let mut tx = self.driver_tx(held).await?;
        sqlx::query("select 1 from case_state where migration_id = $1 order by bucket, case_id for no key update")
            .bind(held.migration_id.0)
            .execute(&mut *tx)
            .await?;
        let mut forgotten = Vec::new();
        for sql in [
            "delete from doc_diff where migration_id = $1 and kind = 'CommCareCase'",
            "delete from doc_change where migration_id = $1 and kind = 'CommCareCase'",
            "delete from ignored_diff where migration_id = $1 and kind = 'CommCareCase'",
            "delete from missing_doc where migration_id = $1 and kind in ('CommCareCase', 'CommCareCase-Deleted')",
            "delete from scan_cursor where migration_id = $1
             and (scan like 'case:%' or scan like 'sql:%' or scan like 'missing:CommCareCase%' or scan = 'diff')",
        ] {
            let gone = sqlx::query(sql).bind(held.migration_id.0).execute(&mut *tx).await?;
            forgotten.push(gone.rows_affected());
        }
        let cases =
            sqlx::query("update case_state set diffed_generation = null, diffed_rev = null where migration_id = $1")
                .bind(held.migration_id.0)
                .execute(&mut *tx)
                .await?
                .rows_affected();
        let detail = json!({"diffs": forgotten[0], "changes": forgotten[1], "cases": cases});
        let action = "couch_sql_diff cases --reset=delete";
        audit_in(&mut tx, held.migration_id, operator, action, &detail).await?;
        tx.commit().await?;
        Ok(cases)
    }
}

fn columns(filter: &RecordFilter) -> (Vec<&str>, Vec<&str>) {
    filter
        .documents
        .iter()
        .map(|(kind, id)| (kind.as_str(), id.as_str()))
        .unzip()
}

fn record(row: &PgRow) -> Result<DiffRecord, StateError> {
    Ok(DiffRecord {
        kind: row.try_get("kind")?,
        doc_id: row.try_get("doc_id")?,
        diffs: row.try_get("diffs")?,
        reason: row.try_get("reason")?,
    })
}
