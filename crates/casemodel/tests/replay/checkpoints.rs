//! A replay that goes on from a checkpoint comes to what the replay of all forms comes to, or says that it needs them all.

use casemodel::checkpoint::{Checkpoint, replay_on};
use casemodel::{Mode, Options, ReplayInput, Replayed, replay, replay_keeping};
use proptest::prelude::*;
use proto::effects::{CaseEvent, FormEffects};
use proto::ids::{CaseId, Domain};
use proto::rows::CaseBundle;

use crate::forms::{block, form, update};
use crate::sequences::any_forms;

const OPTIONS: Options = Options { case_attachments: true };

fn with_input<T>(forms: &[FormEffects], events: Vec<CaseEvent>, run: impl FnOnce(ReplayInput<'_>) -> T) -> T {
    let (domain, case_id) = (Domain::new("demo"), CaseId::new("case"));
    run(ReplayInput {
        domain: &domain,
        case_id: &case_id,
        forms: forms.to_vec(),
        events,
        options: OPTIONS,
        mode: Mode::AsProcessed,
    })
}

fn keeping(forms: &[FormEffects]) -> (Replayed, Option<Checkpoint>) {
    with_input(forms, Vec::new(), |input| replay_keeping(input, 0))
}

/// On the checkpoint as it comes back from where it is kept.
fn going_on(checkpoint: &Checkpoint, forms: &[FormEffects]) -> Option<(Replayed, Checkpoint)> {
    let kept = Checkpoint::decode(&checkpoint.encode().unwrap()).unwrap();
    assert_eq!(&kept, checkpoint);
    with_input(forms, Vec::new(), |input| replay_on(&kept, input))
}

fn in_order(mut forms: Vec<FormEffects>) -> Vec<FormEffects> {
    forms.sort_by_key(|effects| (effects.form.received_on, effects.form.form_id.as_str().to_owned()));
    forms
}

/// Without those that the case refuses.
fn accepted(mut forms: Vec<FormEffects>) -> Vec<FormEffects> {
    let rejected = with_input(&forms, Vec::new(), replay).rejected;
    forms.retain(|effects| rejected.iter().all(|(form_id, _)| *form_id != effects.form.form_id));
    forms
}

/// Rows as a table comes to hold them: those of the forms before stay, everything else is as given last.
fn grown(mut rows: CaseBundle, by: CaseBundle) -> CaseBundle {
    rows.transactions.extend(by.transactions);
    rows.ledger_transactions.extend(by.ledger_transactions);
    CaseBundle {
        transactions: rows.transactions,
        ledger_transactions: rows.ledger_transactions,
        ..by
    }
}

proptest! {
    /// Forms that come in two or three parts, each in any order within itself.
    #[test]
    fn going_on_is_the_same_as_beginning_anew(
        forms in any_forms(),
        cuts in (0..10_usize, 0..10_usize),
        turned in any::<bool>(),
    ) {
        let mut forms = accepted(in_order(forms));
        let (first, second) = (cuts.0.min(cuts.1).min(forms.len()), cuts.0.max(cuts.1).min(forms.len()));
        let all = with_input(&forms, Vec::new(), replay);
        let kept_of_all = keeping(&forms).1;
        if turned {
            forms[first..second].reverse();
            forms[second..].reverse();
        }
        let (before, checkpoint) = keeping(&forms[..first]);
        let Some(mut checkpoint) = checkpoint else {
            prop_assert_eq!(first, 0);
            return Ok(());
        };
        let mut rows = before.bundle.unwrap();
        prop_assert_eq!(checkpoint.forms(), first as u64);
        for part in [&forms[first..second], &forms[second..]] {
            let row = checkpoint.case_row(&Domain::new("demo"), &CaseId::new("case"));
            prop_assert_eq!(&row, &rows.case, "a checkpoint tells the row that goes with it");
            match going_on(&checkpoint, part) {
                Some((after, next)) => {
                    prop_assert_eq!(&after.rejected, &[]);
                    rows = grown(rows, after.bundle.unwrap());
                    checkpoint = next;
                }
                None => prop_assert!(part.is_empty()),
            }
        }
        prop_assert_eq!(Some(rows), all.bundle);
        prop_assert_eq!(Some(checkpoint), kept_of_all);
    }

    #[test]
    fn a_form_that_is_refused_needs_them_all(forms in any_forms()) {
        let forms = in_order(forms);
        let Some(refused) = with_input(&forms, Vec::new(), replay).rejected.first().cloned() else {
            return Ok(());
        };
        let place = forms.iter().position(|effects| effects.form.form_id == refused.0).unwrap();
        prop_assert_eq!(keeping(&forms).1, None);
        if let Some(checkpoint) = keeping(&forms[..place]).1 {
            prop_assert!(going_on(&checkpoint, &forms[place..]).is_none());
        }
    }

    #[test]
    fn a_form_that_belongs_before_its_last_one_needs_them_all(forms in any_forms(), place in 0_usize..9) {
        let mut forms = in_order(forms);
        prop_assume!(forms.len() > 1);
        let late = forms.remove(place % (forms.len() - 1));
        if let Some(checkpoint) = keeping(&forms).1 {
            prop_assert!(going_on(&checkpoint, &[late]).is_none());
            prop_assert!(going_on(&checkpoint, &forms[forms.len() - 1..]).is_none(), "nor is one there twice");
        }
    }
}

fn one(id: &str, received: u32) -> FormEffects {
    form(id, received, vec![block(vec![update(&[("x", id)])])])
}

#[test]
fn events_settings_and_nothing_new_need_all_forms() {
    let order = || vec![CaseEvent::OrderOverride { form_ids: Vec::new() }];
    let checkpoint = keeping(&[one("a", 1)]).1.unwrap();
    let kept = with_input(&[one("a", 1)], order(), |input| replay_keeping(input, 0)).1;
    assert_eq!(kept, None);
    let later = [one("b", 2)];
    let with = |events, options, mode| {
        with_input(&later, events, |input| {
            replay_on(&checkpoint, ReplayInput { options, mode, ..input })
        })
    };
    let without_attachments = Options {
        case_attachments: false,
    };
    assert!(with(Vec::new(), OPTIONS, Mode::AsProcessed).is_some());
    assert!(with(order(), OPTIONS, Mode::AsProcessed).is_none());
    assert!(with(Vec::new(), without_attachments, Mode::AsProcessed).is_none());
    assert!(with(Vec::new(), OPTIONS, Mode::AsRebuilt).is_none());
    assert!(going_on(&checkpoint, &[]).is_none());
}

#[test]
fn only_a_case_of_many_forms_has_one() {
    let forms = [one("a", 1), one("b", 2)];
    let kept = |from| with_input(&forms, Vec::new(), |input| replay_keeping(input, from)).1;
    assert!(kept(2).is_some());
    assert_eq!(kept(3), None);
}

#[test]
fn it_holds_the_case_and_not_its_history() {
    let size = |forms: u32| {
        let forms: Vec<_> = (0..forms).map(|n| one(&format!("{n:04}"), n % 600)).collect();
        keeping(&forms).1.unwrap().encode().unwrap().len()
    };
    assert!(size(1000) < size(10) + 10);
}

#[test]
fn of_other_rules_there_is_none() {
    let bytes = keeping(&[one("a", 1)]).1.unwrap().encode().unwrap();
    let text = String::from_utf8(bytes.clone()).unwrap();
    assert!(Checkpoint::decode(&bytes).is_some());
    let rules = format!("\"replay\":{}", casemodel::checkpoint::REPLAY_VERSION);
    assert!(text.contains(&rules), "{text}");
    let other = text.replace(&rules, "\"replay\":0");
    assert!(Checkpoint::decode(other.as_bytes()).is_none());
    assert!(Checkpoint::decode(&bytes[1..]).is_none());
}
