//! What one form does to one case: the form stage reads it out of the form's XML and stages it, the case stage replays it.
//!
//! Everything a replay needs of a form is here, so that the case stage never reads a form again. Staged payloads are
//! MessagePack with named fields, and carry [`RULES_VERSION`].

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::FormId;

/// Version of the document rules that produced a staged payload. A migration is not committed with a mixture.
pub const RULES_VERSION: i16 = 2;

/// All that a form does to one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FormEffects {
    /// What the replay must know of the form itself.
    pub form: FormFacts,
    /// The form's case blocks for this case, in the order in which HQ applies them. Empty when the form touches the case
    /// only by its ledgers.
    pub updates: Vec<CaseUpdate>,
    /// Ledger instructions of the form for this case, in form order.
    pub ledgers: Vec<LedgerUpdate>,
}

/// The facts of a form that its cases depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FormFacts {
    /// The form's id.
    pub form_id: FormId,
    /// Its namespace, `""` when absent.
    pub xmlns: String,
    /// `user_id` column of the form: the fallback user of its case blocks.
    pub user_id: Option<String>,
    /// When HQ received it; decides the replay order and `server_date`.
    pub received_on: DateTime<Utc>,
    /// Sync token, copied to the case transaction.
    pub sync_token: Option<String>,
    /// Attachments by name, for case attachments that refer to them.
    pub attachments: Vec<AttachmentFacts>,
}

/// One attachment of a form, as its blob metadata describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttachmentFacts {
    /// Attachment name in the form.
    pub name: String,
    /// Blob key.
    pub key: String,
    /// Plain length in bytes.
    pub content_length: Option<i64>,
    /// Media type.
    pub content_type: Option<String>,
    /// `properties` of the blob metadata: JSON text.
    pub properties: Option<String>,
}

/// One case block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseUpdate {
    /// Version of the block's syntax.
    pub version: BlockVersion,
    /// `user_id` of the block; empty counts as none.
    pub user_id: Option<String>,
    /// The block's date, already read as HQ's `guess_modified_on` does. `None`: the block has none (HQ would take the
    /// time of processing; the replay takes `received_on`).
    pub modified_on: Option<DateTime<Utc>>,
    /// Actions in the order in which they are applied: create, update, close, index, attachment; a block without any of
    /// these is one [`CaseAction::Noop`].
    pub actions: Vec<CaseAction>,
}

/// Syntax of a case block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockVersion {
    /// The legacy syntax, with ids in elements.
    V1,
    /// The namespace `http://commcarehq.org/case/transaction/v2`.
    V2,
}

/// One part of a case block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CaseAction {
    /// `create`: known properties only.
    Create(Vec<(KnownProperty, PropertyValue)>),
    /// `update`: known properties, then dynamic ones in document order.
    Update {
        /// Properties with a column.
        known: Vec<(KnownProperty, PropertyValue)>,
        /// Everything else, as (name, value); a repeated element has been reduced to its last value.
        dynamic: Vec<(String, PropertyValue)>,
    },
    /// `close`.
    Close,
    /// `index`: entries in document order.
    Index(Vec<IndexChange>),
    /// `attachment`: entries in document order.
    Attachment(Vec<AttachmentChange>),
    /// A block without any part.
    Noop,
}

/// A property of a case block that has a column in SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KnownProperty {
    /// `case_type` (V2) or `case_type_id` (V1).
    Type,
    /// `case_name`.
    Name,
    /// `external_id`.
    ExternalId,
    /// `user_id` element of a create or update: maps to `modified_by`.
    UserId,
    /// `owner_id`.
    OwnerId,
    /// `date_opened`.
    OpenedOn,
}

/// A property's value as the form JSON has it: text, or for odd forms an object or a list. Kept as JSON text, since
/// MessagePack has no use for it and the replay seldom looks inside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PropertyValue {
    /// The ordinary case.
    Text(String),
    /// JSON text of an object or a list (an element with attributes or children, or a repeated known property).
    Json(String),
}

impl PropertyValue {
    /// From a value of the form JSON.
    pub fn from_json(value: &Value) -> Self {
        match value {
            Value::String(text) => Self::Text(text.clone()),
            other => Self::Json(other.to_string()),
        }
    }

    /// Back to JSON.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => Value::String(text.clone()),
            // Unwrap safety: only `from_json` writes this variant, from a value that was JSON.
            Self::Json(json) => serde_json::from_str(json).unwrap_or(Value::Null),
        }
    }
}

/// One entry of an `index` part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexChange {
    /// Name of the index.
    pub identifier: String,
    /// Type of the referenced case.
    pub referenced_type: String,
    /// Referenced case; empty removes the index.
    pub referenced_id: String,
    /// Relationship.
    pub relationship: Relationship,
}

/// How an index binds a case to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Relationship {
    /// Child; the default.
    Child,
    /// Extension.
    Extension,
}

impl Relationship {
    /// `relationship_id` in SQL.
    pub const fn id(self) -> i16 {
        match self {
            Self::Child => 1,
            Self::Extension => 2,
        }
    }

    /// The relationship with this `relationship_id`.
    pub const fn from_id(id: i16) -> Option<Self> {
        match id {
            1 => Some(Self::Child),
            2 => Some(Self::Extension),
            _ => None,
        }
    }

    /// Its name in XML and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Child => "child",
            Self::Extension => "extension",
        }
    }
}

/// One entry of an `attachment` part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentChange {
    /// Name of the case attachment.
    pub identifier: String,
    /// `src`: the form attachment it takes its bytes from.
    pub src: Option<String>,
    /// `from`: where the phone has it (`local`, …).
    pub from: Option<String>,
    /// `name` attribute.
    pub name: Option<String>,
}

/// One change of one ledger of the case. A transfer between two cases is one of these for each of them, and one within a
/// case is two, the source first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerUpdate {
    /// Section, usually `stock`.
    pub section_id: String,
    /// Entry: the product.
    pub entry_id: String,
    /// What is done.
    pub kind: LedgerKind,
    /// Quantity as decimal text, with or without point, sign and exponent. A text that is no finite number refuses the form.
    pub quantity: String,
    /// Date of the block, or the form's `received_on` when the block has none.
    pub report_date: DateTime<Utc>,
    /// The block's `type`, when it differs from the action. Uncut.
    pub user_defined_type: Option<String>,
}

/// What a ledger instruction does to a balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LedgerKind {
    /// Sets the balance.
    Balance,
    /// Takes from the balance (source of a transfer).
    TransferOut,
    /// Adds to the balance (destination of a transfer).
    TransferIn,
}

/// An input of a replay that is not a form's staged effect. Events have a fixed position, so that every replay meets
/// them at the same place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CaseEvent {
    /// The case is soft-deleted in Couch (`CommCareCase-Deleted`): the Couch document, as JSON text, is the seed of the
    /// row when no accepted form builds the case, and the source of the deletion fields in any case.
    CopiedDeleted {
        /// JSON text of the Couch document.
        doc: String,
        /// When the document was first staged: stands in for "now" where the document has no date of its own.
        staged_on: DateTime<Utc>,
    },
    /// Replay in this order instead of by `received_on`: the diff found Couch's own order of actions.
    OrderOverride {
        /// Form ids in the wanted order.
        form_ids: Vec<FormId>,
    },
    /// Only SQL has the case, and an operator's command has judged what becomes of it.
    OnlyInSql {
        /// The forms of the case when it was judged. With any other form the judgement is void.
        form_ids: Vec<FormId>,
        /// What becomes of it.
        fate: CaseFate,
    },
    /// What a patch sets in ledgers beside its form. It changes no balance.
    LedgerCorrection {
        /// Daily consumptions, each ledger once.
        consumptions: Vec<LedgerConsumption>,
    },
}

/// What becomes of a case that only SQL has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CaseFate {
    /// It is soft-deleted, since some of its forms are in order.
    SoftDeleted {
        /// When it was judged.
        on: DateTime<Utc>,
    },
    /// It goes, since none are.
    Removed,
}

/// The daily consumption of a ledger, as Couch's side has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerConsumption {
    /// Section.
    pub section_id: String,
    /// Entry: the product.
    pub entry_id: String,
    /// A decimal number as text.
    pub daily_consumption: String,
}
