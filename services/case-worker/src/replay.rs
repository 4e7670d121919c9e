//! From durable inputs to rows: decodes what was staged, runs the model, and sorts what came of it.

use std::collections::{BTreeMap, HashMap, HashSet};

use casemodel::{Mode, Options, ReplayInput};
use proto::effects::{CaseEvent, FormEffects};
use proto::ids::{CaseId, Domain};
use proto::rows::{CaseBundle, RejectReason};
use service::domain_options::DomainOptions;
use service::worker::BatchFailure;
use state::case_stage::{CaseInputs, FailedCase, Verdict};

/// What came of the replays of a batch.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Cases with rows.
    pub(crate) bundles: Vec<CaseBundle>,
    /// Cases that nothing builds: their rows go, if there are any.
    pub(crate) absent: Vec<String>,
    /// All cases that were replayed.
    pub(crate) replayed: Vec<String>,
    /// Forms refused.
    pub(crate) verdicts: Vec<Verdict>,
    /// Cases that could not be built.
    pub(crate) failed: Vec<FailedCase>,
}

#[derive(Default)]
struct Inputs {
    forms: Vec<FormEffects>,
    events: Vec<CaseEvent>,
}

/// Replays the cases. A case whose id belongs to another domain in the target is left alone, and its forms are refused.
pub(crate) fn replay_batch(
    domain: &Domain,
    case_ids: Vec<String>,
    inputs: CaseInputs,
    foreign: &[String],
    options: DomainOptions,
) -> Result<Outcome, BatchFailure> {
    let foreign: HashSet<&str> = foreign.iter().map(String::as_str).collect();
    let mut by_case = decode(inputs)?;
    let mut outcome = Outcome::default();
    // A form may be refused by more than one of its cases; the first in order names the reason.
    let mut refused: BTreeMap<String, Verdict> = BTreeMap::new();
    for case_id in &case_ids {
        let inputs = by_case.remove(case_id).unwrap_or_default();
        if foreign.contains(case_id.as_str()) {
            for effects in &inputs.forms {
                refuse(
                    &mut refused,
                    effects.form.form_id.as_str(),
                    case_id,
                    RejectReason::ForeignCase,
                );
            }
            continue;
        }
        let replayed = casemodel::replay(ReplayInput {
            domain,
            case_id: &CaseId::new(case_id.clone()),
            forms: inputs.forms,
            events: inputs.events,
            options: Options {
                case_attachments: options.case_attachments,
            },
            mode: Mode::AsProcessed,
        });
        for (form_id, reason) in &replayed.rejected {
            refuse(&mut refused, form_id.as_str(), case_id, *reason);
        }
        for error in &replayed.errors {
            outcome.failed.push(FailedCase {
                case_id: case_id.clone(),
                code: error.code().to_owned(),
                message: error.to_string(),
            });
        }
        place(&mut outcome, case_id, replayed.bundle);
    }
    outcome.verdicts = refused.into_values().collect();
    outcome.replayed = case_ids;
    Ok(outcome)
}

/// A bundle is written if the tables can hold it. One that they cannot is recorded, and the case has no rows.
fn place(outcome: &mut Outcome, case_id: &str, bundle: Option<CaseBundle>) {
    match bundle {
        Some(bundle) => match hqsql::check_case(&bundle) {
            Ok(()) => outcome.bundles.push(bundle),
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
    for (case_id, _, payload) in inputs.staged {
        let effects =
            rmp_serde::from_slice(&payload).map_err(|_| BatchFailure::defect("a staged effect cannot be read"))?;
        by_case.entry(case_id).or_default().forms.push(effects);
    }
    for (case_id, payload) in inputs.events {
        let event = rmp_serde::from_slice(&payload).map_err(|_| BatchFailure::defect("a case event cannot be read"))?;
        by_case.entry(case_id).or_default().events.push(event);
    }
    Ok(by_case)
}
