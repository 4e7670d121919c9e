use hqsql::{Alone, BlobChange, BlobRetype, Error, ErrorKind};
use proto::rows::{BLOB_FORM_ATTACHMENT, BLOB_FORM_XML};

use crate::database::{EPOCH, Fixture, domain};
use crate::rows::{blob, ids};

const LOOK: &str = "select key, parent_id, type_code from blobs_blobmeta order by key";

fn retype(key: &str) -> BlobRetype {
    BlobRetype {
        parent_id: "f".to_owned(),
        key: key.to_owned(),
        from: BLOB_FORM_XML,
        to: BLOB_FORM_ATTACHMENT,
    }
}

#[tokio::test]
async fn rows_are_added_and_corrected_once_and_undone() {
    let fixture = Fixture::new().await;
    let tx = fixture.begin().await;
    // What Couch's form has already; one of the rows has the wrong type.
    tx.merge_blobmeta(&[blob("f", "k1", BLOB_FORM_XML), blob("f", "k2", BLOB_FORM_XML)], &[])
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let before = fixture.rows(LOOK).await;
    let mut compressed = blob("f", "k3", BLOB_FORM_ATTACHMENT);
    compressed.compressed_length = Some(99);
    let inserts = [blob("f", "k1", BLOB_FORM_XML), compressed.clone()];
    for expected in [(1, 1), (0, 0)] {
        let tx = fixture.begin().await;
        assert_eq!(tx.merge_blobmeta(&inserts, &[retype("k2")]).await.unwrap(), expected);
        let read = tx.read_blobmeta(&ids(&["f"])).await.unwrap();
        assert_eq!(read.last(), Some(&compressed));
        tx.commit().await.unwrap();
    }
    assert_eq!(fixture.rows(LOOK).await, ["k1|f|2", "k2|f|3", "k3|f|3"]);
    assert_eq!(fixture.target.read_blobmeta(&ids(&["f", "g"])).await.unwrap().len(), 3);
    let change = |parent: &str, key: &str| BlobChange::Inserted {
        domain: domain(),
        parent_id: parent.to_owned(),
        key: key.to_owned(),
    };
    // Another form's row of a recorded key is not ours to delete.
    let changes = [
        change("f", "k3"),
        change("g", "k1"),
        BlobChange::Retyped {
            domain: domain(),
            retype: retype("k2"),
        },
    ];
    let error = fixture.target.undo_blob_changes(&domain(), &changes).await.unwrap_err();
    assert!(matches!(error, Error::FenceOpen { .. }), "a migration is on: {error}");
    assert_eq!(fixture.rows(LOOK).await.len(), 3);
    fixture.target.close_fence(&Alone, &domain(), EPOCH).await.unwrap();
    for _ in 0..2 {
        fixture.target.undo_blob_changes(&domain(), &changes).await.unwrap();
        assert_eq!(fixture.rows(LOOK).await, before);
    }
}

#[tokio::test]
async fn a_key_of_another_form_is_refused() {
    let fixture = Fixture::new().await;
    let tx = fixture.begin().await;
    tx.merge_blobmeta(&[blob("f", "k", BLOB_FORM_XML)], &[]).await.unwrap();
    let error = tx
        .merge_blobmeta(&[blob("g", "new", BLOB_FORM_XML), blob("g", "k", 3)], &[])
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::BlobKeyTaken { document } if document == "g"),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::Document);
    tx.commit().await.unwrap();
    assert_eq!(fixture.rows(LOOK).await, ["k|f|2"]);
}

#[tokio::test]
async fn older_databases_have_no_compressed_length() {
    let fixture = Fixture::new().await;
    let target = {
        // Before anybody has looked at the table.
        fixture
            .session()
            .await
            .batch_execute("alter table blobs_blobmeta drop compressed_length")
            .await
            .unwrap();
        fixture.target.check_tables().await.unwrap();
        &fixture.target
    };
    let tx = fixture.begin().await;
    tx.merge_blobmeta(&[blob("f", "k", BLOB_FORM_XML)], &[]).await.unwrap();
    assert_eq!(
        tx.read_blobmeta(&ids(&["f"])).await.unwrap(),
        [blob("f", "k", BLOB_FORM_XML)]
    );
    let mut compressed = blob("f", "k2", BLOB_FORM_ATTACHMENT);
    compressed.compressed_length = Some(9);
    assert!(tx.merge_blobmeta(&[compressed], &[]).await.is_err());
    tx.commit().await.unwrap();
    assert_eq!(
        target.read_blobmeta(&ids(&["f"])).await.unwrap(),
        [blob("f", "k", BLOB_FORM_XML)]
    );
}

/// HQ's own columns, and one that this program knows nothing of.
const WHOLE: &str = "select row_to_json(b)::text from blobs_blobmeta b order by key";

#[tokio::test]
async fn a_removed_row_comes_back_as_it_was() {
    let fixture = Fixture::new().await;
    let session = fixture.session().await;
    session
        .batch_execute("alter table blobs_blobmeta add column of_later_versions text")
        .await
        .unwrap();
    let tx = fixture.begin().await;
    tx.merge_blobmeta(&[blob("f", "k1", BLOB_FORM_XML), blob("f", "k2", BLOB_FORM_XML)], &[])
        .await
        .unwrap();
    tx.commit().await.unwrap();
    session
        .batch_execute(
            "update blobs_blobmeta set id = -7, expires_on = '2020-02-02T02:02:02.123456Z', properties = '{\"é\":1}',
                 of_later_versions = 'x' where key = 'k1';
             update blobs_blobmeta set domain = 'other' where key = 'k2'",
        )
        .await
        .unwrap();
    let before = fixture.rows(WHOLE).await;
    let gone =
        [("f", "k1"), ("f", "k2"), ("g", "k1"), ("f", "k3")].map(|(parent, key)| (parent.to_owned(), key.to_owned()));
    let tx = fixture.begin().await;
    let removed = tx.remove_blobmeta(&gone).await.unwrap();
    assert_eq!(removed.len(), 1, "neither another domain's row nor another form's");
    tx.merge_blobmeta(&[blob("f", "new", BLOB_FORM_XML)], &[])
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(fixture.rows(LOOK).await, ["k2|f|2", "new|f|2"]);
    let changes = [
        BlobChange::Removed {
            parent_id: "f".to_owned(),
            row: removed[0].row.clone(),
        },
        BlobChange::Inserted {
            domain: domain(),
            parent_id: "f".to_owned(),
            key: "new".to_owned(),
        },
    ];
    fixture.target.close_fence(&Alone, &domain(), EPOCH).await.unwrap();
    for _ in 0..2 {
        fixture.target.undo_blob_changes(&domain(), &changes).await.unwrap();
        assert_eq!(fixture.rows(WHOLE).await, before);
    }
}
