//! The rows that a correct migration leaves. The same types hold the rows read back from a target.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::ledger_diffs::LedgerDiff;

/// A row of the form table with its operations.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the columns of HQ's table, by their names")]
pub struct ExpectedForm {
    pub form_id: String,
    pub domain: String,
    pub app_id: Option<String>,
    pub xmlns: String,
    pub user_id: Option<String>,
    pub orig_id: Option<String>,
    pub deprecated_form_id: Option<String>,
    /// As in Couch.
    pub server_modified_on: Option<DateTime<Utc>>,
    pub received_on: DateTime<Utc>,
    pub edited_on: Option<DateTime<Utc>>,
    pub deleted_on: Option<DateTime<Utc>>,
    pub deletion_id: Option<String>,
    pub auth_context: Value,
    pub openrosa_headers: Value,
    pub partial_submission: bool,
    pub submit_ip: Option<String>,
    pub last_sync_token: Option<String>,
    pub problem: Option<String>,
    pub date_header: Option<DateTime<Utc>>,
    pub build_id: Option<String>,
    /// Bit flags: 1 normal, 2 archived, 4 deprecated, 8 duplicate, 16 error, 32 submission error log, plus 64 deleted.
    pub state: i16,
    pub initial_processing_complete: bool,
    /// In any order.
    pub operations: Vec<ExpectedOperation>,
}

/// A row of the form operation table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[allow(missing_docs, reason = "the columns of HQ's table, by their names")]
pub struct ExpectedOperation {
    pub date: DateTime<Utc>,
    pub operation: String,
    pub user_id: Option<String>,
}

/// A row of the case table with its children.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the columns of HQ's table, by their names")]
pub struct ExpectedCase {
    pub case_id: String,
    pub domain: String,
    pub case_type: String,
    pub name: Option<String>,
    pub owner_id: String,
    pub opened_on: Option<DateTime<Utc>>,
    pub opened_by: Option<String>,
    pub modified_on: DateTime<Utc>,
    /// `None` in a model: whenever the migration ran. A case built by live forms and marked deleted in Couch gets the
    /// time of the marking.
    pub server_modified_on: Option<DateTime<Utc>>,
    pub modified_by: String,
    pub closed: bool,
    pub closed_on: Option<DateTime<Utc>>,
    pub closed_by: Option<String>,
    pub deleted: bool,
    pub deleted_on: Option<DateTime<Utc>>,
    pub deletion_id: Option<String>,
    pub external_id: Option<String>,
    pub location_id: Option<String>,
    pub case_json: Map<String, Value>,
    /// In any order.
    pub indices: Vec<ExpectedIndex>,
    /// In any order.
    pub transactions: Vec<ExpectedTransaction>,
    /// In any order.
    pub attachments: Vec<ExpectedAttachment>,
    /// In any order.
    pub ledger_values: Vec<ExpectedLedgerValue>,
    /// Those of one ledger in the order in which they happened.
    pub ledger_transactions: Vec<ExpectedLedgerTransaction>,
}

/// A row of the case index table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[allow(missing_docs, reason = "the columns of HQ's table, by their names")]
pub struct ExpectedIndex {
    pub identifier: String,
    pub referenced_id: String,
    pub referenced_type: String,
    /// 1 child, 2 extension.
    pub relationship_id: i16,
}

/// A row of the case transaction table.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the columns of HQ's table, by their names")]
pub struct ExpectedTransaction {
    pub form_id: Option<String>,
    pub sync_log_id: Option<String>,
    pub server_date: DateTime<Utc>,
    pub client_date: Option<DateTime<Utc>>,
    /// Bit flags: 1 form, 2 rebuild with reason, 64 ledger, 128 create, 256 close, 512 index, 1024 attachment.
    pub kind: i16,
    pub revoked: bool,
    pub details: Value,
}

/// A row of the case attachment table, without its generated id.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the columns of HQ's table, by their names")]
pub struct ExpectedAttachment {
    pub name: String,
    pub content_type: Option<String>,
    pub content_length: Option<i32>,
    pub properties: Value,
    pub blob_id: String,
    pub blob_bucket: Option<String>,
    pub md5: String,
}

/// A row of the ledger value table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[allow(missing_docs, reason = "the columns of HQ's table, by their names")]
pub struct ExpectedLedgerValue {
    pub section_id: String,
    pub entry_id: String,
    pub domain: String,
    pub balance: i32,
    pub last_modified: DateTime<Utc>,
    pub last_modified_form_id: Option<String>,
    /// As text with five places.
    pub daily_consumption: Option<String>,
}

/// A row of the ledger transaction table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the columns of HQ's table, by their names")]
pub struct ExpectedLedgerTransaction {
    pub section_id: String,
    pub entry_id: String,
    pub form_id: String,
    pub server_date: DateTime<Utc>,
    pub report_date: DateTime<Utc>,
    /// 1 balance, 2 transfer.
    pub kind: i16,
    pub user_defined_type: Option<String>,
    pub delta: i64,
    pub updated_balance: i64,
}

/// A row of the blob metadata table.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the columns of HQ's table, by their names")]
pub struct ExpectedBlobMeta {
    pub domain: String,
    pub parent_id: String,
    pub name: String,
    pub key: String,
    /// 2 the form's XML, 3 an attachment.
    pub type_code: i16,
    pub content_length: i64,
    pub content_type: Option<String>,
    /// `None` in a model: whenever the migration ran.
    pub created_on: Option<DateTime<Utc>>,
}

/// What a migration of the domain must leave.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Model {
    /// Forms by id.
    pub forms: BTreeMap<String, ExpectedForm>,
    /// Cases by id.
    pub cases: BTreeMap<String, ExpectedCase>,
    /// Blob metadata afterwards, in any order; keys are unique.
    pub blobmeta_after: Vec<ExpectedBlobMeta>,
    /// Couch documents by `doc_type`.
    pub doc_counts: BTreeMap<String, usize>,
    /// What Couch's stock must be reported to differ in from the ledgers, in order of case and ledger.
    pub ledger_diffs: Vec<LedgerDiff>,
}

impl Model {
    /// Takes in the rows of another part of the same domain.
    pub fn absorb(&mut self, other: Self) {
        self.forms.extend(other.forms);
        self.cases.extend(other.cases);
        self.blobmeta_after.extend(other.blobmeta_after);
        self.ledger_diffs.extend(other.ledger_diffs);
        for (doc_type, count) in other.doc_counts {
            *self.doc_counts.entry(doc_type).or_default() += count;
        }
    }
}
