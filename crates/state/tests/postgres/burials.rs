//! One worker finds a document gone while another one writes it. Whichever of the two comes first or last, what is staged in
//! the end is what Couch says to whoever looks last.

use std::collections::HashMap;

use proto::topology::Stage;
use state::batch::Claim;
use state::form_stage::FormResults;

use crate::fixture::{Driven, Fixture, intent, staged_form};

/// A worker that is writing `f`, which touches case `a`.
struct Writing {
    claim: Claim,
    results: FormResults,
}

impl Writing {
    async fn begin(fixture: &Fixture, driven: &Driven, rev: &str) -> Self {
        let claim = fixture.claimed(driven, Stage::Form, &["f"]).await;
        let standing = fixture
            .state
            .begin_forms(&claim, &[intent("f", rev)], &[])
            .await
            .unwrap();
        assert!(!standing["f"].superseded);
        let results = FormResults {
            forms: vec![staged_form("f", rev, &["a"], &standing["f"])],
            ..FormResults::default()
        };
        Self { claim, results }
    }

    async fn finish(self, fixture: &Fixture) {
        fixture.state.finish_forms(&self.claim, &self.results).await.unwrap();
    }
}

/// A worker that is about to read `f`.
async fn looking(fixture: &Fixture, driven: &Driven) -> (Claim, HashMap<String, i64>) {
    let claim = fixture.claimed(driven, Stage::Form, &["f"]).await;
    let known = fixture.state.writings(&claim).await.unwrap();
    (claim, known)
}

async fn is_tombstone(fixture: &Fixture, driven: &Driven) -> bool {
    let sql = "select count(*) from doc_revision where migration_id = $1 and deleted";
    fixture.number(sql, driven).await == 1
}

async fn looked_at_again(fixture: &Fixture, driven: &Driven) -> Option<Vec<String>> {
    Some(fixture.claim_next(driven, Stage::Form).await?.ids)
}

#[tokio::test]
async fn a_document_made_anew_is_not_buried_by_whoever_found_the_old_one_gone() {
    for staged_before in [false, true] {
        for ends_first in [false, true] {
            let (fixture, driven) = Fixture::with_domain().await;
            if staged_before {
                fixture.stage(&driven, &[("f", "1-a", &["a"])]).await;
            }
            let (claim, known) = looking(&fixture, &driven).await;
            let writing = Writing::begin(&fixture, &driven, "3-c").await;
            let mut unfinished = Some(writing);
            if ends_first && let Some(writing) = unfinished.take() {
                writing.finish(&fixture).await;
            }
            let results = fixture.buried(&claim, &known).await;
            assert!(results.burials.is_empty(), "its row stays");
            fixture.state.finish_forms(&claim, &results).await.unwrap();
            if let Some(writing) = unfinished {
                writing.finish(&fixture).await;
            }
            assert_eq!(fixture.staged(&driven).await, ["a/f"]);
            assert!(!is_tombstone(&fixture, &driven).await);
            assert_eq!(looked_at_again(&fixture, &driven).await.unwrap(), ["f"]);
        }
    }
}

/// The row was removed, and is written anew.
#[tokio::test]
async fn a_document_made_anew_between_the_removal_of_its_row_and_its_burial_is_not_buried() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", &["a"])]).await;
    let (claim, known) = looking(&fixture, &driven).await;
    let results = fixture.buried(&claim, &known).await;
    assert!(
        fixture
            .state
            .begun_since(&claim, &results.burials)
            .await
            .unwrap()
            .is_empty()
    );
    // Restored by an administrator, it may be of any revision.
    let writing = Writing::begin(&fixture, &driven, "1-0").await;
    assert!(
        fixture
            .state
            .begun_since(&claim, &results.burials)
            .await
            .unwrap()
            .contains("f"),
        "if the row is there again, it is not to be removed"
    );
    writing.finish(&fixture).await;
    fixture.state.finish_forms(&claim, &results).await.unwrap();
    assert_eq!(fixture.staged(&driven).await, ["a/f"]);
    assert!(!is_tombstone(&fixture, &driven).await);
}

/// It was read before it was gone, and its row may have been committed after rows were removed.
#[tokio::test]
async fn a_document_that_was_read_before_it_was_gone_is_not_staged_but_looked_at_again() {
    for ends_last in [false, true] {
        let (fixture, driven) = Fixture::with_domain().await;
        let writing = Writing::begin(&fixture, &driven, "1-a").await;
        let (claim, known) = looking(&fixture, &driven).await;
        let results = fixture.buried(&claim, &known).await;
        assert_eq!(results.burials.len(), 1);
        if ends_last {
            fixture.state.finish_forms(&claim, &results).await.unwrap();
            writing.finish(&fixture).await;
        } else {
            writing.finish(&fixture).await;
            fixture.state.finish_forms(&claim, &results).await.unwrap();
        }
        assert!(fixture.staged(&driven).await.is_empty());
        assert!(is_tombstone(&fixture, &driven).await);
        assert_eq!(looked_at_again(&fixture, &driven).await.unwrap(), ["f"]);
        fixture.bury(&driven, &["f"]).await;
        assert!(
            looked_at_again(&fixture, &driven).await.is_none(),
            "nobody has written it since"
        );
    }
}

/// A worker dies after it has begun to bury a document; the document is gone still, or there again, when its batch is tried
/// again.
#[tokio::test]
async fn a_burial_that_was_not_finished_is_begun_again() {
    for back in [false, true] {
        let (fixture, driven) = Fixture::with_domain().await;
        fixture.stage(&driven, &[("f", "1-a", &["a"])]).await;
        let (claim, known) = looking(&fixture, &driven).await;
        fixture.buried(&claim, &known).await;
        if back {
            let writing = Writing::begin(&fixture, &driven, "1-a").await;
            writing.finish(&fixture).await;
            assert_eq!(fixture.staged(&driven).await, ["a/f"]);
        } else {
            fixture.bury(&driven, &["f"]).await;
            assert!(fixture.staged(&driven).await.is_empty());
        }
        assert_eq!(is_tombstone(&fixture, &driven).await, !back);
    }
}

/// Couch did not give it, being too large: what is known of it stays as it is.
#[tokio::test]
async fn a_document_that_cannot_be_read_keeps_what_it_had_staged() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", &["a"])]).await;
    let claim = fixture.claimed(&driven, Stage::Form, &["f"]).await;
    let failed = state::form_stage::FailedDoc {
        kind: "XFormInstance".to_owned(),
        doc_id: "f".to_owned(),
        rev: None,
        code: "C2S-1110".to_owned(),
        message: "too large".to_owned(),
        missing: true,
    };
    let results = FormResults {
        failed: vec![failed],
        ..FormResults::default()
    };
    fixture.state.finish_forms(&claim, &results).await.unwrap();
    assert_eq!(fixture.staged(&driven).await, ["a/f"]);
    assert_eq!(fixture.errors(&driven).await, ["XFormInstance/f/C2S-1110"]);
}
