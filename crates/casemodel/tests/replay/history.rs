//! Order, transactions and indices over several forms.

use crate::forms::{attachment, block, create, form, index, ledger, minute, run, update};
use casemodel::{CaseError, Mode};
use chrono::Duration;
use proptest::prelude::*;
use proto::effects::{CaseAction, CaseEvent, CaseUpdate, FormEffects, KnownProperty as Known};
use proto::rows::{CaseBundle, RejectReason, TransactionRow};

/// A form that writes its own id into the property `last`.
fn writer(id: &str, received: u32) -> FormEffects {
    form(id, received, vec![block(vec![update(&[("last", id)])])])
}

fn form_ids(bundle: &CaseBundle) -> Vec<&str> {
    bundle
        .transactions
        .iter()
        .filter_map(|transaction| transaction.form_id.as_deref())
        .collect()
}

#[test]
fn forms_go_by_received_on_then_by_id() {
    let bundle = run(vec![writer("b", 5), writer("c", 1), writer("a", 5), writer("B", 5)]).bundle();
    assert_eq!(form_ids(&bundle), ["c", "B", "a", "b"]);
    assert_eq!(bundle.case.case_json, r#"{"last":"b"}"#);
    assert_eq!(bundle.case.server_modified_on, minute(5));
}

#[test]
fn a_wanted_order_wins_and_gets_dates_that_keep_it() {
    let mut replay = run(vec![writer("a", 0), writer("b", 10), writer("c", 20), writer("x", 5)]);
    let wanted = |ids: [&str; 3]| CaseEvent::OrderOverride {
        form_ids: ids.into_iter().map(Into::into).collect(),
    };
    replay.events = vec![wanted(["c", "b", "a"]), wanted(["a", "c", "b"])];
    let bundle = replay.bundle();
    // The last wish counts; forms that it does not name come last.
    assert_eq!(form_ids(&bundle), ["a", "c", "b", "x"]);
    assert_eq!(bundle.case.case_json, r#"{"last":"x"}"#);
    // 0 20 10 5: of the longest ascending subsequences 0 5 is kept; the others are spread between them.
    let dates: Vec<_> = bundle
        .transactions
        .iter()
        .map(|transaction| transaction.server_date)
        .collect();
    let seconds = |seconds| minute(0) + Duration::seconds(seconds);
    assert_eq!(dates, [seconds(0), seconds(100), seconds(200), seconds(300)]);
    assert_eq!(bundle.case.server_modified_on, minute(5));
}

/// Bits of a form's transaction.
#[test]
fn transaction_types() {
    let opening = || create(&[(Known::Type, "t")]);
    for (what, updates, kind) in [
        (
            "create and update",
            vec![block(vec![opening(), update(&[("a", "1")])])],
            129,
        ),
        ("update", vec![block(vec![update(&[("a", "1")])])], 1),
        ("nothing", vec![block(vec![CaseAction::Noop])], 1),
        ("close", vec![block(vec![CaseAction::Close])], 257),
        ("index", vec![block(vec![index("parent", "h")])], 513),
        (
            "index without entries",
            vec![block(vec![CaseAction::Index(Vec::new())])],
            513,
        ),
        ("attachment", vec![block(vec![attachment("photo", None, None)])], 1025),
        (
            "several blocks",
            vec![
                block(vec![opening()]),
                block(vec![index("parent", "h")]),
                block(vec![CaseAction::Close]),
            ],
            1 | 128 | 512 | 256,
        ),
    ] {
        let bundle = run(vec![form("f", 3, updates)]).bundle();
        let expected = TransactionRow {
            form_id: Some("f".to_owned()),
            sync_log_id: Some("sync-f".to_owned()),
            server_date: minute(3),
            client_date: Some(minute(600)),
            kind,
            revoked: false,
            details: "{}".to_owned(),
        };
        assert_eq!(bundle.transactions, [expected], "{what}");
    }
}

#[test]
fn the_client_date_is_that_of_the_last_block() {
    let dated = |date| CaseUpdate {
        modified_on: date,
        ..block(vec![CaseAction::Noop])
    };
    let of = |updates| run(vec![form("f", 3, updates)]).bundle().transactions[0].client_date;
    assert_eq!(
        of(vec![dated(Some(minute(9))), dated(Some(minute(8)))]),
        Some(minute(8))
    );
    assert_eq!(of(vec![dated(None)]), Some(minute(3)));
}

#[test]
fn ledgers_mark_the_transaction() {
    let mut both = form("f", 0, vec![block(vec![CaseAction::Close])]);
    both.ledgers.push(ledger());
    let mut alone = form("g", 1, Vec::new());
    alone.ledgers.push(ledger());
    let dropped = form("h", 2, Vec::new());
    let bundle = run(vec![both, alone, dropped]).bundle();
    let seen: Vec<_> = bundle
        .transactions
        .iter()
        .map(|row| (row.kind, row.sync_log_id.as_deref(), row.client_date))
        .collect();
    assert_eq!(
        seen,
        [
            (1 | 256 | 64, Some("sync-f"), Some(minute(600))),
            (65, None, None),
            (65, None, None)
        ]
    );
    assert_eq!(
        bundle.case.server_modified_on,
        minute(2),
        "a ledger touch counts as a change"
    );
    assert_eq!(bundle.case.modified_on, minute(600), "but changes no column");
}

#[test]
fn a_ledger_alone_makes_no_case() {
    let mut early = form("early", 0, Vec::new());
    early.ledgers.push(ledger());
    let replay = run(vec![early, writer("f", 1)]);
    assert_eq!(replay.rejected(), [("early".to_owned(), RejectReason::ForeignCase)]);
    assert_eq!(replay.replay().bundle, Some(run(vec![writer("f", 1)]).bundle()));
}

fn indexed(id: &str, received: u32, changes: &[(&str, &str)]) -> FormEffects {
    form(
        id,
        received,
        vec![block(
            changes.iter().map(|(name, target)| index(name, target)).collect(),
        )],
    )
}

fn index_rows(bundle: &CaseBundle) -> Vec<(&str, &str)> {
    bundle
        .indices
        .iter()
        .map(|row| (row.identifier.as_str(), row.referenced_id.as_str()))
        .collect()
}

#[test]
fn an_index_made_and_removed_in_one_form_stays() {
    let replay = run(vec![indexed("f", 0, &[("parent", "h"), ("parent", "")])]);
    assert_eq!(index_rows(&replay.bundle()), [("parent", "h")]);
}

#[test]
fn an_index_made_by_one_form_and_removed_by_the_next_goes() {
    let replay = run(vec![
        indexed("f", 0, &[("parent", "h"), ("host", "i")]),
        indexed("g", 1, &[("parent", "")]),
    ]);
    assert_eq!(index_rows(&replay.bundle()), [("host", "i")]);
}

#[test]
fn an_index_removed_by_one_form_and_set_by_the_next_is_new() {
    let changes: [&[(&str, &str)]; 3] = [&[("parent", "h"), ("host", "i")], &[("parent", "")], &[("parent", "j")]];
    let forms = changes
        .iter()
        .zip(0..)
        .map(|(change, at)| indexed(&format!("f{at}"), at, change))
        .collect();
    assert_eq!(index_rows(&run(forms).bundle()), [("host", "i"), ("parent", "j")]);
}

#[test]
fn an_index_removed_and_set_in_one_form_is_an_error_of_the_form() {
    let replay = run(vec![
        indexed("f", 0, &[("parent", "h")]),
        indexed("g", 1, &[("parent", ""), ("parent", "i")]),
        indexed("h", 2, &[("parent", "j")]),
    ]);
    assert_eq!(replay.rejected(), [("g".to_owned(), RejectReason::BadValue)]);
    assert_eq!(index_rows(&replay.replay().bundle.unwrap()), [("parent", "j")]);
}

#[test]
fn a_rebuild_brings_an_index_back_that_a_later_form_removed() {
    let mut replay = run(vec![
        indexed("f", 0, &[("parent", "h")]),
        indexed("g", 1, &[("parent", "")]),
    ]);
    assert_eq!(index_rows(&replay.bundle()), []);
    replay.mode = Mode::AsRebuilt;
    assert_eq!(index_rows(&replay.bundle()), [("parent", "h")]);
}

#[test]
fn a_rebuild_that_would_violate_a_constraint_leaves_the_case() {
    let mut replay = run(vec![
        indexed("f", 0, &[("parent", "h")]),
        indexed("g", 1, &[("parent", "")]),
        indexed("h", 2, &[("parent", "i")]),
    ]);
    let processed = replay.bundle();
    replay.mode = Mode::AsRebuilt;
    let rebuilt = replay.replay();
    // The saved row is removed by the second form and made again by the third before anything is saved.
    assert_eq!(rebuilt.errors, [CaseError::RebuildFails]);
    assert_eq!(rebuilt.bundle, Some(processed));
}

#[test]
fn nothing_in_gives_nothing() {
    let replayed = run(Vec::new()).replay();
    assert_eq!(
        (replayed.bundle, replayed.rejected, replayed.errors),
        (None, Vec::new(), Vec::new())
    );
}

/// A small form: some of every kind of action, some with errors, many with the same date.
fn any_form(position: usize) -> impl Strategy<Value = FormEffects> {
    let action = prop_oneof![
        Just(CaseAction::Noop),
        Just(CaseAction::Close),
        ("[a-c]", "[a-z]{0,2}").prop_map(|(key, value)| update(&[(&key, &value)])),
        ("[a-c]", "[a-b]?").prop_map(|(name, target)| index(&name, &target)),
        "[a-z]{0,2}".prop_map(|name| create(&[(Known::Name, &name)])),
        Just(create(&[(Known::OpenedOn, "soon")])),
    ];
    let blocks = prop::collection::vec(prop::collection::vec(action, 1..4).prop_map(block), 0..3);
    (0_u32..3, blocks, any::<bool>()).prop_map(move |(received, updates, with_ledger)| {
        let mut effects = form(&format!("form-{position}"), received, updates);
        if with_ledger {
            effects.ledgers.push(ledger());
        }
        effects
    })
}

fn forms_and_permutation() -> impl Strategy<Value = (Vec<FormEffects>, Vec<FormEffects>)> {
    (0..8_usize)
        .prop_flat_map(|count| (0..count).map(any_form).collect::<Vec<_>>())
        .prop_flat_map(|forms| (Just(forms.clone()), Just(forms).prop_shuffle()))
}

proptest! {
    #[test]
    fn the_order_of_the_input_does_not_matter((forms, shuffled) in forms_and_permutation()) {
        for mode in [Mode::AsProcessed, Mode::AsRebuilt] {
            let mut replay = run(forms.clone());
            replay.mode = mode;
            let mut other = run(shuffled.clone());
            other.mode = mode;
            prop_assert_eq!(replay.replay(), other.replay());
        }
    }

    #[test]
    fn rejected_forms_leave_no_trace((forms, _) in forms_and_permutation()) {
        let replayed = run(forms.clone()).replay();
        let accepted = forms
            .into_iter()
            .filter(|effects| replayed.rejected.iter().all(|(id, _)| *id != effects.form.form_id))
            .collect();
        let again = run(accepted).replay();
        prop_assert_eq!(again.rejected, vec![]);
        prop_assert_eq!(again.bundle, replayed.bundle);
    }
}
