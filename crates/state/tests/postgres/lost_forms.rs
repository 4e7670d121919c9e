//! Forms that are made of their XML: until Couch has them, and no longer.

use proto::topology::Stage;
use state::lost_forms::{LOST_REV, LostForm};

use crate::fixture::{Driven, Fixture, strings};

async fn record(fixture: &Fixture, driven: &Driven, received_on: Option<&str>) {
    let form = LostForm {
        form_id: "f".to_owned(),
        received_on: received_on.map(|date| date.parse().unwrap()),
    };
    fixture.state.record_lost_forms(&driven.lease, &[form]).await.unwrap();
}

/// Whether a worker that does not find `f` in Couch makes it of its XML, and by which date.
async fn made_of_xml(fixture: &Fixture, driven: &Driven) -> Option<Option<String>> {
    let claim = fixture.claimed(driven, Stage::Form, &["e", "f"]).await;
    let lost = fixture.state.lost_forms(&claim).await.unwrap();
    assert!(!lost.contains_key("e"));
    lost.get("f").map(|date| date.map(|date| date.to_rfc3339()))
}

#[tokio::test]
async fn the_first_date_of_a_form_stands() {
    let (fixture, driven) = Fixture::with_domain().await;
    assert_eq!(made_of_xml(&fixture, &driven).await, None);
    record(&fixture, &driven, None).await;
    assert_eq!(made_of_xml(&fixture, &driven).await, Some(None));
    for date in ["2020-03-02T10:00:00Z", "2020-03-01T10:00:00Z"] {
        record(&fixture, &driven, Some(date)).await;
        let first = "2020-03-02T10:00:00+00:00".to_owned();
        assert_eq!(made_of_xml(&fixture, &driven).await, Some(Some(first)));
    }
}

#[tokio::test]
async fn a_form_made_of_its_xml_is_none_that_couch_must_have() {
    let (fixture, driven) = Fixture::with_domain().await;
    let (state, id) = (&fixture.state, driven.id);
    record(&fixture, &driven, None).await;
    fixture
        .stage(&driven, &[("f", LOST_REV, &["a"]), ("g", "1-a", &["a"])])
        .await;
    assert_eq!(state.staged_after(id, "", 9).await.unwrap(), ["g"]);
    let among = state.lost_forms_among(id, &strings(&["f", "g", "h"])).await.unwrap();
    assert_eq!(among, ["f"]);
    assert_eq!(
        made_of_xml(&fixture, &driven).await,
        Some(None),
        "whenever it is staged again"
    );
}

#[tokio::test]
async fn the_document_counts_when_couch_has_it_again() {
    let (fixture, driven) = Fixture::with_domain().await;
    let (state, id) = (&fixture.state, driven.id);
    record(&fixture, &driven, None).await;
    fixture.stage(&driven, &[("f", LOST_REV, &["a"])]).await;
    fixture.stage(&driven, &[("f", "1-a", &["b"])]).await;
    assert_eq!(fixture.staged(&driven).await, ["b/f"]);
    assert_eq!(state.staged_after(id, "", 9).await.unwrap(), ["f"]);
    assert!(state.lost_forms_among(id, &strings(&["f"])).await.unwrap().is_empty());
    assert_eq!(made_of_xml(&fixture, &driven).await, None, "it is buried when it goes");
    fixture.bury(&driven, &["f"]).await;
    assert!(fixture.staged(&driven).await.is_empty());
    assert_eq!(
        made_of_xml(&fixture, &driven).await,
        None,
        "until a driver says so anew"
    );
    record(&fixture, &driven, None).await;
    assert_eq!(made_of_xml(&fixture, &driven).await, Some(None));
}
