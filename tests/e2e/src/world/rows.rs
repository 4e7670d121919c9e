//! What a test reads of its world, and how it waits for what it wants to read.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use generator::Model;
use generator::compare::{Actual, compare};

use super::{LOOK, PATIENCE, SHOWN, World};

impl World {
    /// All rows of a domain in the target.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn actual(&self, domain: &str) -> Result<Actual> {
        let mut actual = Actual::default();
        for client in self.shards.clients() {
            actual.merge(
                generator::sql::read_actual(client, domain)
                    .await
                    .context("read the target")?,
            );
        }
        Ok(actual)
    }

    /// Checks that the target holds what the model says.
    ///
    /// # Errors
    /// Those of the database.
    ///
    /// # Panics
    /// The rows differ.
    pub async fn assert_same_rows(&self, domain: &str, model: &Model) -> Result<()> {
        let differences = compare(model, &self.actual(domain).await?, usize::MAX);
        let shown: Vec<&str> = differences.iter().take(SHOWN).map(String::as_str).collect();
        assert!(
            differences.is_empty(),
            "{} differences in {domain}:\n{}",
            differences.len(),
            shown.join("\n")
        );
        Ok(())
    }

    /// Number in the state schema, by a query that gives one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn number(&self, sql: &str) -> Result<i64> {
        let row = self.state.query_one(sql, &[]).await.with_context(|| sql.to_owned())?;
        row.try_get(0).with_context(|| sql.to_owned())
    }

    /// Text in the state schema, by a query that gives one; none for null or no row.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn text(&self, sql: &str) -> Result<Option<String>> {
        let row = self.state.query_opt(sql, &[]).await.with_context(|| sql.to_owned())?;
        row.map_or(Ok(None), |row| row.try_get(0))
            .with_context(|| sql.to_owned())
    }

    /// Waits until a query of the state schema says true.
    ///
    /// # Errors
    /// Those of the database; it does not come true in time.
    pub async fn wait_until(&self, sql: &str) -> Result<()> {
        self.until(sql, async |world| {
            let row = world.state.query_one(sql, &[]).await.with_context(|| sql.to_owned())?;
            Ok(row.try_get::<_, Option<bool>>(0)?.unwrap_or(false))
        })
        .await
    }

    /// Waits until something is so.
    ///
    /// # Errors
    /// The first that it gives; it does not become so in time.
    pub async fn until(&self, what: &str, mut holds: impl AsyncFnMut(&Self) -> Result<bool>) -> Result<()> {
        let started = Instant::now();
        while !holds(self).await? {
            ensure!(started.elapsed() < PATIENCE, "never came true: {what}");
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Row counts of all tables of the target and the state schema that say something of a migration.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn row_counts(&self) -> Result<Vec<(String, i64)>> {
        let mut counts = Vec::new();
        for client in self.shards.clients().chain([&self.target, &self.state]) {
            let tables = client
                .query(
                    "select quote_ident(schemaname) || '.' || quote_ident(tablename) from pg_tables
                     where schemaname not in ('pg_catalog', 'information_schema') and tablename <> 'instance' order by 1",
                    &[],
                )
                .await?;
            for row in tables {
                let table: String = row.get(0);
                let count: i64 = client
                    .query_one(&format!("select count(*) from {table}"), &[])
                    .await?
                    .get(0);
                counts.push((table, count));
            }
        }
        Ok(counts)
    }

    /// The whole table of blob metadata, row by row, as text.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn blobmeta_dump(&self) -> Result<Vec<String>> {
        let mut dump = Vec::new();
        for client in self.shards.clients() {
            for row in client
                .query("select b::text from blobs_blobmeta b order by key, id", &[])
                .await?
            {
                dump.push(row.get(0));
            }
        }
        Ok(dump)
    }

    /// Paths of all blobs.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn blob_count(&self) -> Result<usize> {
        fn count(folder: &Path) -> std::io::Result<usize> {
            let mut files = 0;
            for entry in std::fs::read_dir(folder)? {
                let entry = entry?;
                files += if entry.file_type()?.is_dir() {
                    count(&entry.path())?
                } else {
                    1
                };
            }
            Ok(files)
        }
        count(&self.folder().join("blobs")).context("count the blobs")
    }
}
