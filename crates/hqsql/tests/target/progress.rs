use hqsql::{Alone, Error, Progress, Status};

use crate::database::{Fixture, domain};
use crate::rows::at;

const LOOK: &str = "select domain, migration_slug, migration_status, started_on is not null, completed_on is not null \
     from domain_migration_flags_domainmigrationprogress order by 1, 2";

fn refused(result: hqsql::Result<()>) {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Progress { .. }), "{error}");
}

#[tokio::test]
async fn a_live_migration_from_start_to_end() {
    let fixture = Fixture::new().await;
    let target = &fixture.target;
    let nothing = Progress {
        status: Status::NotStarted,
        started_on: None,
        completed_on: None,
    };
    assert_eq!(target.progress(&domain()).await.unwrap(), nothing);
    assert!(fixture.rows(LOOK).await.is_empty());

    target
        .set_started(&Alone, &domain(), Status::DryRun, at(1))
        .await
        .unwrap();
    target
        .set_started(&Alone, &domain(), Status::DryRun, at(2))
        .await
        .unwrap();
    let dry = Progress {
        status: Status::DryRun,
        started_on: Some(at(1)),
        completed_on: None,
    };
    assert_eq!(target.progress(&domain()).await.unwrap(), dry);
    refused(target.set_complete(&Alone, &domain(), at(3)).await);
    assert_eq!(fixture.rows(LOOK).await, ["clinic|couch_to_sql|dry_run|t|f"]);

    // Finishing takes its own time as the start.
    target
        .set_started(&Alone, &domain(), Status::InProgress, at(4))
        .await
        .unwrap();
    let finishing = Progress {
        status: Status::InProgress,
        started_on: Some(at(4)),
        completed_on: None,
    };
    assert_eq!(target.progress(&domain()).await.unwrap(), finishing);
    refused(target.set_started(&Alone, &domain(), Status::DryRun, at(5)).await);

    // It may be taken back, and then be finished anew.
    for time in [at(4), at(5)] {
        target.set_unfinished(&Alone, &domain(), time).await.unwrap();
        let unfinished = Progress {
            started_on: Some(at(4)),
            ..dry
        };
        assert_eq!(target.progress(&domain()).await.unwrap(), unfinished);
    }
    target
        .set_started(&Alone, &domain(), Status::InProgress, at(4))
        .await
        .unwrap();

    for time in [at(6), at(7)] {
        target.set_complete(&Alone, &domain(), time).await.unwrap();
        let complete = Progress {
            status: Status::Complete,
            started_on: Some(at(4)),
            completed_on: Some(at(6)),
        };
        assert_eq!(target.progress(&domain()).await.unwrap(), complete);
    }
    assert_eq!(
        fixture.rows(LOOK).await,
        ["clinic|couch_to_sql|complete|t|t", "clinic|tzmigration|complete|f|t"]
    );
    refused(target.set_not_started(&Alone, &domain()).await);
    refused(target.set_unfinished(&Alone, &domain(), at(8)).await);
    refused(target.set_started(&Alone, &domain(), Status::InProgress, at(8)).await);
}

#[tokio::test]
async fn a_reset_takes_the_start_back() {
    let fixture = Fixture::new().await;
    let target = &fixture.target;
    target.set_not_started(&Alone, &domain()).await.unwrap();
    for status in [Status::DryRun, Status::InProgress] {
        target.set_started(&Alone, &domain(), status, at(1)).await.unwrap();
        target.set_not_started(&Alone, &domain()).await.unwrap();
        let expected = Progress {
            status: Status::NotStarted,
            started_on: None,
            completed_on: None,
        };
        assert_eq!(target.progress(&domain()).await.unwrap(), expected);
    }
    for status in [Status::NotStarted, Status::Complete] {
        refused(target.set_started(&Alone, &domain(), status, at(1)).await);
    }
}

#[tokio::test]
async fn completion_is_whole_or_not_at_all() {
    let fixture = Fixture::new().await;
    let target = &fixture.target;
    target
        .set_started(&Alone, &domain(), Status::InProgress, at(1))
        .await
        .unwrap();
    let insert = |slug: &str, status: &str| {
        format!(
            "insert into domain_migration_flags_domainmigrationprogress (domain, migration_slug, migration_status) \
             values ('clinic', '{slug}', '{status}')"
        )
    };
    let session = fixture.session().await;
    session.batch_execute(&insert("tzmigration", "dry_run")).await.unwrap();
    refused(target.set_complete(&Alone, &domain(), at(2)).await);
    assert_eq!(target.progress(&domain()).await.unwrap().status, Status::InProgress);
    // A domain that had its time zones migrated long ago keeps that date.
    session
        .batch_execute(
            "update domain_migration_flags_domainmigrationprogress \
             set migration_status = 'complete', completed_on = '2015-01-01' where migration_slug = 'tzmigration'",
        )
        .await
        .unwrap();
    target.set_complete(&Alone, &domain(), at(3)).await.unwrap();
    let rows = fixture
        .rows(
            "select migration_slug, migration_status, extract(year from completed_on) \
             from domain_migration_flags_domainmigrationprogress order by 1",
        )
        .await;
    assert_eq!(rows, ["couch_to_sql|complete|2017", "tzmigration|complete|2015"]);
}

#[tokio::test]
async fn a_status_that_hq_does_not_know_is_reported() {
    let fixture = Fixture::new().await;
    fixture
        .session()
        .await
        .batch_execute(
            "insert into domain_migration_flags_domainmigrationprogress (domain, migration_slug, migration_status) \
             values ('clinic', 'couch_to_sql', 'odd')",
        )
        .await
        .unwrap();
    assert!(matches!(
        fixture.target.progress(&domain()).await,
        Err(Error::UnknownStatus { .. })
    ));
}

#[tokio::test]
async fn a_complete_migration_is_taken_back() {
    let fixture = Fixture::new().await;
    let target = &fixture.target;
    refused(target.set_incomplete(&Alone, &domain(), at(1)).await);
    target
        .set_started(&Alone, &domain(), Status::InProgress, at(1))
        .await
        .unwrap();
    assert!(!target.time_zones_are_complete(&domain()).await.unwrap());
    target.set_complete(&Alone, &domain(), at(2)).await.unwrap();
    assert!(target.time_zones_are_complete(&domain()).await.unwrap());
    // Twice, as after a crash.
    for time in [at(3), at(4)] {
        target.set_incomplete(&Alone, &domain(), time).await.unwrap();
        let progress = target.progress(&domain()).await.unwrap();
        assert_eq!(
            (progress.status, progress.started_on),
            (Status::InProgress, Some(at(3)))
        );
        assert!(target.time_zones_are_complete(&domain()).await.unwrap());
    }
    for _ in 0..2 {
        target.take_back_time_zones(&Alone, &domain()).await.unwrap();
        assert!(!target.time_zones_are_complete(&domain()).await.unwrap());
    }
    assert_eq!(
        fixture.rows(LOOK).await,
        [
            "clinic|couch_to_sql|in_progress|t|t",
            "clinic|tzmigration|not_started|f|f"
        ]
    );
    target.set_unfinished(&Alone, &domain(), at(5)).await.unwrap();
    refused(target.set_incomplete(&Alone, &domain(), at(6)).await);
}
