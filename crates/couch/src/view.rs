//! Views: pages of keys and ids, and counts.

use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;
use url::form_urlencoded::Serializer;

use crate::database::Database;
use crate::error::{Error, Result, error_name};
use crate::transport::{Answer, Request};
use crate::{paging, path};

/// A row of a view, without its value.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Row {
    /// The document that emitted the row.
    pub id: String,
    /// The emitted key.
    pub key: Value,
}

/// A place in a view: the last row that was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Cursor {
    /// Its key, exactly as the server gave it.
    pub key: Value,
    /// Its document id.
    pub id: String,
}

/// A question for one page of a view.
#[derive(Clone, Debug)]
pub struct ViewPage {
    /// Design document, without `_design/`.
    pub design: String,
    /// View.
    pub view: String,
    /// First key, inclusive; ignored when there is a cursor.
    pub start_key: Option<Value>,
    /// Last key, inclusive.
    pub end_key: Option<Value>,
    /// Rows after this one only.
    pub after: Option<Cursor>,
    /// Rows on the page, at least one.
    pub limit: usize,
}

/// A page of a view.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// Rows strictly after the cursor, in the view's order.
    pub rows: Vec<Row>,
    /// Whether nothing follows them.
    pub end: bool,
}

impl Page {
    /// Where the next page continues; `None` for an empty page.
    pub fn cursor(&self) -> Option<Cursor> {
        self.rows.last().map(|row| Cursor {
            key: row.key.clone(),
            id: row.id.clone(),
        })
    }
}

/// Rows of a view. A server that fails in the middle of an answer it has begun with status 200 appends its error.
#[derive(Deserialize)]
struct RowsBody<R> {
    rows: Vec<R>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct ReducedRow {
    id: Option<Value>,
    value: Value,
}

/// Where a request within a view begins.
enum Start<'a> {
    Key(Option<&'a Value>),
    Document(&'a Cursor),
    /// So many rows after the first one with this key.
    Skip(&'a Value, usize),
}

impl Database {
    /// One page of a view: the rows strictly after the cursor. No row is left out or given twice, also where many documents
    /// share one key and the server does not heed start document ids (unless documents of that very group are deleted
    /// meanwhile: then such a server cannot be asked reliably).
    ///
    /// # Errors
    /// [`Error::MissingView`]; [`Error::NoProgress`] if the server gives the same rows whatever it is asked for.
    pub async fn view_page(&self, page: &ViewPage) -> Result<Page> {
        let limit = page.limit.max(1);
        let Some(cursor) = &page.after else {
            let rows = self
                .view_rows(page, &Start::Key(page.start_key.as_ref()), limit + 1)
                .await?;
            return Ok(cut(rows, limit, limit + 1));
        };
        // One more for the cursor's own row, and one more to know whether anything follows.
        let asked = limit + 2;
        let rows = self.view_rows(page, &Start::Document(cursor), asked).await?;
        let given = rows.len();
        let rows = paging::after(cursor, rows);
        if !rows.is_empty() || given < asked {
            return Ok(cut_after(rows, limit, given < asked));
        }
        self.skip_to(page, cursor, limit).await
    }

    /// Goes through a group of equal keys from its start, page by page, until it passes the cursor.
    async fn skip_to(&self, page: &ViewPage, cursor: &Cursor, limit: usize) -> Result<Page> {
        let asked = limit + 2;
        let mut skip = 0;
        let mut last: Option<Row> = None;
        loop {
            let rows = self.view_rows(page, &Start::Skip(&cursor.key, skip), asked).await?;
            if !paging::advances(last.as_ref(), &rows, &cursor.key) {
                return Err(Error::NoProgress {
                    design: page.design.clone(),
                    view: page.view.clone(),
                });
            }
            let given = rows.len();
            skip += given;
            last = rows.last().cloned();
            let rows = paging::after(cursor, rows);
            if !rows.is_empty() || given < asked {
                return Ok(cut_after(rows, limit, given < asked));
            }
        }
    }

    async fn view_rows(&self, page: &ViewPage, start: &Start<'_>, limit: usize) -> Result<Vec<Row>> {
        let path = self.view_path(&page.design, &page.view, &rows_query(page, start, limit))?;
        let rows = self
            .transport
            .send(Request::new("view", Method::GET, path), |answer| {
                if answer.status == 404 {
                    Ok(None)
                } else {
                    rows_of(answer, "view").map(Some)
                }
            })
            .await?;
        match rows {
            Some(rows) => Ok(rows),
            None => Err(self.missing_view(&page.design, &page.view).await),
        }
    }

    /// The last row between two keys, both inclusive.
    ///
    /// # Errors
    /// [`Error::MissingView`].
    pub async fn view_last(&self, design: &str, view: &str, start_key: &Value, end_key: &Value) -> Result<Option<Row>> {
        let mut query = Serializer::new(String::new());
        query
            .append_pair("reduce", "false")
            .append_pair("limit", "1")
            .append_pair("descending", "true")
            .append_pair("startkey", &end_key.to_string())
            .append_pair("endkey", &start_key.to_string());
        let path = self.view_path(design, view, &query.finish())?;
        let rows: Option<Vec<Row>> = self
            .transport
            .send(Request::new("view", Method::GET, path), |answer| {
                if answer.status == 404 {
                    Ok(None)
                } else {
                    rows_of(answer, "view").map(Some)
                }
            })
            .await?;
        match rows {
            Some(rows) => Ok(rows.into_iter().next()),
            None => Err(self.missing_view(design, view).await),
        }
    }

    /// How many rows the view's reduce counts between two keys (both inclusive); `None` if the view has no reduce, or one
    /// that is not a count.
    pub async fn view_count(
        &self,
        design: &str,
        view: &str,
        start_key: Option<&Value>,
        end_key: Option<&Value>,
    ) -> Result<Option<u64>> {
        let path = self.view_path(design, view, &count_query(start_key, end_key))?;
        let rows: Option<Vec<ReducedRow>> = self
            .transport
            .send(Request::new("view_count", Method::GET, path), |answer| {
                match answer.status {
                    404 => Ok(None),
                    400 => match answer.rejection() {
                        // CouchDB's answer for a view that only maps.
                        Error::Rejected { error: Some(name), .. } if name == "query_parse_error" => {
                            Ok(Some(vec![ReducedRow {
                                id: Some(Value::Null),
                                value: Value::Null,
                            }]))
                        }
                        other => Err(other),
                    },
                    _ => rows_of(answer, "view_count").map(Some),
                }
            })
            .await?;
        match rows.as_deref() {
            None => Err(self.missing_view(design, view).await),
            Some([]) => Ok(Some(0)),
            Some([row, ..]) if row.id.is_none() => Ok(row.value.as_u64()),
            Some(_) => Ok(None),
        }
    }

    /// Makes sure that the view is there, without asking for its rows.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the database is missing, [`Error::MissingView`] if the view is.
    pub async fn ensure_view(&self, design: &str, view: &str) -> Result<()> {
        let document = self.get(&format!("_design/{design}")).await?;
        let found = document.as_ref().and_then(|document| document.get("views")?.get(view));
        if found.is_some() {
            Ok(())
        } else {
            Err(self.view_is_missing(design, view))
        }
    }

    fn view_path(&self, design: &str, view: &str, query: &str) -> Result<String> {
        let (design, view) = (path::segment(design)?, path::segment(view)?);
        self.path(&format!("_design/{design}/_view/{view}?{query}"))
    }

    /// The error behind a 404 of a view.
    async fn missing_view(&self, design: &str, view: &str) -> Error {
        match self.must_exist().await {
            Ok(()) => self.view_is_missing(design, view),
            Err(error) => error,
        }
    }

    fn view_is_missing(&self, design: &str, view: &str) -> Error {
        Error::MissingView {
            database: self.name().to_owned(),
            design: design.to_owned(),
            view: view.to_owned(),
        }
    }
}

/// The rows of an answer; an error at its end makes it a failed one.
fn rows_of<R: serde::de::DeserializeOwned>(answer: &Answer, op: &'static str) -> Result<Vec<R>> {
    let body: RowsBody<R> = answer.json()?;
    match body.error {
        Some(error) => Err(Error::Server {
            op,
            status: answer.status,
            error: error_name(&error),
        }),
        None => Ok(body.rows),
    }
}

fn cut(rows: Vec<Row>, limit: usize, asked: usize) -> Page {
    let exhausted = rows.len() < asked;
    cut_after(rows, limit, exhausted)
}

/// A page of at most `limit` rows; `exhausted` says that the server had no more than these.
fn cut_after(mut rows: Vec<Row>, limit: usize, exhausted: bool) -> Page {
    let end = exhausted && rows.len() <= limit;
    rows.truncate(limit);
    Page { rows, end }
}

/// The query of a page.
fn rows_query(page: &ViewPage, start: &Start<'_>, limit: usize) -> String {
    let mut query = Serializer::new(String::new());
    query
        .append_pair("reduce", "false")
        .append_pair("limit", &limit.to_string());
    match start {
        Start::Key(None) => {}
        Start::Key(Some(key)) => {
            query.append_pair("startkey", &key.to_string());
        }
        Start::Document(cursor) => {
            query
                .append_pair("startkey", &cursor.key.to_string())
                .append_pair("startkey_docid", &cursor.id);
        }
        Start::Skip(key, skip) => {
            query
                .append_pair("startkey", &key.to_string())
                .append_pair("skip", &skip.to_string());
        }
    }
    if let Some(end_key) = &page.end_key {
        query.append_pair("endkey", &end_key.to_string());
    }
    query.finish()
}

/// The query of a count. The limit is for servers that answer with the rows themselves when there is no reduce.
fn count_query(start_key: Option<&Value>, end_key: Option<&Value>) -> String {
    let mut query = Serializer::new(String::new());
    query.append_pair("reduce", "true").append_pair("limit", "1");
    for (name, key) in [("startkey", start_key), ("endkey", end_key)] {
        if let Some(key) = key {
            query.append_pair(name, &key.to_string());
        }
    }
    query.finish()
}
