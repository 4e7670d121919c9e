use std::time::Duration;

use hqsql::{Alone, Error, ErrorKind};
use proto::ids::Epoch;

use crate::database::{EPOCH, Fixture, SHARD, domain, soon, until_waiting};
use crate::rows::form;

const NEXT: Epoch = Epoch(8 << 32);

fn refusal(result: hqsql::Result<hqsql::FencedTx>) -> Option<(Epoch, bool)> {
    match result {
        Err(error @ Error::FenceClosed { .. }) => {
            assert_eq!((error.kind(), error.code()), (ErrorKind::Fenced, "C2S-1404"));
            let Error::FenceClosed { found, .. } = error else {
                unreachable!()
            };
            found
        }
        other => panic!("not refused by the fence: {other:?}"),
    }
}

#[tokio::test]
async fn other_epochs_and_closed_domains_are_refused() {
    let fixture = Fixture::new().await;
    let (target, shard) = (&fixture.target, SHARD(&fixture.target));
    assert_eq!(refusal(target.begin(shard, &"unknown".into(), EPOCH).await), None);
    assert_eq!(refusal(target.begin(shard, &domain(), NEXT).await), Some((EPOCH, true)));
    target.close_fence(&Alone, &domain(), EPOCH).await.unwrap();
    assert_eq!(
        refusal(target.begin(shard, &domain(), EPOCH).await),
        Some((EPOCH, false))
    );
    assert_eq!(target.fence(&domain()).await.unwrap(), Some((EPOCH, false)));
    // An abandoned commit opens it again at the same epoch; a reset moves on.
    target.open_fence(&Alone, &domain(), EPOCH).await.unwrap();
    fixture.begin().await.rollback().await.unwrap();
    target.close_fence(&Alone, &domain(), NEXT).await.unwrap();
    target.open_fence(&Alone, &domain(), NEXT).await.unwrap();
    assert_eq!(refusal(target.begin(shard, &domain(), EPOCH).await), Some((NEXT, true)));
    // Who comes from an epoch that is over cannot take it back.
    for late in [
        target.open_fence(&Alone, &domain(), EPOCH).await,
        target.close_fence(&Alone, &domain(), EPOCH).await,
    ] {
        let error = late.unwrap_err();
        assert!(matches!(error, Error::FenceNewer { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Stop);
    }
    assert_eq!(target.fence(&domain()).await.unwrap(), Some((NEXT, true)));
    assert_eq!(target.fence(&"unknown".into()).await.unwrap(), None);
}

#[tokio::test]
async fn closing_waits_for_a_transaction_in_flight() {
    let fixture = Fixture::new().await;
    let tx = fixture.begin().await;
    tx.merge_forms(&[form("a")]).await.unwrap();
    let target = fixture.target.clone();
    let closing = tokio::spawn(async move { target.close_fence(&Alone, &domain(), NEXT).await });
    until_waiting(&fixture.session().await, 1).await;
    assert!(!closing.is_finished());
    // It may go on to its end.
    tx.merge_forms(&[form("b")]).await.unwrap();
    tx.commit().await.unwrap();
    soon("the closing", closing).await.unwrap().unwrap();
    assert_eq!(
        fixture
            .rows("select count(*) from form_processor_xforminstancesql")
            .await,
        ["2"]
    );
    let begun = fixture.target.begin(SHARD(&fixture.target), &domain(), EPOCH).await;
    assert_eq!(refusal(begun), Some((NEXT, false)));
}

#[tokio::test]
async fn an_idle_transaction_is_ended_and_its_work_is_lost() {
    let fixture = Fixture::with(|config| config.idle_in_transaction_timeout = Duration::from_millis(300)).await;
    let tx = fixture.begin().await;
    tx.merge_forms(&[form("a")]).await.unwrap();
    soon("the closing", fixture.target.close_fence(&Alone, &domain(), NEXT))
        .await
        .unwrap();
    // The stopped worker goes on, and finds that it is over.
    let error = tx.merge_forms(&[form("b")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry, "{error:?}");
    assert_eq!(tx.commit().await.unwrap_err().kind(), ErrorKind::Retry);
    assert!(!fixture.target.has_rows(&domain()).await.unwrap());
}

/// PostgreSQL's own time-outs do not see a session that waits for the rest of a COPY.
#[tokio::test]
async fn a_worker_that_stopped_in_the_middle_of_a_copy_is_ended() {
    let fixture = Fixture::with(|config| config.idle_in_transaction_timeout = Duration::from_millis(300)).await;
    let stopped = fixture.session().await;
    stopped.batch_execute("begin").await.unwrap();
    stopped
        .query(
            "select from couch_sql_migration_fence where domain = 'clinic' for share",
            &[],
        )
        .await
        .unwrap();
    let mut sink = Box::pin(
        stopped
            .copy_in::<_, bytes::Bytes>("copy form_processor_xforminstancesql (form_id, domain) from stdin")
            .await
            .unwrap(),
    );
    soon("the closing", fixture.target.close_fence(&Alone, &domain(), NEXT))
        .await
        .unwrap();
    assert!(sink.as_mut().finish().await.is_err());
    assert_eq!(fixture.target.fence(&domain()).await.unwrap(), Some((NEXT, false)));
}
