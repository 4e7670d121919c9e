//! Deleting a domain's forms and cases, as a reset does: in chunks, so that it can be stopped, watched and resumed.

use proto::ids::Domain;
use proto::rows::{
    AttachmentRow, CaseRow, FormRow, IndexRow, LedgerTransactionRow, LedgerValueRow, OperationRow, TransactionRow,
};
use tokio_postgres::types::Type;

use crate::claim::Claim;
use crate::error::{Error, Result};
use crate::fence;
use crate::metric;
use crate::table::{Table, TableRow};
use crate::target::{Database, Target};

/// Parents, with the children that go before them.
const FAMILIES: [(Table, &[Table]); 2] = [
    (FormRow::TABLE, &[OperationRow::TABLE]),
    (
        CaseRow::TABLE,
        &[
            IndexRow::TABLE,
            AttachmentRow::TABLE,
            TransactionRow::TABLE,
            LedgerValueRow::TABLE,
            LedgerTransactionRow::TABLE,
        ],
    ),
];

impl Target {
    /// Deletes up to `limit` of the domain's forms, or when there are none left of its cases, on each shard, with all of
    /// their children; blobs and their metadata stay. Returns how many rows went, children included; 0 when nothing was
    /// left.
    ///
    /// # Errors
    /// [`Error::FenceOpen`] while the domain's fence is open: somebody could still be writing. When the claim is lost.
    pub async fn purge_chunk<C: Claim>(&self, claim: &C, domain: &Domain, limit: usize) -> Result<u64, C::Lost> {
        let mut deleted = 0;
        for (_, database) in self.databases() {
            deleted += purge_database(claim, database, domain, limit).await?;
        }
        Ok(deleted)
    }
}

async fn purge_database<C: Claim>(
    claim: &C,
    database: &Database,
    domain: &Domain,
    limit: usize,
) -> Result<u64, C::Lost> {
    let failed = Error::during("purge");
    let limit = i64::try_from(limit.max(1)).unwrap_or(i64::MAX);
    let name = domain.as_str();
    let mut client = database.client().await?;
    let tx = client.transaction().await.map_err(&failed)?;
    fence::check_closed(&tx, domain).await?;
    claim.check().await?;
    for (parent, children) in FAMILIES {
        let select = format!(
            "select {} from {} where domain = $1 limit $2 for update",
            parent.key(),
            parent.name
        );
        let ids: Vec<String> = tx
            .query_typed(&select, &[(&name, Type::TEXT), (&limit, Type::INT8)])
            .await
            .and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect())
            .map_err(&failed)?;
        if ids.is_empty() {
            continue;
        }
        let mut deleted = 0;
        for table in children.iter().chain(std::iter::once(&parent)) {
            let delete = format!("delete from {} where {} = any ($1)", table.name, table.key());
            let rows = tx
                .execute_typed(&delete, &[(&ids, Type::TEXT_ARRAY)])
                .await
                .map_err(&failed)?;
            metrics::counter!(metric::ROWS, "table" => table.name, "change" => "delete").increment(rows);
            deleted += rows;
        }
        tx.commit().await.map_err(&failed)?;
        return Ok(deleted);
    }
    Ok(0)
}
