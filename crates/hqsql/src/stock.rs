//! Reads HQ's stock tables: what Couch's side knows of ledgers. They are in the default database, are never written here,
//! and may be absent: later versions of HQ drop them, and not every installation ever had them. An absent table counts as
//! an empty one.
//!
//! Each read is one statement for all of the given cases. Numbers come as text, as PostgreSQL writes them.

use std::collections::HashMap;

use proto::ids::Domain;
use proto::stock::{LedgerRef, RepeatedReport, StockStateRow, StockTransactionRow};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::error::{Error, Result};
use crate::target::Target;

/// The tables, all of which must be there.
pub(crate) const TABLES: [&str; 6] = [
    "products_sqlproduct",
    "locations_sqllocation",
    "stock_stockreport",
    "stock_stocktransaction",
    "commtrack_stockstate",
    "stock_docdomainmapping",
];

/// Which stock states are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StockStates {
    /// Those that HQ shows: neither product nor location is archived.
    Shown,
    /// All.
    WithArchived,
}

impl StockStates {
    const fn condition(self) -> &'static str {
        match self {
            Self::Shown => "and not p.is_archived and l.is_archived is distinct from true",
            Self::WithArchived => "",
        }
    }
}

impl Target {
    /// Whether HQ has stock of the domain: a product with a state or a transaction.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn has_stock(&self, domain: &Domain) -> Result<bool> {
        let failed = Error::during("look for stock");
        if !self.has_stock_tables().await? {
            return Ok(false);
        }
        let client = self.default_database().client().await?;
        let row = client
            .query_typed_one(
                "select exists (select from products_sqlproduct p where p.domain = $1 and (\
                 exists (select from commtrack_stockstate s where s.sql_product_id = p.id) or \
                 exists (select from stock_stocktransaction t where t.sql_product_id = p.id)))",
                &[(&domain.as_str(), Type::TEXT)],
            )
            .await
            .map_err(&failed)?;
        row.try_get(0).map_err(&failed)
    }

    /// The stock states of these cases, by case, section and product.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn stock_states(&self, case_ids: &[String], which: StockStates) -> Result<Vec<StockStateRow>> {
        let select = format!(
            "select s.case_id, s.section_id, s.product_id, s.id::bigint, s.stock_on_hand::text, s.daily_consumption::text, \
             s.last_modified_date, s.last_modified_form_id, l.location_id, d.domain_name \
             from commtrack_stockstate s \
             join products_sqlproduct p on p.id = s.sql_product_id \
             left join locations_sqllocation l on l.id = s.sql_location_id \
             left join stock_docdomainmapping d on d.doc_id = s.case_id \
             where s.case_id = any($1) {} order by s.case_id, s.section_id, s.product_id",
            which.condition()
        );
        self.of_cases(&select, case_ids, |row| {
            Ok(StockStateRow {
                ledger: ledger(row)?,
                id: row.try_get(3)?,
                stock_on_hand: row.try_get(4)?,
                daily_consumption: row.try_get(5)?,
                last_modified_date: row.try_get(6)?,
                last_modified_form_id: row.try_get(7)?,
                location_id: row.try_get(8)?,
                domain: row.try_get(9)?,
            })
        })
        .await
    }

    /// The latest transaction of each ledger of these cases: by the date of its report, then by its id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn latest_stock_transactions(&self, case_ids: &[String]) -> Result<Vec<StockTransactionRow>> {
        self.of_cases(
            "select distinct on (t.case_id, t.section_id, t.product_id) \
             t.case_id, t.section_id, t.product_id, r.form_id, t.type, r.server_date, t.quantity::text, \
             t.stock_on_hand::text \
             from stock_stocktransaction t join stock_stockreport r on r.id = t.report_id \
             where t.case_id = any($1) \
             order by t.case_id, t.section_id, t.product_id, r.date desc, t.id desc",
            case_ids,
            transaction,
        )
        .await
    }

    /// All transactions of these cases, by ledger and the oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn stock_transactions(&self, case_ids: &[String]) -> Result<Vec<StockTransactionRow>> {
        self.of_cases(
            "select t.case_id, t.section_id, t.product_id, r.form_id, t.type, r.server_date, t.quantity::text, \
             t.stock_on_hand::text \
             from stock_stocktransaction t join stock_stockreport r on r.id = t.report_id \
             where t.case_id = any($1) \
             order by t.case_id, t.section_id, t.product_id, r.date, t.id",
            case_ids,
            transaction,
        )
        .await
    }

    /// The forms that changed ledgers of these cases, by HQ's reports, as (case, form), in order.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn stock_forms(&self, case_ids: &[String]) -> Result<Vec<(String, String)>> {
        self.of_cases(
            "select distinct t.case_id, r.form_id \
             from stock_stocktransaction t join stock_stockreport r on r.id = t.report_id \
             where t.case_id = any($1) order by t.case_id, r.form_id",
            case_ids,
            |row| Ok((row.try_get(0)?, row.try_get(1)?)),
        )
        .await
    }

    /// Forms that have several transactions of one type of report in a ledger of these cases.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn repeated_stock_reports(&self, case_ids: &[String]) -> Result<Vec<RepeatedReport>> {
        self.of_cases(
            "select t.case_id, t.section_id, t.product_id, r.form_id, r.type, count(*) \
             from stock_stocktransaction t join stock_stockreport r on r.id = t.report_id \
             where t.case_id = any($1) \
             group by t.case_id, t.section_id, t.product_id, r.form_id, r.type having count(*) > 1 \
             order by t.case_id, t.section_id, t.product_id, r.form_id, r.type",
            case_ids,
            |row| {
                let transactions: i64 = row.try_get(5)?;
                Ok(RepeatedReport {
                    ledger: ledger(row)?,
                    form_id: row.try_get(3)?,
                    report_type: row.try_get(4)?,
                    transactions: transactions.unsigned_abs(),
                })
            },
        )
        .await
    }

    /// `location_id` of the location whose supply point each of these cases is.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn supply_point_locations(&self, case_ids: &[String]) -> Result<HashMap<String, String>> {
        let found = self
            .of_cases(
                "select supply_point_id, location_id from locations_sqllocation where supply_point_id = any($1)",
                case_ids,
                |row| Ok((row.try_get(0)?, row.try_get(1)?)),
            )
            .await?;
        Ok(found.into_iter().collect())
    }

    /// Ledger values of these cases that have a daily consumption, with it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn daily_consumptions(&self, case_ids: &[String]) -> Result<HashMap<LedgerRef, String>> {
        let failed = Error::during("read daily consumption");
        let reads = self.by_shard(case_ids).into_iter().map(|(shard, ids)| async move {
            let client = self.database(shard)?.client().await?;
            let statement = client
                .prepare_cached(
                    "select case_id, section_id, entry_id, daily_consumption::text from form_processor_ledgervalue \
                     where case_id = any($1) and daily_consumption is not null",
                )
                .await
                .map_err(Error::during("read daily consumption"))?;
            client
                .query(&statement, &[&ids])
                .await
                .map_err(Error::during("read daily consumption"))
        });
        let rows = futures::future::try_join_all(reads).await?;
        rows.iter()
            .flatten()
            .map(|row| Ok((ledger(row)?, row.try_get(3)?)))
            .collect::<Result<_, _>>()
            .map_err(failed)
    }

    /// Ledger values of these cases that stand under another domain than their case, with that domain.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn foreign_ledgers(&self, case_ids: &[String]) -> Result<HashMap<LedgerRef, String>> {
        let failed = Error::during("read domains of ledgers");
        let reads = self.by_shard(case_ids).into_iter().map(|(shard, ids)| async move {
            let client = self.database(shard)?.client().await?;
            let statement = client
                .prepare_cached(
                    "select v.case_id, v.section_id, v.entry_id, v.domain from form_processor_ledgervalue v \
                     join form_processor_commcarecasesql c on c.case_id = v.case_id \
                     where v.case_id = any($1) and v.domain <> c.domain",
                )
                .await
                .map_err(Error::during("read domains of ledgers"))?;
            client
                .query(&statement, &[&ids])
                .await
                .map_err(Error::during("read domains of ledgers"))
        });
        let rows = futures::future::try_join_all(reads).await?;
        rows.iter()
            .flatten()
            .map(|row| Ok((ledger(row)?, row.try_get(3)?)))
            .collect::<Result<_, _>>()
            .map_err(failed)
    }

    async fn of_cases<T>(
        &self,
        select: &str,
        case_ids: &[String],
        decode: impl Fn(&Row) -> Result<T, tokio_postgres::Error>,
    ) -> Result<Vec<T>> {
        let failed = Error::during("read stock");
        if case_ids.is_empty() || !self.has_stock_tables().await? {
            return Ok(Vec::new());
        }
        let client = self.default_database().client().await?;
        let statement = client.prepare_cached(select).await.map_err(&failed)?;
        let rows = client.query(&statement, &[&case_ids]).await.map_err(&failed)?;
        rows.iter().map(decode).collect::<Result<_, _>>().map_err(&failed)
    }

    async fn has_stock_tables(&self) -> Result<bool> {
        let database = self.default_database();
        let present = database
            .stock
            .get_or_try_init(|| async {
                let client = database.client().await?;
                client
                    .query_one(
                        "select bool_and(to_regclass(name) is not null) from unnest($1::text[]) wanted (name)",
                        &[&TABLES.as_slice()],
                    )
                    .await
                    .and_then(|row| row.try_get(0))
                    .map_err(Error::during("look for the stock tables"))
            })
            .await?;
        Ok(*present)
    }
}

/// The ledger that the first three columns name.
fn ledger(row: &Row) -> Result<LedgerRef, tokio_postgres::Error> {
    Ok(LedgerRef {
        case_id: row.try_get(0)?,
        section_id: row.try_get(1)?,
        entry_id: row.try_get(2)?,
    })
}

fn transaction(row: &Row) -> Result<StockTransactionRow, tokio_postgres::Error> {
    Ok(StockTransactionRow {
        ledger: ledger(row)?,
        form_id: row.try_get(3)?,
        kind: row.try_get(4)?,
        server_date: row.try_get(5)?,
        quantity: row.try_get(6)?,
        stock_on_hand: row.try_get(7)?,
    })
}
