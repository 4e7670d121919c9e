//! What the operator is shown.

use std::collections::BTreeMap;

use proto::doctype::DocType;
use sqlx::Row;

use crate::{MigrationId, State, StateError};

/// The four columns of `stats` for one document type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TypeStats {
    /// Documents migrated: counted by the last scan for missing documents, or so far.
    pub docs: i64,
    /// Documents with differences.
    pub diffs: i64,
    /// Documents in Couch that SQL lacks.
    pub missing: i64,
    /// Documents with expected, patchable differences.
    pub changes: i64,
}

/// How far a migration is.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Documents that scans have found.
    pub scanned: i64,
    /// Documents staged.
    pub staged: i64,
    /// Cases that are dirty.
    pub dirty: i64,
    /// Cases replayed in all; a case may be replayed more than once.
    pub replayed: i64,
    /// Cases known.
    pub cases: i64,
    /// Cases compared at their present generation.
    pub diffed: i64,
    /// Documents with an error on record.
    pub errors: i64,
    /// Open batches of all stages.
    pub open_batches: i64,
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

/// A recorded error.
#[derive(Clone, Debug)]
pub struct ErrorRecord {
    /// Kind.
    pub kind: String,
    /// Document.
    pub doc_id: String,
    /// Code.
    pub code: String,
    /// Message.
    pub message: String,
}

impl State {
    /// The `stats` table: every document type, in the table's order.
    ///
    /// # Errors
    /// Database errors.
    pub async fn type_stats(&self, id: MigrationId) -> Result<Vec<(DocType, TypeStats)>, StateError> {
        let rows = sqlx::query(
            "select 'count' as what, kind, value from doc_count where migration_id = $1
             union all select 'staged', doc_type, sum(items)::bigint from (
                 select doc_type, items from stage_total where migration_id = $1 and stage = 'form'
                 union all
                 select doc_type, item_count from batch where migration_id = $1 and stage = 'form' and state = 'done') s
               where doc_type <> 'CommCareCase' group by doc_type
             union all select 'staged', 'CommCareCase', count(*) from case_state where migration_id = $1 and generation > 0
             union all select 'diffs', kind, count(*) from doc_diff where migration_id = $1 group by kind
             union all select 'missing', kind, count(*) from missing_doc where migration_id = $1 group by kind
             union all select 'changes', kind, count(*) from doc_change where migration_id = $1 group by kind",
        )
        .bind(id.0)
        .fetch_all(&self.pool)
        .await?;
        let mut found: BTreeMap<(String, String), i64> = BTreeMap::new();
        for row in &rows {
            found.insert((row.try_get("what")?, row.try_get("kind")?), row.try_get("value")?);
        }
        let get = |what: &str, kind: DocType| found.get(&(what.to_owned(), kind.as_str().to_owned())).copied();
        Ok(DocType::ALL
            .into_iter()
            .map(|kind| {
                let stats = TypeStats {
                    docs: get("count", kind).or_else(|| get("staged", kind)).unwrap_or(0),
                    diffs: get("diffs", kind).unwrap_or(0),
                    missing: get("missing", kind).unwrap_or(0),
                    changes: get("changes", kind).unwrap_or(0),
                };
                (kind, stats)
            })
            .collect())
    }

    /// Numbers for a progress display. They are counted: on a large domain that takes some time.
    ///
    /// # Errors
    /// Database errors.
    pub async fn progress(&self, id: MigrationId) -> Result<Progress, StateError> {
        let row = sqlx::query(
            "select
               (select coalesce(sum(scanned), 0)::bigint from scan_cursor where migration_id = $1 and scan like 'form:%') as scanned,
               (select coalesce(sum(items), 0)::bigint from (
                    select items from stage_total where migration_id = $1 and stage = 'form'
                    union all select item_count from batch where migration_id = $1 and stage = 'form' and state = 'done') s) as staged,
               (select count(*) from dirty_case where migration_id = $1) as dirty,
               (select coalesce(sum(items), 0)::bigint from (
                    select items from stage_total where migration_id = $1 and stage = 'case'
                    union all select item_count from batch where migration_id = $1 and stage = 'case' and state = 'done') s) as replayed,
               (select count(*) from case_state where migration_id = $1) as cases,
               (select count(*) from case_state where migration_id = $1 and diffed_generation = generation) as diffed,
               (select count(*) from doc_error where migration_id = $1) as errors,
               (select count(*) from batch where migration_id = $1 and state in ('ready', 'claimed')) as open_batches",
        )
        .bind(id.0)
        .fetch_one(&self.pool)
        .await?;
        Ok(Progress {
            scanned: row.try_get("scanned")?,
            staged: row.try_get("staged")?,
            dirty: row.try_get("dirty")?,
            replayed: row.try_get("replayed")?,
            cases: row.try_get("cases")?,
            diffed: row.try_get("diffed")?,
            errors: row.try_get("errors")?,
            open_batches: row.try_get("open_batches")?,
        })
    }

    /// Recorded diffs of the given kinds (all when empty) and documents (all when empty), after a place, in order.
    ///
    /// # Errors
    /// Database errors.
    pub async fn diff_records(
        &self,
        id: MigrationId,
        kinds: &[String],
        doc_ids: &[String],
        after: Option<(&str, &str)>,
        limit: i64,
    ) -> Result<Vec<DiffRecord>, StateError> {
        let sql = "select kind, doc_id, diffs, null::text as reason from doc_diff
                   where migration_id = $1 and (cardinality($2::text[]) = 0 or kind = any($2))
                     and (cardinality($3::text[]) = 0 or doc_id = any($3)) and (kind, doc_id) > ($4, $5)
                   order by kind, doc_id limit $6";
        self.records(sql, id, kinds, doc_ids, after, limit).await
    }

    /// Recorded changes, as [`State::diff_records`].
    ///
    /// # Errors
    /// Database errors.
    pub async fn change_records(
        &self,
        id: MigrationId,
        kinds: &[String],
        doc_ids: &[String],
        after: Option<(&str, &str)>,
        limit: i64,
    ) -> Result<Vec<DiffRecord>, StateError> {
        let sql = "select kind, doc_id, diffs, reason from doc_change
                   where migration_id = $1 and (cardinality($2::text[]) = 0 or kind = any($2))
                     and (cardinality($3::text[]) = 0 or doc_id = any($3)) and (kind, doc_id) > ($4, $5)
                   order by kind, doc_id limit $6";
        self.records(sql, id, kinds, doc_ids, after, limit).await
    }

    async fn records(
        &self,
        sql: &'static str,
        id: MigrationId,
        kinds: &[String],
        doc_ids: &[String],
        after: Option<(&str, &str)>,
        limit: i64,
    ) -> Result<Vec<DiffRecord>, StateError> {
        let (after_kind, after_id) = after.unwrap_or(("", ""));
        let rows = sqlx::query(sql)
            .bind(id.0)
            .bind(kinds)
            .bind(doc_ids)
            .bind(after_kind)
            .bind(after_id)
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(DiffRecord {
                    kind: row.try_get("kind")?,
                    doc_id: row.try_get("doc_id")?,
                    diffs: row.try_get("diffs")?,
                    reason: row.try_get("reason")?,
                })
            })
            .collect()
    }

    /// Errors on record, in order.
    ///
    /// # Errors
    /// Database errors.
    pub async fn error_records(&self, id: MigrationId, limit: i64) -> Result<Vec<ErrorRecord>, StateError> {
        let rows = sqlx::query(
            "select kind, doc_id, code, message from doc_error where migration_id = $1 order by kind, doc_id limit $2",
        )
        .bind(id.0)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(ErrorRecord {
                    kind: row.try_get("kind")?,
                    doc_id: row.try_get("doc_id")?,
                    code: row.try_get("code")?,
                    message: row.try_get("message")?,
                })
            })
            .collect()
    }

    /// Ids on the missing list, as (kind, id), in order.
    ///
    /// # Errors
    /// Database errors.
    pub async fn missing_records(&self, id: MigrationId, limit: i64) -> Result<Vec<(String, String)>, StateError> {
        Ok(sqlx::query_as(
            "select kind, doc_id from missing_doc where migration_id = $1 order by kind, doc_id limit $2",
        )
        .bind(id.0)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
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
}

/// Diffs or changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordTable {
    /// Unexpected differences.
    Diffs,
    /// Expected ones.
    Changes,
}
