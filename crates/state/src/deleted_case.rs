//! Soft-deleted cases: their documents are inputs of their cases' replays.

use sqlx::{Postgres, Transaction};

use crate::StateError;
use crate::batch::Claim;
use crate::scan::with_buckets;

/// A soft-deleted case that was staged.
#[derive(Clone, Debug)]
pub struct StagedDeletedCase {
    /// Case.
    pub case_id: String,
    /// Revision that was staged.
    pub rev: String,
    /// [`DocStanding::begun`](crate::form_stage::DocStanding::begun) of this writing.
    pub begun: i64,
    /// Encoded `CaseEvent`.
    pub payload: Vec<u8>,
}

/// Takes back the seeds of deleted cases that are no longer there, or no longer deleted; the cases become dirty.
pub(crate) async fn unstage(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    gone: &[String],
) -> Result<(), StateError> {
    let (buckets, ids) = with_buckets(gone);
    sqlx::query(
        "with gone as (
             delete from case_event e using unnest($2::smallint[], $3::text[]) i(bucket, case_id)
             where e.migration_id = $1 and e.bucket = i.bucket and e.case_id = i.case_id and e.kind = 'copied_deleted'
             returning e.bucket, e.case_id
         )
         insert into dirty_case (migration_id, bucket, case_id) select $1, bucket, case_id from gone",
    )
    .bind(claim.migration_id.0)
    .bind(&buckets)
    .bind(&ids)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Puts the seeds of deleted cases on record; the cases become dirty.
pub(crate) async fn stage(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    cases: &[&StagedDeletedCase],
) -> Result<(), StateError> {
    let mut sorted = cases.to_vec();
    sorted.sort_unstable_by(|a, b| a.case_id.cmp(&b.case_id));
    for case in sorted {
        sqlx::query(
            "with event as (
                 insert into case_event (migration_id, bucket, case_id, kind, payload) values ($1, $2, $3, 'copied_deleted', $4)
                 on conflict (migration_id, bucket, case_id, kind) do update set payload = excluded.payload
             )
             insert into dirty_case (migration_id, bucket, case_id) values ($1, $2, $3)",
        )
        .bind(claim.migration_id.0)
        .bind(proto::bucket::of(&case.case_id))
        .bind(&case.case_id)
        .bind(&case.payload)
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}
