//! Forms that a replay refuses are dropped whole, for the revision that was replayed.

use proto::topology::Stage;
use state::case_stage::{CaseResults, Verdict};
use state::form_stage::FormResults;

use crate::fixture::{Driven, Fixture, intent, staged_form, strings};

fn refused(form_id: &str, case_id: &str) -> Verdict {
    Verdict {
        form_id: form_id.to_owned(),
        case_id: case_id.to_owned(),
        code: "C2S-2202".to_owned(),
        message: "no owner".to_owned(),
    }
}

/// Replays a case, and the replay refuses a form.
async fn refuse(fixture: &Fixture, driven: &Driven, form_id: &str, case_id: &str) {
    let claim = fixture.claimed(driven, Stage::Case, &[case_id]).await;
    let inputs = fixture.state.case_inputs(&claim, &claim.ids).await.unwrap();
    let results = CaseResults {
        replayed: strings(&[case_id]),
        verdicts: vec![refused(form_id, case_id)],
        ..CaseResults::default()
    };
    fixture
        .state
        .finish_cases(&claim, &inputs.dirty, &results)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_verdict_drops_the_form_whole_and_makes_all_its_cases_dirty() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture
        .stage(&driven, &[("f", "1-a", &["a", "b"]), ("g", "1-a", &["a", "b"])])
        .await;
    fixture.replay(&driven, &["a", "b"]).await;
    refuse(&fixture, &driven, "f", "a").await;
    assert_eq!(fixture.dirty(&driven).await, ["a", "b"]);
    let claim = fixture.claimed(&driven, Stage::Case, &["a", "b"]).await;
    let inputs = fixture.state.case_inputs(&claim, &claim.ids).await.unwrap();
    let forms: Vec<&str> = inputs.staged.iter().map(|(_, form, _)| form.as_str()).collect();
    assert_eq!(forms, ["g", "g"]);
    assert_eq!(fixture.errors(&driven).await, ["XFormInstance/f/C2S-2202"]);
    assert_eq!(
        fixture.state.missing_records(driven.id, 9).await.unwrap(),
        [("XFormInstance".to_owned(), "f".to_owned())]
    );
}

#[tokio::test]
async fn a_verdict_holds_for_its_revision_only_and_a_new_one_clears_it() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", &["a"])]).await;
    refuse(&fixture, &driven, "f", "a").await;
    let claim = fixture.claimed(&driven, Stage::Form, &["f"]).await;
    let same = fixture
        .state
        .begin_forms(&claim, &[intent("f", "1-a")], &[])
        .await
        .unwrap();
    assert_eq!(same["f"].rejected.as_deref(), Some("C2S-2202"));
    fixture
        .state
        .finish_forms(&claim, &FormResults::default())
        .await
        .unwrap();
    assert_eq!(
        fixture.errors(&driven).await.len(),
        1,
        "what is left out stays as it is"
    );

    let claim = fixture.claimed(&driven, Stage::Form, &["f"]).await;
    let newer = fixture
        .state
        .begin_forms(&claim, &[intent("f", "2-b")], &[])
        .await
        .unwrap();
    assert!(newer["f"].rejected.is_none());
    let results = FormResults {
        forms: vec![staged_form("f", "2-b", &["a"], &newer["f"])],
        ..FormResults::default()
    };
    fixture.state.finish_forms(&claim, &results).await.unwrap();
    assert_eq!(
        fixture
            .number("select count(*) from form_verdict where migration_id = $1", &driven)
            .await,
        0
    );
    assert!(fixture.errors(&driven).await.is_empty());
    let claim = fixture.claimed(&driven, Stage::Case, &["a"]).await;
    let inputs = fixture.state.case_inputs(&claim, &claim.ids).await.unwrap();
    assert_eq!(inputs.staged.len(), 1);
}

/// The replay read the old revision; a new one was staged before the verdict came. Nothing is known of the new one, and
/// its row may have been removed with the old one's.
#[tokio::test]
async fn a_verdict_on_a_revision_that_has_been_replaced_sends_the_form_through_the_form_stage_again() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", &["a", "b"])]).await;
    let claim = fixture.claimed(&driven, Stage::Case, &["a"]).await;
    let inputs = fixture.state.case_inputs(&claim, &claim.ids).await.unwrap();
    fixture.stage(&driven, &[("f", "2-b", &["a"])]).await;
    let results = CaseResults {
        replayed: strings(&["a"]),
        verdicts: vec![refused("f", "a")],
        ..CaseResults::default()
    };
    fixture
        .state
        .finish_cases(&claim, &inputs.dirty, &results)
        .await
        .unwrap();
    assert_eq!(
        fixture
            .number("select count(*) from form_verdict where migration_id = $1", &driven)
            .await,
        0
    );
    assert!(fixture.errors(&driven).await.is_empty());
    let again = fixture
        .claim_next(&driven, Stage::Form)
        .await
        .expect("a form batch is open");
    assert_eq!(again.ids, ["f"]);
    assert!(
        fixture.dirty(&driven).await.contains(&"a".to_owned()),
        "the case is replayed with the new revision"
    );
}

#[tokio::test]
async fn trying_failed_documents_again_gives_refused_forms_a_new_chance() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", &["a"])]).await;
    refuse(&fixture, &driven, "f", "a").await;
    assert_eq!(fixture.state.requeue_failed(&driven.lease, 100).await.unwrap(), 1);
    let claim = fixture.claim_next(&driven, Stage::Form).await.unwrap();
    let standing = fixture
        .state
        .begin_forms(&claim, &[intent("f", "1-a")], &[])
        .await
        .unwrap();
    assert!(standing["f"].rejected.is_none());
}
