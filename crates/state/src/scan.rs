//! Scans, and cutting batches out of what is pending. A cursor always moves in the transaction that inserts the batches.

use std::collections::BTreeMap;

use proto::doctype::DocType;
use proto::topology::Stage;
use sqlx::{Postgres, Row, Transaction};

use crate::batch::insert_batch;
use crate::migration::DriverLease;
use crate::{MigrationId, State, StateError};

/// How far a scan has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Key of the last row seen, as the scan writes it.
    pub after_key: Option<String>,
    /// Document id of the last row seen.
    pub after_id: Option<String>,
    /// Whether the end was reached.
    pub complete: bool,
    /// Rows seen so far.
    pub scanned: i64,
}

impl Cursor {
    /// Whether the scan has looked at anything: also when there was nothing to see.
    pub fn has_moved(&self) -> bool {
        *self != Self::default()
    }
}

/// What a scan has found, and where it stands then.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// Type of the documents.
    pub doc_type: DocType,
    /// Where their scan ([`form_scan`]) stands.
    pub cursor: Cursor,
    /// Their ids, batch by batch.
    pub batches: Vec<Vec<String>>,
}

/// How pending cases are cut into batches.
#[derive(Clone, Copy, Debug)]
pub struct CutLimits {
    /// Cases of one batch at most.
    pub cases: usize,
    /// Weight of one batch at most: what there is to replay, each staged row and each KiB of rows and events counting one.
    /// A case above it goes alone.
    pub weight: i64,
    /// Batches to cut at once at most.
    pub batches: usize,
}

/// Name of the scan that walks over dirty cases.
pub const REPLAY_PASS: &str = "replay";
/// Name of the scan that walks over cases to diff.
pub const DIFF_PASS: &str = "diff";

/// Name of the scan of a document type.
pub fn form_scan(doc_type: DocType) -> String {
    format!("form:{doc_type}")
}

impl State {
    /// Where a scan stands; the start if it has not begun.
    ///
    /// # Errors
    /// Database errors.
    pub async fn cursor(&self, id: MigrationId, scan: &str) -> Result<Cursor, StateError> {
        cursor_in(&self.pool, id, scan).await
    }

    /// Where the scans of these types stand, each as [`State::cursor`] tells it.
    ///
    /// # Errors
    /// Database errors.
    pub async fn form_cursors(
        &self,
        id: MigrationId,
        types: impl IntoIterator<Item = DocType>,
    ) -> Result<Vec<(DocType, Cursor)>, StateError> {
        let types: Vec<DocType> = types.into_iter().collect();
        let scans: Vec<String> = types.iter().copied().map(form_scan).collect();
        let rows = sqlx::query(
            "select scan, after_key, after_id, complete, scanned from scan_cursor
             where migration_id = $1 and scan = any($2)",
        )
        .bind(id.0)
        .bind(&scans)
        .fetch_all(&self.pool)
        .await?;
        let mut found = BTreeMap::new();
        for row in &rows {
            found.insert(row.try_get::<String, _>("scan")?, cursor_from(row)?);
        }
        let cursors = scans.iter().map(|scan| found.remove(scan).unwrap_or_default());
        Ok(types.into_iter().zip(cursors).collect())
    }

    /// Opens scans again that had come to their end, without moving their cursors: whatever was added after them is found.
    ///
    /// # Errors
    /// Database errors.
    pub async fn reopen_scans(&self, held: &DriverLease, scans: &[String]) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        sqlx::query("update scan_cursor set complete = false where migration_id = $1 and scan = any($2)")
            .bind(held.migration_id.0)
            .bind(scans)
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// Sends a scan back to its start.
    ///
    /// # Errors
    /// Database errors.
    pub async fn restart_scan(&self, held: &DriverLease, scan: &str) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        sqlx::query("delete from scan_cursor where migration_id = $1 and scan = $2")
            .bind(held.migration_id.0)
            .bind(scan)
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// Moves the cursors of scans and inserts the form batches that they found, in one transaction.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn insert_scanned(&self, held: &DriverLease, found: &[Scanned]) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        for of_type in found {
            let doc_type = of_type.doc_type;
            save_cursor(&mut tx, held.migration_id, &form_scan(doc_type), &of_type.cursor).await?;
            for ids in &of_type.batches {
                insert_batch(
                    &mut tx,
                    held.migration_id.0,
                    Stage::Form.as_str(),
                    doc_type.as_str(),
                    ids,
                    None,
                )
                .await?;
            }
        }
        Ok(tx.commit().await?)
    }

    /// Moves a scan's cursor and records the cases that it found, in one transaction.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn record_cases(
        &self,
        held: &DriverLease,
        scan: &str,
        cursor: &Cursor,
        case_ids: &[String],
    ) -> Result<(), StateError> {
        let mut tx = self.driver_tx(held).await?;
        save_cursor(&mut tx, held.migration_id, scan, cursor).await?;
        insert_case_states(&mut tx, held.migration_id, case_ids).await?;
        Ok(tx.commit().await?)
    }

    /// Cuts batches of dirty cases, from where the pass stands. Gives how many were cut; none: the pass is at its end.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn cut_case_batches(&self, held: &DriverLease, limits: &CutLimits) -> Result<usize, StateError> {
        // A case that was set aside is not cut again: it would fail again. `unpark` gives it its next chance.
        // A case that goes on from a checkpoint weighs what is new, and the checkpoint.
        let sql = "select d.bucket, d.case_id,
                          case when d.is_growing and c.generation is not null then
                              (select greatest(count(*), 1) + coalesce(sum(octet_length(s.payload)), 0)::bigint / 1024
                               from dirty_case n
                               join staged_update s on s.migration_id = $1 and s.bucket = n.bucket
                                                   and s.case_id = n.case_id and s.form_id = n.form_id
                               where n.migration_id = $1 and n.bucket = d.bucket and n.case_id = d.case_id)
                              + octet_length(c.payload) / 1024
                          else
                              (select greatest(count(*), 1) + coalesce(sum(octet_length(s.payload)), 0)::bigint / 1024
                               from staged_update s
                               where s.migration_id = $1 and s.bucket = d.bucket and s.case_id = d.case_id)
                          end
                          + (select coalesce(sum(octet_length(e.payload)), 0)::bigint / 1024 from case_event e
                             where e.migration_id = $1 and e.bucket = d.bucket and e.case_id = d.case_id) as weight
                   from (select bucket, case_id, bool_and(form_id is not null) as is_growing from dirty_case
                         where migration_id = $1 and (bucket, case_id) > ($2, $3)
                           and case_id not in (select unnest(ids) from batch
                                               where migration_id = $1 and stage = 'case' and state = 'parked')
                         group by bucket, case_id order by bucket, case_id limit $4) d
                   left join case_checkpoint c
                       on c.migration_id = $1 and c.bucket = d.bucket and c.case_id = d.case_id
                      and c.generation = (select g.generation from case_state g
                                          where g.migration_id = $1 and g.bucket = d.bucket and g.case_id = d.case_id)
                   order by d.bucket, d.case_id";
        self.cut(held, limits, REPLAY_PASS, Stage::Case, sql).await
    }

    /// Cuts batches of cases that are not diffed at their generation, from where the pass stands. Cases that are known to be
    /// later than the cut-off are left out.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn cut_diff_batches(&self, held: &DriverLease, limits: &CutLimits) -> Result<usize, StateError> {
        let sql = "select bucket, case_id, 1::bigint as weight from case_state
                   where migration_id = $1 and (bucket, case_id) > ($2, $3) and diffed_generation is distinct from generation
                     and not coalesce(late_until > (select live_cutoff from migration where id = $1), false)
                     and case_id not in (select unnest(ids) from batch
                                         where migration_id = $1 and stage = 'diff' and state = 'parked')
                   order by bucket, case_id limit $4";
        self.cut(held, limits, DIFF_PASS, Stage::Diff, sql).await
    }

    async fn cut(
        &self,
        held: &DriverLease,
        limits: &CutLimits,
        pass: &str,
        stage: Stage,
        sql: &'static str,
    ) -> Result<usize, StateError> {
        let mut tx = self.driver_tx(held).await?;
        let mut cursor = cursor_in(&mut *tx, held.migration_id, pass).await?;
        let after_bucket: i16 = cursor
            .after_key
            .as_deref()
            .and_then(|text| text.parse().ok())
            .unwrap_or(-1);
        let wanted = limits.cases.saturating_mul(limits.batches);
        let rows = sqlx::query(sql)
            .bind(held.migration_id.0)
            .bind(after_bucket)
            .bind(cursor.after_id.as_deref().unwrap_or(""))
            .bind(i64::try_from(wanted).unwrap_or(i64::MAX))
            .fetch_all(&mut *tx)
            .await?;
        if rows.is_empty() {
            return Ok(0);
        }
        let mut cases = Vec::with_capacity(rows.len());
        for row in &rows {
            cases.push((row.try_get::<String, _>("case_id")?, row.try_get::<i64, _>("weight")?));
        }
        let batches = cut_by_weight(cases, limits);
        for ids in &batches {
            insert_batch(
                &mut tx,
                held.migration_id.0,
                stage.as_str(),
                DocType::CommCareCase.as_str(),
                ids,
                None,
            )
            .await?;
        }
        // Unwrap safety: rows is not empty.
        if let Some(last) = rows.last() {
            cursor.after_key = Some(last.try_get::<i16, _>("bucket")?.to_string());
            cursor.after_id = Some(last.try_get("case_id")?);
        }
        cursor.scanned += i64::try_from(rows.len()).unwrap_or(i64::MAX);
        save_cursor(&mut tx, held.migration_id, pass, &cursor).await?;
        tx.commit().await?;
        Ok(batches.len())
    }

    /// Whether a case is dirty, or a batch of cases is open.
    ///
    /// # Errors
    /// Database errors.
    pub async fn has_replays(&self, id: MigrationId) -> Result<bool, StateError> {
        Ok(sqlx::query_scalar(
            "select exists (select from dirty_case where migration_id = $1)
                 or exists (select from batch where migration_id = $1 and stage = 'case' and state in ('ready', 'claimed'))",
        )
        .bind(id.0)
        .fetch_one(&self.pool)
        .await?)
    }

    /// How many cases are dirty, and how many are not diffed at their generation.
    ///
    /// # Errors
    /// Database errors.
    pub async fn pending_cases(&self, id: MigrationId) -> Result<(i64, i64), StateError> {
        let row = sqlx::query(
            "select (select count(*) from (select 1 from dirty_case where migration_id = $1 group by bucket, case_id) d) as dirty,
                    (select count(*) from case_state
                     where migration_id = $1 and diffed_generation is distinct from generation) as undiffed",
        )
        .bind(id.0)
        .fetch_one(&self.pool)
        .await?;
        Ok((row.try_get("dirty")?, row.try_get("undiffed")?))
    }

    /// A transaction of the driver: it fails unless the lease holds, and nobody else takes the lease before it ends. The
    /// driver's own renewals wait for it, too.
    pub(crate) async fn driver_tx(&self, held: &DriverLease) -> Result<Transaction<'static, Postgres>, StateError> {
        let mut tx = self.pool.begin().await?;
        let mine: Option<i32> = sqlx::query_scalar(
            "select 1 from migration where id = $1 and driver_token = $2 and epoch = $3 and not purging for share",
        )
        .bind(held.migration_id.0)
        .bind(held.token)
        .bind(held.epoch.0)
        .fetch_optional(&mut *tx)
        .await?;
        if mine.is_none() {
            return Err(StateError::LostLease);
        }
        Ok(tx)
    }
}

/// Cases with their weights, in order, into batches within the limits.
fn cut_by_weight(cases: Vec<(String, i64)>, limits: &CutLimits) -> Vec<Vec<String>> {
    let mut batches = Vec::new();
    let mut batch: Vec<String> = Vec::new();
    let mut weight = 0;
    for (case_id, case_weight) in cases {
        if !batch.is_empty() && (batch.len() >= limits.cases || weight + case_weight > limits.weight) {
            batches.push(std::mem::take(&mut batch));
            weight = 0;
        }
        weight += case_weight;
        batch.push(case_id);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// The buckets of case ids, beside the ids, as arrays to bind.
pub(crate) fn with_buckets(case_ids: &[String]) -> (Vec<i16>, Vec<String>) {
    case_ids.iter().map(|id| (proto::bucket::of(id), id.clone())).unzip()
}

/// Puts cases on record that were not; gives how many.
pub(crate) async fn insert_case_states(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    case_ids: &[String],
) -> Result<u64, StateError> {
    let mut sorted = case_ids.to_vec();
    sorted.sort_unstable_by_key(|case_id| (proto::bucket::of(case_id), case_id.clone()));
    let (buckets, ids) = with_buckets(&sorted);
    let new = sqlx::query(
        "insert into case_state (migration_id, bucket, case_id)
         select $1, bucket, case_id from unnest($2::smallint[], $3::text[]) i(bucket, case_id)
         on conflict do nothing",
    )
    .bind(id.0)
    .bind(&buckets)
    .bind(&ids)
    .execute(&mut **tx)
    .await?
    .rows_affected();
    Ok(new)
}

/// Puts `new` cases on record that were not, and locks them and those of `known` that are on record, all in one pass. Gives
/// how many were not.
pub(crate) async fn insert_and_lock_case_states(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    new: &[String],
    known: &[String],
) -> Result<u64, StateError> {
    let mut cases: BTreeMap<(i16, &str), bool> = BTreeMap::new();
    for (case_ids, is_new) in [(known, false), (new, true)] {
        cases.extend(
            case_ids
                .iter()
                .map(|case_id| ((proto::bucket::of(case_id), case_id.as_str()), is_new)),
        );
    }
    // A row in conflict is locked although it stays as it is.
    Ok(sqlx::query(
        "insert into case_state as s (migration_id, bucket, case_id)
         select $1, i.bucket, i.case_id from unnest($2::smallint[], $3::text[], $4::boolean[]) i(bucket, case_id, is_new)
         where i.is_new or exists (select from case_state k
                                   where k.migration_id = $1 and k.bucket = i.bucket and k.case_id = i.case_id)
         order by i.bucket, i.case_id collate \"C\"
         on conflict (migration_id, bucket, case_id) do update set diffed_generation = s.diffed_generation where false",
    )
    .bind(id.0)
    .bind(cases.keys().map(|(bucket, _)| *bucket).collect::<Vec<_>>())
    .bind(cases.keys().map(|(_, case_id)| *case_id).collect::<Vec<_>>())
    .bind(cases.values().copied().collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?
    .rows_affected())
}

/// Locks the rows of these cases in their order, so that two transactions with the same cases wait for each other instead
/// of deadlocking: the plan of an update may visit them in any order.
pub(crate) async fn lock_case_states(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    case_ids: &[String],
) -> Result<(), StateError> {
    let (buckets, ids) = with_buckets(case_ids);
    sqlx::query(
        "select 1 from unnest($2::smallint[], $3::text[]) i(bucket, case_id)
         join case_state s on s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.case_id
         order by s.bucket, s.case_id for no key update of s",
    )
    .bind(id.0)
    .bind(&buckets)
    .bind(&ids)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(crate) async fn save_cursor(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    scan: &str,
    cursor: &Cursor,
) -> Result<(), StateError> {
    sqlx::query(
        "insert into scan_cursor (migration_id, scan, after_key, after_id, complete, scanned) values ($1, $2, $3, $4, $5, $6)
         on conflict (migration_id, scan) do update
         set after_key = excluded.after_key, after_id = excluded.after_id, complete = excluded.complete,
             scanned = excluded.scanned",
    )
    .bind(id.0)
    .bind(scan)
    .bind(&cursor.after_key)
    .bind(&cursor.after_id)
    .bind(cursor.complete)
    .bind(cursor.scanned)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn cursor_in(executor: impl sqlx::PgExecutor<'_>, id: MigrationId, scan: &str) -> Result<Cursor, StateError> {
    let row = sqlx::query(
        "select after_key, after_id, complete, scanned from scan_cursor where migration_id = $1 and scan = $2",
    )
    .bind(id.0)
    .bind(scan)
    .fetch_optional(executor)
    .await?;
    row.map_or_else(|| Ok(Cursor::default()), |row| cursor_from(&row))
}

pub(crate) fn cursor_from(row: &sqlx::postgres::PgRow) -> Result<Cursor, StateError> {
    Ok(Cursor {
        after_key: row.try_get("after_key")?,
        after_id: row.try_get("after_id")?,
        complete: row.try_get("complete")?,
        scanned: row.try_get("scanned")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_close_by_count_and_by_weight_and_a_heavy_case_goes_alone() {
        let limits = CutLimits {
            cases: 3,
            weight: 10,
            batches: 9,
        };
        let cases = [("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 50), ("f", 6), ("g", 5)];
        let cut = cut_by_weight(
            cases.iter().map(|(id, weight)| ((*id).to_owned(), *weight)).collect(),
            &limits,
        );
        assert_eq!(cut, [vec!["a", "b", "c"], vec!["d"], vec!["e"], vec!["f"], vec!["g"]]);
    }
}
