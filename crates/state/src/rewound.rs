//! Documents that went back: Couch has an older revision of them than the one that was migrated, as after a restore from a
//! back-up. The newest stands, whoever reads what and when, so that nothing of the older one is migrated; whether that is
//! right, nobody but the operator knows.

use proto::doctype::DocType;

use crate::migration::DriverLease;
use crate::outcome::{DocError, record_errors};
use crate::revisions::rev_number;
use crate::{MigrationId, State, StateError};

/// Code of the error that is recorded.
const CODE: &str = "C2S-2360";

impl State {
    /// Which of these documents, as (id, the revision that Couch has now), went back behind the revision on record.
    ///
    /// # Errors
    /// Database errors.
    pub async fn rewound(&self, id: MigrationId, revisions: &[&(String, String)]) -> Result<Vec<String>, StateError> {
        let behind = behind(&self.pool, id, revisions).await?;
        Ok(behind.into_iter().map(|(doc_id, _)| doc_id).collect())
    }

    /// Records an error for those of these documents that went back, and gives how many. It goes when the document is
    /// migrated again, in the revision on record or in a newer one.
    ///
    /// # Errors
    /// [`StateError::LostLease`].
    pub async fn record_rewound(
        &self,
        held: &DriverLease,
        doc_type: DocType,
        revisions: &[(String, String)],
    ) -> Result<usize, StateError> {
        let mut tx = self.driver_tx(held).await?;
        let read: Vec<&(String, String)> = revisions.iter().collect();
        let behind = behind(&mut *tx, held.migration_id, &read).await?;
        let errors = behind.iter().map(|(doc_id, rev)| DocError {
            kind: doc_type.as_str(),
            doc_id,
            code: CODE,
            message: "Couch has an older revision than the one that was migrated",
            rev: Some(rev),
        });
        record_errors(&mut tx, held.migration_id, errors.collect()).await?;
        tx.commit().await?;
        Ok(behind.len())
    }
}

async fn behind(
    executor: impl sqlx::PgExecutor<'_>,
    id: MigrationId,
    revisions: &[&(String, String)],
) -> Result<Vec<(String, String)>, StateError> {
    let (ids, revs): (Vec<&str>, Vec<&str>) = revisions.iter().map(|(id, rev)| (id.as_str(), rev.as_str())).unzip();
    Ok(sqlx::query_as(
        "select i.id, i.rev from unnest($2::text[], $3::int[], $4::text[]) i(id, number, rev)
         join doc_revision d on d.migration_id = $1 and d.doc_id = i.id
         where (d.rev_number, d.rev collate \"C\") > (i.number, i.rev collate \"C\") order by 1",
    )
    .bind(id.0)
    .bind(&ids)
    .bind(revs.iter().map(|rev| rev_number(rev)).collect::<Vec<_>>())
    .bind(&revs)
    .fetch_all(executor)
    .await?)
}
