//! Documents that system actions tell of are looked at again where Couch has another revision of them, or none.

use proto::topology::Stage;
use state::form_stage::FormResults;

use crate::fixture::{Driven, Fixture};

/// Goes through the form stage with a form that names documents.
async fn name(fixture: &Fixture, driven: &Driven, named: &[(&str, Option<&str>)]) {
    let claim = fixture.claimed(driven, Stage::Form, &["action"]).await;
    let results = FormResults {
        named: named
            .iter()
            .map(|(id, rev)| ((*id).to_owned(), rev.map(str::to_owned)))
            .collect(),
        ..FormResults::default()
    };
    fixture.state.finish_forms(&claim, &results).await.unwrap();
}

#[tokio::test]
async fn what_has_changed_or_is_gone_goes_through_the_form_stage_again() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture
        .stage(
            &driven,
            &[
                ("same", "1-a", &["a"]),
                ("changed", "1-a", &["a"]),
                ("gone", "1-a", &["a"]),
            ],
        )
        .await;
    name(
        &fixture,
        &driven,
        &[
            ("same", Some("1-a")),
            ("changed", Some("2-b")),
            ("gone", None),
            ("gone", None),
            ("never staged", Some("1-a")),
            ("unheard of", None),
        ],
    )
    .await;
    let again = fixture
        .claim_next(&driven, Stage::Form)
        .await
        .expect("a form batch is open");
    assert_eq!(again.ids, ["changed", "gone"]);
    fixture.state.release_claim(&again).await.unwrap();
    fixture.execute("delete from batch").await;
    fixture.bury(&driven, &["gone"]).await;
    assert_eq!(fixture.staged(&driven).await, ["a/changed", "a/same"]);

    name(&fixture, &driven, &[("gone", None), ("same", Some("1-a"))]).await;
    assert!(
        fixture.claim_next(&driven, Stage::Form).await.is_none(),
        "what is known to be gone is not looked for again"
    );
    name(&fixture, &driven, &[("gone", Some("1-a"))]).await;
    let back = fixture.claim_next(&driven, Stage::Form).await;
    assert_eq!(back.expect("it is there again").ids, ["gone"]);
    fixture.stage(&driven, &[("gone", "3-c", &["a"])]).await;
    name(&fixture, &driven, &[("gone", None)]).await;
    assert!(fixture.claim_next(&driven, Stage::Form).await.is_some());
}
