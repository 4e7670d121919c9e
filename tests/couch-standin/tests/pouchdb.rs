//! The same requests to the stand-in and to PouchDB Server, which share no code, must give the same answers wherever
//! PouchDB does as CouchDB does. It does not in: `startkey_docid`, sequences, words of errors, the status of a
//! document with an unknown special member, the results of `_bulk_get` for what is missing or deleted, the order of
//! strings that differ in more than ASCII digits and letters of one case, the order in which the documents of one
//! `_bulk_docs` are written (PouchDB writes them side by side).
//!
//! Needs a PouchDB Server: `C2S_TEST_POUCHDB_URL`, which `cargo xtask test` sets.
#![allow(clippy::unwrap_used)]

mod client;

use std::collections::HashMap;

use client::{Client, encoded};
use couch_standin::{Options, StandIn, design_documents};
use serde_json::{Map, Value, json};

/// A request; `$REV(id)` stands for the last revision that the server gave for that id.
struct Step {
    method: &'static str,
    path: String,
    body: Value,
}

fn step(method: &'static str, path: impl Into<String>, body: Value) -> Step {
    Step {
        method,
        path: path.into(),
        body,
    }
}

fn steps() -> Vec<Step> {
    let mut steps = vec![
        step("PUT", "", json!(null)),
        step("PUT", "", json!(null)),
        step("GET", "/none", json!(null)),
        step("PUT", "/a", json!({"n": 1, "deep": {"list": [1, "two", null, true]}})),
        step("GET", "/a", json!(null)),
        step("PUT", "/a", json!({"n": 2})),
        step("PUT", "/a", json!({"_rev": "$REV(a)", "n": 2})),
        step("PUT", "/a?rev=1-0123456789abcdef0123456789abcdef", json!({"n": 3})),
        step("GET", "/a", json!(null)),
        step("DELETE", "/a?rev=$REV(a)", json!(null)),
        step("GET", "/a", json!(null)),
        step("PUT", "/a", json!({"n": 4})),
        step("GET", "/a", json!(null)),
    ];
    let form = |id: &str, domain: &str, doc_type: &str, received_on: &str, cases: &[&str]| {
        let blocks: Vec<Value> = cases.iter().map(|case| json!({"@case_id": case})).collect();
        json!({"_id": id, "domain": domain, "doc_type": doc_type, "received_on": received_on, "form": {"group": {"case": blocks}}})
    };
    let documents = json!([
        form("f1", "demo", "XFormInstance", "2019-03-02T08:15:00.120000Z", &["c1", "c2"]),
        form("f2", "demo", "XFormInstance", "2019-03-01T08:15:00.000000Z", &["c1"]),
        form("f3", "demo", "XFormInstance", "2019-03-01T08:15:00.000000Z", &["c3", "c3"]),
        form("f4", "demo", "XFormArchived", "2019-02-01T08:15:00.000000Z", &["c1"]),
        form("f5", "other", "XFormInstance", "2019-03-01T08:15:00.000000Z", &[]),
        {"_id": "c1", "domain": "demo", "doc_type": "CommCareCase", "opened_on": "2019-03-01T08:10:00Z"},
        {"_id": "c2", "domain": "demo", "doc_type": "CommCareCase", "opened_on": null},
        {"_id": "c3", "domain": "demo", "doc_type": "CommCareCase"},
        {"_id": "raw", "domain": "demo", "doc_type": "HQSubmission", "received_on": "2019"},
        {"_id": "app", "domain": "demo", "doc_type": "Application", "built_on": "2018", "copy_of": "x"},
        {"_id": "no-domain", "doc_type": "XFormInstance", "received_on": "2019"},
        {"_id": "gone", "domain": "demo", "doc_type": "XFormInstance", "received_on": "2019"},
    ]);
    steps.push(step("POST", "/_bulk_docs", json!({"docs": documents})));
    steps.push(step(
        "POST",
        "/_bulk_docs",
        json!({"docs": [{"_id": "f1", "n": "conflict"}, {"_id": "f6"}]}),
    ));
    steps.push(step("DELETE", "/gone?rev=$REV(gone)", json!(null)));
    steps.push(step("POST", "/_bulk_docs", json!({"new_edits": false, "docs": [
        {"_id": "f7", "_rev": "3-0123456789abcdef0123456789abcdef", "domain": "demo", "doc_type": "XFormError", "received_on": "2019-05"},
    ]})));
    steps.push(step("GET", "/f7", json!(null)));
    steps.push(step(
        "POST",
        "/_bulk_get",
        json!({"docs": [{"id": "f2"}, {"id": "c1"}, {"id": "f1"}]}),
    ));
    for query in [
        "",
        "?include_docs=true",
        "?limit=3&skip=1",
        "?descending=true&limit=2",
        "?startkey=%22c%22&endkey=%22f3%22",
        "?startkey=%22c%22&endkey=%22f3%22&inclusive_end=false",
        "?key=%22f1%22",
    ] {
        steps.push(step("GET", format!("/_all_docs{query}"), json!(null)));
    }
    steps.push(step(
        "POST",
        "/_all_docs?include_docs=true",
        json!({"keys": ["f2", "nowhere", "gone", "c1"]}),
    ));
    steps.push(step("GET", "/_design/by_domain_doc_type_date/_view/view", json!(null)));
    for design in design_documents() {
        steps.push(step("PUT", format!("/{}", design["_id"].as_str().unwrap()), design));
    }
    steps.push(step("GET", "/_design/by_domain_doc_type_date/_view/none", json!(null)));
    let view = "/_design/by_domain_doc_type_date/_view/view";
    let range = |start: Value, end: Value| format!("startkey={}&endkey={}", encoded(&start), encoded(&end));
    let demo = range(json!(["demo"]), json!(["demo", {}]));
    let forms = range(json!(["demo", "XFormInstance"]), json!(["demo", "XFormInstance", {}]));
    let back = range(json!(["demo", "XFormInstance", {}]), json!(["demo", "XFormInstance"]));
    let exact = encoded(&json!(["demo", "CommCareCase", null]));
    for query in [
        "reduce=false".to_owned(),
        format!("reduce=false&{demo}"),
        format!("reduce=false&{forms}"),
        format!("reduce=false&{forms}&limit=1&skip=1"),
        format!("reduce=false&{forms}&include_docs=true"),
        format!("reduce=false&{back}&descending=true"),
        format!("reduce=false&key={exact}"),
        String::new(),
        demo.clone(),
        format!("{demo}&group_level=2"),
        format!("{demo}&group_level=1"),
        format!("{demo}&group=true"),
    ] {
        steps.push(step("GET", format!("{view}?{query}"), json!(null)));
    }
    steps.push(step(
        "POST",
        format!("{view}?reduce=false"),
        json!({"keys": [["demo", "CommCareCase", null], ["none"]]}),
    ));
    let by_case = "/_design/form_case_index/_view/form_case_index?reduce=false";
    steps.push(step("GET", by_case, json!(null)));
    steps.push(step(
        "GET",
        format!("{by_case}&{}", range(json!(["c1"]), json!(["c1", {}]))),
        json!(null),
    ));
    steps.push(step("GET", "/_changes?style=main_only", json!(null)));
    steps.push(step("GET", "/_changes?include_docs=true", json!(null)));
    let inline = json!({"_attachments": {"p.bin": {"content_type": "application/octet-stream", "data": "YWJj"}}});
    steps.push(step("PUT", "/with", inline));
    steps.push(step("GET", "/with", json!(null)));
    steps.push(step("GET", "/with/p.bin", json!(null)));
    steps.push(step("GET", "/with/none", json!(null)));
    // PouchDB finds the body by the digest of the stub: MD5 of "abc", from RFC 1321.
    let stub = json!({"stub": true, "content_type": "application/octet-stream", "digest": "md5-kAFQmDzST7DWlj99KOF/cg==", "length": 3, "revpos": 1});
    steps.push(step(
        "PUT",
        "/with",
        json!({"_rev": "$REV(with)", "n": 1, "_attachments": {"p.bin": stub}}),
    ));
    steps.push(step(
        "POST",
        "/_bulk_get?attachments=true",
        json!({"docs": [{"id": "with"}]}),
    ));
    steps.push(step("DELETE", "", json!(null)));
    steps.push(step("GET", "", json!(null)));
    steps
}

/// Runs the steps on one server and returns what can be compared of each answer.
async fn answers(client: &Client) -> Vec<Value> {
    let database = format!("/c2s_conformance_{}", std::process::id());
    let mut revisions = HashMap::new();
    let mut answers = Vec::new();
    for Step { method, path, body } in steps() {
        let path = format!("{database}{}", fill(&path, &revisions));
        let body: Value = serde_json::from_str(&fill(&body.to_string(), &revisions)).unwrap();
        let (status, answer) = if body.is_null() {
            client.ask(method, &path).await
        } else {
            client.send(method, &path, &body).await
        };
        remember(&answer, &mut revisions);
        let mut answer = comparable(&answer);
        if path.contains("/_bulk_docs") {
            sort_by_id(&mut answer);
        } else if path.contains("/_changes") {
            sort_by_id(&mut answer["results"]);
        }
        answers.push(json!({"status": status, "answer": answer}));
    }
    answers
}

/// PouchDB writes the documents of one `_bulk_docs` side by side: what it tells of them has no fixed order.
fn sort_by_id(list: &mut Value) {
    if let Value::Array(items) = list {
        items.sort_by(|a, b| a["id"].as_str().cmp(&b["id"].as_str()));
    }
}

fn fill(text: &str, revisions: &HashMap<String, String>) -> String {
    let replace = |text: String, (id, revision): (&String, &String)| text.replace(&format!("$REV({id})"), revision);
    revisions.iter().fold(text.to_owned(), replace)
}

fn remember(answer: &Value, revisions: &mut HashMap<String, String>) {
    if let Value::Array(items) = answer {
        items.iter().for_each(|item| remember(item, revisions));
    }
    let id = answer["id"].as_str().or(answer["_id"].as_str());
    let revision = answer["rev"].as_str().or(answer["_rev"].as_str());
    if let (Some(id), Some(revision)) = (id, revision) {
        revisions.insert(id.to_owned(), revision.to_owned());
    }
}

/// An answer without what may differ: hashes, sequences, words, order of members.
fn comparable(answer: &Value) -> Value {
    match answer {
        Value::Array(items) => items.iter().map(comparable).collect(),
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            let mut kept = Map::new();
            for (name, value) in sorted {
                let value = match (name.as_str(), value) {
                    ("seq" | "last_seq" | "offset" | "pending", _) => continue,
                    ("reason", _) => continue,
                    // Absent is as good as false or null here.
                    (_, Value::Null) => continue,
                    ("_rev" | "rev", Value::String(revision)) => json!(revision.split('-').next()),
                    (_, value) => comparable(value),
                };
                kept.insert(name.clone(), value);
            }
            Value::Object(kept)
        }
        other => other.clone(),
    }
}

#[tokio::test]
async fn answers_agree_with_pouchdb_server() {
    let Ok(url) = std::env::var("C2S_TEST_POUCHDB_URL") else {
        panic!("C2S_TEST_POUCHDB_URL is not set: it must name a running PouchDB Server (cargo xtask test starts one)");
    };
    let running = StandIn::start(Options::default()).await.unwrap();
    let ours = answers(&Client::new(&running.url())).await;
    let theirs = answers(&Client::new(&url)).await;
    let mut differences = Vec::new();
    for (step, (ours, theirs)) in steps().iter().zip(ours.iter().zip(&theirs)) {
        if ours != theirs {
            differences.push(format!(
                "{} {} {}\n  stand-in {ours}\n  PouchDB  {theirs}",
                step.method, step.path, step.body
            ));
        }
    }
    assert!(
        differences.is_empty(),
        "{} answers differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
}
