//! Databases, documents, attachments, bulk requests, as CouchDB's reference describes them.
#![allow(clippy::unwrap_used)]

mod client;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::Client;
use couch_standin::{Credentials, OpKind, Options, Running, StandIn};
use md5::{Digest, Md5};
use serde_json::{Value, json};

async fn start() -> (Running, Client) {
    let running = StandIn::start(Options::default()).await.unwrap();
    let client = Client::new(&running.url());
    client.put("/db", &json!({})).await;
    (running, client)
}

fn error(error: &str, reason: &str) -> Value {
    json!({"error": error, "reason": reason})
}

#[tokio::test]
async fn databases_come_and_go() {
    let (_running, client) = start().await;
    assert_eq!(client.get("/").await["couchdb"], "Welcome");
    assert_eq!(client.get("/_up").await["status"], "ok");
    client.put("/commcarehq__domains", &json!({})).await;
    assert_eq!(client.get("/_all_dbs").await, json!(["commcarehq__domains", "db"]));
    let (status, answer) = client.ask("PUT", "/db").await;
    assert_eq!((status, &answer["error"]), (412, &json!("file_exists")));
    let (status, answer) = client.ask("PUT", "/Upper").await;
    assert_eq!((status, &answer["error"]), (400, &json!("illegal_database_name")));
    assert_eq!(
        client.ask("GET", "/none").await,
        (404, error("not_found", "Database does not exist."))
    );
    assert_eq!(client.ask("HEAD", "/none").await.0, 404);
    assert_eq!(client.ask("HEAD", "/db").await.0, 200);

    client.put("/db/a", &json!({})).await;
    let b = client.put("/db/b", &json!({})).await;
    client
        .ask("DELETE", &format!("/db/b?rev={}", b["rev"].as_str().unwrap()))
        .await;
    let info = client.get("/db").await;
    assert_eq!(
        (&info["db_name"], &info["doc_count"], &info["doc_del_count"]),
        (&json!("db"), &json!(1), &json!(1))
    );
    assert!(info["update_seq"].is_string());
    assert_eq!(client.ask("DELETE", "/db").await, (200, json!({"ok": true})));
    assert_eq!(client.ask("DELETE", "/db").await.0, 404);
}

#[tokio::test]
async fn a_document_is_edited_only_at_its_revision() {
    let (_running, client) = start().await;
    let first = client.put("/db/f-1", &json!({"n": 1})).await;
    let first_revision = first["rev"].as_str().unwrap().to_owned();
    assert!(first_revision.starts_with("1-") && first["id"] == "f-1" && first["ok"] == true);
    let conflict = (409, error("conflict", "Document update conflict."));
    assert_eq!(client.send("PUT", "/db/f-1", &json!({"n": 2})).await, conflict);
    assert_eq!(
        client.send("PUT", "/db/new", &json!({"_rev": first_revision})).await,
        conflict
    );
    let second = client.put("/db/f-1", &json!({"_rev": first_revision, "n": 2})).await;
    let second_revision = second["rev"].as_str().unwrap().to_owned();
    assert!(second_revision.starts_with("2-"));
    assert_eq!(
        client
            .send("PUT", &format!("/db/f-1?rev={first_revision}"), &json!({}))
            .await,
        conflict
    );
    assert_eq!(
        client.get("/db/f-1").await,
        json!({"_id": "f-1", "_rev": second_revision, "n": 2})
    );

    assert_eq!(
        client.ask("DELETE", &format!("/db/f-1?rev={first_revision}")).await.0,
        409
    );
    let (status, deleted) = client.ask("DELETE", &format!("/db/f-1?rev={second_revision}")).await;
    assert_eq!(status, 200);
    assert_eq!(client.ask("GET", "/db/f-1").await, (404, error("not_found", "deleted")));
    assert_eq!(
        client.ask("GET", "/db/none").await,
        (404, error("not_found", "missing"))
    );
    let tombstone = deleted["rev"].as_str().unwrap();
    assert_eq!(
        client.get(&format!("/db/f-1?rev={tombstone}")).await,
        json!({"_id": "f-1", "_rev": tombstone, "_deleted": true})
    );
    let again = client.put("/db/f-1", &json!({"n": 4})).await;
    assert!(
        again["rev"].as_str().unwrap().starts_with("4-"),
        "a document made again goes on counting"
    );
}

#[tokio::test]
async fn documents_keep_their_text() {
    let (_running, client) = start().await;
    let text = r#"{"z":1.0,"a":12345678901234567890123,"form":{"b":[1,{"c":"\u00e9 \"x\""}],"a":null}}"#;
    let put = client
        .request("PUT", "/db/with%2Fslash")
        .body(text)
        .send()
        .await
        .unwrap();
    assert_eq!(put.status(), 201);
    let answer = client.request("GET", "/db/with%2Fslash").send().await.unwrap();
    assert!(
        answer.headers().contains_key("date"),
        "cut-offs are read from this header"
    );
    let sent = answer.text().await.unwrap();
    assert!(sent.ends_with(&text[1..]), "{sent}");
    assert!(sent.starts_with(r#"{"_id":"with/slash","_rev":"1-"#), "{sent}");
}

#[tokio::test]
async fn what_is_no_document_is_refused() {
    let (_running, client) = start().await;
    let refused = async |path: &str, body: &'static str| {
        let answer = client.request("PUT", path).body(body).send().await.unwrap();
        let status = answer.status().as_u16();
        (
            status,
            serde_json::from_str::<Value>(&answer.text().await.unwrap()).unwrap()["error"].clone(),
        )
    };
    assert_eq!(refused("/db/x", "{").await, (400, json!("bad_request")));
    assert_eq!(refused("/db/x", "[]").await, (400, json!("bad_request")));
    assert_eq!(refused("/db/x", "{\"_what\":1}").await, (400, json!("doc_validation")));
    assert_eq!(refused("/db/_x", "{}").await, (400, json!("illegal_docid")));
    assert_eq!(refused("/db/x?rev=junk", "{}").await, (400, json!("bad_request")));
    assert_eq!(refused("/none/x", "{}").await, (404, json!("not_found")));
}

#[tokio::test]
async fn the_user_must_be_known() {
    let auth = Credentials {
        user: "migrator".to_owned(),
        password: "s3:cret".to_owned(),
    };
    let running = StandIn::start(Options {
        auth: Some(auth),
        ..Options::default()
    })
    .await
    .unwrap();
    let stranger = Client::new(&running.url());
    assert_eq!(stranger.ask("GET", "/_up").await.0, 200);
    assert_eq!(
        stranger.ask("GET", "/_all_dbs").await,
        (401, error("unauthorized", "You are not authorized to access this db."))
    );
    let wrong = stranger
        .request("GET", "/")
        .basic_auth("migrator", Some("guess"))
        .send()
        .await
        .unwrap();
    assert_eq!(wrong.status(), 401);
    let known = stranger
        .request("GET", "/_all_dbs")
        .basic_auth("migrator", Some("s3:cret"))
        .send()
        .await
        .unwrap();
    assert_eq!(known.status(), 200);
}

#[tokio::test]
async fn bulk_docs_answer_one_by_one() {
    let (running, client) = start().await;
    let first = client
        .post(
            "/db/_bulk_docs",
            &json!({"docs": [{"_id": "a", "n": 1}, {"_id": "b"}, {"n": 3}]}),
        )
        .await;
    assert_eq!(first[0]["id"], "a");
    assert_eq!(first[2]["id"].as_str().unwrap().len(), 32);
    let second = client
        .post(
            "/db/_bulk_docs",
            &json!({"docs": [{"_id": "a"}, {"_id": "b", "_rev": first[1]["rev"], "_deleted": true}]}),
        )
        .await;
    assert_eq!(
        second[0],
        json!({"id": "a", "error": "conflict", "reason": "Document update conflict."})
    );
    assert_eq!(second[1]["ok"], true);
    assert!(running.get("db", "b").is_none());
    assert_eq!(client.send("POST", "/db/_bulk_docs", &json!({})).await.0, 400);

    let replicated = json!({"new_edits": false, "docs": [
        {"_id": "a", "_rev": "3-ffff", "n": "wins"},
        {"_id": "c", "_rev": "2-bbbb", "n": "first"},
        {"_id": "c", "_rev": "2-aaaa", "n": "loses"},
    ]});
    assert_eq!(client.post("/db/_bulk_docs", &replicated).await, json!([]));
    assert_eq!(
        client.get("/db/a").await,
        json!({"_id": "a", "_rev": "3-ffff", "n": "wins"})
    );
    assert_eq!(client.get("/db/c").await["n"], "first");
    assert_eq!(running.requests().of(OpKind::BulkDocs).documents, 8);
}

#[tokio::test]
async fn bulk_get_answers_in_the_order_asked() {
    let (running, client) = start().await;
    let a = client.put("/db/a", &json!({"n": 1})).await["rev"].clone();
    client.put("/db/b", &json!({})).await;
    assert!(running.delete("db", "b"));
    let asked =
        json!({"docs": [{"id": "none"}, {"id": "b"}, {"id": "a"}, {"id": "a", "rev": "9-x"}, {"id": "a", "rev": a}]});
    let answer = client.post("/db/_bulk_get", &asked).await;
    let results = answer["results"].as_array().unwrap();
    let missing = |id: &str, rev: &str| json!({"id": id, "docs": [{"error": {"id": id, "rev": rev, "error": "not_found", "reason": "missing"}}]});
    assert_eq!(results[0], missing("none", "undefined"));
    assert_eq!(results[1]["docs"][0]["ok"]["_deleted"], true);
    assert_eq!(
        results[2],
        json!({"id": "a", "docs": [{"ok": {"_id": "a", "_rev": a, "n": 1}}]})
    );
    assert_eq!(results[3], missing("a", "9-x"));
    assert_eq!(results[4], results[2]);
    let counted = running.requests().of(OpKind::BulkGet);
    assert_eq!((counted.requests, counted.rows, counted.documents), (1, 5, 3));
    assert_eq!(client.send("POST", "/db/_bulk_get", &json!({})).await.0, 400);
    let untyped = client
        .request("POST", "/db/_bulk_get")
        .body("{\"docs\":[]}")
        .send()
        .await
        .unwrap();
    assert_eq!(untyped.status(), 415);
}

#[tokio::test]
async fn attachments_live_with_their_document() {
    let (running, client) = start().await;
    let put = client
        .request("PUT", "/db/f/form.xml")
        .header("content-type", "text/xml")
        .body("<data/>")
        .send()
        .await
        .unwrap();
    assert_eq!(put.status(), 201);
    let stub = client.get("/db/f").await["_attachments"]["form.xml"].clone();
    assert_eq!(
        (&stub["content_type"], &stub["length"], &stub["stub"], &stub["revpos"]),
        (&json!("text/xml"), &json!(7), &json!(true), &json!(1))
    );
    let plain = format!("md5-{}", STANDARD.encode(Md5::digest(b"<data/>")));
    assert_ne!(
        stub["digest"], plain,
        "the digest of a text is that of the gzipped body"
    );

    // md5 of "abc", from RFC 1321.
    let revision = client.get("/db/f").await["_rev"].as_str().unwrap().to_owned();
    let picture = json!({"_rev": revision, "n": 1, "_attachments": {
        "form.xml": {"stub": true},
        "p.jpg": {"content_type": "image/jpeg", "data": STANDARD.encode("abc")},
    }});
    client.put("/db/f", &picture).await;
    let document = client.get("/db/f").await;
    let digest: String = STANDARD.encode([
        0x90, 0x01, 0x50, 0x98, 0x3c, 0xd2, 0x4f, 0xb0, 0xd6, 0x96, 0x3f, 0x7d, 0x28, 0xe1, 0x7f, 0x72,
    ]);
    assert_eq!(document["_attachments"]["p.jpg"]["digest"], format!("md5-{digest}"));
    assert_eq!(document["_attachments"]["p.jpg"]["revpos"], 2);
    assert_eq!(document["_attachments"]["form.xml"], stub);

    let answer = client.request("GET", "/db/f/form.xml").send().await.unwrap();
    assert_eq!(
        (
            answer.headers()["content-type"].to_str().unwrap(),
            answer.headers()["content-length"].to_str().unwrap()
        ),
        ("text/xml", "7")
    );
    assert_eq!(answer.text().await.unwrap(), "<data/>");
    assert_eq!(
        client.ask("GET", "/db/f/none").await,
        (404, error("not_found", "Document is missing attachment"))
    );

    let json = client
        .request("GET", "/db/f?attachments=true")
        .header("accept", "application/json")
        .send()
        .await
        .unwrap();
    let inline: Value = json.json().await.unwrap();
    assert_eq!(inline["_attachments"]["form.xml"]["data"], STANDARD.encode("<data/>"));
    let multipart = client
        .request("GET", "/db/f?attachments=true")
        .header("accept", "*/*")
        .send()
        .await
        .unwrap();
    assert!(
        multipart.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("multipart/related")
    );
    let text = multipart.text().await.unwrap();
    assert!(
        text.contains("\"follows\":true")
            && text.contains("\r\n\r\n<data/>\r\n--")
            && text.contains("\r\n\r\nabc\r\n--")
    );
    let bulk = client
        .post("/db/_bulk_get?attachments=true", &json!({"docs": [{"id": "f"}]}))
        .await;
    assert_eq!(
        bulk["results"][0]["docs"][0]["ok"]["_attachments"]["p.jpg"]["data"],
        STANDARD.encode("abc")
    );

    let revision = document["_rev"].as_str().unwrap();
    assert_eq!(
        client
            .send("PUT", "/db/g", &json!({"_attachments": {"x": {"stub": true}}}))
            .await
            .0,
        412
    );
    assert_eq!(
        client.ask("DELETE", &format!("/db/f/p.jpg?rev={revision}")).await.0,
        200
    );
    assert_eq!(client.ask("GET", "/db/f/p.jpg").await.0, 404);
    assert_eq!(running.requests().of(OpKind::Attachment).requests, 5);
}

#[tokio::test]
async fn data_is_arranged_without_http() {
    let (running, client) = start().await;
    let lines = [
        br#"{"_id":"a","_rev":"7-abc","n":1}"#.to_vec(),
        br#"{"_id":"b"}"#.to_vec(),
    ];
    assert_eq!(running.load("other", lines).unwrap(), 2);
    assert_eq!(
        client.get("/other/a").await,
        json!({"_id": "a", "_rev": "7-abc", "n": 1})
    );
    let mut changed = running.get("other", "a").unwrap();
    changed["n"] = json!(2);
    let revision = running.put("other", &changed).unwrap();
    assert!(revision.starts_with("8-"));
    assert_eq!(
        client.get("/other/a").await,
        json!({"_id": "a", "_rev": revision, "n": 2})
    );
    running
        .put_attachment("other", "a", "form.xml", "text/xml", "<x/>")
        .unwrap();
    assert_eq!(client.ask("GET", "/other/a/form.xml").await.1, json!("<x/>"));
    assert_eq!(running.ids("other"), ["a", "b"]);
    assert!(running.delete("other", "a") && !running.delete("other", "a"));
    assert_eq!(client.ask("GET", "/other/a").await.0, 404);
    let error = running
        .load("other", [json!({"_id": "c"}), json!({"n": 1})])
        .unwrap_err();
    assert_eq!(error.to_string(), "document 2 has no _id");
}

#[tokio::test]
async fn data_outlives_a_killed_server() {
    let (running, client) = start().await;
    client.put("/db/a", &json!({"n": 1})).await;
    let bind = running.address();
    let databases = running.kill().await;
    assert!(client.request("GET", "/db/a").send().await.is_err());
    let again = StandIn::start(Options {
        bind,
        databases,
        ..Options::default()
    })
    .await
    .unwrap();
    assert_eq!(client.get("/db/a").await["n"], 1);
    again.stop().await;
    assert!(client.request("GET", "/db/a").send().await.is_err());
}
