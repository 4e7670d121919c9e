//! Forms are compared again, unless somebody writes them meanwhile.

use proto::topology::Stage;
use state::batch::Claim;
use state::form_diffs::FormComparison;

use crate::fixture::{Driven, Fixture, strings};

async fn claimed(fixture: &Fixture, driven: &Driven, ids: &[&str]) -> Claim {
    fixture
        .state
        .request_form_diffs(&driven.lease, &strings(ids), 10)
        .await
        .unwrap();
    let claim = fixture.claim_next(driven, Stage::Diff).await.expect("a batch is there");
    assert!(claim.doc_type.is_form(), "the worker tells forms from cases by it");
    claim
}

/// Compares all forms of a claim with the same outcome. Gives how many comparisons were dropped.
async fn compare(fixture: &Fixture, claim: &Claim, diffs: Option<&str>, meanwhile: impl Future<Output = ()>) -> usize {
    let forms = fixture.state.forms_to_diff(claim).await.unwrap();
    meanwhile.await;
    let found: Vec<FormComparison> = forms
        .into_iter()
        .map(|form| FormComparison {
            form,
            kind: "XFormInstance".to_owned(),
            rev: Some("1-a".to_owned()),
            diffs: diffs.map(str::to_owned),
        })
        .collect();
    fixture.state.finish_form_diffs(claim, &found, &[]).await.unwrap()
}

async fn with_diffs(fixture: &Fixture, driven: &Driven) -> Vec<String> {
    fixture.state.forms_with_diffs_after(driven.id, "", 10).await.unwrap()
}

#[tokio::test]
async fn diffs_of_a_form_replace_each_other_and_vanish_when_it_is_equal() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", &[]), ("g", "1-a", &[])]).await;
    // "h" was never migrated; it can be compared all the same.
    for (diffs, expected) in [
        (Some("[1]"), &["f", "g", "h"][..]),
        (Some("[2]"), &["f", "g", "h"]),
        (None, &[]),
    ] {
        let claim = claimed(&fixture, &driven, &["f", "g", "h"]).await;
        assert_eq!(compare(&fixture, &claim, diffs, async {}).await, 0);
        assert_eq!(with_diffs(&fixture, &driven).await, expected);
        let stored = fixture
            .strings("select distinct diffs from doc_diff where migration_id = $1", &driven)
            .await;
        assert_eq!(stored, strings(&diffs.into_iter().collect::<Vec<_>>()));
    }
}

/// An operator's list may name a form twice.
#[tokio::test]
async fn a_form_that_is_named_twice_is_compared_once() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", &[])]).await;
    let claim = claimed(&fixture, &driven, &["f", "f"]).await;
    assert_eq!(compare(&fixture, &claim, Some("[1]"), async {}).await, 0);
    assert_eq!(with_diffs(&fixture, &driven).await, ["f"]);
}

/// Somebody is staging a form just now: the comparison waits, and is dropped.
#[tokio::test]
async fn a_comparison_waits_for_a_writer_of_its_form() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", &[])]).await;
    let claim = claimed(&fixture, &driven, &["f"]).await;
    let mut writer = fixture.sql.begin().await.unwrap();
    sqlx::query("update doc_revision set begun = begun + 1")
        .execute(&mut *writer)
        .await
        .unwrap();
    let ending = async {
        fixture.until_waiting(1).await;
        let diffs = "insert into doc_diff (migration_id, kind, doc_id, diffs) values ($1, 'XFormInstance', 'f', '[9]')";
        sqlx::query(diffs)
            .bind(driven.id.0)
            .execute(&mut *writer)
            .await
            .unwrap();
        writer.commit().await.unwrap();
    };
    let (moved, ()) = tokio::join!(compare(&fixture, &claim, Some("[1]"), async {}), ending);
    assert_eq!(moved, 1);
    let stored = fixture
        .strings("select diffs from doc_diff where migration_id = $1", &driven)
        .await;
    assert_eq!(stored, ["[9]"]);
}

#[tokio::test]
async fn a_comparison_is_dropped_when_its_form_was_migrated_again_meanwhile() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", &[]), ("g", "1-a", &[])]).await;
    let claim = claimed(&fixture, &driven, &["f", "g"]).await;
    let moved = compare(
        &fixture,
        &claim,
        Some("[1]"),
        fixture.stage(&driven, &[("f", "2-b", &[])]),
    )
    .await;
    assert_eq!(moved, 1);
    assert_eq!(with_diffs(&fixture, &driven).await, ["g"]);
}
