//! Blobs by reference: some in the store, some still in Couch.
#![allow(clippy::unwrap_used)]

use std::fs;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blobs::{BlobConfig, BlobLocation, BlobStore, Wanted, blob_refs};
use couch::{Couch, CouchConfig};
use serde_json::{Value, json};

/// A Couch whose forms have the inline attachment `form.xml`; that of `big` is too long for an answer with others.
async fn couch() -> Couch {
    async fn bulk_get(Json(body): Json<Value>) -> Json<Value> {
        let results: Vec<Value> = body["docs"].as_array().unwrap().iter().map(|doc| {
            let id = doc["id"].as_str().unwrap();
            let docs = match id {
                "gone" => json!([{"error": {"id": id, "error": "not_found", "reason": "missing"}}]),
                _ => {
                    let xml = if id == "big" { "x".repeat(6000) } else { format!("<{id}/>") };
                    let data = STANDARD.encode(xml);
                    json!([{"ok": {"_id": id, "_rev": "1-a", "_attachments": {"form.xml": {"content_type": "text/xml", "data": data}}}}])
                }
            };
            json!({"id": id, "docs": docs})
        }).collect();
        Json(json!({ "results": results }))
    }
    async fn attachment(Path((id, name)): Path<(String, String)>) -> Result<String, StatusCode> {
        if (id.as_str(), name.as_str()) == ("big", "form.xml") {
            Ok("x".repeat(6000))
        } else {
            Err(StatusCode::NOT_FOUND)
        }
    }
    let router = Router::new()
        .route("/hq/_bulk_get", post(bulk_get))
        .route("/hq/{id}/{name}", get(attachment));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let mut config = CouchConfig::new(url.parse().unwrap());
    config.max_response_bytes = 7000;
    Couch::new(config).unwrap()
}

#[tokio::test]
async fn blobs_come_from_wherever_they_are() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("k-1"), "stored").unwrap();
    let store = BlobStore::new(&BlobConfig::new(BlobLocation::Fs {
        path: directory.path().to_owned(),
    }))
    .unwrap();
    let inline = json!({"_attachments": {"form.xml": {"stub": true}}});
    let other = json!({"_attachments": {"photo.jpg": {"stub": true}}});
    let external = |key: &str| json!({"external_blobs": {"form.xml": {"doc_type": "BlobMetaRef", "key": key}}});
    let documents = [
        ("b", inline.clone()),
        ("x", external("k-1")),
        ("big", inline.clone()),
        ("y", external("k-2")),
        ("gone", inline.clone()),
        ("a", inline),
        ("b", other),
        ("z", external("../k-1")),
    ];
    let wanted: Vec<Wanted> = documents
        .into_iter()
        .map(|(id, document)| Wanted {
            doc_id: id.into(),
            blob: blob_refs("hq", id, &document).unwrap().remove(0),
        })
        .collect();
    let blobs = store.fetch_many(&couch().await.database("hq"), &wanted).await.unwrap();
    let told: Vec<String> = blobs
        .into_iter()
        .map(|blob| match blob {
            Ok(Some(content)) if content == "x".repeat(6000) => "big".into(),
            Ok(Some(content)) => String::from_utf8(content.to_vec()).unwrap(),
            Ok(None) => "none".into(),
            Err(error) => error.code().into(),
        })
        .collect();
    assert_eq!(
        told,
        ["<b/>", "stored", "big", "none", "none", "<a/>", "none", "C2S-1204"]
    );
}
