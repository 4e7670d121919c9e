//! Two workers with the same document: whose outcome counts, and what is to be looked at again.

use std::collections::{HashMap, HashSet};

use proto::doctype::DocType;
use sqlx::{Postgres, Transaction};

use crate::StateError;
use crate::batch::Claim;
use crate::form_stage::FormResults;
use crate::revisions::{failed_revisions, rev_number};

/// Where others have been faster, or slower, than we.
pub(crate) struct Overtaken<'a> {
    /// Documents of the results whose outcome is somebody else's.
    pub(crate) newer: HashSet<&'a str>,
    /// Documents that are gone, and that nobody has begun to write since.
    pub(crate) buried: Vec<String>,
    /// Documents that are gone for one and there for another.
    pub(crate) again: Vec<String>,
}

/// Documents of the results of which somebody has read a newer revision, or that somebody has begun to write or bury after
/// us: theirs is the outcome that counts. The rows stay locked until the transaction ends: a newer revision that begins
/// meanwhile waits, and then finds what we staged. `outlived` are documents that are looked at again whatever is found here.
pub(crate) async fn overtaken<'a>(
    tx: &mut Transaction<'_, Postgres>,
    claim: &Claim,
    results: &'a FormResults,
    outlived: Vec<String>,
) -> Result<Overtaken<'a>, StateError> {
    let forms = results
        .forms
        .iter()
        .map(|form| (form.form_id.as_str(), form.rev.as_str(), Some(form.begun)));
    let cases = results
        .deleted_cases
        .iter()
        .map(|case| (case.case_id.as_str(), case.rev.as_str(), Some(case.begun)));
    // The last one counts: a document may be written and have an error on record beside that.
    let read: HashMap<&str, (&str, Option<i64>)> = failed_revisions(results)
        .map(|(id, _, rev)| (id, rev, None))
        .chain(forms)
        .chain(cases)
        .map(|(id, rev, begun)| (id, (rev, begun)))
        .collect();
    let gone = results.gone.iter().map(String::as_str);
    let newest: Vec<(String, i32, String, i64, bool, bool)> = sqlx::query_as(
        "select d.doc_id, d.rev_number, d.rev, d.begun, d.deleted,
                exists (select from doc_error e where e.migration_id = $1 and e.doc_id = d.doc_id and e.rev = d.rev)
         from doc_revision d where d.migration_id = $1 and d.doc_id = any($2)
         order by d.doc_id for no key update of d",
    )
    .bind(claim.migration_id.0)
    .bind(read.keys().copied().chain(gone).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    // A patch is not a document of Couch: its next attempt begins at the case.
    let is_of_couch = claim.doc_type != DocType::CommCareCase;
    let mut again = if is_of_couch { outlived } else { Vec::new() };
    let mut newer = HashSet::new();
    let mut last_begun: HashMap<&str, i64> = HashMap::with_capacity(newest.len());
    for (doc_id, number, newest_rev, last, deleted, has_failed) in &newest {
        last_begun.insert(doc_id, *last);
        let Some((id, (rev, begun))) = read.get_key_value(doc_id.as_str()) else {
            continue;
        };
        if (*number, newest_rev.as_str()) > (rev_number(rev), *rev) || begun.is_some_and(|begun| begun < *last) {
            newer.insert(*id);
            // We may have written the row after it was to be removed, since the document is gone or fails as it is now.
            if (*deleted || (*has_failed && is_of_couch)) && begun.is_some() {
                again.push(doc_id.clone());
            }
        }
    }
    let mut buried = Vec::with_capacity(results.gone.len());
    for id in &results.gone {
        let is_last = last_begun.get(id.as_str()) == results.burials.get(id) && results.burials.contains_key(id);
        if is_last { &mut buried } else { &mut again }.push(id.clone());
    }
    Ok(Overtaken { newer, buried, again })
}
