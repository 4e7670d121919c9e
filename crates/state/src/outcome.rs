//! What is on record for documents: errors, diffs, lists.

use std::collections::BTreeMap;

use sqlx::{Postgres, Transaction};

use crate::batch::Claim;
use crate::form_stage::{FailedDoc, StagedForm};
use crate::operator_rules::{Ignored, Of, replace_ignored};
use crate::revisions::lock_revisions;
use crate::scan::lock_case_states;
use crate::{MigrationId, StateError};

/// The error of a document.
pub(crate) struct DocError<'a> {
    pub(crate) kind: &'a str,
    pub(crate) doc_id: &'a str,
    pub(crate) code: &'a str,
    pub(crate) message: &'a str,
    pub(crate) rev: Option<&'a str>,
}

/// Diffs, lists and errors of a batch. A document that is settled, since it went through or is gone, loses what was on record
/// against it.
pub(crate) async fn record_outcomes(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    forms: &[&StagedForm],
    failed: &[&FailedDoc],
    settled: Vec<&str>,
    ignored: &[Ignored],
) -> Result<(), StateError> {
    let id = claim.migration_id.0;
    for sql in [
        "delete from doc_error where migration_id = $1 and doc_id = any($2) and kind <> 'CommCareCase'",
        "delete from doc_diff where migration_id = $1 and doc_id = any($2) and kind not like 'CommCareCase%'",
        "delete from missing_doc where migration_id = $1 and doc_id = any($2) and kind not like 'CommCareCase%'",
        "delete from no_action_case_form where migration_id = $1 and form_id = any($2)",
        "delete from problem_form where migration_id = $1 and form_id = any($2)",
    ] {
        sqlx::query(sql).bind(id).bind(&settled).execute(&mut **tx).await?;
    }
    replace_ignored(tx, claim.migration_id, Of::Forms, &settled, ignored).await?;
    let noop: Vec<&str> = forms
        .iter()
        .filter(|form| form.has_noop_block)
        .map(|form| form.form_id.as_str())
        .collect();
    let problem: Vec<&str> = forms
        .iter()
        .filter(|form| form.is_problem_form)
        .map(|form| form.form_id.as_str())
        .collect();
    for (sql, list) in [
        (
            "insert into no_action_case_form (migration_id, form_id) select $1, unnest($2::text[]) on conflict do nothing",
            noop,
        ),
        (
            "insert into problem_form (migration_id, form_id) select $1, unnest($2::text[]) on conflict do nothing",
            problem,
        ),
    ] {
        if !list.is_empty() {
            sqlx::query(sql).bind(id).bind(&list).execute(&mut **tx).await?;
        }
    }
    for form in forms {
        if let Some(diffs) = &form.diffs {
            sqlx::query(
                "insert into doc_diff (migration_id, kind, doc_id, diffs, couch_rev) values ($1, $2, $3, $4, $5)
                 on conflict (migration_id, kind, doc_id) do update
                 set diffs = excluded.diffs, couch_rev = excluded.couch_rev, compared_at = now()",
            )
            .bind(id)
            .bind(&form.kind)
            .bind(&form.form_id)
            .bind(diffs)
            .bind(&form.rev)
            .execute(&mut **tx)
            .await?;
        }
    }
    let errors = failed.iter().map(|doc| DocError {
        kind: &doc.kind,
        doc_id: &doc.doc_id,
        code: &doc.code,
        message: &doc.message,
        rev: doc.rev.as_deref(),
    });
    record_errors(tx, claim.migration_id, errors.collect()).await?;
    let missing = failed
        .iter()
        .filter(|doc| doc.missing)
        .map(|doc| (doc.kind.as_str(), doc.doc_id.as_str()));
    record_missing_docs(tx, claim.migration_id, missing.collect()).await
}

/// Locks documents, as (kind, id), whose records are about to change outside of their stages.
pub(crate) async fn lock_documents<'a>(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    documents: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<(), StateError> {
    let (cases, forms): (Vec<_>, Vec<_>) = documents.partition(|(kind, _)| kind.starts_with("CommCareCase"));
    let forms: Vec<&str> = forms.into_iter().map(|(_, doc_id)| doc_id).collect();
    lock_revisions(tx, id, &forms).await?;
    let cases: Vec<String> = cases.into_iter().map(|(_, doc_id)| doc_id.to_owned()).collect();
    lock_case_states(tx, id, &cases).await
}

/// Records errors of documents; the newest one of each stands.
pub(crate) async fn record_errors(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    errors: Vec<DocError<'_>>,
) -> Result<(), StateError> {
    if errors.is_empty() {
        return Ok(());
    }
    // One row a document, and in the order of the key: two transactions with the same documents must not deadlock.
    let newest: BTreeMap<(&str, &str), DocError<'_>> = errors
        .into_iter()
        .map(|error| ((error.kind, error.doc_id), error))
        .collect();
    sqlx::query(
        "insert into doc_error (migration_id, kind, doc_id, code, message, rev)
         select $1, kind, doc_id, code, message, rev
         from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) i(kind, doc_id, code, message, rev)
         on conflict (migration_id, kind, doc_id) do update
         set code = excluded.code, message = excluded.message, rev = excluded.rev, last_at = now()",
    )
    .bind(id.0)
    .bind(newest.values().map(|error| error.kind).collect::<Vec<_>>())
    .bind(newest.values().map(|error| error.doc_id).collect::<Vec<_>>())
    .bind(newest.values().map(|error| error.code).collect::<Vec<_>>())
    .bind(newest.values().map(|error| error.message).collect::<Vec<_>>())
    .bind(newest.values().map(|error| error.rev).collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Puts documents, as (kind, id), on the list of those that SQL lacks.
pub(crate) async fn record_missing_docs(
    tx: &mut Transaction<'_, Postgres>,
    id: MigrationId,
    mut docs: Vec<(&str, &str)>,
) -> Result<(), StateError> {
    if docs.is_empty() {
        return Ok(());
    }
    docs.sort_unstable();
    let (kinds, ids): (Vec<&str>, Vec<&str>) = docs.into_iter().unzip();
    sqlx::query(
        "insert into missing_doc (migration_id, kind, doc_id) select $1, kind, id from unnest($2::text[], $3::text[]) i(kind, id)
         on conflict do nothing",
    )
    .bind(id.0)
    .bind(&kinds)
    .bind(&ids)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
