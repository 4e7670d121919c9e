//! Orders of forms: a comparison proposes one, the replay tries it, the next comparison keeps or withdraws it.
//!
//! ```text
//!   differences, and Couch's order is another one --> proposed --> replay --> compared --+--> nothing left: kept
//!                                                                                        `--> withdrawn --> replay
//! ```
//!
//! A withdrawn order is not proposed again, so that the loop ends: after at most two replays a case is settled, unless its
//! forms or its Couch document change. A kept order stays an input of every later replay.

use sqlx::{Postgres, Transaction};

use crate::batch::Claim;
use crate::diff_stage::CaseComparison;
use crate::scan::with_buckets;
use crate::{MigrationId, StateError};

/// Kind of the event that an order is.
const EVENT: &str = "order_override";

/// What a comparison says of the order of a case's forms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FormOrder {
    /// No difference is left that another order could take away.
    #[default]
    Agreed,
    /// Differences are left, and Couch applied the forms in the same order, or not the same forms.
    Unresolved,
    /// Differences are left, and Couch applied the same forms in this order: an encoded `CaseEvent`.
    Wanted(Vec<u8>),
}

/// What becomes of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It counts.
    Settle,
    /// It counts, and the order that was tried stays.
    Keep,
    /// It does not count: the case is replayed in another order first.
    Propose,
    /// It does not count: the case is replayed in the ordinary order first.
    Withdraw,
}

/// The order on record for a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OnRecord {
    standing: Standing,
    /// It is the one that the comparison wants.
    is_wanted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Proposed,
    Kept,
    Withdrawn,
}

fn decide(found: &FormOrder, on_record: Option<OnRecord>) -> Decision {
    let standing = on_record.map(|order| order.standing);
    match (found, standing) {
        (FormOrder::Agreed, Some(Standing::Proposed)) => Decision::Keep,
        (FormOrder::Unresolved, Some(Standing::Proposed)) => Decision::Withdraw,
        (FormOrder::Agreed | FormOrder::Unresolved, _) => Decision::Settle,
        (FormOrder::Wanted(_), Some(standing)) if on_record.is_some_and(|order| order.is_wanted) => match standing {
            // The replay could not put the forms into that order.
            Standing::Proposed | Standing::Kept => Decision::Withdraw,
            Standing::Withdrawn => Decision::Settle,
        },
        (FormOrder::Wanted(_), _) => Decision::Propose,
    }
}

/// What becomes of each of these comparisons, in their order.
pub(crate) async fn decisions(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    comparisons: &[&CaseComparison],
) -> Result<Vec<Decision>, StateError> {
    let ids: Vec<String> = comparisons.iter().map(|found| found.case_id.clone()).collect();
    let (buckets, ids) = with_buckets(&ids);
    let wanted: Vec<Option<&[u8]>> = comparisons.iter().map(|found| wanted(found)).collect();
    let rows: Vec<(Option<String>, Option<bool>)> = sqlx::query_as(
        "select o.standing, o.digest = sha256(i.payload)
         from unnest($2::smallint[], $3::text[], $4::bytea[]) with ordinality i(bucket, case_id, payload, place)
         left join case_order o on o.migration_id = $1 and o.bucket = i.bucket and o.case_id = i.case_id
         order by i.place",
    )
    .bind(id.0)
    .bind(&buckets)
    .bind(&ids)
    .bind(&wanted)
    .fetch_all(&mut **tx)
    .await?;
    comparisons
        .iter()
        .zip(rows)
        .map(|(found, (standing, same))| {
            let standing = match standing.as_deref() {
                None => return Ok(decide(&found.order, None)),
                Some("proposed") => Standing::Proposed,
                Some("kept") => Standing::Kept,
                Some("withdrawn") => Standing::Withdrawn,
                Some(_) => return Err(StateError::Corrupt("standing of an order of forms")),
            };
            let is_wanted = same == Some(true);
            Ok(decide(&found.order, Some(OnRecord { standing, is_wanted })))
        })
        .collect()
}

fn wanted(found: &CaseComparison) -> Option<&[u8]> {
    match &found.order {
        FormOrder::Wanted(payload) => Some(payload),
        FormOrder::Agreed | FormOrder::Unresolved => None,
    }
}

/// Puts decisions on record. The cases whose order changes become dirty.
pub(crate) async fn apply(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    decided: &[(&CaseComparison, Decision)],
) -> Result<(), StateError> {
    if decided.iter().all(|(_, decision)| *decision == Decision::Settle) {
        return Ok(());
    }
    let chosen = |wanted: Decision| {
        let of_it = decided.iter().filter(|(_, decision)| *decision == wanted);
        of_it.map(|(found, _)| found.case_id.clone()).collect::<Vec<_>>()
    };
    for (found, _) in decided.iter().filter(|(_, decision)| *decision == Decision::Propose) {
        if let Some(payload) = wanted(found) {
            propose(tx, claim, &found.case_id, payload).await?;
        }
    }
    let (buckets, ids) = with_buckets(&chosen(Decision::Keep));
    sqlx::query(
        "update case_order o set standing = 'kept', decided_at = now() from unnest($2::smallint[], $3::text[]) i(bucket, case_id)
         where o.migration_id = $1 and o.bucket = i.bucket and o.case_id = i.case_id",
    )
    .bind(claim.migration_id.0)
    .bind(&buckets)
    .bind(&ids)
    .execute(&mut **tx)
    .await?;
    let (buckets, ids) = with_buckets(&chosen(Decision::Withdraw));
    sqlx::query(
        "with case_of as (select * from unnest($2::smallint[], $3::text[]) i(bucket, case_id)),
         gone as (
             delete from case_event e using case_of i
             where e.migration_id = $1 and e.bucket = i.bucket and e.case_id = i.case_id and e.kind = $4
         ),
         withdrawn as (
             update case_order o set standing = 'withdrawn', decided_at = now() from case_of i
             where o.migration_id = $1 and o.bucket = i.bucket and o.case_id = i.case_id
         )
         insert into dirty_case (migration_id, bucket, case_id) select $1, bucket, case_id from case_of",
    )
    .bind(claim.migration_id.0)
    .bind(&buckets)
    .bind(&ids)
    .bind(EVENT)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn propose(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    case_id: &str,
    payload: &[u8],
) -> Result<(), StateError> {
    sqlx::query(
        "with event as (
             insert into case_event (migration_id, bucket, case_id, kind, payload) values ($1, $2, $3, $4, $5)
             on conflict (migration_id, bucket, case_id, kind) do update set payload = excluded.payload
         ),
         standing as (
             insert into case_order (migration_id, bucket, case_id, standing, digest)
             values ($1, $2, $3, 'proposed', sha256($5))
             on conflict (migration_id, bucket, case_id)
             do update set standing = 'proposed', digest = excluded.digest, decided_at = now()
         )
         insert into dirty_case (migration_id, bucket, case_id) values ($1, $2, $3)",
    )
    .bind(claim.migration_id.0)
    .bind(proto::bucket::of(case_id))
    .bind(case_id)
    .bind(EVENT)
    .bind(payload)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (what the comparison says, the order on record and whether it is the wanted one, what becomes of it)
    #[test]
    fn what_becomes_of_a_comparison() {
        use Decision::{Keep, Propose, Settle, Withdraw};
        use Standing::{Kept, Proposed, Withdrawn};

        let wanted = || FormOrder::Wanted(b"order".to_vec());
        let table = [
            (FormOrder::Agreed, None, Settle),
            (FormOrder::Agreed, Some((Proposed, false)), Keep),
            (FormOrder::Agreed, Some((Kept, false)), Settle),
            (FormOrder::Agreed, Some((Withdrawn, false)), Settle),
            (FormOrder::Unresolved, None, Settle),
            (FormOrder::Unresolved, Some((Proposed, false)), Withdraw),
            (FormOrder::Unresolved, Some((Kept, false)), Settle),
            (FormOrder::Unresolved, Some((Withdrawn, false)), Settle),
            (wanted(), None, Propose),
            (wanted(), Some((Proposed, true)), Withdraw),
            (wanted(), Some((Proposed, false)), Propose),
            (wanted(), Some((Kept, true)), Withdraw),
            (wanted(), Some((Kept, false)), Propose),
            (wanted(), Some((Withdrawn, true)), Settle),
            (wanted(), Some((Withdrawn, false)), Propose),
        ];
        for (found, on_record, expected) in table {
            let order = on_record.map(|(standing, is_wanted)| OnRecord { standing, is_wanted });
            assert_eq!(decide(&found, order), expected, "{found:?} {on_record:?}");
        }
    }
}
