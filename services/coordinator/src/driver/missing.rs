//! The look at every document of both sides, page by page: is it on the other side, and, at the end of a run, is it still what
//! was migrated?
//!
//! It shares nothing with the scan that migrated them but the view, and asks the target's tables, not our own records. An
//! edit, an archive or a deletion keeps the document's old date, so that no scan by date meets it: it shows here by its
//! revision, and the document is migrated, or the case compared, again.
//!
//! Documents are looked at by ranges that go side by side, and no more than a page of each is ever in memory.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use hqsql::FormPlace;
use proto::doctype::DocType;
use state::look::{Look, LookedAt};
use state::scan::Cursor;

use super::late_actions::without_late_actions;
use super::ranges::{self, Range};
use super::rewound::record_rewound;
use super::{Driver, Step, ruled_forms};

/// Ranges that are looked at at once.
const AT_ONCE: usize = 4;

/// Where a look begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// Where the one before was interrupted, if it was.
    WhereItStood,
    /// At the start.
    Anew,
}

/// Whether documents are compared with what was migrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Only whether they are there.
    Existence,
    /// By their revisions too: what has changed is migrated or compared again.
    Revisions,
}

/// Whether Couch has enough documents of a type for several ranges. SQL has about as many: whatever it has, one range is
/// right, and ranges of a small domain cost more than what is in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Small,
    Large,
}

/// What a look came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Documents that have changed since they were migrated or compared.
    pub(super) changed: u64,
    /// A part of it was looked at by an earlier run.
    pub(super) resumed: bool,
}

/// Looks at all documents.
pub(super) async fn find(driver: &Driver, begin: Begin, depth: Depth) -> Step<Seen> {
    let state = &driver.context.state;
    let mut seen = Seen::default();
    let mut parts = Vec::new();
    let mut begun = Vec::new();
    let mut of_couch = Extent::Small;
    let mut stood = match begin {
        Begin::WhereItStood => state.looks(driver.migration.id).await?,
        Begin::Anew => BTreeMap::new(),
    };
    for look in Look::all() {
        let ranges = if let Some(open) = open_ranges(stood.remove(&look.name()).unwrap_or_default()) {
            seen.resumed |= open.has_moved;
            open.ranges
        } else {
            let ranges = new_ranges(driver, look, of_couch).await?;
            begun.push((look, ranges.iter().map(Range::name).collect()));
            ranges.into_iter().map(|range| (range, Cursor::default())).collect()
        };
        if ranges.len() > 1 {
            of_couch = Extent::Large;
        }
        parts.extend(ranges.into_iter().map(|(range, cursor)| (look, range, cursor)));
    }
    state.begin_looks(&driver.lease, &begun).await?;
    let ends = stream::iter(parts)
        .map(|(look, range, cursor)| look_at(driver, look, range, cursor, depth))
        .buffer_unordered(AT_ONCE)
        .try_fold(Ends::default(), async |sum, end| Ok(sum.with(end)))
        .await?;
    seen.changed = ends.changed + end_together(driver, ends.pages, depth).await?;
    if depth == Depth::Revisions {
        seen.changed += find_vanished(driver).await?;
    }
    Ok(seen)
}

/// Ranges of a look that are not at their end.
struct Open {
    ranges: Vec<(Range, Cursor)>,
    /// An earlier look goes on, and has looked at something.
    has_moved: bool,
}

/// What is left of a look that was interrupted; none when it was not.
fn open_ranges(stood: Vec<(String, Cursor)>) -> Option<Open> {
    let has_moved = stood.iter().any(|(_, cursor)| cursor.has_moved());
    let ranges: Vec<(Range, Cursor)> = stood
        .into_iter()
        .filter(|(_, cursor)| !cursor.complete)
        .map(|(name, cursor)| (Range::parse(&name), cursor))
        .collect();
    (!ranges.is_empty()).then_some(Open { ranges, has_moved })
}

async fn new_ranges(driver: &Driver, look: Look, of_couch: Extent) -> Step<Vec<Range>> {
    match (look, of_couch) {
        (Look::Couch(doc_type), _) => ranges::of_type(driver, doc_type).await,
        (_, Extent::Small) => Ok(vec![Range::default()]),
        (_, Extent::Large) => Ok(Range::of_ids()),
    }
}

/// The last page of a range: not compared with what was migrated yet, nor on record.
struct LastPage {
    looked: LookedAt,
    /// Ids of Couch's documents.
    ids: Vec<String>,
}

/// The end of one range, or of several.
#[derive(Default)]
struct Ends {
    /// Documents of all pages but the last that have changed.
    changed: u64,
    pages: Vec<LastPage>,
}

impl Ends {
    fn with(mut self, end: Self) -> Self {
        self.changed += end.changed;
        self.pages.extend(end.pages);
        self
    }
}

/// Looks at a range from its cursor on. Its last page is left to [`end_together`], unless the range is one of many.
async fn look_at(driver: &Driver, look: Look, range: Range, mut cursor: Cursor, depth: Depth) -> Step<Ends> {
    let mut ends = Ends::default();
    while !cursor.complete {
        let mut ids = Vec::new();
        let missing = match look {
            Look::Couch(doc_type) => {
                ids = driver.page(doc_type, &range, &mut cursor).await?;
                lacking_in_sql(driver, doc_type, ids.clone()).await?
            }
            Look::SqlForms => {
                let forms = lacking_in_couch(driver, &range, &mut cursor).await?;
                set_aside(driver, forms).await?
            }
            Look::SqlCases => unmet_cases(driver, &range, &mut cursor).await?,
        };
        let looked = LookedAt {
            look,
            range: range.name(),
            cursor: cursor.clone(),
            missing,
        };
        let page = LastPage { looked, ids };
        if cursor.complete && range == Range::default() {
            ends.pages.push(page);
        } else {
            ends.changed += end_pages(driver, vec![page], depth).await?;
        }
    }
    Ok(ends)
}

/// Ends ranges with as few questions as there may be: a small domain has a handful of documents in each of a dozen ranges.
/// Gives how many documents have changed.
async fn end_together(driver: &Driver, pages: Vec<LastPage>, depth: Depth) -> Step<u64> {
    let most = driver.context.config.driver.scan_page;
    let mut changed = 0;
    let mut together: Vec<LastPage> = Vec::new();
    let mut documents = 0;
    for page in pages {
        if documents + page.ids.len() > most && !together.is_empty() {
            changed += end_pages(driver, std::mem::take(&mut together), depth).await?;
            documents = 0;
        }
        documents += page.ids.len();
        together.push(page);
    }
    if !together.is_empty() {
        changed += end_pages(driver, together, depth).await?;
    }
    Ok(changed)
}

/// Compares pages with what was migrated, then puts them on record. Gives how many documents have changed.
async fn end_pages(driver: &Driver, pages: Vec<LastPage>, depth: Depth) -> Step<u64> {
    let mut of_couch = Vec::new();
    let mut looked = Vec::with_capacity(pages.len());
    for page in pages {
        if let Look::Couch(doc_type) = page.looked.look
            && !page.ids.is_empty()
        {
            of_couch.push((doc_type, page.ids));
        }
        looked.push(page.looked);
    }
    let changed = match depth {
        Depth::Revisions => changed_since(driver, &of_couch).await?,
        Depth::Existence => 0,
    };
    driver.context.state.record_looks(&driver.lease, &looked).await?;
    Ok(changed)
}

/// Which of these Couch documents SQL lacks.
async fn lacking_in_sql(driver: &Driver, doc_type: DocType, ids: Vec<String>) -> Step<Vec<(String, String)>> {
    let target = &driver.context.target;
    let present = if doc_type.is_form() {
        target.existing_forms(&ids).await?
    } else {
        target.existing_cases(&ids).await?
    };
    let domain = driver.migration.domain.as_str();
    let mut missing: Vec<String> = ids
        .into_iter()
        .filter(|id| present.get(id).is_none_or(|owner| owner != domain))
        .collect();
    if let (Some(cutoff), false) = (driver.cutoff, doc_type.is_form()) {
        missing = without_late_actions(driver, missing, cutoff).await?;
    }
    Ok(missing
        .into_iter()
        .map(|id| (doc_type.as_str().to_owned(), id))
        .collect())
}

/// A page of SQL's forms, on the shard that the cursor stands at: those that Couch lacks. Patch forms and forms that were
/// made of their XML are SQL's own, if they are on record as such: whatever else looks like one is a form that Couch lacks.
async fn lacking_in_couch(driver: &Driver, range: &Range, cursor: &mut Cursor) -> Step<Vec<(String, String)>> {
    let places = sql_page(driver, range, cursor, async |shard, after, limit| {
        let (target, domain) = (&driver.context.target, &driver.migration.domain);
        let until = range.to.as_deref();
        Ok(target.forms_between(shard, domain, after, until, limit).await?)
    })
    .await?;
    let ids: Vec<&str> = places.iter().map(|form| form.form_id.as_str()).collect();
    let absent = absent(driver, &ids).await?;
    let state = &driver.context.state;
    let mut ours = state.patch_forms_among(driver.migration.id, &absent).await?;
    ours.extend(state.lost_forms_among(driver.migration.id, &absent).await?);
    Ok(places
        .into_iter()
        .filter(|form| absent.contains(&form.form_id) && !ours.contains(&form.form_id))
        .map(|form| {
            let kind = docdiff::sqljson::form_doc_type(form.state).to_owned();
            (kind, form.form_id)
        })
        .collect())
}

/// Sets aside what rules of operators drop of these forms, and gives the others.
async fn set_aside(driver: &Driver, forms: Vec<(String, String)>) -> Step<Vec<(String, String)>> {
    if forms.is_empty() {
        return Ok(forms);
    }
    let state = &driver.context.state;
    let rules = service::operator_rules::of_domain(state, driver.migration.id).await?;
    let (open, ignored) = ruled_forms::by_rules(&rules, forms);
    state.set_aside_only_in_sql(&driver.lease, &ignored).await?;
    Ok(open)
}

/// A page of SQL's cases: those that Couch lacks.
async fn unmet_cases(driver: &Driver, range: &Range, cursor: &mut Cursor) -> Step<Vec<(String, String)>> {
    let ids = sql_page(driver, range, cursor, async |shard, after, limit| {
        let (target, domain) = (&driver.context.target, &driver.migration.domain);
        let until = range.to.as_deref();
        Ok(target.case_ids_between(shard, domain, after, until, limit).await?)
    })
    .await?;
    let kind = DocType::CommCareCase.as_str();
    let absent = absent(driver, &ids).await?;
    Ok(absent.into_iter().map(|id| (kind.to_owned(), id)).collect())
}

/// A page of rows of one shard in a range of ids. The cursor's key is the shard's place, its id the last row's.
async fn sql_page<T: HasId>(
    driver: &Driver,
    range: &Range,
    cursor: &mut Cursor,
    read: impl AsyncFnOnce(hqsql::ShardId, Option<&str>, usize) -> Step<Vec<T>>,
) -> Step<Vec<T>> {
    driver.pause(std::time::Duration::ZERO).await?;
    let shards: Vec<_> = driver.context.target.shards().collect();
    let place: usize = cursor
        .after_key
        .as_deref()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let Some(shard) = shards.get(place) else {
        cursor.complete = true;
        return Ok(Vec::new());
    };
    let limit = driver.context.config.driver.scan_page;
    let after = cursor.after_id.as_deref().or(range.from.as_deref());
    let rows = read(*shard, after, limit).await?;
    cursor.scanned += i64::try_from(rows.len()).unwrap_or(0);
    if let Some(last) = rows.last() {
        cursor.after_key = Some(place.to_string());
        cursor.after_id = Some(last.id().to_owned());
    }
    if rows.len() < limit {
        cursor.after_key = Some((place + 1).to_string());
        cursor.after_id = None;
        cursor.complete = place + 1 >= shards.len();
    }
    Ok(rows)
}

trait HasId {
    fn id(&self) -> &str;
}

impl HasId for String {
    fn id(&self) -> &str {
        self
    }
}

impl HasId for FormPlace {
    fn id(&self) -> &str {
        &self.form_id
    }
}

/// Documents that were migrated or compared, and that Couch has no longer: no view lists them.
async fn find_vanished(driver: &Driver) -> Step<u64> {
    let context = &driver.context;
    let state = &context.state;
    let limit = context.config.driver.scan_page;
    let page = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut vanished = 0;
    let mut after = String::new();
    loop {
        driver.pause(std::time::Duration::ZERO).await?;
        let ids = state.staged_after(driver.migration.id, &after, page).await?;
        let Some(last) = ids.last() else { break };
        after.clone_from(last);
        let gone = absent(driver, &ids).await?;
        vanished += gone.len() as u64;
        if !gone.is_empty() {
            state
                .requeue_forms(&driver.lease, &gone, false, context.config.driver.form_batch)
                .await?;
        }
        if ids.len() < limit {
            break;
        }
    }
    after.clear();
    loop {
        driver.pause(std::time::Duration::ZERO).await?;
        let ids = state.compared_after(driver.migration.id, &after, page).await?;
        let Some(last) = ids.last() else { return Ok(vanished) };
        after.clone_from(last);
        let gone = absent(driver, &ids).await?;
        vanished += gone.len() as u64;
        if !gone.is_empty() {
            state.request_diff(&driver.lease, Some(&gone)).await?;
        }
        if ids.len() < limit {
            return Ok(vanished);
        }
    }
}

pub(super) async fn absent(driver: &Driver, ids: &[impl AsRef<str>]) -> Step<Vec<String>> {
    let present = driver.context.forms_db.all_docs_exist(ids).await?;
    Ok(present
        .into_iter()
        .filter(|(_, rev)| rev.is_none())
        .map(|(id, _)| id)
        .collect())
}

/// Has documents, by type, that are not what was migrated or compared migrated or compared again. Gives how many.
async fn changed_since(driver: &Driver, documents: &[(DocType, Vec<String>)]) -> Step<u64> {
    let context = &driver.context;
    let ids: Vec<&String> = documents.iter().flat_map(|(_, ids)| ids).collect();
    if ids.is_empty() {
        return Ok(0);
    }
    let present = context.forms_db.all_docs_exist(&ids).await?;
    let revisions: BTreeMap<String, String> = present.into_iter().filter_map(|(id, rev)| Some((id, rev?))).collect();
    let by_type: Vec<(DocType, Vec<(String, String)>)> = documents
        .iter()
        .map(|(doc_type, ids)| {
            let known = ids.iter().filter_map(|id| revisions.get_key_value(id));
            (*doc_type, known.map(|(id, rev)| (id.clone(), rev.clone())).collect())
        })
        .collect();
    // A live case is staged by its forms.
    let (live_cases, staged): (Vec<_>, Vec<_>) = by_type
        .into_iter()
        .partition(|(doc_type, _)| *doc_type == DocType::CommCareCase);
    record_rewound(driver, &staged).await?;
    let cases: Vec<(String, String)> = live_cases
        .iter()
        .chain(&staged)
        .filter(|(doc_type, _)| !doc_type.is_form())
        .flat_map(|(_, revisions)| revisions.iter().cloned())
        .collect();
    let state = &context.state;
    let batch = context.config.driver.form_batch;
    let mut changed = 0;
    if !cases.is_empty() {
        changed += state.rediff_changed(&driver.lease, &cases).await?;
    }
    let live: Vec<String> = documents
        .iter()
        .filter(|(doc_type, _)| *doc_type == DocType::CommCareCase)
        .flat_map(|(_, ids)| ids.iter().cloned())
        .collect();
    let mut again = 0;
    if !live.is_empty() {
        again += state.requeue_revived(&driver.lease, &live, batch).await?;
    }
    if !staged.is_empty() {
        again += state.requeue_changed(&driver.lease, &staged, batch).await?;
    }
    Ok(changed + u64::try_from(again).unwrap_or(u64::MAX))
}

/// Asks SQL again for the documents on the list of those that it lacks, and takes off the list what is there now.
pub(super) async fn recheck(driver: &Driver) -> Step<u64> {
    let context = &driver.context;
    let page = i64::try_from(context.config.driver.scan_page).unwrap_or(i64::MAX);
    let domain = driver.migration.domain.as_str();
    let mut after = (String::new(), String::new());
    let mut forgotten = 0;
    loop {
        driver.pause(std::time::Duration::ZERO).await?;
        let place = (after.0.as_str(), after.1.as_str());
        let listed = context.state.missing_after(driver.migration.id, place, page).await?;
        let Some(last) = listed.last() else {
            return Ok(forgotten);
        };
        after.clone_from(last);
        let (cases, forms): (Vec<_>, Vec<_>) = listed
            .into_iter()
            .partition(|(kind, _)| kind.starts_with("CommCareCase"));
        let ids = |list: &[(String, String)]| -> Vec<String> { list.iter().map(|(_, id)| id.clone()).collect() };
        let mut present = context.target.existing_forms(&ids(&forms)).await?;
        present.extend(context.target.existing_cases(&ids(&cases)).await?);
        let there: Vec<(String, String)> = forms
            .into_iter()
            .chain(cases)
            .filter(|(_, id)| present.get(id).is_some_and(|owner| owner == domain))
            .collect();
        forgotten += context.state.forget_missing(&driver.lease, &there).await?;
    }
}
