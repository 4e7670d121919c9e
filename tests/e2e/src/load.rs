//! Puts a generated domain where a migration finds it: documents into Couch, blobs into the blob store's directory, blob
//! metadata into the target.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use couch::{Database, Outcome, ViewPage, WriteOutcome};
use generator::sql::stock::{self, Offsets};
use generator::stock::StockRows;
use generator::{ExpectedBlobMeta, Piece};
use serde_json::{Value, json};
use tokio_postgres::Client;

/// Documents of one `_bulk_docs` request: enough to make the round trip cheap, some megabytes at most.
const DOCS_AT_ONCE: usize = 500;

/// The design documents of a database of forms and cases, and of a database of domains.
pub fn design_documents() -> (Value, Value) {
    (
        generator::by_domain_design_doc(),
        couch_standin::domains_design_document(),
    )
}

/// Writes new documents, some hundred at a time. Deletions may be among them.
///
/// # Errors
/// Couch's, and the first document that it refuses.
pub async fn write_documents(database: &Database, documents: &[Value]) -> Result<()> {
    for part in documents.chunks(DOCS_AT_ONCE) {
        for written in database.bulk_docs(part).await.context("write documents")? {
            if !matches!(written.outcome, WriteOutcome::Written { .. }) {
                bail!("document {} was not written: {:?}", written.id, written.outcome);
            }
        }
    }
    Ok(())
}

/// Creates a database with its design document, unless they are there.
///
/// # Errors
/// Couch's.
pub async fn ensure_database(database: &Database, design: &Value) -> Result<()> {
    database
        .create()
        .await
        .with_context(|| format!("create the database {}", database.name()))?;
    let id = design["_id"].as_str().unwrap_or_default();
    if database.get(id).await?.is_none() {
        database.put(id, design).await.with_context(|| format!("write {id}"))?;
    }
    Ok(())
}

/// Deletes the documents that a view lists between two keys, and says how many.
///
/// # Errors
/// Couch's.
pub async fn delete_listed(database: &Database, design: &str, view: &str, start: &Value, end: &Value) -> Result<usize> {
    let mut deleted = 0;
    loop {
        // What was deleted is listed no more, so that every page is the first.
        let page = ViewPage {
            design: design.to_owned(),
            view: view.to_owned(),
            start_key: Some(start.clone()),
            end_key: Some(end.clone()),
            after: None,
            limit: DOCS_AT_ONCE,
        };
        let ids: Vec<String> = database
            .view_page(&page)
            .await?
            .rows
            .into_iter()
            .map(|row| row.id)
            .collect();
        if ids.is_empty() {
            return Ok(deleted);
        }
        let mut deletions = Vec::with_capacity(ids.len());
        for (id, rev) in database.all_docs_exist(&ids).await? {
            let rev = rev.with_context(|| format!("document {id} is listed and not there"))?;
            deletions.push(json!({"_id": id, "_rev": rev, "_deleted": true}));
        }
        deleted += deletions.len();
        write_documents(database, &deletions).await?;
    }
}

/// Reads documents in bulk, for the measurement of what the source can give. The number that was found.
///
/// # Errors
/// Couch's.
pub async fn read_documents(database: &Database, ids: &[String]) -> Result<usize> {
    let fetched = database.bulk_get(ids).await?;
    Ok(fetched
        .iter()
        .filter(|document| matches!(document.outcome, Outcome::Found(_)))
        .count())
}

/// Writes blobs as files, in a thread of the blocking pool.
///
/// # Errors
/// A file cannot be written.
pub async fn write_blobs(root: &Path, blobs: Vec<(String, Vec<u8>)>) -> Result<()> {
    let root = PathBuf::from(root);
    tokio::task::spawn_blocking(move || -> Result<()> {
        for (key, content) in blobs {
            let path = root.join(&key);
            let write = || {
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                std::fs::write(&path, &content)
            };
            write().with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    })
    .await?
}

/// The target's databases, as rows are spread over them.
#[derive(Clone)]
pub struct Shards {
    count: u32,
    databases: Arc<Vec<(std::ops::RangeInclusive<u32>, Client)>>,
}

impl Shards {
    /// One database for everything.
    pub fn single(client: Client) -> Self {
        Self {
            count: 1,
            databases: Arc::new(vec![(0..=0, client)]),
        }
    }

    /// Ranges of `count` logical shards, a power of two.
    pub fn of(count: u32, databases: Vec<(std::ops::RangeInclusive<u32>, Client)>) -> Self {
        Self {
            count,
            databases: Arc::new(databases),
        }
    }

    /// All databases.
    pub fn clients(&self) -> impl Iterator<Item = &Client> {
        self.databases.iter().map(|(_, client)| client)
    }

    fn place_of(&self, id: &str) -> usize {
        let shard = proto::bucket::hash32(id) & (self.count - 1);
        self.databases
            .iter()
            .position(|(range, _)| range.contains(&shard))
            .unwrap_or(0)
    }

    /// Stores blob metadata, each row on the shard of its document.
    ///
    /// # Errors
    /// Whatever the database refuses.
    pub async fn load_blobmeta(&self, rows: &[ExpectedBlobMeta]) -> Result<u64> {
        let mut by_place: Vec<Vec<ExpectedBlobMeta>> = vec![Vec::new(); self.databases.len()];
        for row in rows {
            by_place[self.place_of(&row.parent_id)].push(row.clone());
        }
        let mut stored = 0;
        for (rows, (_, client)) in by_place.iter().zip(self.databases.iter()) {
            if !rows.is_empty() {
                stored += generator::sql::load_blobmeta(client, rows)
                    .await
                    .context("store blob metadata")?;
            }
        }
        ensure!(
            stored == rows.len() as u64,
            "{stored} of {} rows of blob metadata were stored",
            rows.len()
        );
        Ok(stored)
    }
}

/// HQ's stock tables, as they are filled with the rows of one domain.
pub struct StockTables<'a> {
    client: &'a Client,
    offsets: Offsets,
}

impl<'a> StockTables<'a> {
    /// The tables of HQ's default database, whose other rows stay as they are.
    ///
    /// # Errors
    /// Whatever the database refuses.
    pub async fn open(client: &'a Client) -> Result<Self> {
        let offsets = Offsets::behind_all(client).await.context("read the stock tables")?;
        Ok(Self { client, offsets })
    }

    /// Stores rows of the domain.
    ///
    /// # Errors
    /// Whatever the database refuses.
    pub async fn load(&self, rows: &StockRows) -> Result<()> {
        let stored = stock::load(self.client, rows, self.offsets)
            .await
            .context("store stock")?;
        ensure!(
            stored == rows.len() as u64,
            "{stored} of {} rows of stock were stored",
            rows.len()
        );
        Ok(())
    }

    /// Deletes the rows of a domain.
    ///
    /// # Errors
    /// Whatever the database refuses.
    pub async fn delete(client: &Client, domain: &str) -> Result<()> {
        for statement in DELETE_STOCK {
            client.execute(statement, &[&domain]).await.context("delete stock")?;
        }
        Ok(())
    }
}

/// Children before parents.
const DELETE_STOCK: [&str; 6] = [
    "delete from commtrack_stockstate s using products_sqlproduct p where p.id = s.sql_product_id and p.domain = $1",
    "delete from stock_stocktransaction t using products_sqlproduct p where p.id = t.sql_product_id and p.domain = $1",
    "delete from stock_stockreport where domain = $1",
    "delete from stock_docdomainmapping where domain_name = $1",
    "delete from locations_sqllocation where domain = $1",
    "delete from products_sqlproduct where domain = $1",
];

/// What was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Documents of forms.
    pub forms: usize,
    /// Documents of cases.
    pub cases: usize,
    /// Blobs.
    pub blobs: usize,
    /// Rows of blob metadata.
    pub blobmeta: usize,
    /// Rows of the stock tables.
    pub stock: usize,
}

impl Loaded {
    /// Counts a piece.
    pub fn add(&mut self, piece: &Piece) {
        let cases = piece.docs.iter().filter(|doc| is_case(doc)).count();
        self.cases += cases;
        self.forms += piece.docs.len() - cases;
        self.blobs += piece.blobs.len();
        self.blobmeta += piece.blobmeta.len();
        self.stock += piece.stock.len();
    }

    /// Forms and cases.
    pub const fn documents(&self) -> usize {
        self.forms + self.cases
    }
}

fn is_case(doc: &Value) -> bool {
    doc["doc_type"]
        .as_str()
        .is_some_and(|kind| kind.starts_with("CommCareCase"))
}

/// Gathers pieces until they are worth a request.
pub fn gather(pieces: &mut impl Iterator<Item = Piece>, documents: usize) -> Option<Piece> {
    let mut gathered = Piece::default();
    while gathered.docs.len() < documents {
        let Some(piece) = pieces.next() else { break };
        gathered.docs.extend(piece.docs);
        gathered.blobs.extend(piece.blobs);
        gathered.blobmeta.extend(piece.blobmeta);
        gathered.stock.absorb(piece.stock);
    }
    (!gathered.docs.is_empty()).then_some(gathered)
}
