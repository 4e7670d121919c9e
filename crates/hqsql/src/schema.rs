//! Creating HQ's tables in a fresh database, and checking those that were found.

use std::collections::HashMap;

use proto::rows::{
    AttachmentRow, CaseRow, FormRow, IndexRow, LedgerTransactionRow, LedgerValueRow, OperationRow, TransactionRow,
};

use crate::ddl;
use crate::error::{Error, Result};
use crate::fence::FENCE_TABLE;
use crate::form_rows::BLOBMETA_WITHOUT_COMPRESSION;
use crate::table::ColumnType::{Big, Bool, Int, Text, Time, Varchar};
use crate::table::{Column, Table, TableRow};
use crate::target::{Database, Target};

/// What must be on every shard. `compressed_length` of the blob metadata is not asked for.
const ON_SHARDS: [Table; 10] = [
    FormRow::TABLE,
    OperationRow::TABLE,
    CaseRow::TABLE,
    IndexRow::TABLE,
    AttachmentRow::TABLE,
    TransactionRow::TABLE,
    LedgerValueRow::TABLE,
    LedgerTransactionRow::TABLE,
    BLOBMETA_WITHOUT_COMPRESSION,
    Table {
        name: FENCE_TABLE,
        columns: &[("domain", Text), ("epoch", Big), ("open", Bool)],
    },
];

/// What must be in the default database. The stock tables of Couch times are not asked for: later versions of HQ drop them.
const IN_DEFAULT: [Table; 1] = [Table {
    name: "domain_migration_flags_domainmigrationprogress",
    columns: &[
        ("domain", Varchar(256)),
        ("migration_slug", Varchar(256)),
        ("migration_status", Varchar(11)),
        ("started_on", Time),
        ("completed_on", Time),
    ],
}];

/// Key of the advisory lock that keeps two creators apart.
const CREATION_LOCK: i64 = 0x6332_735f_6864_646c;

impl Target {
    /// Creates what is missing of HQ's tables, with their indexes and constraints, and our fence table. A table that is
    /// there is used as found.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn create_tables(&self) -> Result<()> {
        for (_, database) in self.databases() {
            create(database, ddl::ON_SHARDS).await?;
        }
        create(self.default_database(), ddl::IN_DEFAULT).await?;
        self.create_fence_table().await
    }

    /// Checks that every database has the tables and columns that are read and written, with the types that are expected,
    /// and holds text in UTF-8.
    ///
    /// # Errors
    /// [`Error::Tables`] names everything that is missing or different in the first database that is not right.
    pub async fn check_tables(&self) -> Result<()> {
        for (_, database) in self.databases() {
            check(database, &ON_SHARDS).await?;
        }
        check(self.default_database(), &IN_DEFAULT).await
    }
}

async fn create(database: &Database, tables: &[(&str, &str)]) -> Result<()> {
    let failed = Error::during("create tables");
    let mut client = database.client().await?;
    let tx = client.transaction().await.map_err(&failed)?;
    tx.execute("select pg_advisory_xact_lock($1)", &[&CREATION_LOCK])
        .await
        .map_err(&failed)?;
    for (name, statements) in tables {
        let there: bool = tx
            .query_one("select to_regclass($1::text) is not null", &[name])
            .await
            .and_then(|row| row.try_get(0))
            .map_err(&failed)?;
        if !there {
            tx.batch_execute(statements).await.map_err(&failed)?;
        }
    }
    tx.commit().await.map_err(&failed)
}

async fn check(database: &Database, tables: &[Table]) -> Result<()> {
    let failed = Error::during("look at the tables");
    let client = database.client().await?;
    let names: Vec<&str> = tables.iter().map(|table| table.name).collect();
    let rows = client
        .query(
            "select wanted.name, attname::text, format_type(atttypid, atttypmod) \
             from unnest($1::text[]) as wanted (name) \
             join pg_attribute on attrelid = to_regclass(wanted.name) \
             where attnum > 0 and not attisdropped",
            &[&names],
        )
        .await
        .map_err(&failed)?;
    let mut found: HashMap<String, HashMap<String, String>> = HashMap::new();
    for row in rows {
        let table: String = row.try_get(0).map_err(&failed)?;
        found
            .entry(table)
            .or_default()
            .insert(row.try_get(1).map_err(&failed)?, row.try_get(2).map_err(&failed)?);
    }
    let mut problems = Vec::new();
    let encoding: String = client
        .query_one("show server_encoding", &[])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(&failed)?;
    if encoding != "UTF8" {
        problems.push(format!("its encoding is {encoding}, not UTF8"));
    }
    for table in tables {
        let name = table.name;
        let Some(columns) = found.get(name) else {
            problems.push(format!("table {name} is missing"));
            continue;
        };
        let id: &[Column] = &[("id", Int)];
        let id = if name == FENCE_TABLE { &[] } else { id };
        for (column, expected) in id.iter().chain(table.columns) {
            match columns.get(*column) {
                None => problems.push(format!("column {name}.{column} is missing")),
                // Ids are read as bigint whatever they are; some installs have widened them.
                Some(_) if *column == "id" => {}
                Some(actual) if *actual == expected.to_string() => {}
                Some(actual) => problems.push(format!("column {name}.{column} is {actual}, not {expected}")),
            }
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::Tables {
            database: database.label.clone(),
            problems,
        })
    }
}
