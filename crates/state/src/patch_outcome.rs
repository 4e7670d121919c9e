//! What became of patches, inside the transactions of those who find it out.

use std::collections::{HashMap, HashSet};

use proto::doctype::DocType;
use proto::topology::Stage;
use sqlx::{Postgres, Transaction};

use crate::batch::{Claim, insert_batch};
use crate::patch::{PatchFormRecord, PatchRefusal, PatchResults};
use crate::records::RecordTable;
use crate::scan::{lock_case_states, with_buckets};
use crate::{MigrationId, StateError};

/// Kind of the event that corrects ledgers beside a patch form, whose id follows.
pub(crate) const LEDGER_CORRECTION: &str = "ledger_correction/";

fn correction_of(form_id: &str) -> String {
    format!("{LEDGER_CORRECTION}{form_id}")
}

/// Records what came of a batch of patches. Of a form whose outcome is somebody else's (`newer`) nothing is recorded. The
/// cases of forms that are there for one and gone for another (`again`) are patched again, which finds what is left of them.
/// To be called with the forms' revisions and the states of the batch's cases locked.
pub(crate) async fn finish(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    results: &PatchResults,
    newer: &HashSet<&str>,
    again: &[String],
) -> Result<(), StateError> {
    let id = claim.migration_id;
    record_refusals(tx, id, &results.refused).await?;
    let (overtaken, patched): (Vec<&PatchFormRecord>, Vec<&PatchFormRecord>) = results
        .patched
        .iter()
        .partition(|patch| newer.contains(patch.form_id.as_str()));
    record_patched(tx, id, &patched).await?;
    let case_of: HashMap<&str, &str> = patched
        .iter()
        .map(|patch| (patch.form_id.as_str(), patch.case_id.as_str()))
        .collect();
    for (form_id, payload) in &results.corrections {
        let Some(case_id) = case_of.get(form_id.as_str()) else {
            continue;
        };
        sqlx::query(
            "insert into case_event (migration_id, bucket, case_id, kind, payload) values ($1, $2, $3, $4, $5)
             on conflict (migration_id, bucket, case_id, kind) do update set payload = excluded.payload",
        )
        .bind(id.0)
        .bind(proto::bucket::of(case_id))
        .bind(case_id)
        .bind(correction_of(form_id))
        .bind(payload)
        .execute(&mut **tx)
        .await?;
    }
    let (buckets, ids) = with_buckets(&results.outdated);
    sqlx::query(
        "update case_state s set diffed_generation = null from unnest($2::smallint[], $3::text[]) i(bucket, case_id)
         where s.migration_id = $1 and s.bucket = i.bucket and s.case_id = i.case_id",
    )
    .bind(id.0)
    .bind(&buckets)
    .bind(&ids)
    .execute(&mut **tx)
    .await?;
    patch_again(tx, id, &overtaken, again).await
}

/// Has cases patched again whose patch forms are there for one and gone for another. Our own may have left a row in the
/// target after somebody has given it up: it goes on record once more, so that the next attempt finds it.
async fn patch_again(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    overtaken: &[&PatchFormRecord],
    again: &[String],
) -> Result<(), StateError> {
    if again.is_empty() {
        return Ok(());
    }
    let ours: Vec<&PatchFormRecord> = overtaken
        .iter()
        .copied()
        .filter(|patch| again.contains(&patch.form_id))
        .collect();
    put_on_record(tx, id, &ours).await?;
    let cases: Vec<String> = sqlx::query_scalar(
        "select distinct case_id from patch_form where migration_id = $1 and form_id = any($2) order by 1",
    )
    .bind(id.0)
    .bind(again)
    .fetch_all(&mut **tx)
    .await?;
    let (stage, doc_type) = (Stage::Form.as_str(), DocType::CommCareCase.as_str());
    if cases.is_empty() {
        return Ok(());
    }
    insert_batch(tx, id.0, stage, doc_type, &cases, None).await
}

/// Puts patch forms on record that are not there.
pub(crate) async fn put_on_record(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    patches: &[&PatchFormRecord],
) -> Result<(), StateError> {
    sqlx::query(
        "insert into patch_form (migration_id, form_id, case_id, record)
         select $1, form_id, case_id, record from unnest($2::text[], $3::text[], $4::text[]) i(form_id, case_id, record)
         order by form_id on conflict do nothing",
    )
    .bind(id.0)
    .bind(patches.iter().map(|patch| patch.form_id.as_str()).collect::<Vec<_>>())
    .bind(patches.iter().map(|patch| patch.case_id.as_str()).collect::<Vec<_>>())
    .bind(patches.iter().map(|patch| patch.table.as_str()).collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Takes patch forms among these forms off the record, with all that goes with them: they are buried, or given up. To be
/// called with the forms' revisions locked.
pub(crate) async fn forget(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    form_ids: &[impl AsRef<str>],
) -> Result<Vec<PatchFormRecord>, StateError> {
    if form_ids.is_empty() {
        return Ok(Vec::new());
    }
    let form_ids: Vec<&str> = form_ids.iter().map(AsRef::as_ref).collect();
    let cases: Vec<String> =
        sqlx::query_scalar("select distinct case_id from patch_form where migration_id = $1 and form_id = any($2)")
            .bind(id.0)
            .bind(&form_ids)
            .fetch_all(&mut **tx)
            .await?;
    if cases.is_empty() {
        return Ok(Vec::new());
    }
    lock_case_states(tx, id, &cases).await?;
    let forgotten: Vec<(String, String, String)> = sqlx::query_as(
        "with gone as materialized (
             select form_id from patch_form where migration_id = $1 and form_id = any($2) order by form_id for update
         )
         delete from patch_form p using gone where p.migration_id = $1 and p.form_id = gone.form_id
         returning p.form_id, p.case_id, p.record",
    )
    .bind(id.0)
    .bind(&form_ids)
    .fetch_all(&mut **tx)
    .await?;
    let forgotten = forgotten
        .into_iter()
        .map(|(form_id, case_id, record)| {
            let table = RecordTable::parse(&record)?;
            Ok(PatchFormRecord {
                form_id,
                case_id,
                table,
            })
        })
        .collect::<Result<Vec<_>, StateError>>()?;
    let (buckets, of_forms): (Vec<i16>, Vec<&str>) = forgotten
        .iter()
        .map(|patch| (proto::bucket::of(&patch.case_id), patch.case_id.as_str()))
        .unzip();
    sqlx::query(
        "delete from case_event e using unnest($2::smallint[], $3::text[], $4::text[]) i(bucket, case_id, kind)
         where e.migration_id = $1 and e.bucket = i.bucket and e.case_id = i.case_id and e.kind = i.kind",
    )
    .bind(id.0)
    .bind(&buckets)
    .bind(&of_forms)
    .bind(
        forgotten
            .iter()
            .map(|patch| correction_of(&patch.form_id))
            .collect::<Vec<_>>(),
    )
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "delete from patched_case c where migration_id = $1 and case_id = any($2)
           and not exists (select 1 from patch_form p where p.migration_id = $1 and p.case_id = c.case_id and p.staged)",
    )
    .bind(id.0)
    .bind(&cases)
    .execute(&mut **tx)
    .await?;
    sqlx::query("delete from blob_change where migration_id = $1 and parent_id = any($2) and origin = 'patch'")
        .bind(id.0)
        .bind(forgotten.iter().map(|patch| patch.form_id.as_str()).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await?;
    Ok(forgotten)
}

async fn record_patched(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    patched: &[&PatchFormRecord],
) -> Result<(), StateError> {
    if patched.is_empty() {
        return Ok(());
    }
    let id = id.0;
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
    let mut sorted: Vec<&PatchRefusal> = refused.iter().collect();
    sorted.sort_unstable_by_key(|refusal| (&refusal.doc_id, refusal.table.as_str()));
    for refusal in sorted {
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

/// Gives up patch forms among these refused forms, with the code and the message of each: there is no document that could be
/// mended, so that the record keeps the reason, and the case is replayed without the form. Gives those that were given up.
/// To be called with the forms' revisions locked.
pub(crate) async fn give_up(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    refused: &HashMap<&str, (&str, &str)>,
) -> Result<HashSet<String>, StateError> {
    let id = claim.migration_id;
    let form_ids: Vec<&str> = refused.keys().copied().collect();
    let patches = forget(tx, id, &form_ids).await?;
    if patches.is_empty() {
        return Ok(HashSet::new());
    }
    let refusals: Vec<PatchRefusal> = patches
        .iter()
        .filter_map(|patch| {
            let (code, message) = *refused.get(patch.form_id.as_str())?;
            Some(PatchRefusal {
                doc_id: patch.case_id.clone(),
                kind: DocType::CommCareCase.as_str().to_owned(),
                table: patch.table,
                code: code.to_owned(),
                message: message.to_owned(),
            })
        })
        .collect();
    record_refusals(tx, id, &refusals).await?;
    let form_ids: Vec<&str> = patches.iter().map(|patch| patch.form_id.as_str()).collect();
    crate::form_stage::unstage(tx, claim, &form_ids).await?;
    sqlx::query(
        "update doc_revision set deleted = true, begun = begun + 1 where migration_id = $1 and doc_id = any($2)",
    )
    .bind(id.0)
    .bind(&form_ids)
    .execute(&mut **tx)
    .await?;
    Ok(patches.into_iter().map(|patch| patch.form_id).collect())
}
