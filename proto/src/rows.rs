//! Rows of HQ's tables as plain values. The pure crates produce them, `hqsql` writes and reads them.
//!
//! Columns that only the database knows (`id`) are absent; JSON columns are JSON text, as the tables hold it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::effects::Relationship;

/// `form_processor_xforminstancesql`.
#[derive(Clone, Debug, PartialEq)]
pub struct FormRow {
    /// Form id.
    pub form_id: String,
    /// Domain.
    pub domain: String,
    /// Application.
    pub app_id: Option<String>,
    /// Namespace, `""` when absent.
    pub xmlns: String,
    /// User.
    pub user_id: Option<String>,
    /// On a deprecated form: the id it had before.
    pub orig_id: Option<String>,
    /// On the replacing form: the deprecated copy.
    pub deprecated_form_id: Option<String>,
    /// Copied from Couch.
    pub server_modified_on: Option<DateTime<Utc>>,
    /// Received on.
    pub received_on: DateTime<Utc>,
    /// Edited on.
    pub edited_on: Option<DateTime<Utc>>,
    /// Deleted on.
    pub deleted_on: Option<DateTime<Utc>>,
    /// Deletion batch.
    pub deletion_id: Option<String>,
    /// JSON object text.
    pub auth_context: String,
    /// JSON object text.
    pub openrosa_headers: String,
    /// Partial submission.
    pub partial_submission: bool,
    /// Submitter's address.
    pub submit_ip: Option<String>,
    /// Sync token.
    pub last_sync_token: Option<String>,
    /// Problem text.
    pub problem: Option<String>,
    /// HTTP `Date` header.
    pub date_header: Option<DateTime<Utc>>,
    /// Build.
    pub build_id: Option<String>,
    /// Bit flags of [`crate::doctype::DocType::form_state`].
    pub state: i16,
    /// Whether the form was processed into cases.
    pub initial_processing_complete: bool,
}

/// `form_processor_xformoperationsql`, without its form id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperationRow {
    /// User.
    pub user_id: Option<String>,
    /// What was done.
    pub operation: String,
    /// When.
    pub date: DateTime<Utc>,
}

/// `blobs_blobmeta`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobMetaRow {
    /// Domain.
    pub domain: String,
    /// The form id.
    pub parent_id: String,
    /// Attachment name.
    pub name: String,
    /// Blob key.
    pub key: String,
    /// 2 form.xml, 3 form attachment.
    pub type_code: i16,
    /// Plain length in bytes.
    pub content_length: i64,
    /// Length of the stored gzip bytes; `None` when stored plain, or when the table has no such column.
    pub compressed_length: Option<i64>,
    /// Media type.
    pub content_type: Option<String>,
    /// JSON object text.
    pub properties: Option<String>,
    /// Created on.
    pub created_on: DateTime<Utc>,
}

/// Blob type code of `form.xml`.
pub const BLOB_FORM_XML: i16 = 2;
/// Blob type code of any other form attachment.
pub const BLOB_FORM_ATTACHMENT: i16 = 3;

/// A form with all of its rows; they live on one shard and are written in one transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct FormBundle {
    /// The form.
    pub form: FormRow,
    /// Its operations, in history order.
    pub operations: Vec<OperationRow>,
}

/// `form_processor_commcarecasesql`.
#[derive(Clone, Debug, PartialEq)]
pub struct CaseRow {
    /// Case id.
    pub case_id: String,
    /// Domain.
    pub domain: String,
    /// `type`.
    pub case_type: String,
    /// Name.
    pub name: Option<String>,
    /// Owner.
    pub owner_id: String,
    /// Opened on.
    pub opened_on: Option<DateTime<Utc>>,
    /// Opened by.
    pub opened_by: Option<String>,
    /// Modified on (phone time).
    pub modified_on: DateTime<Utc>,
    /// Modified on (server time).
    pub server_modified_on: DateTime<Utc>,
    /// Modified by; `user_id` in JSON.
    pub modified_by: String,
    /// Closed.
    pub closed: bool,
    /// Closed on.
    pub closed_on: Option<DateTime<Utc>>,
    /// Closed by.
    pub closed_by: Option<String>,
    /// Deleted.
    pub deleted: bool,
    /// Deleted on.
    pub deleted_on: Option<DateTime<Utc>>,
    /// Deletion batch.
    pub deletion_id: Option<String>,
    /// External id.
    pub external_id: Option<String>,
    /// Location.
    pub location_id: Option<String>,
    /// Dynamic properties: JSON object text.
    pub case_json: String,
}

/// `form_processor_commcarecaseindexsql`, without its case id and domain (the case's).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexRow {
    /// Identifier; unique within the case.
    pub identifier: String,
    /// Referenced case.
    pub referenced_id: String,
    /// Its type.
    pub referenced_type: String,
    /// Relationship.
    pub relationship: Relationship,
}

/// `form_processor_caseattachmentsql`, without its case id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentRow {
    /// Generated from content, so that every replay gives the same.
    pub attachment_id: Uuid,
    /// Name; unique within the case here, though not in the table.
    pub name: String,
    /// Media type.
    pub content_type: Option<String>,
    /// Length in bytes.
    pub content_length: Option<i32>,
    /// JSON object text.
    pub properties: String,
    /// Blob key.
    pub blob_id: String,
    /// `""`: `blob_id` is the whole key.
    pub blob_bucket: Option<String>,
    /// Deprecated in HQ.
    pub md5: String,
}

/// `form_processor_casetransaction`, without its case id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionRow {
    /// The form; none for rebuilds and legacy actions.
    pub form_id: Option<String>,
    /// Sync token.
    pub sync_log_id: Option<String>,
    /// Server date: the form's `received_on`.
    pub server_date: DateTime<Utc>,
    /// Phone date.
    pub client_date: Option<DateTime<Utc>>,
    /// Bit flags.
    pub kind: i16,
    /// Revoked.
    pub revoked: bool,
    /// JSON object text.
    pub details: String,
}

/// `form_processor_ledgervalue`, without its case id and domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerValueRow {
    /// Entry: the product.
    pub entry_id: String,
    /// Section.
    pub section_id: String,
    /// Balance.
    pub balance: i32,
    /// Last modified.
    pub last_modified: DateTime<Utc>,
    /// By which form.
    pub last_modified_form_id: Option<String>,
}

/// `form_processor_ledgertransaction`, without its case id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerTransactionRow {
    /// Form.
    pub form_id: String,
    /// Server date.
    pub server_date: DateTime<Utc>,
    /// Report date.
    pub report_date: DateTime<Utc>,
    /// 1 balance, 2 transfer.
    pub kind: i16,
    /// Entry.
    pub entry_id: String,
    /// Section.
    pub section_id: String,
    /// Sub-type, at most 20 characters.
    pub user_defined_type: Option<String>,
    /// Change.
    pub delta: i64,
    /// Balance after it.
    pub updated_balance: i64,
}

/// A case with all of its rows; they live on one shard and are written in one transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct CaseBundle {
    /// The case.
    pub case: CaseRow,
    /// Its indices, in the order of their making.
    pub indices: Vec<IndexRow>,
    /// Its attachments.
    pub attachments: Vec<AttachmentRow>,
    /// Its transactions, in replay order.
    pub transactions: Vec<TransactionRow>,
    /// Its ledgers.
    pub ledger_values: Vec<LedgerValueRow>,
    /// Their transactions, in replay order.
    pub ledger_transactions: Vec<LedgerTransactionRow>,
}

/// Why a form was refused by a replay: an error that depends on other forms, so that only the replay can see it. The form
/// stage's own errors never reach a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RejectReason {
    /// The case's id belongs to a case of another domain (HQ: `IllegalCaseId`).
    ForeignCase,
    /// The case would have no owner: no block and no form names a user (HQ: NULL in a NOT NULL column).
    NoOwner,
    /// `date_opened` that cannot be read.
    BadOpenedOn,
    /// A case attachment whose `src` is not an attachment of the form (HQ: `AttachmentNotFound`).
    AttachmentNotFound,
    /// A value longer than its column, where HQ does not cut, or a number that its column cannot hold.
    ValueTooLong,
    /// A value of a type that its column cannot hold (an object where text is needed, a quantity that is no number).
    BadValue,
    /// Text that PostgreSQL cannot hold (NUL).
    UnstorableText,
    /// A form changes ledgers of a case that no form before it made, and that it does not make itself (HQ:
    /// `IllegalCaseId`).
    UnknownCase,
    /// A form removes an index and sets it again (HQ: a unique key is violated, and the form is lost).
    IndexConflict,
}

impl RejectReason {
    /// Stable code, listed in `docs/errors.md`.
    pub const fn code(self) -> &'static str {
        match self {
            Self::ForeignCase => "C2S-2101",
            Self::NoOwner => "C2S-2102",
            Self::BadOpenedOn => "C2S-2103",
            Self::AttachmentNotFound => "C2S-2104",
            Self::ValueTooLong => "C2S-2105",
            Self::BadValue => "C2S-2106",
            Self::UnstorableText => "C2S-2107",
            Self::UnknownCase => "C2S-2108",
            Self::IndexConflict => "C2S-2109",
        }
    }
}
