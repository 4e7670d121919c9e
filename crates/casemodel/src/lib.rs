//! What forms did to a case, as rows of SQL: the replay.
//!
//! Everything goes through [`replay`]. It takes the staged effects of all accepted forms on one case, together with the
//! events that have a fixed place in its history, puts the forms in replay order, applies their case blocks one after the
//! other as HQ's SQL processor does, and gives the case with its indices, attachments and transactions:
//!
//! ```text
//!   forms, events --> order --> for each form: draft + indices + attachments --> columns fit? --> transaction
//!                                                                     \--> no: the form is rejected, and leaves no trace
//!   CommCareCase-Deleted --> no form built the case: copied document;  else: the replayed row, marked deleted
//!   judged to be only in SQL --> marked deleted, or none, unless another form has come since
//! ```
//!
//! * `order`: which form comes when, and the dates that keep a corrected order; [`sort_order`]: when one is wanted;
//! * `draft`: the columns and properties of the case while forms are applied to it;
//! * `indices`, `attachments`: its children;
//! * `ledgers`, `quantity`: its ledgers, and the numbers they are computed with;
//! * [`checkpoint`]: what the forms of a case have come to, for a later replay to go on from;
//! * `columns`: what a column can hold;
//! * `copied`: a deleted case taken over from its Couch document;
//! * [`couch_rebuild`]: a Couch case as Couch itself would make it anew from its forms, to be compared with SQL's;
//! * [`pyjson`]: JSON as Python writes it, for the columns that hold JSON text.
//!
//! The same inputs give the same rows: no clock, random number or input order decides anything here.

use proto::effects::{CaseEvent, CaseFate, CaseUpdate, FormEffects, FormFacts};
use proto::ids::{CaseId, Domain, FormId};
use proto::rows::{CaseBundle, IndexRow, RejectReason, TransactionRow};
use serde::{Deserialize, Serialize};

mod attachments;
pub mod checkpoint;
mod columns;
mod copied;
pub mod couch_rebuild;
mod draft;
mod error;
mod indices;
mod iso8601;
mod ledgers;
mod order;
pub mod pyjson;
mod quantity;
pub mod sort_order;
mod transactions;

pub use error::{CaseError, FieldProblem};

use attachments::Attachments;
use checkpoint::Checkpoint;
use draft::Draft;
use indices::IndexSession;
use ledgers::Ledgers;

/// HQ has two ways from forms to a case, and they do not always meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Form after form, saved after each: what processing gives.
    AsProcessed,
    /// The saved case reset and all forms applied again before one save: what a rebuild gives. Texts that no form set are
    /// `""` instead of NULL, and an index that an earlier form made and a later one removed comes back, since only saved
    /// index rows can be removed. Ledgers are computed anew from their whole numbers, by report date. The rebuild's own
    /// transaction is not part of the result: its time and its reason belong to whoever asks for the rebuild.
    AsRebuilt,
}

/// What of a domain's settings decides a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Whether case attachments are kept (HQ's toggle `MM_CASE_PROPERTIES`). Without it they only mark the transaction.
    pub case_attachments: bool,
}

/// All that a replay of one case depends on.
#[derive(Clone, Debug)]
pub struct ReplayInput<'a> {
    /// Domain of the case.
    pub domain: &'a Domain,
    /// The case.
    pub case_id: &'a CaseId,
    /// Effects of its accepted forms, in any order, each form once.
    pub forms: Vec<FormEffects>,
    /// Events of the case. Of several of one kind the last counts.
    pub events: Vec<CaseEvent>,
    /// The domain's settings.
    pub options: Options,
    /// Which of HQ's two ways to go.
    pub mode: Mode,
}

/// What a replay gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Replayed {
    /// The case; none when nothing built it, or when `errors` say why not.
    pub bundle: Option<CaseBundle>,
    /// Forms that were found in error, in replay order. The bundle is what the others gave.
    pub rejected: Vec<(FormId, RejectReason)>,
    /// What is wrong with the case itself.
    pub errors: Vec<CaseError>,
}

/// The case as it stands after some forms.
#[derive(Clone, Debug, Default)]
struct Case {
    draft: Draft,
    indices: Vec<IndexRow>,
    attachments: Attachments,
    transactions: Vec<TransactionRow>,
}

/// Replays the forms of one case.
///
/// A form that cannot be applied is reported and leaves no trace in the rest: the others are applied as if it had never
/// been.
pub fn replay(input: ReplayInput<'_>) -> Replayed {
    replay_keeping(input, usize::MAX).0
}

/// As [`replay`], with the checkpoint behind the last form of a case that has so many forms, if a later replay may go on
/// from there.
pub fn replay_keeping(input: ReplayInput<'_>, checkpoint_from: usize) -> (Replayed, Option<Checkpoint>) {
    let ReplayInput {
        domain,
        case_id,
        forms,
        events,
        options,
        mode,
    } = input;
    let mut seed = None;
    let mut wanted_order = None;
    let mut fate = None;
    for event in &events {
        match event {
            CaseEvent::CopiedDeleted { doc, staged_on } => seed = Some((doc.as_str(), *staged_on)),
            CaseEvent::OrderOverride { form_ids } => wanted_order = Some(form_ids.as_slice()),
            CaseEvent::OnlyInSql { form_ids, fate: judged } => {
                let is_of_these = forms.iter().all(|effects| form_ids.contains(&effects.form.form_id));
                fate = is_of_these.then_some(*judged);
            }
            // No row of the replay holds it: it is written once the ledger has its row.
            CaseEvent::LedgerCorrection { .. } => {}
        }
    }
    let forms = order::sorted(forms);
    let mut processed = process(Processed::default(), case_id, &forms, options);
    let is_plain = events.is_empty() && mode == Mode::AsProcessed;
    let checkpoint = (is_plain && forms.len() >= checkpoint_from)
        .then(|| Checkpoint::behind(&processed, 0, options))
        .flatten();
    let rejected = std::mem::take(&mut processed.rejected);
    let mut errors = Vec::new();
    let bundle = processed.into_built().map(|mut built| {
        if let Some(wanted) = wanted_order {
            errors.extend(built.reorder(case_id, wanted, options).err());
        }
        if mode == Mode::AsRebuilt {
            errors.extend(built.rebuild(case_id, options).err());
        }
        built.into_bundle(domain, case_id)
    });
    let bundle = match seed {
        None => only_in_sql(bundle, fate),
        // Couch has the case after all, deleted.
        Some((doc, staged_on)) => match copied::deleted_case(domain, case_id, doc, staged_on, bundle) {
            Ok(bundle) => Some(bundle),
            Err(error) => {
                errors.push(error);
                None
            }
        },
    };
    let replayed = Replayed {
        bundle,
        rejected,
        errors,
    };
    (replayed, checkpoint)
}

/// The case as it was judged that only SQL has it.
fn only_in_sql(bundle: Option<CaseBundle>, fate: Option<CaseFate>) -> Option<CaseBundle> {
    match fate {
        None => bundle,
        Some(CaseFate::Removed) => None,
        Some(CaseFate::SoftDeleted { on }) => bundle.map(|mut bundle| {
            bundle.case.deleted = true;
            bundle.case.deleted_on = Some(on);
            bundle.case.server_modified_on = on;
            bundle
        }),
    }
}

/// What came of the forms one after the other.
#[derive(Default)]
struct Processed<'a> {
    /// None when no form made the case.
    case: Option<Case>,
    ledgers: Ledgers,
    accepted: Vec<&'a FormEffects>,
    rejected: Vec<(FormId, RejectReason)>,
}

impl<'a> Processed<'a> {
    fn into_built(self) -> Option<Built<'a>> {
        self.case.map(|case| Built {
            case,
            ledgers: self.ledgers,
            accepted: self.accepted,
        })
    }
}

/// Applies form after form to what there is, with a save after each.
fn process<'a>(
    mut processed: Processed<'a>,
    case_id: &CaseId,
    forms: &'a [FormEffects],
    options: Options,
) -> Processed<'a> {
    for effects in forms {
        let applied = apply_form(case_id, processed.case.as_ref(), effects, options)
            .and_then(|next| Ok((next, processed.ledgers.of_form(effects)?)));
        match applied {
            Ok((next, ledgers)) => {
                processed.case = Some(next.with_transaction(processed.case, effects));
                processed.ledgers.save(ledgers);
                processed.accepted.push(effects);
            }
            Err(reason) => processed.rejected.push((effects.form.form_id.clone(), reason)),
        }
    }
    processed
}

/// A case that forms built, and the forms.
struct Built<'a> {
    case: Case,
    ledgers: Ledgers,
    accepted: Vec<&'a FormEffects>,
}

impl Built<'_> {
    /// Applies the accepted forms again in another order, and dates their transactions so that the order stays. Whether a
    /// form is accepted, and what it does to ledgers, is decided by the ordinary order alone: in HQ forms are processed in
    /// that order first, and only the case is then rebuilt in the other.
    fn reorder(&mut self, case_id: &CaseId, wanted: &[FormId], options: Options) -> Result<(), CaseError> {
        let accepted = order::as_wanted(&self.accepted, wanted);
        // The case is there already, so that a form which changes nothing but ledgers may come first.
        let mut case = Case::default();
        for effects in &accepted {
            let next = apply_form(case_id, Some(&case), effects, options).map_err(|_| CaseError::OrderFails)?;
            case = next.with_transaction(Some(case), effects);
        }
        order::make_dates_ascend(&mut case.transactions);
        (self.case, self.accepted) = (case, accepted);
        Ok(())
    }

    /// Resets the saved case and applies all of its forms again, with one save at the end. Ledgers are computed anew from
    /// their transactions.
    fn rebuild(&mut self, case_id: &CaseId, options: Options) -> Result<(), CaseError> {
        let case = rebuilt(case_id, &self.case, &self.accepted, options).map_err(|_| CaseError::RebuildFails)?;
        let ledgers = self.ledgers.clone().recomputed().ok_or(CaseError::RebuildFails)?;
        (self.case, self.ledgers) = (case, ledgers);
        Ok(())
    }

    fn into_bundle(self, domain: &Domain, case_id: &CaseId) -> CaseBundle {
        let Case {
            draft,
            indices,
            attachments,
            transactions,
        } = self.case;
        let (ledger_values, ledger_transactions) = self.ledgers.into_rows();
        CaseBundle {
            case: draft.into_row(domain, case_id, transactions.last().map(|last| last.server_date)),
            indices,
            attachments: attachments.into_rows(),
            transactions,
            ledger_values,
            ledger_transactions,
        }
    }
}

/// One form, applied to the case as saved before it; everything but the transactions.
fn apply_form(
    case_id: &CaseId,
    saved: Option<&Case>,
    effects: &FormEffects,
    options: Options,
) -> Result<Case, RejectReason> {
    columns::fits(case_id.as_str())?;
    let (draft, indices, attachments) = match saved {
        Some(case) => (case.draft.clone(), case.indices.clone(), case.attachments.clone()),
        // A ledger alone does not make a case.
        None if effects.updates.is_empty() => return Err(RejectReason::UnknownCase),
        None => (Draft::default(), Vec::new(), Attachments::default()),
    };
    let mut work = Work {
        case_id,
        draft,
        session: IndexSession::over(indices),
        attachments,
    };
    for update in &effects.updates {
        work.apply(&effects.form, update, options)?;
    }
    work.draft.check()?;
    columns::fits_option(effects.form.sync_token.as_deref())?;
    Ok(Case {
        draft: work.draft,
        indices: work.session.save()?,
        attachments: work.attachments,
        transactions: Vec::new(),
    })
}

/// The saved case, reset, with all of its forms applied again and one save at the end.
fn rebuilt(case_id: &CaseId, saved: &Case, accepted: &[&FormEffects], options: Options) -> Result<Case, RejectReason> {
    let mut work = Work {
        case_id,
        draft: saved.draft.reset(),
        session: IndexSession::over(saved.indices.clone()),
        attachments: Attachments::default(),
    };
    for effects in accepted {
        for update in &effects.updates {
            work.apply(&effects.form, update, options)?;
        }
    }
    work.draft.check()?;
    Ok(Case {
        draft: work.draft,
        indices: work.session.save_touched()?,
        attachments: work.attachments,
        transactions: saved.transactions.clone(),
    })
}

/// A case between two saves.
struct Work<'a> {
    case_id: &'a CaseId,
    draft: Draft,
    session: IndexSession,
    attachments: Attachments,
}

impl Work<'_> {
    fn apply(&mut self, form: &FormFacts, update: &CaseUpdate, options: Options) -> Result<(), RejectReason> {
        use proto::effects::CaseAction::{Attachment, Close, Create, Index, Noop, Update};

        let block = draft::Block::of(form, update);
        for action in &update.actions {
            match action {
                Create(known) => self.draft.set_known(known, &block)?,
                Update { known, dynamic } => {
                    self.draft.set_known(known, &block)?;
                    self.draft.set_dynamic(dynamic)?;
                }
                Close => self.draft.close(&block),
                Index(changes) => changes.iter().for_each(|change| self.session.change(change)),
                Attachment(changes) if options.case_attachments => {
                    for change in changes {
                        self.attachments.change(self.case_id, form, change)?;
                    }
                }
                Attachment(_) | Noop => {}
            }
        }
        self.draft.finish_block(&block);
        Ok(())
    }
}

impl Case {
    /// The case with the transactions of the case before it and that of the form. They are moved along instead of copied
    /// with every form.
    fn with_transaction(self, before: Option<Self>, effects: &FormEffects) -> Self {
        let mut transactions = before.map(|case| case.transactions).unwrap_or_default();
        transactions.push(transactions::of_form(effects));
        Self { transactions, ..self }
    }
}
