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
}
