//! `MIGRATE --rebuild-state`: what is on record is checked against both databases, and what does not agree is done again.
//!
//! The record may lie after one of the databases was restored from a back-up, or after somebody has written to HQ's tables by
//! hand. Everything found is put into the queues of the ordinary stages, which write nothing where nothing differs; so this
//! may be done at any time, and as often as anybody likes.

use proto::doctype::DocType;
use serde_json::Value;
use state::scan::{Cursor, form_scan};

use super::scan::{advance, staged_types};
use super::{Driver, Step, ids, scanned_page};

/// What did not agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    /// Documents that are migrated again.
    documents: usize,
    /// Cases that are replayed again.
    cases: usize,
    /// Forms of SQL that neither the record nor Couch knows: patch forms, for example. They are left alone.
    only_in_sql: usize,
}

/// Checks what earlier runs have put on record.
pub(super) async fn check(driver: &Driver) -> Step<()> {
    let mut found = Found::default();
    for doc_type in staged_types() {
        found.documents += documents(driver, doc_type).await?;
    }
    unknown_forms(driver, &mut found).await?;
    found.cases += cases(driver).await?;
    tracing::warn!(
        documents = found.documents,
        cases = found.cases,
        only_in_sql = found.only_in_sql,
        "the record was checked against both databases; what did not agree is done again"
    );
    Ok(())
}

/// The documents of a type that scans have passed: those of another revision than the one on record, or of none, and those
/// that are on record as done and are not in SQL.
async fn documents(driver: &Driver, doc_type: DocType) -> Step<usize> {
    let context = &driver.context;
    let state = &context.state;
    let batch = context.config.driver.form_batch;
    let scanned = state.cursor(driver.migration.id, &form_scan(doc_type)).await?;
    let Some(end) = scanned.after_key.as_deref() else {
        return Ok(0);
    };
    let end: Value = serde_json::from_str(end).map_err(|_| state::StateError::Corrupt("scan cursor"))?;
    let mut queued = 0;
    let mut cursor = Cursor::default();
    while !cursor.complete {
        driver.pause(std::time::Duration::ZERO).await?;
        let page = scanned_page(context, &driver.migration.domain, doc_type, &cursor, &end).await?;
        advance(&mut cursor, &page);
        let ids = page.rows.into_iter().map(|row| row.id).filter(|id| ids::is_usable(id));
        let ids: Vec<String> = ids.collect();
        let lost = if doc_type.is_form() {
            let present = context.target.existing_forms(&ids).await?;
            let mut done = state.on_record_as_done(driver.migration.id, &ids).await?;
            done.retain(|id| !present.contains_key(id));
            done
        } else {
            Vec::new()
        };
        state.requeue_of_type(&driver.lease, doc_type, &lost, batch).await?;
        let others: Vec<String> = ids.into_iter().filter(|id| lost.binary_search(id).is_err()).collect();
        let revisions: Vec<(String, String)> = context
            .forms_db
            .all_docs_exist(&others)
            .await?
            .into_iter()
            .filter_map(|(id, rev)| rev.map(|rev| (id, rev)))
            .collect();
        let changed = state
            .requeue_changed(&driver.lease, &[(doc_type, revisions)], batch)
            .await?;
        queued += lost.len() + changed;
    }
    Ok(queued)
}

/// Forms of SQL of which nothing is on record.
async fn unknown_forms(driver: &Driver, found: &mut Found) -> Step<()> {
    let context = &driver.context;
    let target = &context.target;
    let settings = &context.config.driver;
    for shard in target.shards() {
        let mut after: Option<String> = None;
        loop {
            driver.pause(std::time::Duration::ZERO).await?;
            let ids = target
                .form_ids_after(shard, &driver.migration.domain, after.as_deref(), settings.scan_page)
                .await?;
            let Some(last) = ids.last() else { break };
            after = Some(last.clone());
            let unknown = context.state.not_on_record(driver.migration.id, &ids).await?;
            let (in_couch, others): (Vec<_>, Vec<_>) = context
                .forms_db
                .all_docs_exist(&unknown)
                .await?
                .into_iter()
                .partition(|(_, rev)| rev.is_some());
            let in_couch: Vec<String> = in_couch.into_iter().map(|(id, _)| id).collect();
            context
                .state
                .requeue_forms(&driver.lease, &in_couch, false, settings.form_batch)
                .await?;
            found.documents += in_couch.len();
            found.only_in_sql += others.len();
        }
    }
    Ok(())
}

/// Cases for which something is staged and that are not in SQL.
async fn cases(driver: &Driver) -> Step<usize> {
    let context = &driver.context;
    let page = i64::try_from(context.config.driver.scan_page).unwrap_or(i64::MAX);
    let mut queued = 0;
    let mut after: Option<String> = None;
    loop {
        driver.pause(std::time::Duration::ZERO).await?;
        let mut ids = context
            .state
            .staged_cases_after(driver.migration.id, after.as_deref(), page)
            .await?;
        let Some(last) = ids.last() else { return Ok(queued) };
        after = Some(last.clone());
        let present = context.target.existing_cases(&ids).await?;
        ids.retain(|id| !present.contains_key(id));
        context.state.replay_again(&driver.lease, &ids).await?;
        queued += ids.len();
    }
}
