//! Batch rows: `ready -> claimed -> done | ready | parked`.
//!
//! A worker claims by compare-and-set before it starts, and the claim counts the attempt first. Every later write of the
//! worker checks the claim's token. Poison is decided here, by attempts: a batch that fails is split until the bad
//! document stands alone, and that one is parked with its error.

use std::time::Duration;

use proto::doctype::DocType;
use proto::ids::{BatchId, Domain, Epoch};
use proto::message::BatchMessage;
use proto::topology::Stage;
use sqlx::{Postgres, Row, Transaction};
use uuid::Uuid;

use crate::outcome::{DocError, record_errors};
use crate::{MigrationId, State, StateError, names};

/// A batch of several documents is split after this many failed attempts: one failure may be chance.
const ATTEMPTS_BEFORE_SPLIT: i32 = 2;
/// Into how many parts a failing batch is split: few enough rows, and a bad one among 500 is alone after three rounds.
const SPLIT_PARTS: usize = 8;

/// A batch that this worker holds.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The row.
    pub batch_id: BatchId,
    /// Its migration.
    pub migration_id: MigrationId,
    /// Its domain.
    pub domain: Domain,
    /// Its epoch.
    pub epoch: Epoch,
    /// Proof.
    pub token: Uuid,
    /// Stage.
    pub stage: Stage,
    /// Type of the documents.
    pub doc_type: DocType,
    /// Their ids.
    pub ids: Vec<String>,
    /// Which attempt this is, from 1.
    pub attempt: i32,
}

/// A batch row to publish.
#[derive(Clone, Debug)]
pub struct Publishable {
    /// The row.
    pub batch_id: BatchId,
    /// Type of its documents.
    pub doc_type: DocType,
    /// How many.
    pub count: u32,
    /// Claims so far.
    pub attempt: i32,
}

/// What became of a failing batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// It will be tried again.
    Again,
    /// It was split.
    Split,
    /// Its one document was set aside, with its error on record.
    Parked,
}

/// Batches of a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenBatches {
    /// Not claimed by anyone.
    pub ready: i64,
    /// Of these, published.
    pub published: i64,
    /// Claimed.
    pub claimed: i64,
    /// Set aside.
    pub parked: i64,
    /// Done, and not folded into counters yet.
    pub done: i64,
}

impl OpenBatches {
    /// Whether the stage has nothing left to do.
    pub const fn is_drained(&self) -> bool {
        self.ready == 0 && self.claimed == 0
    }
}

impl State {
    /// Claims the batch of a message. `None`: somebody else has it, it is done, or it belongs to another epoch — the
    /// message has served its purpose.
    ///
    /// # Errors
    /// Database errors.
    pub async fn claim(
        &self,
        message: &BatchMessage,
        worker: &str,
        lease: Duration,
    ) -> Result<Option<Claim>, StateError> {
        let token = Uuid::new_v4();
        let row = sqlx::query(
            "update batch b
             set state = 'claimed', token = $3, lease_until = now() + make_interval(secs => $4), worker = $5,
                 attempt = attempt + 1
             from migration m
             where b.id = $1 and m.id = b.migration_id and m.epoch = $2 and not m.purging
               and m.domain = $6 and b.stage = $7 and b.state = 'ready' and b.next_at <= now()
             returning b.migration_id, b.doc_type, b.ids, b.attempt",
        )
        .bind(message.batch_id.0)
        .bind(message.epoch.0)
        .bind(token)
        .bind(lease.as_secs_f64())
        .bind(worker)
        .bind(message.domain.as_str())
        .bind(message.body.stage().as_str())
        .fetch_optional(&self.pool)
        .await?;
        let outcome = if row.is_some() { "claimed" } else { "not_ours" };
        metrics::counter!(names::CLAIMS, "stage" => message.body.stage().as_str(), "outcome" => outcome).increment(1);
        let Some(row) = row else { return Ok(None) };
        let doc_type: String = row.try_get("doc_type")?;
        Ok(Some(Claim {
            batch_id: message.batch_id,
            migration_id: MigrationId(row.try_get("migration_id")?),
            domain: message.domain.clone(),
            epoch: message.epoch,
            token,
            stage: message.body.stage(),
            doc_type: DocType::parse(&doc_type).ok_or(StateError::Corrupt("document type"))?,
            ids: row.try_get("ids")?,
            attempt: row.try_get("attempt")?,
        }))
    }

    /// Keeps a claim for another while.
    ///
    /// # Errors
    /// [`StateError::LostClaim`].
    pub async fn renew_claim(&self, claim: &Claim, lease: Duration) -> Result<(), StateError> {
        let kept = sqlx::query(
            "update batch set lease_until = now() + make_interval(secs => $3) where id = $1 and token = $2",
        )
        .bind(claim.batch_id.0)
        .bind(claim.token)
        .bind(lease.as_secs_f64())
        .execute(&self.pool)
        .await?
        .rows_affected();
        if kept == 1 { Ok(()) } else { Err(StateError::LostClaim) }
    }

    /// Gives a batch back untried: the worker is stopping.
    ///
    /// # Errors
    /// Database errors; a lost claim is not one.
    pub async fn release_claim(&self, claim: &Claim) -> Result<(), StateError> {
        sqlx::query(
            "update batch set state = 'ready', token = null, lease_until = null, attempt = attempt - 1, published_at = null
             where id = $1 and token = $2",
        )
        .bind(claim.batch_id.0)
        .bind(claim.token)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Gives a batch back after a failure that has nothing to do with its documents: a server was away. It is due again
    /// after an exponential back-off up to `longest`, and the attempt does not count against it.
    ///
    /// # Errors
    /// Database errors; a lost claim is not one.
    pub async fn retry_later(
        &self,
        claim: &Claim,
        code: &str,
        text: &str,
        longest: Duration,
    ) -> Result<(), StateError> {
        sqlx::query(
            "update batch set state = 'ready', token = null, lease_until = null, attempt = attempt - 1, published_at = null,
                    retries = retries + 1, error_code = $3, error_text = $4,
                    next_at = now() + make_interval(secs => least($5, 0.25 * power(2, least(retries, 20))) * (0.5 + random() / 2))
             where id = $1 and token = $2",
        )
        .bind(claim.batch_id.0)
        .bind(claim.token)
        .bind(code)
        .bind(text)
        .bind(longest.as_secs_f64())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Records a failure that may be the fault of a document: again, split, or parked.
    ///
    /// # Errors
    /// [`StateError::LostClaim`], [`StateError::EpochOver`].
    pub async fn fail_claim(
        &self,
        claim: &Claim,
        code: &str,
        text: &str,
        max_attempts: i32,
    ) -> Result<AfterFailure, StateError> {
        let mut tx = self.pool.begin().await?;
        check_epoch(&mut tx, claim.migration_id, claim.epoch).await?;
        let after = fail_in(&mut tx, claim.batch_id, claim.token, code, text, max_attempts).await?;
        tx.commit().await?;
        Ok(after)
    }

    /// Treats claims whose lease has run out as failures: their workers died, perhaps of their documents.
    ///
    /// # Errors
    /// [`StateError::EpochOver`] when a reset begins meanwhile.
    pub async fn expire_claims(&self, id: MigrationId, max_attempts: i32) -> Result<usize, StateError> {
        let expired = sqlx::query(
            "select b.id, b.token, m.epoch from batch b join migration m on m.id = b.migration_id
             where b.migration_id = $1 and b.state = 'claimed' and b.lease_until < now() and not m.purging
             order by b.id limit 100",
        )
        .bind(id.0)
        .fetch_all(&self.pool)
        .await?;
        let mut count = 0;
        for row in &expired {
            let mut tx = self.pool.begin().await?;
            let batch_id = BatchId(row.try_get("id")?);
            let token: Uuid = row.try_get("token")?;
            let text = "the worker stopped answering while it held the batch";
            check_epoch(&mut tx, id, Epoch(row.try_get("epoch")?)).await?;
            // The worker may have come back to life meanwhile: it renewed its claim, or ended it.
            let still: Option<i32> = sqlx::query_scalar(
                "select 1 from batch where id = $1 and token = $2 and lease_until < now() for update",
            )
            .bind(batch_id.0)
            .bind(token)
            .fetch_optional(&mut *tx)
            .await?;
            if still.is_some() {
                fail_in(&mut tx, batch_id, token, "C2S-3001", text, max_attempts).await?;
                count += 1;
            }
            tx.commit().await?;
        }
        Ok(count)
    }
}

/// Ends a claim as done, inside the transaction that holds its results.
pub(crate) async fn finish_claim(tx: &mut Transaction<'_, Postgres>, claim: &Claim) -> Result<(), StateError> {
    check_epoch(tx, claim.migration_id, claim.epoch).await?;
    let done = sqlx::query(
        "update batch set state = 'done', token = null, lease_until = null, ids = '{}', error_code = null, error_text = null
         where id = $1 and token = $2",
    )
    .bind(claim.batch_id.0)
    .bind(claim.token)
    .execute(&mut **tx)
    .await?
    .rows_affected();
    if done == 1 { Ok(()) } else { Err(StateError::LostClaim) }
}

/// Checks that the claim still stands, and keeps its epoch from changing until the transaction ends.
pub(crate) async fn check_claim(tx: &mut Transaction<'_, Postgres>, claim: &Claim) -> Result<(), StateError> {
    check_epoch(tx, claim.migration_id, claim.epoch).await?;
    let held: Option<i32> = sqlx::query_scalar("select 1 from batch where id = $1 and token = $2")
        .bind(claim.batch_id.0)
        .bind(claim.token)
        .fetch_optional(&mut **tx)
        .await?;
    held.map(|_| ()).ok_or(StateError::LostClaim)
}

/// Checks that the claim still stands, and keeps it from being taken back until the transaction ends: whoever has the batch
/// next sees what this transaction wrote.
pub(crate) async fn hold_claim(tx: &mut Transaction<'_, Postgres>, claim: &Claim) -> Result<(), StateError> {
    check_epoch(tx, claim.migration_id, claim.epoch).await?;
    let held: Option<i32> = sqlx::query_scalar("select 1 from batch where id = $1 and token = $2 for share")
        .bind(claim.batch_id.0)
        .bind(claim.token)
        .fetch_optional(&mut **tx)
        .await?;
    held.map(|_| ()).ok_or(StateError::LostClaim)
}

async fn check_epoch(tx: &mut Transaction<'_, Postgres>, id: MigrationId, epoch: Epoch) -> Result<(), StateError> {
    // `for key share` holds off a reset, which locks the row `for update` first, and lets the driver's renewals of its
    // lease pass.
    let current: Option<i64> =
        sqlx::query_scalar("select epoch from migration where id = $1 and not purging for key share")
            .bind(id.0)
            .fetch_optional(&mut **tx)
            .await?;
    if current == Some(epoch.0) {
        Ok(())
    } else {
        Err(StateError::EpochOver)
    }
}

async fn fail_in(
    tx: &mut Transaction<'_, Postgres>,
    batch_id: BatchId,
    token: Uuid,
    code: &str,
    text: &str,
    max_attempts: i32,
) -> Result<AfterFailure, StateError> {
    let row = sqlx::query(
        "select migration_id, stage, doc_type, ids, attempt from batch where id = $1 and token = $2 for update",
    )
    .bind(batch_id.0)
    .bind(token)
    .fetch_optional(&mut **tx)
    .await?
    .ok_or(StateError::LostClaim)?;
    let migration_id: i32 = row.try_get("migration_id")?;
    let doc_type: String = row.try_get("doc_type")?;
    let ids: Vec<String> = row.try_get("ids")?;
    let attempt: i32 = row.try_get("attempt")?;

    // Only a document that stands alone is set aside, however few attempts it has.
    if ids.len() > 1 && attempt >= ATTEMPTS_BEFORE_SPLIT.min(max_attempts) {
        let stage: String = row.try_get("stage")?;
        for part in ids.chunks(ids.len().div_ceil(SPLIT_PARTS)) {
            insert_batch(tx, migration_id, &stage, &doc_type, part, Some(batch_id)).await?;
        }
        sqlx::query("delete from batch where id = $1")
            .bind(batch_id.0)
            .execute(&mut **tx)
            .await?;
        return Ok(AfterFailure::Split);
    }
    let (state, after) = if attempt >= max_attempts {
        ("parked", AfterFailure::Parked)
    } else {
        ("ready", AfterFailure::Again)
    };
    sqlx::query(
        "update batch set state = $2, token = null, lease_until = null, published_at = null, error_code = $3, error_text = $4,
                next_at = now() + make_interval(secs => 0.25 * power(2, least(attempt, 8)) * (0.5 + random() / 2))
         where id = $1",
    )
    .bind(batch_id.0)
    .bind(state)
    .bind(code)
    .bind(text)
    .execute(&mut **tx)
    .await?;
    if after == AfterFailure::Parked {
        let errors = ids.iter().map(|id| DocError {
            kind: &doc_type,
            doc_id: id,
            code,
            message: text,
            rev: None,
        });
        record_errors(tx, MigrationId(migration_id), errors.collect()).await?;
    }
    Ok(after)
}

/// Inserts a batch row that is ready.
pub(crate) async fn insert_batch(
    tx: &mut Transaction<'_, Postgres>,
    migration_id: i32,
    stage: &str,
    doc_type: &str,
    ids: &[String],
    split_from: Option<BatchId>,
) -> Result<(), StateError> {
    let count = i32::try_from(ids.len()).map_err(|_| StateError::Corrupt("item count"))?;
    sqlx::query(
        "insert into batch (migration_id, stage, doc_type, ids, item_count, split_from) values ($1, $2, $3, $4, $5, $6)",
    )
    .bind(migration_id)
    .bind(stage)
    .bind(doc_type)
    .bind(ids)
    .bind(count)
    .bind(split_from.map(|id| id.0))
    .execute(&mut **tx)
    .await?;
    Ok(())
}
