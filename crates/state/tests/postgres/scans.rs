//! Cursors move with what a scan found; passes over pending cases.

use proto::doctype::DocType;
use proto::topology::Stage;
use state::form_stage::{FailedDoc, FormResults};
use state::scan::{Cursor, CutLimits, DIFF_PASS, REPLAY_PASS, Scanned, form_scan};

use crate::fixture::{Driven, Fixture, looked_at, strings};

fn at(id: &str, scanned: i64) -> Cursor {
    Cursor {
        after_key: Some(format!("[\"{id}\"]")),
        after_id: Some(id.to_owned()),
        complete: false,
        scanned,
    }
}

async fn batches(fixture: &Fixture, driven: &Driven, stage: Stage) -> Vec<Vec<String>> {
    sqlx::query_scalar("select ids from batch where migration_id = $1 and stage = $2 order by id")
        .bind(driven.id.0)
        .bind(stage.as_str())
        .fetch_all(&fixture.sql)
        .await
        .unwrap()
}

fn in_place_order(ids: &[&str]) -> Vec<String> {
    let mut ids = strings(ids);
    ids.sort_by_key(|id| (proto::bucket::of(id), id.clone()));
    ids
}

fn scanned(doc_type: DocType, cursor: Cursor, batches: &[&[String]]) -> Scanned {
    Scanned {
        doc_type,
        cursor,
        batches: batches.iter().map(|ids| ids.to_vec()).collect(),
    }
}

#[tokio::test]
async fn a_cursor_and_its_batches_are_committed_together() {
    let (fixture, driven) = Fixture::with_domain().await;
    let scan = form_scan(DocType::XFormInstance);
    assert_eq!(fixture.state.cursor(driven.id, &scan).await.unwrap(), Cursor::default());
    let (one, two) = (strings(&["a", "b"]), strings(&["c"]));
    fixture
        .state
        .insert_scanned(
            &driven.lease,
            &[scanned(DocType::XFormInstance, at("c", 3), &[&one, &two])],
        )
        .await
        .unwrap();
    assert_eq!(fixture.state.cursor(driven.id, &scan).await.unwrap(), at("c", 3));
    assert_eq!(batches(&fixture, &driven, Stage::Form).await, [one, two]);
    assert_eq!(fixture.state.progress(driven.id).await.unwrap().scanned, 3);
}

#[tokio::test]
async fn when_one_batch_cannot_be_inserted_the_cursor_stays_and_no_batch_is_there() {
    let (fixture, driven) = Fixture::with_domain().await;
    let scan = form_scan(DocType::XFormInstance);
    let first = strings(&["a"]);
    fixture
        .state
        .insert_scanned(&driven.lease, &[scanned(DocType::XFormInstance, at("a", 1), &[&first])])
        .await
        .unwrap();
    let (good, bad) = (strings(&["b"]), strings(&["c\0"]));
    fixture
        .state
        .insert_scanned(
            &driven.lease,
            &[
                scanned(DocType::XFormError, at("e", 1), &[&good]),
                scanned(DocType::XFormInstance, at("c", 3), &[&good, &bad]),
            ],
        )
        .await
        .unwrap_err();
    assert_eq!(fixture.state.cursor(driven.id, &scan).await.unwrap(), at("a", 1));
    let others = fixture.state.form_cursors(driven.id, [DocType::XFormError]).await;
    assert_eq!(others.unwrap(), [(DocType::XFormError, Cursor::default())]);
    assert_eq!(batches(&fixture, &driven, Stage::Form).await, [first]);
}

#[tokio::test]
async fn a_scan_can_be_opened_again_at_its_end_or_sent_back_to_its_start() {
    let (fixture, driven) = Fixture::with_domain().await;
    let scan = form_scan(DocType::XFormArchived);
    let done = Cursor {
        complete: true,
        ..at("z", 9)
    };
    fixture
        .state
        .insert_scanned(&driven.lease, &[scanned(DocType::XFormArchived, done, &[])])
        .await
        .unwrap();
    let scans = [scan.clone()];
    fixture.state.reopen_scans(&driven.lease, &scans).await.unwrap();
    assert_eq!(fixture.state.cursor(driven.id, &scan).await.unwrap(), at("z", 9));
    fixture.state.restart_scan(&driven.lease, &scan).await.unwrap();
    assert_eq!(fixture.state.cursor(driven.id, &scan).await.unwrap(), Cursor::default());
}

#[tokio::test]
async fn dirty_cases_are_cut_in_the_order_of_their_places_each_once() {
    let (fixture, driven) = Fixture::with_domain().await;
    let cases = ["c1", "c2", "c3", "c4", "c5"];
    fixture
        .stage(&driven, &[("f", "1-a", &cases), ("g", "1-a", &cases)])
        .await;
    let limits = CutLimits {
        cases: 2,
        weight: 100,
        batches: 1,
    };
    let mut cut = 0;
    loop {
        let more = fixture.state.cut_case_batches(&driven.lease, &limits).await.unwrap();
        if more == 0 {
            break;
        }
        assert_eq!(more, 1);
        cut += more;
    }
    assert_eq!(cut, 3);
    let found = batches(&fixture, &driven, Stage::Case).await;
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    assert_eq!(found.concat(), in_place_order(&cases));
    assert_eq!(fixture.state.cursor(driven.id, REPLAY_PASS).await.unwrap().scanned, 5);

    fixture.state.restart_scan(&driven.lease, REPLAY_PASS).await.unwrap();
    let wide = CutLimits {
        cases: 100,
        weight: 100,
        batches: 9,
    };
    assert_eq!(
        fixture.state.cut_case_batches(&driven.lease, &wide).await.unwrap(),
        1,
        "a pass starts anew"
    );
}

/// The weight of a case is what its replay reads, however little of it is new.
#[tokio::test]
async fn batches_are_weighed_by_the_staged_rows_that_a_replay_reads() {
    let (fixture, driven) = Fixture::with_domain().await;
    let order = in_place_order(&["c1", "c2", "c3", "c4"]);
    let heavy = order[1].as_str();
    for form in 0..6 {
        fixture.stage(&driven, &[(&format!("f{form}"), "1-a", &[heavy])]).await;
    }
    fixture.replay(&driven, &[heavy]).await;
    let all: Vec<&str> = order.iter().map(String::as_str).collect();
    fixture.stage(&driven, &[("g", "1-a", &all)]).await;
    let limits = CutLimits {
        cases: 100,
        weight: 3,
        batches: 10,
    };
    fixture.execute("delete from batch").await;
    assert_eq!(fixture.state.cut_case_batches(&driven.lease, &limits).await.unwrap(), 3);
    assert_eq!(
        batches(&fixture, &driven, Stage::Case).await,
        [
            vec![order[0].clone()],
            vec![order[1].clone()],
            vec![order[2].clone(), order[3].clone()]
        ]
    );
}

#[tokio::test]
async fn batches_are_weighed_by_the_bytes_that_a_replay_reads() {
    let (fixture, driven) = Fixture::with_domain().await;
    let order = in_place_order(&["c1", "c2", "c3", "c4", "c5"]);
    let all: Vec<&str> = order.iter().map(String::as_str).collect();
    fixture.stage(&driven, &[("f", "1-a", &all)]).await;
    // Compressible as they are, they would weigh nothing by what the table holds.
    let (large, eventful) = (&order[1], &order[3]);
    fixture
        .execute(&format!(
            "update staged_update set payload = decode(repeat('00', 5000), 'hex') where case_id = '{large}'"
        ))
        .await;
    fixture
        .execute(&format!(
            "insert into case_event (migration_id, bucket, case_id, kind, payload)
             select migration_id, bucket, case_id, 'deleted', decode(repeat('00', 5000), 'hex') from staged_update
             where case_id = '{eventful}'"
        ))
        .await;
    let limits = CutLimits {
        cases: 100,
        weight: 5,
        batches: 10,
    };
    fixture.execute("delete from batch").await;
    fixture.state.cut_case_batches(&driven.lease, &limits).await.unwrap();
    let alone = |place: usize| vec![order[place].clone()];
    assert_eq!(
        batches(&fixture, &driven, Stage::Case).await,
        [alone(0), alone(1), alone(2), alone(3), alone(4)]
    );
}

#[tokio::test]
async fn a_case_that_was_set_aside_is_not_cut_again_until_it_is_unparked() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", &["bad", "good"])]).await;
    let claim = fixture.claimed(&driven, Stage::Case, &["bad"]).await;
    fixture.state.fail_claim(&claim, "C2S-3002", "boom", 1).await.unwrap();
    let limits = CutLimits {
        cases: 10,
        weight: 100,
        batches: 10,
    };
    assert_eq!(fixture.state.cut_case_batches(&driven.lease, &limits).await.unwrap(), 1);
    assert_eq!(batches(&fixture, &driven, Stage::Case).await, [["bad"], ["good"]]);
    assert_eq!(
        fixture.state.pending_cases(driven.id).await.unwrap().0,
        2,
        "it stays dirty, and stands against a commit"
    );
}

#[tokio::test]
async fn cases_are_cut_for_a_diff_until_they_are_compared_at_their_generation() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    state
        .record_cases(
            &driven.lease,
            "case:x",
            &Cursor::default(),
            &strings(&["c1", "c2", "c1"]),
        )
        .await
        .unwrap();
    state
        .record_cases(&driven.lease, "case:x", &Cursor::default(), &strings(&["c2"]))
        .await
        .unwrap();
    assert_eq!(state.pending_cases(driven.id).await.unwrap(), (0, 2));
    let limits = CutLimits {
        cases: 10,
        weight: 1,
        batches: 10,
    };
    assert_eq!(state.cut_diff_batches(&driven.lease, &limits).await.unwrap(), 2);
    assert_eq!(
        batches(&fixture, &driven, Stage::Diff).await.concat(),
        in_place_order(&["c1", "c2"])
    );
    assert_eq!(state.cut_diff_batches(&driven.lease, &limits).await.unwrap(), 0);
    assert_eq!(state.cursor(driven.id, DIFF_PASS).await.unwrap().scanned, 2);
    fixture
        .execute("update case_state set diffed_generation = generation where case_id = 'c1'")
        .await;
    state.restart_scan(&driven.lease, DIFF_PASS).await.unwrap();
    assert_eq!(state.cut_diff_batches(&driven.lease, &limits).await.unwrap(), 1);
    assert_eq!(state.pending_cases(driven.id).await.unwrap(), (0, 1));
}

#[tokio::test]
async fn documents_that_failed_or_are_missing_are_tried_again_by_kind() {
    let (fixture, driven) = Fixture::with_domain().await;
    let failed = |doc_id: &str, kind: DocType, missing| FailedDoc {
        kind: kind.as_str().to_owned(),
        doc_id: doc_id.to_owned(),
        rev: Some("1-a".to_owned()),
        code: "C2S-2301".to_owned(),
        message: "no XML".to_owned(),
        missing,
    };
    let claim = fixture.claimed(&driven, Stage::Form, &["a", "b", "c", "d"]).await;
    let results = FormResults {
        failed: vec![
            failed("a", DocType::XFormInstance, true),
            failed("b", DocType::XFormInstance, false),
            failed("c", DocType::XFormInstance, true),
            failed("d", DocType::XFormError, true),
        ],
        ..FormResults::default()
    };
    fixture.state.finish_forms(&claim, &results).await.unwrap();
    fixture.execute("delete from batch").await;
    let looked = looked_at(DocType::CommCareCase, at("x", 1), &["case"]);
    fixture.state.record_looks(&driven.lease, &[looked]).await.unwrap();
    assert_eq!(fixture.state.requeue_failed(&driven.lease, 2).await.unwrap(), 4);
    let queued: Vec<(String, Vec<String>)> =
        sqlx::query_as("select doc_type, ids from batch where migration_id = $1 order by doc_type, ids")
            .bind(driven.id.0)
            .fetch_all(&fixture.sql)
            .await
            .unwrap();
    let batch = |kind: &str, ids: &[&str]| (kind.to_owned(), strings(ids));
    assert_eq!(
        queued,
        [
            batch("XFormError", &["d"]),
            batch("XFormInstance", &["a", "b"]),
            batch("XFormInstance", &["c"])
        ]
    );
}

#[tokio::test]
async fn documents_that_changed_since_they_were_staged_are_migrated_again() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture
        .stage(
            &driven,
            &[("f", "1-a", &["a"]), ("g", "1-a", &["a"]), ("h", "1-a", &["a"])],
        )
        .await;
    fixture.execute("delete from batch").await;
    fixture
        .execute(
            "insert into doc_error (migration_id, kind, doc_id, code, message)
             select id, 'XFormInstance', 'failed', 'C2S-2302', 'x' from migration",
        )
        .await;
    let pair = |id: &str, rev: &str| (id.to_owned(), rev.to_owned());
    let now = [
        pair("f", "2-b"),
        pair("failed", "1-a"),
        pair("g", "1-a"),
        pair("h", "3-c"),
        pair("unseen", "1-a"),
    ];
    assert_eq!(
        fixture
            .state
            .requeue_changed(&driven.lease, &[(DocType::XFormInstance, now.to_vec())], 1)
            .await
            .unwrap(),
        3
    );
    assert_eq!(
        batches(&fixture, &driven, Stage::Form).await,
        [["f"], ["h"], ["unseen"]]
    );
}

#[tokio::test]
async fn what_was_met_is_listed_in_pages_to_be_looked_up_again() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    fixture
        .stage(
            &driven,
            &[("f", "1-a", &["a", "b"]), ("g", "1-a", &["c"]), ("h", "1-a", &[])],
        )
        .await;
    fixture.replay(&driven, &["a", "b", "c"]).await;
    fixture
        .execute("update case_state set diffed_generation = generation, diffed_rev = '1-a' where case_id <> 'b'")
        .await;
    fixture
        .execute("update doc_revision set deleted = true where doc_id = 'g'")
        .await;
    let mut listed = Vec::new();
    let mut after = String::new();
    loop {
        let page = state.staged_after(driven.id, &after, 1).await.unwrap();
        let Some(last) = page.last() else { break };
        after.clone_from(last);
        listed.extend(page);
    }
    assert_eq!(listed, ["f", "h"], "what is gone already is not listed");
    let mut compared = Vec::new();
    after.clear();
    loop {
        let page = state.compared_after(driven.id, &after, 1).await.unwrap();
        let Some(last) = page.last() else { break };
        after.clone_from(last);
        compared.extend(page);
    }
    compared.sort();
    assert_eq!(compared, ["a", "c"], "b was never compared with a document of Couch");

    // A case that is alive again is looked at by the form stage, which takes its seed back.
    fixture.execute("delete from batch").await;
    fixture
        .execute("update doc_revision set doc_type = 'CommCareCase-Deleted' where doc_id = 'f'")
        .await;
    let cases = strings(&["f", "h", "z"]);
    assert_eq!(state.requeue_revived(&driven.lease, &cases, 10).await.unwrap(), 1);
    assert_eq!(batches(&fixture, &driven, Stage::Form).await, [["f"]]);
}

#[tokio::test]
async fn cases_that_changed_in_couch_since_they_were_compared_are_compared_again() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", &["a", "b", "c", "d"])]).await;
    fixture.replay(&driven, &["a", "b", "c", "d"]).await;
    fixture
        .execute("update case_state set diffed_generation = generation, diffed_rev = '1-a' where case_id <> 'd'")
        .await;
    fixture
        .execute("update case_state set diffed_rev = null where case_id = 'c'")
        .await;
    let pair = |id: &str, rev: &str| (id.to_owned(), rev.to_owned());
    let now = [pair("d", "1-a"), pair("c", "1-a"), pair("b", "2-b"), pair("a", "1-a")];
    assert_eq!(
        fixture.state.rediff_changed(&driven.lease, &now).await.unwrap(),
        2,
        "one moved, one appeared"
    );
    assert_eq!(
        fixture.state.pending_cases(driven.id).await.unwrap(),
        (0, 3),
        "one was pending already"
    );
}

/// A form with a difference may have been compared with a document that has changed since.
#[tokio::test]
async fn forms_with_differences_are_tried_again_and_cases_with_differences_are_not() {
    let (fixture, driven) = Fixture::with_domain().await;
    for kind in ["XFormInstance", "CommCareCase", "CommCareCase-Deleted"] {
        sqlx::query("insert into doc_diff (migration_id, kind, doc_id, diffs) values ($1, $2, 'x', '[]')")
            .bind(driven.id.0)
            .bind(kind)
            .execute(&fixture.sql)
            .await
            .unwrap();
    }
    assert_eq!(fixture.state.requeue_failed(&driven.lease, 10).await.unwrap(), 1);
    assert_eq!(batches(&fixture, &driven, Stage::Form).await, [["x"]]);
}
