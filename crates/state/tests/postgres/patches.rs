//! Patch forms are on record before they are used, and a refused patch leaves its reason.

use proto::topology::Stage;
use state::batch::Claim;
use state::case_stage::{CaseResults, Verdict};
use state::diff_stage::CaseComparison;
use state::form_stage::FormResults;
use state::patch::{PatchCounts, PatchFormRecord, PatchRefusal, PatchResults};
use state::records::RecordTable;

use crate::fixture::{Driven, Fixture, intent, staged_form, strings};

/// A domain with case `c`, made by form `f`, and a difference on record.
async fn with_a_difference() -> (Fixture, Driven) {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", &["c"])]).await;
    fixture.replay(&driven, &["c"]).await;
    diff(&fixture, &driven, 1).await;
    (fixture, driven)
}

async fn diff(fixture: &Fixture, driven: &Driven, generation: i64) {
    let claim = fixture.claimed(driven, Stage::Diff, &["c"]).await;
    let found = CaseComparison {
        case_id: "c".to_owned(),
        generation,
        couch_rev: Some("3-c".to_owned()),
        kind: "CommCareCase".to_owned(),
        diffs: Some("[]".to_owned()),
        changes: None,
        order: state::case_order::FormOrder::Agreed,
    };
    assert_eq!(fixture.state.finish_diffs(&claim, &[found]).await.unwrap(), 0);
}

/// The batch of cases to patch, as a form worker claims it.
async fn patching(fixture: &Fixture, driven: &Driven) -> Claim {
    let state = &fixture.state;
    let ids = state.patchable_after(driven.id, "", 9).await.unwrap();
    state.request_patches(&driven.lease, &ids, 10).await.unwrap();
    fixture.claim_next(driven, Stage::Form).await.unwrap()
}

fn patch_form() -> PatchFormRecord {
    PatchFormRecord {
        form_id: "p".to_owned(),
        case_id: "c".to_owned(),
        table: RecordTable::Diffs,
    }
}

async fn write(fixture: &Fixture, claim: &Claim) {
    let state = &fixture.state;
    state.begin_patches(claim, &[patch_form()]).await.unwrap();
    let standings = state.begin_forms(claim, &[intent("p", "1-patch")], &[]).await.unwrap();
    let results = FormResults {
        forms: vec![staged_form("p", "1-patch", &["c"], &standings["p"])],
        patches: PatchResults {
            patched: vec![patch_form()],
            ..PatchResults::default()
        },
        ..FormResults::default()
    };
    state.finish_forms(claim, &results).await.unwrap();
}

fn refusal(code: &str) -> PatchRefusal {
    PatchRefusal {
        doc_id: "c".to_owned(),
        kind: "CommCareCase".to_owned(),
        table: RecordTable::Diffs,
        code: code.to_owned(),
        message: "why".to_owned(),
    }
}

#[tokio::test]
async fn a_record_counts_while_its_case_is_as_it_was_compared() {
    let (fixture, driven) = with_a_difference().await;
    let state = &fixture.state;
    let current = async || {
        let records = state
            .records_to_patch(driven.id, &strings(&["c", "other"]))
            .await
            .unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!(
            (
                records[0].kind.as_str(),
                records[0].generation,
                records[0].couch_rev.as_deref()
            ),
            ("CommCareCase", 1, Some("3-c"))
        );
        records[0].is_current
    };
    assert!(current().await);
    fixture.stage(&driven, &[("g", "1-a", &["c"])]).await;
    assert!(!current().await, "an input has come since");
    fixture.replay(&driven, &["c"]).await;
    assert!(!current().await, "the case was replayed since");
}

#[tokio::test]
async fn a_patch_form_makes_its_case_dirty_and_is_none_that_couch_lost() {
    let (fixture, driven) = with_a_difference().await;
    let claim = patching(&fixture, &driven).await;
    assert_eq!(
        (claim.doc_type.as_str(), claim.ids.clone()),
        ("CommCareCase", strings(&["c"]))
    );
    write(&fixture, &claim).await;
    let state = &fixture.state;
    assert_eq!(fixture.dirty(&driven).await, ["c"]);
    assert_eq!(fixture.staged(&driven).await, ["c/f", "c/p"]);
    assert_eq!(state.staged_after(driven.id, "", 9).await.unwrap(), ["f"]);
    assert_eq!(
        state
            .patch_forms(driven.id, &[], &strings(&["c"]), "", 9)
            .await
            .unwrap(),
        [patch_form()]
    );
    assert_eq!(
        state
            .patch_forms(driven.id, &strings(&["f"]), &[], "", 9)
            .await
            .unwrap(),
        []
    );
    let counts = PatchCounts {
        cases: 1,
        forms: 1,
        refused: 0,
    };
    assert_eq!(state.patch_counts(driven.id).await.unwrap(), counts);
}

#[tokio::test]
async fn a_form_that_an_attempt_left_behind_is_found_and_given_up() {
    let (fixture, driven) = with_a_difference().await;
    let state = &fixture.state;
    let claim = patching(&fixture, &driven).await;
    state.begin_patches(&claim, &[patch_form()]).await.unwrap();
    state.begin_forms(&claim, &[intent("p", "1-patch")], &[]).await.unwrap();
    assert_eq!(state.patch_forms(driven.id, &[], &[], "", 9).await.unwrap(), []);
    assert_eq!(
        state.unfinished_patches(driven.id, &strings(&["c"])).await.unwrap(),
        ["p"]
    );
    let gone = strings(&["p"]);
    let known = state.writings_of(&claim, &gone).await.unwrap();
    let results = FormResults {
        burials: state.begin_burials(&claim, &gone, &known).await.unwrap(),
        gone,
        patches: PatchResults {
            refused: vec![refusal("C2S-2350")],
            outdated: strings(&["c"]),
            ..PatchResults::default()
        },
        ..FormResults::default()
    };
    state.finish_forms(&claim, &results).await.unwrap();
    assert!(
        state
            .unfinished_patches(driven.id, &strings(&["c"]))
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(state.staged_after(driven.id, "", 9).await.unwrap(), ["f"]);
    assert_eq!(state.patch_refusals(driven.id, 9).await.unwrap(), [refusal("C2S-2350")]);
    assert_eq!(
        state.pending_cases(driven.id).await.unwrap(),
        (0, 1),
        "it is compared again"
    );
}

#[tokio::test]
async fn a_refusal_is_told_while_its_record_stands() {
    let (fixture, driven) = with_a_difference().await;
    let state = &fixture.state;
    let claim = patching(&fixture, &driven).await;
    let results = FormResults {
        patches: PatchResults {
            refused: vec![refusal("C2S-2344")],
            ..PatchResults::default()
        },
        ..FormResults::default()
    };
    state.finish_forms(&claim, &results).await.unwrap();
    assert_eq!(state.patch_refusals(driven.id, 9).await.unwrap(), [refusal("C2S-2344")]);
    let claim = patching(&fixture, &driven).await;
    write(&fixture, &claim).await;
    assert_eq!(
        state.patch_refusals(driven.id, 9).await.unwrap(),
        [],
        "it was patched after all"
    );

    let claim = patching(&fixture, &driven).await;
    state.finish_forms(&claim, &results).await.unwrap();
    fixture.execute("delete from doc_diff").await;
    assert_eq!(
        state.patch_refusals(driven.id, 9).await.unwrap(),
        [],
        "there is nothing left to patch"
    );
}

/// There is no document that could be mended: the patch goes, and only its record tells of it.
#[tokio::test]
async fn a_patch_form_that_a_replay_refuses_is_given_up() {
    let (fixture, driven) = with_a_difference().await;
    let state = &fixture.state;
    let claim = patching(&fixture, &driven).await;
    write(&fixture, &claim).await;
    let claim = fixture.claimed(&driven, Stage::Case, &["c"]).await;
    let inputs = state.case_inputs(&claim, &claim.ids).await.unwrap();
    let verdict = |form_id: &str| Verdict {
        form_id: form_id.to_owned(),
        case_id: "c".to_owned(),
        code: "C2S-2105".to_owned(),
        message: "why".to_owned(),
    };
    let results = CaseResults {
        replayed: strings(&["c"]),
        verdicts: vec![verdict("p")],
        staged_as: inputs.staged_as.clone(),
        ..CaseResults::default()
    };
    state.finish_cases(&claim, &inputs.dirty, &results).await.unwrap();
    assert_eq!(fixture.staged(&driven).await, ["c/f"]);
    assert_eq!(fixture.dirty(&driven).await, ["c"], "the case is replayed without it");
    assert_eq!(fixture.errors(&driven).await, Vec::<String>::new());
    assert!(state.missing_records(driven.id, 9).await.unwrap().is_empty());
    assert_eq!(state.staged_after(driven.id, "", 9).await.unwrap(), ["f"]);
    assert_eq!(state.patch_refusals(driven.id, 9).await.unwrap(), [refusal("C2S-2105")]);
    let counts = PatchCounts {
        cases: 0,
        forms: 0,
        refused: 1,
    };
    assert_eq!(state.patch_counts(driven.id).await.unwrap(), counts);
}
