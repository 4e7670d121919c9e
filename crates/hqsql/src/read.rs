//! Reading back what is stored.

use std::collections::HashMap;

use deadpool_postgres::Object;
use proto::ids::Domain;
use proto::rows::{
    AttachmentRow, BlobMetaRow, CaseBundle, CaseRow, FormBundle, FormRow, IndexRow, LedgerTransactionRow,
    LedgerValueRow, OperationRow, TransactionRow,
};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::changes::by_owner;
use crate::error::{Error, Result};
use crate::routing::ShardId;
use crate::table::{Cells, Lock, Stored, Table, TableRow};
use crate::target::Target;

/// Cases of a domain by whether they are soft-deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaseCounts {
    /// Not deleted.
    pub live: u64,
    /// Deleted: `CommCareCase-Deleted` in Couch.
    pub deleted: u64,
}

/// The rows of these documents, in no order.
pub(crate) async fn stored<T: TableRow>(
    client: &Object,
    table: &Table,
    ids: &[&str],
    lock: Lock,
) -> Result<Vec<Stored<T>>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let failed = Error::during("read rows");
    let statement = client.prepare_cached(&table.select(lock)).await.map_err(&failed)?;
    // Locks are taken in this order.
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    let rows = client.query(&statement, &[&ids]).await.map_err(&failed)?;
    decoded(table, &rows)
}

/// The rows of these documents, each with a form, that are of the form.
pub(crate) async fn stored_of_forms<T: TableRow>(
    client: &Object,
    table: &Table,
    wanted: &[(&str, &str)],
) -> Result<Vec<Stored<T>>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let failed = Error::during("read rows of forms");
    let statement = client.prepare_cached(&table.select_of_forms()).await.map_err(&failed)?;
    let (ids, forms): (Vec<&str>, Vec<&str>) = wanted.iter().copied().unzip();
    let rows = client.query(&statement, &[&ids, &forms]).await.map_err(&failed)?;
    decoded(table, &rows)
}

fn decoded<T: TableRow>(table: &Table, rows: &[Row]) -> Result<Vec<Stored<T>>> {
    let failed = Error::during("read rows");
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let mut cells = Cells::new(row);
        let id = cells.take().map_err(&failed)?;
        let owner: String = cells.take().map_err(&failed)?;
        let domain = if table.has_domain() {
            cells.take().map_err(&failed)?
        } else {
            String::new()
        };
        let Some(row) = T::decode(&mut cells).map_err(&failed)? else {
            return Err(Error::Unreadable {
                table: table.name,
                document: owner,
            });
        };
        found.push(Stored { id, owner, domain, row });
    }
    Ok(found)
}

/// The domain of each of these documents that exists.
pub(crate) async fn owners<T: TableRow>(client: &Object, ids: &[&str]) -> Result<HashMap<String, String>> {
    let failed = Error::during("read owners");
    let (name, key) = (T::TABLE.name, T::TABLE.key());
    let select = format!(
        "select found.* from unnest($1::text[]) as wanted (key) cross join lateral (\
         select {key}, domain from {name} where {key} = wanted.key offset 0) found"
    );
    let statement = client.prepare_cached(&select).await.map_err(&failed)?;
    let rows = client.query(&statement, &[&ids]).await.map_err(&failed)?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect::<Result<_, _>>()
        .map_err(&failed)
}

/// Blob metadata of these parents, in the order of its making.
pub(crate) async fn blobmeta(client: &Object, table: &Table, ids: &[&str]) -> Result<Vec<BlobMetaRow>> {
    let mut rows: Vec<Stored<BlobMetaRow>> = stored(client, table, ids, Lock::None).await?;
    rows.sort_by(|one, other| (&one.owner, one.id).cmp(&(&other.owner, other.id)));
    Ok(rows
        .into_iter()
        .map(|Stored { owner, domain, row, .. }| BlobMetaRow {
            parent_id: owner,
            domain,
            ..row
        })
        .collect())
}

/// Takes the rows of one document out of their groups, in the order of ids.
fn rows_of<T>(groups: &mut HashMap<String, Vec<Stored<T>>>, id: &str) -> Vec<T> {
    groups
        .remove(id)
        .unwrap_or_default()
        .into_iter()
        .map(|stored| stored.row)
        .collect()
}

async fn forms(client: &Object, ids: &[&str]) -> Result<Vec<FormBundle>> {
    let (forms, operations) = tokio::try_join!(
        stored::<FormRow>(client, &FormRow::TABLE, ids, Lock::None),
        stored::<OperationRow>(client, &OperationRow::TABLE, ids, Lock::None),
    )?;
    let mut operations = by_owner(operations);
    Ok(forms
        .into_iter()
        .map(|Stored { owner, domain, row, .. }| FormBundle {
            operations: rows_of(&mut operations, &owner),
            form: FormRow {
                form_id: owner,
                domain,
                ..row
            },
        })
        .collect())
}

async fn cases(client: &Object, ids: &[&str]) -> Result<Vec<CaseBundle>> {
    let (cases, indices, attachments, transactions, values, ledger_transactions) = tokio::try_join!(
        stored::<CaseRow>(client, &CaseRow::TABLE, ids, Lock::None),
        stored::<IndexRow>(client, &IndexRow::TABLE, ids, Lock::None),
        stored::<AttachmentRow>(client, &AttachmentRow::TABLE, ids, Lock::None),
        stored::<TransactionRow>(client, &TransactionRow::TABLE, ids, Lock::None),
        stored::<LedgerValueRow>(client, &LedgerValueRow::TABLE, ids, Lock::None),
        stored::<LedgerTransactionRow>(client, &LedgerTransactionRow::TABLE, ids, Lock::None),
    )?;
    let (mut indices, mut attachments, mut transactions) =
        (by_owner(indices), by_owner(attachments), by_owner(transactions));
    let (mut values, mut ledger_transactions) = (by_owner(values), by_owner(ledger_transactions));
    Ok(cases
        .into_iter()
        .map(|Stored { owner, domain, row, .. }| {
            let mut transactions = rows_of(&mut transactions, &owner);
            // HQ reads them by server_date; the sort is stable, so that ids decide between equal dates.
            transactions.sort_by_key(|transaction| transaction.server_date);
            let mut ledger_values = rows_of(&mut values, &owner);
            ledger_values
                .sort_by(|one, other| (&one.section_id, &one.entry_id).cmp(&(&other.section_id, &other.entry_id)));
            CaseBundle {
                indices: rows_of(&mut indices, &owner),
                attachments: rows_of(&mut attachments, &owner),
                transactions,
                ledger_values,
                ledger_transactions: rows_of(&mut ledger_transactions, &owner),
                case: CaseRow {
                    case_id: owner,
                    domain,
                    ..row
                },
            }
        })
        .collect())
}

/// Puts bundles back into the order in which they were asked for.
fn in_order<T>(ids: &[String], bundles: Vec<T>, id: fn(&T) -> &str) -> Vec<T> {
    let mut found: HashMap<String, T> = bundles
        .into_iter()
        .map(|bundle| (id(&bundle).to_owned(), bundle))
        .collect();
    ids.iter().filter_map(|id| found.remove(id)).collect()
}

impl Target {
    /// Forms with their operations, in the order of the ids; those that do not exist are left out. All shards are asked
    /// at once.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn read_forms(&self, ids: &[String]) -> Result<Vec<FormBundle>> {
        let groups = self.by_shard(ids);
        let reads = groups.iter().map(|(shard, ids)| async {
            let client = self.database(*shard)?.client().await?;
            forms(&client, ids).await
        });
        let found = futures::future::try_join_all(reads)
            .await?
            .into_iter()
            .flatten()
            .collect();
        Ok(in_order(ids, found, |bundle| &bundle.form.form_id))
    }

    /// Cases with all of their rows, in the order of the ids; those that do not exist are left out. Transactions come by
    /// server date, indices and attachments in the order of their making.
    ///
    /// # Errors
    /// Those of the database, and [`Error::Unreadable`] for an index of an unknown relationship.
    pub async fn read_cases(&self, ids: &[String]) -> Result<Vec<CaseBundle>> {
        let groups = self.by_shard(ids);
        let reads = groups.iter().map(|(shard, ids)| async {
            let client = self.database(*shard)?.client().await?;
            cases(&client, ids).await
        });
        let found = futures::future::try_join_all(reads)
            .await?
            .into_iter()
            .flatten()
            .collect();
        Ok(in_order(ids, found, |bundle| &bundle.case.case_id))
    }

    /// Blob metadata of the parents (forms), by parent, each in the order of its making.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn read_blobmeta(&self, parent_ids: &[String]) -> Result<Vec<BlobMetaRow>> {
        let groups = self.by_shard(parent_ids);
        let reads = groups.iter().map(|(shard, ids)| async {
            let database = self.database(*shard)?;
            let client = database.client().await?;
            let table = database.blobmeta_table(&client).await?;
            blobmeta(&client, &table, ids).await
        });
        Ok(futures::future::try_join_all(reads)
            .await?
            .into_iter()
            .flatten()
            .collect())
    }

    /// Which of these forms exist, and the domain of each.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn existing_forms(&self, ids: &[String]) -> Result<HashMap<String, String>> {
        self.existing::<FormRow>(ids).await
    }

    /// Which of these cases exist, and the domain of each.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn existing_cases(&self, ids: &[String]) -> Result<HashMap<String, String>> {
        self.existing::<CaseRow>(ids).await
    }

    async fn existing<T: TableRow>(&self, ids: &[String]) -> Result<HashMap<String, String>> {
        let groups = self.by_shard(ids);
        let reads = groups.iter().map(|(shard, ids)| async {
            let client = self.database(*shard)?.client().await?;
            owners::<T>(&client, ids).await
        });
        Ok(futures::future::try_join_all(reads)
            .await?
            .into_iter()
            .flatten()
            .collect())
    }

    /// A page of the domain's case ids on one shard, in the order of the database, after the given id. The end is an
    /// empty page.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn case_ids_after(
        &self,
        shard: ShardId,
        domain: &Domain,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>> {
        self.ids_after::<CaseRow>(shard, domain, after, limit).await
    }

    /// A page of the domain's form ids on one shard, in the order of the database, after the given id. The end is an
    /// empty page.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn form_ids_after(
        &self,
        shard: ShardId,
        domain: &Domain,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>> {
        self.ids_after::<FormRow>(shard, domain, after, limit).await
    }

    async fn ids_after<T: TableRow>(
        &self,
        shard: ShardId,
        domain: &Domain,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>> {
        let failed = Error::during("page through ids");
        let (name, key) = (T::TABLE.name, T::TABLE.key());
        // No id is empty; so the first page needs no other statement.
        let select = format!("select {key} from {name} where domain = $1 and {key} > $2 order by {key} limit $3");
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let after = after.unwrap_or("");
        let client = self.database(shard)?.client().await?;
        // Planned for these very values: a small domain goes by its own index, a large one along the ids.
        let rows = client
            .query_typed(
                &select,
                &[
                    (&domain.as_str(), Type::TEXT),
                    (&after, Type::TEXT),
                    (&limit, Type::INT8),
                ],
            )
            .await
            .map_err(&failed)?;
        rows.iter()
            .map(|row| row.try_get(0))
            .collect::<Result<_, _>>()
            .map_err(&failed)
    }

    /// The domain's forms by `state`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn count_forms_by_state(&self, domain: &Domain) -> Result<HashMap<i16, u64>> {
        let mut counts = HashMap::new();
        for (state, count) in self
            .counts::<i16>(
                domain,
                "select state, count(*) from form_processor_xforminstancesql where domain = $1 group by state",
            )
            .await?
        {
            *counts.entry(state).or_default() += count;
        }
        Ok(counts)
    }

    /// The domain's cases.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn count_cases(&self, domain: &Domain) -> Result<CaseCounts> {
        let mut counts = CaseCounts::default();
        for (deleted, count) in self
            .counts::<bool>(
                domain,
                "select deleted, count(*) from form_processor_commcarecasesql where domain = $1 group by deleted",
            )
            .await?
        {
            *(if deleted { &mut counts.deleted } else { &mut counts.live }) += count;
        }
        Ok(counts)
    }

    async fn counts<T>(&self, domain: &Domain, select: &str) -> Result<Vec<(T, u64)>>
    where
        T: for<'a> postgres_types::FromSql<'a>,
    {
        let failed = Error::during("count rows");
        let mut counts = Vec::new();
        for (_, database) in self.databases() {
            let client = database.client().await?;
            let rows = client
                .query_typed(select, &[(&domain.as_str(), Type::TEXT)])
                .await
                .map_err(&failed)?;
            for row in rows {
                let count: i64 = row.try_get(1).map_err(&failed)?;
                counts.push((row.try_get(0).map_err(&failed)?, count.unsigned_abs()));
            }
        }
        Ok(counts)
    }

    /// Whether any shard holds a form or a case of the domain.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn has_rows(&self, domain: &Domain) -> Result<bool> {
        let failed = Error::during("look for rows");
        for (_, database) in self.databases() {
            let client = database.client().await?;
            let row = client
                .query_typed_one(
                    "select exists (select from form_processor_xforminstancesql where domain = $1) \
                     or exists (select from form_processor_commcarecasesql where domain = $1)",
                    &[(&domain.as_str(), Type::TEXT)],
                )
                .await
                .map_err(&failed)?;
            if row.try_get(0).map_err(&failed)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
