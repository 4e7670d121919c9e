//! The reader of a source's feed of changes. Every driver that follows tries to be it; the lease in the state schema lets one,
//! and that one reads for all followed domains. When it ends, another takes over where it stood.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use couch::{Change, ChangesPage};
use proto::doctype::DocType;
use serde::Deserialize;
use serde_json::Value;
use state::follow::{ChangedDoc, FeedLease};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::place::{self, Source};
use super::{Driver, Step, ids};
use crate::context::Context;
use crate::failure::Result;

/// Documents of a page, with their bodies; a page above the client's limit of bytes is asked for in parts.
pub(super) const PAGE: usize = 500;
/// Pause between two looks at a feed that had nothing more.
const PAUSE: Duration = Duration::from_secs(1);
/// Pause between two looks at how far another reader has come.
const LOOK: Duration = Duration::from_millis(100);

/// What the reader wants to know of a document. Values may be of any kind: whoever wrote them did not ask us.
#[derive(Deserialize)]
pub(super) struct Header {
    domain: Option<Value>,
    doc_type: Option<Value>,
    received_on: Option<Value>,
    opened_on: Option<Value>,
}

/// A reader in the background, for as long as this lives.
pub(super) struct FeedReader {
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl FeedReader {
    /// Begins to read, or to wait for its turn.
    pub(super) fn start(context: &Arc<Context>) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(read_on(Arc::clone(context), stop.clone()));
        Self { stop, task: Some(task) }
    }

    /// Ends it, and gives the lease back.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // A panic of the reader is no reason to lose the run.
            let _ = task.await;
        }
    }
}

impl Drop for FeedReader {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn read_on(context: Arc<Context>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        match take(&context).await {
            Ok(Some(mut lease)) => {
                let read = tokio::select! {
                    () = stop.cancelled() => Ok(()),
                    read = tenure(&context, &mut lease) => read.map(|never| match never {}),
                };
                // Without its lease: another process reads by now.
                if let Err(failure) = read
                    && !failure.is_lost_lease()
                {
                    tracing::warn!(code = failure.code, "the feed of changes: {failure}");
                }
                if let Err(error) = context.state.drop_feed(&lease).await {
                    tracing::warn!(code = error.code(), "the reader's lease could not be given back");
                }
            }
            Ok(None) => {}
            Err(failure) => tracing::warn!(code = failure.code, "the feed of changes: {failure}"),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

async fn take(context: &Context) -> Result<Option<FeedLease>> {
    let time = context.config.worker.lease;
    Ok(context
        .state
        .take_feed(&context.forms_db.address(), &context.name, time)
        .await?)
}

/// Reads until something fails or the lease is lost.
async fn tenure(context: &Context, lease: &mut FeedLease) -> Result<Infallible> {
    is_same(context, lease).await?;
    loop {
        if read_page(context, lease).await? {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Makes sure that every change until now is on record: reads the feed to its end, or waits until another reader has.
pub(super) async fn catch_up(driver: &Driver) -> Step<()> {
    let context = &driver.context;
    let asked = context.state.now().await?;
    loop {
        let follow = context.state.following(driver.migration.id).await?;
        let caught_up = follow.and_then(|follow| follow.caught_up_at);
        if caught_up.is_some_and(|at| at >= asked) {
            return Ok(());
        }
        if let Some(mut lease) = take(context).await? {
            let read = to_the_end(driver, &mut lease).await;
            context.state.drop_feed(&lease).await?;
            return read;
        }
        driver.pause(LOOK).await?;
    }
}

async fn to_the_end(driver: &Driver, lease: &mut FeedLease) -> Step<()> {
    is_same(&driver.context, lease).await?;
    while !read_page(&driver.context, lease).await? {
        driver.pause(Duration::ZERO).await?;
    }
    Ok(())
}

/// Whether the source is still the one that the place is of. Otherwise the sequence means nothing: the feed begins anew, and
/// every domain looks at everything again.
async fn is_same(context: &Context, lease: &mut FeedLease) -> Result<bool> {
    match place::source_of(context, &lease.place).await? {
        Source::Same => return Ok(true),
        Source::Another => tracing::warn!(
            code = "C2S-4080",
            "the source is another database than the one whose changes were followed"
        ),
        Source::WentBack => tracing::warn!(
            code = "C2S-4200",
            "the source has older revisions of documents than those that its changes told of: it was restored"
        ),
    }
    restart(context, lease).await?;
    Ok(false)
}

async fn restart(context: &Context, lease: &mut FeedLease) -> Result<()> {
    let now = place::now(context).await?;
    Ok(context.state.restart_feed(lease, now).await?)
}

/// Reads a page and puts it on record. True: nothing is behind it.
async fn read_page(context: &Context, lease: &mut FeedLease) -> Result<bool> {
    let asked = context.state.now().await?;
    let page = match context.forms_db.changes::<Header>(&lease.place.seq, PAGE).await? {
        ChangesPage::Read(page) => page,
        ChangesPage::UnknownSequence => {
            tracing::warn!(
                code = "C2S-4081",
                "the source does not know the sequence that its changes were read to"
            );
            restart(context, lease).await?;
            return Ok(false);
        }
    };
    let at_end = page.is_last();
    // Whoever waits for this end relies on it.
    if at_end && !is_same(context, lease).await? {
        return Ok(false);
    }
    let found: Vec<ChangedDoc> = page.changes.into_iter().filter_map(changed).collect();
    let pending = page.pending.and_then(|pending| i64::try_from(pending).ok());
    let time = context.config.worker.lease;
    context
        .state
        .record_changes(lease, time, &found, &page.last_seq, pending, at_end.then_some(asked))
        .await?;
    Ok(at_end)
}

/// A change as it concerns the domains; none for the database's own documents, and for those that no stage can take: the look
/// at all documents lists them.
pub(super) fn changed(change: Change<Header>) -> Option<ChangedDoc> {
    if change.id.starts_with("_design/") || !ids::is_usable(&change.id) {
        return None;
    }
    let text = |value: &Option<Value>| value.as_ref().and_then(Value::as_str).map(str::to_owned);
    let header = change.document.filter(|_| !change.deleted);
    let doc_type = header
        .as_ref()
        .and_then(|header| DocType::parse(header.doc_type.as_ref()?.as_str()?));
    let dated = header.as_ref().zip(doc_type).and_then(|(header, doc_type)| {
        text(if doc_type.is_form() {
            &header.received_on
        } else {
            &header.opened_on
        })
    });
    Some(ChangedDoc {
        doc_id: change.id,
        rev: change.rev,
        domain: header.as_ref().and_then(|header| text(&header.domain)),
        doc_type,
        dated,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change(document: Value, deleted: bool) -> Change<Header> {
        Change {
            id: "x".to_owned(),
            rev: Some("2-b".to_owned()),
            deleted,
            document: serde_json::from_value(document).ok(),
        }
    }

    #[test]
    fn a_change_tells_domain_type_and_the_date_of_the_view() {
        let cases = [
            (
                json!({"domain": "d", "doc_type": "XFormArchived", "received_on": "r", "opened_on": "o"}),
                (Some("d"), Some(DocType::XFormArchived), Some("r")),
            ),
            (
                json!({"domain": "d", "doc_type": "CommCareCase-Deleted", "received_on": "r", "opened_on": "o"}),
                (Some("d"), Some(DocType::CommCareCaseDeleted), Some("o")),
            ),
            (
                json!({"domain": "d", "doc_type": "XFormInstance", "received_on": 7}),
                (Some("d"), Some(DocType::XFormInstance), None),
            ),
            (
                json!({"domain": "d", "doc_type": "CommCareUser"}),
                (Some("d"), None, None),
            ),
            (json!({"domain": 3, "doc_type": {"odd": 1}}), (None, None, None)),
        ];
        for (document, expected) in cases {
            let found = changed(change(document.clone(), false)).unwrap_or_default();
            assert_eq!(
                (found.domain.as_deref(), found.doc_type, found.dated.as_deref()),
                expected,
                "{document}"
            );
        }
        let gone = changed(change(json!({"domain": "d", "doc_type": "XFormInstance"}), true)).unwrap_or_default();
        assert_eq!(
            (gone.domain, gone.doc_type, gone.rev.as_deref()),
            (None, None, Some("2-b"))
        );
        let design = Change {
            id: "_design/d".to_owned(),
            ..change(json!({}), false)
        };
        assert_eq!(changed(design), None);
        let unusable = Change {
            id: "a\0b".to_owned(),
            ..change(json!({"domain": "d", "doc_type": "XFormInstance"}), false)
        };
        assert_eq!(changed(unusable), None);
    }
}
