//! A process that was suspended past its lease does not know that it has lost the domain.

use std::time::Duration;

use hqsql::{Alone, Claim, Error, ErrorKind, Result, Status};
use tokio::sync::Semaphore;

use crate::database::{EPOCH, Fixture, domain, soon, until_waiting};
use crate::rows::at;

/// Somebody else has the domain by now.
struct Gone;

impl Claim for Gone {
    type Lost = Error;

    async fn check(&self) -> Result<()> {
        Err(lost())
    }
}

fn lost() -> Error {
    Error::Config("lost".to_owned())
}

/// It has the domain, and is suspended when it has been told so, until it is let go.
struct Suspended {
    asked: Semaphore,
    let_go: Semaphore,
}

impl Suspended {
    fn new() -> Self {
        Self {
            asked: Semaphore::new(0),
            let_go: Semaphore::new(0),
        }
    }
}

impl Claim for Suspended {
    type Lost = Error;

    async fn check(&self) -> Result<()> {
        self.asked.add_permits(1);
        self.let_go.acquire().await.unwrap().forget();
        Ok(())
    }
}

fn is_lost<T: std::fmt::Debug>(result: Result<T>) {
    let error = result.unwrap_err();
    assert!(matches!(&error, Error::Config(what) if what == "lost"), "{error}");
}

#[tokio::test]
async fn who_has_lost_the_domain_moves_neither_its_row_nor_its_fence() {
    let fixture = Fixture::new().await;
    let target = &fixture.target;
    let status = async || target.progress(&domain()).await.unwrap().status;

    is_lost(target.set_started(&Gone, &domain(), Status::DryRun, at(1)).await);
    assert_eq!(status().await, Status::NotStarted);
    target
        .set_started(&Alone, &domain(), Status::InProgress, at(1))
        .await
        .unwrap();
    is_lost(target.set_unfinished(&Gone, &domain(), at(2)).await);
    is_lost(target.set_not_started(&Gone, &domain()).await);
    is_lost(target.set_complete(&Gone, &domain(), at(2)).await);
    assert_eq!(status().await, Status::InProgress);
    target.set_complete(&Alone, &domain(), at(2)).await.unwrap();
    is_lost(target.set_incomplete(&Gone, &domain(), at(3)).await);
    is_lost(target.take_back_time_zones(&Gone, &domain()).await);
    assert_eq!(status().await, Status::Complete);
    assert!(target.time_zones_are_complete(&domain()).await.unwrap());

    is_lost(target.close_fence(&Gone, &domain(), EPOCH).await);
    assert_eq!(target.fence(&domain()).await.unwrap(), Some((EPOCH, true)));
    target.close_fence(&Alone, &domain(), EPOCH).await.unwrap();
    is_lost(target.open_fence(&Gone, &domain(), EPOCH).await);
    assert_eq!(target.fence(&domain()).await.unwrap(), Some((EPOCH, false)));
    is_lost(target.purge_chunk(&Gone, &domain(), 10).await);
}

#[tokio::test]
async fn who_takes_the_domain_writes_after_one_who_is_suspended_in_the_middle() {
    let fixture = Fixture::new().await;
    let target = &fixture.target;
    target
        .set_started(&Alone, &domain(), Status::InProgress, at(1))
        .await
        .unwrap();
    let (first, domain) = (Suspended::new(), domain());
    let completing = target.set_complete(&first, &domain, at(2));
    let taking_back = async {
        soon("the question", first.asked.acquire()).await.unwrap().forget();
        let second = target.set_incomplete(&Alone, &domain, at(3));
        let letting_go = async {
            until_waiting(&fixture.session().await, 1).await;
            first.let_go.add_permits(9);
        };
        tokio::join!(second, letting_go).0
    };
    let (completed, taken_back) = tokio::join!(completing, taking_back);
    completed.unwrap();
    taken_back.unwrap();
    let progress = target.progress(&domain).await.unwrap();
    assert_eq!(
        (progress.status, progress.started_on),
        (Status::InProgress, Some(at(3)))
    );
}

#[tokio::test]
async fn what_is_suspended_for_too_long_changes_nothing_any_more() {
    let fixture = Fixture::with(|config| config.idle_in_transaction_timeout = Duration::from_millis(300)).await;
    let target = &fixture.target;
    let (first, domain) = (Suspended::new(), domain());
    let opening = target.open_fence(&first, &domain, EPOCH);
    let committing = async {
        soon("the question", first.asked.acquire()).await.unwrap().forget();
        // It waits for the row, and ends whoever does not go on.
        soon("the closing", target.close_fence(&Alone, &domain, EPOCH))
            .await
            .unwrap();
        first.let_go.add_permits(1);
    };
    let (opened, ()) = tokio::join!(opening, committing);
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::Retry);
    assert_eq!(target.fence(&domain).await.unwrap(), Some((EPOCH, false)));
}
