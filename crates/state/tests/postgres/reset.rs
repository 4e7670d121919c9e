//! A reset ends the epoch at once, and its purge leaves nothing of the domain and everything of the others.

use std::collections::{BTreeMap, HashMap};

use proto::doctype::DocType;
use proto::topology::Stage;
use serde_json::json;
use sqlx::AssertSqlSafe;
use state::blob_change::{BlobAction, BlobChange, BlobOrigin};
use state::case_stage::{CaseResults, FailedCase, Verdict};
use state::diff_stage::CaseComparison;
use state::form_stage::{FormResults, StagedDeletedCase};
use state::migration::CommitStep;
use state::pace::{Pace, Work};
use state::run::RunState;
use state::scan::Cursor;
use state::snapshot::{DocKind, SnapshotPart};
use state::{Kind, MigrationId, Phase, StateError, Status};

use crate::database::soon;
use crate::fixture::{Driven, Fixture, LONG, intent, looked_at, operator, staged_form, strings};

/// What a purge keeps on purpose: the history of commands with how fast they were, and blob changes, which go one by one as
/// they are undone.
const KEPT: [&str; 3] = ["run", "pace", "blob_change"];

/// Rows of the migration by table: of every table that has a migration's rows, whatever tables there will be.
async fn rows_by_table(fixture: &Fixture, id: MigrationId) -> BTreeMap<String, i64> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select c.table_name::text from information_schema.columns c
         join information_schema.tables t using (table_schema, table_name)
         where c.table_schema = 'couch_sql_migration' and c.column_name = 'migration_id' and t.table_type = 'BASE TABLE'",
    )
    .fetch_all(&fixture.sql)
    .await
    .unwrap();
    assert!(tables.len() > 15, "{tables:?}");
    let mut rows = BTreeMap::new();
    for table in tables {
        let sql = format!("select count(*) from {table} where migration_id = {}", id.0);
        rows.insert(
            table,
            sqlx::query_scalar(AssertSqlSafe(sql))
                .fetch_one(&fixture.sql)
                .await
                .unwrap(),
        );
    }
    rows
}

/// A migration with rows in every table.
async fn fill(fixture: &Fixture, driven: &Driven) {
    let state = &fixture.state;
    state
        .mark_started(&driven.lease, Status::InProgress, "1", &json!({"x": 1}))
        .await
        .unwrap();
    state.set_phase(&driven.lease, Phase::Diff).await.unwrap();
    state
        .queue_run(driven.id, "MIGRATE", &json!({}), &operator())
        .await
        .unwrap();
    let claim = fixture.claimed(driven, Stage::Form, &["f", "g", "d"]).await;
    let blob = BlobChange {
        action: BlobAction::Insert {
            origin: BlobOrigin::Inline,
        },
        key: "k".to_owned(),
        parent_id: "f".to_owned(),
        name: "photo".to_owned(),
        type_code: 3,
        created_on: state.now().await.unwrap(),
    };
    let standings = state
        .begin_forms(&claim, &[intent("f", "1-a"), intent("g", "1-a")], &[blob])
        .await
        .unwrap();
    let mut form = staged_form("f", "1-a", &["a", "b", "c", "e"], &standings["f"]);
    form.has_noop_block = true;
    form.is_problem_form = true;
    form.diffs = Some("[]".to_owned());
    let results = FormResults {
        forms: vec![form, staged_form("g", "1-a", &["a"], &standings["g"])],
        deleted_cases: vec![StagedDeletedCase {
            case_id: "d".to_owned(),
            rev: "1-a".to_owned(),
            begun: 1,
            payload: vec![1],
        }],
        ..FormResults::default()
    };
    state.finish_forms(&claim, &results).await.unwrap();
    state.fold_done(driven.id).await.unwrap();
    let claim = fixture.claimed(driven, Stage::Case, &["a", "b"]).await;
    let results = CaseResults {
        replayed: strings(&["a", "b"]),
        failed: vec![FailedCase {
            case_id: "b".to_owned(),
            code: "C2S-2210".to_owned(),
            message: "x".to_owned(),
        }],
        ..CaseResults::default()
    };
    let inputs = state.case_inputs(&claim, &claim.ids).await.unwrap();
    state.finish_cases(&claim, &inputs.dirty, &results).await.unwrap();
    let claim = fixture.claimed(driven, Stage::Diff, &["a"]).await;
    let compared = CaseComparison {
        case_id: "a".to_owned(),
        generation: 1,
        couch_rev: None,
        kind: "CommCareCase".to_owned(),
        diffs: None,
        changes: Some(("[]".to_owned(), "x".to_owned())),
        order: state::case_order::FormOrder::Agreed,
    };
    let rule = [("known".to_owned(), "{}".to_owned())];
    assert!(
        state
            .add_rules(&driven.lease, &rule, &crate::fixture::operator())
            .await
            .unwrap()
            .is_empty()
    );
    let ignored = state::operator_rules::Ignored {
        kind: "CommCareCase".to_owned(),
        doc_id: "a".to_owned(),
        rule: "known".to_owned(),
        diffs: "[1]".to_owned(),
        count: 1,
        reason: None,
    };
    let moved = state.finish_diffs_ignoring(&claim, &[compared], &[ignored]).await;
    assert_eq!(moved.unwrap(), 0);
    let claim = fixture.claimed(driven, Stage::Case, &["a"]).await;
    let results = CaseResults {
        replayed: strings(&["a"]),
        verdicts: vec![Verdict {
            form_id: "g".to_owned(),
            case_id: "a".to_owned(),
            code: "C2S-2202".to_owned(),
            message: "x".to_owned(),
        }],
        staged_as: HashMap::from([("g".to_owned(), 1)]),
        ..CaseResults::default()
    };
    state.finish_cases(&claim, &[], &results).await.unwrap();
    let cursor = Cursor {
        complete: true,
        scanned: 1,
        ..Cursor::default()
    };
    state
        .record_looks(&driven.lease, &[looked_at(DocType::XFormArchived, cursor, &["m"])])
        .await
        .unwrap();
    state
        .requeue_forms(&driven.lease, &strings(&["g"]), true, 10)
        .await
        .unwrap();
    for sql in [
        "insert into patched_case (migration_id, case_id) values ($1, 'a')",
        "with feed as (insert into change_feed (source, identity, seq) values ('s', 'i', '0')
                      on conflict (source) do update set seq = '0' returning source)
         insert into followed (migration_id, source) select $1, source from feed",
        "insert into changed_doc (migration_id, doc_id, doc_type) values ($1, 'f', 'XFormInstance')",
        "insert into case_checkpoint (migration_id, bucket, case_id, generation, payload) values ($1, 0, 'a', 1, '')",
        "insert into lost_form (migration_id, form_id) values ($1, 'lost')",
        "insert into case_order (migration_id, bucket, case_id, standing, digest) values ($1, 0, 'a', 'kept', '')",
        "insert into patch_form (migration_id, form_id, case_id, record) values ($1, 'p', 'a', 'changes')",
        "insert into patch_refusal (migration_id, doc_id, record, kind, code, message) values ($1, 'a', 'changes', 'k', 'c', 'm')",
    ] {
        sqlx::query(sql).bind(driven.id.0).execute(&fixture.sql).await.unwrap();
    }
    let pace = Pace {
        work: Work::Forms,
        documents: 3,
        seconds: 0.5,
    };
    state.record_pace(&driven.lease, None, pace).await.unwrap();
    state
        .record_late_forms(driven.id, &[("XFormInstance".to_owned(), "late".to_owned())])
        .await
        .unwrap();
    let part = SnapshotPart {
        ids: strings(&["f"]),
        digests: vec![1],
    };
    state
        .store_snapshot_part(&driven.lease, DocKind::Form, 0, 0, &part)
        .await
        .unwrap();
    for (table, rows) in rows_by_table(fixture, driven.id).await {
        let partition = table.starts_with("staged_update_");
        assert!(rows > 0 || partition, "the test puts something into {table}");
    }
}

async fn purge(fixture: &Fixture, id: MigrationId, chunk: i64) -> u64 {
    let mut all = 0;
    loop {
        let deleted = fixture.state.purge_chunk(id, chunk).await.unwrap();
        assert!(deleted <= u64::try_from(chunk).unwrap());
        if deleted == 0 {
            return all;
        }
        all += deleted;
    }
}

#[tokio::test]
async fn a_purge_in_chunks_leaves_nothing_of_its_own_and_everything_of_others() {
    let (fixture, driven) = Fixture::with_domain().await;
    let other = fixture.drive("other").await;
    fill(&fixture, &driven).await;
    fill(&fixture, &other).await;
    let others = rows_by_table(&fixture, other.id).await;
    let epoch = fixture.state.begin_reset(driven.id).await.unwrap();
    let purged = purge(&fixture, driven.id, 2).await;
    assert!(purged > 20);
    for (table, rows) in rows_by_table(&fixture, driven.id).await {
        assert_eq!(rows > 0, KEPT.contains(&table.as_str()), "{table} has {rows} rows");
    }
    assert_eq!(rows_by_table(&fixture, other.id).await, others);
    assert_eq!(
        fixture.state.blob_changes(driven.id, 9).await.unwrap().len(),
        1,
        "to be undone first"
    );
    fixture.state.end_reset(driven.id, epoch).await.unwrap();

    let again = fixture.drive("clinic").await;
    assert!(again.epoch > driven.epoch);
    fixture.stage(&again, &[("f", "1-a", &["a"])]).await;
    assert_eq!(fixture.staged(&again).await, ["a/f"]);
}

#[tokio::test]
async fn a_reset_ends_the_epoch_the_lease_and_the_run_at_once() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    fill(&fixture, &driven).await;
    let (run, _) = state
        .queue_run(driven.id, "MIGRATE", &json!({}), &operator())
        .await
        .unwrap();
    let form = fixture.claimed(&driven, Stage::Form, &["h"]).await;
    let late = fixture.batch(&driven, Stage::Form, &["i"]).await;
    let epoch = state.begin_reset(driven.id).await.unwrap();
    assert!(epoch > driven.epoch);
    let migration = state.migration(&driven.domain).await.unwrap().unwrap();
    assert_eq!((migration.epoch, migration.purging), (epoch, true));
    assert_eq!((migration.status, migration.phase), (Status::NotStarted, Phase::Idle));
    assert_eq!(
        (migration.options, migration.started_at, migration.driver),
        (json!({}), None, None)
    );
    assert_eq!(state.run(run.id).await.unwrap().state, RunState::Stopped);
    state.set_run_state(run.id, RunState::Running, None).await.unwrap();
    assert_eq!(state.run(run.id).await.unwrap().state, RunState::Stopped);

    let before = rows_by_table(&fixture, driven.id).await;
    assert!(
        fixture.claim(&driven, Stage::Form, late).await.is_none(),
        "old messages claim nothing"
    );
    for (what, error) in [
        (
            "begin",
            state.begin_forms(&form, &[intent("h", "1-a")], &[]).await.err(),
        ),
        ("stale", state.stale_forms(&form, &[]).await.err()),
        (
            "finish forms",
            state.finish_forms(&form, &FormResults::default()).await.err(),
        ),
        ("fail", state.fail_claim(&form, "C2S-1", "boom", 1).await.err()),
        ("inputs", state.case_inputs(&form, &[]).await.err()),
        (
            "finish cases",
            state.finish_cases(&form, &[], &CaseResults::default()).await.err(),
        ),
        ("to diff", state.cases_to_diff(&form).await.err()),
        ("finish diffs", state.finish_diffs(&form, &[]).await.err()),
        ("lease", state.renew_lease(&driven.lease, LONG).await.err()),
        ("cut", state.restart_scan(&driven.lease, "replay").await.err()),
        ("stock", state.record_couch_stock(&driven.lease, true).await.err()),
        ("phase", state.set_phase(&driven.lease, Phase::Scan).await.err()),
    ] {
        let error = error.unwrap_or_else(|| panic!("{what} must be refused"));
        assert_eq!(error.kind(), Kind::Lost, "{what}: {error}");
    }
    assert_eq!(
        rows_by_table(&fixture, driven.id).await,
        before,
        "what was refused has changed nothing"
    );
    assert!(
        state.take_lease(driven.id, "eager", LONG).await.unwrap().is_none(),
        "nothing but the reset may run"
    );
}

#[tokio::test]
async fn a_reset_waits_for_a_worker_s_open_transaction() {
    let (fixture, driven) = Fixture::with_domain().await;
    let claim = fixture.claimed(&driven, Stage::Form, &["f"]).await;
    let standings = fixture
        .state
        .begin_forms(&claim, &[intent("f", "1-a")], &[])
        .await
        .unwrap();
    let results = FormResults {
        forms: vec![staged_form("f", "1-a", &["a"], &standings["f"])],
        ..FormResults::default()
    };
    // Keeps the worker's transaction open at its end.
    let mut brake = fixture.sql.begin().await.unwrap();
    sqlx::query("lock table staged_update in exclusive mode")
        .execute(&mut *brake)
        .await
        .unwrap();
    let state = fixture.state.clone();
    let worker = tokio::spawn(async move { state.finish_forms(&claim, &results).await });
    fixture.until_waiting(1).await;
    let (state, id) = (fixture.state.clone(), driven.id);
    let reset = tokio::spawn(async move { state.begin_reset(id).await });
    fixture.until_waiting(2).await;
    assert!(!reset.is_finished());
    // A worker that comes now is refused; it does not overtake the reset.
    let late = fixture.claimed_by_hand(&driven).await;
    let refused = soon(
        "the refusal",
        fixture.state.begin_forms(&late, &[intent("g", "1-a")], &[]),
    )
    .await;
    assert!(matches!(refused, Err(StateError::EpochOver)));
    assert!(!reset.is_finished());
    brake.commit().await.unwrap();
    soon("the worker", worker).await.unwrap().unwrap();
    soon("the reset", reset).await.unwrap().unwrap();
    assert_eq!(
        fixture.staged(&driven).await,
        ["a/f"],
        "what was in flight has arrived, and the purge finds it"
    );
}

#[tokio::test]
async fn an_interrupted_reset_goes_on_in_the_same_epoch() {
    let (fixture, driven) = Fixture::with_domain().await;
    fill(&fixture, &driven).await;
    let epoch = fixture.state.begin_reset(driven.id).await.unwrap();
    assert_eq!(fixture.state.purge_chunk(driven.id, 3).await.unwrap(), 3);
    // Another process takes over where the first one died.
    let resumed = fixture.database.unchecked().await;
    assert_eq!(resumed.begin_reset(driven.id).await.unwrap(), epoch);
    purge(&fixture, driven.id, 1000).await;
    resumed.end_reset(driven.id, epoch).await.unwrap();
    assert_eq!(
        fixture
            .number("select count(*) from staged_update where migration_id = $1", &driven)
            .await,
        0
    );
    assert_eq!(
        fixture.state.begin_reset(driven.id).await.unwrap().0 >> 32,
        (epoch.0 >> 32) + 1,
        "the next one is another"
    );
}

/// Two resets at once; one ends, and the domain's next migration begins while the other still purges.
#[tokio::test]
async fn a_reset_that_another_one_has_ended_purges_nothing_of_the_next_migration() {
    let (fixture, driven) = Fixture::with_domain().await;
    let epoch = fixture.state.begin_reset(driven.id).await.unwrap();
    assert!(fixture.state.is_purging(driven.id, epoch).await.unwrap());
    fixture.state.end_reset(driven.id, epoch).await.unwrap();
    assert!(!fixture.state.is_purging(driven.id, epoch).await.unwrap());
    let next = fixture.drive("clinic").await;
    fixture.stage(&next, &[("f", "1-a", &["a"])]).await;
    let error = fixture.state.purge_chunk(next.id, 100).await.unwrap_err();
    assert!(matches!(error, StateError::EpochOver));
    assert_eq!(fixture.staged(&next).await, ["a/f"]);
    // Nor does it end a reset that began after it.
    fixture.state.begin_reset(next.id).await.unwrap();
    fixture.state.end_reset(next.id, epoch).await.unwrap();
    assert!(
        fixture
            .state
            .take_lease(next.id, "eager", LONG)
            .await
            .unwrap()
            .is_none()
    );
}

/// A claim is given back at the very moment at which its row is purged.
#[tokio::test]
async fn a_batch_that_moves_under_the_purge_is_purged_all_the_same() {
    let (fixture, driven) = Fixture::with_domain().await;
    let claim = fixture.claimed(&driven, Stage::Form, &["f"]).await;
    fixture.state.begin_reset(driven.id).await.unwrap();
    let mut giving_back = fixture.sql.begin().await.unwrap();
    sqlx::query("update batch set state = 'ready', token = null, lease_until = null where id = $1")
        .bind(claim.batch_id.0)
        .execute(&mut *giving_back)
        .await
        .unwrap();
    let (state, id) = (fixture.state.clone(), driven.id);
    let purging = tokio::spawn(async move { while state.purge_chunk(id, 100).await.unwrap() > 0 {} });
    fixture.until_waiting(1).await;
    giving_back.commit().await.unwrap();
    soon("the purge", purging).await.unwrap();
    assert!(fixture.batch_row(claim.batch_id).await.is_none());
}

#[tokio::test]
async fn a_domain_whose_commit_has_begun_or_is_done_cannot_be_reset() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.stage(&driven, &[("f", "1-a", &["a"])]).await;
    for step in [
        CommitStep::Intent,
        CommitStep::Fenced,
        CommitStep::Switched,
        CommitStep::Done,
    ] {
        fixture.state.set_commit_step(&driven.lease, step, None).await.unwrap();
        let error = fixture.state.begin_reset(driven.id).await.unwrap_err();
        assert!(matches!(error, StateError::NotResettable), "{step:?}: {error}");
        assert_eq!(error.kind(), Kind::Stop);
        assert!(fixture.state.purge_chunk(driven.id, 9).await.is_err());
    }
    let migration = fixture.state.migration(&driven.domain).await.unwrap().unwrap();
    assert_eq!(
        (migration.status, migration.epoch, migration.purging),
        (Status::Complete, driven.epoch, false)
    );
    assert_eq!(fixture.staged(&driven).await, ["a/f"]);
}
