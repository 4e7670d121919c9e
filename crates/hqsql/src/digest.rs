//! A digest of every form and case of a domain: one number that changes when any of the document's rows does.
//!
//! The database works it out from the whole of each row, its serial id included, so that a row that was deleted and written
//! again with the same values is another one. Digests of two moments can be compared as long as the tables have the same
//! columns. Blob metadata does not count: it is shared with Couch, and stays whatever becomes of the domain.

use deadpool_postgres::{ClientWrapper, Object};
use proto::ids::Domain;
use proto::rows::{
    AttachmentRow, CaseRow, FormRow, IndexRow, LedgerTransactionRow, LedgerValueRow, OperationRow, TransactionRow,
};
use tokio_postgres::types::Type;

use crate::error::{Error, Result};
use crate::routing::ShardId;
use crate::table::{Table, TableRow};
use crate::target::Target;

/// Which documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Documents {
    /// Forms, each with its operations.
    Forms,
    /// Cases, each with its indices, attachments, transactions and ledgers.
    Cases,
}

impl Documents {
    const fn tables(self) -> (Table, &'static [Table]) {
        match self {
            Self::Forms => (FormRow::TABLE, &[OperationRow::TABLE]),
            Self::Cases => (
                CaseRow::TABLE,
                &[
                    IndexRow::TABLE,
                    AttachmentRow::TABLE,
                    TransactionRow::TABLE,
                    LedgerValueRow::TABLE,
                    LedgerTransactionRow::TABLE,
                ],
            ),
        }
    }

    /// Digests of rows are added up, so that their order does not matter, and folded into 63 bits.
    fn select(self) -> String {
        let (parent, children) = self.tables();
        let key = parent.key();
        let mut sum = digest_of("document");
        for child in children {
            let (name, child_key) = (child.name, child.key());
            sum.push_str(&format!(
                " + coalesce((select sum({}) from {name} child where child.{child_key} = document.{key}), 0)",
                digest_of("child")
            ));
        }
        format!(
            "select document.{key}, (({sum}) % 9223372036854775807)::bigint from {} document \
             where document.domain = $1 order by document.{key} collate \"C\"",
            parent.name
        )
    }
}

/// Sixty bits of the digest of a whole row.
fn digest_of(row: &str) -> String {
    format!("('x' || substr(md5({row}::text), 1, 15))::bit(60)::bigint::numeric")
}

/// Reads the digests of a domain's documents on one shard, in the order of the bytes of their ids. All of it is of the
/// moment when it was opened.
pub struct Digests {
    // A connection of its own, which is closed when this is dropped: its transaction must not get back into the pool.
    client: ClientWrapper,
}

/// Whatever the session has set: the text of a row must be the same each time.
const BEGIN: &str = "begin transaction isolation level repeatable read read only; set local timezone to 'UTC'; \
     set local datestyle to 'ISO, YMD'; set local intervalstyle to 'postgres'; set local bytea_output to 'hex'; \
     set local extra_float_digits to 1; \
     set local statement_timeout to 0; set local idle_in_transaction_session_timeout to 0";

impl Target {
    /// Begins to read digests.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn digests(&self, shard: ShardId, documents: Documents, domain: &Domain) -> Result<Digests> {
        let failed = Error::during("read digests");
        let client = Object::take(self.database(shard)?.client().await?);
        client.batch_execute(BEGIN).await.map_err(&failed)?;
        let declare = format!("declare c2s_digests no scroll cursor for {}", documents.select());
        client
            .execute_typed(&declare, &[(&domain.as_str(), Type::TEXT)])
            .await
            .map_err(&failed)?;
        Ok(Digests { client })
    }
}

impl Digests {
    /// The next documents, as (id, digest), up to `limit`; an empty page is the end.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn next(&mut self, limit: u16) -> Result<Vec<(String, i64)>> {
        let failed = Error::during("read digests");
        let rows = self
            .client
            .query_typed(&format!("fetch {limit} from c2s_digests"), &[])
            .await
            .map_err(&failed)?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect::<Result<_, _>>()
            .map_err(&failed)
    }
}
