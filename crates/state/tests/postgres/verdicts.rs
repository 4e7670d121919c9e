//! Forms that a replay refuses are dropped whole, for the revision that was replayed.

use proto::topology::Stage;
use state::batch::Claim;
use state::case_stage::{CaseInputs, CaseResults, Verdict};
use state::form_stage::FormResults;

use crate::database::soon;
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
        let writing = fixture.claimed(&driven, Stage::Form, &["f"]).await;
        let standing = state.begin_forms(&writing, &[intent("f", rev)], &[]).await.unwrap();
        assert!(begin_removal(&fixture, &replay, &inputs).await.is_empty());
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

/// A case worker removes the row of a form and dies before it comes to the verdict. Whatever the next replay makes of the
/// form, its row and its verdict agree in the end.
#[tokio::test]
async fn a_removal_that_never_came_to_its_verdict_is_finished_or_undone() {
    for accepts in [false, true] {
        let (fixture, driven) = Fixture::with_domain().await;
        let state = &fixture.state;
        fixture.stage(&driven, &[("f", "1-a", &["a", "b"])]).await;
        let dying = fixture.claimed(&driven, Stage::Case, &["a"]).await;
        let inputs = state.case_inputs(&dying, &dying.ids).await.unwrap();
        assert_eq!(inputs.removing, []);
        assert_eq!(begin_removal(&fixture, &dying, &inputs).await, ["f"]);

        // Meanwhile a run begins that tries again what failed, and another form comes.
        assert_eq!(state.requeue_failed(&driven.lease, 100).await.unwrap(), 0);
        fixture.stage(&driven, &[("g", "1-a", &["a"])]).await;
        let claim = fixture.claimed(&driven, Stage::Case, &["a", "b"]).await;
        let inputs = state.case_inputs(&claim, &claim.ids).await.unwrap();
        assert_eq!((inputs.staged.len(), inputs.refused.len()), (3, 0));
        assert_eq!(inputs.removing, [("a".to_owned(), "f".to_owned())]);
        if accepts {
            let results = CaseResults {
                replayed: strings(&["a", "b"]),
                withdrawn: strings(&["f"]),
                staged_as: inputs.staged_as.clone(),
                ..CaseResults::default()
            };
            state.finish_cases(&claim, &inputs.dirty, &results).await.unwrap();
            let again = fixture
                .claim_next(&driven, Stage::Form)
                .await
                .expect("its row is written anew");
            assert_eq!(again.ids, ["f"]);
        } else {
            assert_eq!(begin_removal(&fixture, &claim, &inputs).await, ["f"]);
            finish_refusing_f(&fixture, &claim, &inputs).await;
            assert_eq!(fixture.errors(&driven).await, ["XFormInstance/f/C2S-2202"]);
            let verdicts = "select count(*) from form_verdict where migration_id = $1 and not removing";
            assert_eq!(fixture.number(verdicts, &driven).await, 1);
            assert!(
                begin_removal(&fixture, &fixture.claimed(&driven, Stage::Case, &["b"]).await, &inputs)
                    .await
                    .is_empty()
            );
        }
    }
}

/// Else somebody may have replayed the case without that record, and nobody would look for it.
#[tokio::test]
async fn a_batch_is_not_taken_back_while_a_removal_goes_on_record() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    fixture.stage(&driven, &[("f", "1-a", &["a"])]).await;
    let claim = fixture.claimed(&driven, Stage::Case, &["a"]).await;
    let inputs = state.case_inputs(&claim, &claim.ids).await.unwrap();
    fixture.let_expire(claim.batch_id).await;
    let verdict = refused("f", "a");
    let mut obstacle = fixture.sql.begin().await.unwrap();
    sqlx::query("lock table form_verdict in access exclusive mode")
        .execute(&mut *obstacle)
        .await
        .unwrap();
    let (late, (claim, staged_as)) = (state.clone(), (claim, inputs.staged_as));
    let removal = tokio::spawn(async move { late.begin_removals(&claim, &[&verdict], &staged_as).await });
    fixture.until_waiting(1).await;
    let (driver, id) = (state.clone(), driven.id);
    let expiry = tokio::spawn(async move { driver.expire_claims(id, 5).await });
    // The batch is taken back when the record is there, and not before.
    fixture.until_waiting(2).await;
    obstacle.rollback().await.unwrap();
    assert_eq!(soon("the removal", removal).await.unwrap().unwrap(), ["f"]);
    assert_eq!(soon("the expiry", expiry).await.unwrap().unwrap(), 1);
    let again = fixture.claim_next(&driven, Stage::Case).await.unwrap();
    let inputs = state.case_inputs(&again, &again.ids).await.unwrap();
    assert_eq!(inputs.removing.len(), 1);
}

/// The form went through its stage again, which wrote its row anew.
#[tokio::test]
async fn staging_a_form_ends_its_removal() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    fixture.stage(&driven, &[("f", "1-a", &["a"])]).await;
    let dying = fixture.claimed(&driven, Stage::Case, &["a"]).await;
    let inputs = state.case_inputs(&dying, &dying.ids).await.unwrap();
    assert_eq!(begin_removal(&fixture, &dying, &inputs).await, ["f"]);
    let writing = fixture.claimed(&driven, Stage::Form, &["f"]).await;
    let standing = state.begin_forms(&writing, &[intent("f", "1-a")], &[]).await.unwrap();
    assert!(standing["f"].rejected.is_none(), "no replay has refused it yet");
    let results = FormResults {
        forms: vec![staged_form("f", "1-a", &["a"], &standing["f"])],
        ..FormResults::default()
    };
    state.finish_forms(&writing, &results).await.unwrap();
    let claim = fixture.claimed(&driven, Stage::Case, &["a"]).await;
    let inputs = state.case_inputs(&claim, &claim.ids).await.unwrap();
    assert_eq!((inputs.staged.len(), inputs.removing.len()), (1, 0));
}

/// A case worker is about to remove the row of `f`, which case `a` refuses. Gives what it may remove.
async fn begin_removal(fixture: &Fixture, claim: &Claim, inputs: &CaseInputs) -> Vec<String> {
    let verdict = refused("f", "a");
    let state = &fixture.state;
    state
        .begin_removals(claim, &[&verdict], &inputs.staged_as)
        .await
        .unwrap()
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
