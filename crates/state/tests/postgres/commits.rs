//! What stands against a commit, and its steps.

use proto::doctype::DocType;
use proto::topology::Stage;
use state::Status;
use state::commit::Obstacles;
use state::diff_stage::CaseComparison;
use state::form_stage::FormResults;
use state::migration::CommitStep;
use state::stats::TypeStats;

use crate::fixture::{Fixture, intent, looked_at, staged_form};

#[tokio::test]
async fn nothing_stands_against_an_empty_migration() {
    let (fixture, driven) = Fixture::with_domain().await;
    assert_eq!(fixture.state.obstacles(driven.id).await.unwrap(), Obstacles::default());
}

#[tokio::test]
async fn every_obstacle_is_counted_and_only_the_domain_s_own() {
    let (fixture, driven) = Fixture::with_domain().await;
    let other = fixture.drive("other").await;
    fixture
        .stage(&driven, &[("f", "1-a", &["a", "b", "c"]), ("g", "1-a", &["a"])])
        .await;
    fixture.replay(&driven, &["b", "c"]).await;
    let diff = fixture.claimed(&driven, Stage::Diff, &["b"]).await;
    let found = CaseComparison {
        case_id: "b".to_owned(),
        generation: 1,
        couch_rev: None,
        kind: "CommCareCase".to_owned(),
        diffs: Some("[1]".to_owned()),
        changes: Some(("[2]".to_owned(), "rebuild case".to_owned())),
        order: state::case_order::FormOrder::Agreed,
    };
    fixture.state.finish_diffs(&diff, &[found]).await.unwrap();
    fixture
        .execute("update staged_update set rules = rules + 1 where form_id = 'g'")
        .await;
    fixture.batch(&driven, Stage::Form, &["x"]).await;
    let parked = fixture.claimed(&driven, Stage::Form, &["y"]).await;
    fixture.state.fail_claim(&parked, "C2S-1", "boom", 1).await.unwrap();
    let cursor = state::scan::Cursor {
        complete: true,
        scanned: 7,
        ..Default::default()
    };
    fixture
        .state
        .record_looks(&driven.lease, &[looked_at(DocType::XFormArchived, cursor, &["m"])])
        .await
        .unwrap();

    let entry = |kind: &str| vec![(kind.to_owned(), 1_i64)];
    assert_eq!(
        fixture.state.obstacles(driven.id).await.unwrap(),
        Obstacles {
            open_batches: 1,
            parked: 1,
            dirty: 1,
            undiffed: 1,
            errors: entry("XFormInstance"),
            diffs: entry("CommCareCase"),
            changes: entry("CommCareCase"),
            missing: entry("XFormArchived"),
            other_rules: 1,
            without_rule: 0,
        }
    );
    assert_eq!(fixture.state.obstacles(other.id).await.unwrap(), Obstacles::default());

    let progress = fixture.state.progress(driven.id).await.unwrap();
    assert_eq!((progress.staged, progress.replayed, progress.dirty), (2, 2, 2));
    assert_eq!(
        (progress.cases, progress.diffed, progress.errors, progress.open_batches),
        (2, 1, 1, 1)
    );
    let stats = fixture.state.type_stats(driven.id).await.unwrap();
    assert_eq!(stats.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), DocType::ALL);
    let of = |kind: DocType| stats.iter().find(|(found, _)| *found == kind).unwrap().1;
    assert_eq!(
        of(DocType::XFormInstance),
        TypeStats {
            docs: 2,
            ..TypeStats::default()
        }
    );
    assert_eq!(
        of(DocType::CommCareCase),
        TypeStats {
            docs: 2,
            diffs: 1,
            missing: 0,
            changes: 1
        }
    );
    assert_eq!(
        of(DocType::XFormArchived),
        TypeStats {
            docs: 7,
            missing: 1,
            ..TypeStats::default()
        }
    );
}

#[tokio::test]
async fn the_steps_of_a_commit_are_on_record_and_its_end_completes_the_migration() {
    let (fixture, driven) = Fixture::with_domain().await;
    let state = &fixture.state;
    state
        .set_commit_step(&driven.lease, CommitStep::Intent, Some("5-x"))
        .await
        .unwrap();
    let migration = state.migration(&driven.domain).await.unwrap().unwrap();
    assert_eq!(
        (migration.commit_step, migration.commit_rev.as_deref()),
        (Some(CommitStep::Intent), Some("5-x"))
    );
    state.clear_commit(&driven.lease).await.unwrap();
    let migration = state.migration(&driven.domain).await.unwrap().unwrap();
    assert_eq!((migration.commit_step, migration.commit_rev), (None, None));

    for step in [CommitStep::Intent, CommitStep::Fenced, CommitStep::Switched] {
        let rev = (step == CommitStep::Intent).then_some("6-y");
        state.set_commit_step(&driven.lease, step, rev).await.unwrap();
        let migration = state.migration(&driven.domain).await.unwrap().unwrap();
        assert_eq!(
            (migration.commit_step, migration.commit_rev.as_deref()),
            (Some(step), Some("6-y"))
        );
        assert_eq!(migration.status, Status::NotStarted);
    }
    state
        .set_commit_step(&driven.lease, CommitStep::Done, None)
        .await
        .unwrap();
    let migration = state.migration(&driven.domain).await.unwrap().unwrap();
    assert_eq!(migration.status, Status::Complete);
    state.clear_commit(&driven.lease).await.unwrap_err();
    let migration = state.migration(&driven.domain).await.unwrap().unwrap();
    assert_eq!(
        (migration.status, migration.commit_step),
        (Status::Complete, Some(CommitStep::Done))
    );
}

#[tokio::test]
async fn staged_effects_carry_the_version_of_the_rules() {
    let (fixture, driven) = Fixture::with_domain().await;
    let claim = fixture.claimed(&driven, Stage::Form, &["f"]).await;
    let standing = fixture
        .state
        .begin_forms(&claim, &[intent("f", "1-a")], &[])
        .await
        .unwrap();
    let results = FormResults {
        forms: vec![staged_form("f", "1-a", &["a"], &standing["f"])],
        ..FormResults::default()
    };
    fixture.state.finish_forms(&claim, &results).await.unwrap();
    let rules: i16 = sqlx::query_scalar("select rules from staged_update")
        .fetch_one(&fixture.sql)
        .await
        .unwrap();
    assert_eq!(rules, proto::effects::RULES_VERSION);
}
