//! What became of patches, inside the transactions of those who find it out.

use proto::doctype::DocType;
use sqlx::{Postgres, Transaction};

use crate::batch::Claim;
use crate::case_stage::Verdict;
use crate::patch::{LEDGER_CORRECTION, PatchFormRecord, PatchRefusal, PatchResults};
use crate::scan::with_buckets;
use crate::stats::RecordTable;
use crate::{MigrationId, StateError};

/// Records what came of a batch of patches. `gone` are forms that were given up.
pub(crate) async fn finish(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    results: &PatchResults,
    gone: &[String],
) -> Result<(), StateError> {
    let id = claim.migration_id.0;
    if !gone.is_empty() {
        sqlx::query("delete from patch_form where migration_id = $1 and form_id = any($2) and not staged")
            .bind(id)
            .bind(gone)
            .execute(&mut **tx)
            .await?;
    }
    record_refusals(tx, claim.migration_id, &results.refused).await?;
    if !results.patched.is_empty() {
        record_patched(tx, claim, &results.patched).await?;
    }
    for (case_id, payload) in &results.corrections {
        sqlx::query(
            "insert into case_event (migration_id, bucket, case_id, kind, payload) values ($1, $2, $3, $4, $5)
             on conflict (migration_id, bucket, case_id, kind) do update set payload = excluded.payload",
        )
        .bind(id)
        .bind(proto::bucket::of(case_id))
        .bind(case_id)
        .bind(LEDGER_CORRECTION)
        .bind(payload)
        .execute(&mut **tx)
        .await?;
    }
    let (buckets, ids) = with_buckets(&results.outdated);
    sqlx::query(
        "update case_state s set diffed_generation = null
         from (select s.bucket, s.case_id from unnest($2::smallint[], $3::text[]) i(bucket, case_id)
               join case_state s on s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.case_id
               order by s.bucket, s.case_id for no key update of s) i
         where s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.case_id",
    )
    .bind(id)
    .bind(&buckets)
    .bind(&ids)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn record_patched(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    patched: &[PatchFormRecord],
) -> Result<(), StateError> {
    let id = claim.migration_id.0;
    let forms: Vec<&str> = patched.iter().map(|patch| patch.form_id.as_str()).collect();
    let cases: Vec<&str> = patched.iter().map(|patch| patch.case_id.as_str()).collect();
    let tables: Vec<&str> = patched.iter().map(|patch| patch.table.as_str()).collect();
    sqlx::query("update patch_form set staged = true where migration_id = $1 and form_id = any($2)")
        .bind(id)
        .bind(&forms)
        .execute(&mut **tx)
        .await?;
    sqlx::query(
        "delete from patch_refusal p using unnest($2::text[], $3::text[]) i(doc_id, record)
         where p.migration_id = $1 and p.doc_id = i.doc_id and p.record = i.record",
    )
    .bind(id)
    .bind(&cases)
    .bind(&tables)
    .execute(&mut **tx)
    .await?;
    // A case that SQL lacked is being made. If nothing comes of it, its comparison says so, and the next look at all ids.
    sqlx::query("delete from missing_doc where migration_id = $1 and kind = 'CommCareCase' and doc_id = any($2)")
        .bind(id)
        .bind(&cases)
        .execute(&mut **tx)
        .await?;
    sqlx::query(
        "insert into patched_case (migration_id, case_id) select distinct $1, case_id from unnest($2::text[]) i(case_id)
         order by 2 on conflict do nothing",
    )
    .bind(id)
    .bind(&cases)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn record_refusals(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    refused: &[PatchRefusal],
) -> Result<(), StateError> {
    for refusal in refused {
        sqlx::query(
            "insert into patch_refusal (migration_id, doc_id, record, kind, code, message) values ($1, $2, $3, $4, $5, $6)
             on conflict (migration_id, doc_id, record) do update
             set kind = excluded.kind, code = excluded.code, message = excluded.message, refused_at = now()",
        )
        .bind(id.0)
        .bind(&refusal.doc_id)
        .bind(refusal.table.as_str())
        .bind(&refusal.kind)
        .bind(&refusal.code)
        .bind(&refusal.message)
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// Verdicts on patch forms: there is no document that could be mended, so that the patch is given up, its record keeps the
/// reason, and the case is replayed without it. Gives the verdicts on other forms.
pub(crate) async fn give_up<'a>(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    verdicts: &'a [Verdict],
) -> Result<Vec<&'a Verdict>, StateError> {
    let id = claim.migration_id.0;
    let form_ids: Vec<&str> = verdicts.iter().map(|verdict| verdict.form_id.as_str()).collect();
    let patches: Vec<(String, String, String)> = sqlx::query_as(
        "delete from patch_form where migration_id = $1 and form_id = any($2) returning form_id, case_id, record",
    )
    .bind(id)
    .bind(&form_ids)
    .fetch_all(&mut **tx)
    .await?;
    if patches.is_empty() {
        return Ok(verdicts.iter().collect());
    }
    let (mut refused, mut others) = (Vec::new(), Vec::new());
    for verdict in verdicts {
        match patches.iter().find(|(form_id, _, _)| *form_id == verdict.form_id) {
            None => others.push(verdict),
            Some((_, case_id, record)) => refused.push(PatchRefusal {
                doc_id: case_id.clone(),
                kind: DocType::CommCareCase.as_str().to_owned(),
                table: RecordTable::parse(record)?,
                code: verdict.code.clone(),
                message: verdict.message.clone(),
            }),
        }
    }
    record_refusals(tx, claim.migration_id, &refused).await?;
    let form_ids: Vec<&str> = patches.iter().map(|(form_id, _, _)| form_id.as_str()).collect();
    let case_ids: Vec<String> = patches.iter().map(|(_, case_id, _)| case_id.clone()).collect();
    crate::form_stage::unstage(tx, claim, &form_ids).await?;
    let (buckets, ids) = with_buckets(&case_ids);
    sqlx::query(
        "update doc_revision set deleted = true, begun = begun + 1 where migration_id = $1 and doc_id = any($2)",
    )
    .bind(id)
    .bind(&form_ids)
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "delete from case_event e using unnest($2::smallint[], $3::text[]) i(bucket, case_id)
         where e.migration_id = $1 and e.bucket = i.bucket and e.case_id = i.case_id and e.kind = $4",
    )
    .bind(id)
    .bind(&buckets)
    .bind(&ids)
    .bind(LEDGER_CORRECTION)
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "delete from patched_case c where migration_id = $1 and case_id = any($2)
           and not exists (select 1 from patch_form p where p.migration_id = $1 and p.case_id = c.case_id and p.staged)",
    )
    .bind(id)
    .bind(&ids)
    .execute(&mut **tx)
    .await?;
    Ok(others)
}
