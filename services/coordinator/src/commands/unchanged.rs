//! What `COMMIT` asks of the source's feed of changes: is every document of the domain still as it was migrated?

use proto::doctype::DocType;
use service::names;
use state::Migration;
use state::follow::ChangedDoc;

use crate::context::Context;
use crate::driver::{ChangedSince, changed_since};
use crate::failure::{Failure, Result};

/// Refuses when documents were edited or deleted since the last look, or when nobody can tell.
///
/// # Errors
/// The refusal.
pub(super) async fn check(context: &Context, migration: &Migration) -> Result<()> {
    let domain = &migration.domain;
    match changed_since(context, migration, |_| true).await? {
        ChangedSince::Known { count: 0, .. } => Ok(()),
        ChangedSince::Known { count, first } => Err(Failure::new(
            "C2S-4131",
            format!(
                "{count} documents of {domain} were changed or deleted in Couch after the last look at them: {}",
                listed(&first, count)
            ),
            "run MIGRATE again",
        )),
        ChangedSince::Unknown => Err(Failure::new(
            "C2S-4130",
            format!("nobody can tell whether documents of {domain} were changed in Couch after the last look at them"),
            "the source is another database than the one that was looked at, or has forgotten the place; if it is the right one, run MIGRATE again",
        )),
    }
}

/// Raises the alarm when documents were changed in Couch too late: on record, where `stats` shows them, in the log, and as a
/// metric. Gives how many, without the forms that are known to be late. Whether it can be told or not, the domain is on SQL
/// by now.
pub(super) async fn record_late_changes(
    context: &Context,
    migration: &Migration,
    late: &[(String, String)],
) -> Result<usize> {
    // A living case changes with its forms.
    let concerns =
        |doc: &ChangedDoc| doc.doc_type != Some(DocType::CommCareCase) && !late.iter().any(|(_, id)| *id == doc.doc_id);
    let (count, first) = match changed_since(context, migration, concerns).await? {
        ChangedSince::Known { count, first } => (count, first),
        ChangedSince::Unknown => {
            tracing::warn!(
                code = "C2S-4130",
                "nobody can tell whether documents were changed in Couch while the domain was switched"
            );
            return Ok(0);
        }
    };
    if count == 0 {
        return Ok(0);
    }
    context.state.record_late_forms(migration.id, &first).await?;
    metrics::counter!(names::LATE_FORMS).increment(u64::try_from(count).unwrap_or(u64::MAX));
    tracing::error!(
        code = "C2S-4132",
        documents = count,
        "documents were changed in Couch while the domain was switched"
    );
    eprintln!(
        "C2S-4132: {count} documents were changed or deleted in Couch after the last look at them; SQL has them as they were: {}",
        listed(&first, count)
    );
    Ok(count)
}

fn listed(first: &[(String, String)], count: usize) -> String {
    let mut text = first.iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>().join(", ");
    if first.len() < count {
        text.push_str(", …");
    }
    text
}
