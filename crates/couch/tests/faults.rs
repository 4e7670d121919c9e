//! What the client does when the server or the network misbehaves.
#![allow(clippy::unwrap_used)]

mod imitation;

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use couch::{Couch, CouchConfig, Error, ErrorKind, Outcome};
use imitation::{Fault, Imitation};
use secrecy::SecretString;
use serde_json::json;
use tokio::sync::Barrier;

fn status(status: u16) -> Fault {
    Fault::Status(
        status,
        vec![],
        r#"{"error":"internal_server_error","reason":"Mina has malaria"}"#,
    )
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    type Case = (&'static str, fn() -> Fault);
    let faults: [Case; 5] = [
        ("server error", || status(500)),
        ("busy", || status(503)),
        ("cut connection", || Fault::Cut),
        ("cut text", || Fault::Body(r#"{"db_name": "hq", "doc_"#.into())),
        ("empty text", || Fault::Body(String::new())),
    ];
    for (name, fault) in faults {
        let (server, couch) = Imitation::with_faults([fault(), fault()]).start_client().await;
        let info = couch.database("hq").info().await.unwrap();
        assert_eq!((info.update_seq.as_str(), info.doc_count), ("9-xyz", 7), "{name}");
        assert_eq!(server.requests(), 3, "{name}");
    }
}

#[tokio::test]
async fn retries_are_bounded_and_the_error_tells_no_content() {
    let (server, mut config) = Imitation::with_faults((0..9).map(|_| status(500))).start().await;
    config.retries = 2;
    let error = Couch::new(config).unwrap().database("hq").info().await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("C2S-1104", ErrorKind::Retry));
    assert_eq!(
        error.to_string(),
        "CouchDB answered info with status 500 (internal_server_error)"
    );
    assert_eq!(server.requests(), 3);
}

#[tokio::test]
async fn what_will_not_pass_is_not_tried_again() {
    for (fault, code, kind) in [
        (status(401), "C2S-1105", ErrorKind::Stop),
        (status(403), "C2S-1105", ErrorKind::Stop),
        (status(400), "C2S-1108", ErrorKind::Stop),
        (status(302), "C2S-1108", ErrorKind::Stop),
        (status(404), "C2S-1106", ErrorKind::Stop),
        (Fault::Body("<html>Welcome</html>".into()), "C2S-1110", ErrorKind::Retry),
        (Fault::Body(r#"{"name": "Mina"}"#.into()), "C2S-1110", ErrorKind::Retry),
    ] {
        let (server, couch) = Imitation::with_faults([fault]).start_client().await;
        let error = couch.database("hq").info().await.unwrap_err();
        assert_eq!((error.code(), error.kind()), (code, kind), "{error}");
        assert!(!format!("{error} {error:?}").contains("Mina"), "{error:?}");
        assert_eq!(server.requests(), 1, "{error}");
    }
}

#[tokio::test]
async fn a_busy_server_is_given_the_time_it_asks_for() {
    let busy = Fault::Status(429, vec![("retry-after", "1".into())], "");
    let (server, couch) = Imitation::with_faults([busy]).start_client().await;
    let start = Instant::now();
    couch.database("hq").info().await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn a_server_that_asks_for_an_hour_is_left_to_the_caller() {
    let busy = Fault::Status(503, vec![("retry-after", "3600".into())], "");
    let (server, couch) = Imitation::with_faults([busy]).start_client().await;
    assert_eq!(couch.database("hq").info().await.unwrap_err().code(), "C2S-1104");
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn an_error_at_the_end_of_rows_is_not_an_end_of_rows() {
    let broken =
        r#"{"total_rows":9,"offset":0,"rows":[{"id":"a","key":"k","value":null}],"error":"timeout","reason":"shards"}"#;
    let (server, mut config) = Imitation::with_faults((0..2).map(|_| Fault::Body(broken.into())))
        .start()
        .await;
    config.retries = 1;
    let page = couch::ViewPage {
        design: "d".into(),
        view: "v".into(),
        start_key: None,
        end_key: None,
        after: None,
        limit: 10,
    };
    let error = Couch::new(config)
        .unwrap()
        .database("hq")
        .view_page(&page)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "CouchDB answered view with status 200 (timeout)");
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn an_error_behind_half_an_answer_is_tried_again() {
    let half = r#"{"results":[{"id":"a","docs":[{"ok":{"_id":"a","_rev":"1-x"}}]}"#;
    let broken = format!("{half}\n\n{{\"error\":\"timeout\",\"reason\":\"The request could not be processed\"}}\n");
    let (server, couch) = Imitation::with_faults([Fault::Body(broken)]).start_client().await;
    let fetched = couch.database("hq").bulk_get(&["a"]).await.unwrap();
    assert!(matches!(fetched[0].outcome, Outcome::Missing), "{fetched:?}");
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn a_silent_server_times_out() {
    let (_, mut config) = Imitation::with_faults([Fault::Hang]).start().await;
    config.request_timeout = Duration::from_millis(300);
    config.retries = 0;
    let error = Couch::new(config).unwrap().database("hq").info().await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("C2S-1102", ErrorKind::Retry));
}

#[tokio::test]
async fn nobody_listening_is_unreachable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://eve:s3cret@{}/?x=s3cret", listener.local_addr().unwrap());
    drop(listener);
    let mut config = CouchConfig::new(url.parse().unwrap());
    config.retries = 1;
    let error = Couch::new(config).unwrap().ping().await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("C2S-1101", ErrorKind::Retry));
    assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
}

#[tokio::test]
async fn no_answer_is_held_above_the_limit() {
    for fault in [Fault::Body("x".repeat(5000)), Fault::Endless] {
        let (server, mut config) = Imitation::with_faults([fault]).start().await;
        config.max_response_bytes = 4000;
        let error = Couch::new(config).unwrap().database("hq").info().await.unwrap_err();
        assert_eq!((error.code(), error.kind()), ("C2S-1113", ErrorKind::Document));
        assert_eq!(server.requests(), 1);
    }
}

#[tokio::test]
async fn large_answers_are_asked_for_in_parts() {
    let mut server = Imitation::new();
    for number in 0..150 {
        let size = if number == 70 { 6000 } else { 300 };
        let id = format!("f{number:03}");
        server
            .documents
            .insert(id.clone(), json!({"_id": id, "_rev": "1-a", "note": "x".repeat(size)}));
    }
    let (server, mut config) = server.start().await;
    config.max_response_bytes = 5000;
    let ids: Vec<String> = (0..151).map(|number| format!("f{number:03}")).collect();
    let fetched = Couch::new(config).unwrap().database("hq").bulk_get(&ids).await.unwrap();
    assert_eq!(fetched.iter().map(|one| one.id.clone()).collect::<Vec<_>>(), ids);
    for (number, one) in fetched.iter().enumerate() {
        match (number, &one.outcome) {
            (70, Outcome::Failed(Error::TooLarge { limit: 5000, .. })) | (150, Outcome::Missing) => {}
            (_, Outcome::Found(body)) if number != 70 && number != 150 => assert_eq!(body["_id"], json!(one.id)),
            other => panic!("{other:?}"),
        }
    }
    assert!(server.requests() > 2);
}

#[tokio::test]
async fn a_bounded_reader_takes_as_many_documents_as_have_room() {
    let mut server = Imitation::new();
    for number in 0..150 {
        // One is above the reader's bound, another above that of all answers; twenty are large.
        let size = match number {
            30 => 6000,
            70 => 20_000,
            90..110 => 1500,
            _ => 30,
        };
        let id = format!("f{number:03}");
        server
            .documents
            .insert(id.clone(), json!({"_id": id, "_rev": "1-a", "note": "x".repeat(size)}));
    }
    let (_server, mut config) = server.start().await;
    config.max_response_bytes = 10_000;
    let couch = Couch::new(config).unwrap();
    let database = couch.database("hq");
    let ids: Vec<String> = (0..151).map(|number| format!("f{number:03}")).collect();
    let mut reader = database.bounded_reader(&ids, 4000);
    let mut fetched = Vec::new();
    while let Some(part) = reader.next().await.unwrap() {
        let bytes: usize = part
            .iter()
            .map(|one| match &one.outcome {
                Outcome::Found(body) => body.to_string().len(),
                _ => 0,
            })
            .sum();
        assert!(
            !part.is_empty() && (bytes <= 4000 || part.len() == 1),
            "{bytes} bytes of {}",
            part.len()
        );
        fetched.extend(part);
    }
    assert!(reader.next().await.unwrap().is_none());
    assert_eq!(fetched.iter().map(|one| one.id.clone()).collect::<Vec<_>>(), ids);
    for (number, one) in fetched.iter().enumerate() {
        match (number, &one.outcome) {
            (70, Outcome::Failed(Error::TooLarge { limit: 10_000, .. })) | (150, Outcome::Missing) => {}
            (_, Outcome::Found(body)) if number != 70 && number != 150 => assert_eq!(body["_id"], json!(one.id)),
            other => panic!("{other:?}"),
        }
    }
}

/// A document that the parser does not take says nothing against its neighbours.
#[tokio::test]
async fn a_document_that_is_nested_too_deeply_fails_alone() {
    let deep = format!(
        r#"{{"_id":"b","_rev":"1-x","form":{}{}}}"#,
        "[".repeat(500),
        "]".repeat(500)
    );
    let answer = format!(
        r#"{{"results":[{{"id":"a","docs":[{{"ok":{{"_id":"a","_rev":"1-x"}}}}]}},{{"id":"b","docs":[{{"ok":{deep}}}]}}]}}"#
    );
    let (server, couch) = Imitation::with_faults([Fault::Body(answer.clone()), Fault::Body(answer)])
        .start_client()
        .await;
    let database = couch.database("hq");
    for fetched in [
        database.bulk_get(&["a", "b"]).await.unwrap(),
        database
            .bounded_reader(&["a", "b"], 1_000_000)
            .next()
            .await
            .unwrap()
            .unwrap(),
    ] {
        assert!(matches!(&fetched[0].outcome, Outcome::Found(found) if found["_id"] == "a"));
        let Outcome::Failed(error) = &fetched[1].outcome else {
            panic!("{fetched:?}");
        };
        assert_eq!((error.code(), error.kind()), ("C2S-1115", ErrorKind::Document));
    }
    assert_eq!(server.requests(), 2);
}

/// What is no answer of CouchDB's at all is no document's fault.
#[tokio::test]
async fn an_answer_that_is_not_understood_is_to_be_asked_for_again() {
    for body in ["<html>busy</html>", r#"{"results":{}}"#] {
        let (_, couch) = Imitation::with_faults([Fault::Body(body.into())]).start_client().await;
        let error = couch.database("hq").bulk_get(&["a"]).await.unwrap_err();
        assert_eq!((error.code(), error.kind()), ("C2S-1110", ErrorKind::Retry));
    }
}

#[tokio::test]
async fn existence_is_told_without_bodies() {
    let mut server = Imitation::new();
    server.documents.insert("a".into(), json!({"_id": "a", "_rev": "3-x"}));
    server
        .documents
        .insert("b".into(), json!({"_id": "b", "_rev": "4-y", "_deleted": true}));
    let (_, couch) = server.start_client().await;
    let exist = couch.database("hq").all_docs_exist(&["a", "b", "c"]).await.unwrap();
    assert_eq!(
        exist,
        [("a".into(), Some("3-x".into())), ("b".into(), None), ("c".into(), None)]
    );
}

#[tokio::test]
async fn as_many_requests_at_once_as_allowed_and_no_more() {
    let mut server = Imitation::new();
    // The server answers only when three requests are there together, so fewer would never end.
    server.together = Some(Barrier::new(3));
    let (server, mut config) = server.start().await;
    config.max_concurrency = 3;
    let couch = Couch::new(config).unwrap();
    let asked = (0..12).map(|_| async { couch.database("hq").info().await.unwrap().doc_count });
    assert_eq!(futures::future::join_all(asked).await, [7; 12]);
    assert_eq!(server.most_in_flight.load(SeqCst), 3);
}

#[tokio::test]
async fn no_more_requests_per_second_than_allowed() {
    let (_, mut config) = Imitation::new().start().await;
    config.max_requests_per_second = Some(40);
    let couch = Couch::new(config).unwrap();
    let start = Instant::now();
    futures::future::join_all((0..24).map(|_| async { couch.ping().await.unwrap() })).await;
    // A burst of four, then one each fortieth of a second.
    assert!(start.elapsed() >= Duration::from_millis(490), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_write_that_was_done_the_first_time_is_no_conflict() {
    let mut server = Imitation::with_faults([Fault::Cut]);
    server.documents.insert(
        "demo".into(),
        json!({"_id": "demo", "_rev": "2-b", "use_sql_backend": true}),
    );
    let (_, couch) = server.start_client().await;
    let database = couch.database("hq");
    let document = json!({"_id": "demo", "_rev": "1-a", "use_sql_backend": true});
    assert_eq!(database.put("demo", &document).await.unwrap(), "2-b");
    let error = database.put("demo", &document).await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("C2S-1112", ErrorKind::Document));
}

#[tokio::test]
async fn credentials_travel_in_a_header_only() {
    let (server, mut config) = Imitation::new().start().await;
    config.url.set_username("eve").unwrap();
    config.url.set_password(Some("p@ss")).unwrap();
    assert!(!format!("{config:?}").contains("p%40ss"));
    Couch::new(config.clone()).unwrap().ping().await.unwrap();
    config.username = Some("adam".into());
    config.password = Some(SecretString::from("apple"));
    assert!(!format!("{config:?}").contains("apple"));
    Couch::new(config).unwrap().ping().await.unwrap();
    let log = server.log.lock().unwrap();
    let sent: Vec<&str> = log
        .iter()
        .map(|(_, headers)| headers["authorization"].to_str().unwrap())
        .collect();
    // base64 of "eve:p@ss" and "adam:apple"
    assert_eq!(sent, ["Basic ZXZlOnBAc3M=", "Basic YWRhbTphcHBsZQ=="]);
}

#[test]
fn what_cannot_be_used_is_said_at_once() {
    for (url, ca_file) in [("ftp://couch/", None), ("https://couch/", Some("/nonexistent/ca.pem"))] {
        let mut config = CouchConfig::new(url.parse().unwrap());
        config.ca_file = ca_file.map(Into::into);
        let error = Couch::new(config).unwrap_err();
        assert_eq!((error.code(), error.kind()), ("C2S-1109", ErrorKind::Stop), "{error}");
    }
}
