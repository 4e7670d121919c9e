//! Blobs as files of a directory.
//!
//! Reads of many small files are done by a few blocking tasks that take keys from a common list: handing each file to a
//! thread by itself costs more than reading it, while on a network file system many must be asked for at once.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind as IoKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::error::{Error, Result};
use crate::key::check_key;

/// Keys for which one more task is worth its start.
const KEYS_PER_TASK: usize = 16;

#[derive(Clone, Debug)]
pub(crate) struct Files {
    root: Arc<Path>,
    permits: Arc<Semaphore>,
    max_concurrency: usize,
    limit: usize,
}

impl Files {
    pub(crate) fn new(root: &Path, max_concurrency: usize, limit: usize) -> Result<Self> {
        // An absent directory must not look like a store in which every blob is missing.
        if !root.is_dir() {
            let reason = format!("{} is not a directory that can be read", root.display());
            return Err(Error::Config { reason });
        }
        let max_concurrency = max_concurrency.clamp(1, Semaphore::MAX_PERMITS);
        Ok(Self {
            root: root.into(),
            permits: Arc::new(Semaphore::new(max_concurrency)),
            max_concurrency,
            limit,
        })
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let path = self.path(key)?;
        self.blocking(move |files| files.read(&path)).await
    }

    pub(crate) async fn get_many(&self, keys: Vec<String>) -> Vec<Result<Option<Bytes>>> {
        let count = keys.len();
        if count == 0 {
            return Vec::new();
        }
        let list = Arc::new(KeyList {
            keys,
            next: AtomicUsize::new(0),
        });
        let mut permits = Vec::new();
        // One permit is waited for, others are taken only if they are free: whoever waits must not wait for the last.
        if let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await {
            permits.push(permit);
        }
        while permits.len() < count.div_ceil(KEYS_PER_TASK).min(self.max_concurrency) {
            match Arc::clone(&self.permits).try_acquire_owned() {
                Ok(permit) => permits.push(permit),
                Err(_) => break,
            }
        }
        let tasks = permits.into_iter().map(|permit| {
            let (files, list) = (self.clone(), Arc::clone(&list));
            spawn_blocking(move || {
                let _permit = permit;
                list.drain(|key| files.path(key).and_then(|path| files.read(&path)))
            })
        });
        let mut blobs: Vec<Option<Result<Option<Bytes>>>> = Vec::new();
        blobs.resize_with(count, || None);
        for (position, blob) in join_all(tasks).await.into_iter().flatten().flatten() {
            blobs[position] = Some(blob);
        }
        blobs
            .into_iter()
            .map(|blob| blob.unwrap_or_else(|| Err(unavailable("the reading task was aborted"))))
            .collect()
    }

    pub(crate) async fn head(&self, key: &str) -> Result<Option<u64>> {
        let path = self.path(key)?;
        self.blocking(move |files| match fs::metadata(&path) {
            Ok(facts) if facts.is_file() => Ok(Some(facts.len())),
            Ok(_) => Ok(None),
            Err(error) => files.absent_or(error),
        })
        .await
    }

    pub(crate) async fn put_if_absent(&self, key: &str, content: Bytes) -> Result<()> {
        let path = self.path(key)?;
        self.blocking(move |_| write_new(&path, &content).map_err(io_error))
            .await
    }

    /// Whether the directory is still there.
    pub(crate) async fn check(&self) -> Result<()> {
        self.blocking(|files| files.root_is_there()).await
    }

    fn path(&self, key: &str) -> Result<PathBuf> {
        check_key(key)?;
        Ok(self.root.join(key))
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> Result<T> + Send + 'static) -> Result<T> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let files = self.clone();
        let done = spawn_blocking(move || {
            let _permit = permit;
            work(&files)
        });
        done.await
            .map_err(|source| Error::Unavailable { source: source.into() })?
    }

    fn read(&self, path: &Path) -> Result<Option<Bytes>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) => return self.absent_or(error),
        };
        let facts = file.metadata().map_err(io_error)?;
        if !facts.is_file() {
            return Ok(None);
        }
        let length = usize::try_from(facts.len()).unwrap_or(usize::MAX);
        if length > self.limit {
            return Err(Error::TooLarge { limit: self.limit });
        }
        let mut content = Vec::with_capacity(length);
        let bound = facts.len().saturating_add(1);
        file.take(bound).read_to_end(&mut content).map_err(io_error)?;
        if content.len() == length {
            Ok(Some(content.into()))
        } else {
            // Blobs are written once; one that changes its length is being written right now.
            Err(unavailable("the file changed while it was read"))
        }
    }

    /// What an error says: no such blob, or a store that does not work.
    fn absent_or<T>(&self, error: io::Error) -> Result<Option<T>> {
        match error.kind() {
            IoKind::NotFound | IoKind::NotADirectory => self.root_is_there().map(|()| None),
            IoKind::InvalidFilename => Err(Error::BadKey {
                reason: "it is too long for the file system",
            }),
            _ => Err(io_error(error)),
        }
    }

    fn root_is_there(&self) -> Result<()> {
        match fs::metadata(&self.root) {
            Ok(facts) if facts.is_dir() => Ok(()),
            Ok(_) => Err(unavailable("its directory is no directory any more")),
            Err(error) => Err(io_error(error)),
        }
    }
}

/// Keys to be read by several tasks, each by whoever comes first.
struct KeyList {
    keys: Vec<String>,
    next: AtomicUsize,
}

impl KeyList {
    fn drain<T>(&self, read: impl Fn(&str) -> T) -> Vec<(usize, T)> {
        let mut done = Vec::new();
        loop {
            let position = self.next.fetch_add(1, Ordering::Relaxed);
            match self.keys.get(position) {
                Some(key) => done.push((position, read(key))),
                None => return done,
            }
        }
    }
}

/// Writes a file that appears under its name all at once and only if there is none.
fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    // Readable for HQ, which may run as another user; the process's umask narrows it.
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => File::open(directory)?.sync_all(),
        Err(error) if error.error.kind() == IoKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.error),
    }
}

fn io_error(error: io::Error) -> Error {
    match error.kind() {
        IoKind::PermissionDenied => Error::Denied { source: error.into() },
        _ => Error::Unavailable { source: error.into() },
    }
}

fn unavailable(reason: &'static str) -> Error {
    Error::Unavailable { source: reason.into() }
}
