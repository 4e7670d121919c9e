//! One form as it was meant, and everything written from it: the Couch document, its blobs, its rows.

use std::collections::BTreeSet;

use chrono::{DateTime, Duration, Utc};
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Map, Value, json};

use crate::block::Block;
use crate::element::{Element, Style};
pub(crate) use crate::fate::Fate;
use crate::ledger::{Ledger, Step};
use crate::model::{ExpectedBlobMeta, ExpectedForm, ExpectedOperation};
use crate::moment::{Moment, couch_time, short_couch_time};
use crate::options::Options;
use crate::stream::Piece;

/// A mobile worker.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) device: String,
}

/// The `meta` block of a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meta {
    Absent,
    Modern,
    /// Fields of the early days, which HQ renamed on receipt: `Meta`, `uid`, `chw_id`, `TimeStart`, …
    Legacy,
}

/// Where the case blocks stand in the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    Root,
    /// Inside nested groups.
    Groups,
    /// Each in one iteration of a repeat.
    Repeat,
}

/// An attachment of a form.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) content_type: &'static str,
    /// Blob key; chosen early, since case attachments point to it.
    pub(crate) key: String,
}

/// One form.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    pub(crate) id: String,
    /// Id in the XML; a copy of another form has that form's.
    pub(crate) instance_id: String,
    pub(crate) fate: Fate,
    pub(crate) root: &'static str,
    pub(crate) title: &'static str,
    pub(crate) xmlns: Option<String>,
    pub(crate) received_on: DateTime<Utc>,
    pub(crate) server_modified_on: DateTime<Utc>,
    pub(crate) user: Option<User>,
    pub(crate) meta: Meta,
    pub(crate) started: Moment,
    pub(crate) ended: Moment,
    pub(crate) questions: Vec<Element>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) ledgers: Vec<Ledger>,
    pub(crate) layout: Layout,
    pub(crate) images: Vec<Image>,
    /// Bytes of `form.xml` instead of the form's own XML.
    pub(crate) raw_body: Option<Vec<u8>>,
    pub(crate) app_id: Option<String>,
    pub(crate) build_id: Option<String>,
    pub(crate) submit_ip: Option<String>,
    pub(crate) sync_token: Option<String>,
    pub(crate) date_header: Option<DateTime<Utc>>,
    pub(crate) headers: Value,
    pub(crate) partial: bool,
    /// As in the document: `None` counts as true.
    pub(crate) processing_complete: Option<bool>,
    pub(crate) history: Vec<ExpectedOperation>,
    pub(crate) deprecated_form_id: Option<String>,
    pub(crate) edited_on: Option<DateTime<Utc>>,
}

/// Root namespace of the logs of devices, whose cases and ledgers count for nothing.
pub(crate) const DEVICE_REPORT_XMLNS: &str = "http://code.javarosa.org/devicereport";

/// The XML attachment's name.
const FORM_XML: &str = "form.xml";

impl Form {
    /// The user that case blocks without one fall back to: the form's column, which comes from `meta`.
    pub(crate) fn meta_user(&self) -> Option<&str> {
        if self.meta == Meta::Absent {
            None
        } else {
            self.user.as_ref().map(|user| user.id.as_str())
        }
    }

    /// What its ledger blocks do, in the order in which HQ does it.
    pub(crate) fn ledger_steps(&self) -> impl Iterator<Item = (&Ledger, Vec<Step<'_>>)> {
        let counts = self.xmlns.as_deref() != Some(DEVICE_REPORT_XMLNS);
        let ledgers = if counts { self.ledgers.as_slice() } else { &[] };
        ledgers.iter().map(|ledger| (ledger, ledger.steps()))
    }

    /// The cases whose ledgers it changes.
    pub(crate) fn ledger_cases(&self) -> BTreeSet<&str> {
        let steps = self.ledger_steps().flat_map(|(_, steps)| steps);
        steps.map(|step| step.case_id).collect()
    }

    /// Adds the form's documents, blobs and rows to a piece.
    pub(crate) fn emit(&self, options: &Options, rng: &mut StdRng, piece: &mut Piece) {
        let mut external_blobs = Map::new();
        let style = Style::choose(rng);
        let xml = self.raw_body.clone().unwrap_or_else(|| self.element().form_xml(&style));
        self.emit_blob(
            options,
            rng,
            piece,
            &mut external_blobs,
            (FORM_XML, xml, "text/xml", None),
        );
        for image in &self.images {
            let blob = (
                image.name.as_str(),
                image.bytes.clone(),
                image.content_type,
                Some(image.key.clone()),
            );
            self.emit_blob(options, rng, piece, &mut external_blobs, blob);
        }
        let doc = self.document(options, external_blobs);
        *piece
            .model
            .doc_counts
            .entry(self.fate.doc_type().to_owned())
            .or_default() += 1;
        piece.docs.push(doc);
        piece.model.forms.insert(self.id.clone(), self.expected(options));
    }

    fn emit_blob(
        &self,
        options: &Options,
        rng: &mut StdRng,
        piece: &mut Piece,
        external_blobs: &mut Map<String, Value>,
        (name, bytes, content_type, key): (&str, Vec<u8>, &'static str, Option<String>),
    ) {
        let weights = &options.weights;
        let has_row = !rng.random_bool(weights.missing_blobmeta);
        let number = rng.random_range(1..2_000_000);
        let length = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        // Old references come from before the metadata table had anything to say about forms.
        let old_db = options
            .couch_db
            .as_ref()
            .filter(|_| key.is_none() && rng.random_bool(0.05));
        let key = match (key, old_db) {
            (Some(key), _) => {
                external_blobs.insert(
                    name.to_owned(),
                    blob_ref(&key, has_row.then_some(number), content_type, length),
                );
                key
            }
            (None, None) => {
                let key = random_hex(rng);
                external_blobs.insert(
                    name.to_owned(),
                    blob_ref(&key, has_row.then_some(number), content_type, length),
                );
                key
            }
            (None, Some(db)) => {
                let id = format!("{name}.{}", &random_hex(rng)[..8]);
                external_blobs.insert(
                    name.to_owned(),
                    json!({"doc_type": "BlobMeta", "id": id, "content_type": content_type, "content_length": length}),
                );
                format!("{db}/{}/{id}", self.id)
            }
        };
        let mut row = ExpectedBlobMeta {
            domain: options.domain.clone(),
            parent_id: self.id.clone(),
            name: name.to_owned(),
            key: key.clone(),
            type_code: if name == FORM_XML { 2 } else { 3 },
            content_length: length,
            content_type: Some(content_type.to_owned()),
            created_on: has_row.then_some(self.received_on),
        };
        piece.model.blobmeta_after.push(row.clone());
        if has_row {
            if name != FORM_XML && rng.random_bool(weights.wrong_type_blobmeta) {
                row.type_code = 2;
            }
            piece.blobmeta.push(row);
        }
        piece.blobs.push((key, bytes));
    }

    fn document(&self, options: &Options, external_blobs: Map<String, Value>) -> Value {
        let whole_seconds = self.meta == Meta::Legacy && self.received_on.timestamp_subsec_nanos() == 0;
        let received_on = if whole_seconds {
            short_couch_time(self.received_on)
        } else {
            couch_time(self.received_on)
        };
        let mut doc = Map::new();
        let mut set = |key: &str, value: Value| {
            doc.insert(key.to_owned(), value);
        };
        set("_id", json!(self.id));
        set("doc_type", json!(self.fate.doc_type()));
        set("domain", json!(options.domain));
        set("app_id", json!(self.app_id));
        set("build_id", json!(self.build_id));
        if !matches!(self.fate, Fate::ErrorLog { .. }) {
            set("xmlns", json!(self.xmlns));
        }
        set(
            "form",
            if self.raw_body.is_some() {
                json!({})
            } else {
                self.element().form_json()
            },
        );
        set("received_on", json!(received_on));
        set("server_modified_on", json!(couch_time(self.server_modified_on)));
        set("initial_processing_complete", json!(self.processing_complete));
        set("partial_submission", json!(self.partial));
        set("submit_ip", json!(self.submit_ip));
        set(
            "path",
            json!(format!(
                "/a/{}/receiver/{}/",
                options.domain,
                self.app_id.as_deref().unwrap_or("secure")
            )),
        );
        set("auth_context", self.auth_context(options));
        set("openrosa_headers", self.headers.clone());
        set("last_sync_token", json!(self.sync_token));
        set("date_header", json!(self.date_header.map(couch_time)));
        set("#export_tag", json!(["domain", "xmlns"]));
        let history = self.history.iter().map(|operation| {
            json!({"doc_type": "XFormOperation", "user": operation.user_id, "date": couch_time(operation.date),
                   "operation": operation.operation})
        });
        set("history", Value::Array(history.collect()));
        if let Some(id) = &self.deprecated_form_id {
            set("deprecated_form_id", json!(id));
        }
        if let Some(on) = self.edited_on {
            set("edited_on", json!(couch_time(on)));
        }
        if let Some(problem) = self.fate.problem() {
            set("problem", json!(problem));
        }
        if let Some(orig_id) = self.fate.orig_id() {
            set("orig_id", json!(orig_id));
        }
        match &self.fate {
            Fate::Deprecated { on, .. } => set("deprecated_date", json!(couch_time(*on))),
            Fate::Deleted { id, on } => {
                set("-deletion_id", json!(id));
                set("-deletion_date", json!(couch_time(*on)));
            }
            _ => {}
        }
        set("external_blobs", Value::Object(external_blobs));
        Value::Object(doc)
    }

    fn auth_context(&self, options: &Options) -> Value {
        self.user.as_ref().map_or_else(
            || json!({}),
            |user| {
                json!({"doc_type": "AuthContext", "domain": options.domain, "user_id": user.id,
                       "authenticated": true})
            },
        )
    }

    fn expected(&self, options: &Options) -> ExpectedForm {
        let is_log = matches!(self.fate, Fate::ErrorLog { .. });
        let deletion = match &self.fate {
            Fate::Deleted { id, on } => Some((id.clone(), *on)),
            _ => None,
        };
        ExpectedForm {
            form_id: self.id.clone(),
            domain: options.domain.clone(),
            app_id: self.app_id.clone(),
            xmlns: self.xmlns.clone().filter(|_| !is_log).unwrap_or_default(),
            user_id: self.meta_user().filter(|_| self.raw_body.is_none()).map(str::to_owned),
            orig_id: self.fate.orig_id(),
            deprecated_form_id: self.deprecated_form_id.clone(),
            server_modified_on: Some(self.server_modified_on),
            received_on: self.received_on,
            edited_on: match self.fate {
                Fate::Deprecated { on, .. } => Some(on),
                _ => self.edited_on,
            },
            deleted_on: deletion.as_ref().map(|(_, on)| *on),
            deletion_id: deletion.map(|(id, _)| id),
            auth_context: self.auth_context(options),
            openrosa_headers: self.headers.clone(),
            partial_submission: self.partial,
            submit_ip: self.submit_ip.clone(),
            last_sync_token: self.sync_token.clone(),
            problem: self.fate.problem(),
            date_header: self.date_header,
            build_id: self.build_id.clone(),
            state: self.fate.state(),
            initial_processing_complete: self.processing_complete.unwrap_or(true),
            operations: self.history.clone(),
        }
    }

    /// The whole form as a tree.
    pub(crate) fn element(&self) -> Element {
        let mut root = Element::new(self.root);
        if let Some(xmlns) = &self.xmlns {
            root = root.namespace(xmlns.as_str(), None);
        }
        root = root
            .attribute("name", self.title)
            .attribute("uiVersion", "1")
            .attribute("version", "27");
        if self.title == "Visit" {
            root = root.foreign_attribute("jrm", "http://dev.commcarehq.org/jr/xforms", "language", "hin");
        }
        root = root.children(self.questions.iter().cloned());
        for image in &self.images {
            root = root.child(Element::leaf("photo", image.name.as_str()));
        }
        let blocks = self.blocks.iter().map(Block::element);
        root = match self.layout {
            Layout::Root => root.children(blocks),
            Layout::Groups => root.child(
                Element::new("household").child(
                    Element::new("member")
                        .child(Element::leaf("seen", "yes"))
                        .child(Element::new("details").children(blocks)),
                ),
            ),
            Layout::Repeat => root.child(
                Element::new("people")
                    .child(Element::leaf("count", self.blocks.len().to_string()))
                    .children(blocks.enumerate().map(|(position, block)| {
                        Element::new("person")
                            .attribute("index", position.to_string())
                            .child(Element::leaf("present", "1"))
                            .child(block)
                    })),
            ),
        };
        let ledgers = self.ledgers.iter().map(Ledger::element);
        root = match self.layout {
            Layout::Groups if !self.ledgers.is_empty() => {
                root.child(Element::new("stock").child(Element::new("report").children(ledgers)))
            }
            _ => root.children(ledgers),
        };
        root.children(self.meta_element())
    }

    fn meta_element(&self) -> Option<Element> {
        let user = self.user.as_ref();
        let user_id = user.map_or("", |user| &user.id);
        let user_name = user.map_or("", |user| &user.name);
        let device = user.map_or("", |user| &user.device);
        match self.meta {
            Meta::Absent => None,
            Meta::Modern => Some(
                Element::new("meta")
                    .namespace("http://openrosa.org/jr/xforms", Some("orx"))
                    .child(Element::leaf("deviceID", device))
                    .child(Element::leaf("timeStart", self.started))
                    .child(Element::leaf("timeEnd", self.ended))
                    .child(Element::leaf("username", user_name))
                    .child(Element::leaf("userID", user_id))
                    .child(Element::leaf("instanceID", self.instance_id.as_str()))
                    .child(
                        Element::leaf("appVersion", "CommCare Android, version \"2.44.3\"(452680). App v27.")
                            .namespace("http://commcarehq.org/xforms", Some("cc")),
                    )
                    .child(Element::leaf("drift", "0")),
            ),
            Meta::Legacy => Some(
                Element::new("Meta")
                    .read_as("meta")
                    .child(Element::leaf("uid", self.instance_id.as_str()).read_as("instanceID"))
                    .child(Element::leaf("chw_id", user_id).read_as("userID"))
                    .child(Element::leaf("username", user_name))
                    .child(Element::leaf("DeviceID", device).read_as("deviceID"))
                    .child(Element::leaf("TimeStart", self.started).read_as("timeStart"))
                    .child(Element::leaf("TimeEnd", self.ended).read_as("timeEnd")),
            ),
        }
    }

    /// Time between the end of the form and its receipt.
    pub(crate) fn end_after(mut self, ended: DateTime<Utc>) -> Self {
        self.ended.utc = ended;
        self.started.utc = ended - Duration::minutes(7);
        self
    }
}

fn blob_ref(key: &str, row: Option<i32>, content_type: &str, length: i64) -> Value {
    json!({"doc_type": "BlobMetaRef", "key": key, "blobmeta_id": row, "content_type": content_type,
           "content_length": length})
}

/// 32 random hexadecimal digits.
pub(crate) fn random_hex(rng: &mut StdRng) -> String {
    uuid::Builder::from_random_bytes(rng.random())
        .into_uuid()
        .simple()
        .to_string()
}

/// A random id as phones make them.
pub(crate) fn random_uuid(rng: &mut StdRng) -> String {
    uuid::Builder::from_random_bytes(rng.random())
        .into_uuid()
        .hyphenated()
        .to_string()
}
