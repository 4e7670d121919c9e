use hqsql::{Alone, BlobChange, Error};

use crate::database::{EPOCH, domain, rows, two_shards};
use crate::rows::{blob, case, form, ids};

/// Ids with the database that HQ's hash sends them to: logical shard of four, from the reference's vectors; two shards to
/// a database.
const PLACES: [(&str, usize); 5] = [
    ("403724ef9fe141f2908363918c62c2ff", 0),
    ("1000", 0),
    ("7f28b4e409884d0c838678260f9c34dd", 1),
    ("1", 1),
    ("2", 1),
];

#[tokio::test]
async fn rows_go_to_the_database_of_their_id() {
    let (target, databases) = two_shards().await;
    target.check_tables().await.unwrap();
    for shard in target.shards() {
        let tx = target.begin(shard, &domain(), EPOCH).await.unwrap();
        let own: Vec<_> = PLACES.iter().filter(|(_, place)| *place == shard.index()).collect();
        let forms: Vec<_> = own.iter().map(|(id, _)| form(id)).collect();
        let cases: Vec<_> = own.iter().map(|(id, _)| case(id)).collect();
        let blobs: Vec<_> = own.iter().map(|(id, _)| blob(id, &format!("key-{id}"), 2)).collect();
        tx.merge_forms(&forms).await.unwrap();
        tx.merge_cases(&cases, &[]).await.unwrap();
        tx.merge_blobmeta(&blobs, &[]).await.unwrap();
        for (id, place) in PLACES {
            if place != shard.index() {
                let error = tx.merge_forms(&[form(id)]).await.unwrap_err();
                assert!(matches!(error, Error::Misplaced { .. }), "{error}");
            }
        }
        tx.commit().await.unwrap();
    }
    for (place, database) in databases[1..].iter().enumerate() {
        let mut expected: Vec<_> = PLACES
            .iter()
            .filter(|(_, at)| *at == place)
            .map(|(id, _)| *id)
            .collect();
        expected.sort_unstable();
        let session = database.session().await;
        for query in [
            "select form_id from form_processor_xforminstancesql order by form_id collate \"C\"",
            "select case_id from form_processor_commcarecasesql order by case_id collate \"C\"",
            "select parent_id from blobs_blobmeta order by parent_id collate \"C\"",
        ] {
            assert_eq!(rows(&session, query).await, expected);
        }
    }
    // Reads find them wherever they are, in the order of the question.
    let asked: Vec<String> = PLACES.iter().rev().map(|(id, _)| (*id).to_owned()).collect();
    let found = target.read_forms(&asked).await.unwrap();
    assert_eq!(
        found
            .iter()
            .map(|bundle| bundle.form.form_id.clone())
            .collect::<Vec<_>>(),
        asked
    );
    let found = target.read_cases(&asked).await.unwrap();
    assert_eq!(
        found
            .iter()
            .map(|bundle| bundle.case.case_id.clone())
            .collect::<Vec<_>>(),
        asked
    );
    assert_eq!(target.existing_forms(&asked).await.unwrap().len(), 5);
    assert_eq!(target.count_forms_by_state(&domain()).await.unwrap(), [(1, 5)].into());
    assert_eq!(target.count_cases(&domain()).await.unwrap().live, 5);
    assert_eq!(target.read_blobmeta(&asked).await.unwrap().len(), 5);
    let changes: Vec<_> = asked
        .iter()
        .map(|id| BlobChange::Inserted {
            domain: domain(),
            parent_id: id.clone(),
            key: format!("key-{id}"),
        })
        .collect();
    target.close_fence(&Alone, &domain(), EPOCH).await.unwrap();
    target.undo_blob_changes(&domain(), &changes).await.unwrap();
    assert!(target.read_blobmeta(&asked).await.unwrap().is_empty());

    while target.purge_chunk(&Alone, &domain(), 100).await.unwrap() > 0 {}
    assert!(!target.has_rows(&domain()).await.unwrap());
}

#[tokio::test]
async fn default_holds_progress_and_nothing_of_the_shards() {
    let (target, databases) = two_shards().await;
    target
        .set_started(&Alone, &domain(), hqsql::Status::DryRun, crate::rows::at(0))
        .await
        .unwrap();
    let tables = "select tablename from pg_tables where schemaname = 'public' \
         and tablename similar to '(form_processor|blobs|domain_migration|couch_sql)%'";
    assert_eq!(
        rows(&databases[0].session().await, tables).await,
        ["domain_migration_flags_domainmigrationprogress"]
    );
    for database in &databases[1..] {
        assert_eq!(rows(&database.session().await, tables).await.len(), 11);
    }
}

/// Somebody was cut off between two shards.
#[tokio::test]
async fn fences_that_differ_count_as_closed_until_they_agree() {
    let (target, databases) = two_shards().await;
    assert_eq!(target.fence(&domain()).await.unwrap(), Some((EPOCH, true)));
    let next = proto::ids::Epoch(EPOCH.0 + 1);
    databases[2]
        .session()
        .await
        .execute("update couch_sql_migration_fence set epoch = epoch + 1", &[])
        .await
        .unwrap();
    assert_eq!(target.fence(&domain()).await.unwrap(), Some((next, false)));
    target.open_fence(&Alone, &domain(), next).await.unwrap();
    assert_eq!(target.fence(&domain()).await.unwrap(), Some((next, true)));
    assert_eq!(target.read_cases(&ids(&["a"])).await.unwrap(), []);
}
