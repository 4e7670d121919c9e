//! A place in the source's feed of changes: where it stands, and whether a place that is on record still means anything.

use state::place::{Place, WITNESSES};

use super::ids;
use crate::context::Context;
use crate::failure::Result;

/// What a source is, seen from a place that is on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The database that the place is of; all that it had then, it has still, or newer.
    Same,
    /// Another database.
    Another,
    /// The same by name, and with documents that are older than they were: it was restored from a back-up.
    WentBack,
}

/// Where the source stands now. Its sequence is read last: if the source goes back meanwhile, the witnesses tell.
pub(super) async fn now(context: &Context) -> Result<Place> {
    let db = &context.forms_db;
    let identity = db.identity().await?;
    let mut witnesses = db.newest_changes(WITNESSES).await?;
    witnesses.retain(|(id, _)| ids::is_usable(id));
    Ok(Place {
        identity,
        seq: db.info().await?.update_seq,
        witnesses,
    })
}

/// What the source is now. Whoever relies on pages asks after having read them.
pub(super) async fn source_of(context: &Context, place: &Place) -> Result<Source> {
    let db = &context.forms_db;
    if db.identity().await? != place.identity {
        return Ok(Source::Another);
    }
    Ok(if db.went_back(&place.witnesses).await? {
        Source::WentBack
    } else {
        Source::Same
    })
}
