//! The look at every document of both sides, page by page: is it on the other side, and, at the end of a run, is it still what
//! was migrated?
//!
//! It shares nothing with the scan that migrated them but the view, and asks the target's tables, not our own records. An
//! edit, an archive or a deletion keeps the document's old date, so that no scan by date meets it: it shows here by its
//! revision, and the document is migrated, or the case compared, again.
//!
//! Documents are looked at by ranges that go side by side, and no more than a page of each is ever in memory.

use chrono::{DateTime, Utc};
use couch::Outcome;
use futures::{StreamExt, TryStreamExt, stream};
use hqsql::FormPlace;
use proto::doctype::DocType;
use serde_json::Value;
use state::look::Look;
use state::scan::Cursor;

use super::ranges::{self, Range};
use super::{Driver, Step};

/// Ranges that are looked at at once.
const AT_ONCE: usize = 4;
/// Bytes of Couch cases that one range holds at once, as JSON text.
const READ_BYTES: usize = 4 * 1024 * 1024;

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
    let mut seen = Seen::default();
    let mut parts = Vec::new();
    let mut of_couch = Extent::Small;
    for look in Look::all() {
        let (ranges, resumed) = begin_look(driver, look, begin, of_couch).await?;
        seen.resumed |= resumed;
        if ranges.len() > 1 {
            of_couch = Extent::Large;
        }
        parts.extend(ranges.into_iter().map(|(range, cursor)| (look, range, cursor)));
    }
    seen.changed = stream::iter(parts)
        .map(|(look, range, cursor)| look_at(driver, look, range, cursor, depth))
        .buffer_unordered(AT_ONCE)
        .try_fold(0, async |sum, changed| Ok(sum + changed))
        .await?;
    if depth == Depth::Revisions {
        seen.changed += find_vanished(driver).await?;
    }
    Ok(seen)
}

/// The ranges of a look that are not at their end, and whether an earlier one goes on.
async fn begin_look(driver: &Driver, look: Look, begin: Begin, of_couch: Extent) -> Step<(Vec<(Range, Cursor)>, bool)> {
    let state = &driver.context.state;
    if begin == Begin::WhereItStood {
        let stood = state.look(driver.migration.id, &look.name()).await?;
        if stood.iter().any(|(_, cursor)| !cursor.complete) {
            let begun = stood.iter().any(|(_, cursor)| cursor.has_moved());
            let open = stood.into_iter().filter(|(_, cursor)| !cursor.complete);
            return Ok((
                open.map(|(name, cursor)| (Range::parse(&name), cursor)).collect(),
                begun,
            ));
        }
    }
    let ranges = match look {
        Look::Couch(doc_type) => ranges::of_type(driver, doc_type).await?,
        Look::SqlForms | Look::SqlCases => match of_couch {
            Extent::Small => vec![Range::default()],
            Extent::Large => Range::of_ids(),
        },
    };
    let names: Vec<String> = ranges.iter().map(Range::name).collect();
    state.begin_look(&driver.lease, &look, &names).await?;
    Ok((
        ranges.into_iter().map(|range| (range, Cursor::default())).collect(),
        false,
    ))
}

/// Looks at a range from its cursor on. Gives how many documents have changed.
async fn look_at(driver: &Driver, look: Look, range: Range, mut cursor: Cursor, depth: Depth) -> Step<u64> {
    let mut changed = 0;
    let name = range.name();
    while !cursor.complete {
        let missing = match look {
            Look::Couch(doc_type) => {
                let ids = driver.page(doc_type, &range, &mut cursor).await?;
                if depth == Depth::Revisions {
                    changed += changed_since(driver, doc_type, &ids).await?;
                }
                lacking_in_sql(driver, doc_type, ids).await?
            }
            Look::SqlForms => lacking_in_couch(driver, &range, &mut cursor).await?,
            Look::SqlCases => unmet_cases(driver, &range, &mut cursor).await?,
        };
        driver
            .context
            .state
            .record_look(&driver.lease, &look, &name, &cursor, &missing)
            .await?;
    }
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
    let page = i64::try_from(context.config.driver.scan_page).unwrap_or(i64::MAX);
    let mut vanished = 0;
    let mut after = String::new();
    loop {
        driver.pause(std::time::Duration::ZERO).await?;
        let ids = state.staged_after(driver.migration.id, &after, page).await?;
        let Some(last) = ids.last() else { break };
        after.clone_from(last);
        let gone = absent(driver, &ids).await?;
        vanished += gone.len() as u64;
        state
            .requeue_forms(&driver.lease, &gone, false, context.config.driver.form_batch)
            .await?;
    }
    after.clear();
    loop {
        driver.pause(std::time::Duration::ZERO).await?;
        let ids = state.compared_after(driver.migration.id, &after, page).await?;
        let Some(last) = ids.last() else { return Ok(vanished) };
        after.clone_from(last);
        let gone = absent(driver, &ids).await?;
        vanished += gone.len() as u64;
        state.request_diff(&driver.lease, Some(&gone)).await?;
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

/// Without the cases of which a form is later than the cut-off: `opened_on`, by which the view lists cases, is the phone's.
async fn without_late_actions(driver: &Driver, missing: Vec<String>, cutoff: DateTime<Utc>) -> Step<Vec<String>> {
    if missing.is_empty() {
        return Ok(missing);
    }
    let mut kept = Vec::with_capacity(missing.len());
    let mut reader = driver.context.forms_db.bounded_reader(READ_BYTES);
    let mut left = missing.as_slice();
    while !left.is_empty() {
        let read = reader.next(left).await?;
        left = &left[read.len()..];
        for fetched in read {
            if !matches!(&fetched.outcome, Outcome::Found(case) if has_late_action(case, cutoff)) {
                kept.push(fetched.id);
            }
        }
    }
    Ok(kept)
}

fn has_late_action(case: &Value, cutoff: DateTime<Utc>) -> bool {
    let actions = case.get("actions").and_then(Value::as_array);
    actions.into_iter().flatten().any(|action| {
        let date = action.get("server_date").and_then(Value::as_str);
        date.and_then(docdiff::couch_date).is_some_and(|date| date > cutoff)
    })
}

async fn changed_since(driver: &Driver, doc_type: DocType, ids: &[String]) -> Step<u64> {
    let context = &driver.context;
    let present = context.forms_db.all_docs_exist(ids).await?;
    let revisions: Vec<(String, String)> = present
        .into_iter()
        .filter_map(|(id, rev)| rev.map(|rev| (id, rev)))
        .collect();
    let batch = context.config.driver.form_batch;
    let state = &context.state;
    if doc_type != DocType::CommCareCase {
        record_rewound(driver, doc_type, &revisions).await?;
    }
    let is_case = matches!(doc_type, DocType::CommCareCase | DocType::CommCareCaseDeleted);
    let rediffed = if is_case {
        state.rediff_changed(&driver.lease, &revisions).await?
    } else {
        0
    };
    let staged = if doc_type == DocType::CommCareCase {
        state.requeue_revived(&driver.lease, ids, batch).await?
    } else {
        state
            .requeue_changed(&driver.lease, doc_type, &revisions, batch)
            .await?
    };
    Ok(rediffed + u64::try_from(staged).unwrap_or(u64::MAX))
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

/// Documents of which Couch has an older revision than the one that was migrated. They are read once more before they are
/// held against Couch: one node of a cluster may be behind the others for a moment.
pub(super) async fn record_rewound(driver: &Driver, doc_type: DocType, revisions: &[(String, String)]) -> Step<()> {
    let state = &driver.context.state;
    let suspects = state.rewound(driver.migration.id, revisions).await?;
    if suspects.is_empty() {
        return Ok(());
    }
    let again = driver.context.forms_db.all_docs_exist(&suspects).await?;
    let again: Vec<(String, String)> = again.into_iter().filter_map(|(id, rev)| Some((id, rev?))).collect();
    let rewound = state.record_rewound(&driver.lease, doc_type, &again).await?;
    if rewound > 0 {
        tracing::warn!(
            code = "C2S-2360",
            documents = rewound,
            doc_type = doc_type.as_str(),
            "Couch has older revisions of documents than those that were migrated"
        );
    }
    Ok(())
}
