//! What becomes of a patch form when others are faster, when it is refused, and when it is buried.

use std::collections::HashMap;

use proto::topology::Stage;
use state::batch::Claim;
use state::blob_change::{BlobAction, BlobChange, BlobOrigin};
use state::case_stage::{CaseResults, Verdict};
use state::form_stage::{DocStanding, FormResults};
use state::patch::{PatchCounts, PatchFormRecord, PatchResults};
use state::records::RecordTable;

use crate::fixture::{Driven, Fixture, intent, staged_form, strings};

/// A domain with case `c`, made by form `f`.
async fn with_a_case() -> (Fixture, Driven) {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", &["c"])]).await;
    fixture.replay(&driven, &["c"]).await;
    (fixture, driven)
}

/// A batch of the case to patch, as a form worker claims it.
async fn patching(fixture: &Fixture, driven: &Driven) -> Claim {
    let cases = strings(&["c"]);
    fixture.state.request_patches(&driven.lease, &cases, 10).await.unwrap();
    fixture.claim_next(driven, Stage::Form).await.unwrap()
}

fn patch_form(form_id: &str) -> PatchFormRecord {
    PatchFormRecord {
        form_id: form_id.to_owned(),
        case_id: "c".to_owned(),
        table: RecordTable::Diffs,
    }
}

async fn begin(fixture: &Fixture, claim: &Claim, form_id: &str) -> DocStanding {
    let state = &fixture.state;
    state.begin_patches(claim, &[patch_form(form_id)]).await.unwrap();
    let blob = BlobChange {
        action: BlobAction::Insert {
            origin: BlobOrigin::Patch,
        },
        key: format!("{form_id}-xml"),
        parent_id: form_id.to_owned(),
        name: "form.xml".to_owned(),
        type_code: 2,
        created_on: chrono::DateTime::UNIX_EPOCH,
    };
    let mut standings = state
        .begin_forms(claim, &[intent(form_id, "1-patch")], &[blob])
        .await
        .unwrap();
    standings.remove(form_id).unwrap()
}

async fn finish(fixture: &Fixture, claim: &Claim, form_id: &str, standing: &DocStanding) {
    let results = FormResults {
        forms: vec![staged_form(form_id, "1-patch", &["c"], standing)],
        patches: PatchResults {
            patched: vec![patch_form(form_id)],
            corrections: vec![(form_id.to_owned(), form_id.as_bytes().to_vec())],
            ..PatchResults::default()
        },
        ..FormResults::default()
    };
    fixture.state.finish_forms(claim, &results).await.unwrap();
}

async fn patch(fixture: &Fixture, driven: &Driven, form_id: &str) {
    let claim = patching(fixture, driven).await;
    let standing = begin(fixture, &claim, form_id).await;
    finish(fixture, &claim, form_id, &standing).await;
}

async fn corrections(fixture: &Fixture, driven: &Driven) -> Vec<String> {
    let kinds = "select kind from case_event where migration_id = $1 order by kind";
    fixture.strings(kinds, driven).await
}

async fn counts(fixture: &Fixture, driven: &Driven) -> PatchCounts {
    fixture.state.patch_counts(driven.id).await.unwrap()
}

const fn counted(cases: i64, forms: i64, refused: i64) -> PatchCounts {
    PatchCounts { cases, forms, refused }
}

fn refused(form_id: &str, staged_as: HashMap<String, i64>) -> CaseResults {
    CaseResults {
        replayed: strings(&["c"]),
        verdicts: vec![Verdict {
            form_id: form_id.to_owned(),
            case_id: "c".to_owned(),
            code: "C2S-2105".to_owned(),
            message: "why".to_owned(),
        }],
        staged_as,
        ..CaseResults::default()
    }
}

#[tokio::test]
async fn of_two_writings_only_the_last_leaves_an_outcome() {
    let (fixture, driven) = with_a_case().await;
    let (one, other) = (patching(&fixture, &driven).await, patching(&fixture, &driven).await);
    let first = begin(&fixture, &one, "p").await;
    let second = begin(&fixture, &other, "p").await;
    finish(&fixture, &one, "p", &first).await;
    assert_eq!(counts(&fixture, &driven).await, counted(0, 0, 0));
    assert!(corrections(&fixture, &driven).await.is_empty());
    finish(&fixture, &other, "p", &second).await;
    assert_eq!(counts(&fixture, &driven).await, counted(1, 1, 0));
    assert_eq!(corrections(&fixture, &driven).await, ["ledger_correction/p"]);
}

/// The row may have been written after it was to be removed: the case is patched again, which finds the form.
#[tokio::test]
async fn a_form_that_another_attempt_gave_up_meanwhile_is_found_by_the_next() {
    let (fixture, driven) = with_a_case().await;
    let state = &fixture.state;
    let (one, other) = (patching(&fixture, &driven).await, patching(&fixture, &driven).await);
    let standing = begin(&fixture, &one, "p").await;
    let gone = strings(&["p"]);
    let known = state.writings_of(&other, &gone).await.unwrap();
    let given_up = FormResults {
        burials: state.begin_burials(&other, &gone, &known).await.unwrap(),
        gone,
        ..FormResults::default()
    };
    state.finish_forms(&other, &given_up).await.unwrap();
    finish(&fixture, &one, "p", &standing).await;
    assert_eq!(fixture.staged(&driven).await, ["c/f"]);
    assert_eq!(counts(&fixture, &driven).await, counted(0, 0, 0));
    let next = fixture
        .claim_next(&driven, Stage::Form)
        .await
        .expect("it is tried again");
    assert_eq!((next.doc_type.as_str(), next.ids), ("CommCareCase", strings(&["c"])));
    let left = state.unfinished_patches(driven.id, &strings(&["c"])).await.unwrap();
    assert_eq!(left, ["p"]);
}

#[tokio::test]
async fn a_patch_form_that_is_buried_is_none_any_more() {
    let (fixture, driven) = with_a_case().await;
    patch(&fixture, &driven, "p").await;
    let state = &fixture.state;
    let blobs = async || state.patch_blobs(driven.id, &strings(&["p"])).await.unwrap();
    assert_eq!(blobs().await, [("p".to_owned(), "p-xml".to_owned())]);
    fixture.bury(&driven, &["p"]).await;
    assert_eq!(fixture.staged(&driven).await, ["c/f"]);
    assert_eq!(counts(&fixture, &driven).await, counted(0, 0, 0));
    assert!(corrections(&fixture, &driven).await.is_empty());
    assert!(blobs().await.is_empty());
}

/// Whoever has begun to write it since has a row of his own, and stages it.
#[tokio::test]
async fn a_verdict_on_an_older_writing_of_a_patch_form_counts_for_nothing() {
    let (fixture, driven) = with_a_case().await;
    patch(&fixture, &driven, "p").await;
    let state = &fixture.state;
    let replay = fixture.claimed(&driven, Stage::Case, &["c"]).await;
    let inputs = state.case_inputs(&replay, &replay.ids).await.unwrap();
    let claim = patching(&fixture, &driven).await;
    let standing = begin(&fixture, &claim, "p").await;
    let verdict = refused("p", inputs.staged_as.clone());
    state.finish_cases(&replay, &inputs.dirty, &verdict).await.unwrap();
    assert_eq!(counts(&fixture, &driven).await, counted(1, 1, 0));
    finish(&fixture, &claim, "p", &standing).await;
    assert_eq!(fixture.staged(&driven).await, ["c/f", "c/p"]);
}

#[tokio::test]
async fn a_patch_form_that_is_given_up_takes_its_own_correction_along() {
    let (fixture, driven) = with_a_case().await;
    patch(&fixture, &driven, "p").await;
    patch(&fixture, &driven, "q").await;
    let state = &fixture.state;
    let claim = fixture.claimed(&driven, Stage::Case, &["c"]).await;
    let inputs = state.case_inputs(&claim, &claim.ids).await.unwrap();
    let correction = |form_id: &str| ("c".to_owned(), form_id.to_owned(), form_id.as_bytes().to_vec());
    assert_eq!(inputs.corrections, [correction("p"), correction("q")]);
    assert!(inputs.events.is_empty());
    let verdict = refused("q", inputs.staged_as.clone());
    state.finish_cases(&claim, &inputs.dirty, &verdict).await.unwrap();
    assert_eq!(counts(&fixture, &driven).await, counted(1, 1, 0));
    assert_eq!(corrections(&fixture, &driven).await, ["ledger_correction/p"]);
}

/// A worker died after it had begun to remove the row. No document tells how to write it anew.
#[tokio::test]
async fn a_patch_form_whose_removal_was_begun_is_told_apart() {
    let (fixture, driven) = with_a_case().await;
    patch(&fixture, &driven, "p").await;
    let state = &fixture.state;
    let claim = fixture.claimed(&driven, Stage::Case, &["c"]).await;
    let inputs = state.case_inputs(&claim, &claim.ids).await.unwrap();
    let results = refused("p", inputs.staged_as.clone());
    let removed = state
        .begin_removals(&claim, &[&results.verdicts[0]], &inputs.staged_as)
        .await
        .unwrap();
    assert_eq!(removed, ["p"]);
    state.release_claim(&claim).await.unwrap();
    let claim = fixture.claimed(&driven, Stage::Case, &["c"]).await;
    let inputs = state.case_inputs(&claim, &claim.ids).await.unwrap();
    assert_eq!(inputs.removing_patches, [("c".to_owned(), "p".to_owned())]);
    assert!(inputs.removing.is_empty());
}

/// A driver died after it had asked for patches, and the command is repeated.
#[tokio::test]
async fn an_earlier_request_is_taken_back_with_what_was_set_aside_of_it() {
    let (fixture, driven) = with_a_case().await;
    let state = &fixture.state;
    let parked = patching(&fixture, &driven).await;
    state.fail_claim(&parked, "C2S-3002", "bad", 1).await.unwrap();
    let held = patching(&fixture, &driven).await;
    state
        .request_patches(&driven.lease, &strings(&["c"]), 10)
        .await
        .unwrap();
    let other = fixture.batch(&driven, Stage::Form, &["f"]).await;
    assert_eq!(fixture.errors(&driven).await, ["CommCareCase/c/C2S-3002"]);
    state.withdraw_patch_requests(&driven.lease).await.unwrap();
    let left = "select id::text from batch where migration_id = $1 and state <> 'done' order by id";
    assert_eq!(
        fixture.strings(left, &driven).await,
        [held.batch_id.0.to_string(), other.0.to_string()]
    );
    assert!(fixture.errors(&driven).await.is_empty());
}
