//! Pages of a view, on servers that heed less and less of the question.
#![allow(clippy::unwrap_used)]

mod imitation;

use couch::{Cursor, Database, ErrorKind, ViewPage};
use imitation::{Heeds, Imitation};
use serde_json::{Value, json};

/// Rows in groups of equal keys: one document each, many documents, more than any page holds, and a null date.
fn rows() -> Vec<(Value, String)> {
    let groups = [
        ("null", 3),
        ("2019-01-01", 1),
        ("2019-01-02", 7),
        ("2019-01-03", 23),
        ("2019-01-04", 2),
    ];
    let mut rows = Vec::new();
    for (date, size) in groups {
        let date = if date == "null" { Value::Null } else { json!(date) };
        for number in 0..size {
            // Upper case sorts before lower case by bytes, but not by the rules of a language.
            let prefix = if number < size / 2 { "Z" } else { "a" };
            rows.push((json!(["demo", "XFormInstance", date]), format!("{prefix}{number:02}")));
        }
    }
    rows
}

fn question(limit: usize, after: Option<Cursor>) -> ViewPage {
    ViewPage {
        design: "d".into(),
        view: "v".into(),
        start_key: Some(json!(["demo", "XFormInstance"])),
        end_key: Some(json!(["demo", "XFormInstance", {}])),
        after,
        limit,
    }
}

async fn scan(database: &Database, limit: usize) -> Vec<(Value, String)> {
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = database.view_page(&question(limit, after)).await.unwrap();
        assert!(page.rows.len() <= limit);
        assert!(
            page.end || page.rows.len() == limit || !page.rows.is_empty(),
            "an empty page that is not the end"
        );
        after = page.cursor();
        seen.extend(page.rows.into_iter().map(|row| (row.key, row.id)));
        if page.end {
            return seen;
        }
    }
}

#[tokio::test]
async fn every_row_once_on_any_server_and_page_size() {
    for heeds in [Heeds::Everything, Heeds::NoStartDocId] {
        let mut server = Imitation::new();
        server.heeds = heeds;
        server.rows = rows();
        // Rows of another type that the end key must keep out.
        server.rows.push((json!(["demo", "XFormZ", "2019"]), "other".into()));
        let (_, couch) = server.start_client().await;
        for limit in [1, 2, 3, 7, 22, 23, 24, 36, 100] {
            assert_eq!(scan(&couch.database("hq"), limit).await, rows(), "limit {limit}");
        }
    }
}

#[tokio::test]
async fn a_cursor_whose_document_is_gone_loses_nothing() {
    for heeds in [Heeds::Everything, Heeds::NoStartDocId] {
        let mut server = Imitation::new();
        server.heeds = heeds;
        server.rows = rows();
        let gone = server.rows.remove(20);
        let rest = server.rows[20..].to_vec();
        let (_, couch) = server.start_client().await;
        let after = Some(Cursor {
            key: gone.0,
            id: gone.1,
        });
        let page = couch.database("hq").view_page(&question(5, after)).await.unwrap();
        let seen: Vec<_> = page.rows.into_iter().map(|row| (row.key, row.id)).collect();
        assert_eq!(seen, rest[..5]);
    }
}

#[tokio::test]
async fn a_server_that_repeats_itself_is_an_error_and_not_a_loop() {
    let mut server = Imitation::new();
    server.heeds = Heeds::NeitherStartDocIdNorSkip;
    server.rows = rows();
    let (server, couch) = server.start_client().await;
    let after = Some(Cursor {
        key: json!(["demo", "XFormInstance", "2019-01-03"]),
        id: "a20".into(),
    });
    let error = couch.database("hq").view_page(&question(4, after)).await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("C2S-1111", ErrorKind::Stop));
    assert_eq!(server.requests(), 3, "the page, the group's start, and its repetition");
}

#[tokio::test]
async fn the_end_is_known_without_an_extra_request() {
    let mut server = Imitation::new();
    server.rows = rows();
    let (server, couch) = server.start_client().await;
    let page = couch.database("hq").view_page(&question(36, None)).await.unwrap();
    assert_eq!((page.rows.len(), page.end), (36, true));
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn counts_come_from_the_reduce_if_there_is_one() {
    let mut server = Imitation::new();
    server.rows = rows();
    let (_, couch) = server.start_client().await;
    let database = couch.database("hq");
    let (start, end) = (json!(["demo", "XFormInstance"]), json!(["demo", "XFormInstance", {}]));
    assert_eq!(
        database.view_count("d", "v", Some(&start), Some(&end)).await.unwrap(),
        Some(36)
    );
    let (start, end) = (json!(["empty"]), json!(["empty", {}]));
    assert_eq!(
        database.view_count("d", "v", Some(&start), Some(&end)).await.unwrap(),
        Some(0)
    );

    let mut server = Imitation::new();
    server.rows = rows();
    server.reduces = false;
    let (_, couch) = server.start_client().await;
    assert_eq!(
        couch.database("hq").view_count("d", "v", None, None).await.unwrap(),
        None
    );
}

#[tokio::test]
async fn a_missing_view_and_a_missing_database_are_told_apart() {
    let (_, couch) = Imitation::new().start_client().await;
    let mut page = question(5, None);
    page.view = "nope".into();
    assert_eq!(
        couch.database("hq").view_page(&page).await.unwrap_err().code(),
        "C2S-1107"
    );
    assert_eq!(
        couch.database("nope").view_page(&page).await.unwrap_err().code(),
        "C2S-1106"
    );
    let error = couch.database("hq").ensure_view("by_domain", "view").await.unwrap_err();
    assert_eq!(error.to_string(), "database hq has no view by_domain/view");
}
