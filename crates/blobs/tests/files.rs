//! Blobs in a directory.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use blobs::{BlobConfig, BlobLocation, BlobStore, Error, ErrorKind};
use bytes::Bytes;

fn config(path: &Path) -> BlobConfig {
    BlobConfig::new(BlobLocation::Fs { path: path.to_owned() })
}

#[tokio::test]
async fn keys_with_slashes_are_directories() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("commcarehq/f-1")).unwrap();
    fs::write(directory.path().join("commcarehq/f-1/form.xml.9z"), "<data/>").unwrap();
    let store = BlobStore::new(&config(directory.path())).unwrap();
    store.check().await.unwrap();
    let key = "commcarehq/f-1/form.xml.9z";
    assert_eq!(store.get(key).await.unwrap(), Some(Bytes::from_static(b"<data/>")));
    assert_eq!(store.head(key).await.unwrap(), Some(7));
    for absent in [
        "commcarehq/f-2/form.xml",
        "commcarehq/f-1",
        "commcarehq/f-1/form.xml.9z/x",
    ] {
        assert_eq!(store.get(absent).await.unwrap(), None, "{absent}");
        assert!(!store.exists(absent).await.unwrap(), "{absent}");
    }
}

#[tokio::test]
async fn many_come_in_order_each_with_its_own_outcome() {
    let directory = tempfile::tempdir().unwrap();
    let mut keys = Vec::new();
    for number in 0..300 {
        let key = format!("k{number:03}");
        if number != 50 {
            fs::write(directory.path().join(&key), format!("blob {number}")).unwrap();
        }
        keys.push(key);
    }
    fs::write(directory.path().join("k060"), "x".repeat(100)).unwrap();
    keys[70] = "../k001".into();
    let mut config = config(directory.path());
    config.max_concurrency = 3;
    config.max_blob_bytes = 50;
    let store = BlobStore::new(&config).unwrap();
    let (blobs, others) = futures::join!(store.get_many(keys.clone()), store.get_many(keys));
    for (number, blob) in blobs.into_iter().enumerate() {
        match (number, blob) {
            (50, Ok(None)) | (60, Err(Error::TooLarge { limit: 50 })) | (70, Err(Error::BadKey { .. })) => {}
            (_, Ok(Some(content))) => assert_eq!(content, format!("blob {number}")),
            (_, other) => panic!("{number}: {other:?}"),
        }
    }
    assert_eq!(others.len(), 300);
    assert!(store.get_many(Vec::new()).await.is_empty());
}

#[tokio::test]
async fn a_blob_that_is_there_is_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let store = BlobStore::new(&config(directory.path())).unwrap();
    store
        .put_if_absent("a/b/c", Bytes::from_static(b"first"))
        .await
        .unwrap();
    store
        .put_if_absent("a/b/c", Bytes::from_static(b"second"))
        .await
        .unwrap();
    assert_eq!(store.get("a/b/c").await.unwrap(), Some(Bytes::from_static(b"first")));
    let plain = directory.path().join("plain");
    fs::write(&plain, "").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(
        mode(&directory.path().join("a/b/c")),
        mode(&plain),
        "as readable as any other new file"
    );
    let left: Vec<_> = fs::read_dir(directory.path().join("a/b"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["c"], "no temporary files stay behind");
}

#[tokio::test]
async fn no_key_leaves_the_directory() {
    let outer = tempfile::tempdir().unwrap();
    fs::write(outer.path().join("secret"), "x").unwrap();
    fs::create_dir(outer.path().join("blobs")).unwrap();
    let store = BlobStore::new(&config(&outer.path().join("blobs"))).unwrap();
    let absolute = outer.path().join("secret").display().to_string();
    for key in ["../secret", "a/../../secret", "./../secret", absolute.as_str()] {
        for error in [
            store.get(key).await.unwrap_err(),
            store.head(key).await.unwrap_err(),
            store.put_if_absent(key, Bytes::new()).await.unwrap_err(),
        ] {
            assert_eq!((error.code(), error.kind()), ("C2S-1204", ErrorKind::Document), "{key}");
        }
    }
}

#[tokio::test]
async fn a_vanished_directory_is_not_a_store_without_blobs() {
    let outer = tempfile::tempdir().unwrap();
    let path = outer.path().join("blobs");
    assert_eq!(BlobStore::new(&config(&path)).unwrap_err().code(), "C2S-1203");
    fs::create_dir(&path).unwrap();
    let store = BlobStore::new(&config(&path)).unwrap();
    assert_eq!(store.get("k").await.unwrap(), None);
    fs::remove_dir(&path).unwrap();
    let error = store.get("k").await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("C2S-1201", ErrorKind::Retry));
    assert_eq!(store.check().await.unwrap_err().code(), "C2S-1201");
}
