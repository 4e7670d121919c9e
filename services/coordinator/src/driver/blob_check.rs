//! Is this the blob store of the domain's forms? XML that is nowhere is rebuilt from CouchDB, which a wrong path or bucket
//! would make happen to every form.

use blobs::{BlobStore, FORM_XML};
use couch::Outcome;
use proto::doctype::DocType;
use proto::ids::Domain;
use service::connect;
use state::scan::Cursor;

use super::{Driver, Step, scan};
use crate::context::Context;
use crate::failure::Failure;

/// Forms looked at: the oldest.
const SAMPLE: usize = 50;
/// Fewer references than this prove nothing.
const ENOUGH: usize = 20;

/// Refuses when a sample of forms names blobs, and the store has none of them.
pub(super) async fn check(driver: &Driver) -> Step<()> {
    Ok(check_blobs(&driver.context, &driver.migration.domain).await?)
}

/// The same, for a domain that nobody drives.
///
/// # Errors
/// `C2S-4057`; those of the servers.
pub async fn check_blobs(context: &Context, domain: &Domain) -> Result<(), Failure> {
    if context.config.blobs.accept_all_lost {
        return Ok(());
    }
    let keys = sampled_keys(context, domain).await?;
    if keys.len() < ENOUGH {
        return Ok(());
    }
    let store = connect::blob_store(&context.config).await?;
    if has_any(&store, &keys).await? {
        return Ok(());
    }
    Err(Failure::new(
        "C2S-4057",
        format!(
            "the blob store has the XML of none of the first {} forms of {domain}",
            keys.len(),
        ),
        "it is probably not the store of this HQ: check [blobs]; if all of it is really lost, set blobs.accept_all_lost",
    ))
}

async fn sampled_keys(context: &Context, domain: &Domain) -> Result<Vec<String>, Failure> {
    let page = scan::scan_page_after(context, domain, DocType::XFormInstance, &Cursor::default(), SAMPLE).await?;
    let ids: Vec<String> = page.rows.into_iter().map(|row| row.id).collect();
    let mut keys = Vec::new();
    for fetched in context.forms_db.bulk_get(&ids).await? {
        let Outcome::Found(document) = fetched.outcome else {
            continue;
        };
        let references = blobs::blob_refs(context.forms_db.name(), &fetched.id, &document).unwrap_or_default();
        let xml = references.into_iter().find(|blob| blob.name == FORM_XML);
        keys.extend(xml.and_then(|blob| blob.key));
    }
    Ok(keys)
}

async fn has_any(store: &BlobStore, keys: &[String]) -> Result<bool, Failure> {
    for key in keys {
        if store.exists(key).await? {
            return Ok(true);
        }
    }
    Ok(false)
}
