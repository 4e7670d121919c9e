//! The rows that processed forms leave of their cases.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use crate::block::{Block, Property};
use crate::form::Form;
use crate::model::{ExpectedAttachment, ExpectedCase, ExpectedIndex, ExpectedTransaction};

/// A part of a form on its way to a case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Touch<'a> {
    pub(crate) form: &'a Form,
    pub(crate) part: Part<'a>,
}

/// What of a form touches a case.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part<'a> {
    Block(&'a Block),
    /// The form's ledger blocks together.
    Ledgers,
}

impl<'a> Touch<'a> {
    pub(crate) fn by_block(form: &'a Form, block: &'a Block) -> Self {
        Self {
            form,
            part: Part::Block(block),
        }
    }

    pub(crate) fn block(&self) -> Option<&'a Block> {
        match self.part {
            Part::Block(block) => Some(block),
            Part::Ledgers => None,
        }
    }

    /// The block's user, else the form's.
    pub(crate) fn user(&self) -> Option<&str> {
        self.block()
            .and_then(|block| block.user_id.as_deref())
            .filter(|user| !user.is_empty())
            .or_else(|| self.form.meta_user())
    }
}

/// Forms in the order in which they are processed: of receipt, then of id.
pub(crate) fn in_order<'a>(forms: impl IntoIterator<Item = &'a Form>) -> Vec<&'a Form> {
    let mut forms: Vec<&Form> = forms.into_iter().collect();
    forms.sort_by(|a, b| (a.received_on, a.id.as_bytes()).cmp(&(b.received_on, b.id.as_bytes())));
    forms
}

/// What happened to each case: blocks of one form by rank, its ledgers last.
pub(crate) fn histories<'a>(forms: impl IntoIterator<Item = &'a Form>) -> BTreeMap<&'a str, Vec<Touch<'a>>> {
    let mut histories: BTreeMap<&str, Vec<Touch>> = BTreeMap::new();
    for form in in_order(forms) {
        let mut blocks: Vec<&Block> = form.blocks.iter().collect();
        blocks.sort_by_key(|block| block.rank());
        for block in blocks {
            histories
                .entry(&block.case_id)
                .or_default()
                .push(Touch::by_block(form, block));
        }
        let part = Part::Ledgers;
        for case_id in form.ledger_cases() {
            histories.entry(case_id).or_default().push(Touch { form, part });
        }
    }
    histories
}

/// Deletion mark of a case.
#[derive(Clone, Debug)]
pub(crate) struct Deletion {
    pub(crate) id: String,
    pub(crate) on: DateTime<Utc>,
}

/// The rows of one case after all of its history.
pub(crate) fn rows(domain: &str, case_id: &str, history: &[Touch<'_>], deletion: Option<&Deletion>) -> ExpectedCase {
    let first_date = history
        .iter()
        .find_map(Touch::block)
        .map_or(DateTime::UNIX_EPOCH, |block| block.modified.utc);
    let mut case = ExpectedCase {
        case_id: case_id.to_owned(),
        domain: domain.to_owned(),
        case_type: String::new(),
        name: None,
        owner_id: String::new(),
        opened_on: None,
        opened_by: None,
        modified_on: first_date,
        server_modified_on: history.last().map(|touch| touch.form.received_on),
        modified_by: String::new(),
        closed: false,
        closed_on: None,
        closed_by: None,
        deleted: deletion.is_some(),
        deleted_on: deletion.map(|deletion| deletion.on),
        deletion_id: deletion.map(|deletion| deletion.id.clone()),
        external_id: None,
        location_id: None,
        case_json: Map::new(),
        indices: Vec::new(),
        transactions: Vec::new(),
        attachments: Vec::new(),
        ledger_values: Vec::new(),
        ledger_transactions: Vec::new(),
    };
    if deletion.is_some() {
        case.server_modified_on = None;
    }
    for touch in history {
        match touch.part {
            Part::Block(block) => apply(&mut case, touch, block),
            Part::Ledgers => record_ledgers(&mut case, touch.form),
        }
    }
    case
}

fn apply(case: &mut ExpectedCase, touch: &Touch<'_>, block: &Block) {
    let form = touch.form;
    let date = block.modified.utc;
    let user = touch.user();
    if let Some(create) = &block.create {
        case.case_type = cut(&create.case_type);
        write(&mut case.name, create.name.as_ref());
        write(&mut case.external_id, create.external_id.as_ref());
        if let Some(owner_id) = &create.owner_id {
            case.owner_id = cut(owner_id);
        }
        if let Some(opened) = create.date_opened {
            case.opened_on = Some(opened.utc);
        }
    }
    let update = &block.update;
    if let Some(case_type) = &update.case_type {
        case.case_type = cut(case_type);
    }
    write(&mut case.name, update.case_name.as_ref());
    write(&mut case.external_id, update.external_id.as_ref());
    if let Some(owner_id) = &update.owner_id {
        case.owner_id = cut(owner_id);
    }
    for (key, property) in &update.dynamic {
        set_dynamic(case, key, property);
    }
    if block.close {
        case.closed = true;
        case.closed_on = Some(date);
        case.closed_by = user.map(str::to_owned);
    }
    for index in &block.indices {
        case.indices.retain(|row| row.identifier != index.identifier);
        if !index.referenced_id.is_empty() {
            case.indices.push(ExpectedIndex {
                identifier: index.identifier.to_owned(),
                referenced_id: index.referenced_id.clone(),
                referenced_type: index.referenced_type.to_owned(),
                relationship_id: if index.extension { 2 } else { 1 },
            });
        }
    }
    if let Some(photo) = &block.photo
        && let Some(image) = form.images.iter().find(|image| image.name == photo.src)
    {
        case.attachments.push(ExpectedAttachment {
            name: photo.identifier.to_owned(),
            content_type: Some(image.content_type.to_owned()),
            content_length: i32::try_from(image.bytes.len()).ok(),
            properties: json!({}),
            blob_id: image.key.clone(),
            blob_bucket: Some(String::new()),
            md5: String::new(),
        });
    }
    if let Some(user) = user {
        case.modified_by = user.to_owned();
    }
    case.modified_on = case.modified_on.max(date);
    case.opened_on.get_or_insert(date);
    if case.opened_by.as_deref().unwrap_or_default().is_empty() {
        case.opened_by = user.map(str::to_owned);
    }
    if case.owner_id.is_empty() {
        case.owner_id = user.unwrap_or_default().to_owned();
    }
    record(case, form, block);
}

fn set_dynamic(case: &mut ExpectedCase, key: &str, property: &Property) {
    let value = property.value();
    match (key, value.as_str()) {
        ("name", Some(text)) => case.name = Some(text.to_owned()),
        ("location_id", Some(text)) => case.location_id = Some(text.to_owned()),
        _ => {
            if let ("hq_user_id", Some(text)) = (key, value.as_str()) {
                case.external_id = Some(text.to_owned());
            }
            case.case_json.insert(key.to_owned(), value);
        }
    }
}

/// One transaction per form, with the bits of all of its blocks.
fn record(case: &mut ExpectedCase, form: &Form, block: &Block) {
    let bits = 1 | block.bits();
    match case
        .transactions
        .last_mut()
        .filter(|row| row.form_id.as_deref() == Some(&form.id))
    {
        Some(row) => {
            row.kind |= bits;
            row.client_date = Some(block.modified.utc);
        }
        None => case.transactions.push(ExpectedTransaction {
            form_id: Some(form.id.clone()),
            sync_log_id: form.sync_token.clone(),
            server_date: form.received_on,
            client_date: Some(block.modified.utc),
            kind: bits,
            revoked: false,
            details: Value::Object(Map::new()),
        }),
    }
}

/// The ledger bit joins the blocks' row; a form that has no block of the case makes a row without token and phone time.
fn record_ledgers(case: &mut ExpectedCase, form: &Form) {
    match case
        .transactions
        .last_mut()
        .filter(|row| row.form_id.as_deref() == Some(&form.id))
    {
        Some(row) => row.kind |= LEDGER,
        None => case.transactions.push(ExpectedTransaction {
            form_id: Some(form.id.clone()),
            sync_log_id: None,
            server_date: form.received_on,
            client_date: None,
            kind: 1 | LEDGER,
            revoked: false,
            details: Value::Object(Map::new()),
        }),
    }
}

/// Type bit of a transaction that changed ledgers.
const LEDGER: i16 = 64;

fn write(column: &mut Option<String>, value: Option<&String>) {
    if let Some(value) = value {
        *column = Some(cut(value));
    }
}

/// Known properties are cut to the width of their columns.
fn cut(text: &str) -> String {
    text.chars().take(255).collect()
}
