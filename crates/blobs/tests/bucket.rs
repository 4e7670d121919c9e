//! Blobs in a bucket, over the wire to a small server of objects.
#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use blobs::{BlobConfig, BlobLocation, BlobStore, Error, ErrorKind, S3Config};
use secrecy::SecretString;

#[derive(Default)]
struct Objects {
    /// By raw path, as it was on the wire.
    objects: Mutex<HashMap<String, Bytes>>,
    /// Statuses to give before anything else.
    faults: Mutex<VecDeque<(StatusCode, &'static str)>>,
    requests: Mutex<Vec<(Method, String, HeaderMap)>>,
}

impl Objects {
    fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

async fn handle(
    State(server): State<Arc<Objects>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path().to_owned();
    server
        .requests
        .lock()
        .unwrap()
        .push((method.clone(), path.clone(), headers.clone()));
    if let Some(fault) = server.faults.lock().unwrap().pop_front() {
        return fault.into_response();
    }
    let mut objects = server.objects.lock().unwrap();
    let found = objects.get(&path).cloned();
    let tags = [("etag", "\"1\""), ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT")];
    match (method, found) {
        (Method::PUT, Some(_)) if headers.get("if-none-match").is_some_and(|value| value == "*") => {
            StatusCode::PRECONDITION_FAILED.into_response()
        }
        (Method::PUT, _) => {
            objects.insert(path, body);
            tags.into_response()
        }
        (_, Some(content)) => (tags, content).into_response(),
        (_, None) => (StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>").into_response(),
    }
}

async fn start() -> (Arc<Objects>, BlobConfig) {
    let server = Arc::new(Objects::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/", listener.local_addr().unwrap());
    let router = Router::new().fallback(handle).with_state(Arc::clone(&server));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let mut s3 = S3Config::new("blobdb");
    s3.endpoint = Some(endpoint);
    s3.region = Some("eu-west-1".into());
    s3.access_key = Some("AKIDEXAMPLE".into());
    s3.secret = Some(SecretString::from("s3cret"));
    s3.retries = 2;
    (server, BlobConfig::new(BlobLocation::S3(s3)))
}

#[tokio::test]
async fn keys_are_object_names_in_the_one_bucket() {
    let (server, config) = start().await;
    assert!(!format!("{config:?}").contains("s3cret"));
    let store = BlobStore::new(&config).unwrap();
    store.check().await.unwrap();
    let key = "commcarehq/{f-1}/form.xml.9z";
    assert_eq!(store.get(key).await.unwrap(), None);
    assert_eq!(store.head(key).await.unwrap(), None);
    store.put_if_absent(key, Bytes::from_static(b"<data/>")).await.unwrap();
    store.put_if_absent(key, Bytes::from_static(b"<other/>")).await.unwrap();
    assert_eq!(store.get(key).await.unwrap(), Some(Bytes::from_static(b"<data/>")));
    assert_eq!(store.head(key).await.unwrap(), Some(7));
    // Braces are encoded once, on the wire only.
    let names: Vec<String> = server.objects.lock().unwrap().keys().cloned().collect();
    assert_eq!(names, ["/blobdb/commcarehq/%7Bf-1%7D/form.xml.9z"]);
    for (_, _, headers) in server.requests.lock().unwrap().iter() {
        let authorization = headers["authorization"].to_str().unwrap();
        assert!(
            authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"),
            "{authorization}"
        );
        assert!(authorization.contains("/eu-west-1/s3/"), "{authorization}");
    }
}

#[tokio::test]
async fn many_come_in_order_each_with_its_own_outcome() {
    let (server, mut config) = start().await;
    config.max_concurrency = 4;
    config.max_blob_bytes = 50;
    let mut keys = Vec::new();
    for number in 0..40 {
        let key = format!("k{number:02}");
        let content = if number == 6 {
            "x".repeat(51)
        } else {
            format!("blob {number}")
        };
        if number != 5 {
            server
                .objects
                .lock()
                .unwrap()
                .insert(format!("/blobdb/{key}"), content.into());
        }
        keys.push(key);
    }
    keys[7] = "a/../b".into();
    let blobs = BlobStore::new(&config).unwrap().get_many(keys).await;
    assert_eq!(blobs.len(), 40);
    for (number, blob) in blobs.into_iter().enumerate() {
        match (number, blob) {
            (5, Ok(None)) | (6, Err(Error::TooLarge { limit: 50 })) | (7, Err(Error::BadKey { .. })) => {}
            (_, Ok(Some(content))) => assert_eq!(content, format!("blob {number}")),
            (_, other) => panic!("{number}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_busy_service_is_asked_again_within_bounds() {
    let (server, config) = start().await;
    server
        .objects
        .lock()
        .unwrap()
        .insert("/blobdb/k".into(), Bytes::from_static(b"x"));
    let store = BlobStore::new(&config).unwrap();
    let busy = (StatusCode::SERVICE_UNAVAILABLE, "<Error><Code>SlowDown</Code></Error>");
    server.faults.lock().unwrap().extend([busy, busy]);
    assert_eq!(store.get("k").await.unwrap(), Some(Bytes::from_static(b"x")));
    assert_eq!(server.count(), 3);
    server.faults.lock().unwrap().extend([busy, busy, busy]);
    let error = store.get("k").await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("C2S-1201", ErrorKind::Retry));
}

#[tokio::test]
async fn refusal_and_a_missing_bucket_are_not_missing_blobs() {
    let (server, config) = start().await;
    let store = BlobStore::new(&config).unwrap();
    server
        .faults
        .lock()
        .unwrap()
        .push_back((StatusCode::FORBIDDEN, "<Error><Code>AccessDenied</Code></Error>"));
    let error = store.get("k").await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("C2S-1202", ErrorKind::Stop));
    server
        .faults
        .lock()
        .unwrap()
        .push_back((StatusCode::NOT_FOUND, "<Error><Code>NoSuchBucket</Code></Error>"));
    let error = store.check().await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("C2S-1203", ErrorKind::Stop));
}

#[tokio::test]
async fn nobody_listening_is_an_error_that_may_pass() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut s3 = S3Config::new("blobdb");
    s3.endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
    s3.access_key = Some("a".into());
    s3.retries = 1;
    drop(listener);
    assert_eq!(
        BlobStore::new(&BlobConfig::new(BlobLocation::S3(s3.clone())))
            .unwrap_err()
            .code(),
        "C2S-1203"
    );
    s3.secret = Some(SecretString::from("s3cret"));
    let error = BlobStore::new(&BlobConfig::new(BlobLocation::S3(s3)))
        .unwrap()
        .get("k")
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.kind()), ("C2S-1201", ErrorKind::Retry));
}
