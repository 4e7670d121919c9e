//! What has changed in the source since the last look at all documents of a domain, by its feed of changes: an edit, an archive
//! or a deletion keeps the document's date, so that no view shows it.

use couch::ChangesPage;
use proto::doctype::DocType;
use state::Migration;
use state::follow::ChangedDoc;

use super::feed::{Header, PAGE, changed};
use super::place::{self, Source};
use crate::context::Context;
use crate::failure::Result;

/// Documents that are named at most.
const NAMED: usize = 20;
/// The type of those that are gone, or are of the domain no longer.
const GONE: &str = "gone";

/// What has changed since the last look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangedSince {
    /// So many documents of the domain, and the first of them as (type, id); none is as it was migrated or compared.
    Known {
        /// How many.
        count: usize,
        /// The first of them.
        first: Vec<(String, String)>,
    },
    /// Nobody knows: the look was not taken down, the database is another one by now or went back, or it does not know the
    /// place.
    Unknown,
}

/// Reads the feed from the last look to its end, and keeps what concerns the caller.
///
/// # Errors
/// Those of Couch and of the state schema.
pub async fn changed_since(
    context: &Context,
    migration: &Migration,
    concerns: impl Fn(&ChangedDoc) -> bool,
) -> Result<ChangedSince> {
    let Some(looked) = context.state.looked(migration.id).await? else {
        return Ok(ChangedSince::Unknown);
    };
    // A sequence is asked only of the database that it is of.
    if place::source_of(context, &looked).await? != Source::Same {
        return Ok(ChangedSince::Unknown);
    }
    let db = &context.forms_db;
    let (mut count, mut first) = (0, Vec::new());
    let mut since = looked.seq.clone();
    loop {
        let ChangesPage::Read(page) = db.changes::<Header>(&since, PAGE).await? else {
            return Ok(ChangedSince::Unknown);
        };
        let at_end = page.is_last();
        since = page.last_seq;
        let docs: Vec<_> = page.changes.into_iter().filter_map(changed).filter(&concerns).collect();
        let others = context.state.not_as_recorded(migration.id, &docs).await?;
        count += others.len();
        for id in others.into_iter().take(NAMED - first.len()) {
            let doc_type = docs.iter().find(|doc| doc.doc_id == id).and_then(|doc| doc.doc_type);
            first.push((doc_type.map_or(GONE, DocType::as_str).to_owned(), id));
        }
        if at_end {
            break;
        }
    }
    // It may have been restored while it was read.
    Ok(match place::source_of(context, &looked).await? {
        Source::Same => ChangedSince::Known { count, first },
        Source::Another | Source::WentBack => ChangedSince::Unknown,
    })
}
