//! A checkpoint is handed out while nothing but new forms has come to its case, and to nobody else's replay.

use proto::topology::Stage;
use state::batch::Claim;
use state::case_stage::{CaseInputs, CaseResults, Verdict};
use state::scan::CutLimits;

use crate::fixture::{Driven, Fixture, strings};

/// Results of a replay of all cases of the claim, with a checkpoint of this text for each.
fn results(claim: &Claim, inputs: &CaseInputs, checkpoint: &str) -> CaseResults {
    CaseResults {
        replayed: claim.ids.clone(),
        staged_as: inputs.staged_as.clone(),
        standing: inputs.standing.clone(),
        checkpoints: claim
            .ids
            .iter()
            .map(|case_id| (case_id.clone(), checkpoint.as_bytes().to_vec()))
            .collect(),
        ..CaseResults::default()
    }
}

/// A replay under way.
struct Replay<'a> {
    fixture: &'a Fixture,
    claim: Claim,
    inputs: CaseInputs,
}

impl<'a> Replay<'a> {
    async fn begin(fixture: &'a Fixture, driven: &Driven, case_ids: &[&str]) -> Self {
        let claim = fixture.claimed(driven, Stage::Case, case_ids).await;
        let inputs = fixture.state.case_inputs(&claim, &claim.ids).await.unwrap();
        Self { fixture, claim, inputs }
    }

    /// The checkpoint of the one case, and the forms that were read, in order.
    fn read(&self) -> (Option<&str>, Vec<&str>) {
        let checkpoint = self.inputs.checkpoints.get(&self.claim.ids[0]);
        let forms = self.inputs.staged.iter().chain(&self.inputs.refused);
        let mut forms: Vec<&str> = forms.map(|(_, form_id, _)| form_id.as_str()).collect();
        forms.sort_unstable();
        (checkpoint.map(|bytes| std::str::from_utf8(bytes).unwrap()), forms)
    }

    async fn keep(self, checkpoint: &str) {
        let results = results(&self.claim, &self.inputs, checkpoint);
        self.finish(&results).await;
    }

    async fn finish(self, results: &CaseResults) {
        let state = &self.fixture.state;
        state
            .finish_cases(&self.claim, &self.inputs.dirty, results)
            .await
            .unwrap();
    }
}

const ON_RECORD: &str = "select count(*) from case_checkpoint where migration_id = $1";

/// A case `a` with the forms `f` and `g`, and a checkpoint behind them.
async fn kept() -> (Fixture, Driven) {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture
        .stage(&driven, &[("f", "1-a", &["a"]), ("g", "1-a", &["a", "b"])])
        .await;
    let first = Replay::begin(&fixture, &driven, &["a"]).await;
    assert_eq!(first.read(), (None, vec!["f", "g"]));
    first.keep("behind g").await;
    assert_eq!(fixture.number(ON_RECORD, &driven).await, 1);
    (fixture, driven)
}

#[tokio::test]
async fn new_forms_alone_are_read_on_a_checkpoint() {
    let (fixture, driven) = kept().await;
    for (form_id, checkpoint) in [("h", "behind g"), ("i", "behind h"), ("j", "behind i")] {
        fixture.stage(&driven, &[(form_id, "1-a", &["a"])]).await;
        let replay = Replay::begin(&fixture, &driven, &["a"]).await;
        assert_eq!(replay.read(), (Some(checkpoint), vec![form_id]));
        assert_eq!(replay.inputs.forms(), 1);
        assert_eq!(replay.inputs.dirty.len(), 1);
        replay.keep(&format!("behind {form_id}")).await;
        assert!(fixture.dirty(&driven).await.iter().all(|case_id| case_id != "a"));
    }
    // All of them when somebody asks for all of them.
    let claim = fixture.claimed(&driven, Stage::Case, &["a"]).await;
    let all = fixture.state.all_case_inputs(&claim, &claim.ids).await.unwrap();
    assert_eq!((all.checkpoints.len(), all.staged.len()), (0, 5));
}

/// Beside a case that goes on from a checkpoint, others are read as ever.
#[tokio::test]
async fn each_case_of_a_batch_is_read_as_it_stands() {
    let (fixture, driven) = kept().await;
    fixture.stage(&driven, &[("h", "1-a", &["a", "c"])]).await;
    let replay = Replay::begin(&fixture, &driven, &["a", "b", "c"]).await;
    let mut read = replay
        .inputs
        .staged
        .iter()
        .map(|(case_id, form_id, _)| format!("{case_id}/{form_id}"));
    let mut read: Vec<String> = read.by_ref().collect();
    read.sort_unstable();
    assert_eq!(read, ["a/h", "b/g", "c/h"]);
    assert_eq!(replay.inputs.checkpoints.keys().collect::<Vec<_>>(), ["a"]);
    replay.keep("next").await;
    assert_eq!(fixture.number(ON_RECORD, &driven).await, 3);
}

/// What changes an input needs all of them: an edit, an edit that takes a form away from the case, a burial, a request to
/// replay, and the same together with a new form.
#[tokio::test]
async fn whatever_is_not_a_new_form_needs_all_inputs() {
    let (fixture, driven) = kept().await;
    let mut all = vec!["f", "g"];
    for change in ["edit", "move", "back", "bury", "again", "late"] {
        match change {
            "edit" => fixture.stage(&driven, &[("f", "2-b", &["a"])]).await,
            "move" => fixture.stage(&driven, &[("f", "3-c", &["b"])]).await,
            "back" => fixture.stage(&driven, &[("f", "4-d", &["a"])]).await,
            "bury" => fixture.bury(&driven, &["g"]).await,
            "again" => {
                let ids = strings(&["a"]);
                fixture.state.replay_again(&driven.lease, &ids).await.unwrap();
            }
            _ => {
                fixture.stage(&driven, &[("f", "5-e", &["a"])]).await;
                fixture.stage(&driven, &[("h", "1-a", &["a"])]).await;
            }
        }
        all = match change {
            "move" => vec!["g"],
            "back" => vec!["f", "g"],
            "bury" => vec!["f"],
            "late" => vec!["f", "h"],
            _ => all,
        };
        let replay = Replay::begin(&fixture, &driven, &["a"]).await;
        assert_eq!(replay.read(), (None, all.clone()), "{change}");
        replay.keep("anew").await;
    }
    // A form that was edited from another case into this one was seen before, too.
    fixture.stage(&driven, &[("x", "1-a", &["b"])]).await;
    fixture.stage(&driven, &[("x", "2-b", &["a"])]).await;
    let replay = Replay::begin(&fixture, &driven, &["a"]).await;
    assert_eq!(replay.read(), (None, vec!["f", "h", "x"]));
}

/// A form that comes while its case is replayed is not in the checkpoint, whoever has read it.
#[tokio::test]
async fn what_comes_meanwhile_is_new_to_the_next_replay() {
    let (fixture, driven) = kept().await;
    fixture.stage(&driven, &[("h", "1-a", &["a"])]).await;
    let replay = Replay::begin(&fixture, &driven, &["a"]).await;
    fixture.stage(&driven, &[("i", "1-a", &["a"])]).await;
    replay.keep("behind h").await;
    let next = Replay::begin(&fixture, &driven, &["a"]).await;
    assert_eq!(next.read(), (Some("behind h"), vec!["i"]));
    // The form was edited meanwhile: the checkpoint that this replay keeps does not serve.
    fixture.stage(&driven, &[("i", "2-b", &["a"])]).await;
    next.keep("behind i").await;
    let last = Replay::begin(&fixture, &driven, &["a"]).await;
    assert_eq!(last.read(), (None, vec!["f", "g", "h", "i"]));
}

/// Two workers with one case: neither's checkpoint stands for what only the other had read, in whichever order they end.
#[tokio::test]
async fn of_two_replays_at_a_time_neither_leaves_a_checkpoint_that_misses_a_form() {
    for later_ends_first in [false, true] {
        let (fixture, driven) = kept().await;
        fixture.stage(&driven, &[("h", "1-a", &["a"])]).await;
        let earlier = Replay::begin(&fixture, &driven, &["a"]).await;
        fixture.stage(&driven, &[("i", "1-a", &["a"])]).await;
        let later = Replay::begin(&fixture, &driven, &["a"]).await;
        assert_eq!(later.read(), (Some("behind g"), vec!["h", "i"]));
        if later_ends_first {
            later.keep("behind i").await;
            earlier.keep("behind h").await;
        } else {
            earlier.keep("behind h").await;
            later.keep("behind i").await;
        }
        assert_eq!(fixture.number(ON_RECORD, &driven).await, 0);
        fixture.stage(&driven, &[("j", "1-a", &["a"])]).await;
        let next = Replay::begin(&fixture, &driven, &["a"]).await;
        assert_eq!(next.read(), (None, vec!["f", "g", "h", "i", "j"]));
    }
}

/// A worker that has lost its claim keeps nothing, and one that was not the first to try does not trust checkpoints.
#[tokio::test]
async fn stale_workers_keep_nothing_and_second_attempts_read_everything() {
    let (fixture, driven) = kept().await;
    fixture.stage(&driven, &[("h", "1-a", &["a"])]).await;
    let stale = Replay::begin(&fixture, &driven, &["a"]).await;
    fixture.let_expire(stale.claim.batch_id).await;
    fixture.state.expire_claims(driven.id, 5).await.unwrap();
    let claim = fixture.claim_next(&driven, Stage::Case).await.unwrap();
    assert_eq!(claim.batch_id, stale.claim.batch_id);
    let lost = fixture
        .state
        .finish_cases(
            &stale.claim,
            &stale.inputs.dirty,
            &results(&stale.claim, &stale.inputs, "stale"),
        )
        .await;
    assert!(lost.is_err());
    let inputs = fixture.state.case_inputs(&claim, &claim.ids).await.unwrap();
    assert_eq!(
        (claim.attempt, inputs.checkpoints.len(), inputs.staged.len()),
        (2, 0, 3)
    );
    fixture
        .state
        .finish_cases(&claim, &inputs.dirty, &results(&claim, &inputs, "behind h"))
        .await
        .unwrap();
    fixture.stage(&driven, &[("i", "1-a", &["a"])]).await;
    let next = Replay::begin(&fixture, &driven, &["a"]).await;
    assert_eq!(next.read(), (Some("behind h"), vec!["i"]));
}

/// A worker that knows nothing of checkpoints replays the case: its generation rises, and the checkpoint holds no more.
#[tokio::test]
async fn a_replay_without_a_checkpoint_ends_the_one_there_is() {
    let (fixture, driven) = kept().await;
    fixture.stage(&driven, &[("h", "1-a", &["a"])]).await;
    fixture.replay(&driven, &["a"]).await;
    fixture.stage(&driven, &[("i", "1-a", &["a"])]).await;
    let next = Replay::begin(&fixture, &driven, &["a"]).await;
    assert_eq!(next.read(), (None, vec!["f", "g", "h", "i"]));
    // And one that knows of them takes it off the record.
    let without = CaseResults {
        checkpoints: std::collections::HashMap::new(),
        ..results(&next.claim, &next.inputs, "")
    };
    next.finish(&without).await;
    assert_eq!(fixture.number(ON_RECORD, &driven).await, 0);
}

/// A case of which a form is refused, or that has an event, has no checkpoint: verdicts are taken back, and events come and go,
/// by other ways than dirty rows.
#[tokio::test]
async fn neither_verdicts_nor_events_leave_a_checkpoint() {
    let (fixture, driven) = kept().await;
    fixture.stage(&driven, &[("h", "1-a", &["a"])]).await;
    let refusing = Replay::begin(&fixture, &driven, &["a"]).await;
    let refused = CaseResults {
        verdicts: vec![Verdict {
            form_id: "h".to_owned(),
            case_id: "a".to_owned(),
            code: "C2S-2108".to_owned(),
            message: "no".to_owned(),
        }],
        ..results(&refusing.claim, &refusing.inputs, "behind h")
    };
    refusing.finish(&refused).await;
    for _ in 0..2 {
        let next = Replay::begin(&fixture, &driven, &["a"]).await;
        assert_eq!(next.read(), (None, vec!["f", "g", "h"]));
        assert!(!next.inputs.standing.may_keep("a"));
        next.keep("it is not kept").await;
        assert_eq!(fixture.number(ON_RECORD, &driven).await, 0);
        fixture
            .state
            .replay_again(&driven.lease, &strings(&["a"]))
            .await
            .unwrap();
    }
    // Refused by another case: it is no input of this one, and may become one without a word.
    fixture.execute("update form_verdict set case_id = 'b'").await;
    let next = Replay::begin(&fixture, &driven, &["a"]).await;
    assert_eq!(next.read(), (None, vec!["f", "g"]));
    assert!(!next.inputs.standing.may_keep("a"));
    next.keep("it is not kept").await;
    assert_eq!(fixture.number(ON_RECORD, &driven).await, 0);

    let (fixture, driven) = kept().await;
    fixture.stage(&driven, &[("h", "1-a", &["a"])]).await;
    fixture
        .execute(&format!(
            "insert into case_event (migration_id, bucket, case_id, kind, payload) values ({}, {}, 'a', 'order_override', '')",
            driven.id.0,
            proto::bucket::of("a"),
        ))
        .await;
    let next = Replay::begin(&fixture, &driven, &["a"]).await;
    assert_eq!(next.read(), (None, vec!["f", "g", "h"]));
    assert!(!next.inputs.standing.may_keep("a"));
}

/// A batch takes a hot case for what its new forms weigh.
#[tokio::test]
async fn a_case_weighs_what_its_replay_reads() {
    let (fixture, driven) = kept().await;
    fixture.replay(&driven, &["b"]).await;
    fixture
        .execute("update staged_update set payload = decode(repeat('00', 20480), 'hex') where form_id in ('f', 'g')")
        .await;
    fixture.stage(&driven, &[("h", "1-a", &["a", "c"])]).await;
    let limits = CutLimits {
        cases: 10,
        weight: 10,
        batches: 4,
    };
    assert_eq!(fixture.state.cut_case_batches(&driven.lease, &limits).await.unwrap(), 1);
    fixture.execute("delete from batch; delete from scan_cursor").await;
    fixture
        .state
        .replay_again(&driven.lease, &strings(&["a"]))
        .await
        .unwrap();
    assert_eq!(fixture.state.cut_case_batches(&driven.lease, &limits).await.unwrap(), 2);
}
