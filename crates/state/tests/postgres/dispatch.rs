//! Which rows are published, and what becomes of those that are done.

use proto::ids::BatchId;
use proto::topology::Stage;
use state::batch::OpenBatches;
use state::form_stage::FormResults;

use crate::fixture::{Driven, Fixture, LONG, message};

async fn publishable(fixture: &Fixture, driven: &Driven, limit: i64) -> Vec<i64> {
    let rows = fixture.state.publishable(driven.id, Stage::Form, limit).await.unwrap();
    rows.into_iter().map(|row| row.batch_id.0).collect()
}

#[tokio::test]
async fn rows_that_are_due_and_not_published_are_published_oldest_first_and_once() {
    let (fixture, driven) = Fixture::with_domain().await;
    let other = fixture.drive("other").await;
    let first = fixture.batch(&driven, Stage::Form, &["a", "b"]).await;
    let second = fixture.batch(&driven, Stage::Form, &["c"]).await;
    let third = fixture.batch(&driven, Stage::Form, &["d"]).await;
    fixture.batch(&driven, Stage::Case, &["x"]).await;
    fixture.batch(&other, Stage::Form, &["y"]).await;

    let rows = fixture.state.publishable(driven.id, Stage::Form, 2).await.unwrap();
    assert_eq!(
        rows.iter().map(|row| (row.batch_id, row.count)).collect::<Vec<_>>(),
        [(first, 2), (second, 1)]
    );
    fixture.state.mark_published(&[first]).await.unwrap();
    assert_eq!(publishable(&fixture, &driven, 10).await, [second.0, third.0]);
    fixture.claim(&driven, Stage::Form, second).await.unwrap();
    assert_eq!(
        publishable(&fixture, &driven, 10).await,
        [third.0],
        "what is claimed needs no message"
    );
    fixture
        .execute("update batch set next_at = now() + interval '1 hour'")
        .await;
    assert!(
        publishable(&fixture, &driven, 10).await.is_empty(),
        "what is not due waits"
    );
}

/// A row is marked before its message is out. What a worker does with it meanwhile counts.
#[tokio::test]
async fn a_row_that_a_worker_gave_back_while_others_were_published_is_due() {
    let (fixture, driven) = Fixture::with_domain().await;
    let ids = ["a", "b", "c"].map(|id| [id]);
    let mut rows = Vec::new();
    for id in &ids {
        rows.push(fixture.batch(&driven, Stage::Form, id).await);
    }
    fixture.state.mark_published(&rows).await.unwrap();
    let claim = fixture.claim(&driven, Stage::Form, rows[0]).await.unwrap();
    fixture.state.release_claim(&claim).await.unwrap();
    fixture.claim(&driven, Stage::Form, rows[1]).await.unwrap();
    assert_eq!(publishable(&fixture, &driven, 10).await, [rows[0].0]);
    // The other two came to nothing, so far as is known.
    fixture.state.mark_unpublished(&rows[1..]).await.unwrap();
    assert_eq!(publishable(&fixture, &driven, 10).await, [rows[0].0, rows[2].0]);
}

#[tokio::test]
async fn a_publication_that_a_worker_overtook_does_not_mark_its_claim() {
    let (fixture, driven) = Fixture::with_domain().await;
    let claim = fixture.claimed(&driven, Stage::Form, &["a"]).await;
    fixture.state.mark_published(&[claim.batch_id]).await.unwrap();
    assert!(!fixture.batch_row(claim.batch_id).await.unwrap().published);
}

/// A message came back as a dead letter. The row says whether another one is wanted.
#[tokio::test]
async fn a_dead_letter_is_published_again_if_its_row_still_waits() {
    let (fixture, driven) = Fixture::with_domain().await;
    let waiting = fixture.batch(&driven, Stage::Form, &["a"]).await;
    let claimed = fixture.batch(&driven, Stage::Form, &["b"]).await;
    let other = fixture.batch(&driven, Stage::Form, &["c"]).await;
    fixture.state.mark_published(&[waiting, claimed, other]).await.unwrap();
    fixture.claim(&driven, Stage::Form, claimed).await.unwrap();
    let letter = |batch_id| message(&driven, Stage::Form, batch_id);
    let mut of_another_epoch = letter(other);
    of_another_epoch.epoch = of_another_epoch.epoch.next(7);
    let mut of_another_domain = letter(other);
    of_another_domain.domain = "other".into();
    let letters = [
        letter(waiting),
        letter(waiting),
        letter(claimed),
        letter(BatchId(other.0 + 1)),
        message(&driven, Stage::Case, other),
        of_another_epoch,
        of_another_domain,
    ];
    assert_eq!(fixture.state.forget_messages(&letters).await.unwrap(), 1);
    assert_eq!(publishable(&fixture, &driven, 10).await, [waiting.0]);
    assert_eq!(
        fixture.state.forget_messages(&letters).await.unwrap(),
        0,
        "it is due already"
    );
    assert_eq!(fixture.state.forget_messages(&[]).await.unwrap(), 0);
}

#[tokio::test]
async fn lost_messages_are_published_again_and_young_ones_are_not() {
    let (fixture, driven) = Fixture::with_domain().await;
    let old = fixture.batch(&driven, Stage::Form, &["a"]).await;
    let young = fixture.batch(&driven, Stage::Form, &["b"]).await;
    fixture.state.mark_published(&[old, young]).await.unwrap();
    assert_eq!(
        fixture
            .state
            .forget_published(driven.id, &[Stage::Form], LONG)
            .await
            .unwrap(),
        0
    );
    sqlx::query("update batch set published_at = now() - interval '2 hours' where id = $1")
        .bind(old.0)
        .execute(&fixture.sql)
        .await
        .unwrap();
    assert_eq!(
        fixture
            .state
            .forget_published(driven.id, &[Stage::Case], LONG)
            .await
            .unwrap(),
        0
    );
    assert_eq!(
        fixture
            .state
            .forget_published(driven.id, &[Stage::Form], LONG)
            .await
            .unwrap(),
        1
    );
    assert_eq!(publishable(&fixture, &driven, 10).await, [old.0]);
}

#[tokio::test]
async fn a_stage_is_drained_when_its_rows_say_so() {
    let (fixture, driven) = Fixture::with_domain().await;
    assert!(
        fixture
            .state
            .open_batches(driven.id, Stage::Form)
            .await
            .unwrap()
            .is_drained()
    );
    let published = fixture.batch(&driven, Stage::Form, &["a"]).await;
    fixture.batch(&driven, Stage::Form, &["b"]).await;
    let claim = fixture.claimed(&driven, Stage::Form, &["c"]).await;
    let parked = fixture.claimed(&driven, Stage::Form, &["d"]).await;
    fixture.state.fail_claim(&parked, "C2S-1", "boom", 1).await.unwrap();
    let done = fixture.claimed(&driven, Stage::Form, &["e"]).await;
    fixture
        .state
        .finish_forms(&done, &FormResults::default())
        .await
        .unwrap();
    fixture.state.mark_published(&[published]).await.unwrap();
    let open = fixture.state.open_batches(driven.id, Stage::Form).await.unwrap();
    assert_eq!(
        open,
        OpenBatches {
            ready: 2,
            published: 1,
            claimed: 1,
            parked: 1,
            done: 1
        }
    );
    assert!(!open.is_drained());

    fixture
        .state
        .finish_forms(&claim, &FormResults::default())
        .await
        .unwrap();
    assert!(
        !fixture
            .state
            .open_batches(driven.id, Stage::Form)
            .await
            .unwrap()
            .is_drained()
    );
    while let Some(claim) = fixture.claim_next(&driven, Stage::Form).await {
        fixture
            .state
            .finish_forms(&claim, &FormResults::default())
            .await
            .unwrap();
    }
    assert!(
        fixture
            .state
            .open_batches(driven.id, Stage::Form)
            .await
            .unwrap()
            .is_drained()
    );
}

#[tokio::test]
async fn folding_moves_finished_batches_into_totals_and_loses_no_count() {
    let (fixture, driven) = Fixture::with_domain().await;
    let other = fixture.drive("other").await;
    for (driven, ids) in [(&driven, ["a", "b"]), (&driven, ["c", "d"]), (&other, ["e", "f"])] {
        let claim = fixture.claimed(driven, Stage::Form, &ids).await;
        fixture
            .state
            .finish_forms(&claim, &FormResults::default())
            .await
            .unwrap();
    }
    let open = fixture.batch(&driven, Stage::Form, &["g"]).await;
    assert_eq!(
        fixture.state.progress(driven.id).await.unwrap().staged,
        4,
        "before it is folded"
    );
    let (one, two) = tokio::join!(fixture.state.fold_done(driven.id), fixture.state.fold_done(driven.id));
    one.unwrap();
    two.unwrap();
    let totals: Vec<(String, String, i64, i64)> =
        sqlx::query_as("select stage, doc_type, batches, items from stage_total where migration_id = $1")
            .bind(driven.id.0)
            .fetch_all(&fixture.sql)
            .await
            .unwrap();
    assert_eq!(totals, [("form".to_owned(), "XFormInstance".to_owned(), 2, 4)]);
    let progress = fixture.state.progress(driven.id).await.unwrap();
    assert_eq!((progress.staged, progress.open_batches), (4, 1));
    assert!(fixture.batch_row(open).await.is_some(), "open batches stay");
    assert_eq!(fixture.state.progress(other.id).await.unwrap().staged, 2);

    let claim = fixture.claim(&driven, Stage::Form, open).await.unwrap();
    fixture
        .state
        .finish_forms(&claim, &FormResults::default())
        .await
        .unwrap();
    assert_eq!(
        fixture.state.progress(driven.id).await.unwrap().staged,
        5,
        "folded and not folded together"
    );
    fixture.state.fold_done(driven.id).await.unwrap();
    assert_eq!(fixture.state.progress(driven.id).await.unwrap().staged, 5);
}
