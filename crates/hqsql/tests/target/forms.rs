use hqsql::{Error, ErrorKind, MergeCounts};
use proto::rows::FormBundle;

use crate::database::{EPOCH, Fixture, SHARD, domain, soon, until_waiting};
use crate::rows::{form, ids, operation};

async fn merge(fixture: &Fixture, forms: &[FormBundle]) -> MergeCounts {
    let tx = fixture.begin().await;
    let counts = tx.merge_forms(forms).await.unwrap();
    tx.commit().await.unwrap();
    counts
}

const OPERATIONS: &str = "select id, operation from form_processor_xformoperationsql order by id";

#[tokio::test]
async fn what_is_written_is_read_back() {
    let fixture = Fixture::new().await;
    let mut first = form("a");
    first.operations = vec![operation("archive", 10), operation("unarchive", 11)];
    let mut second = form("b");
    second.form.app_id = None;
    second.form.state = 65;
    second.form.deleted_on = Some(crate::rows::at(40));
    second.form.deletion_id = Some("gone".to_owned());
    second.form.problem = Some("ठीक नहीं".to_owned());
    let counts = merge(&fixture, &[first.clone(), second.clone()]).await;
    assert_eq!(
        counts,
        MergeCounts {
            inserted: 2,
            children_inserted: 2,
            ..MergeCounts::default()
        }
    );
    let read = fixture.target.read_forms(&ids(&["b", "nobody", "a"])).await.unwrap();
    assert_eq!(read, [second, first]);
    // What HQ fills from the form's own metadata is left empty.
    let rows = fixture
        .rows("select time_start, time_end, commcare_version, app_version from form_processor_xforminstancesql")
        .await;
    assert_eq!(rows, ["-|-|-|-", "-|-|-|-"]);
}

#[tokio::test]
async fn the_same_merge_again_touches_nothing() {
    let fixture = Fixture::new().await;
    let mut forms: Vec<_> = (0..50).map(|number| form(&format!("f{number}"))).collect();
    forms[3].operations = vec![operation("archive", 1), operation("archive", 1), operation("edit", 2)];
    merge(&fixture, &forms).await;
    let look = "select xmin, ctid, id, form_id from form_processor_xforminstancesql order by id";
    let look_children = "select xmin, ctid, id from form_processor_xformoperationsql order by id";
    let before = (
        fixture.rows(look).await,
        fixture.rows(look_children).await,
        fixture.sequences().await,
    );
    let counts = merge(&fixture, &forms).await;
    assert_eq!(
        counts,
        MergeCounts {
            unchanged: 50,
            ..MergeCounts::default()
        }
    );
    let after = (
        fixture.rows(look).await,
        fixture.rows(look_children).await,
        fixture.sequences().await,
    );
    assert_eq!(before, after);
}

#[tokio::test]
async fn only_what_differs_is_updated() {
    let fixture = Fixture::new().await;
    let mut forms = vec![form("a"), form("b"), form("c")];
    forms[0].operations = vec![operation("archive", 1), operation("unarchive", 2)];
    merge(&fixture, &forms).await;
    let sequences = fixture.sequences().await;
    forms[0].operations.pop();
    forms[1].form.state = 2;
    forms[1].form.user_id = None;
    forms[2].operations = vec![operation("edit", 3)];
    let counts = merge(&fixture, &forms).await;
    let expected = MergeCounts {
        updated: 1,
        unchanged: 2,
        children_inserted: 1,
        children_deleted: 1,
        ..MergeCounts::default()
    };
    assert_eq!(counts, expected);
    assert_eq!(fixture.target.read_forms(&ids(&["a", "b", "c"])).await.unwrap(), forms);
    assert_eq!(fixture.rows(OPERATIONS).await, ["1|archive", "3|edit"]);
    // One new operation took one number; the updated form none.
    let moved: Vec<_> = fixture
        .sequences()
        .await
        .into_iter()
        .filter(|row| !sequences.contains(row))
        .collect();
    assert_eq!(moved, ["form_processor_xformoperationsql_id_seq|3"]);
    // The temporary tables serve a second update on the same connection.
    forms[0].form.xmlns = "other".to_owned();
    assert_eq!(merge(&fixture, &forms).await.updated, 1);
    assert_eq!(fixture.target.read_forms(&ids(&["a", "b", "c"])).await.unwrap(), forms);
}

#[tokio::test]
async fn history_order_is_id_order_after_a_change_in_the_middle() {
    let fixture = Fixture::new().await;
    let mut one = form("a");
    one.operations = vec![operation("archive", 1), operation("unarchive", 3)];
    merge(&fixture, &[one.clone()]).await;
    one.operations.insert(1, operation("edit", 2));
    merge(&fixture, &[one.clone()]).await;
    assert_eq!(fixture.rows(OPERATIONS).await, ["1|archive", "3|edit", "4|unarchive"]);
}

#[tokio::test]
async fn a_form_of_another_domain_is_refused_and_nothing_written() {
    let fixture = Fixture::new().await;
    merge(&fixture, &[form("a")]).await;
    let foreign = "update form_processor_xforminstancesql set domain = 'other' where form_id = 'a'";
    fixture.session().await.batch_execute(foreign).await.unwrap();
    let tx = fixture.begin().await;
    let error = tx.merge_forms(&[form("a"), form("b")]).await.unwrap_err();
    assert!(
        matches!(&error, Error::ForeignParent { ids } if *ids == ["a"]),
        "{error}"
    );
    assert_eq!((error.kind(), error.document()), (ErrorKind::Document, Some("a")));
    assert_eq!(
        tx.form_owners(&ids(&["a", "b"])).await.unwrap(),
        [("a".to_owned(), "other".to_owned())].into()
    );
    assert_eq!(tx.delete_forms(&domain(), &ids(&["a"])).await.unwrap(), 0);
    tx.commit().await.unwrap();
    assert_eq!(
        fixture
            .rows("select form_id, domain from form_processor_xforminstancesql")
            .await,
        ["a|other"]
    );
}

#[tokio::test]
async fn deleted_forms_take_their_operations_and_leave_the_blobs() {
    let fixture = Fixture::new().await;
    let mut one = form("a");
    one.operations = vec![operation("archive", 1)];
    merge(&fixture, &[one, form("b")]).await;
    let tx = fixture.begin().await;
    tx.merge_blobmeta(&[crate::rows::blob("a", "k", 2)], &[]).await.unwrap();
    assert_eq!(tx.delete_forms(&domain(), &ids(&["a", "nobody"])).await.unwrap(), 1);
    tx.commit().await.unwrap();
    assert_eq!(
        fixture
            .rows("select form_id from form_processor_xforminstancesql")
            .await,
        ["b"]
    );
    assert_eq!(fixture.rows(OPERATIONS).await, Vec::<String>::new());
    assert_eq!(fixture.rows("select key from blobs_blobmeta").await, ["k"]);
}

#[tokio::test]
async fn unstorable_values_are_found_before_anything_is_written() {
    let fixture = Fixture::new().await;
    let mut nul = form("b");
    nul.form.problem = Some("a\0b".to_owned());
    let mut long = form("b");
    long.form.xmlns = "é".repeat(256);
    let mut operations = form("b");
    operations.operations = vec![operation(&"x".repeat(256), 1)];
    let mut negative = form("b");
    negative.form.state = -1;
    let mut fits = form("c");
    fits.form.xmlns = "é".repeat(255);
    for (bad, column) in [
        (nul, "problem"),
        (long, "xmlns"),
        (operations, "operation"),
        (negative, "state"),
    ] {
        let tx = fixture.begin().await;
        let error = tx.merge_forms(&[form("a"), bad]).await.unwrap_err();
        assert_eq!((error.kind(), error.document()), (ErrorKind::Document, Some("b")));
        assert!(
            matches!(error, Error::Row { source, .. } if source.column == column),
            "{column}"
        );
        tx.merge_forms(std::slice::from_ref(&fits)).await.unwrap();
        tx.commit().await.unwrap();
    }
    assert_eq!(
        fixture
            .rows("select form_id from form_processor_xforminstancesql")
            .await,
        ["c"]
    );
}

#[tokio::test]
async fn two_sessions_that_insert_one_form() {
    let fixture = Fixture::new().await;
    let (first, second) = (fixture.begin().await, fixture.begin().await);
    first.merge_forms(&[form("a")]).await.unwrap();
    let waiting = tokio::spawn(async move { second.merge_forms(&[form("0"), form("a")]).await });
    until_waiting(&fixture.session().await, 1).await;
    first.commit().await.unwrap();
    let error = soon("the second insert", waiting).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Retry, "C2S-1414"));
    // Nothing of the row is told, neither by the error nor by its causes.
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.to_string().starts_with("SQLSTATE 23505"), "{source}");
    assert!(!format!("{error} {source} {error:?}").contains("Key ("));
    // Looking again mends it.
    let counts = merge(&fixture, &[form("0"), form("a")]).await;
    assert_eq!((counts.inserted, counts.unchanged), (1, 1));
}

#[tokio::test]
async fn a_failed_transaction_cannot_be_committed() {
    let fixture = Fixture::new().await;
    merge(&fixture, &[form("a")]).await;
    let mut twice = form("b");
    twice.operations = vec![operation("archive", 1)];
    let tx = fixture.begin().await;
    tx.merge_forms(&[twice]).await.unwrap();
    // Somebody else takes the foreign key's other end away: found out at commit, by an error.
    let other = fixture.begin().await;
    let waiting = tokio::spawn(async move {
        other.merge_forms(&[form("b")]).await.unwrap_err();
        other.commit().await.unwrap_err()
    });
    until_waiting(&fixture.session().await, 1).await;
    tx.commit().await.unwrap();
    let error = soon("the refused commit", waiting).await.unwrap();
    assert_eq!(error.kind(), ErrorKind::Retry);
}

#[tokio::test]
async fn locked_forms_make_a_competing_writer_wait() {
    let fixture = Fixture::new().await;
    merge(&fixture, &[form("a"), form("b")]).await;
    let (first, second) = (fixture.begin().await, fixture.begin().await);
    first.lock_form_rows(&ids(&["b", "nobody", "a"])).await.unwrap();
    let waiting = tokio::spawn(async move {
        second.lock_form_rows(&ids(&["a"])).await.unwrap();
        let mut changed = form("a");
        changed.form.state = 2;
        let counts = second.merge_forms(&[changed]).await.unwrap();
        second.commit().await.unwrap();
        counts
    });
    until_waiting(&fixture.session().await, 1).await;
    let mut changed = form("a");
    changed.form.state = 2;
    first.merge_forms(&[changed]).await.unwrap();
    first.commit().await.unwrap();
    // It waited, so it sees that there is nothing left to do.
    assert_eq!(soon("the second writer", waiting).await.unwrap().unchanged, 1);
}

#[tokio::test]
async fn a_dropped_transaction_leaves_nothing() {
    let fixture = Fixture::new().await;
    let tx = fixture.begin().await;
    tx.merge_forms(&[form("a")]).await.unwrap();
    drop(tx);
    let tx = fixture.begin().await;
    tx.merge_forms(&[form("b")]).await.unwrap();
    tx.rollback().await.unwrap();
    assert!(!fixture.target.has_rows(&domain()).await.unwrap());
}

#[tokio::test]
async fn misplaced_forms_are_refused() {
    let fixture = Fixture::new().await;
    let mut foreign = form("a");
    foreign.form.domain = "other".to_owned();
    for forms in [vec![foreign], vec![form("a"), form("a")]] {
        let tx = fixture.begin().await;
        let error = tx.merge_forms(&forms).await.unwrap_err();
        assert!(matches!(error, Error::Misplaced { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Stop);
    }
    assert!(
        fixture
            .target
            .begin(SHARD(&fixture.target), &domain(), EPOCH)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn pages_and_counts() {
    let fixture = Fixture::new().await;
    let mut forms: Vec<_> = (0..7).map(|number| form(&format!("f{number}"))).collect();
    forms[1].form.state = 2;
    forms[2].form.state = 65;
    merge(&fixture, &forms).await;
    let (target, shard) = (&fixture.target, SHARD(&fixture.target));
    let mut found = Vec::new();
    loop {
        let page = target
            .form_ids_after(shard, &domain(), found.last().map(String::as_str), 3)
            .await
            .unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 3);
        found.extend(page);
    }
    assert_eq!(found, ids(&["f0", "f1", "f2", "f3", "f4", "f5", "f6"]));
    assert_eq!(
        target.form_ids_after(shard, &"other".into(), None, 3).await.unwrap(),
        Vec::<String>::new()
    );
    assert_eq!(
        target.count_forms_by_state(&domain()).await.unwrap(),
        [(1, 5), (2, 1), (65, 1)].into()
    );
    let existing = target.existing_forms(&ids(&["f1", "x"])).await.unwrap();
    assert_eq!(existing, [("f1".to_owned(), "clinic".to_owned())].into());
}
