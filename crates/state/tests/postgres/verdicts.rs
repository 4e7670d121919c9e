//! Forms that a replay refuses are dropped whole, for the revision that was replayed.

use proto::topology::Stage;
use state::batch::Claim;
use state::case_stage::{CaseInputs, CaseResults, Verdict};
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
        staged_as: inputs.staged_as.clone(),
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

/// The replay read one writing of the form; another one, of a newer or of the same revision, was staged before the verdict
/// came. Nothing is known of that one.
#[tokio::test]
async fn there_is_no_verdict_on_a_form_that_was_staged_again_meanwhile() {
    for rev in ["1-a", "2-b"] {
        let (fixture, driven) = Fixture::with_domain().await;
        fixture.stage(&driven, &[("f", "1-a", &["a", "b"])]).await;
        let claim = fixture.claimed(&driven, Stage::Case, &["a"]).await;
        let inputs = fixture.state.case_inputs(&claim, &claim.ids).await.unwrap();
        fixture.stage(&driven, &[("f", rev, &["a"])]).await;
        finish_refusing_f(&fixture, &claim, &inputs).await;
        assert_unjudged(&fixture, &driven).await;
        assert_eq!(fixture.staged(&driven).await, ["a/f"]);
        assert!(
            fixture.dirty(&driven).await.contains(&"a".to_owned()),
            "the case is replayed with what was staged last"
        );
    }
}

/// A form worker has committed the form's row and has not staged it yet, when a replay of what was staged before refuses
/// the form: the row is not removed, and the form is not condemned.
#[tokio::test]
async fn a_verdict_between_a_forms_commit_and_its_staging_leaves_the_row_and_the_form_alone() {
    for rev in ["1-a", "2-b"] {
        let (fixture, driven) = Fixture::with_domain().await;
        let state = &fixture.state;
        fixture.stage(&driven, &[("f", "1-a", &["a", "b"])]).await;
        let replay = fixture.claimed(&driven, Stage::Case, &["a"]).await;
        let inputs = state.case_inputs(&replay, &replay.ids).await.unwrap();
        let replayed: Vec<(String, i64)> = inputs.staged_as.clone().into_iter().collect();
        assert!(
            state.begun_again(&replay, &replayed).await.unwrap().is_empty(),
            "until now the row could be removed"
        );

        let writing = fixture.claimed(&driven, Stage::Form, &["f"]).await;
        let standing = state.begin_forms(&writing, &[intent("f", rev)], &[]).await.unwrap();
        assert_eq!(state.begun_again(&replay, &replayed).await.unwrap(), ["f"]);
        finish_refusing_f(&fixture, &replay, &inputs).await;
        assert_unjudged(&fixture, &driven).await;

        let results = FormResults {
            forms: vec![staged_form("f", rev, &["a", "b"], &standing["f"])],
            ..FormResults::default()
        };
        state.finish_forms(&writing, &results).await.unwrap();
        assert_eq!(fixture.staged(&driven).await, ["a/f", "b/f"]);
        assert_eq!(fixture.dirty(&driven).await, ["a", "b"]);
        refuse(&fixture, &driven, "f", "a").await;
        assert_eq!(
            fixture.errors(&driven).await,
            ["XFormInstance/f/C2S-2202"],
            "a replay of what is staged now judges it"
        );
    }
}

/// Of two workers that write the same revision, the one that began last stages it, whoever ends last.
#[tokio::test]
async fn whoever_began_last_stages_the_form() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let mut writings = Vec::new();
    for case in ["first", "second"] {
        let claim = fixture.claimed(&driven, Stage::Form, &["f"]).await;
        let standing = state.begin_forms(&claim, &[intent("f", "1-a")], &[]).await.unwrap();
        let results = FormResults {
            forms: vec![staged_form("f", "1-a", &[case], &standing["f"])],
            ..FormResults::default()
        };
        writings.push((claim, results));
    }
    for (claim, results) in writings.iter().rev() {
        state.finish_forms(claim, results).await.unwrap();
        assert_eq!(fixture.staged(&driven).await, ["second/f"]);
    }
    refuse(&fixture, &driven, "f", "second").await;
    assert_eq!(fixture.errors(&driven).await.len(), 1, "verdicts on it count");
}

/// Another form of the case was staged while the case was replayed: the verdict may be another one next time.
#[tokio::test]
async fn a_verdict_on_a_case_that_has_new_inputs_sends_the_form_through_the_form_stage_again() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", &["a"])]).await;
    let claim = fixture.claimed(&driven, Stage::Case, &["a"]).await;
    let inputs = fixture.state.case_inputs(&claim, &claim.ids).await.unwrap();
    fixture.stage(&driven, &[("g", "1-a", &["a"])]).await;
    finish_refusing_f(&fixture, &claim, &inputs).await;
    assert!(fixture.errors(&driven).await.is_empty());
    let again = fixture
        .claim_next(&driven, Stage::Form)
        .await
        .expect("a form batch is open");
    assert_eq!(again.ids, ["f"]);
}

#[tokio::test]
async fn rows_of_newer_revisions_are_not_removed_for_older_ones() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture
        .stage(
            &driven,
            &[("f", "2-b", &["a"]), ("g", "2-b", &["a"]), ("h", "2-b", &["a"])],
        )
        .await;
    let claim = fixture.claimed(&driven, Stage::Form, &["f"]).await;
    let read =
        [("f", "1-a"), ("g", "2-b"), ("h", "10-a"), ("i", "1-a")].map(|(id, rev)| (id.to_owned(), rev.to_owned()));
    assert_eq!(fixture.state.newer_revisions(&claim, &read).await.unwrap(), ["f"]);
}

async fn finish_refusing_f(fixture: &Fixture, claim: &Claim, inputs: &CaseInputs) {
    let results = CaseResults {
        replayed: strings(&["a"]),
        verdicts: vec![refused("f", "a")],
        staged_as: inputs.staged_as.clone(),
        ..CaseResults::default()
    };
    fixture
        .state
        .finish_cases(claim, &inputs.dirty, &results)
        .await
        .unwrap();
}

/// Nothing is on record against any form, and none has to be written again.
async fn assert_unjudged(fixture: &Fixture, driven: &Driven) {
    let verdicts = "select count(*) from form_verdict where migration_id = $1";
    assert_eq!(fixture.number(verdicts, driven).await, 0);
    assert!(fixture.errors(driven).await.is_empty());
    assert!(fixture.claim_next(driven, Stage::Form).await.is_none());
}

/// Which form a case may judge again: those that it refused itself, and no other.
#[tokio::test]
async fn a_case_that_refused_a_form_may_take_it_back() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", &["a", "b"])]).await;
    refuse(&fixture, &driven, "f", "a").await;
    let claim = fixture.claimed(&driven, Stage::Case, &["a", "b"]).await;
    let inputs = fixture.state.case_inputs(&claim, &claim.ids).await.unwrap();
    assert!(inputs.staged.is_empty());
    let pairs: Vec<_> = inputs
        .refused
        .iter()
        .map(|(case, form, _)| (case.as_str(), form.as_str()))
        .collect();
    assert_eq!(pairs, [("a", "f")]);
    let results = CaseResults {
        replayed: strings(&["a", "b"]),
        withdrawn: strings(&["f"]),
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
    let again = fixture
        .claim_next(&driven, Stage::Form)
        .await
        .expect("the form is to be written and staged again");
    assert_eq!(again.ids, ["f"]);
    let standing = fixture
        .state
        .begin_forms(&again, &[intent("f", "1-a")], &[])
        .await
        .unwrap();
    assert!(standing["f"].rejected.is_none());
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
