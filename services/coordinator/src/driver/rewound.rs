//! Documents that went back: CouchDB has them in an older revision than the one that was migrated.

use std::collections::BTreeSet;

use proto::doctype::DocType;

use super::{Driver, Step};

/// Documents of which Couch has an older revision than the one that was migrated. They are read once more before they are
/// held against Couch: one node of a cluster may be behind the others for a moment.
pub(super) async fn record_rewound(driver: &Driver, documents: &[(DocType, Vec<(String, String)>)]) -> Step<()> {
    let state = &driver.context.state;
    let all: Vec<&(String, String)> = documents.iter().flat_map(|(_, revisions)| revisions).collect();
    if all.is_empty() {
        return Ok(());
    }
    let suspects: BTreeSet<String> = state.rewound(driver.migration.id, &all).await?.into_iter().collect();
    if suspects.is_empty() {
        return Ok(());
    }
    for (doc_type, revisions) in documents {
        let ids: Vec<&String> = revisions
            .iter()
            .map(|(id, _)| id)
            .filter(|id| suspects.contains(*id))
            .collect();
        if ids.is_empty() {
            continue;
        }
        let again = driver.context.forms_db.all_docs_exist(&ids).await?;
        let again: Vec<(String, String)> = again.into_iter().filter_map(|(id, rev)| Some((id, rev?))).collect();
        let rewound = state.record_rewound(&driver.lease, *doc_type, &again).await?;
        if rewound > 0 {
            tracing::warn!(
                code = "C2S-2360",
                documents = rewound,
                doc_type = doc_type.as_str(),
                "Couch has older revisions of documents than those that were migrated"
            );
        }
    }
    Ok(())
}
