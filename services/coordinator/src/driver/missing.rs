//! The missing-document scan: the ids of every type in Couch against the ids in SQL, page by page.
//!
//! It shares nothing with the scan that migrated them but the view, and asks the target's tables, not our own records.

use proto::doctype::DocType;
use state::scan::Cursor;

use super::scan::{advance, page_of};
use super::{Driver, Step};

pub(super) async fn find(driver: &Driver) -> Step<()> {
    for doc_type in DocType::ALL {
        find_type(driver, doc_type).await?;
    }
    Ok(())
}

async fn find_type(driver: &Driver, doc_type: DocType) -> Step<()> {
    let context = &driver.context;
    let scan = format!("missing:{doc_type}");
    context.state.restart_scan(&driver.lease, &scan).await?;
    let mut cursor = Cursor::default();
    context.state.record_missing(&driver.lease, &scan, &cursor, doc_type, &[]).await?;
    while !cursor.complete {
        driver.pause(std::time::Duration::ZERO).await?;
        let request = page_of(&driver.migration.domain, doc_type, &cursor, context.config.driver.scan_page)?;
        let page = context.forms_db.view_page(&request).await?;
        advance(&mut cursor, &page);
        let ids: Vec<String> = page.rows.into_iter().map(|row| row.id).collect();
        let present = if doc_type.is_form() {
            context.target.existing_forms(&ids).await?
        } else {
            context.target.existing_cases(&ids).await?
        };
        let domain = driver.migration.domain.as_str();
        let missing: Vec<String> =
            ids.into_iter().filter(|id| present.get(id).is_none_or(|owner| owner != domain)).collect();
        context.state.record_missing(&driver.lease, &scan, &cursor, doc_type, &missing).await?;
    }
    Ok(())
}
