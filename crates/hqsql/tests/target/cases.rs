use hqsql::{CaseCounts, Error, ErrorKind, MergeCounts};
use proto::effects::Relationship;
use proto::rows::{CaseBundle, LedgerTransactionRow};

use crate::database::{Fixture, SHARD, domain, soon, until_waiting};
use crate::rows::{attachment, case, form, ids, index, ledger_transaction, ledger_value, transaction};

async fn merge(fixture: &Fixture, cases: &[CaseBundle], absent: &[&str]) -> MergeCounts {
    let tx = fixture.begin().await;
    let counts = tx.merge_cases(cases, &ids(absent)).await.unwrap();
    tx.commit().await.unwrap();
    counts
}

const TABLES: [&str; 6] = [
    "form_processor_commcarecasesql",
    "form_processor_commcarecaseindexsql",
    "form_processor_caseattachmentsql",
    "form_processor_casetransaction",
    "form_processor_ledgervalue",
    "form_processor_ledgertransaction",
];

/// Id, place and writing transaction of every row: what changes when a row is touched.
async fn footprint(fixture: &Fixture) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for table in TABLES {
        found.push(
            fixture
                .rows(&format!("select id, ctid, xmin from {table} order by id"))
                .await,
        );
    }
    found
}

#[tokio::test]
async fn what_is_written_is_read_back() {
    let fixture = Fixture::new().await;
    let mut first = case("a");
    first.attachments = vec![attachment("face", 1), attachment("hand", 2)];
    first.indices[1].relationship = Relationship::Extension;
    let mut second = case("b");
    second.case.closed = true;
    second.case.closed_on = Some(crate::rows::at(9));
    second.case.deleted = true;
    second.indices.clear();
    let counts = merge(&fixture, &[first.clone(), second.clone()], &[]).await;
    assert_eq!(
        counts,
        MergeCounts {
            inserted: 2,
            children_inserted: 22,
            ..MergeCounts::default()
        }
    );
    let read = fixture.target.read_cases(&ids(&["b", "nobody", "a"])).await.unwrap();
    assert_eq!(read, [second, first]);
    assert_eq!(
        fixture.target.count_cases(&domain()).await.unwrap(),
        CaseCounts { live: 1, deleted: 1 }
    );
    let existing = fixture.target.existing_cases(&ids(&["a", "x"])).await.unwrap();
    assert_eq!(existing, [("a".to_owned(), "clinic".to_owned())].into());
}

#[tokio::test]
async fn the_same_merge_again_touches_nothing() {
    let fixture = Fixture::new().await;
    let mut cases: Vec<_> = (0..20).map(|number| case(&format!("c{number}"))).collect();
    cases[0].attachments = vec![attachment("face", 1)];
    merge(&fixture, &cases, &[]).await;
    let before = (footprint(&fixture).await, fixture.sequences().await);
    // The order in which a replay lists rows does not matter.
    for case in &mut cases {
        case.transactions.reverse();
        case.indices.reverse();
        case.ledger_transactions.reverse();
    }
    let counts = merge(&fixture, &cases, &["nobody"]).await;
    assert_eq!(
        counts,
        MergeCounts {
            unchanged: 20,
            ..MergeCounts::default()
        }
    );
    assert_eq!(before, (footprint(&fixture).await, fixture.sequences().await));
}

#[tokio::test]
async fn changed_and_vanished_children() {
    let fixture = Fixture::new().await;
    let mut one = case("a");
    one.attachments = vec![attachment("face", 1), attachment("hand", 2), attachment("foot", 3)];
    merge(&fixture, &[one.clone(), case("b")], &[]).await;
    let untouched = "select id, ctid, xmin from form_processor_casetransaction where case_id = 'b' order by id";
    let before = fixture.rows(untouched).await;

    one.indices = vec![index("parent", "p9"), index("ward", "w1")];
    // The same bytes under another name, another file under the same name, and one that goes.
    one.attachments = vec![attachment("portrait", 1), attachment("hand", 4)];
    one.transactions = vec![
        transaction(Some("f1"), 1, 65),
        transaction(Some("f3"), 4, 257),
        transaction(None, 3, 2),
        transaction(None, 5, 2),
    ];
    one.ledger_values = vec![ledger_value("aspirin", 6), ledger_value("soap", 1)];
    one.ledger_transactions = vec![
        ledger_transaction("aspirin", 5),
        ledger_transaction("gauze", 2),
        ledger_transaction("gauze", 3),
    ];
    let counts = merge(&fixture, &[one.clone(), case("b")], &[]).await;
    assert_eq!(
        fixture.target.read_cases(&ids(&["a", "b"])).await.unwrap().last(),
        Some(&case("b"))
    );
    assert_eq!(
        counts,
        MergeCounts {
            unchanged: 2,
            // index parent; attachments 1 and hand; transaction f1; ledger aspirin
            children_updated: 5,
            // ward; f3, the rebuild at 5; soap; gauze 3
            children_inserted: 5,
            // host; foot; f2, one of the rebuilds at 3; ledger gauze; one of the gauze 2
            children_deleted: 6,
            ..MergeCounts::default()
        }
    );
    assert_eq!(fixture.rows(untouched).await, before);
    let rows = |table: &'static str, columns: &'static str| {
        let query = format!("select id, {columns} from {table} where case_id = 'a' order by id");
        let fixture = &fixture;
        async move { fixture.rows(&query).await }
    };
    assert_eq!(
        rows("form_processor_commcarecaseindexsql", "identifier, referenced_id").await,
        ["1|parent|p9", "5|ward|w1"]
    );
    assert_eq!(
        rows("form_processor_caseattachmentsql", "name, blob_id").await,
        ["1|portrait|key-1", "2|hand|key-4"]
    );
    assert_eq!(
        rows("form_processor_casetransaction", "form_id, type").await,
        ["1|f1|65", "3|-|2", "9|f3|257", "10|-|2"]
    );
    assert_eq!(
        rows("form_processor_ledgervalue", "entry_id, balance").await,
        ["1|aspirin|6", "5|soap|1"]
    );
    assert_eq!(
        rows("form_processor_ledgertransaction", "entry_id, delta").await,
        ["1|aspirin|5", "2|gauze|2", "7|gauze|3"]
    );
    // And it is settled.
    assert_eq!(
        merge(&fixture, &[one, case("b")], &[]).await,
        MergeCounts {
            unchanged: 2,
            ..MergeCounts::default()
        }
    );
}

#[tokio::test]
async fn names_of_attachments_may_be_exchanged() {
    let fixture = Fixture::new().await;
    let mut one = case("a");
    one.attachments = vec![attachment("face", 1), attachment("hand", 2)];
    merge(&fixture, &[one.clone()], &[]).await;
    one.attachments = vec![attachment("hand", 1), attachment("face", 2)];
    let counts = merge(&fixture, &[one.clone()], &[]).await;
    assert_eq!(
        (
            counts.children_updated,
            counts.children_inserted,
            counts.children_deleted
        ),
        (2, 0, 0)
    );
    assert_eq!(fixture.target.read_cases(&ids(&["a"])).await.unwrap(), [one]);
}

#[tokio::test]
async fn consumption_that_hq_computed_stays() {
    let fixture = Fixture::new().await;
    let mut one = case("a");
    merge(&fixture, &[one.clone()], &[]).await;
    let computed = "update form_processor_ledgervalue set daily_consumption = 1.5 where entry_id = 'aspirin'";
    fixture.session().await.batch_execute(computed).await.unwrap();
    one.ledger_values[0].balance = 9;
    merge(&fixture, &[one], &[]).await;
    let rows = fixture
        .rows("select balance, daily_consumption from form_processor_ledgervalue order by id")
        .await;
    assert_eq!(rows, ["9|1.50000", "2|-"]);
}

#[tokio::test]
async fn absent_cases_go_with_their_children_and_others_stay() {
    let fixture = Fixture::new().await;
    let mut one = case("a");
    one.attachments = vec![attachment("face", 1)];
    merge(&fixture, &[one, case("b")], &[]).await;
    fixture
        .session()
        .await
        .batch_execute("update form_processor_commcarecasesql set domain = 'other' where case_id = 'b'")
        .await
        .unwrap();
    // b is another domain's: not ours to delete.
    let counts = merge(&fixture, &[case("c")], &["a", "b", "nobody"]).await;
    assert_eq!((counts.inserted, counts.deleted, counts.children_deleted), (1, 1, 12));
    for table in TABLES {
        let left = fixture
            .rows(&format!("select distinct case_id from {table} order by 1"))
            .await;
        let expected: &[&str] = if table.contains("attachment") { &[] } else { &["b", "c"] };
        assert_eq!(left, expected, "{table}");
    }
}

#[tokio::test]
async fn a_case_of_another_domain_is_refused_and_nothing_written() {
    let fixture = Fixture::new().await;
    merge(&fixture, &[case("a"), case("b")], &[]).await;
    fixture
        .session()
        .await
        .batch_execute("update form_processor_commcarecasesql set domain = 'other' where case_id = 'a'")
        .await
        .unwrap();
    let before = footprint(&fixture).await;
    let mut changed = case("b");
    changed.transactions.clear();
    let tx = fixture.begin().await;
    let error = tx
        .merge_cases(&[case("a"), changed, case("new")], &[])
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::ForeignParent { ids } if *ids == ["a"]),
        "{error}"
    );
    assert_eq!(
        tx.case_owners(&ids(&["a"])).await.unwrap(),
        [("a".to_owned(), "other".to_owned())].into()
    );
    tx.commit().await.unwrap();
    assert_eq!(footprint(&fixture).await, before);
}

#[tokio::test]
async fn unstorable_values_are_found_before_anything_is_written() {
    let fixture = Fixture::new().await;
    let mut name = case("b");
    name.case.name = Some("x".repeat(256));
    let mut subtype = case("b");
    subtype.ledger_transactions[0].user_defined_type = Some("x".repeat(21));
    let mut entry = case("b");
    entry.ledger_values[0].entry_id = "x".repeat(101);
    let mut json = case("b");
    json.case.case_json = "\0".to_owned();
    let mut kind = case("b");
    kind.transactions[0].kind = -1;
    let mut identifier = case("b");
    identifier.indices[0].identifier = "x".repeat(256);
    for (bad, column) in [
        (name, "name"),
        (subtype, "user_defined_type"),
        (entry, "entry_id"),
        (json, "case_json"),
        (kind, "type"),
        (identifier, "identifier"),
    ] {
        assert_eq!(hqsql::check_case(&bad).unwrap_err().column, column);
        let tx = fixture.begin().await;
        let error = tx.merge_cases(&[case("a"), bad], &[]).await.unwrap_err();
        assert!(
            matches!(&error, Error::Row { document, .. } if document == "b"),
            "{error}"
        );
    }
    assert!(!fixture.target.has_rows(&domain()).await.unwrap());
}

#[tokio::test]
async fn a_bucket_has_one_writer_at_a_time() {
    let fixture = Fixture::new().await;
    let (first, second) = (fixture.begin().await, fixture.begin().await);
    first.lock_buckets(&domain(), &[9, 3]).await.unwrap();
    // Other buckets, and the same ones of another domain, are free.
    second.lock_buckets(&domain(), &[4]).await.unwrap();
    second.lock_buckets(&"other".into(), &[3, 9]).await.unwrap();
    let waiting = tokio::spawn(async move {
        second.lock_buckets(&domain(), &[3]).await.unwrap();
        let counts = second.merge_cases(&[case("a")], &[]).await.unwrap();
        second.commit().await.unwrap();
        counts
    });
    until_waiting(&fixture.session().await, 1).await;
    assert!(!waiting.is_finished());
    first.merge_cases(&[case("a")], &[]).await.unwrap();
    first.commit().await.unwrap();
    assert_eq!(soon("the second writer", waiting).await.unwrap().unchanged, 1);
}

#[tokio::test]
async fn pages_have_cases_of_the_domain_only() {
    let fixture = Fixture::new().await;
    merge(&fixture, &[case("c"), case("a"), case("b")], &[]).await;
    let tx = fixture.begin().await;
    tx.merge_forms(&[form("a")]).await.unwrap();
    tx.commit().await.unwrap();
    let shard = SHARD(&fixture.target);
    assert_eq!(
        fixture.target.case_ids_after(shard, &domain(), None, 2).await.unwrap(),
        ids(&["a", "b"])
    );
    assert_eq!(
        fixture
            .target
            .case_ids_after(shard, &domain(), Some("b"), 2)
            .await
            .unwrap(),
        ids(&["c"])
    );
    assert!(
        fixture
            .target
            .case_ids_after(shard, &domain(), Some("c"), 2)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn an_index_that_hq_never_writes_is_reported() {
    let fixture = Fixture::new().await;
    merge(&fixture, &[case("a")], &[]).await;
    fixture
        .session()
        .await
        .batch_execute("update form_processor_commcarecaseindexsql set relationship_id = 9")
        .await
        .unwrap();
    let error = fixture.target.read_cases(&ids(&["a"])).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.document(), error.code()),
        (ErrorKind::Document, Some("a"), "C2S-1410")
    );
}

/// A case as it stands after the form `form_id`, with the transactions of that form only.
fn grown(mut case: CaseBundle, form_id: &str, second: i64) -> CaseBundle {
    case.case.server_modified_on = crate::rows::at(second);
    case.case.case_json = format!("{{\"last\":\"{form_id}\"}}");
    case.transactions = vec![transaction(Some(form_id), second, 1)];
    case.ledger_transactions = vec![LedgerTransactionRow {
        form_id: form_id.to_owned(),
        ..ledger_transaction("aspirin", second)
    }];
    case.ledger_values = vec![ledger_value("aspirin", 9)];
    case
}

#[tokio::test]
async fn a_grown_case_keeps_the_transactions_of_other_forms() {
    let fixture = Fixture::new().await;
    let before = case("a");
    merge(&fixture, &[before.clone(), case("b")], &[]).await;
    let old =
        "select id, ctid, xmin from form_processor_casetransaction where coalesce(form_id, '') <> 'f9' order by id";
    let untouched = fixture.rows(old).await;
    let grow = async |case: &CaseBundle| {
        let tx = fixture.begin().await;
        let counts = tx.grow_cases(std::slice::from_ref(case)).await.unwrap();
        tx.commit().await.unwrap();
        counts
    };
    let after = grown(before.clone(), "f9", 9);
    let counts = grow(&after).await;
    assert_eq!(
        counts,
        MergeCounts {
            updated: 1,
            children_inserted: 2,
            children_updated: 1,
            children_deleted: 1,
            ..MergeCounts::default()
        }
    );
    let whole = CaseBundle {
        transactions: [before.transactions, after.transactions.clone()].concat(),
        ledger_transactions: [before.ledger_transactions, after.ledger_transactions.clone()].concat(),
        ..after.clone()
    };
    let mut read = fixture.target.read_cases(&ids(&["a", "b"])).await.unwrap();
    assert_eq!(read.pop(), Some(case("b")));
    assert_eq!(read.pop(), Some(whole.clone()));
    assert_eq!(fixture.rows(old).await, untouched);
    // As after a worker that died before it could say that it was done: the same again, or something else of the same form.
    assert_eq!(
        grow(&after).await,
        MergeCounts {
            unchanged: 1,
            ..MergeCounts::default()
        }
    );
    let mut other = after.clone();
    other.transactions[0].kind = 129;
    let counts = grow(&other).await;
    assert_eq!(
        (counts.unchanged, counts.children_inserted, counts.children_updated),
        (1, 0, 1)
    );
    // A merge of the whole case finds nothing to do.
    let mut whole = whole;
    whole.transactions.last_mut().unwrap().kind = 129;
    assert_eq!(merge(&fixture, &[whole], &[]).await.children_updated, 0);
}

#[tokio::test]
async fn only_a_stored_case_grows() {
    let fixture = Fixture::new().await;
    let tx = fixture.begin().await;
    let refused = tx.grow_cases(&[grown(case("a"), "f9", 9)]).await.unwrap_err();
    assert!(matches!(refused, Error::Misplaced { .. }), "{refused:?}");
    tx.rollback().await.unwrap();
    assert!(
        fixture
            .rows("select case_id from form_processor_casetransaction")
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn a_case_is_told_from_what_it_was() {
    let fixture = Fixture::new().await;
    merge(&fixture, &[case("a"), case("b"), case("c")], &[]).await;
    let mut changed = case("b").case;
    changed.case_json = r#"{"age":"8"}"#.to_owned();
    let mut foreign = case("c").case;
    foreign.domain = "other".to_owned();
    let tx = fixture.begin().await;
    let asked = [case("a").case, changed, foreign, case("d").case];
    assert_eq!(tx.stored_as(&asked).await.unwrap(), ["a".to_owned()].into());
    tx.rollback().await.unwrap();
}
