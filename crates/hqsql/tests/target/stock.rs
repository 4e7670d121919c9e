use std::collections::{BTreeSet, HashMap};

use hqsql::StockStates;
use proto::ids::Domain;
use proto::stock::{LedgerRef, RepeatedReport, StockStateRow, StockTransactionRow};

use crate::database::{Fixture, domain, two_shards};
use crate::rows::{at, ids};

/// Two products, one of them archived; a clinic, an archived clinic; and what cases `a` to `d` have of them.
const STOCK: &str = "
insert into products_sqlproduct (id, domain, product_id, is_archived, product_data, created_at, last_modified) values
    (1, 'clinic', 'soap', false, '{}', now(), now()), (2, 'clinic', 'rope', true, '{}', now(), now()),
    (3, 'bare', 'salt', false, '{}', now(), now());
insert into locations_sqllocation (id, domain, location_id, site_code, metadata, created_at, last_modified, is_archived,
    stocks_all_products, supply_point_id, location_type_id, user_id) values
    (1, 'clinic', 'here', 'h', '{}', now(), now(), false, true, 'a', 1, ''),
    (2, 'clinic', 'gone', 'g', '{}', now(), now(), true, true, 'b', 1, '');
insert into stock_docdomainmapping values ('a', 'CommCareCase', 'clinic');
insert into commtrack_stockstate (id, section_id, case_id, product_id, stock_on_hand, daily_consumption,
    last_modified_date, last_modified_form_id, sql_product_id, sql_location_id) values
    (11, 'stock', 'a', 'soap', 7.5, 1.25, '2017-07-14 02:40:01.123456Z', 'f1', 1, 1),
    (12, 'stock', 'a', 'rope', 3, null, '2017-07-14 02:40:01.123456Z', 'f1', 2, 1),
    (13, 'stock', 'b', 'soap', 4, null, '2017-07-14 02:40:01.123456Z', null, 1, 2),
    (14, 'stock', 'c', 'soap', -2, null, '2017-07-14 02:40:01.123456Z', null, 1, null);
insert into stock_stockreport (id, form_id, date, type, domain, server_date) values
    (21, 'f1', '2020-01-02Z', 'balance', 'clinic', '2017-07-14 02:40:05.123456Z'),
    (22, 'f2', '2020-01-02Z', 'balance', 'clinic', '2017-07-14 02:40:06.123456Z'),
    (23, 'f3', '2020-01-01Z', 'transfer', 'clinic', null);
insert into stock_stocktransaction (id, report_id, sql_product_id, section_id, case_id, product_id, type, subtype,
    quantity, stock_on_hand) values
    (31, 23, 1, 'stock', 'd', 'soap', 'receipts', null, 5, 5),
    (32, 21, 1, 'stock', 'd', 'soap', 'stockonhand', null, 0, 9),
    (33, 22, 1, 'stock', 'd', 'soap', 'stockonhand', null, 0, 8),
    (34, 22, 1, 'stock', 'd', 'soap', 'consumption', '_inferred', -1, 8),
    (35, 21, 1, 'other', 'd', 'soap', 'stockonhand', null, null, 1.75);
";

fn ledger(case_id: &str, section_id: &str, entry_id: &str) -> LedgerRef {
    LedgerRef {
        case_id: case_id.to_owned(),
        section_id: section_id.to_owned(),
        entry_id: entry_id.to_owned(),
    }
}

fn named(states: &[StockStateRow]) -> Vec<String> {
    states.iter().map(|state| state.ledger.to_string()).collect()
}

#[tokio::test]
async fn states_are_read_as_hq_shows_them_or_all() {
    let fixture = Fixture::new().await;
    fixture.session().await.batch_execute(STOCK).await.unwrap();
    let all = ids(&["a", "b", "c", "d", "nobody"]);
    let shown = fixture.target.stock_states(&all, StockStates::Shown).await.unwrap();
    assert_eq!(named(&shown), ["a/stock/soap", "c/stock/soap"]);
    assert_eq!(
        shown[0],
        StockStateRow {
            id: 11,
            ledger: ledger("a", "stock", "soap"),
            stock_on_hand: "7.50000".to_owned(),
            daily_consumption: Some("1.25000".to_owned()),
            last_modified_date: at(1),
            last_modified_form_id: Some("f1".to_owned()),
            location_id: Some("here".to_owned()),
            domain: Some("clinic".to_owned()),
        }
    );
    assert_eq!(
        (&shown[1].location_id, &shown[1].domain, shown[1].stock_on_hand.as_str()),
        (&None, &None, "-2.00000")
    );
    let every = fixture
        .target
        .stock_states(&all, StockStates::WithArchived)
        .await
        .unwrap();
    assert_eq!(
        named(&every),
        ["a/stock/rope", "a/stock/soap", "b/stock/soap", "c/stock/soap"]
    );
    let locations = fixture.target.supply_point_locations(&all).await.unwrap();
    assert_eq!(
        locations,
        HashMap::from([("a".to_owned(), "here".to_owned()), ("b".to_owned(), "gone".to_owned())])
    );
}

#[tokio::test]
async fn the_latest_transaction_is_that_of_the_latest_report_and_then_the_last_one() {
    let fixture = Fixture::new().await;
    fixture.session().await.batch_execute(STOCK).await.unwrap();
    let case = ids(&["d"]);
    let latest = fixture.target.latest_stock_transactions(&case).await.unwrap();
    assert_eq!(
        latest,
        [
            StockTransactionRow {
                ledger: ledger("d", "other", "soap"),
                form_id: "f1".to_owned(),
                kind: "stockonhand".to_owned(),
                server_date: Some(at(5)),
                quantity: None,
                stock_on_hand: "1.75000".to_owned(),
            },
            StockTransactionRow {
                ledger: ledger("d", "stock", "soap"),
                form_id: "f2".to_owned(),
                kind: "consumption".to_owned(),
                server_date: Some(at(6)),
                quantity: Some("-1.00000".to_owned()),
                stock_on_hand: "8.00000".to_owned(),
            },
        ]
    );
    let history = fixture.target.stock_transactions(&case).await.unwrap();
    let order: Vec<(&str, &str)> = history
        .iter()
        .map(|row| (row.ledger.section_id.as_str(), row.stock_on_hand.as_str()))
        .collect();
    assert_eq!(
        order,
        [
            ("other", "1.75000"),
            ("stock", "5.00000"),
            ("stock", "9.00000"),
            ("stock", "8.00000"),
            ("stock", "8.00000"),
        ]
    );
    assert_eq!(history[1].server_date, None);
    let forms = fixture.target.stock_forms(&case).await.unwrap();
    let named: BTreeSet<(String, String)> = history
        .into_iter()
        .map(|row| (row.ledger.case_id, row.form_id))
        .collect();
    assert_eq!(forms, named.into_iter().collect::<Vec<_>>(), "each form once, in order");
    assert_eq!(
        fixture.target.repeated_stock_reports(&case).await.unwrap(),
        [RepeatedReport {
            ledger: ledger("d", "stock", "soap"),
            form_id: "f2".to_owned(),
            report_type: "balance".to_owned(),
            transactions: 2,
        }]
    );
}

#[tokio::test]
async fn a_domain_has_stock_when_a_product_of_its_own_was_ever_counted() {
    let fixture = Fixture::new().await;
    assert!(!fixture.target.has_stock(&domain()).await.unwrap());
    fixture.session().await.batch_execute(STOCK).await.unwrap();
    assert!(fixture.target.has_stock(&domain()).await.unwrap());
    assert!(!fixture.target.has_stock(&Domain::new("bare")).await.unwrap());
    assert!(!fixture.target.has_stock(&Domain::new("unknown")).await.unwrap());
}

#[tokio::test]
async fn absent_tables_count_as_empty() {
    let fixture = Fixture::new().await;
    let drop = "drop table stock_stocktransaction, commtrack_stockstate, stock_stockreport, stock_docdomainmapping";
    fixture.session().await.batch_execute(drop).await.unwrap();
    let case = ids(&["a"]);
    assert!(!fixture.target.has_stock(&domain()).await.unwrap());
    let states = fixture.target.stock_states(&case, StockStates::Shown).await.unwrap();
    assert_eq!(states, []);
    assert_eq!(fixture.target.latest_stock_transactions(&case).await.unwrap(), []);
    assert_eq!(fixture.target.stock_transactions(&case).await.unwrap(), []);
    assert_eq!(fixture.target.repeated_stock_reports(&case).await.unwrap(), []);
    assert_eq!(fixture.target.stock_forms(&case).await.unwrap(), []);
    assert!(fixture.target.supply_point_locations(&case).await.unwrap().is_empty());
    fixture.target.check_tables().await.unwrap();
}

#[tokio::test]
async fn daily_consumption_and_foreign_domains_are_found_on_every_shard() {
    let (target, databases) = two_shards().await;
    let cases: Vec<String> = (0..8).map(|number| format!("case-{number}")).collect();
    for case in &cases {
        let shard = target.shard_of(case);
        let place = target.shards().position(|one| one == shard).unwrap();
        databases[place + 1]
            .session()
            .await
            .batch_execute(&format!(
                "insert into form_processor_commcarecasesql (case_id, domain, type, owner_id, modified_on,
                     server_modified_on, modified_by, closed, deleted, case_json)
                 values ('{case}', 'clinic', '', '', now(), now(), '', false, false, '{{}}');
                 insert into form_processor_ledgervalue
                     (domain, case_id, entry_id, section_id, balance, last_modified, daily_consumption)
                 values ('clinic', '{case}', 'soap', 'stock', 1, now(), 0.5),
                        ('other', '{case}', 'rope', 'stock', 1, now(), null)"
            ))
            .await
            .unwrap();
    }
    let foreign = target.foreign_ledgers(&cases).await.unwrap();
    let rope = |case: &String| (ledger(case, "stock", "rope"), "other".to_owned());
    assert_eq!(foreign, cases.iter().map(rope).collect());
    let found = target.daily_consumptions(&cases).await.unwrap();
    let expected: HashMap<LedgerRef, String> = cases
        .iter()
        .map(|case| (ledger(case, "stock", "soap"), "0.50000".to_owned()))
        .collect();
    assert_eq!(found, expected);
}
