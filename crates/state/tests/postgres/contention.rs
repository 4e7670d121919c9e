//! Workers that meet on the same documents wait for each other; they do not deadlock, and the newest revision wins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::doctype::DocType;
use proto::topology::Stage;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use state::StateError;
use state::case_stage::{CaseResults, Verdict};
use state::diff_stage::CaseComparison;
use state::follow::ChangedDoc;
use state::form_stage::{FailedDoc, FormResults};
use state::operator_rules::Ignored;
use state::patch::{PatchFormRecord, PatchRefusal, PatchResults};
use state::place::Place;
use state::records::RecordTable;

use crate::database::soon;
use crate::fixture::{Driven, Fixture, LONG, intent, staged_form};

const FORMS: u32 = 12;
const CASES: u32 = 8;
const ROUNDS: usize = 60;
const WORKERS: u64 = 4;

/// The cases that a revision of a form touches: a function of both, so that every worker knows the same.
fn cases_of(form: u32, number: u32) -> Vec<String> {
    (0..CASES)
        .filter(|case| (form * 7 + number * 5 + case * 3).is_multiple_of(4))
        .map(|case| format!("case-{case}"))
        .collect()
}

/// Some of many, in random order.
fn some(random: &mut StdRng, prefix: &str, of: u32) -> Vec<String> {
    let mut ids: Vec<String> = (0..of).map(|n| format!("{prefix}-{n}")).collect();
    ids.shuffle(random);
    ids.truncate(random.random_range(2..ids.len()));
    ids
}

/// One form batch of random revisions, as a form worker takes it through.
async fn stage(fixture: &Fixture, driven: &Driven, random: &mut StdRng, begun: &mut BTreeMap<u32, u32>) {
    let mut forms: Vec<u32> = (0..FORMS).collect();
    forms.shuffle(random);
    forms.truncate(random.random_range(2..10));
    let ids: Vec<String> = forms.iter().map(|form| format!("form-{form}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let claim = fixture.claimed(driven, Stage::Form, &ids).await;
    let numbers: Vec<u32> = forms.iter().map(|_| random.random_range(1..200)).collect();
    let revs: Vec<String> = numbers.iter().map(|number| format!("{number}-x")).collect();
    let intents: Vec<_> = ids.iter().zip(&revs).map(|(id, rev)| intent(id, rev)).collect();
    let standings = fixture.state.begin_forms(&claim, &intents, &[]).await.unwrap();
    let mut results = FormResults::default();
    for ((form, number), (id, rev)) in forms.iter().zip(&numbers).zip(ids.iter().zip(&revs)) {
        let newest = begun.entry(*form).or_default();
        *newest = (*newest).max(*number);
        let standing = &standings[*id];
        if standing.superseded || standing.rejected.is_some() {
            continue;
        }
        let cases = cases_of(*form, *number);
        let cases: Vec<&str> = cases.iter().map(String::as_str).collect();
        let mut staged = staged_form(id, rev, &cases, standing);
        staged.diffs = random.random_bool(0.3).then(|| "[]".to_owned());
        staged.has_noop_block = random.random_bool(0.3);
        results.forms.push(staged);
    }
    fixture.state.finish_forms(&claim, &results).await.unwrap();
}

/// Documents that can never be migrated: their errors meet those of other batches.
async fn fail(fixture: &Fixture, driven: &Driven, random: &mut StdRng) {
    let bad = some(random, "bad", 8);
    let ids: Vec<&str> = bad.iter().map(String::as_str).collect();
    let claim = fixture.claimed(driven, Stage::Form, &ids).await;
    let failed = |id: &String| FailedDoc {
        kind: "XFormInstance".to_owned(),
        doc_id: id.clone(),
        rev: Some("1-x".to_owned()),
        code: "C2S-2301".to_owned(),
        message: "bad".to_owned(),
        missing: true,
    };
    let results = FormResults {
        failed: bad.iter().map(failed).collect(),
        ..FormResults::default()
    };
    fixture.state.finish_forms(&claim, &results).await.unwrap();
}

/// Documents of which some fail and others go through: each batch writes revisions of both kinds.
async fn mixed(fixture: &Fixture, driven: &Driven, random: &mut StdRng) {
    let mixed = some(random, "mixed", 10);
    let ids: Vec<&str> = mixed.iter().map(String::as_str).collect();
    let claim = fixture.claimed(driven, Stage::Form, &ids).await;
    let rev = format!("{}-x", random.random_range(1..200));
    let (fine, bad) = ids.split_at(random.random_range(1..ids.len()));
    let intents: Vec<_> = fine.iter().map(|id| intent(id, &rev)).collect();
    let standings = fixture.state.begin_forms(&claim, &intents, &[]).await.unwrap();
    let failed = |id: &&str| FailedDoc {
        kind: "XFormInstance".to_owned(),
        doc_id: (*id).to_owned(),
        rev: Some(rev.clone()),
        code: "C2S-2301".to_owned(),
        message: "bad".to_owned(),
        missing: true,
    };
    let results = FormResults {
        forms: fine
            .iter()
            .map(|id| staged_form(id, &rev, &[], &standings[*id]))
            .collect(),
        failed: bad.iter().map(failed).collect(),
        ..FormResults::default()
    };
    fixture.state.finish_forms(&claim, &results).await.unwrap();
}

/// Cases that are patched, refused, or to be compared again.
async fn patch(fixture: &Fixture, driven: &Driven, random: &mut StdRng) {
    let state = &fixture.state;
    let cases = some(random, "case", CASES);
    let ids: Vec<&str> = cases.iter().map(String::as_str).collect();
    let claim = fixture.claimed_to_patch(driven, &ids).await;
    let form = |case_id: &String| PatchFormRecord {
        form_id: format!("patch-of-{case_id}"),
        case_id: case_id.clone(),
        table: RecordTable::Diffs,
    };
    let patches: Vec<PatchFormRecord> = cases.iter().map(form).collect();
    state.begin_patches(&claim, &patches).await.unwrap();
    let intents: Vec<_> = patches.iter().map(|patch| intent(&patch.form_id, "1-patch")).collect();
    let standings = state.begin_forms(&claim, &intents, &[]).await.unwrap();
    let (gone, patched) = patches.split_at(random.random_range(0..patches.len()));
    let gone: Vec<String> = gone.iter().map(|patch| patch.form_id.clone()).collect();
    let known = state.writings_of(&claim, &gone).await.unwrap();
    let refused = |case_id: &String| PatchRefusal {
        doc_id: case_id.clone(),
        kind: "CommCareCase".to_owned(),
        table: RecordTable::Changes,
        code: "C2S-2344".to_owned(),
        message: "why".to_owned(),
    };
    let staged = patched
        .iter()
        .map(|patch| staged_form(&patch.form_id, "1-patch", &[], &standings[&patch.form_id]));
    let results = FormResults {
        forms: staged.collect(),
        burials: state.begin_burials(&claim, &gone, &known).await.unwrap(),
        gone,
        patches: PatchResults {
            patched: patched.to_vec(),
            corrections: patched
                .iter()
                .map(|patch| (patch.form_id.clone(), Vec::new()))
                .collect(),
            refused: some(random, "case", CASES).iter().map(refused).collect(),
            outdated: cases.clone(),
        },
        ..FormResults::default()
    };
    state.finish_forms(&claim, &results).await.unwrap();
}

/// An operator adds and removes a rule.
async fn change_rules(fixture: &Fixture, driven: &Driven) {
    let rules = [("known".to_owned(), "{}".to_owned())];
    fixture
        .state
        .add_rules(&driven.lease, &rules, &crate::fixture::operator())
        .await
        .unwrap();
    let names = ["known".to_owned()];
    fixture
        .state
        .remove_rules(&driven.lease, &names, &crate::fixture::operator())
        .await
        .unwrap();
}

/// Documents that were found gone.
async fn bury(fixture: &Fixture, driven: &Driven, random: &mut StdRng) {
    let gone = some(random, "gone", 8);
    let ids: Vec<&str> = gone.iter().map(String::as_str).collect();
    fixture.bury(driven, &ids).await;
}

async fn replay(fixture: &Fixture, driven: &Driven, random: &mut StdRng) {
    let cases = some(random, "case", CASES);
    let ids: Vec<&str> = cases.iter().map(String::as_str).collect();
    let claim = fixture.claimed(driven, Stage::Case, &ids).await;
    let inputs = fixture.state.case_inputs(&claim, &claim.ids).await.unwrap();
    let mut verdicts: Vec<Verdict> = Vec::new();
    for (case_id, form_id, _) in &inputs.staged {
        if random.random_bool(0.2) && verdicts.iter().all(|known| known.form_id != *form_id) {
            verdicts.push(Verdict {
                form_id: form_id.clone(),
                case_id: case_id.clone(),
                code: "C2S-2202".to_owned(),
                message: "no owner".to_owned(),
            });
        }
    }
    verdicts.shuffle(random);
    let refused: Vec<&Verdict> = verdicts.iter().collect();
    let removals = fixture.state.begin_removals(&claim, &refused, &inputs.staged_as);
    removals.await.unwrap();
    if random.random_bool(0.2) {
        return; // The worker dies.
    }
    let is_refused = |form_id: &String| verdicts.iter().any(|verdict| verdict.form_id == *form_id);
    let removing = inputs.removing.iter().map(|(_, form_id)| form_id.clone());
    let results = CaseResults {
        replayed: claim.ids.clone(),
        withdrawn: removing.filter(|form_id| !is_refused(form_id)).collect(),
        verdicts: verdicts.clone(),
        staged_as: inputs.staged_as.clone(),
        ..CaseResults::default()
    };
    fixture
        .state
        .finish_cases(&claim, &inputs.dirty, &results)
        .await
        .unwrap();
}

async fn diff(fixture: &Fixture, driven: &Driven, random: &mut StdRng) {
    let cases = some(random, "case", CASES);
    let ids: Vec<&str> = cases.iter().map(String::as_str).collect();
    let claim = fixture.claimed(driven, Stage::Diff, &ids).await;
    let mut found: Vec<CaseComparison> = Vec::new();
    for case in fixture.state.cases_to_diff(&claim).await.unwrap().cases {
        found.push(CaseComparison {
            case_id: case.case_id,
            generation: case.generation,
            couch_rev: None,
            kind: "CommCareCase".to_owned(),
            diffs: random.random_bool(0.5).then(|| "[]".to_owned()),
            changes: None,
            order: state::case_order::FormOrder::Agreed,
        });
    }
    found.shuffle(random);
    let ignored: Vec<Ignored> = found
        .iter()
        .filter(|_| random.random_bool(0.3))
        .map(|one| Ignored {
            kind: one.kind.clone(),
            doc_id: one.case_id.clone(),
            rule: "known".to_owned(),
            diffs: "[1]".to_owned(),
            count: 1,
            reason: None,
        })
        .collect();
    match fixture.state.finish_diffs_ignoring(&claim, &found, &ignored).await {
        Ok(_) => {}
        Err(StateError::RulesChanged) => fixture.state.release_claim(&claim).await.unwrap(),
        Err(error) => panic!("{error}"),
    }
    if random.random_bool(0.3) {
        let revisions: Vec<_> = some(random, "case", CASES)
            .into_iter()
            .map(|id| (id, "9-z".to_owned()))
            .collect();
        fixture.state.rediff_changed(&driven.lease, &revisions).await.unwrap();
    }
    if random.random_bool(0.3) {
        fixture
            .state
            .request_diff(&driven.lease, Some(&some(random, "case", CASES)))
            .await
            .unwrap();
        fixture.state.request_diff(&driven.lease, None).await.unwrap();
    }
}

/// The feed's reader finds changes, and the driver takes and settles what it has.
async fn follow(fixture: &Fixture, driven: &Driven, random: &mut StdRng) {
    let state = &fixture.state;
    let mut page = Vec::new();
    for (prefix, of, doc_type) in [
        ("bad", 8, Some(DocType::XFormInstance)),
        ("case", CASES, Some(DocType::CommCareCase)),
        ("mixed", 10, None),
        ("case", CASES, None),
    ] {
        page.extend(some(random, prefix, of).into_iter().map(|doc_id| ChangedDoc {
            doc_id,
            rev: Some("300-x".to_owned()),
            domain: doc_type.map(|_| driven.domain.as_str().to_owned()),
            doc_type,
            dated: None,
        }));
    }
    page.shuffle(random);
    if let Some(mut lease) = state.take_feed("couch", "test", LONG).await.unwrap() {
        state
            .record_changes(&mut lease, LONG, &page, "1", None, None)
            .await
            .unwrap();
        state.drop_feed(&lease).await.unwrap();
    }
    state
        .take_changes(&driven.lease, None, random.random_range(1..20), 5)
        .await
        .unwrap();
    for doc_type in [DocType::XFormInstance, DocType::CommCareCase] {
        let mut taken = state.taken_changes(driven.id, Some(doc_type), "", 9).await.unwrap();
        taken.shuffle(random);
        let (missing, _) = taken.split_at(random.random_range(0..=taken.len()));
        state
            .settle_changes(&driven.lease, doc_type, &taken, missing)
            .await
            .unwrap();
    }
    let mut gone = state.taken_changes(driven.id, None, "", 9).await.unwrap();
    gone.shuffle(random);
    state.settle_gone(&driven.lease, &gone, &[]).await.unwrap();
    let mut listed = state.missing_after(driven.id, ("", ""), 20).await.unwrap();
    listed.shuffle(random);
    state.forget_missing(&driven.lease, &listed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn workers_on_the_same_documents_do_not_deadlock_and_the_newest_revision_stands() {
    let seed: u64 =
        std::env::var("C2S_TEST_SEED").map_or_else(|_| rand::random(), |text| text.parse().expect("a number"));
    println!("C2S_TEST_SEED={seed}");
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    state
        .mark_started(&driven.lease, state::Status::DryRun, "0", &serde_json::json!({}))
        .await
        .unwrap();
    state.follow(&driven.lease, "couch", &Place::default()).await.unwrap();
    let shared = Arc::new((fixture, driven));
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                let (fixture, driven) = (&shared.0, &shared.1);
                let mut random = StdRng::seed_from_u64(seed.wrapping_add(worker));
                let mut begun = BTreeMap::new();
                for _ in 0..ROUNDS {
                    match random.random_range(0..14) {
                        9 => mixed(fixture, driven, &mut random).await,
                        10 => patch(fixture, driven, &mut random).await,
                        12..=13 => follow(fixture, driven, &mut random).await,
                        11 if worker == 0 => change_rules(fixture, driven).await,
                        0..=2 => stage(fixture, driven, &mut random, &mut begun).await,
                        3 => fail(fixture, driven, &mut random).await,
                        4..=5 => replay(fixture, driven, &mut random).await,
                        6 => bury(fixture, driven, &mut random).await,
                        _ => diff(fixture, driven, &mut random).await,
                    }
                }
                begun
            })
        })
        .collect();
    let mut newest: BTreeMap<u32, u32> = BTreeMap::new();
    for worker in workers {
        for (form, number) in soon("the end of a worker", worker).await.unwrap() {
            let known = newest.entry(form).or_default();
            *known = (*known).max(number);
        }
    }
    let (fixture, driven) = (&shared.0, &shared.1);
    // A form whose newest revision was refused before it was staged again keeps what that revision had staged.
    let expected: BTreeSet<String> = newest
        .iter()
        .flat_map(|(form, number)| {
            cases_of(*form, *number)
                .into_iter()
                .map(move |case| format!("{case}/form-{form}"))
        })
        .collect();
    assert_eq!(
        fixture.staged(driven).await.into_iter().collect::<BTreeSet<_>>(),
        expected
    );

    // What is dirty at the end is replayed once more, and then nothing is.
    let all: Vec<String> = (0..CASES).map(|case| format!("case-{case}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    fixture.replay(driven, &all).await;
    assert!(fixture.dirty(driven).await.is_empty());
}
