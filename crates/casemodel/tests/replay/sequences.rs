//! Any sequence of forms: what the replay must give whatever they hold and however they come.

use std::collections::BTreeMap;

use casemodel::{CaseError, Mode, Replayed};
use proptest::prelude::*;
use proto::effects::{
    BlockVersion, CaseAction, CaseEvent, CaseUpdate, FormEffects, IndexChange, KnownProperty as Known, LedgerKind,
    LedgerUpdate, PropertyValue, Relationship,
};

use crate::forms::{Run, attachment, blob, block, form, index, json, ledger, minute, run, text, update};

/// Values of a property: ordinary ones, and what a column cannot hold, or not as it is.
fn any_value() -> impl Strategy<Value = PropertyValue> {
    prop_oneof![
        20 => "[a-z]{0,2}".prop_map(|value| text(&value)),
        1 => Just(text(&"é".repeat(256))),
        1 => Just(text("a\0b")),
        1 => Just(text("2019-02-01T10:00:00+02:00")),
        1 => Just(json(r#"["a","b"]"#)),
        1 => Just(json(r#"{"@a":"1"}"#)),
    ]
}

fn any_known() -> impl Strategy<Value = (Known, PropertyValue)> {
    let property = prop::sample::select(vec![
        Known::Type,
        Known::Name,
        Known::ExternalId,
        Known::UserId,
        Known::OwnerId,
        Known::OpenedOn,
    ]);
    (property, any_value())
}

fn any_index() -> impl Strategy<Value = IndexChange> {
    ("[a-b]", "[a-b]?", any::<bool>()).prop_map(|(identifier, referenced_id, extension)| IndexChange {
        identifier,
        referenced_type: "household".to_owned(),
        referenced_id,
        relationship: if extension {
            Relationship::Extension
        } else {
            Relationship::Child
        },
    })
}

fn any_action() -> impl Strategy<Value = CaseAction> {
    let key = prop::sample::select(vec!["a", "b", "name", "location_id", "hq_user_id", "case_id", "#text"]);
    let dynamic = (key, any_value()).prop_map(|(key, value)| (key.to_owned(), value));
    prop_oneof![
        1 => Just(CaseAction::Noop),
        1 => Just(CaseAction::Close),
        2 => prop::collection::vec(any_known(), 0..3).prop_map(CaseAction::Create),
        3 => (prop::collection::vec(any_known(), 0..2), prop::collection::vec(dynamic, 0..3))
            .prop_map(|(known, dynamic)| CaseAction::Update { known, dynamic }),
        2 => prop::collection::vec(any_index(), 0..4).prop_map(CaseAction::Index),
        1 => ("[p-q]", prop::option::of(prop::sample::select(vec!["1.jpg", "2.jpg", ""])), any::<bool>())
            .prop_map(|(name, src, local)| attachment(&name, src, local.then_some("local"))),
    ]
}

fn any_block() -> impl Strategy<Value = CaseUpdate> {
    let user = prop::option::of(prop::sample::select(vec!["", "u", "w"]));
    (
        prop::collection::vec(any_action(), 1..4),
        any::<bool>(),
        user,
        prop::option::of(0_u32..4),
    )
        .prop_map(|(actions, old, user, at)| CaseUpdate {
            version: if old { BlockVersion::V1 } else { BlockVersion::V2 },
            user_id: user.filter(|_| !old).map(str::to_owned),
            modified_on: at.map(minute),
            actions,
        })
}

fn any_ledger() -> impl Strategy<Value = LedgerUpdate> {
    let kind = prop::sample::select(vec![
        LedgerKind::Balance,
        LedgerKind::TransferIn,
        LedgerKind::TransferOut,
    ]);
    let quantity = prop::sample::select(vec!["0", "3", "-2", "0.5", "2000000000", "many"]);
    (kind, quantity, "[p-q]", 0_u32..4).prop_map(|(kind, quantity, entry_id, at)| LedgerUpdate {
        entry_id,
        report_date: minute(at),
        ..ledger(kind, quantity)
    })
}

/// A form with blocks, ledgers, both or nothing. Dates are few, so that many are equal.
fn any_form(position: usize) -> impl Strategy<Value = FormEffects> {
    (
        0_u32..3,
        prop::collection::vec(any_block(), 0..3),
        prop::collection::vec(any_ledger(), 0..3),
        any::<bool>(),
        prop::sample::subsequence(vec!["1.jpg", "2.jpg"], 0..=2),
    )
        .prop_map(move |(received, updates, ledgers, named, images)| {
            let mut effects = form(&format!("form-{position}"), received, updates);
            effects.ledgers = ledgers;
            if !named {
                effects.form.user_id = None;
            }
            effects.form.attachments = images
                .iter()
                .map(|name| blob(name, &format!("{position}-{name}")))
                .collect();
            effects
        })
}

pub(crate) fn any_forms() -> impl Strategy<Value = Vec<FormEffects>> {
    (0..9_usize).prop_flat_map(|count| (0..count).map(any_form).collect::<Vec<_>>())
}

/// Each form with the revisions that it had before, under the number of the revision.
fn any_revisions() -> impl Strategy<Value = Vec<(u32, FormEffects)>> {
    let revisions = |position: usize| prop::collection::vec(any_form(position), 1..3);
    (0..6_usize)
        .prop_flat_map(move |count| (0..count).map(revisions).collect::<Vec<_>>())
        .prop_map(|forms| forms.into_iter().flat_map(|revisions| (0..).zip(revisions)).collect())
}

fn with(forms: Vec<FormEffects>, mode: Mode) -> Run {
    Run {
        mode,
        case_attachments: true,
        ..run(forms)
    }
}

/// What is staged after these arrivals: of each form the newest revision that has arrived.
fn staged(arrivals: &[(u32, FormEffects)]) -> Vec<FormEffects> {
    let mut newest: BTreeMap<&str, &(u32, FormEffects)> = BTreeMap::new();
    for arrival in arrivals {
        let known = newest.entry(arrival.1.form.form_id.as_str()).or_insert(arrival);
        if known.0 < arrival.0 {
            *known = arrival;
        }
    }
    newest.into_values().map(|(_, effects)| effects.clone()).collect()
}

fn assert_ascending(replayed: &Replayed) {
    let dates: Vec<_> = replayed
        .bundle
        .iter()
        .flat_map(|bundle| bundle.transactions.iter().map(|row| row.server_date))
        .collect();
    assert!(dates.windows(2).all(|pair| pair[0] < pair[1]), "{dates:?}");
}

proptest! {
    #[test]
    fn the_order_of_the_input_does_not_matter(
        (forms, shuffled) in any_forms().prop_flat_map(|forms| (Just(forms.clone()), Just(forms).prop_shuffle())),
    ) {
        for mode in [Mode::AsProcessed, Mode::AsRebuilt] {
            prop_assert_eq!(with(forms.clone(), mode).replay(), with(shuffled.clone(), mode).replay());
        }
    }

    /// Revisions arrive in any order, some more than once; whatever was replayed on the way, what is staged in the end
    /// decides.
    #[test]
    fn arrivals_do_not_matter(
        (revisions, arrivals) in any_revisions().prop_flat_map(|revisions| {
            let twice = [revisions.clone(), revisions.clone()].concat();
            (Just(revisions), Just(twice).prop_shuffle())
        }),
    ) {
        let expected = with(staged(&revisions), Mode::AsProcessed).replay();
        let found = with(staged(&arrivals), Mode::AsProcessed).replay();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn a_form_given_twice_counts_once(forms in any_forms()) {
        let twice = [forms.clone(), forms.clone()].concat();
        prop_assert_eq!(with(twice, Mode::AsProcessed).replay(), with(forms, Mode::AsProcessed).replay());
    }

    #[test]
    fn rejected_forms_leave_no_trace(forms in any_forms()) {
        let replayed = with(forms.clone(), Mode::AsProcessed).replay();
        let accepted = forms
            .into_iter()
            .filter(|effects| replayed.rejected.iter().all(|(id, _)| *id != effects.form.form_id))
            .collect();
        let again = with(accepted, Mode::AsProcessed).replay();
        prop_assert_eq!(again.rejected, vec![]);
        prop_assert_eq!(again.bundle, replayed.bundle);
    }

    /// A form is judged by those before it: what comes later changes neither the verdict nor the rows before it.
    #[test]
    fn later_forms_change_no_verdict(forms in any_forms(), cut in any::<prop::sample::Index>()) {
        let mut sorted = forms;
        sorted.sort_by(|a, b| (a.form.received_on, a.form.form_id.as_str()).cmp(&(b.form.received_on, b.form.form_id.as_str())));
        let whole = with(sorted.clone(), Mode::AsProcessed).replay();
        sorted.truncate(cut.index(sorted.len() + 1));
        let part = with(sorted, Mode::AsProcessed).replay();
        prop_assert_eq!(&whole.rejected[..part.rejected.len()], &part.rejected[..]);
        if let Some(part) = part.bundle {
            let whole = whole.bundle.unwrap();
            prop_assert_eq!(&whole.transactions[..part.transactions.len()], &part.transactions[..]);
            prop_assert_eq!(
                &whole.ledger_transactions[..part.ledger_transactions.len()],
                &part.ledger_transactions[..]
            );
        }
    }

    /// Any order can be asked for. It refuses no form and changes no ledger, and its dates ascend.
    #[test]
    fn a_wanted_order_refuses_nothing(
        (forms, wanted) in any_forms().prop_flat_map(|forms| (Just(forms.clone()), Just(forms).prop_shuffle())),
    ) {
        let ordinary = with(forms.clone(), Mode::AsProcessed).replay();
        let mut replay = with(forms, Mode::AsProcessed);
        let form_ids = wanted.iter().map(|effects| effects.form.form_id.clone()).collect();
        replay.events = vec![CaseEvent::OrderOverride { form_ids }];
        let ordered = replay.replay();
        prop_assert_eq!(&ordered.rejected, &ordinary.rejected);
        if ordered.errors == [CaseError::OrderFails] {
            prop_assert_eq!(ordered.bundle, ordinary.bundle);
        } else {
            prop_assert_eq!(&ordered.errors, &vec![]);
            assert_ascending(&ordered);
            let (Some(ordered), Some(ordinary)) = (&ordered.bundle, &ordinary.bundle) else {
                prop_assert_eq!(ordered.bundle.is_none(), ordinary.bundle.is_none());
                return Ok(());
            };
            prop_assert_eq!(&ordered.ledger_values, &ordinary.ledger_values);
            prop_assert_eq!(&ordered.ledger_transactions, &ordinary.ledger_transactions);
        }
    }

    /// The rows of every replay can be stored: one row per key, and texts that fit.
    #[test]
    fn rows_fit(forms in any_forms()) {
        for mode in [Mode::AsProcessed, Mode::AsRebuilt] {
            let Some(bundle) = with(forms.clone(), mode).replay().bundle else { continue };
            let mut keys = std::collections::BTreeSet::new();
            for row in &bundle.indices {
                prop_assert!(keys.insert(("index", row.identifier.clone(), String::new())));
            }
            for row in &bundle.attachments {
                prop_assert!(keys.insert(("attachment", row.name.clone(), String::new())));
            }
            for row in &bundle.transactions {
                prop_assert!(keys.insert(("transaction", row.form_id.clone().unwrap(), String::new())));
            }
            for row in &bundle.ledger_values {
                prop_assert!(keys.insert(("ledger", row.section_id.clone(), row.entry_id.clone())));
            }
            for text in [&bundle.case.case_type, &bundle.case.owner_id, &bundle.case.modified_by] {
                prop_assert!(text.chars().count() <= 255 && !text.contains('\0'));
            }
        }
    }

    /// An independent sum: in thousandths, which these quantities have exactly.
    #[test]
    fn ledgers_add_up(
        forms in prop::collection::vec(prop::collection::vec((0_u8..3, -4_000_i64..4_000), 1..4), 1..6),
    ) {
        let mut effects = vec![form("f", 0, vec![block(vec![CaseAction::Noop])])];
        let (mut expected, mut balance) = (Vec::new(), 0_i64);
        for (at, instructions) in (1..).zip(&forms) {
            let mut ledgers = Vec::new();
            let mut thousandths = balance * 1_000;
            for (kind, quantity) in instructions {
                let before = thousandths;
                let kind = match kind {
                    0 => {
                        thousandths = *quantity;
                        LedgerKind::Balance
                    }
                    1 => {
                        thousandths += quantity;
                        LedgerKind::TransferIn
                    }
                    _ => {
                        thousandths -= quantity;
                        LedgerKind::TransferOut
                    }
                };
                let sign = if *quantity < 0 { "-" } else { "" };
                let size = quantity.abs();
                ledgers.push(ledger(kind, &format!("{sign}{}.{:03}", size / 1_000, size % 1_000)));
                expected.push(((thousandths - before) / 1_000, thousandths / 1_000));
            }
            balance = thousandths / 1_000;
            let mut stock = form(&format!("f{at}"), at, Vec::new());
            stock.ledgers = ledgers;
            effects.push(stock);
        }
        let bundle = run(effects).bundle();
        let found: Vec<_> = bundle.ledger_transactions.iter().map(|row| (row.delta, row.updated_balance)).collect();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(i64::from(bundle.ledger_values[0].balance), balance);
    }
}

/// The strategies above do make cases, errors of many kinds, and rebuilds that fail: else they would show nothing.
#[test]
fn sequences_are_varied() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..600 {
        let forms = any_forms().new_tree(&mut runner).unwrap().current();
        let replayed = with(forms, Mode::AsRebuilt).replay();
        seen.extend(replayed.rejected.iter().map(|(_, reason)| reason.code()));
        seen.extend(replayed.errors.iter().map(CaseError::code));
        if let Some(bundle) = replayed.bundle {
            let parts = [
                ("indices", bundle.indices.is_empty()),
                ("attachments", bundle.attachments.is_empty()),
                ("ledgers", bundle.ledger_values.is_empty()),
                ("transactions", bundle.transactions.len() < 4),
            ];
            seen.extend(parts.into_iter().filter(|(_, empty)| !empty).map(|(part, _)| part));
        }
    }
    for expected in [
        "C2S-2102",
        "C2S-2103",
        "C2S-2104",
        "C2S-2105",
        "C2S-2106",
        "C2S-2107",
        "C2S-2108",
        "C2S-2109",
        "C2S-2206",
        "indices",
        "attachments",
        "ledgers",
        "transactions",
    ] {
        assert!(seen.contains(expected), "{expected} not in {seen:?}");
    }
}

#[test]
fn staging_keeps_the_newest_revision() {
    let first = form("f", 0, vec![block(vec![update(&[("a", "1")])])]);
    let second = form("f", 0, vec![block(vec![index("parent", "h")])]);
    assert_eq!(staged(&[(1, second.clone()), (0, first)]), [second]);
}
