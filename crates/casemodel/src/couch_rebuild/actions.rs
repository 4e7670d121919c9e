//! Actions: what each part of a case block does, and the order in which Couch applies them.

use std::cmp::Ordering;

use chrono::{DateTime, TimeDelta, Utc};
use proto::effects::{AttachmentChange, CaseAction, IndexChange, KnownProperty, PropertyValue};

use super::{CouchForm, python_sort};

/// Forms of one user that were received within this time of each other go by the phone's clock.
const SIGNIFICANT_HOURS: i64 = 12;

/// An action of a form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Action<'a> {
    pub(super) form: &'a CouchForm,
    pub(super) kind: Kind<'a>,
    pub(super) user_id: Option<&'a str>,
    /// The phone's date.
    pub(super) date: DateTime<Utc>,
}

/// What an action does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind<'a> {
    Create(&'a [(KnownProperty, PropertyValue)]),
    /// A block without any part is one that changes nothing.
    Update(&'a [(KnownProperty, PropertyValue)], &'a [(String, PropertyValue)]),
    Index(&'a [IndexChange]),
    Close,
    Attachment(&'a [AttachmentChange]),
    /// A form changed ledgers of the case: no more than a mark.
    Ledger,
}

impl Kind<'_> {
    /// The type of the action that tells of a rebuild.
    pub(super) const REBUILD: &'static str = "rebuild";

    /// Its `action_type`.
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Update(..) => "update",
            Self::Index(_) => "index",
            Self::Close => "close",
            Self::Attachment(_) => "attachment",
            Self::Ledger => "commtrack",
        }
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Create(_) => 0,
            Self::Update(..) => 1,
            Self::Index(_) => 2,
            Self::Close => 3,
            Self::Attachment(_) => 4,
            Self::Ledger => 5,
        }
    }
}

/// The actions of the forms in the order in which Couch applies them. `forms` are in the order of their receipt.
pub(super) fn in_couch_order(forms: &[CouchForm]) -> Vec<Action<'_>> {
    let mut actions: Vec<Action<'_>> = forms.iter().flat_map(of_form).collect();
    python_sort::sort_by(&mut actions, |one, other| compare(one, other) == Ordering::Less);
    actions
}

fn of_form(form: &CouchForm) -> impl Iterator<Item = Action<'_>> {
    let by_form = form.user_id.as_deref().filter(|user| !user.is_empty());
    let blocks = form.updates.iter().flat_map(move |update| {
        let by_block = update.user_id.as_deref().filter(|user| !user.is_empty());
        update.actions.iter().map(move |action| Action {
            form,
            kind: kind(action),
            user_id: by_block.or(by_form),
            date: update.modified_on.unwrap_or(form.received_on),
        })
    });
    let ledger = form.changes_ledgers.then_some(Action {
        form,
        kind: Kind::Ledger,
        user_id: by_form,
        date: form.received_on,
    });
    blocks.chain(ledger)
}

fn kind(action: &CaseAction) -> Kind<'_> {
    match action {
        CaseAction::Create(known) => Kind::Create(known),
        CaseAction::Update { known, dynamic } => Kind::Update(known, dynamic),
        CaseAction::Noop => Kind::Update(&[], &[]),
        CaseAction::Index(changes) => Kind::Index(changes),
        CaseAction::Close => Kind::Close,
        CaseAction::Attachment(changes) => Kind::Attachment(changes),
    }
}

/// Couch's comparison. It is no order: by different users the date of receipt decides, by the same user the phone's date
/// may, so that three actions can go in a circle.
fn compare(one: &Action<'_>, other: &Action<'_>) -> Ordering {
    let by_receipt = || one.form.received_on.cmp(&other.form.received_on);
    if one.user_id != other.user_id {
        return by_receipt();
    }
    let by_type = || one.kind.rank().cmp(&other.kind.rank());
    if one.form.form_id == other.form.form_id {
        return by_type();
    }
    if (one.form.received_on - other.form.received_on).abs() > TimeDelta::hours(SIGNIFICANT_HOURS) {
        return by_receipt();
    }
    // Between the two Couch looks at the order of `xform_ids`, which a rebuild has emptied.
    one.date.cmp(&other.date).then_with(by_type)
}
