//! From durable inputs to rows: decodes what was staged, runs the model, and sorts what came of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use casemodel::checkpoint::Checkpoint;
use casemodel::{Mode, Options, ReplayInput};
use proto::effects::{CaseEvent, FormEffects, LedgerConsumption};
use proto::ids::{CaseId, Domain};
use proto::rows::{CaseBundle, RejectReason};
use service::domain_options::DomainOptions;
use service::worker::BatchFailure;
use state::case_stage::{CaseInputs, FailedCase, Verdict};

use crate::growth::{self, Growing};

/// What came of the replays of a batch.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Cases with rows.
    pub(crate) bundles: Vec<CaseBundle>,
    /// Cases that went on from a checkpoint: their transactions are those of the new forms.
    pub(crate) grown: Vec<CaseBundle>,
    /// Cases whose checkpoint does not serve: they are to be replayed from all of their inputs.
    pub(crate) anew: Vec<String>,
    /// Checkpoints of large cases, encoded.
    pub(crate) checkpoints: HashMap<String, Vec<u8>>,
    /// Cases that nothing builds: their rows go, if there are any.
    pub(crate) absent: Vec<String>,
    /// All cases that were replayed.
    pub(crate) replayed: Vec<String>,
    /// Forms refused that were not refused before.
    pub(crate) verdicts: Vec<Verdict>,
    /// Forms that a case had refused, or had begun to, and refuses no more: their rows have gone, or may have.
    pub(crate) withdrawn: Vec<String>,
    /// Cases that could not be built.
    pub(crate) failed: Vec<FailedCase>,
    /// What patches set in the ledgers of cases beside their forms.
    pub(crate) corrections: Vec<(String, LedgerConsumption)>,
}

impl Outcome {
    /// Takes in what came of other cases.
    pub(crate) fn extend(&mut self, other: Self) {
        self.bundles.extend(other.bundles);
        self.grown.extend(other.grown);
        self.anew.extend(other.anew);
        self.checkpoints.extend(other.checkpoints);
        self.absent.extend(other.absent);
        self.replayed.extend(other.replayed);
        self.verdicts.extend(other.verdicts);
        self.withdrawn.extend(other.withdrawn);
        self.failed.extend(other.failed);
        self.corrections.extend(other.corrections);
    }
}

/// What decides beside the inputs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) options: DomainOptions,
    /// Forms of a case from which on it gets a checkpoint.
    pub(crate) checkpoint_from: usize,
}

/// The inputs of one case.
#[derive(Default)]
pub(crate) struct Inputs {
    /// Accepted forms, and those that the case refused before.
    pub(crate) forms: Vec<FormEffects>,
    refused: BTreeSet<String>,
    /// Of the accepted forms, those that the case has begun to refuse.
    removing: BTreeSet<String>,
    /// Patch forms that the case has begun to refuse.
    removing_patches: BTreeSet<String>,
    pub(crate) events: Vec<CaseEvent>,
    /// What patch forms set in ledgers beside themselves.
    corrections: Vec<(String, Vec<LedgerConsumption>)>,
}

/// Replays the cases. A case whose id belongs to another domain in the target is left alone, and its forms are refused.
pub(crate) fn replay_batch(
    domain: &Domain,
    case_ids: &[String],
    inputs: CaseInputs,
    growing: &Growing,
    foreign: &[String],
    settings: Settings,
) -> Result<Outcome, BatchFailure> {
    let Settings {
        options,
        checkpoint_from,
    } = settings;
    let foreign: HashSet<&str> = foreign.iter().map(String::as_str).collect();
    let mut by_case = decode(inputs)?;
    let mut outcome = Outcome::default();
    // A form may be refused by more than one of its cases; the first in order names the reason.
    let mut refused: BTreeMap<String, Verdict> = BTreeMap::new();
    for case_id in case_ids {
        let mut inputs = by_case.remove(case_id).unwrap_or_default();
        if let Some(checkpoint) = growing.get(case_id) {
            let checkpoint = checkpoint.as_ref().filter(|_| !foreign.contains(case_id.as_str()));
            match growth::go_on(domain, case_id, checkpoint, inputs, options) {
                Some((bundle, next)) => {
                    outcome.grown.push(bundle);
                    keep(&mut outcome, case_id, &next);
                    outcome.replayed.push(case_id.clone());
                }
                None => outcome.anew.push(case_id.clone()),
            }
            continue;
        }
        outcome.replayed.push(case_id.clone());
        if foreign.contains(case_id.as_str()) {
            for effects in &inputs.forms {
                let form_id = effects.form.form_id.as_str();
                if !inputs.refused.contains(form_id) {
                    refuse(&mut refused, form_id, case_id, RejectReason::ForeignCase);
                }
            }
            continue;
        }
        for form_id in &inputs.removing_patches {
            refused
                .entry(form_id.clone())
                .or_insert_with(|| lost_patch(form_id, case_id));
        }
        let kept = |effects: &FormEffects| !inputs.removing_patches.contains(effects.form.form_id.as_str());
        inputs.forms.retain(kept);
        let input = ReplayInput {
            domain,
            case_id: &CaseId::new(case_id.clone()),
            forms: inputs.forms,
            events: inputs.events,
            options: model_options(options),
            mode: Mode::AsProcessed,
        };
        let (replayed, checkpoint) = casemodel::replay_keeping(input, checkpoint_from);
        for (form_id, reason) in &replayed.rejected {
            inputs.removing.remove(form_id.as_str());
            if !inputs.refused.remove(form_id.as_str()) {
                refuse(&mut refused, form_id.as_str(), case_id, *reason);
            }
        }
        // A patch form that is refused takes along what it sets beside itself. No two set the same: a ledger is corrected
        // where SQL has no value, and has one from then on.
        for (form_id, consumptions) in inputs.corrections {
            if !refused.contains_key(&form_id) {
                let of_case = consumptions.into_iter().map(|one| (case_id.clone(), one));
                outcome.corrections.extend(of_case);
            }
        }
        outcome.withdrawn.extend(inputs.refused);
        outcome.withdrawn.extend(inputs.removing);
        for error in &replayed.errors {
            outcome.failed.push(FailedCase {
                case_id: case_id.clone(),
                code: error.code().to_owned(),
                message: error.to_string(),
            });
        }
        place(&mut outcome, case_id, replayed.bundle, checkpoint.as_ref());
    }
    outcome.verdicts = refused.into_values().collect();
    Ok(outcome)
}

pub(crate) fn model_options(options: DomainOptions) -> Options {
    Options {
        case_attachments: options.case_attachments,
    }
}

fn keep(outcome: &mut Outcome, case_id: &str, checkpoint: &Checkpoint) {
    if let Some(bytes) = growth::encoded(checkpoint) {
        outcome.checkpoints.insert(case_id.to_owned(), bytes);
    }
}

/// A bundle is written if the tables can hold it. One that they cannot is recorded, and the case has no rows.
fn place(outcome: &mut Outcome, case_id: &str, bundle: Option<CaseBundle>, checkpoint: Option<&Checkpoint>) {
    match bundle {
        Some(bundle) => match hqsql::check_case(&bundle) {
            Ok(()) => {
                outcome.bundles.push(bundle);
                if let Some(checkpoint) = checkpoint {
                    keep(outcome, case_id, checkpoint);
                }
            }
            Err(error) => {
                outcome.failed.push(FailedCase {
                    case_id: case_id.to_owned(),
                    code: "C2S-2210".to_owned(),
                    message: error.to_string(),
                });
                outcome.absent.push(case_id.to_owned());
            }
        },
        None => outcome.absent.push(case_id.to_owned()),
    }
}

fn refuse(refused: &mut BTreeMap<String, Verdict>, form_id: &str, case_id: &str, reason: RejectReason) {
    refused.entry(form_id.to_owned()).or_insert_with(|| Verdict {
        form_id: form_id.to_owned(),
        case_id: case_id.to_owned(),
        code: reason.code().to_owned(),
        message: format!("case {case_id}: {}", describe(reason)),
    });
}

/// The removal of a patch form's row was begun, and nothing tells how far it came: the row cannot be written anew from a
/// document, and so the patch is given up.
fn lost_patch(form_id: &str, case_id: &str) -> Verdict {
    Verdict {
        form_id: form_id.to_owned(),
        case_id: case_id.to_owned(),
        code: "C2S-2390".to_owned(),
        message: format!("case {case_id}: a worker died while it removed the patch form"),
    }
}

fn describe(reason: RejectReason) -> &'static str {
    match reason {
        RejectReason::ForeignCase => "the case belongs to another domain",
        RejectReason::NoOwner => "neither the block nor the form names a user, so that the case would have no owner",
        RejectReason::BadOpenedOn => "date_opened cannot be read as a date",
        RejectReason::AttachmentNotFound => "the case attachment's source is not an attachment of the form",
        RejectReason::ValueTooLong => "a value is longer, or as a number greater, than its column holds",
        RejectReason::BadValue => "a value is of a kind that its column cannot hold",
        RejectReason::UnstorableText => "a text holds a NUL character, which PostgreSQL cannot store",
        RejectReason::UnknownCase => "the form changes ledgers of a case that neither it nor a form before it made",
        RejectReason::IndexConflict => "the form removes an index and sets it again",
    }
}

fn decode(inputs: CaseInputs) -> Result<HashMap<String, Inputs>, BatchFailure> {
    let mut by_case: HashMap<String, Inputs> = HashMap::new();
    let effects = |payload: &[u8]| {
        rmp_serde::from_slice(payload).map_err(|_| BatchFailure::defect("a staged effect cannot be read"))
    };
    for (case_id, _, payload) in inputs.staged {
        by_case.entry(case_id).or_default().forms.push(effects(&payload)?);
    }
    for (case_id, form_id, payload) in inputs.refused {
        let case = by_case.entry(case_id).or_default();
        case.forms.push(effects(&payload)?);
        case.refused.insert(form_id);
    }
    for (case_id, form_id) in inputs.removing {
        by_case.entry(case_id).or_default().removing.insert(form_id);
    }
    for (case_id, form_id) in inputs.removing_patches {
        by_case.entry(case_id).or_default().removing_patches.insert(form_id);
    }
    for (case_id, form_id, payload) in inputs.corrections {
        let Ok(CaseEvent::LedgerCorrection { consumptions }) = rmp_serde::from_slice(&payload) else {
            return Err(BatchFailure::defect("a correction of ledgers cannot be read"));
        };
        by_case
            .entry(case_id)
            .or_default()
            .corrections
            .push((form_id, consumptions));
    }
    for (case_id, payload) in inputs.events {
        let event = rmp_serde::from_slice(&payload).map_err(|_| BatchFailure::defect("a case event cannot be read"))?;
        by_case.entry(case_id).or_default().events.push(event);
    }
    Ok(by_case)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};
    use proto::effects::{BlockVersion, CaseAction, CaseUpdate, FormFacts, LedgerKind, LedgerUpdate};

    use super::*;

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
    }

    /// A form that makes the case, or one that changes only a ledger of it.
    fn form(id: &str, minute: i64, makes: bool) -> (String, String, Vec<u8>) {
        let block = CaseUpdate {
            version: BlockVersion::V2,
            user_id: Some("u".to_owned()),
            modified_on: None,
            actions: vec![CaseAction::Noop],
        };
        let ledger = LedgerUpdate {
            section_id: "stock".to_owned(),
            entry_id: "p".to_owned(),
            kind: LedgerKind::Balance,
            quantity: "7".to_owned(),
            report_date: at(minute),
            user_defined_type: None,
        };
        let effects = FormEffects {
            form: FormFacts {
                form_id: id.into(),
                xmlns: String::new(),
                user_id: None,
                received_on: at(minute),
                sync_token: None,
                attachments: Vec::new(),
            },
            updates: if makes { vec![block] } else { Vec::new() },
            ledgers: if makes { Vec::new() } else { vec![ledger] },
        };
        (
            "c".to_owned(),
            id.to_owned(),
            rmp_serde::to_vec_named(&effects).unwrap(),
        )
    }

    fn outcome(inputs: CaseInputs, foreign: &[&str]) -> Outcome {
        outcome_of(inputs, &Growing::new(), foreign)
    }

    fn outcome_of(inputs: CaseInputs, growing: &Growing, foreign: &[&str]) -> Outcome {
        let foreign: Vec<String> = foreign.iter().map(|id| (*id).to_owned()).collect();
        let settings = Settings {
            options: DomainOptions::default(),
            checkpoint_from: 3,
        };
        let case_ids = vec!["c".to_owned()];
        replay_batch(&Domain::new("d"), &case_ids, inputs, growing, &foreign, settings).unwrap()
    }

    fn verdicts(outcome: &Outcome) -> Vec<(&str, &str)> {
        let verdicts = outcome.verdicts.iter();
        verdicts
            .map(|verdict| (verdict.form_id.as_str(), verdict.code.as_str()))
            .collect()
    }

    #[test]
    fn ledgers_are_among_the_rows() {
        let inputs = CaseInputs {
            staged: vec![form("g", 2, false), form("f", 1, true)],
            ..CaseInputs::default()
        };
        let outcome = outcome(inputs, &[]);
        assert_eq!(verdicts(&outcome), []);
        let bundle = &outcome.bundles[0];
        assert_eq!((bundle.ledger_values.len(), bundle.ledger_transactions.len()), (1, 1));
        assert_eq!(bundle.case.server_modified_on, at(2));
    }

    #[test]
    fn a_form_is_refused_once() {
        let early = CaseInputs {
            staged: vec![form("g", 0, false)],
            ..CaseInputs::default()
        };
        let first = outcome(early, &[]);
        assert_eq!(verdicts(&first), [("g", "C2S-2108")]);
        assert_eq!(first.absent, ["c"]);
        let known = CaseInputs {
            staged: vec![form("f", 1, true)],
            refused: vec![form("g", 0, false)],
            ..CaseInputs::default()
        };
        let again = outcome(known, &[]);
        assert_eq!((verdicts(&again), again.withdrawn.len()), (Vec::new(), 0));
        assert!(again.bundles[0].ledger_values.is_empty());
    }

    /// The form that makes the case arrived after the one that needs it.
    #[test]
    fn a_verdict_is_taken_back_when_its_reason_is_gone() {
        let inputs = CaseInputs {
            staged: vec![form("f", 1, true)],
            refused: vec![form("g", 2, false)],
            ..CaseInputs::default()
        };
        let outcome = outcome(inputs, &[]);
        assert_eq!(outcome.withdrawn, ["g"]);
        assert_eq!(outcome.bundles[0].ledger_values.len(), 1);
    }

    /// A process died after it had removed the row of a form, and before it came to the verdict.
    #[test]
    fn a_form_that_may_have_lost_its_row_is_refused_again_or_taken_back() {
        let began = |staged| CaseInputs {
            staged,
            removing: vec![("c".to_owned(), "g".to_owned())],
            ..CaseInputs::default()
        };
        let again = outcome(began(vec![form("g", 2, false)]), &[]);
        assert_eq!(verdicts(&again), [("g", "C2S-2108")]);
        assert!(again.withdrawn.is_empty());
        let foreign = outcome(began(vec![form("g", 2, false)]), &["c"]);
        assert_eq!(verdicts(&foreign), [("g", "C2S-2101")]);
        assert!(foreign.withdrawn.is_empty());
        let accepted = outcome(began(vec![form("f", 1, true), form("g", 2, false)]), &[]);
        assert_eq!(verdicts(&accepted), []);
        assert_eq!(accepted.withdrawn, ["g"]);
        assert_eq!(accepted.bundles[0].ledger_values.len(), 1);
    }

    /// Nobody can write the row of a patch form anew: it is given up, with what it sets in ledgers beside itself.
    #[test]
    fn a_patch_form_that_may_have_lost_its_row_is_refused_whatever_the_case_says() {
        let correction = |form_id: &str, value: &str| {
            let event = CaseEvent::LedgerCorrection {
                consumptions: vec![LedgerConsumption {
                    section_id: "stock".to_owned(),
                    entry_id: form_id.to_owned(),
                    daily_consumption: value.to_owned(),
                }],
            };
            let payload = rmp_serde::to_vec_named(&event).unwrap();
            ("c".to_owned(), form_id.to_owned(), payload)
        };
        let inputs = |removing_patches| CaseInputs {
            staged: vec![form("f", 1, true), form("p", 2, false), form("q", 3, false)],
            corrections: vec![correction("p", "1"), correction("q", "2")],
            removing_patches,
            ..CaseInputs::default()
        };
        let corrected = |outcome: &Outcome| -> Vec<String> {
            let corrections = outcome.corrections.iter();
            corrections.map(|(_, one)| one.daily_consumption.clone()).collect()
        };
        let whole = outcome(inputs(Vec::new()), &[]);
        assert_eq!(
            (verdicts(&whole), corrected(&whole).join(" ")),
            (Vec::new(), "1 2".to_owned())
        );
        let lost = outcome(inputs(vec![("c".to_owned(), "q".to_owned())]), &[]);
        assert_eq!(verdicts(&lost), [("q", "C2S-2390")]);
        assert!(lost.withdrawn.is_empty());
        assert_eq!(
            lost.bundles[0].case.server_modified_on,
            at(2),
            "it is replayed without the form"
        );
        assert_eq!(corrected(&lost), ["1"]);
    }

    #[test]
    fn a_large_case_goes_on_from_its_checkpoint() {
        let staged = |range: std::ops::Range<i64>| CaseInputs {
            staged: range.map(|minute| form(&format!("f{minute}"), minute, true)).collect(),
            ..CaseInputs::default()
        };
        assert!(outcome(staged(0..2), &[]).checkpoints.is_empty());
        let first = outcome(staged(0..3), &[]);
        let kept: Growing = [("c".to_owned(), Checkpoint::decode(&first.checkpoints["c"]))].into();
        let grown = outcome_of(staged(3..5), &kept, &[]);
        assert_eq!((grown.bundles.len(), grown.anew.len()), (0, 0));
        assert_eq!(grown.replayed, ["c"]);
        let all = outcome(staged(0..5), &[]);
        assert_eq!(grown.grown[0].case, all.bundles[0].case);
        assert_eq!(grown.grown[0].transactions, all.bundles[0].transactions[3..]);
        assert_eq!(grown.checkpoints, all.checkpoints);
        let without: Growing = [("c".to_owned(), None)].into();
        for needs_all in [
            outcome_of(staged(2..5), &kept, &[]),
            outcome_of(staged(0..0), &kept, &[]),
            outcome_of(staged(3..5), &kept, &["c"]),
            outcome_of(staged(3..5), &without, &[]),
        ] {
            assert_eq!(needs_all.anew, ["c"]);
            assert_eq!((needs_all.grown.len(), needs_all.replayed.len()), (0, 0));
            assert_eq!((needs_all.absent.len(), needs_all.checkpoints.len()), (0, 0));
        }
    }

    #[test]
    fn a_case_of_another_domain_is_left_alone() {
        let inputs = CaseInputs {
            staged: vec![form("f", 1, true)],
            refused: vec![form("g", 2, false)],
            ..CaseInputs::default()
        };
        let outcome = outcome(inputs, &["c"]);
        assert_eq!(verdicts(&outcome), [("f", "C2S-2101")]);
        assert_eq!(
            (outcome.withdrawn.len(), outcome.bundles.len(), outcome.absent.len()),
            (0, 0, 0)
        );
    }
}
