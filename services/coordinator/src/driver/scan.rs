//! Scans: which documents there are. Ids only; the workers read the documents.

use chrono::{DateTime, Utc};
use couch::{Cursor as ViewCursor, ViewPage};
use proto::doctype::DocType;
use proto::ids::Domain;
use state::StateError;
use state::scan::{Cursor, Scanned, form_scan};

use super::ranges::{self, Range};
use super::{Driver, Step, ids};
use crate::context::Context;
use crate::failure::Failure;

/// HQ's view of documents by domain, type and date.
pub(crate) const DESIGN: &str = "by_domain_doc_type_date";
/// Its only view.
pub(crate) const VIEW: &str = "view";

/// Types whose documents are staged: all forms, and the deleted cases. Live cases are what their forms make of them.
pub(super) fn staged_types() -> impl Iterator<Item = DocType> {
    DocType::FORMS.into_iter().chain([DocType::CommCareCaseDeleted])
}

/// A page request of the domain's documents of one type, up to a cut-off if there is one; none when nothing can be left.
///
/// The view's date is the document's own text. The cut-off is compared with it as text, which is right for the dates that HQ
/// writes; null comes before it, and whatever sorts after it waits for the last run, which has no cut-off.
fn page_of(
    domain: &Domain,
    doc_type: DocType,
    range: &Range,
    cursor: &Cursor,
    limit: usize,
    cutoff: Option<DateTime<Utc>>,
) -> Result<Option<ViewPage>, StateError> {
    let Some(end_key) = ranges::end_key(domain.as_str(), doc_type, range, cutoff) else {
        return Ok(None);
    };
    let after = match (&cursor.after_key, &cursor.after_id) {
        (Some(key), Some(id)) => Some(ViewCursor {
            key: serde_json::from_str(key).map_err(|_| StateError::Corrupt("scan cursor"))?,
            id: ids::of_cursor(id).ok_or(StateError::Corrupt("scan cursor"))?,
        }),
        _ => None,
    };
    if after
        .as_ref()
        .is_some_and(|after| ranges::is_past(&after.key, &end_key))
    {
        return Ok(None);
    }
    Ok(Some(ViewPage {
        design: DESIGN.to_owned(),
        view: VIEW.to_owned(),
        start_key: Some(ranges::start_key(domain.as_str(), doc_type, range)),
        end_key: Some(end_key),
        after,
        limit,
    }))
}

impl Driver {
    /// The next page of ids of the domain's documents of a type in a range, up to the run's cut-off. The cursor moves behind
    /// it; the caller records both together. Ids that the databases cannot take go on record here, and no further.
    pub(super) async fn page(&self, doc_type: DocType, range: &Range, cursor: &mut Cursor) -> Step<Vec<String>> {
        self.page_until(doc_type, range, cursor, self.cutoff).await
    }

    async fn page_until(
        &self,
        doc_type: DocType,
        range: &Range,
        cursor: &mut Cursor,
        cutoff: Option<DateTime<Utc>>,
    ) -> Step<Vec<String>> {
        self.pause(std::time::Duration::ZERO).await?;
        let limit = self.context.config.driver.scan_page;
        let domain = &self.migration.domain;
        let Some(request) = page_of(domain, doc_type, range, cursor, limit, cutoff)? else {
            cursor.complete = true;
            return Ok(Vec::new());
        };
        let page = self.context.forms_db.view_page(&request).await?;
        advance(cursor, &page);
        let (usable, unusable): (Vec<String>, Vec<String>) = page
            .rows
            .into_iter()
            .map(|row| row.id)
            .partition(|id| ids::is_usable(id));
        self.set_aside(doc_type, &unusable).await?;
        Ok(usable)
    }
}

/// A page request of the documents that the view lists after a scan's cursor, whatever their date.
pub(super) fn request_after(
    domain: &Domain,
    doc_type: DocType,
    cursor: &Cursor,
    limit: usize,
) -> Result<ViewPage, StateError> {
    let request = page_of(domain, doc_type, &Range::default(), cursor, limit, None)?;
    // Only a cut-off leaves nothing to ask for.
    request.ok_or(StateError::Corrupt("scan cursor"))
}

/// A page of the documents that the view lists after a scan's cursor, whatever their date.
///
/// # Errors
/// Couch's.
pub async fn scan_page_after(
    context: &Context,
    domain: &Domain,
    doc_type: DocType,
    cursor: &Cursor,
    limit: usize,
) -> Result<couch::Page, Failure> {
    let request = request_after(domain, doc_type, cursor, limit)?;
    Ok(context.forms_db.view_page(&request).await?)
}

/// Moves a cursor to the end of a page.
pub(super) fn advance(cursor: &mut Cursor, page: &couch::Page) {
    if let Some(last) = page.cursor() {
        cursor.after_key = Some(last.key.to_string());
        cursor.after_id = Some(ids::for_cursor(&last.id));
    }
    cursor.scanned += i64::try_from(page.rows.len()).unwrap_or(0);
    cursor.complete = page.end;
}

/// Lets every scan look past its end again.
pub(super) async fn reopen(driver: &Driver) -> Step<()> {
    let scans: Vec<String> = staged_types().map(form_scan).collect();
    Ok(driver.context.state.reopen_scans(&driver.lease, &scans).await?)
}

/// Scans all types, from where each scan stands, by windows: the ids of a window are sorted before they are cut into batches,
/// since Couch reads documents of neighbouring ids at a fraction of the cost of random ones. Types with less than a batch of
/// documents wait for each other: those of a small domain are put on record together.
pub(super) async fn scan_all(driver: &Driver) -> Step<()> {
    let state = &driver.context.state;
    let settings = &driver.context.config.driver;
    let mut found: Vec<Scanned> = Vec::new();
    let mut documents = 0;
    for (doc_type, mut cursor) in state.form_cursors(driver.migration.id, staged_types()).await? {
        while !cursor.complete {
            let mut ids = Vec::new();
            while !cursor.complete && ids.len() < settings.scan_window {
                ids.extend(driver.page(doc_type, &Range::default(), &mut cursor).await?);
            }
            if driver.unmet_only && !ids.is_empty() {
                ids = state.unmet(driver.migration.id, &ids).await?;
            }
            ids.sort_unstable();
            documents += ids.len();
            found.push(Scanned {
                doc_type,
                cursor: cursor.clone(),
                batches: ids.chunks(settings.form_batch).map(<[String]>::to_vec).collect(),
            });
            if documents >= settings.form_batch {
                state.insert_scanned(&driver.lease, &found).await?;
                found.clear();
                documents = 0;
            }
        }
    }
    if !found.is_empty() {
        state.insert_scanned(&driver.lease, &found).await?;
    }
    Ok(())
}

/// Records every case of either side, so that the diff looks at them all: those of Couch, those of SQL, and (already on
/// record) those that were replayed.
pub(super) async fn record_all_cases(driver: &Driver) -> Step<()> {
    let state = &driver.context.state;
    let settings = &driver.context.config.driver;
    // A finish that relies on the feed does not come here again, so that one that follows records the late ones too; they
    // are compared when the cut-off has come to their last change.
    let until = driver.cutoff.filter(|_| driver.reader.is_none());
    for doc_type in [DocType::CommCareCase, DocType::CommCareCaseDeleted] {
        let scan = format!("case:{doc_type}");
        let mut cursor = Cursor::default();
        while !cursor.complete {
            let ids = driver
                .page_until(doc_type, &Range::default(), &mut cursor, until)
                .await?;
            state.record_cases(&driver.lease, &scan, &cursor, &ids).await?;
        }
    }
    let target = &driver.context.target;
    for shard in target.shards() {
        let scan = format!("sql:{shard}");
        let mut cursor = Cursor::default();
        while !cursor.complete {
            driver.pause(std::time::Duration::ZERO).await?;
            let after = cursor.after_id.as_deref();
            let ids = target
                .case_ids_after(shard, &driver.migration.domain, after, settings.scan_page)
                .await?;
            cursor.complete = ids.len() < settings.scan_page;
            cursor.after_id = ids.last().cloned().or(cursor.after_id);
            cursor.scanned += i64::try_from(ids.len()).unwrap_or(0);
            state.record_cases(&driver.lease, &scan, &cursor, &ids).await?;
        }
    }
    Ok(())
}

/// Counts documents of a type by paging through their keys: for views without a reduce.
pub(super) async fn count(context: &Context, domain: &Domain, doc_type: DocType) -> Result<i64, Failure> {
    let mut cursor = Cursor::default();
    while !cursor.complete {
        let page = scan_page_after(context, domain, doc_type, &cursor, context.config.driver.scan_page).await?;
        advance(&mut cursor, &page);
    }
    Ok(cursor.scanned)
}
