//! A document that Couch has in an older revision than the one that was migrated is an error, not a change.

use proto::doctype::DocType;

use crate::fixture::{Fixture, strings};

fn revision(id: &str, rev: &str) -> Vec<(String, String)> {
    vec![(id.to_owned(), rev.to_owned())]
}

#[tokio::test]
async fn a_document_that_went_back_is_an_error_until_it_is_migrated_again() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    fixture
        .stage(&driven, &[("f", "10-b", &["a"]), ("g", "1-b", &["a"])])
        .await;

    for rev in ["10-b", "10-c", "11-a"] {
        assert!(
            state
                .rewound(driven.id, &[&revision("f", rev)[0]])
                .await
                .unwrap()
                .is_empty(),
            "{rev}"
        );
    }
    for rev in ["9-z", "10-a"] {
        assert_eq!(
            state.rewound(driven.id, &[&revision("f", rev)[0]]).await.unwrap(),
            ["f"],
            "{rev}"
        );
        let read = revision("f", rev);
        let again = state
            .requeue_changed(&driven.lease, &[(DocType::XFormInstance, read)], 9)
            .await;
        assert_eq!(
            again.unwrap(),
            0,
            "{rev}: an older revision is no change to be migrated"
        );
    }
    let read: Vec<_> = [revision("f", "9-z"), revision("g", "1-b"), revision("unknown", "1-a")].concat();
    assert_eq!(
        state
            .record_rewound(&driven.lease, DocType::XFormInstance, &read)
            .await
            .unwrap(),
        1
    );
    assert_eq!(fixture.errors(&driven).await, ["XFormInstance/f/C2S-2360"]);
    assert_eq!(
        state.obstacles(driven.id).await.unwrap().errors,
        [("XFormInstance".to_owned(), 1)]
    );

    let read = revision("f", "12-a");
    let newer = state
        .requeue_changed(&driven.lease, &[(DocType::XFormInstance, read)], 9)
        .await;
    assert_eq!(newer.unwrap(), 1);
    fixture.stage(&driven, &[("f", "12-a", &["a"])]).await;
    assert_eq!(fixture.errors(&driven).await, strings(&[]));
}
