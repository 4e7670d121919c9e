//! A supply chain: its forms are added up again from their XML, its stock tables from their own rows, and both must give
//! what the model says.
#![allow(clippy::unwrap_used, reason = "tests")]

mod reading;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use generator::ledger_damage::{self, Hurt};
use generator::stock::Quantity;
use generator::supply::{self, SupplyOptions, SupplyWeights};
use generator::{GeneratedDomain, LedgerDiff};

use crate::reading::{changes, report_date, xml_of};

/// A year of a small district, with everything often.
fn options() -> SupplyOptions {
    SupplyOptions {
        locations: 14,
        products: 4,
        weeks: 30,
        ..SupplyOptions::new("agreement", 5)
    }
}

/// Ids of the forms that count, in the order in which they count.
fn counting(domain: &GeneratedDomain) -> Vec<&serde_json::Value> {
    let mut forms: Vec<_> = domain
        .docs
        .iter()
        .filter(|doc| {
            doc["doc_type"] == "XFormInstance"
                && doc.get("problem").is_none()
                && doc["initial_processing_complete"] != false
        })
        .collect();
    forms.sort_by_key(|doc| {
        let text = |key: &str| doc[key].as_str().unwrap().to_owned();
        (text("received_on"), text("_id"))
    });
    forms
}

#[test]
fn ledgers_are_what_the_xml_of_the_forms_adds_up_to() {
    let domain = supply::generate(&options());
    let mut fractions = 0;
    let mut balances: BTreeMap<(String, String, String), (i64, String)> = BTreeMap::new();
    let mut transactions: BTreeMap<(String, String, String), Vec<serde_json::Value>> = BTreeMap::new();
    let mut touched: BTreeMap<(String, String), bool> = BTreeMap::new();
    for doc in counting(&domain) {
        let (id, received_on) = (doc["_id"].as_str().unwrap(), doc["received_on"].as_str().unwrap());
        // Within a form fractions count, afterwards they are gone.
        let mut running: BTreeMap<(String, String, String), f64> = BTreeMap::new();
        for change in changes(xml_of(&domain, doc)) {
            let (balance, last) = balances.entry(change.key.clone()).or_default();
            let exact = running.entry(change.key.clone()).or_insert(*balance as f64);
            let before = *exact;
            *exact = if change.is_balance {
                change.quantity
            } else {
                before + change.quantity
            };
            fractions += usize::from(exact.fract() != 0.0);
            *balance = exact.trunc() as i64;
            let delta = (*exact - before).trunc() as i64;
            id.clone_into(last);
            let date = change
                .date
                .as_deref()
                .map_or_else(|| report_date(received_on), report_date);
            touched.insert((change.key.0.clone(), id.to_owned()), true);
            transactions.entry(change.key).or_default().push(serde_json::json!([
                id,
                if change.is_balance { 1 } else { 2 },
                date,
                change.subtype,
                delta,
                *balance
            ]));
        }
    }
    assert!(fractions > 10);
    assert!(balances.len() > 100 && transactions.values().map(Vec::len).sum::<usize>() > 1500);

    let mut modelled = BTreeMap::new();
    let mut modelled_transactions: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for case in domain.model.cases.values() {
        for value in &case.ledger_values {
            let key = (case.case_id.clone(), value.section_id.clone(), value.entry_id.clone());
            let last = value.last_modified_form_id.clone().unwrap();
            modelled.insert(key, (i64::from(value.balance), last));
        }
        for row in &case.ledger_transactions {
            let key = (case.case_id.clone(), row.section_id.clone(), row.entry_id.clone());
            modelled_transactions.entry(key).or_default().push(serde_json::json!([
                row.form_id,
                row.kind,
                row.report_date,
                row.user_defined_type,
                row.delta,
                row.updated_balance
            ]));
        }
        for row in &case.transactions {
            let form_id = row.form_id.clone().unwrap();
            let by_ledger = touched.contains_key(&(case.case_id.clone(), form_id));
            assert_eq!(row.kind & 64 != 0, by_ledger, "{row:?}");
            assert!(row.kind != 65 || row.client_date.is_some() || row.sync_log_id.is_none());
        }
    }
    assert_eq!(modelled, balances);
    assert_eq!(modelled_transactions, transactions);
}

#[test]
fn couch_documents_list_every_form_that_changed_stock() {
    let domain = supply::generate(&options());
    let mut marks = 0;
    for doc in domain.docs.iter().filter(|doc| doc["doc_type"] == "CommCareCase") {
        assert_eq!(doc["type"], "supply-point");
        let case = &domain.model.cases[doc["_id"].as_str().unwrap()];
        let ids: BTreeSet<&str> = doc["xform_ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_str().unwrap())
            .collect();
        let forms: BTreeSet<&str> = case
            .transactions
            .iter()
            .filter_map(|row| row.form_id.as_deref())
            .collect();
        assert_eq!(ids, forms);
        marks += doc["actions"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|action| action["action_type"] == "commtrack" && action["sync_log_id"] == "")
            .count();
    }
    assert!(marks > 400);
}

/// The latest transaction of each ledger, by the dates of the reports, then by id.
fn latest(domain: &GeneratedDomain) -> BTreeMap<String, (Quantity, String, DateTime<Utc>)> {
    let reports: BTreeMap<i32, _> = domain.stock.reports.iter().map(|report| (report.id, report)).collect();
    let mut rows: Vec<_> = domain.stock.transactions.iter().collect();
    rows.sort_by_key(|row| (reports[&row.report_id].date, row.id));
    rows.into_iter()
        .map(|row| {
            let report = reports[&row.report_id];
            let reference = format!("{}/{}/{}", row.case_id, row.section_id, row.product_id);
            (
                reference,
                (row.stock_on_hand, report.form_id.clone(), report.server_date.unwrap()),
            )
        })
        .collect()
}

#[test]
fn states_follow_the_latest_report_and_the_differences_are_known() {
    let domain = supply::generate(&options());
    let latest = latest(&domain);
    let states: BTreeMap<String, _> = domain
        .stock
        .states
        .iter()
        .map(|state| {
            let last = (
                state.stock_on_hand,
                state.last_modified_form_id.clone().unwrap(),
                state.last_modified_date,
            );
            (state.reference(), last)
        })
        .collect();
    assert_eq!(states, latest);

    let mut differing = BTreeSet::new();
    for case in domain.model.cases.values() {
        for value in &case.ledger_values {
            let reference = format!("{}/{}/{}", case.case_id, value.section_id, value.entry_id);
            let (stock, form_id, _) = &states[&reference];
            if stock.trunc() != i64::from(value.balance) {
                differing.insert((reference.clone(), "balance"));
            }
            if Some(form_id) != value.last_modified_form_id.as_ref() {
                differing.insert((reference.clone(), "last_modified_form_id"));
                differing.insert((reference, "last_modified"));
            }
        }
    }
    let modelled: BTreeSet<(String, &str)> = domain
        .model
        .ledger_diffs
        .iter()
        .filter(|diff| diff.path != "daily_consumption")
        .map(|diff| (diff.reference.clone(), diff.path))
        .collect();
    assert_eq!(modelled, differing);
    let count = |path: &str| {
        domain
            .model
            .ledger_diffs
            .iter()
            .filter(|diff| diff.path == path)
            .count()
    };
    assert!(count("balance") > 0 && count("last_modified_form_id") > 0 && count("daily_consumption") > 0);
    let values: usize = domain.model.cases.values().map(|case| case.ledger_values.len()).sum();
    assert_eq!(states.len(), values);
}

#[test]
fn an_orderly_supply_chain_has_nothing_to_report() {
    for seed in 0..4 {
        let domain = supply::generate(&SupplyOptions {
            locations: 11,
            weeks: 20,
            seed,
            weights: SupplyWeights::orderly(),
            ..options()
        });
        assert_eq!(domain.model.ledger_diffs, Vec::<LedgerDiff>::new());
        assert!(domain.model.doc_counts["XFormDeprecated"] > 0 && domain.model.doc_counts["XFormArchived"] > 0);
    }
}

#[test]
fn everything_happens_in_a_supply_chain() {
    let domain = supply::generate(&options());
    for doc_type in [
        "XFormInstance",
        "XFormDeprecated",
        "XFormDuplicate",
        "XFormArchived",
        "XFormError",
        "XFormInstance-Deleted",
        "CommCareCase",
    ] {
        assert!(domain.model.doc_counts.contains_key(doc_type), "no {doc_type}");
    }
    let cases = || domain.model.cases.values();
    let kinds: BTreeSet<i16> = cases()
        .flat_map(|case| &case.transactions)
        .map(|row| row.kind)
        .collect();
    assert_eq!(kinds, BTreeSet::from([65, 129, 193]));
    let rows = || cases().flat_map(|case| &case.ledger_transactions);
    assert!(rows().any(|row| row.updated_balance < 0), "no negative balance");
    assert!(
        rows().any(|row| row.kind == 1 && row.updated_balance == 0),
        "no stockout"
    );
    assert!(
        rows().any(|row| row.report_date == row.server_date),
        "no block without date"
    );
    assert!(rows().any(|row| {
        row.user_defined_type
            .as_ref()
            .is_some_and(|text| text.chars().count() == 20)
    }));
    let sections: BTreeSet<&str> = rows().map(|row| row.section_id.as_str()).collect();
    assert_eq!(sections.len(), 3);
    let kinds: BTreeSet<&str> = domain.stock.transactions.iter().map(|row| row.kind).collect();
    assert_eq!(
        kinds,
        BTreeSet::from(["consumption", "receipts", "stockonhand", "stockout"])
    );
    assert!(
        domain
            .stock
            .transactions
            .iter()
            .any(|row| row.subtype.as_deref() == Some("_inferred"))
    );
    assert!(domain.stock.states.iter().any(|state| state.sql_location_id.is_none()));
    assert!(domain.stock.products.iter().any(|product| product.is_archived));
    assert!(domain.stock.locations.iter().any(|location| location.is_archived));
    let xml = domain.blobs.iter().map(|(_, bytes)| String::from_utf8_lossy(bytes));
    let all = xml.collect::<String>();
    for spelling in [
        "<ledger:transfer",
        "<balance",
        "<value",
        "date=\"\"",
        "date=''",
        "http://commtrack.org/stock_report",
    ] {
        assert!(all.contains(spelling), "{spelling} nowhere");
    }
}

#[test]
fn the_same_options_give_the_same_supply_chain() {
    let (one, other) = (supply::generate(&options()), supply::generate(&options()));
    assert_eq!(one.docs, other.docs);
    assert_eq!(one.blobs, other.blobs);
    assert_eq!(one.stock, other.stock);
    assert_eq!(one.model, other.model);
    let seed = options().seed + 1;
    assert_ne!(one.docs, supply::generate(&SupplyOptions { seed, ..options() }).docs);
}

#[test]
fn pieces_stand_alone_and_ids_are_given_once() {
    let mut ids: [BTreeSet<i32>; 4] = Default::default();
    let mut pieces = 0;
    for piece in supply::stream(&SupplyOptions {
        locations: 27,
        weeks: 3,
        ..options()
    }) {
        pieces += 1;
        let reports: BTreeSet<i32> = piece.stock.reports.iter().map(|row| row.id).collect();
        let cases = &piece.model.cases;
        for row in &piece.stock.transactions {
            assert!(reports.contains(&row.report_id) && cases.contains_key(&row.case_id));
            assert!(ids[0].insert(row.id));
        }
        assert!(piece.stock.reports.iter().all(|row| ids[1].insert(row.id)));
        assert!(piece.stock.states.iter().all(|row| ids[2].insert(row.id)));
        assert!(piece.stock.locations.iter().all(|row| ids[3].insert(row.id)));
        assert_eq!(piece.stock.products.len(), if pieces == 1 { 4 } else { 0 });
    }
    assert_eq!(pieces, 3);
}

#[test]
fn a_year_of_a_thousand_locations_comes_in_pieces_of_bounded_size() {
    let options = SupplyOptions {
        locations: 1000,
        products: 50,
        weeks: 52,
        ..options()
    };
    for piece in supply::stream(&options).take(2) {
        let bytes: usize = piece.blobs.iter().map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(piece.model.cases.len(), 10);
        assert!(
            (700..1000).contains(&piece.docs.len()),
            "{} documents",
            piece.docs.len()
        );
        assert!((30_000..90_000).contains(&piece.stock.transactions.len()));
        assert!(bytes < 16 << 20, "{bytes} bytes of forms");
    }
}

#[test]
fn a_domain_of_households_has_no_stock() {
    let domain = generator::generate(&generator::Options::new("households", 300, 3));
    assert!(domain.stock.is_empty() && domain.model.ledger_diffs.is_empty());
    assert!(domain.model.cases.values().all(|case| case.ledger_values.is_empty()));
}

#[test]
fn damage_hurts_one_ledger_each_and_says_how() {
    let whole = supply::generate(&options());
    let mut domain = whole.clone();
    let mut spared = BTreeSet::new();
    let mut hurts: Vec<Hurt> = Vec::new();
    for (seed, damage) in [
        ledger_damage::change_balance,
        ledger_damage::change_last_form,
        ledger_damage::set_consumption,
        ledger_damage::drop_state,
        ledger_damage::drop_state_and_transactions,
        ledger_damage::add_state,
        ledger_damage::duplicate_transaction,
    ]
    .into_iter()
    .enumerate()
    {
        let hurt = damage(&mut domain, seed as u64, &spared).unwrap();
        assert!(spared.insert(hurt.reference.clone()), "{hurt:?} was hurt before");
        hurts.push(hurt);
    }
    let paths: Vec<_> = hurts
        .iter()
        .map(|hurt| hurt.diffs.first().map(|diff| (diff.path, diff.reason.is_some())))
        .collect();
    assert_eq!(
        paths,
        [
            Some(("balance", false)),
            Some(("last_modified_form_id", false)),
            Some(("daily_consumption", false)),
            None,
            Some(("*", true)),
            Some(("*", false)),
            Some(("balance", true)),
        ]
    );
    let untouched = |domain: &GeneratedDomain| -> Vec<_> {
        let states = domain
            .stock
            .states
            .iter()
            .filter(|state| !spared.contains(&state.reference()));
        states.cloned().collect()
    };
    assert_eq!(untouched(&whole), untouched(&domain));
    let (balance, duplicate) = (&hurts[0].diffs[0], &hurts[6].diffs[0]);
    assert!(balance.old != balance.new && duplicate.old != duplicate.new);
}
