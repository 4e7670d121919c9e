//! Checkpoints: what the forms of a case have come to, for a later replay to go on from.
//!
//! Every form is applied to what the ones before it left. A replay can therefore go on from where an earlier one ended, as
//! long as nothing before has changed and every new form stands behind the last one: it then costs what the new forms cost,
//! and comes to the same. Whether something before has changed is for the caller to know; the order is checked here. A case
//! with an event, or with a form that is refused, has no checkpoint.

use chrono::{DateTime, Utc};
use proto::effects::RULES_VERSION;
use proto::ids::{CaseId, Domain, FormId};
use proto::rows::{CaseRow, IndexRow, LedgerValueRow};
use serde::{Deserialize, Serialize};

use crate::attachments::Attachments;
use crate::draft::Draft;
use crate::ledgers::Ledgers;
use crate::{Case, Mode, Options, Processed, ReplayInput, Replayed, order, process};

/// Version of the rules of a replay: to be raised with every change after which the same inputs give other rows, or other
/// checkpoints. A checkpoint of another version is none.
pub const REPLAY_VERSION: i16 = 1;

/// A case after its forms, without the rows that are one per form: it grows with the case, and not with its history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    made_by: Rules,
    options: Options,
    last_received_on: DateTime<Utc>,
    last_form_id: FormId,
    forms: u64,
    draft: Draft,
    indices: Vec<IndexRow>,
    attachments: Attachments,
    ledgers: Vec<LedgerValueRow>,
}

/// All that a checkpoint depends on beside its inputs: another program is taken to have other rules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Rules {
    program: String,
    replay: i16,
    staged: i16,
}

impl Rules {
    fn present() -> Self {
        Self {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            replay: REPLAY_VERSION,
            staged: RULES_VERSION,
        }
    }
}

impl Checkpoint {
    /// Forms that it stands for.
    pub fn forms(&self) -> u64 {
        self.forms
    }

    /// Bytes to keep it in; none if it could not be read back as it is.
    pub fn encode(&self) -> Option<Vec<u8>> {
        // As JSON, like the properties in it, so that numbers keep all their digits.
        let bytes = serde_json::to_vec(self).ok()?;
        (serde_json::from_slice::<Self>(&bytes).ok()? == *self).then_some(bytes)
    }

    /// From the bytes; none if other rules wrote them.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let checkpoint: Self = serde_json::from_slice(bytes).ok()?;
        (checkpoint.made_by == Rules::present()).then_some(checkpoint)
    }

    /// The row of the case as it was when the checkpoint was made.
    pub fn case_row(&self, domain: &Domain, case_id: &CaseId) -> CaseRow {
        let draft = self.draft.clone();
        draft.into_row(domain, case_id, Some(self.last_received_on))
    }

    /// The checkpoint behind all forms of a replay that refused none of them; none for any other.
    pub(crate) fn behind(processed: &Processed<'_>, before: u64, options: Options) -> Option<Self> {
        let (case, last) = (processed.case.as_ref()?, processed.accepted.last()?);
        processed.rejected.is_empty().then(|| Self {
            made_by: Rules::present(),
            options,
            last_received_on: last.form.received_on,
            last_form_id: last.form.form_id.clone(),
            forms: before + processed.accepted.len() as u64,
            draft: case.draft.clone(),
            indices: case.indices.clone(),
            attachments: case.attachments.clone(),
            ledgers: processed.ledgers.values(),
        })
    }

    fn is_before(&self, received_on: DateTime<Utc>, form_id: &FormId) -> bool {
        (self.last_received_on, self.last_form_id.as_str()) < (received_on, form_id.as_str())
    }
}

/// Replays new forms on a checkpoint. The bundle has the transactions of the new forms only, of the case and of its ledgers;
/// everything else is whole. None: all inputs are needed, since a form does not stand behind the checkpoint's last one, there
/// is an event, a form is refused, nothing is new, or the domain's settings have changed.
pub fn replay_on(checkpoint: &Checkpoint, input: ReplayInput<'_>) -> Option<(Replayed, Checkpoint)> {
    let ReplayInput {
        domain,
        case_id,
        forms,
        events,
        options,
        mode,
    } = input;
    let is_usable = checkpoint.options == options
        && mode == Mode::AsProcessed
        && events.is_empty()
        && !forms.is_empty()
        && forms
            .iter()
            .all(|effects| checkpoint.is_before(effects.form.received_on, &effects.form.form_id));
    if !is_usable {
        return None;
    }
    let forms = order::sorted(forms);
    let start = Processed {
        case: Some(Case {
            draft: checkpoint.draft.clone(),
            indices: checkpoint.indices.clone(),
            attachments: checkpoint.attachments.clone(),
            transactions: Vec::new(),
        }),
        ledgers: Ledgers::of_values(checkpoint.ledgers.clone()),
        ..Processed::default()
    };
    let processed = process(start, case_id, &forms, options);
    let next = Checkpoint::behind(&processed, checkpoint.forms, options)?;
    let bundle = processed.into_built().map(|built| built.into_bundle(domain, case_id));
    let replayed = Replayed {
        bundle,
        ..Replayed::default()
    };
    Some((replayed, next))
}
