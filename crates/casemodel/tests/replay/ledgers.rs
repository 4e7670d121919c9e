//! What ledger instructions do to the ledgers of a case, and to the case.

use casemodel::Mode;
use proto::effects::LedgerKind::{Balance, TransferIn, TransferOut};
use proto::effects::{CaseAction, CaseEvent, FormEffects, KnownProperty as Known, LedgerKind, LedgerUpdate};
use proto::rows::{CaseBundle, LedgerTransactionRow, LedgerValueRow, RejectReason};

use crate::forms::{block, create, form, ledger, minute, run, stock};

/// The form that makes the case.
fn opening() -> FormEffects {
    form("opening", 0, vec![block(vec![CaseAction::Noop])])
}

/// The opening form, then one form a minute with the given instructions.
fn after(forms: &[&[(LedgerKind, &str)]]) -> Vec<FormEffects> {
    let instructions =
        |form: &[(LedgerKind, &str)]| form.iter().map(|(kind, quantity)| ledger(*kind, quantity)).collect();
    let stocks = (1..)
        .zip(forms)
        .map(|(at, form)| stock(&format!("f{at}"), at, instructions(form)));
    std::iter::once(opening()).chain(stocks).collect()
}

/// (type, change, balance after it) of each ledger transaction.
fn steps(bundle: &CaseBundle) -> Vec<(i16, i64, i64)> {
    bundle
        .ledger_transactions
        .iter()
        .map(|row| (row.kind, row.delta, row.updated_balance))
        .collect()
}

fn balances(bundle: &CaseBundle) -> Vec<i32> {
    bundle.ledger_values.iter().map(|row| row.balance).collect()
}

/// A row here: instructions of each form, transactions, balance.
#[test]
fn balances_and_changes() {
    type Forms<'a> = &'a [&'a [(LedgerKind, &'a str)]];
    type Transactions<'a> = &'a [(i16, i64, i64)];
    let table: [(&str, Forms<'_>, Transactions<'_>, i32); 11] = [
        (
            "a balance is a change from nothing",
            &[&[(Balance, "5")]],
            &[(1, 5, 5)],
            5,
        ),
        (
            "a balance is recorded with the real change",
            &[&[(Balance, "5")], &[(Balance, "3")]],
            &[(1, 5, 5), (1, -2, 3)],
            3,
        ),
        (
            "the same balance changes nothing and is recorded",
            &[&[(Balance, "5")], &[(Balance, "5")]],
            &[(1, 5, 5), (1, 0, 5)],
            5,
        ),
        ("empty stock", &[&[(Balance, "0")]], &[(1, 0, 0)], 0),
        (
            "transfers add and take",
            &[&[(Balance, "5")], &[(TransferIn, "4")], &[(TransferOut, "2")]],
            &[(1, 5, 5), (2, 4, 9), (2, -2, 7)],
            7,
        ),
        (
            "a transfer from nothing goes below zero",
            &[&[(TransferOut, "2")], &[(TransferOut, "3")]],
            &[(2, -2, -2), (2, -3, -5)],
            -5,
        ),
        ("a negative balance is one", &[&[(Balance, "-4")]], &[(1, -4, -4)], -4),
        (
            "instructions of one form build on each other",
            &[&[
                (TransferIn, "3"),
                (Balance, "10"),
                (TransferOut, "4"),
                (TransferIn, "1"),
            ]],
            &[(2, 3, 3), (1, 7, 10), (2, -4, 6), (2, 1, 7)],
            7,
        ),
        (
            "within a form fractions run on",
            &[&[(TransferIn, "0.5"), (TransferIn, "0.5")]],
            &[(2, 0, 0), (2, 0, 1)],
            1,
        ),
        (
            "between forms they are cut off",
            &[&[(TransferIn, "0.5")], &[(TransferIn, "0.5")], &[(TransferIn, "1.9")]],
            &[(2, 0, 0), (2, 0, 0), (2, 1, 1)],
            1,
        ),
        (
            "towards zero",
            &[&[(Balance, "-2.7")], &[(TransferOut, "1.6")]],
            &[(1, -2, -2), (2, -1, -3)],
            -3,
        ),
    ];
    for (what, forms, expected, balance) in table {
        let bundle = run(after(forms)).bundle();
        assert_eq!(steps(&bundle), expected, "{what}");
        assert_eq!(balances(&bundle), [balance], "{what}");
    }
}

#[test]
fn rows_say_who_and_when() {
    let reported = LedgerUpdate {
        report_date: minute(900),
        user_defined_type: Some("a-type-of-twenty-five-char".to_owned()),
        ..ledger(Balance, "5")
    };
    let untyped = LedgerUpdate {
        user_defined_type: Some(String::new()),
        ..ledger(TransferIn, "2")
    };
    let bundle = run(vec![opening(), stock("f", 1, vec![reported, untyped])]).bundle();
    let row = |kind, report_date, user_type: Option<&str>, delta, updated_balance| LedgerTransactionRow {
        form_id: "f".to_owned(),
        server_date: minute(1),
        report_date,
        kind,
        entry_id: "product".to_owned(),
        section_id: "stock".to_owned(),
        user_defined_type: user_type.map(str::to_owned),
        delta,
        updated_balance,
    };
    assert_eq!(
        bundle.ledger_transactions,
        [
            row(1, minute(900), Some("a-type-of-twenty-fiv"), 5, 5),
            row(2, minute(0), None, 2, 7)
        ]
    );
    let value = LedgerValueRow {
        entry_id: "product".to_owned(),
        section_id: "stock".to_owned(),
        balance: 7,
        last_modified: minute(1),
        last_modified_form_id: Some("f".to_owned()),
    };
    assert_eq!(
        bundle.ledger_values,
        [value],
        "the date of receipt, not that of the block"
    );
}

#[test]
fn each_section_and_entry_is_a_ledger_of_its_own() {
    let at = |section: &str, entry: &str, quantity: &str| LedgerUpdate {
        section_id: section.to_owned(),
        entry_id: entry.to_owned(),
        ..ledger(TransferIn, quantity)
    };
    let bundle = run(vec![
        opening(),
        stock(
            "f",
            1,
            vec![at("stock", "p", "1"), at("stock", "q", "2"), at("spare", "p", "4")],
        ),
        stock("g", 2, vec![at("stock", "p", "8"), at("stoc", "kp", "16")]),
    ])
    .bundle();
    let seen: Vec<_> = bundle
        .ledger_values
        .iter()
        .map(|row| {
            let form = row.last_modified_form_id.as_deref().unwrap();
            (row.section_id.as_str(), row.entry_id.as_str(), row.balance, form)
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("spare", "p", 4, "f"),
            ("stoc", "kp", 16, "g"),
            ("stock", "p", 9, "g"),
            ("stock", "q", 2, "f")
        ]
    );
}

#[test]
fn ledgers_mark_the_transaction() {
    let mut both = form("f", 0, vec![block(vec![CaseAction::Close])]);
    both.ledgers.push(ledger(Balance, "3"));
    let alone = stock("g", 1, vec![ledger(Balance, "3")]);
    // A form whose instructions were all dropped still touches the case.
    let dropped = stock("h", 2, Vec::new());
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
fn a_ledger_needs_a_case() {
    let early = stock("early", 0, vec![ledger(Balance, "3")]);
    let replay = run(vec![early.clone(), form("f", 1, vec![block(vec![CaseAction::Noop])])]);
    assert_eq!(replay.rejected(), [("early".to_owned(), RejectReason::UnknownCase)]);
    let without = run(vec![form("f", 1, vec![block(vec![CaseAction::Noop])])]);
    assert_eq!(replay.replay().bundle, Some(without.bundle()));

    let alone = run(vec![early]).replay();
    assert_eq!((alone.bundle, alone.rejected.len()), (None, 1));

    // The form's own blocks make it.
    let mut own = form("f", 0, vec![block(vec![CaseAction::Noop])]);
    own.ledgers.push(ledger(Balance, "3"));
    assert_eq!(balances(&run(vec![own]).bundle()), [3]);

    // A form that was refused did not.
    let refused = form("a", 0, vec![block(vec![create(&[(Known::OpenedOn, "soon")])])]);
    let replay = run(vec![refused, stock("b", 1, vec![ledger(Balance, "3")])]);
    assert_eq!(
        replay.rejected(),
        [
            ("a".to_owned(), RejectReason::BadOpenedOn),
            ("b".to_owned(), RejectReason::UnknownCase)
        ]
    );
}

#[test]
fn forms_in_error_leave_no_trace() {
    let long = "x".repeat(101);
    let section = LedgerUpdate {
        section_id: long.clone(),
        ..ledger(Balance, "1")
    };
    let entry = LedgerUpdate {
        entry_id: long.clone(),
        ..ledger(Balance, "1")
    };
    let user_type = LedgerUpdate {
        user_defined_type: Some("a\0".to_owned()),
        ..ledger(Balance, "1")
    };
    let max = "2147483647";
    for (what, id, ledgers, reason) in [
        ("no number", "f9", vec![ledger(Balance, "many")], RejectReason::BadValue),
        (
            "not a number",
            "f9",
            vec![ledger(Balance, "nan")],
            RejectReason::BadValue,
        ),
        (
            "infinite",
            "f9",
            vec![ledger(TransferIn, "inf")],
            RejectReason::BadValue,
        ),
        ("long section", "f9", vec![section], RejectReason::ValueTooLong),
        ("long entry", "f9", vec![entry], RejectReason::ValueTooLong),
        (
            "long form id",
            long.as_str(),
            vec![ledger(Balance, "1")],
            RejectReason::ValueTooLong,
        ),
        ("NUL in the type", "f9", vec![user_type], RejectReason::UnstorableText),
        (
            "balance of 32 bits",
            "f9",
            vec![ledger(Balance, "2147483648")],
            RejectReason::ValueTooLong,
        ),
        (
            "sum beyond 32 bits",
            "f9",
            vec![ledger(TransferIn, max)],
            RejectReason::ValueTooLong,
        ),
        (
            "below 32 bits",
            "f9",
            vec![ledger(Balance, "-2147483649")],
            RejectReason::ValueTooLong,
        ),
        (
            "beyond 64 bits",
            "f9",
            vec![ledger(Balance, "1e19"), ledger(Balance, "1")],
            RejectReason::ValueTooLong,
        ),
        (
            "an error after what is right",
            "f9",
            vec![ledger(Balance, "1"), ledger(Balance, "")],
            RejectReason::BadValue,
        ),
    ] {
        let good = after(&[&[(Balance, "5")]]);
        let mut forms = good.clone();
        let mut bad = stock(id, 2, ledgers);
        // Its block goes with it.
        bad.updates = vec![block(vec![CaseAction::Close])];
        forms.push(bad);
        forms.push(stock("f10", 3, vec![ledger(TransferIn, "1")]));
        let replayed = run(forms.clone());
        assert_eq!(replayed.rejected(), [(id.to_owned(), reason)], "{what}");
        forms.remove(good.len());
        assert_eq!(replayed.replay().bundle, Some(run(forms).bundle()), "{what}");
    }
}

#[test]
fn only_the_balance_that_a_form_leaves_must_fit_32_bits() {
    let bundle = run(after(&[&[(Balance, "3000000000"), (TransferOut, "1000000000")]])).bundle();
    assert_eq!(
        steps(&bundle),
        [(1, 3_000_000_000, 3_000_000_000), (2, -1_000_000_000, 2_000_000_000)]
    );
    assert_eq!(balances(&bundle), [2_000_000_000]);
    let bundle = run(after(&[&[(Balance, "2147483647")], &[(Balance, "-2147483648")]])).bundle();
    assert_eq!(steps(&bundle)[1], (1, -4_294_967_295, -2_147_483_648));
}

fn rebuilt(forms: Vec<FormEffects>) -> CaseBundle {
    let mut replay = run(forms);
    replay.mode = Mode::AsRebuilt;
    replay.bundle()
}

/// A rebuild knows the whole numbers only.
#[test]
fn a_rebuild_computes_from_whole_numbers() {
    let forms = after(&[&[(TransferIn, "0.5"), (TransferIn, "0.5")], &[(TransferIn, "2")]]);
    assert_eq!(steps(&run(forms.clone()).bundle()), [(2, 0, 0), (2, 0, 1), (2, 2, 3)]);
    let bundle = rebuilt(forms);
    assert_eq!(steps(&bundle), [(2, 0, 0), (2, 0, 0), (2, 2, 2)]);
    assert_eq!(balances(&bundle), [2]);
}

/// It goes by report date: a late report stands where it belongs, and what came after it is computed on it.
#[test]
fn a_rebuild_goes_by_report_date() {
    let on = |at, update| LedgerUpdate {
        report_date: minute(at),
        ..update
    };
    let forms = vec![
        opening(),
        stock("f", 1, vec![on(10, ledger(Balance, "10"))]),
        stock("g", 2, vec![on(30, ledger(TransferIn, "1"))]),
        stock(
            "h",
            3,
            vec![on(20, ledger(Balance, "50")), on(20, ledger(TransferOut, "5"))],
        ),
    ];
    let processed = run(forms.clone()).bundle();
    assert_eq!(steps(&processed), [(1, 10, 10), (2, 1, 11), (1, 39, 50), (2, -5, 45)]);
    assert_eq!(balances(&processed), [45]);
    let bundle = rebuilt(forms);
    assert_eq!(steps(&bundle), [(1, 10, 10), (2, 1, 46), (1, 40, 50), (2, -5, 45)]);
    assert_eq!(balances(&bundle), [46]);
    let value = &bundle.ledger_values[0];
    assert_eq!(
        (value.last_modified, value.last_modified_form_id.as_deref()),
        (minute(3), Some("h")),
        "who changed it last stays"
    );
}

/// In HQ a rebuild of the case in another order does not touch its ledgers.
#[test]
fn a_wanted_order_leaves_ledgers_alone() {
    let mut replay = run(after(&[&[(Balance, "5")], &[(Balance, "9")]]));
    let ordinary = replay.bundle();
    replay.events = vec![CaseEvent::OrderOverride {
        form_ids: vec!["f2".into(), "f1".into(), "opening".into()],
    }];
    let bundle = replay.bundle();
    assert_eq!(bundle.ledger_values, ordinary.ledger_values);
    assert_eq!(bundle.ledger_transactions, ordinary.ledger_transactions);
    let ids: Vec<_> = bundle
        .transactions
        .iter()
        .map(|row| row.form_id.as_deref().unwrap())
        .collect();
    assert_eq!(ids, ["f2", "f1", "opening"]);
}
