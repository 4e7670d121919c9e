//! What commands ask of the source as the driver does.

use std::sync::Arc;

use broker::Broker;
use proto::doctype::DocType;
use proto::ids::Domain;
use state::Migration;
use state::scan::Cursor;
use tokio_util::sync::CancellationToken;

use super::stop_looks::StopLooks;
use super::{DESIGN, Dispatcher, Driver, Interruption, Step, StopSignals, VIEW, all_of, scan};
use crate::commands::HeldDomain;
use crate::context::Context;
use crate::failure::{Failure, Result};

/// A driver of a command that needs no run, with the lease that it holds.
pub(super) struct HeldDriver {
    held: HeldDomain,
    pub(super) driver: Driver,
}

pub(super) async fn held_driver(
    context: &Arc<Context>,
    broker: Arc<dyn Broker>,
    migration: &Migration,
    signals: StopSignals,
) -> Result<HeldDriver> {
    let held = HeldDomain::take(context, migration).await?;
    let driver = Driver {
        context: Arc::clone(context),
        dispatcher: Dispatcher::new(context.state.clone(), broker, held.migration.clone(), &context.config),
        migration: held.migration.clone(),
        lease: held.lease.clone(),
        signals,
        lost: CancellationToken::new(),
        run_id: None,
        looks_for_stop: StopLooks::default(),
        cutoff: held.migration.live_cutoff,
        errors_since: None,
        unmet_only: false,
        is_following: false,
        reader: None,
    };
    Ok(HeldDriver { held, driver })
}

impl HeldDriver {
    /// Gives the lease back. None when the command was stopped.
    pub(super) async fn end<T>(self, context: &Context, ended: Step<T>) -> Result<Option<T>> {
        self.held.give_back(context).await?;
        match ended {
            Ok(done) => Ok(Some(done)),
            Err(Interruption::Operator | Interruption::Shutdown) => Ok(None),
            Err(Interruption::LeaseLost) => Err(Failure::new(
                "C2S-1509",
                "the domain's lease was lost",
                "see `stats` for who drives it now",
            )),
            Err(Interruption::TooLong(why)) => Err(Failure::new("C2S-4091", why, "")),
            Err(Interruption::Failed(failure)) => Err(failure),
        }
    }
}

/// How many documents of each type Couch has, for a domain that is not being migrated.
///
/// # Errors
/// Couch's.
pub async fn couch_counts(context: &Context, domain: &Domain) -> Result<Vec<(DocType, i64)>> {
    let mut counts = Vec::with_capacity(DocType::ALL.len());
    for doc_type in DocType::ALL {
        counts.push((doc_type, couch_count(context, domain, doc_type).await?));
    }
    Ok(counts)
}

/// How many documents of a type Couch has.
///
/// # Errors
/// Couch's.
pub async fn couch_count(context: &Context, domain: &Domain, doc_type: DocType) -> Result<i64> {
    let (start, end) = all_of(domain.as_str(), doc_type);
    let reduced = context
        .forms_db
        .view_count(DESIGN, VIEW, Some(&start), Some(&end))
        .await?;
    match reduced {
        Some(count) => Ok(i64::try_from(count).unwrap_or(i64::MAX)),
        None => scan::count(context, domain, doc_type).await,
    }
}

/// A page of the documents that the view lists after a scan's cursor, up to a key.
///
/// # Errors
/// Couch's.
pub async fn scanned_page(
    context: &Context,
    domain: &Domain,
    doc_type: DocType,
    cursor: &Cursor,
    up_to: &serde_json::Value,
) -> Result<couch::Page> {
    let limit = context.config.driver.scan_page;
    let mut request = scan::request_after(domain, doc_type, cursor, limit)?;
    request.end_key = Some(up_to.clone());
    Ok(context.forms_db.view_page(&request).await?)
}
