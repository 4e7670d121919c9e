//! Forms and blocks for tests, with as little text as the rule under test needs.

use casemodel::{Mode, Options, ReplayInput, Replayed, replay};
use chrono::{DateTime, Utc};
use proto::effects::{
    AttachmentChange, AttachmentFacts, BlockVersion, CaseAction, CaseEvent, CaseUpdate, FormEffects, FormFacts,
    IndexChange, KnownProperty, LedgerKind, LedgerUpdate, PropertyValue, Relationship,
};
use proto::ids::{CaseId, Domain};
use proto::rows::{CaseBundle, RejectReason};

pub(crate) fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

/// A minute of the day on which everything in these tests happens.
pub(crate) fn minute(minute: u32) -> DateTime<Utc> {
    at(&format!("2019-03-02T{:02}:{:02}:00Z", minute / 60, minute % 60))
}

/// A form received at the given minute by user `form-user`, whose blocks carry dates an hour later on the phone's clock.
pub(crate) fn form(id: &str, received: u32, updates: Vec<CaseUpdate>) -> FormEffects {
    FormEffects {
        form: FormFacts {
            form_id: id.into(),
            xmlns: "http://openrosa.org/formdesigner/visit".to_owned(),
            user_id: Some("form-user".to_owned()),
            received_on: minute(received),
            sync_token: Some(format!("sync-{id}")),
            attachments: Vec::new(),
        },
        updates,
        ledgers: Vec::new(),
    }
}

pub(crate) fn block(actions: Vec<CaseAction>) -> CaseUpdate {
    CaseUpdate {
        version: BlockVersion::V2,
        user_id: Some("block-user".to_owned()),
        modified_on: Some(minute(600)),
        actions,
    }
}

pub(crate) fn text(value: &str) -> PropertyValue {
    PropertyValue::Text(value.to_owned())
}

pub(crate) fn json(value: &str) -> PropertyValue {
    PropertyValue::Json(value.to_owned())
}

pub(crate) fn create(known: &[(KnownProperty, &str)]) -> CaseAction {
    CaseAction::Create(known.iter().map(|(property, value)| (*property, text(value))).collect())
}

pub(crate) fn update(dynamic: &[(&str, &str)]) -> CaseAction {
    let dynamic = dynamic
        .iter()
        .map(|(key, value)| ((*key).to_owned(), text(value)))
        .collect();
    CaseAction::Update {
        known: Vec::new(),
        dynamic,
    }
}

pub(crate) fn known(properties: &[(KnownProperty, PropertyValue)]) -> CaseAction {
    CaseAction::Update {
        known: properties.to_vec(),
        dynamic: Vec::new(),
    }
}

pub(crate) fn index(identifier: &str, referenced_id: &str) -> CaseAction {
    CaseAction::Index(vec![IndexChange {
        identifier: identifier.to_owned(),
        referenced_type: "household".to_owned(),
        referenced_id: referenced_id.to_owned(),
        relationship: Relationship::Child,
    }])
}

pub(crate) fn attachment(identifier: &str, src: Option<&str>, from: Option<&str>) -> CaseAction {
    CaseAction::Attachment(vec![AttachmentChange {
        identifier: identifier.to_owned(),
        src: src.map(str::to_owned),
        from: from.map(str::to_owned),
        name: None,
    }])
}

pub(crate) fn blob(name: &str, key: &str) -> AttachmentFacts {
    AttachmentFacts {
        name: name.to_owned(),
        key: key.to_owned(),
        content_length: Some(1234),
        content_type: None,
        properties: Some(r#"{"width":1}"#.to_owned()),
    }
}

/// An instruction for the ledger (stock, product), reported at minute 0.
pub(crate) fn ledger(kind: LedgerKind, quantity: &str) -> LedgerUpdate {
    LedgerUpdate {
        section_id: "stock".to_owned(),
        entry_id: "product".to_owned(),
        kind,
        quantity: quantity.to_owned(),
        report_date: minute(0),
        user_defined_type: None,
    }
}

/// A form that changes ledgers and has no block.
pub(crate) fn stock(id: &str, received: u32, ledgers: Vec<LedgerUpdate>) -> FormEffects {
    FormEffects {
        ledgers,
        ..form(id, received, Vec::new())
    }
}

/// A replay of the forms of case `c-1` of domain `demo`.
#[derive(Clone)]
pub(crate) struct Run {
    pub(crate) forms: Vec<FormEffects>,
    pub(crate) events: Vec<CaseEvent>,
    pub(crate) mode: Mode,
    pub(crate) case_attachments: bool,
}

pub(crate) fn run(forms: Vec<FormEffects>) -> Run {
    Run {
        forms,
        events: Vec::new(),
        mode: Mode::AsProcessed,
        case_attachments: false,
    }
}

impl Run {
    pub(crate) fn replay(&self) -> Replayed {
        replay(ReplayInput {
            domain: &Domain::new("demo"),
            case_id: &CaseId::new("c-1"),
            forms: self.forms.clone(),
            events: self.events.clone(),
            options: Options {
                case_attachments: self.case_attachments,
            },
            mode: self.mode,
        })
    }

    /// The rows of a replay in which nothing went wrong.
    pub(crate) fn bundle(&self) -> CaseBundle {
        let replayed = self.replay();
        assert_eq!(replayed.rejected, []);
        assert_eq!(replayed.errors, []);
        replayed.bundle.unwrap()
    }

    /// The rejected forms, as text.
    pub(crate) fn rejected(&self) -> Vec<(String, RejectReason)> {
        self.replay()
            .rejected
            .into_iter()
            .map(|(id, reason)| (id.into_string(), reason))
            .collect()
    }
}
