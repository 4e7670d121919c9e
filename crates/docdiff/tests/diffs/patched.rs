//! Cases and ledgers that a patch form has left with differences.

use chrono::DateTime;
use docdiff::{Diff, LedgerFacts, PatchRecord, is_case_patched, is_ledger_patched, is_patchable, possible_patch_forms};
use proto::stock::{LedgerRef, StockTransactionRow};
use serde_json::{Value, json};

fn diffs(list: &[Value]) -> Vec<Diff> {
    list.iter().map(|diff| Diff::from_json(diff).unwrap()).collect()
}

fn extra_forms(form_ids: &str) -> Value {
    json!({"type": "set_mismatch", "path": ["xform_ids", "[*]"], "old_value": "", "new_value": form_ids})
}

fn opened_by() -> Value {
    json!({"type": "diff", "path": ["opened_by"], "old_value": "a", "new_value": "b"})
}

/// A patch form of case `c`, with the text of its `diff` element escaped as HQ does.
fn patch(said: &Value) -> PatchRecord {
    let text = said
        .to_string()
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    PatchRecord::of_form(&json!({"diff": text}))
}

fn of_case(entries: &Value) -> (String, PatchRecord) {
    form("p", entries)
}

fn form(form_id: &str, entries: &Value) -> (String, PatchRecord) {
    (form_id.to_owned(), patch(&json!({"case_id": "c", "diffs": entries})))
}

#[test]
fn what_a_form_can_change() {
    let diff = |path: &[&str], old: Value, new: Value| {
        Diff::from_json(&json!({"type": "diff", "path": path, "old_value": old, "new_value": new})).unwrap()
    };
    for property in [
        "closed_by",
        "closed_on",
        "deleted_on",
        "deletion_id",
        "external_id",
        "modified_by",
        "modified_on",
        "opened_by",
        "opened_on",
        "server_modified_on",
        "xform_ids",
    ] {
        assert!(!is_patchable(&diff(&[property], json!(1), json!(2))), "{property}");
    }
    for property in ["name", "type", "user_id", "owner_id", "age", "indices"] {
        assert!(is_patchable(&diff(&[property], json!(1), json!(2))), "{property}");
    }
    assert!(is_patchable(&diff(&["closed"], json!(true), json!(false))));
    assert!(!is_patchable(&diff(&["closed"], json!(false), json!(true))));
    assert!(!is_patchable(&diff(&["closed"], json!(null), json!(true))));
    assert!(is_patchable(&diff(&["closed", "x"], json!(false), json!(true))));
}

#[test]
fn a_case_with_recorded_leftovers_is_patched() {
    let found = diffs(&[opened_by(), extra_forms("p")]);
    let recorded = json!([{"path": ["opened_by"], "patch": false, "old": "a", "new": "c", "reason": "rebuild case"}]);
    assert_eq!(possible_patch_forms(&found), Some(vec!["p"]));
    assert!(
        is_case_patched("c", &found, &[of_case(&recorded)]),
        "the new value does not matter"
    );
    assert!(!is_case_patched("d", &found, &[of_case(&recorded)]), "another case");
    assert!(!is_case_patched("c", &found, &[]), "no patch form");
    for other in [
        json!([{"path": ["opened_by"], "patch": false, "old": "x", "new": "b"}]),
        json!([{"path": ["opened_by"], "patch": true, "old": "a", "new": "b"}]),
        json!([{"path": ["closed_by"], "patch": false, "old": "a", "new": "b"}]),
        json!([{"path": ["opened_by"], "patch": false, "old": "a"}]),
        json!([{"path": ["opened_by"], "patch": false, "new": "b"}]),
        json!([]),
    ] {
        assert!(!is_case_patched("c", &found, &[of_case(&other)]), "{other}");
    }
}

#[test]
fn several_patch_forms_account_for_a_case_together() {
    let closed_by = json!({"type": "diff", "path": ["closed_by"], "old_value": "a", "new_value": "b"});
    let found = diffs(&[opened_by(), closed_by, extra_forms("p,q")]);
    assert_eq!(possible_patch_forms(&found), Some(vec!["q", "p"]), "the last first");
    let one = form(
        "q",
        &json!([{"path": ["opened_by"], "patch": false, "old": "a", "new": "b"}]),
    );
    let other = form(
        "p",
        &json!([{"path": ["closed_by"], "patch": false, "old": "a", "new": "b"}]),
    );
    assert!(!is_case_patched("c", &found, std::slice::from_ref(&one)));
    assert!(is_case_patched("c", &found, &[one, other]));
}

/// A property that Couch lacks becomes empty by a patch, and no more.
#[test]
fn an_emptied_property_is_a_leftover() {
    let emptied = json!({"type": "missing", "path": ["age"], "new_value": ""});
    let entry = json!([{"path": ["age"], "patch": true, "new": "7"}]);
    assert!(is_case_patched(
        "c",
        &diffs(&[emptied, extra_forms("p")]),
        &[of_case(&entry)]
    ));
    let nameless = json!({"type": "type", "path": ["name"], "old_value": null, "new_value": ""});
    let entry_of_name = json!([{"path": ["name"], "patch": true, "old": null, "new": "Thing"}]);
    assert!(is_case_patched(
        "c",
        &diffs(&[nameless, extra_forms("p")]),
        &[of_case(&entry_of_name)]
    ));
    let original = json!({"type": "missing", "path": ["age"], "new_value": "7"});
    assert!(!is_case_patched(
        "c",
        &diffs(&[original, extra_forms("p")]),
        &[of_case(&entry)]
    ));
}

#[test]
fn what_is_never_patched() {
    let age = json!({"type": "diff", "path": ["age"], "old_value": "1", "new_value": "2"});
    for found in [
        vec![opened_by()],
        vec![opened_by(), extra_forms("")],
        vec![opened_by(), age, extra_forms("p")],
        vec![],
    ] {
        assert_eq!(possible_patch_forms(&diffs(&found)), None, "{found:?}");
        let record = of_case(&json!([{"path": ["opened_by"], "patch": false, "old": "a", "new": "b"}]));
        assert!(!is_case_patched("c", &diffs(&found), &[record]), "{found:?}");
    }
    // Nothing but the forms themselves: an early patch form, without a record, is enough.
    let early = ("p".to_owned(), PatchRecord::of_form(&json!({"case": {}})));
    assert!(is_case_patched("c", &diffs(&[extra_forms("p")]), &[early]));
}

/// A form that one side alone lists is a difference like any other: it is not reported while a patch form recorded it.
#[test]
fn forms_of_one_side_are_as_they_were_recorded() {
    let mismatch = |old: &str, new: &str| {
        let found = json!({"type": "set_mismatch", "path": ["xform_ids", "[*]"], "old_value": old, "new_value": new});
        diffs(&[opened_by(), found])
    };
    let leftover = json!({"path": ["opened_by"], "patch": false, "old": "a", "new": "b"});
    let listed = |old: &str, new: &str| json!({"path": ["xform_ids", "[*]"], "patch": false, "old": old, "new": new});
    let first = form("p", &json!([leftover, listed("a", "x,y")]));
    for (found, patched) in [
        (mismatch("a", "p,x,y"), true),
        (mismatch("a", "y,x,p"), true),
        (mismatch("", "p"), true),
        (mismatch("a,b", "p,x,y"), false),
        (mismatch("a", "p,x,y,z"), false),
        (mismatch("a", "p,x"), false),
        (mismatch("", "p,x,y"), false),
    ] {
        assert_eq!(
            is_case_patched("c", &found, std::slice::from_ref(&first)),
            patched,
            "{found:?}"
        );
    }
    // The second patch met the first one among SQL's forms.
    let second = form("q", &json!([leftover, listed("a", "p,x,y,z")]));
    let both = [second, first];
    assert!(is_case_patched("c", &mismatch("a", "p,q,x,y,z"), &both));
    assert!(!is_case_patched("c", &mismatch("a", "p,q,x,z"), &both));
    assert!(!is_case_patched("d", &mismatch("a", "p,q,x,y,z"), &both));
}

#[test]
fn the_record_is_escaped_twice() {
    let found = diffs(&[
        json!({"type": "diff", "path": ["external_id"], "old_value": "<a & b>", "new_value": "x"}),
        extra_forms("p"),
    ]);
    let record = of_case(&json!([{"path": ["external_id"], "patch": false, "old": "<a & b>", "new": "y"}]));
    assert!(is_case_patched("c", &found, &[record]));
    for body in [json!({"diff": "{"}), json!({"diff": {}}), json!({"diff": "[]"})] {
        assert_eq!(PatchRecord::of_form(&body), PatchRecord::default(), "{body}");
    }
}

const LEDGER: &str = "c/stock/p";

fn transaction(quantity: Option<&str>, stock_on_hand: &str) -> StockTransactionRow {
    StockTransactionRow {
        ledger: LedgerRef {
            case_id: "c".to_owned(),
            section_id: "stock".to_owned(),
            entry_id: "p".to_owned(),
        },
        form_id: "f".to_owned(),
        kind: "receipts".to_owned(),
        server_date: Some(DateTime::UNIX_EPOCH),
        quantity: quantity.map(str::to_owned),
        stock_on_hand: stock_on_hand.to_owned(),
    }
}

fn of_ledger(entries: &Value) -> Vec<(String, PatchRecord)> {
    vec![(
        "patch".to_owned(),
        patch(&json!({"case_id": "c", "ledgers": {LEDGER: entries}})),
    )]
}

#[test]
fn a_patch_form_may_have_changed_the_ledger_last() {
    let facts = LedgerFacts {
        ledger: LEDGER,
        has_state: true,
        transactions: &[],
    };
    let by = |form_id: &str| {
        diffs(&[
            json!({"type": "diff", "path": ["last_modified"], "old_value": "1", "new_value": "2"}),
            json!({"type": "diff", "path": ["last_modified_form_id"], "old_value": "f", "new_value": form_id}),
        ])
    };
    assert!(is_ledger_patched(&by("patch"), &facts, &of_ledger(&json!([]))));
    assert!(!is_ledger_patched(&by("other"), &facts, &of_ledger(&json!([]))));
    assert!(!is_ledger_patched(&by("patch"), &facts, &[]));
    // Recorded differences go as well, here or in another ledger's list not.
    let recorded = json!([
        {"path": ["last_modified"], "patch": false, "old": "1", "new": "x"},
        {"path": ["last_modified_form_id"], "patch": false, "old": "f", "new": "x"},
    ]);
    assert!(is_ledger_patched(&by("other"), &facts, &of_ledger(&recorded)));
    let elsewhere = LedgerFacts {
        ledger: "c/stock/q",
        ..facts
    };
    assert!(!is_ledger_patched(&by("other"), &elsewhere, &of_ledger(&recorded)));
}

#[test]
fn a_balance_without_a_state_is_patched_while_the_transactions_stay_the_same() {
    let found = diffs(&[json!({"type": "diff", "path": ["balance"], "old_value": 34, "new_value": 3})]);
    let transactions = [transaction(Some("34.00000"), "34.00000"), transaction(None, "34.50000")];
    let recorded = json!([{"path": ["balance"], "patch": false, "old": 34, "new": 3, "couch_transactions": [
        {"form_id": "f", "type": "receipts", "delta": 34, "balance": 34},
        {"form_id": "f", "type": "receipts", "delta": null, "balance": 34.5},
    ]}]);
    let facts = |has_state, transactions| LedgerFacts {
        ledger: LEDGER,
        has_state,
        transactions,
    };
    assert!(is_ledger_patched(
        &found,
        &facts(false, &transactions),
        &of_ledger(&recorded)
    ));
    assert!(
        !is_ledger_patched(&found, &facts(false, &transactions[..1]), &of_ledger(&recorded)),
        "a transaction came since"
    );
    assert!(
        !is_ledger_patched(&found, &facts(true, &transactions), &of_ledger(&recorded)),
        "a form can set the balance"
    );
}

#[test]
fn a_ledger_that_couch_lacks_is_patched_when_it_is_recorded() {
    let old = json!({"form_state": "present"});
    let new = json!({"form_state": "present", "ledger": {"balance": 3}});
    let found = diffs(&[json!({"type": "missing", "path": ["*"], "old_value": old, "new_value": new})]);
    let facts = LedgerFacts {
        ledger: LEDGER,
        has_state: false,
        transactions: &[],
    };
    let recorded = json!([{"path": ["*"], "patch": false, "old": old, "new": {}}]);
    assert!(is_ledger_patched(&found, &facts, &of_ledger(&recorded)));
    // A ledger that SQL lacks can be patched by a form, and so is not.
    let swapped = diffs(&[json!({"type": "missing", "path": ["*"], "old_value": new, "new_value": old})]);
    let recorded = json!([{"path": ["*"], "patch": false, "old": new, "new": old}]);
    assert!(!is_ledger_patched(&swapped, &facts, &of_ledger(&recorded)));
    let consumption =
        diffs(&[json!({"type": "type", "path": ["daily_consumption"], "old_value": "1", "new_value": null})]);
    let recorded = json!([{"path": ["daily_consumption"], "patch": false, "old": "1", "new": null}]);
    assert!(!is_ledger_patched(&consumption, &facts, &of_ledger(&recorded)));
}
