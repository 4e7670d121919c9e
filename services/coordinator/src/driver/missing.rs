//! The last look at every document of Couch, page by page: is it in SQL, and is it still what was migrated?
//!
//! It shares nothing with the scan that migrated them but the view, and asks the target's tables, not our own records. An
//! edit, an archive or a deletion keeps the document's old date, so that no scan by date meets it: it shows here by its
//! revision, and the document is migrated, or the case compared, again.

use chrono::{DateTime, Utc};
use couch::Outcome;
use proto::doctype::DocType;
use serde_json::Value;
use state::scan::Cursor;

use super::scan::{advance, page_of};
use super::{Driver, Step};

/// Looks at all documents. Gives how many have changed since they were migrated or compared.
pub(super) async fn find(driver: &Driver) -> Step<u64> {
    let mut changed = 0;
    for doc_type in DocType::ALL {
        changed += find_type(driver, doc_type).await?;
    }
    changed += find_vanished(driver).await?;
    Ok(changed)
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
        state.request_diff(driver.migration.id, Some(&gone)).await?;
    }
}

async fn absent(driver: &Driver, ids: &[String]) -> Step<Vec<String>> {
    let present = driver.context.forms_db.all_docs_exist(ids).await?;
    Ok(present
        .into_iter()
        .filter(|(_, rev)| rev.is_none())
        .map(|(id, _)| id)
        .collect())
}

async fn find_type(driver: &Driver, doc_type: DocType) -> Step<u64> {
    let mut changed = 0;
    let context = &driver.context;
    let scan = format!("missing:{doc_type}");
    context.state.restart_scan(&driver.lease, &scan).await?;
    let mut cursor = Cursor::default();
    context
        .state
        .record_missing(&driver.lease, &scan, &cursor, doc_type, &[])
        .await?;
    while !cursor.complete {
        driver.pause(std::time::Duration::ZERO).await?;
        let request = page_of(
            &driver.migration.domain,
            doc_type,
            &cursor,
            context.config.driver.scan_page,
            driver.cutoff,
        )?;
        let page = context.forms_db.view_page(&request).await?;
        advance(&mut cursor, &page);
        let ids: Vec<String> = page.rows.into_iter().map(|row| row.id).collect();
        changed += changed_since(driver, doc_type, &ids).await?;
        let present = if doc_type.is_form() {
            context.target.existing_forms(&ids).await?
        } else {
            context.target.existing_cases(&ids).await?
        };
        let domain = driver.migration.domain.as_str();
        let mut missing: Vec<String> = ids
            .into_iter()
            .filter(|id| present.get(id).is_none_or(|owner| owner != domain))
            .collect();
        if let (Some(cutoff), DocType::CommCareCase | DocType::CommCareCaseDeleted) = (driver.cutoff, doc_type) {
            missing = without_late_actions(driver, missing, cutoff).await?;
        }
        context
            .state
            .record_missing(&driver.lease, &scan, &cursor, doc_type, &missing)
            .await?;
    }
    Ok(changed)
}

/// Without the cases of which a form is later than the cut-off: `opened_on`, by which the view lists cases, is the phone's.
async fn without_late_actions(driver: &Driver, missing: Vec<String>, cutoff: DateTime<Utc>) -> Step<Vec<String>> {
    if missing.is_empty() {
        return Ok(missing);
    }
    let mut kept = Vec::with_capacity(missing.len());
    for fetched in driver.context.forms_db.bulk_get(&missing).await? {
        if !matches!(&fetched.outcome, Outcome::Found(case) if has_late_action(case, cutoff)) {
            kept.push(fetched.id);
        }
    }
    Ok(kept)
}

fn has_late_action(case: &Value, cutoff: DateTime<Utc>) -> bool {
    let actions = case.get("actions").and_then(Value::as_array);
    actions.into_iter().flatten().any(|action| {
        let date = action.get("server_date").and_then(Value::as_str);
        date.and_then(|text| DateTime::parse_from_rfc3339(text).ok())
            .is_some_and(|date| date > cutoff)
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
