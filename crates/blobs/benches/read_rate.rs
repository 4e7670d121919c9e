//! How many small blobs per second are read from a warm directory: by this crate, and by `object_store`'s own file system.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use blobs::{BlobConfig, BlobLocation, BlobStore};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use object_store::ObjectStoreExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;

const BLOBS: usize = 20_000;
/// Blobs asked for at once: about what one batch of forms has.
const TOGETHER: usize = 500;
const SIZE: usize = 2_800;

fn report(name: &str, elapsed: Duration) {
    let per_second = f64::from(u32::try_from(BLOBS).unwrap()) / elapsed.as_secs_f64();
    println!("{name:<40} {per_second:>10.0} blobs/s");
}

fn main() {
    let directory = tempfile::tempdir().unwrap();
    let keys: Vec<String> = (0..BLOBS).map(|number| format!("{number:032x}")).collect();
    for key in &keys {
        std::fs::write(directory.path().join(key), vec![b'x'; SIZE]).unwrap();
    }
    let store = BlobStore::new(&BlobConfig::new(BlobLocation::Fs {
        path: directory.path().to_owned(),
    }))
    .unwrap();
    let local = LocalFileSystem::new_with_prefix(directory.path()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        for round in ["cold", "warm"] {
            let start = Instant::now();
            for part in keys.chunks(TOGETHER) {
                for blob in store.get_many(part.to_vec()).await {
                    assert_eq!(blob.unwrap().unwrap().len(), SIZE);
                }
            }
            report(&format!("get_many, {round}"), start.elapsed());
        }
        let start = Instant::now();
        let reads = keys.iter().map(|key| async { store.get(key).await.unwrap().unwrap() });
        let read: Vec<Bytes> = stream::iter(reads).buffered(64).collect().await;
        report("get, 64 at once", start.elapsed());
        assert_eq!(read.len(), BLOBS);
        let start = Instant::now();
        let reads = keys.iter().map(|key| {
            let (path, local) = (Path::parse(key).unwrap(), &local);
            async move { local.get(&path).await.unwrap().bytes().await.unwrap() }
        });
        let read: Vec<Bytes> = stream::iter(reads).buffered(64).collect().await;
        report("object_store's file system, 64 at once", start.elapsed());
        assert_eq!(read.len(), BLOBS);
        let start = Instant::now();
        for number in 0..200 {
            store
                .put_if_absent(&format!("new/{number}"), Bytes::from_static(b"<data/>"))
                .await
                .unwrap();
        }
        println!(
            "{:<40} {:>10.0} blobs/s",
            "put_if_absent, one by one",
            200.0 / start.elapsed().as_secs_f64()
        );
    });
}
