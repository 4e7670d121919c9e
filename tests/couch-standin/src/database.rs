//! Databases: documents, the changes feed and the view indexes, changed together under one lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use tokio::sync::watch;

use crate::document::{Document, Incoming, Revision};
use crate::ordered::OrderedIndex;
use crate::views::{MapFunction, ViewIndex};

/// All databases of a server. A clone is another handle to the same ones, which outlive the server.
#[derive(Clone, Debug, Default)]
pub struct Databases(Arc<RwLock<BTreeMap<String, Arc<Database>>>>);

impl Databases {
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Database>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .cloned()
            .collect()
    }

    /// Creates a database; false if there is one of that name.
    pub(crate) fn create(&self, name: &str) -> bool {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let absent = !all.contains_key(name);
        if absent {
            all.insert(name.to_owned(), Arc::new(Database::new(name)));
        }
        absent
    }

    pub(crate) fn get_or_create(&self, name: &str) -> Arc<Database> {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(
            all.entry(name.to_owned())
                .or_insert_with(|| Arc::new(Database::new(name))),
        )
    }

    pub(crate) fn drop_database(&self, name: &str) -> bool {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name)
            .is_some()
    }
}

/// How a write treats the revision that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteMode {
    /// As a client edits: the revision must be the current one.
    Edit,
    /// As a replicator writes (`new_edits=false`): the given revision is kept; of two, the winner stays. The loser is
    /// forgotten, where CouchDB would keep it as a conflict.
    Replicate,
    /// As a test arranges data: what is there is replaced whatever its revision.
    Force,
}

/// Why a write was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("Document update conflict.")]
    Conflict,
    #[error("Invalid attachment stub in {id} for {name}")]
    MissingStub { id: String, name: String },
    #[error("a replicated document needs a revision")]
    NoRevision,
}

/// One database.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) name: String,
    /// Tells this database from an earlier one of the same name.
    incarnation: u64,
    store: RwLock<Store>,
    /// The last sequence; wakes the readers of live feeds.
    written: watch::Sender<u64>,
}

/// What a database held once.
#[derive(Clone, Debug)]
pub struct BackUp {
    /// In the order of their last changes.
    documents: Vec<Arc<Document>>,
    sequence: u64,
}

/// The contents of a database.
#[derive(Debug, Default)]
pub(crate) struct Store {
    /// Every document by id, tombstones included.
    documents: HashMap<Arc<str>, Arc<Document>>,
    /// Those that are alive, in the order of their ids' bytes.
    pub(crate) alive: OrderedIndex<Arc<str>, Arc<Document>>,
    /// The last change of each document.
    pub(crate) changes: OrderedIndex<u64, Arc<Document>>,
    views: Vec<ViewIndex>,
    pub(crate) sequence: u64,
}

impl Database {
    fn new(name: &str) -> Self {
        static INCARNATIONS: AtomicU64 = AtomicU64::new(1);
        let incarnation = INCARNATIONS.fetch_add(1, Ordering::Relaxed);
        Self {
            name: name.to_owned(),
            incarnation,
            store: RwLock::default(),
            written: watch::channel(0).0,
        }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Store> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<Document>> {
        self.read().get(id).cloned()
    }

    /// Writes one document.
    pub(crate) fn write(&self, id: &str, incoming: Incoming, mode: WriteMode) -> Result<Arc<Document>, WriteError> {
        let mut store = self.store.write().unwrap_or_else(PoisonError::into_inner);
        let written = store.write(id, incoming, mode)?;
        let sequence = store.sequence;
        drop(store);
        self.written.send_replace(sequence);
        Ok(written)
    }

    /// What it holds now.
    pub(crate) fn back_up(&self) -> BackUp {
        let store = self.read();
        let documents = store.changes.range(0..store.changes.len());
        BackUp {
            documents: documents.map(|(_, document)| Arc::clone(document)).collect(),
            sequence: store.sequence,
        }
    }

    /// Puts back what it held once, its sequence too.
    pub(crate) fn restore(&self, from: &BackUp) {
        let mut restored = Store::default();
        for document in &from.documents {
            restored.replace(None, document);
        }
        restored.sequence = from.sequence;
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = restored;
    }

    /// A receiver that sees every later write.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    /// When it was made, as clients see it; a number that no other database of this process has.
    pub(crate) fn incarnation_text(&self) -> String {
        self.incarnation.to_string()
    }

    /// A sequence as clients see it: a text to hand back, not to read.
    pub(crate) fn sequence_text(&self, sequence: u64) -> String {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.incarnation.to_be_bytes());
        bytes[8..].copy_from_slice(&sequence.to_be_bytes());
        format!("{sequence}-g1AAAA{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The sequence of a text; none if it is no sequence of a server of this kind. One of an earlier database of this
    /// name starts from the beginning again, as CouchDB's rewind does.
    pub(crate) fn sequence_of(&self, text: &str) -> Option<u64> {
        if text == "0" {
            return Some(0);
        }
        let (number, packed) = text.split_once("-g1AAAA")?;
        let bytes: [u8; 16] = URL_SAFE_NO_PAD.decode(packed).ok()?.try_into().ok()?;
        let (incarnation, sequence) = bytes.split_at(8);
        let is_own = incarnation == self.incarnation.to_be_bytes();
        let is_consistent = sequence == number.parse::<u64>().ok()?.to_be_bytes();
        is_consistent.then(|| if is_own { number.parse().unwrap_or(0) } else { 0 })
    }
}

impl Store {
    pub(crate) fn get(&self, id: &str) -> Option<&Arc<Document>> {
        self.documents.get(id)
    }

    /// Number of tombstones.
    pub(crate) fn deleted_count(&self) -> usize {
        self.documents.len() - self.alive.len()
    }

    /// Bytes of all document bodies.
    pub(crate) fn body_bytes(&self) -> usize {
        self.documents.values().map(|document| document.body.len()).sum()
    }

    pub(crate) fn view(&self, map: MapFunction) -> Option<&ViewIndex> {
        self.views.iter().find(|view| view.map() == map)
    }

    fn write(&mut self, id: &str, incoming: Incoming, mode: WriteMode) -> Result<Arc<Document>, WriteError> {
        let current = self.documents.get(id).cloned();
        let kept_revision = match mode {
            WriteMode::Edit => {
                let is_expected = match (&current, &incoming.revision) {
                    (None, given) => given.is_none(),
                    (Some(current), None) => current.deleted,
                    (Some(current), Some(given)) => current.revision == *given,
                };
                if !is_expected {
                    return Err(WriteError::Conflict);
                }
                None
            }
            WriteMode::Replicate => {
                let given = incoming.revision.clone().ok_or(WriteError::NoRevision)?;
                let order =
                    |deleted: bool, revision: &Revision| (!deleted, revision.order().0, revision.order().1.to_owned());
                if let Some(current) = &current
                    && order(current.deleted, &current.revision) >= order(incoming.deleted, &given)
                {
                    return Ok(Arc::clone(current));
                }
                Some(given)
            }
            WriteMode::Force => incoming.revision.clone(),
        };
        let shared_id = current
            .as_ref()
            .map_or_else(|| id.into(), |document| Arc::clone(&document.id));
        let document = incoming
            .into_document(shared_id, current.as_deref(), kept_revision, self.sequence + 1)
            .map_err(|name| WriteError::MissingStub {
                id: id.to_owned(),
                name,
            })?;
        let document = Arc::new(document);
        self.replace(current.as_deref(), &document);
        Ok(document)
    }

    fn replace(&mut self, old: Option<&Document>, new: &Arc<Document>) {
        self.sequence = new.sequence;
        if let Some(old) = old {
            self.changes.remove(&old.sequence);
            if !old.deleted {
                self.alive.remove(&*old.id);
                self.views.iter_mut().for_each(|view| view.remove(old));
            }
        }
        self.documents.insert(Arc::clone(&new.id), Arc::clone(new));
        self.changes.insert(new.sequence, Arc::clone(new));
        if !new.deleted {
            self.alive.insert(Arc::clone(&new.id), Arc::clone(new));
        }
        if let Some(design) = new.id.strip_prefix("_design/") {
            self.change_views(design, new);
        } else if !new.deleted {
            self.views.iter_mut().for_each(|view| view.add(new));
        }
    }

    /// Builds the indexes of a design document that is new, and drops those it no longer defines.
    fn change_views(&mut self, design_name: &str, design: &Document) {
        let body: Value = serde_json::from_slice(&design.body).unwrap_or_default();
        let wanted: Vec<MapFunction> = match &body["views"] {
            Value::Object(views) if !design.deleted => views
                .keys()
                .filter_map(|view| MapFunction::find(design_name, view))
                .collect(),
            _ => Vec::new(),
        };
        self.views
            .retain(|view| !view.map().belongs_to(design_name) || wanted.contains(&view.map()));
        for map in wanted {
            if self.view(map).is_none() {
                let mut view = ViewIndex::new(map);
                let alive = self.alive.range(0..self.alive.len());
                for (_, document) in alive.filter(|(id, _)| !id.starts_with("_design/")) {
                    view.add(document);
                }
                self.views.push(view);
            }
        }
    }
}
