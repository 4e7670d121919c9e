//! What the form stage puts on record: revisions, staged effects, verdicts, errors.

use std::collections::HashMap;

use proto::topology::Stage;
use state::batch::Claim;
use state::case_stage::CaseResults;
use state::forced::Ruling;
use state::form_stage::{FailedDoc, FormResults, StagedDeletedCase};
use state::records::RecordTable;

use crate::fixture::{Fixture, intent, staged_form, strings};

fn failed(doc_id: &str, rev: &str) -> FailedDoc {
    FailedDoc {
        kind: "XFormInstance".to_owned(),
        doc_id: doc_id.to_owned(),
        rev: Some(rev.to_owned()),
        code: "C2S-2301".to_owned(),
        message: "no XML".to_owned(),
        missing: true,
    }
}

#[tokio::test]
async fn the_standing_of_a_document_says_whether_it_was_seen_or_superseded() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let claim = fixture.claimed(&driven, Stage::Form, &["f", "g"]).await;
    let first = state
        .begin_forms(&claim, &[intent("g", "1-a"), intent("f", "2-b")], &[])
        .await
        .unwrap();
    assert_eq!(first.len(), 2);
    assert!(
        first
            .values()
            .all(|standing| !standing.seen_before && !standing.superseded && standing.rejected.is_none())
    );
    for (what, rev, superseded) in [
        ("the same again", "2-b", false),
        ("an older number", "1-z", true),
        ("an equal number of a losing branch", "2-a", true),
        ("an equal number of a winning branch", "2-c", false),
        ("the one that lost", "2-b", true),
        ("a number that is greater but not as text", "10-a", false),
        ("the one before it", "9-z", true),
    ] {
        let standing = &state.begin_forms(&claim, &[intent("f", rev)], &[]).await.unwrap()["f"];
        assert_eq!(
            (standing.seen_before, standing.superseded),
            (true, superseded),
            "{what}"
        );
        assert_eq!(
            standing.first_staged_at, first["f"].first_staged_at,
            "{what}: the first time stands"
        );
    }
    let revs = fixture
        .strings(
            "select rev from doc_revision where migration_id = $1 order by doc_id",
            &driven,
        )
        .await;
    assert_eq!(revs, ["10-a", "1-a"]);
}

#[tokio::test]
async fn a_form_that_is_superseded_meanwhile_is_stale_and_stages_nothing() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let old = fixture.claimed(&driven, Stage::Form, &["f", "g"]).await;
    let standings = state
        .begin_forms(&old, &[intent("f", "1-a"), intent("g", "1-a")], &[])
        .await
        .unwrap();
    let written = [("f".to_owned(), "1-a".to_owned()), ("g".to_owned(), "1-a".to_owned())];
    assert!(state.stale_forms(&old, &written).await.unwrap().is_empty());
    fixture.stage(&driven, &[("f", "2-b", &["new"])]).await;
    assert_eq!(state.stale_forms(&old, &written).await.unwrap(), ["f"]);
    let mut late = staged_form("f", "1-a", &["old"], &standings["f"]);
    late.diffs = Some("[]".to_owned());
    late.is_problem_form = true;
    let results = FormResults {
        forms: vec![late, staged_form("g", "1-a", &["old"], &standings["g"])],
        ..FormResults::default()
    };
    state.finish_forms(&old, &results).await.unwrap();
    assert_eq!(fixture.staged(&driven).await, ["new/f", "old/g"]);
    assert_eq!(
        fixture
            .number("select count(*) from doc_diff where migration_id = $1", &driven)
            .await,
        0
    );
    assert_eq!(
        fixture
            .number("select count(*) from problem_form where migration_id = $1", &driven)
            .await,
        0
    );
}

/// The old revision has looked, and has not committed yet; the new one must come after it, not beside it.
#[tokio::test]
async fn a_newer_revision_that_begins_while_the_older_one_is_staged_replaces_all_of_it() {
    let (fixture, driven) = Fixture::with_domain().await;
    let old = fixture.claimed(&driven, Stage::Form, &["f"]).await;
    let standings = fixture
        .state
        .begin_forms(&old, &[intent("f", "1-a")], &[])
        .await
        .unwrap();
    // Holds up the old revision's transaction near its end.
    let mut brake = fixture.sql.begin().await.unwrap();
    sqlx::query("lock table dirty_case in exclusive mode")
        .execute(&mut *brake)
        .await
        .unwrap();
    let results = FormResults {
        forms: vec![staged_form("f", "1-a", &["old"], &standings["f"])],
        ..FormResults::default()
    };
    let state = fixture.state.clone();
    let older = tokio::spawn(async move { state.finish_forms(&old, &results).await });
    fixture.until_waiting(1).await;
    let newer = async {
        fixture.stage(&driven, &[("f", "2-b", &["new"])]).await;
    };
    let release = async {
        fixture.until_waiting(2).await;
        brake.commit().await.unwrap();
    };
    tokio::join!(newer, release);
    older.await.unwrap().unwrap();
    assert_eq!(fixture.staged(&driven).await, ["new/f"]);
    assert_eq!(fixture.dirty(&driven).await, ["new", "old"]);
}

#[tokio::test]
async fn staging_replaces_a_form_as_a_set_and_makes_old_and_new_cases_dirty() {
    let (fixture, driven) = Fixture::with_domain().await;
    let other = fixture.drive("other").await;
    fixture.stage(&other, &[("f", "1-a", &["a", "b"])]).await;
    fixture
        .stage(&driven, &[("f", "1-a", &["a", "b"]), ("g", "1-a", &["a"])])
        .await;
    assert_eq!(fixture.dirty(&driven).await, ["a", "b"]);
    fixture.replay(&driven, &["a", "b"]).await;
    assert!(fixture.dirty(&driven).await.is_empty());

    fixture.stage(&driven, &[("f", "2-b", &["b", "c"])]).await;
    assert_eq!(fixture.staged(&driven).await, ["a/g", "b/f", "c/f"]);
    assert_eq!(fixture.dirty(&driven).await, ["a", "b", "c"]);
    let claim = fixture.claimed(&driven, Stage::Case, &["b"]).await;
    let inputs = fixture.state.case_inputs(&claim, &claim.ids).await.unwrap();
    assert_eq!(inputs.staged, [("b".to_owned(), "f".to_owned(), b"f 2-b".to_vec())]);
    assert_eq!(
        fixture.staged(&other).await,
        ["a/f", "b/f"],
        "another domain's form of the same id is its own"
    );
}

#[tokio::test]
async fn documents_that_are_gone_leave_nothing_staged_and_no_error() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture
        .stage(&driven, &[("f", "1-a", &["a"]), ("g", "1-a", &["a"])])
        .await;
    let claim = fixture.claimed(&driven, Stage::Form, &["e", "h"]).await;
    let results = FormResults {
        failed: vec![failed("h", "1-a")],
        ..FormResults::default()
    };
    fixture.state.finish_forms(&claim, &results).await.unwrap();
    fixture.replay(&driven, &["a"]).await;
    fixture.bury(&driven, &["f", "h"]).await;
    assert_eq!(fixture.staged(&driven).await, ["a/g"]);
    assert_eq!(fixture.dirty(&driven).await, ["a"]);
    assert!(fixture.errors(&driven).await.is_empty());
    assert!(fixture.state.missing_records(driven.id, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_form_that_fails_loses_what_it_had_staged_and_is_missing_until_it_goes_through() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", &["a"])]).await;
    fixture.replay(&driven, &["a"]).await;
    let claim = fixture.claimed(&driven, Stage::Form, &["f"]).await;
    let results = FormResults {
        failed: vec![failed("f", "2-b")],
        ..FormResults::default()
    };
    fixture.state.finish_forms(&claim, &results).await.unwrap();
    assert!(fixture.staged(&driven).await.is_empty());
    assert_eq!(fixture.dirty(&driven).await, ["a"]);
    assert_eq!(fixture.errors(&driven).await, ["XFormInstance/f/C2S-2301"]);
    assert_eq!(
        fixture.state.missing_records(driven.id, 9).await.unwrap(),
        [("XFormInstance".to_owned(), "f".to_owned())]
    );

    fixture.stage(&driven, &[("f", "3-c", &["a"])]).await;
    assert!(fixture.errors(&driven).await.is_empty());
    assert!(fixture.state.missing_records(driven.id, 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_older_revision_that_fails_does_not_undo_a_newer_one() {
    let (fixture, driven) = Fixture::with_domain().await;
    let old = fixture.claimed(&driven, Stage::Form, &["f"]).await;
    fixture.stage(&driven, &[("f", "2-b", &["a"])]).await;
    let results = FormResults {
        failed: vec![failed("f", "1-a")],
        ..FormResults::default()
    };
    fixture.state.finish_forms(&old, &results).await.unwrap();
    assert_eq!(fixture.staged(&driven).await, ["a/f"]);
    assert!(fixture.errors(&driven).await.is_empty());
}

#[tokio::test]
async fn an_older_revision_does_not_cover_up_that_a_newer_one_failed() {
    let (fixture, driven) = Fixture::with_domain().await;
    let old = fixture.claimed(&driven, Stage::Form, &["f"]).await;
    let standings = fixture
        .state
        .begin_forms(&old, &[intent("f", "1-a")], &[])
        .await
        .unwrap();
    let new = fixture.claimed(&driven, Stage::Form, &["f"]).await;
    let results = FormResults {
        failed: vec![failed("f", "2-b")],
        ..FormResults::default()
    };
    fixture.state.finish_forms(&new, &results).await.unwrap();
    let results = FormResults {
        forms: vec![staged_form("f", "1-a", &["a"], &standings["f"])],
        ..FormResults::default()
    };
    fixture.state.finish_forms(&old, &results).await.unwrap();
    assert!(fixture.staged(&driven).await.is_empty());
    assert_eq!(fixture.errors(&driven).await, ["XFormInstance/f/C2S-2301"]);
}

async fn fail_f(fixture: &Fixture, claim: &Claim) {
    let results = FormResults {
        failed: vec![failed("f", "2-b")],
        ..FormResults::default()
    };
    fixture.state.finish_forms(claim, &results).await.unwrap();
}

/// Rows were removed for the revision that fails before the row of the one before it was committed. Whoever of the two is
/// staged last, somebody looks once more.
#[tokio::test]
async fn a_row_that_was_committed_after_a_newer_revision_failed_is_looked_at_again() {
    for old_ends_first in [true, false] {
        let (fixture, driven) = Fixture::with_domain().await;
        let old = fixture.claimed(&driven, Stage::Form, &["f"]).await;
        let standings = fixture
            .state
            .begin_forms(&old, &[intent("f", "1-a")], &[])
            .await
            .unwrap();
        let results = FormResults {
            forms: vec![staged_form("f", "1-a", &["a"], &standings["f"])],
            ..FormResults::default()
        };
        let new = fixture.claimed(&driven, Stage::Form, &["f"]).await;
        if old_ends_first {
            fixture.state.finish_forms(&old, &results).await.unwrap();
        }
        fail_f(&fixture, &new).await;
        let again = fixture.claim_next(&driven, Stage::Form).await.expect("f is open");
        assert_eq!(again.ids, ["f"]);
        fail_f(&fixture, &again).await;
        assert!(
            fixture.claim_next(&driven, Stage::Form).await.is_none(),
            "once is enough"
        );
        if !old_ends_first {
            // Its row came after all of that.
            fixture.state.finish_forms(&old, &results).await.unwrap();
            let again = fixture.claim_next(&driven, Stage::Form).await.expect("f is open");
            assert_eq!(again.ids, ["f"]);
        }
        assert!(fixture.staged(&driven).await.is_empty());
        assert_eq!(fixture.errors(&driven).await, ["XFormInstance/f/C2S-2301"]);
    }
}

/// A form that is migrated with an error on record is as much a writing as any other.
#[tokio::test]
async fn of_two_writings_of_a_form_with_an_error_the_one_that_began_last_counts() {
    let (fixture, driven) = Fixture::with_domain().await;
    let mut writings = Vec::new();
    for case in ["first", "second"] {
        let claim = fixture.claimed(&driven, Stage::Form, &["f"]).await;
        let standings = fixture
            .state
            .begin_forms(&claim, &[intent("f", "1-a")], &[])
            .await
            .unwrap();
        let recorded = FailedDoc {
            missing: false,
            ..failed("f", "1-a")
        };
        let results = FormResults {
            forms: vec![staged_form("f", "1-a", &[case], &standings["f"])],
            failed: vec![recorded],
            ..FormResults::default()
        };
        writings.push((claim, results));
    }
    for (claim, results) in writings.iter().rev() {
        fixture.state.finish_forms(claim, results).await.unwrap();
        assert_eq!(fixture.staged(&driven).await, ["second/f"]);
        let begun = "select max(begun) from staged_update where migration_id = $1";
        assert_eq!(fixture.number(begun, &driven).await, 2);
    }
}

#[tokio::test]
async fn lists_and_diffs_of_a_form_are_those_of_its_last_staging() {
    let (fixture, driven) = Fixture::with_domain().await;
    let claim = fixture.claimed(&driven, Stage::Form, &["f"]).await;
    let standing = fixture
        .state
        .begin_forms(&claim, &[intent("f", "1-a")], &[])
        .await
        .unwrap();
    let mut form = staged_form("f", "1-a", &[], &standing["f"]);
    form.has_noop_block = true;
    form.is_problem_form = true;
    form.diffs = Some(r#"[{"path":["x"]}]"#.to_owned());
    fixture
        .state
        .finish_forms(
            &claim,
            &FormResults {
                forms: vec![form],
                ..FormResults::default()
            },
        )
        .await
        .unwrap();
    let noop = fixture
        .state
        .no_action_forms(driven.id, &strings(&["f", "g"]))
        .await
        .unwrap();
    assert_eq!(noop, ["f"]);
    let diffs = fixture.records(&driven, RecordTable::Diffs).await;
    assert_eq!(
        (diffs.len(), diffs[0].kind.as_str(), diffs[0].doc_id.as_str()),
        (1, "XFormInstance", "f")
    );

    fixture.stage(&driven, &[("f", "2-b", &[])]).await;
    assert!(
        fixture
            .state
            .no_action_forms(driven.id, &strings(&["f"]))
            .await
            .unwrap()
            .is_empty()
    );
    assert!(fixture.records(&driven, RecordTable::Diffs).await.is_empty());
    assert_eq!(
        fixture
            .number("select count(*) from problem_form where migration_id = $1", &driven)
            .await,
        0
    );
}

#[tokio::test]
async fn a_deleted_case_is_an_input_of_its_replay_until_it_is_gone() {
    let (fixture, driven) = Fixture::with_domain().await;
    for (rev, payload) in [("1-a", "one"), ("2-b", "two")] {
        let claim = fixture.claimed(&driven, Stage::Form, &["c"]).await;
        let standings = fixture
            .state
            .begin_forms(&claim, &[intent("c", rev)], &[])
            .await
            .unwrap();
        let case = StagedDeletedCase {
            case_id: "c".to_owned(),
            rev: rev.to_owned(),
            begun: standings["c"].begun,
            payload: payload.as_bytes().to_vec(),
        };
        let results = FormResults {
            deleted_cases: vec![case],
            ..FormResults::default()
        };
        fixture.state.finish_forms(&claim, &results).await.unwrap();
    }
    let claim = fixture.claimed(&driven, Stage::Case, &["c"]).await;
    let inputs = fixture.state.case_inputs(&claim, &claim.ids).await.unwrap();
    assert_eq!(inputs.events, [("c".to_owned(), b"two".to_vec())]);
    assert_eq!(inputs.dirty.len(), 2);
    let results = CaseResults {
        replayed: claim.ids.clone(),
        ..CaseResults::default()
    };
    fixture
        .state
        .finish_cases(&claim, &inputs.dirty, &results)
        .await
        .unwrap();

    fixture.bury(&driven, &["c"]).await;
    assert_eq!(fixture.dirty(&driven).await, ["c"]);
    let claim = fixture.claimed(&driven, Stage::Case, &["c"]).await;
    assert!(
        fixture
            .state
            .case_inputs(&claim, &claim.ids)
            .await
            .unwrap()
            .events
            .is_empty()
    );
}

#[tokio::test]
async fn forms_that_are_applied_whatever_they_say_go_through_the_form_stage_again() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    fixture
        .stage(&driven, &[("f", "1-a", &["a"]), ("g", "1-a", &["a"])])
        .await;
    state
        .requeue_forms(&driven.lease, &strings(&["g"]), false, 10)
        .await
        .unwrap();
    state
        .requeue_forms(&driven.lease, &strings(&["f", "h"]), true, 1)
        .await
        .unwrap();
    assert_eq!(
        fixture
            .strings(
                "select array_to_string(ids, ',') from batch where migration_id = $1 and state = 'ready' order by id",
                &driven
            )
            .await,
        ["g", "f", "h"]
    );
    let claim = fixture.claimed(&driven, Stage::Form, &["f", "g"]).await;
    let rulings = state.forced_forms(&claim).await.unwrap();
    assert_eq!(rulings, HashMap::from([("f".to_owned(), Ruling::Applied)]));
}

#[tokio::test]
async fn an_older_revision_of_a_deleted_case_does_not_replace_a_newer_one() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    let slow = fixture.claimed(&driven, Stage::Form, &["c"]).await;
    let fast = fixture.claimed(&driven, Stage::Form, &["c"]).await;
    let finish = async |claim, rev: &str, begun| {
        let case = StagedDeletedCase {
            case_id: "c".to_owned(),
            rev: rev.to_owned(),
            begun,
            payload: rev.as_bytes().to_vec(),
        };
        let results = FormResults {
            deleted_cases: vec![case],
            ..FormResults::default()
        };
        state.finish_forms(claim, &results).await.unwrap();
    };
    let old = state.begin_forms(&slow, &[intent("c", "1-a")], &[]).await.unwrap();
    let new = state.begin_forms(&fast, &[intent("c", "2-b")], &[]).await.unwrap();
    finish(&fast, "2-b", new["c"].begun).await;
    finish(&slow, "1-a", old["c"].begun).await;
    let claim = fixture.claimed(&driven, Stage::Case, &["c"]).await;
    let inputs = state.case_inputs(&claim, &claim.ids).await.unwrap();
    assert_eq!(inputs.events, [("c".to_owned(), b"2-b".to_vec())]);
}
