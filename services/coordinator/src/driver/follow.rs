//! Following: a live run that stays, and takes what changes from CouchDB's feed; and the last look of a finish that can rely
//! on the feed.
//!
//! The reader ([`super::feed`]) keeps what has changed for each domain. A round moves the cut-off on, takes the changes whose
//! date it has passed, and those documents that the view lists and nobody has met; what comes of it is staged, replayed
//! and compared like anything else. The feed may be relied on once everything was looked at while it was read, and until
//! changes may have been missed.

use std::collections::HashSet;
use std::time::Duration;

use chrono::SecondsFormat;
use proto::doctype::DocType;
use serde_json::Value;
use state::Phase;
use state::follow::{Follow, Taken};
use state::run::Run;

use super::feed::FeedReader;
use super::{Driver, Interruption, Step, missing, place, rewound};
use crate::commands::migrate::Order;
use crate::driver::couch_counts;

/// Changed documents that are taken in one transaction at most.
const TAKEN_AT_ONCE: i64 = 5000;

/// Whether a run is to stay and follow.
pub(crate) fn is_asked(run: &Run) -> bool {
    run.arguments.get("follow").and_then(Value::as_bool).unwrap_or(false)
}

/// Puts on record that the domain is followed, before anything is looked at, and begins to read.
pub(super) async fn begin(driver: &mut Driver) -> Step<()> {
    let context = &driver.context;
    let now = place::now(context).await?;
    let source = context.forms_db.address();
    context.state.follow(&driver.lease, &source, &now).await?;
    driver.reader = Some(FeedReader::start(context));
    Ok(())
}

/// How the domain stands to the feed; none if it was never followed.
pub(super) async fn standing(driver: &Driver) -> Step<Option<Follow>> {
    Ok(driver.context.state.following(driver.migration.id).await?)
}

/// Whether no change was missed since everything was looked at.
pub(super) async fn is_whole(driver: &Driver) -> Step<bool> {
    Ok(standing(driver).await?.is_some_and(|follow| follow.is_whole()))
}

/// Stays until the run is stopped.
pub(super) async fn stay(driver: &mut Driver, run: &Run) -> Step<std::convert::Infallible> {
    driver.phase(Phase::Follow).await?;
    driver.is_following = true;
    driver
        .signals
        .following
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let pause = driver.context.config.live.follow_pause;
    loop {
        // The pause asks too whether the run was stopped.
        let passed = match round(driver, run).await {
            Ok(()) => driver.pause(pause).await,
            failed => failed,
        };
        match passed {
            Ok(()) => {}
            // A server that is away for a while does not end a run that is meant to stay.
            Err(Interruption::Failed(failure)) if failure.may_pass => {
                tracing::warn!(
                    code = failure.code,
                    "a round of following failed and is tried again: {failure}"
                );
                driver.rest(pause).await?;
            }
            Err(other) => return Err(other),
        }
    }
}

async fn round(driver: &mut Driver, run: &Run) -> Step<()> {
    let clock = driver.context.forms_db.info().await?.date;
    let cutoff = driver.cutoff_at(clock)?;
    if driver.cutoff.is_none_or(|before| before < cutoff) {
        driver.context.state.move_cutoff(&driver.lease, run.id, cutoff).await?;
        driver.cutoff = Some(cutoff);
    }
    if is_whole(driver).await? {
        driver.unmet_only = true;
        take(driver).await?;
        driver.scan_and_replay().await?;
        driver.diff_pending().await?;
        settle_taken(driver).await?;
        look_at_one_sided(driver).await
    } else {
        Box::pin(driver.look_at_everything(&Order::of(run))).await.map(drop)
    }
}

/// Takes all changes that are due. Gives how many documents are migrated or compared again.
pub(super) async fn take(driver: &Driver) -> Step<u64> {
    let cutoff = driver
        .cutoff
        .map(|cutoff| cutoff.to_rfc3339_opts(SecondsFormat::Micros, true));
    let batch = driver.context.config.driver.form_batch;
    let mut changed = 0;
    loop {
        driver.pause(Duration::ZERO).await?;
        let Taken {
            looked_at,
            staged,
            cases,
        } = driver
            .context
            .state
            .take_changes(&driver.lease, cutoff.as_deref(), TAKEN_AT_ONCE, batch)
            .await?;
        changed += cases + staged as u64;
        if looked_at == 0 {
            return Ok(changed);
        }
    }
}

/// Ends with the changed documents that were taken and have been through their stages: is each on both sides, or on neither?
pub(super) async fn settle_taken(driver: &Driver) -> Step<()> {
    settle_gone(driver).await?;
    for doc_type in DocType::ALL {
        let mut after = String::new();
        while let Some(ids) = taken_page(driver, Some(doc_type), &mut after).await? {
            if doc_type != DocType::CommCareCase {
                let present = driver.context.forms_db.all_docs_exist(&ids).await?;
                let revisions: Vec<(String, String)> =
                    present.into_iter().filter_map(|(id, rev)| Some((id, rev?))).collect();
                rewound::record_rewound(driver, &[(doc_type, revisions)]).await?;
            }
            // While the migration is live, a case may be newer than the forms that were taken; its comparison tells of it when
            // its time has come.
            let missing = if doc_type.is_form() || driver.cutoff.is_none() {
                missing_in_target(driver, doc_type, &ids).await?
            } else {
                Vec::new()
            };
            driver
                .context
                .state
                .settle_changes(&driver.lease, doc_type, &ids, &missing)
                .await?;
        }
    }
    Ok(())
}

/// The documents that are gone. Cases are compared, which tells whether SQL has them still.
async fn settle_gone(driver: &Driver) -> Step<()> {
    let mut after = String::new();
    while let Some(ids) = taken_page(driver, None, &mut after).await? {
        let left = driver.context.target.existing_forms(&ids).await?;
        let domain = driver.migration.domain.as_str();
        let forms: Vec<String> = left
            .into_iter()
            .filter(|(_, owner)| owner == domain)
            .map(|(id, _)| id)
            .collect();
        driver.context.state.settle_gone(&driver.lease, &ids, &forms).await?;
    }
    Ok(())
}

/// The next changed documents of a type that were taken, in order; none at the end.
async fn taken_page(driver: &Driver, doc_type: Option<DocType>, after: &mut String) -> Step<Option<Vec<String>>> {
    driver.pause(Duration::ZERO).await?;
    let context = &driver.context;
    let page = i64::try_from(context.config.driver.scan_page).unwrap_or(i64::MAX);
    let ids = context
        .state
        .taken_changes(driver.migration.id, doc_type, after, page)
        .await?;
    let Some(last) = ids.last() else { return Ok(None) };
    after.clone_from(last);
    Ok(Some(ids))
}

/// Those of these documents that the target lacks.
async fn missing_in_target(driver: &Driver, doc_type: DocType, ids: &[String]) -> Step<Vec<String>> {
    let target = &driver.context.target;
    let present = if doc_type.is_form() {
        target.existing_forms(ids).await?
    } else {
        target.existing_cases(ids).await?
    };
    let domain = driver.migration.domain.as_str();
    Ok(ids
        .iter()
        .filter(|id| present.get(*id).is_none_or(|owner| owner != domain))
        .cloned()
        .collect())
}

/// Looks again at the documents that an earlier look found on one side only.
pub(super) async fn look_at_one_sided(driver: &Driver) -> Step<()> {
    missing::recheck(driver).await?;
    let context = &driver.context;
    let page = i64::try_from(context.config.driver.scan_page).unwrap_or(i64::MAX);
    let mut after = (String::new(), String::new());
    loop {
        driver.pause(Duration::ZERO).await?;
        let place = (after.0.as_str(), after.1.as_str());
        let mut listed = context.state.missing_after(driver.migration.id, place, page).await?;
        let Some(last) = listed.last() else { break };
        after.clone_from(last);
        let ids: Vec<&str> = listed.iter().map(|(_, id)| id.as_str()).collect();
        let absent: HashSet<String> = missing::absent(driver, &ids).await?.into_iter().collect();
        listed.retain(|(_, id)| absent.contains(id));
        context.state.forget_missing(&driver.lease, &listed).await?;
    }
    let mut after = String::new();
    loop {
        driver.pause(Duration::ZERO).await?;
        let mut ids = context
            .state
            .only_in_sql_after(driver.migration.id, &after, page)
            .await?;
        let Some(last) = ids.last() else { return Ok(()) };
        after.clone_from(last);
        let absent: HashSet<String> = missing::absent(driver, &ids).await?.into_iter().collect();
        let in_sql = context.target.existing_forms(&ids).await?;
        let domain = driver.migration.domain.as_str();
        ids.retain(|id| !absent.contains(id) || in_sql.get(id).is_none_or(|owner| owner != domain));
        context.state.forget_only_in_sql(&driver.lease, &ids).await?;
    }
}

/// Counts the documents of each type, as the scan for missing documents does.
pub(super) async fn count_documents(driver: &Driver) -> Step<()> {
    let context = &driver.context;
    let counts = couch_counts(context, &driver.migration.domain).await?;
    Ok(context.state.record_counts(&driver.lease, &counts).await?)
}
