//! The look for documents that only one side has: a type is looked at by ranges of its keys, each with a cursor of its own, so
//! that ranges go side by side and an interrupted look goes on where each of them stood.

use std::collections::BTreeMap;

use proto::doctype::DocType;
use sqlx::{Postgres, Row, Transaction};

use crate::migration::DriverLease;
use crate::operator_rules::Ignored;
use crate::outcome::{lock_documents, record_missing_docs};
use crate::revisions::lock_revisions;
use crate::scan::{Cursor, cursor_from, insert_case_states, save_cursor};
use crate::unusable::UNUSABLE_ID;
use crate::{MigrationId, State, StateError};

/// What is recorded of a form that SQL has and Couch has not. Such a record is made and taken back by looks alone.
pub const ONLY_IN_SQL: &str = r#"[{"type":"missing","path":["*"],"new_value":"present"}]"#;

/// What the names of all looks begin with.
const LOOKS: &str = "missing:";

/// Name of the scan of one range of a look.
fn scan_of(look: &str, range: &str) -> String {
    format!("{look}#{range}")
}

impl State {
    /// The ranges of each look that has begun, by the look's name, with how far each has come.
    ///
    /// # Errors
    /// Database errors.
    pub async fn looks(&self, id: MigrationId) -> Result<BTreeMap<String, Vec<(String, Cursor)>>, StateError> {
        let rows = sqlx::query(
            "select scan, after_key, after_id, complete, scanned from scan_cursor
             where migration_id = $1 and starts_with(scan, $2) order by scan collate \"C\"",
        )
        .bind(id.0)
        .bind(LOOKS)
        .fetch_all(&self.pool)
        .await?;
        let mut looks: BTreeMap<String, Vec<(String, Cursor)>> = BTreeMap::new();
        for row in &rows {
            let scan: String = row.try_get("scan")?;
            let (look, range) = scan.split_once('#').unwrap_or((&scan, ""));
            let ranges = looks.entry(look.to_owned()).or_default();
            ranges.push((range.to_owned(), cursor_from(row)?));
        }
        Ok(looks)
    }

    /// Begins looks anew, each with its ranges. What those before have recorded is forgotten.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn begin_looks(&self, held: &DriverLease, looks: &[(Look, Vec<String>)]) -> Result<(), StateError> {
        if looks.is_empty() {
            return Ok(());
        }
        let mut tx = self.driver_tx(held).await?;
        // Until the looks have come to their ends, nobody may take the migration for one that was looked at.
        sqlx::query("update migration set phase = 'missing', finished_at = null where id = $1 and phase = 'finished'")
            .bind(held.migration_id.0)
            .execute(&mut *tx)
            .await?;
        for (look, ranges) in looks {
            begin_look(&mut tx, held.migration_id, *look, ranges).await?;
        }
        Ok(tx.commit().await?)
    }

    /// Moves the cursors of ranges, and records the documents that were found to be missing on the other side: of each range in
    /// one transaction, of all that found nothing in a single one. When all ranges of a look are at their end, the documents of
    /// the type are counted.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn record_looks(&self, held: &DriverLease, looked: &[LookedAt]) -> Result<(), StateError> {
        let (silent, telling): (Vec<_>, Vec<_>) = looked.iter().partition(|part| part.missing.is_empty());
        // What is missing is told by one transaction a look: each locks its documents in their order.
        for part in telling {
            let mut tx = self.driver_tx(held).await?;
            record_look(&mut tx, held.migration_id, part).await?;
            tx.commit().await?;
        }
        if silent.is_empty() {
            return Ok(());
        }
        let mut tx = self.driver_tx(held).await?;
        for part in silent {
            record_look(&mut tx, held.migration_id, part).await?;
        }
        Ok(tx.commit().await?)
    }

    /// Puts on record forms that only SQL has and that rules of operators drop, as a look finds them: again, when it goes on
    /// where it was interrupted. A form with another record is left as it is. Rules stay while the lease is held.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn set_aside_only_in_sql(&self, held: &DriverLease, ignored: &[Ignored]) -> Result<(), StateError> {
        if ignored.is_empty() {
            return Ok(());
        }
        let column = |of: fn(&Ignored) -> &str| ignored.iter().map(of).collect::<Vec<_>>();
        let mut tx = self.driver_tx(held).await?;
        sqlx::query(
            "insert into ignored_diff (migration_id, kind, doc_id, rule, is_change, diffs, diff_count, reason)
             select $1, kind, doc_id, rule, false, $5, 1, ''
             from unnest($2::text[], $3::text[], $4::text[]) i(kind, doc_id, rule)
             where not exists (select from doc_diff d where d.migration_id = $1 and d.doc_id = i.doc_id)
             on conflict do nothing",
        )
        .bind(held.migration_id.0)
        .bind(column(|one| &one.kind))
        .bind(column(|one| &one.doc_id))
        .bind(column(|one| &one.rule))
        .bind(ONLY_IN_SQL)
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    /// Documents on the list of those that SQL lacks, as (kind, id), in order, after a place.
    ///
    /// # Errors
    /// Database errors.
    pub async fn missing_after(
        &self,
        id: MigrationId,
        after: (&str, &str),
        limit: i64,
    ) -> Result<Vec<(String, String)>, StateError> {
        Ok(sqlx::query_as(
            "select kind, doc_id from missing_doc where migration_id = $1 and (kind, doc_id) > ($2, $3)
             order by kind, doc_id limit $4",
        )
        .bind(id.0)
        .bind(after.0)
        .bind(after.1)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Takes documents off the list of those that SQL lacks. Gives how many.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn forget_missing(&self, held: &DriverLease, documents: &[(String, String)]) -> Result<u64, StateError> {
        let (kinds, ids): (Vec<&str>, Vec<&str>) =
            documents.iter().map(|(kind, id)| (kind.as_str(), id.as_str())).unzip();
        let mut tx = self.driver_tx(held).await?;
        let listed = documents.iter().map(|(kind, id)| (kind.as_str(), id.as_str()));
        lock_documents(&mut tx, held.migration_id, listed).await?;
        let forgotten = sqlx::query(
            "delete from missing_doc where migration_id = $1
             and (kind, doc_id) in (select * from unnest($2::text[], $3::text[]))",
        )
        .bind(held.migration_id.0)
        .bind(&kinds)
        .bind(&ids)
        .execute(&mut *tx)
        .await?
        .rows_affected();
        tx.commit().await?;
        Ok(forgotten)
    }
}

async fn begin_look(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    look: Look,
    ranges: &[String],
) -> Result<(), StateError> {
    sqlx::query("delete from scan_cursor where migration_id = $1 and starts_with(scan, $2)")
        .bind(id.0)
        .bind(scan_of(&look.name(), ""))
        .execute(&mut **tx)
        .await?;
    match look {
        Look::Couch(kind) => {
            sqlx::query("delete from missing_doc where migration_id = $1 and kind = $2")
                .bind(id.0)
                .bind(kind.as_str())
                .execute(&mut **tx)
                .await?;
            sqlx::query("delete from doc_error where migration_id = $1 and kind = $2 and code = $3")
                .bind(id.0)
                .bind(kind.as_str())
                .bind(UNUSABLE_ID)
                .execute(&mut **tx)
                .await?;
        }
        Look::SqlForms => {
            sqlx::query(
                "delete from doc_diff where migration_id = $1 and kind not like 'CommCareCase%' and diffs = $2",
            )
            .bind(id.0)
            .bind(ONLY_IN_SQL)
            .execute(&mut **tx)
            .await?;
            sqlx::query(
                "delete from ignored_diff where migration_id = $1 and kind not like 'CommCareCase%' and diffs = $2",
            )
            .bind(id.0)
            .bind(ONLY_IN_SQL)
            .execute(&mut **tx)
            .await?;
        }
        Look::SqlCases => {}
    }
    for range in ranges {
        save_cursor(tx, id, &scan_of(&look.name(), range), &Cursor::default()).await?;
    }
    Ok(())
}

async fn record_look(tx: &mut Transaction<'_, Postgres>, id: MigrationId, part: &LookedAt) -> Result<(), StateError> {
    let (kinds, ids): (Vec<&str>, Vec<&str>) = part
        .missing
        .iter()
        .map(|(kind, id)| (kind.as_str(), id.as_str()))
        .unzip();
    save_cursor(tx, id, &scan_of(&part.look.name(), &part.range), &part.cursor).await?;
    match part.look {
        Look::Couch(kind) => {
            if !part.missing.is_empty() {
                let listed = || kinds.iter().copied().zip(ids.iter().copied());
                lock_documents(tx, id, listed()).await?;
                record_missing_docs(tx, id, listed().collect()).await?;
            }
            if part.cursor.complete {
                sqlx::query(
                    "insert into doc_count (migration_id, kind, value)
                     select $1, $2, sum(scanned) from scan_cursor where migration_id = $1 and starts_with(scan, $3)
                     having bool_and(complete)
                     on conflict (migration_id, kind) do update set value = excluded.value",
                )
                .bind(id.0)
                .bind(kind.as_str())
                .bind(scan_of(&part.look.name(), ""))
                .execute(&mut **tx)
                .await?;
            }
        }
        Look::SqlForms | Look::SqlCases if ids.is_empty() => {}
        Look::SqlForms => {
            lock_revisions(tx, id, &ids).await?;
            record_only_in_sql(tx, id, &kinds, &ids).await?;
        }
        Look::SqlCases => {
            let ids: Vec<String> = ids.into_iter().map(str::to_owned).collect();
            insert_case_states(tx, id, &ids).await?;
        }
    }
    Ok(())
}

/// Records forms that SQL has and Couch has not.
pub(crate) async fn record_only_in_sql(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    kinds: &[&str],
    ids: &[&str],
) -> Result<(), StateError> {
    sqlx::query(
        "insert into doc_diff (migration_id, kind, doc_id, diffs)
         select $1, kind, id, $4 from unnest($2::text[], $3::text[]) t(kind, id)
         where not exists (select from doc_diff d where d.migration_id = $1 and d.doc_id = t.id)
         on conflict do nothing",
    )
    .bind(id.0)
    .bind(kinds)
    .bind(ids)
    .bind(ONLY_IN_SQL)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// What was found in a range of a look.
#[derive(Clone, Debug)]
pub struct LookedAt {
    /// The look.
    pub look: Look,
    /// Name of the range.
    pub range: String,
    /// How far it has come.
    pub cursor: Cursor,
    /// Documents that are missing on the other side, as (kind, id).
    pub missing: Vec<(String, String)>,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Couch's documents of a type: those that SQL lacks go on the list of missing documents.
    Couch(DocType),
    /// SQL's forms: those that Couch lacks are diffs.
    SqlForms,
    /// SQL's cases: those that nobody has met yet are to be compared, which tells what Couch has.
    SqlCases,
}

impl Look {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        DocType::ALL
            .into_iter()
            .map(Self::Couch)
            .chain([Self::SqlForms, Self::SqlCases])
    }

    /// Its name among the scans.
    pub fn name(self) -> String {
        match self {
            Self::Couch(kind) => format!("{LOOKS}{kind}"),
            Self::SqlForms => format!("{LOOKS}sql-forms"),
            Self::SqlCases => format!("{LOOKS}sql-cases"),
        }
    }
}
