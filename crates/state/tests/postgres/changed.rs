//! What COMMIT learns about documents that have changed in the source since the last look at them.

use proto::doctype::DocType;
use proto::topology::Stage;
use state::StateError;
use state::case_order::FormOrder;
use state::diff_stage::CaseComparison;
use state::follow::ChangedDoc;
use state::place::Place;

use crate::fixture::{Fixture, strings};

const FORM: DocType = DocType::XFormInstance;
const CASE: DocType = DocType::CommCareCase;

fn doc(id: &str, rev: &str, domain: &str, doc_type: DocType) -> ChangedDoc {
    ChangedDoc {
        doc_id: id.to_owned(),
        rev: Some(rev.to_owned()),
        domain: Some(domain.to_owned()),
        doc_type: Some(doc_type),
        dated: None,
    }
}

fn gone(id: &str) -> ChangedDoc {
    ChangedDoc {
        doc_id: id.to_owned(),
        rev: Some("9-z".to_owned()),
        ..ChangedDoc::default()
    }
}

#[tokio::test]
async fn documents_that_are_not_as_they_were_migrated_or_compared_are_told() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let domain = driven.domain.as_str();
    fixture
        .stage(
            &driven,
            &[
                ("form", "1-a", &[]),
                ("edited", "1-a", &[]),
                ("lost", "1-a", &[]),
                ("moved", "1-a", &[]),
            ],
        )
        .await;
    let cases = ["case", "touched", "vanished"];
    state.request_diff(&driven.lease, Some(&strings(&cases))).await.unwrap();
    let claim = fixture.claimed(&driven, Stage::Diff, &cases).await;
    let compared = cases.map(|id| CaseComparison {
        case_id: id.to_owned(),
        generation: 0,
        couch_rev: Some("1-a".to_owned()),
        kind: CASE.as_str().to_owned(),
        diffs: None,
        changes: None,
        order: FormOrder::Agreed,
    });
    assert_eq!(state.finish_diffs(&claim, &compared).await.unwrap(), 0);

    let changes = [
        doc("form", "1-a", domain, FORM),
        doc("edited", "2-b", domain, DocType::XFormArchived),
        gone("lost"),
        doc("moved", "2-b", "other", FORM),
        doc("new", "1-a", domain, FORM),
        doc("case", "1-a", domain, CASE),
        doc("touched", "2-b", domain, CASE),
        gone("vanished"),
        doc("born", "1-a", domain, CASE),
        doc("buried", "2-b", domain, DocType::CommCareCaseDeleted),
        doc("foreign", "1-a", "other", FORM),
        gone("stranger"),
    ];
    assert_eq!(
        state.not_as_recorded(driven.id, &changes).await.unwrap(),
        [
            "born", "buried", "edited", "lost", "moved", "new", "touched", "vanished"
        ]
    );
}

#[tokio::test]
async fn a_look_leaves_its_place_in_the_feed_to_whoever_holds_the_lease() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    assert_eq!(state.looked(driven.id).await.unwrap(), None);
    let looked = Place {
        identity: "server made".to_owned(),
        seq: "12-opaque".to_owned(),
        witnesses: vec![("w".to_owned(), "3-c".to_owned())],
    };
    state.set_looked(&driven.lease, &looked).await.unwrap();
    assert_eq!(state.looked(driven.id).await.unwrap(), Some(looked.clone()));
    state.drop_lease(&driven.lease).await.unwrap();
    let lost = state.set_looked(&driven.lease, &looked).await;
    assert!(matches!(lost, Err(StateError::LostLease)), "{lost:?}");
}
