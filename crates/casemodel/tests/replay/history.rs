//! Order, transactions and indices over several forms.

use crate::forms::{attachment, block, create, form, index, ledger, minute, run, stock, update};
use casemodel::{CaseError, Mode};
use chrono::Duration;
use proto::effects::{
    BlockVersion, CaseAction, CaseEvent, CaseUpdate, FormEffects, IndexChange, KnownProperty as Known, LedgerKind,
    Relationship,
};
use proto::rows::{CaseBundle, IndexRow, RejectReason, TransactionRow};

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

/// What an order asks for and what it leaves when a form cannot be applied at its new place.
#[test]
fn an_order_in_which_a_form_fails_is_not_taken() {
    let with_owner = form("a", 0, vec![block(vec![create(&[(Known::OwnerId, "o")])])]);
    let mut without_user = form(
        "b",
        1,
        vec![CaseUpdate {
            version: BlockVersion::V1,
            user_id: None,
            ..block(vec![CaseAction::Noop])
        }],
    );
    without_user.form.user_id = None;
    let mut replay = run(vec![with_owner, without_user]);
    let ordinary = replay.bundle();
    replay.events = vec![CaseEvent::OrderOverride {
        form_ids: vec!["b".into(), "a".into()],
    }];
    let replayed = replay.replay();
    // As the first form, the one without a user leaves the case without an owner. It stays accepted nevertheless.
    assert_eq!(replayed.errors, [CaseError::OrderFails]);
    assert_eq!(replayed.rejected, []);
    assert_eq!(replayed.bundle, Some(ordinary));
}

#[test]
fn a_wanted_order_does_not_bring_a_refused_form_back() {
    let mut replay = run(vec![
        stock("early", 0, vec![ledger(LedgerKind::Balance, "1")]),
        writer("f", 1),
    ]);
    let ordinary = replay.replay();
    replay.events = vec![CaseEvent::OrderOverride {
        form_ids: vec!["f".into(), "early".into()],
    }];
    assert_eq!(replay.rejected(), [("early".to_owned(), RejectReason::UnknownCase)]);
    assert_eq!(replay.replay().bundle, ordinary.bundle);
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
fn a_changed_index_takes_type_and_relationship() {
    let change = CaseAction::Index(vec![IndexChange {
        identifier: "parent".to_owned(),
        referenced_type: "village".to_owned(),
        referenced_id: "v".to_owned(),
        relationship: Relationship::Extension,
    }]);
    let forms = vec![
        indexed("f", 0, &[("parent", "h")]),
        form("g", 1, vec![block(vec![change])]),
    ];
    for mode in [Mode::AsProcessed, Mode::AsRebuilt] {
        let mut replay = run(forms.clone());
        replay.mode = mode;
        let expected = IndexRow {
            identifier: "parent".to_owned(),
            referenced_type: "village".to_owned(),
            referenced_id: "v".to_owned(),
            relationship: Relationship::Extension,
        };
        assert_eq!(replay.bundle().indices, [expected], "{mode:?}");
    }
}

#[test]
fn an_index_removed_and_set_in_one_form_is_an_error_of_the_form() {
    let replay = run(vec![
        indexed("f", 0, &[("parent", "h")]),
        indexed("g", 1, &[("parent", ""), ("parent", "i")]),
        indexed("h", 2, &[("parent", "j")]),
    ]);
    assert_eq!(replay.rejected(), [("g".to_owned(), RejectReason::IndexConflict)]);
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
