//! The binary: what it prints, what it loads, whom it lets in.
#![allow(clippy::unwrap_used)]

mod client;

use std::io::Write;
use std::process::Stdio;

use client::{Client, PATIENCE};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_couch-standin"));
    command
        .env_remove("COUCH_STANDIN_AUTH")
        .kill_on_drop(true)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

#[tokio::test]
async fn it_loads_then_says_where_it_is() {
    let mut process = binary()
        .env("COUCH_STANDIN_AUTH", "migrator:secret")
        .args(["--create", "db", "--create", "db__domains", "--load-ndjson", "db=-"])
        .spawn()
        .unwrap();
    let mut input = process.stdin.take().unwrap();
    let form = json!({"_id": "f", "domain": "d", "doc_type": "XFormInstance", "received_on": "2019"});
    input
        .write_all(format!("{form}\n\n{{\"_id\":\"g\"}}\n").as_bytes())
        .await
        .unwrap();
    drop(input);
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let url = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();

    let stranger = Client::new(&url);
    assert_eq!(stranger.ask("GET", "/db").await.0, 401);
    let known = Client::new(&url.replace("http://", "http://migrator:secret@"));
    assert_eq!(known.get("/_all_dbs").await, json!(["db", "db__domains"]));
    assert_eq!(known.get("/db/g").await["_id"], "g");
    let counted = known.get("/db/_design/by_domain_doc_type_date/_view/view").await;
    assert_eq!(counted["rows"], json!([{"key": null, "value": 1}]));
}

#[tokio::test]
async fn it_refuses_what_it_cannot_load() {
    let mut file = std::env::temp_dir();
    file.push(format!("couch-standin-{}.ndjson", std::process::id()));
    std::fs::File::create(&file)
        .unwrap()
        .write_all(b"{\"_id\":\"a\"}\n{\"n\":1}\n")
        .unwrap();
    let source = format!("db={}", file.display());
    for (argument, complaint) in [
        (source.as_str(), "document 2 has no _id"),
        ("db=/nowhere/x", "cannot open /nowhere/x"),
    ] {
        let output = binary()
            .args(["--load-ndjson", argument])
            .stderr(Stdio::piped())
            .output();
        let output = timeout(PATIENCE, output).await.unwrap().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(complaint), "{said}");
    }
    std::fs::remove_file(file).unwrap();
}
