//! The record of which form did what to a case.

use proto::effects::{CaseAction, FormEffects};
use proto::rows::TransactionRow;

use crate::draft;

/// A form touched the case.
pub(crate) const FORM: i16 = 1;
/// Rebuilt for a reason given in the details.
pub(crate) const REBUILD_WITH_REASON: i16 = 2;
/// The form changed a ledger of the case.
pub(crate) const LEDGER: i16 = 64;
/// The form has a create part.
pub(crate) const CREATE: i16 = 128;
/// The form has a close part.
pub(crate) const CLOSE: i16 = 256;
/// The form has an index part.
pub(crate) const INDEX: i16 = 512;
/// The form has an attachment part.
pub(crate) const ATTACHMENT: i16 = 1024;

/// The transaction of one form: the parts of all its blocks for this case in one row. A form that touches the case by its
/// ledgers alone has neither a sync token nor a phone date.
///
/// The phone date is that of the last block, which is also the one that HQ's own merging of transactions would leave.
pub(crate) fn of_form(effects: &FormEffects) -> TransactionRow {
    let form = &effects.form;
    let mut kind = FORM;
    for action in effects.updates.iter().flat_map(|update| &update.actions) {
        kind |= match action {
            CaseAction::Create(_) => CREATE,
            CaseAction::Close => CLOSE,
            CaseAction::Index(_) => INDEX,
            CaseAction::Attachment(_) => ATTACHMENT,
            CaseAction::Update { .. } | CaseAction::Noop => 0,
        };
    }
    if effects.updates.is_empty() || !effects.ledgers.is_empty() {
        kind |= LEDGER;
    }
    let last = effects.updates.last();
    TransactionRow {
        form_id: Some(form.form_id.as_str().to_owned()),
        sync_log_id: last.and_then(|_| form.sync_token.clone()),
        server_date: form.received_on,
        client_date: last.map(|update| draft::modified_on(form, update)),
        kind,
        revoked: false,
        details: "{}".to_owned(),
    }
}
