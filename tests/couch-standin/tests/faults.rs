//! Each fault, as a client sees it.
#![allow(clippy::unwrap_used)]

mod client;

use std::time::{Duration, Instant};

use client::{Client, PATIENCE};
use couch_standin::{Action, FaultRule, OpKind, Options, Predicate, Running, StandIn};
use serde_json::{Value, json};
use tokio::time::timeout;

async fn start() -> (Running, Client) {
    let running = StandIn::start(Options::default()).await.unwrap();
    running
        .load(
            "db",
            (0..500).map(|n| json!({"_id": format!("f{n:03}"), "text": "x".repeat(500)})),
        )
        .unwrap();
    let client = Client::new(&running.url());
    (running, client)
}

#[tokio::test]
async fn a_rejection_does_nothing() {
    let (running, client) = start().await;
    let reject = Action::Reject {
        status: 429,
        retry_after: Some(3),
    };
    let rule = running
        .faults()
        .add(FaultRule::once(Predicate::op(OpKind::Put), reject).times(2));
    let refused = client.request("PUT", "/db/new").json(&json!({})).send().await.unwrap();
    assert_eq!(
        (
            refused.status().as_u16(),
            refused.headers()["retry-after"].to_str().unwrap()
        ),
        (429, "3")
    );
    assert!(running.get("db", "new").is_none());
    assert_eq!(client.ask("GET", "/db/f000").await.0, 200, "other requests pass");
    assert_eq!(client.send("PUT", "/db/new", &json!({})).await.0, 429);
    assert_eq!(
        client.send("PUT", "/db/new", &json!({})).await.0,
        201,
        "the rule is spent"
    );
    assert_eq!(running.faults().hits(rule), 2);
    let counted = running.requests().of(OpKind::Put);
    assert_eq!((counted.requests, counted.faults, counted.documents), (3, 2, 1));
}

#[tokio::test]
async fn a_failure_after_the_write_leaves_it_done() {
    let (running, client) = start().await;
    running
        .faults()
        .add(FaultRule::once(Predicate::op(OpKind::Put), Action::FailAfterWrite));
    assert_eq!(client.send("PUT", "/db/new", &json!({"n": 1})).await.0, 500);
    assert_eq!(running.get("db", "new").unwrap()["n"], 1);
}

#[tokio::test]
async fn a_hold_ends_when_it_is_released() {
    let (running, client) = start().await;
    let faults = running.faults();
    let rule = faults.add(FaultRule::always(Predicate::op(OpKind::Get).on("f001"), Action::Hold));
    let held = tokio::spawn({
        let client = client.clone();
        async move { client.ask("GET", "/db/f001").await.0 }
    });
    assert!(timeout(PATIENCE, faults.reached(rule, 1)).await.unwrap());
    assert_eq!(client.ask("GET", "/db/f002").await.0, 200);
    assert!(!held.is_finished());
    assert!(faults.release(rule));
    assert_eq!(timeout(PATIENCE, held).await.unwrap().unwrap(), 200);
    assert_eq!(
        client.ask("GET", "/db/f001").await.0,
        200,
        "what comes after the release is not held"
    );
}

#[tokio::test]
async fn an_answer_that_is_held_does_not_know_what_came_since() {
    let (running, client) = start().await;
    let faults = running.faults();
    let asked = Predicate::op(OpKind::BulkGet).asking_for("\"f001\"");
    let rule = faults.add(FaultRule::once(asked, Action::HoldAnswer));
    let ask = |id: &'static str| {
        let client = client.clone();
        async move {
            let answer = client
                .send("POST", "/db/_bulk_get", &json!({"docs": [{"id": id}]}))
                .await;
            answer.1["results"][0]["docs"][0]["ok"]["_rev"]
                .as_str()
                .map(str::to_owned)
        }
    };
    let before = ask("f002").await.unwrap();
    let held = tokio::spawn(ask("f001"));
    assert!(timeout(PATIENCE, faults.reached(rule, 1)).await.unwrap());
    for id in ["f001", "f002"] {
        assert!(running.delete("db", id));
    }
    assert!(!held.is_finished());
    assert!(faults.remove(rule));
    assert!(timeout(PATIENCE, held).await.unwrap().unwrap().is_some());
    assert_ne!(ask("f002").await, Some(before), "what is not held is up to date");
}

#[tokio::test]
async fn connections_break() {
    let (running, client) = start().await;
    let faults = running.faults();
    faults.add(FaultRule::once(Predicate::any(), Action::Refuse));
    assert!(client.request("GET", "/db/f000").send().await.is_err());
    assert_eq!(client.ask("GET", "/db/f000").await.0, 200);

    for path in ["/db/f000", "/db/_all_docs?include_docs=true"] {
        let whole = client.request("GET", path).send().await.unwrap().bytes().await.unwrap();
        faults.add(FaultRule::once(Predicate::any(), Action::CutBody(100)));
        let mut answer = client.request("GET", path).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut seen = Vec::new();
        let end = loop {
            match answer.chunk().await {
                Ok(Some(chunk)) => seen.extend(chunk),
                Ok(None) => break "complete",
                Err(_) => break "broken",
            }
        };
        assert_eq!((end, &seen[..]), ("broken", &whole[..100]));
    }
}

#[tokio::test]
async fn answers_are_late_or_junk() {
    let (running, client) = start().await;
    let faults = running.faults();
    let delay = Duration::from_millis(60);
    faults.add(FaultRule::once(Predicate::op(OpKind::Database), Action::Slow(delay)));
    let before = Instant::now();
    assert_eq!(client.get("/db").await["db_name"], "db");
    assert!(before.elapsed() >= delay);
    faults.add(FaultRule::once(Predicate::op(OpKind::Database), Action::Junk));
    assert!(matches!(client.ask("GET", "/db").await, (200, Value::String(_))));
    assert_eq!(client.get("/db").await["db_name"], "db");
}

#[tokio::test]
async fn other_processes_program_faults_over_http() {
    let (running, client) = start().await;
    let rule = json!({"match": {"op": "all_docs"}, "times": "always", "action": {"reject": {"status": 503}}});
    let added = client.post("/_standin/faults", &rule).await;
    assert_eq!(client.ask("GET", "/db/_all_docs").await.0, 503);
    assert_eq!(client.get("/_standin/faults").await[0]["hits"], 1);
    assert_eq!(
        client
            .ask("DELETE", &format!("/_standin/faults/{}", added["id"]))
            .await
            .0,
        200
    );
    assert_eq!(client.ask("GET", "/db/_all_docs").await.0, 200);
    assert_eq!(client.get("/_standin/requests").await["all_docs"]["requests"], 2);
    assert_eq!(
        client
            .send("POST", "/_standin/faults", &json!({"action": "explode"}))
            .await
            .0,
        400
    );

    let hold = client.post("/_standin/faults", &json!({"action": "hold"})).await;
    let held = tokio::spawn({
        let client = client.clone();
        async move { client.ask("GET", "/db").await.0 }
    });
    let id = running.faults().list()[0].id;
    assert!(timeout(PATIENCE, running.faults().reached(id, 1)).await.unwrap());
    client
        .post(&format!("/_standin/faults/{}/release", hold["id"]), &json!({}))
        .await;
    assert_eq!(timeout(PATIENCE, held).await.unwrap().unwrap(), 200);
    assert_eq!(client.ask("DELETE", "/_standin/faults").await.0, 200);
    assert_eq!(client.ask("DELETE", "/_standin/requests").await.0, 200);
    assert_eq!(client.get("/_standin/requests").await, json!({}));
}
