//! What is done to blob metadata is on record before it is done, once, until it is undone.

use chrono::DateTime;
use proto::topology::Stage;
use state::StateError;
use state::blob_change::{BlobAction, BlobChange, BlobOrigin, RestoredXml};
use state::form_stage::{FailedDoc, FormResults};

use crate::fixture::{Fixture, intent};

fn change(action: BlobAction, key: &str, name: &str) -> BlobChange {
    BlobChange {
        action,
        key: key.to_owned(),
        parent_id: "f".to_owned(),
        name: name.to_owned(),
        type_code: 3,
        created_on: DateTime::from_timestamp(1_500_000_000, 123_456_000).unwrap(),
    }
}

fn inserted(key: &str, name: &str, origin: BlobOrigin) -> BlobChange {
    change(BlobAction::Insert { origin }, key, name)
}

fn removed(key: &str) -> BlobChange {
    let row = format!("{{\"key\":\"{key}\",\"properties\":\"{{\\\"a\\\":1}}\"}}");
    change(BlobAction::Remove { row }, key, "form.xml")
}

#[tokio::test]
async fn the_first_record_of_a_change_counts_and_is_kept_until_it_is_undone() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let claim = fixture.claimed(&driven, Stage::Form, &["f"]).await;
    let first = inserted("k1", "first", BlobOrigin::Inline);
    let second = inserted("k1", "second", BlobOrigin::Reference);
    for change in [&first, &second] {
        state
            .begin_forms(&claim, &[intent("f", "1-a")], std::slice::from_ref(change))
            .await
            .unwrap();
    }
    let retyped = change(BlobAction::Retype { from: 2 }, "k2", "photo");
    state
        .record_blob_changes(&claim, &[retyped.clone(), removed("k3")])
        .await
        .unwrap();
    state.finish_forms(&claim, &FormResults::default()).await.unwrap();
    let changes = state.blob_changes(driven.id, 10).await.unwrap();
    assert_eq!(changes, [first, removed("k3"), retyped.clone()]);
    // A row may be inserted under a key and removed under it: one record is forgotten, the other stays.
    let undone = [inserted("k3", "", BlobOrigin::Copy), changes[0].clone()];
    let error = state.forget_blob_changes(driven.id, &undone).await.unwrap_err();
    assert!(matches!(error, StateError::EpochOver), "no reset is on: {error}");
    assert_eq!(state.blob_changes(driven.id, 10).await.unwrap().len(), 3);
    state.begin_reset(driven.id).await.unwrap();
    state.forget_blob_changes(driven.id, &undone).await.unwrap();
    assert_eq!(
        state.blob_changes(driven.id, 10).await.unwrap(),
        [removed("k3"), retyped]
    );
}

#[tokio::test]
async fn a_row_of_our_own_is_no_row_to_put_back() {
    let (fixture, driven) = Fixture::with_domain().await;
    let claim = fixture.claimed(&driven, Stage::Form, &["f"]).await;
    let ours = inserted("k", "form.xml", BlobOrigin::FormJson);
    for change in [ours.clone(), removed("k")] {
        fixture.state.record_blob_changes(&claim, &[change]).await.unwrap();
    }
    assert_eq!(fixture.state.blob_changes(driven.id, 10).await.unwrap(), [ours]);
}

#[tokio::test]
async fn forms_that_claim_one_key_have_a_record_each() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let claim = fixture.claimed(&driven, Stage::Form, &["f", "g"]).await;
    let of_f = inserted("k", "form.xml", BlobOrigin::Reference);
    let of_g = BlobChange {
        parent_id: "g".to_owned(),
        ..removed("k")
    };
    let mut also_of_g = inserted("k", "photo", BlobOrigin::Reference);
    also_of_g.parent_id = "g".to_owned();
    for change in [&of_f, &of_g, &also_of_g] {
        state
            .record_blob_changes(&claim, std::slice::from_ref(change))
            .await
            .unwrap();
    }
    let changes = state.blob_changes(driven.id, 10).await.unwrap();
    assert_eq!(changes, [of_f.clone(), also_of_g.clone(), of_g.clone()]);
    state.begin_reset(driven.id).await.unwrap();
    state.forget_blob_changes(driven.id, &[of_f]).await.unwrap();
    assert_eq!(state.blob_changes(driven.id, 10).await.unwrap(), [also_of_g, of_g]);
}

#[tokio::test]
async fn restored_xml_is_listed_unless_its_form_was_refused() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let claim = fixture.claimed(&driven, Stage::Form, &["f", "g"]).await;
    let mut refused = inserted("k2", "form.xml", BlobOrigin::XmlProperty);
    refused.parent_id = "g".to_owned();
    let changes = [
        inserted("k1", "form.xml", BlobOrigin::FormJson),
        refused,
        inserted("k3", "photo", BlobOrigin::Reference),
        removed("k4"),
    ];
    state.record_blob_changes(&claim, &changes).await.unwrap();
    let results = FormResults {
        failed: vec![FailedDoc {
            kind: "XFormInstance".to_owned(),
            doc_id: "g".to_owned(),
            rev: Some("1-a".to_owned()),
            code: "C2S-2302".to_owned(),
            message: "no".to_owned(),
            missing: true,
        }],
        ..FormResults::default()
    };
    state.finish_forms(&claim, &results).await.unwrap();
    assert_eq!(
        state.restored_xml(driven.id, 9).await.unwrap(),
        [RestoredXml {
            form_id: "f".to_owned(),
            origin: BlobOrigin::FormJson,
            key: "k1".to_owned(),
        }]
    );
    assert_eq!(state.blob_repairs(driven.id).await.unwrap(), (1, 1));
}
