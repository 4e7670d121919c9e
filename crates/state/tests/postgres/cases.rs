//! No replay is lost: what was read is deleted, what came meanwhile stays.

use proto::topology::Stage;
use state::case_stage::{CaseResults, FailedCase};

use crate::fixture::{Fixture, strings};

#[tokio::test]
async fn a_form_staged_after_the_inputs_were_read_leaves_its_case_dirty() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", &["a", "b"])]).await;
    let claim = fixture.claimed(&driven, Stage::Case, &["a", "b"]).await;
    let inputs = fixture.state.case_inputs(&claim, &claim.ids).await.unwrap();
    assert_eq!((inputs.dirty.len(), inputs.staged.len()), (2, 2));
    fixture.stage(&driven, &[("g", "1-a", &["a"])]).await;
    let results = CaseResults {
        replayed: claim.ids.clone(),
        ..CaseResults::default()
    };
    fixture
        .state
        .finish_cases(&claim, &inputs.dirty, &results)
        .await
        .unwrap();
    assert_eq!(fixture.dirty(&driven).await, ["a"]);
}

#[tokio::test]
async fn only_the_batch_s_own_cases_are_read() {
    let (fixture, driven) = Fixture::with_domain().await;
    let other = fixture.drive("other").await;
    fixture.stage(&other, &[("o", "1-a", &["a"])]).await;
    fixture.stage(&driven, &[("f", "1-a", &["a", "b"])]).await;
    let claim = fixture.claimed(&driven, Stage::Case, &["a", "unknown"]).await;
    let inputs = fixture.state.case_inputs(&claim, &claim.ids).await.unwrap();
    assert_eq!(inputs.staged, [("a".to_owned(), "f".to_owned(), b"f 1-a".to_vec())]);
    assert_eq!(inputs.dirty.len(), 1);
}

#[tokio::test]
async fn every_replay_raises_the_generation() {
    let (fixture, driven) = Fixture::with_domain().await;
    for generation in 1..=3 {
        // Twice in one batch is one replay.
        fixture.replay(&driven, &["a", "b", "a"]).await;
        let generations: Vec<i64> =
            sqlx::query_scalar("select generation from case_state where migration_id = $1 order by case_id")
                .bind(driven.id.0)
                .fetch_all(&fixture.sql)
                .await
                .unwrap();
        assert_eq!(generations, [generation, generation]);
    }
}

#[tokio::test]
async fn a_case_that_cannot_be_built_is_on_record_until_a_replay_builds_it() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", &["a", "b"])]).await;
    let failed = |case_id: &str, code: &str| FailedCase {
        case_id: case_id.to_owned(),
        code: code.to_owned(),
        message: "too long".to_owned(),
    };
    let claim = fixture.claimed(&driven, Stage::Case, &["a", "b"]).await;
    let inputs = fixture.state.case_inputs(&claim, &claim.ids).await.unwrap();
    let results = CaseResults {
        replayed: claim.ids.clone(),
        // One case may fail in more than one way; the last one stands.
        failed: vec![
            failed("b", "C2S-2210"),
            failed("a", "C2S-2209"),
            failed("a", "C2S-2210"),
        ],
        ..CaseResults::default()
    };
    fixture
        .state
        .finish_cases(&claim, &inputs.dirty, &results)
        .await
        .unwrap();
    assert_eq!(
        fixture.errors(&driven).await,
        ["CommCareCase/a/C2S-2210", "CommCareCase/b/C2S-2210"]
    );
    fixture.replay(&driven, &["a"]).await;
    assert_eq!(fixture.errors(&driven).await, ["CommCareCase/b/C2S-2210"]);
    assert_eq!(
        strings(&["b"]),
        fixture
            .strings("select doc_id from doc_error where migration_id = $1", &driven)
            .await
    );
}
