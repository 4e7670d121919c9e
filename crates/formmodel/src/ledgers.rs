//! The ledger instructions of a form join what its case blocks do.

use std::collections::HashMap;

use proto::effects::{FormEffects, FormFacts};
use proto::ids::CaseId;
use xform::LedgerInstruction;

/// Adds each instruction to the effects on its case, in form order. A case that the form touches by its ledgers alone gets
/// effects without updates; these come last, in the order in which the form first names the cases.
pub(crate) fn add(cases: &mut Vec<(CaseId, FormEffects)>, facts: &FormFacts, instructions: Vec<LedgerInstruction>) {
    if instructions.is_empty() {
        return;
    }
    let mut places: HashMap<String, usize> = cases
        .iter()
        .enumerate()
        .map(|(place, (case_id, _))| (case_id.as_str().to_owned(), place))
        .collect();
    for LedgerInstruction { case_id, update } in instructions {
        let place = *places.entry(case_id).or_insert_with_key(|case_id| {
            let effects = FormEffects {
                form: facts.clone(),
                updates: Vec::new(),
                ledgers: Vec::new(),
            };
            cases.push((CaseId::new(case_id.clone()), effects));
            cases.len() - 1
        });
        if let Some((_, effects)) = cases.get_mut(place) {
            effects.ledgers.push(update);
        }
    }
}
