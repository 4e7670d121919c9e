//! What source and target can do when nothing is done with the data.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use couch::{Database, ViewPage};
use e2e::load::{self, Loaded};
use e2e::world::World;
use futures::{SinkExt, StreamExt, TryStreamExt, stream};
use generator::Piece;
use serde_json::json;

/// Rows of a view page and ids of a bulk read, as the driver and the workers have them.
const PAGE: usize = 5000;
const DOCS_AT_ONCE: usize = 100;
/// Requests at a time: as many as two form workers with two batches each make.
pub(crate) const AT_ONCE: usize = 4;
/// Bytes of one row of the raw COPY: about what a form with its operations, or a case with its transactions, weighs.
const ROW_BYTES: usize = 3072;
/// Rows that are sent at once.
const ROWS_AT_ONCE: usize = 200;

/// Rates of the servers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw {
    /// Documents of the source.
    pub(crate) documents: usize,
    /// To list their keys and read their bodies.
    pub(crate) read_seconds: f64,
    /// Rows of text.
    pub(crate) rows: usize,
    /// To write them.
    pub(crate) copy_seconds: f64,
}

impl Raw {
    pub(crate) fn read_rate(&self) -> f64 {
        self.documents as f64 / self.read_seconds
    }

    pub(crate) fn copy_rate(&self) -> f64 {
        self.rows as f64 / self.copy_seconds
    }
}

pub(crate) async fn measure(world: &World, domain: &str, loaded: Loaded) -> Result<Raw> {
    let started = Instant::now();
    let documents = read_all(world.source().forms(), domain).await?;
    let read_seconds = started.elapsed().as_secs_f64();
    ensure!(
        documents == loaded.documents(),
        "{documents} documents were read, {} were loaded",
        loaded.documents()
    );
    let started = Instant::now();
    copy_rows(world, documents).await?;
    Ok(Raw {
        documents,
        read_seconds,
        rows: documents,
        copy_seconds: started.elapsed().as_secs_f64(),
    })
}

async fn read_all(database: &Database, domain: &str) -> Result<usize> {
    let mut ids = Vec::new();
    let mut after = None;
    loop {
        let page = ViewPage {
            design: "by_domain_doc_type_date".to_owned(),
            view: "view".to_owned(),
            start_key: Some(json!([domain])),
            end_key: Some(json!([domain, {}])),
            after,
            limit: PAGE,
        };
        let page = database.view_page(&page).await?;
        after = page.cursor();
        ids.extend(page.rows.into_iter().map(|row| row.id));
        if page.end {
            break;
        }
    }
    ids.sort_unstable();
    // Tasks of their own, so that the answers are taken apart on all processors, as in the workers.
    let reads = ids.chunks(DOCS_AT_ONCE).map(|ids| {
        let (database, ids) = (database.clone(), ids.to_vec());
        tokio::spawn(async move { load::read_documents(&database, &ids).await })
    });
    let counts: Vec<Result<usize>> = stream::iter(reads).buffer_unordered(AT_ONCE).try_collect().await?;
    counts.into_iter().sum()
}

/// Writes rows of text into a table without indexes, in one transaction.
async fn copy_rows(world: &World, rows: usize) -> Result<()> {
    let client = world.another_target().await?;
    client
        .batch_execute("create table raw_copy (id bigint not null, body text not null)")
        .await?;
    let body = text_of(ROW_BYTES);
    let sink = client
        .copy_in::<_, bytes::Bytes>("copy raw_copy (id, body) from stdin")
        .await?;
    let mut sink = std::pin::pin!(sink);
    let numbers: Vec<usize> = (0..rows).collect();
    for chunk in numbers.chunks(ROWS_AT_ONCE) {
        let mut text = String::with_capacity(chunk.len() * (body.len() + 16));
        for number in chunk {
            text.push_str(&format!("{number}\t{body}\n"));
        }
        sink.send(text.into()).await.context("COPY")?;
    }
    let written = sink.as_mut().finish().await.context("COPY")?;
    ensure!(written == rows as u64, "{written} of {rows} rows were copied");
    client.batch_execute("drop table raw_copy").await?;
    Ok(())
}

/// Text such as the columns hold: the JSON of generated documents, without what COPY would have to escape.
fn text_of(bytes: usize) -> String {
    let mut text = String::with_capacity(bytes);
    let documents: Vec<Piece> = generator::stream(&generator::Options::new("raw", 50, 1)).collect();
    for doc in documents.iter().flat_map(|piece| &piece.docs) {
        for character in doc.to_string().chars() {
            if text.len() + character.len_utf8() > bytes {
                return text;
            }
            if character != '\\' && !character.is_control() {
                text.push(character);
            }
        }
    }
    text
}
