//! Texts that PostgreSQL's jsonb refuses, and others that are easily mangled, come back as they went in.

use proto::topology::Stage;
use serde_json::Value;
use state::diff_stage::CaseComparison;
use state::form_stage::{FailedDoc, FormResults};
use state::records::RecordTable;

use crate::fixture::{Fixture, intent, staged_form};

/// What documents hold: NUL, a lone surrogate as an escape, numbers beyond 64 bits, key order, text outside the BMP.
const AWKWARD: &str = "[{\"path\":[\"a\\u0000b\"],\"old\":\"\\u0000\",\"new\":\"\\ud800\",\"z\":1.10,\"a\":123456789012345678901234567890},\
    \"\u{1f600}\u{e9}\u{feff}\"]";

#[tokio::test]
async fn diffs_and_changes_come_back_byte_by_byte() {
    let (fixture, driven) = Fixture::with_domain().await;
    let claim = fixture.claimed(&driven, Stage::Form, &["f"]).await;
    let standing = fixture
        .state
        .begin_forms(&claim, &[intent("f", "1-a")], &[])
        .await
        .unwrap();
    let mut form = staged_form("f", "1-a", &["c"], &standing["f"]);
    form.diffs = Some(AWKWARD.to_owned());
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
    fixture.replay(&driven, &["c"]).await;
    let claim = fixture.claimed(&driven, Stage::Diff, &["c"]).await;
    let found = CaseComparison {
        case_id: "c".to_owned(),
        generation: 1,
        couch_rev: Some("1-a".to_owned()),
        kind: "CommCareCase".to_owned(),
        diffs: Some(AWKWARD.to_owned()),
        changes: Some((AWKWARD.to_owned(), "a reason \u{2014} with \"quotes\"".to_owned())),
        order: state::case_order::FormOrder::Agreed,
    };
    fixture.state.finish_diffs(&claim, &[found]).await.unwrap();
    let diffs = fixture.records(&driven, RecordTable::Diffs).await;
    assert_eq!(
        diffs.iter().map(|record| record.diffs.as_str()).collect::<Vec<_>>(),
        [AWKWARD, AWKWARD]
    );
    let changes = fixture.records(&driven, RecordTable::Changes).await;
    assert_eq!(changes[0].diffs, AWKWARD);
    assert_eq!(changes[0].reason.as_deref(), Some("a reason \u{2014} with \"quotes\""));
}

#[tokio::test]
async fn payloads_are_bytes_and_ids_keep_their_form() {
    let (fixture, driven) = Fixture::with_domain().await;
    // The same letter composed and decomposed, an id of blanks, one with a quote: four cases.
    let ids = ["\u{e9}", "e\u{301}", " ", "'; drop table batch; --"];
    let claim = fixture.claimed(&driven, Stage::Form, &["f"]).await;
    let standing = fixture
        .state
        .begin_forms(&claim, &[intent("f", "1-a")], &[])
        .await
        .unwrap();
    let mut form = staged_form("f", "1-a", &ids, &standing["f"]);
    for case in &mut form.cases {
        case.payload = (0..=255).collect();
    }
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
    let claim = fixture.claimed(&driven, Stage::Case, &ids).await;
    let mut inputs = fixture.state.case_inputs(&claim, &claim.ids).await.unwrap();
    inputs.staged.sort();
    let mut expected: Vec<_> = ids
        .iter()
        .map(|id| ((*id).to_owned(), "f".to_owned(), (0..=255).collect::<Vec<u8>>()))
        .collect();
    expected.sort();
    assert_eq!(inputs.staged, expected);
}

/// A text that no column takes costs its batch an attempt, and nothing else.
#[tokio::test]
async fn a_raw_nul_is_refused_whole() {
    let (fixture, driven) = Fixture::with_domain().await;
    let claim = fixture.claimed(&driven, Stage::Form, &["f", "g"]).await;
    let failed = FailedDoc {
        kind: "XFormInstance".to_owned(),
        doc_id: "g".to_owned(),
        rev: None,
        code: "C2S-2301".to_owned(),
        message: "a NUL: \0".to_owned(),
        missing: true,
    };
    let standing = fixture
        .state
        .begin_forms(&claim, &[intent("f", "1-a")], &[])
        .await
        .unwrap();
    let results = FormResults {
        forms: vec![staged_form("f", "1-a", &["c"], &standing["f"])],
        failed: vec![failed],
        ..FormResults::default()
    };
    let error = fixture.state.finish_forms(&claim, &results).await.unwrap_err();
    assert_eq!(error.kind(), state::Kind::Stop, "trying again would not help: {error}");
    assert!(fixture.staged(&driven).await.is_empty());
    assert_eq!(fixture.batch_row(claim.batch_id).await.unwrap().state, "claimed");
}

#[tokio::test]
async fn options_keep_what_they_were() {
    let (fixture, driven) = Fixture::with_domain().await;
    let options: Value = serde_json::from_str(r#"{"b": [true, null, 1.5], "a": {"é": "\""}}"#).unwrap();
    fixture
        .state
        .mark_started(&driven.lease, state::Status::DryRun, "1", &options)
        .await
        .unwrap();
    assert_eq!(fixture.state.options(driven.id).await.unwrap(), options);
}
