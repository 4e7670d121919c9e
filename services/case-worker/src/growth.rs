//! Cases that go on from a checkpoint: a hot case costs what its new forms cost.

use std::collections::{HashMap, HashSet};

use casemodel::checkpoint::{Checkpoint, replay_on};
use casemodel::{Mode, ReplayInput};
use hqsql::FencedTx;
use proto::ids::{CaseId, Domain};
use proto::rows::CaseBundle;
use service::domain_options::DomainOptions;
use service::worker::BatchFailure;

use crate::replay::{Inputs, model_options};

/// Largest checkpoint that is kept. One is written with every replay of its case, and a case whose properties take more is
/// rare: it is replayed from its first form.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Cases of which only the new forms were read, with the checkpoint that they go on from. Without one a case is to be replayed
/// from all of its inputs.
pub(crate) type Growing = HashMap<String, Option<Checkpoint>>;

/// Reads checkpoints. One serves if it is of the rules of this program, and if the case is stored as it was when the
/// checkpoint was made: whoever has written anything else has not come to the end of it, or is not one of us.
pub(crate) async fn growing(
    tx: &FencedTx,
    domain: &Domain,
    kept: HashMap<String, Vec<u8>>,
) -> Result<Growing, BatchFailure> {
    if kept.is_empty() {
        return Ok(Growing::new());
    }
    let mut growing: Growing = kept
        .into_iter()
        .map(|(case_id, bytes)| (case_id, Checkpoint::decode(&bytes)))
        .collect();
    let rows: Vec<_> = growing
        .iter()
        .filter_map(|(case_id, checkpoint)| Some(checkpoint.as_ref()?.case_row(domain, &CaseId::new(case_id.clone()))))
        .collect();
    let stored: HashSet<String> = tx.stored_as(&rows).await?;
    for (case_id, checkpoint) in &mut growing {
        checkpoint.take_if(|_| !stored.contains(case_id));
    }
    Ok(growing)
}

/// Replays what has come to a case since its checkpoint: rows that are new or have changed, and the next checkpoint. None: it
/// takes all of its inputs.
pub(crate) fn go_on(
    domain: &Domain,
    case_id: &str,
    checkpoint: Option<&Checkpoint>,
    inputs: Inputs,
    options: DomainOptions,
) -> Option<(CaseBundle, Checkpoint)> {
    let (replayed, next) = replay_on(
        checkpoint?,
        ReplayInput {
            domain,
            case_id: &CaseId::new(case_id),
            forms: inputs.forms,
            events: inputs.events,
            options: model_options(options),
            mode: Mode::AsProcessed,
        },
    )?;
    let bundle = replayed.bundle.filter(|bundle| hqsql::check_case(bundle).is_ok())?;
    Some((bundle, next))
}

/// Bytes to keep a checkpoint in, unless it is too large.
pub(crate) fn encoded(checkpoint: &Checkpoint) -> Option<Vec<u8>> {
    checkpoint.encode().filter(|bytes| bytes.len() <= MAX_BYTES)
}
