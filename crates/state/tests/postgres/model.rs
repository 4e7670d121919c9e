//! Random operations on batches against a model of the protocol: `ready -> claimed -> done | ready | parked`.
//!
//! The model is written from the protocol, and knows nothing of how the rows are kept. A failing run prints its seed;
//! `C2S_TEST_SEED` repeats it.

use std::collections::{BTreeMap, BTreeSet};

use proto::ids::BatchId;
use proto::topology::Stage;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use state::StateError;
use state::batch::{AfterFailure, Claim};
use state::form_stage::FormResults;

use crate::fixture::{Driven, Fixture, LONG, message};

const OPERATIONS: usize = 500;
const MAX_ATTEMPTS: i32 = 4;
/// Failures after which a batch of several documents is split.
const FAILURES_BEFORE_SPLIT: i32 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Claimable, once it is due.
    Ready {
        due: bool,
    },
    /// Held by the claim of that number.
    Claimed {
        by: usize,
        expired: bool,
    },
    Done,
    Parked,
}

#[derive(Clone, Debug)]
struct ModelBatch {
    documents: BTreeSet<String>,
    attempts: i32,
    place: Place,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    ids: Vec<String>,
    item_count: i32,
    attempt: i32,
    state: String,
    due: bool,
    expired: Option<bool>,
}

struct World {
    fixture: Fixture,
    driven: Driven,
    model: BTreeMap<i64, ModelBatch>,
    /// Every claim that was ever given, the lost ones too.
    claims: Vec<Claim>,
    documents: usize,
}

impl World {
    async fn insert(&mut self, count: usize) {
        let ids: Vec<String> = (0..count).map(|n| format!("doc-{:04}", self.documents + n)).collect();
        self.documents += count;
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let batch_id = self.fixture.batch(&self.driven, Stage::Form, &ids).await;
        let documents = ids.iter().map(|id| (*id).to_owned()).collect();
        self.model.insert(
            batch_id.0,
            ModelBatch {
                documents,
                attempts: 0,
                place: Place::Ready { due: true },
            },
        );
    }

    async fn claim(&mut self, batch_id: i64) {
        let message = message(&self.driven, Stage::Form, BatchId(batch_id));
        let claim = self.fixture.state.claim(&message, "worker", LONG).await.unwrap();
        let number = self.claims.len();
        let expected = match self.model.get_mut(&batch_id) {
            Some(batch) if batch.place == (Place::Ready { due: true }) => {
                batch.place = Place::Claimed {
                    by: number,
                    expired: false,
                };
                batch.attempts += 1;
                Some(batch)
            }
            _ => None,
        };
        assert_eq!(claim.is_some(), expected.is_some(), "claim of {batch_id}");
        if let (Some(claim), Some(batch)) = (claim, expected) {
            assert_eq!(claim.attempt, batch.attempts);
            assert_eq!(claim.ids.iter().cloned().collect::<BTreeSet<_>>(), batch.documents);
            self.claims.push(claim);
        }
    }

    /// The batch that a claim still holds.
    fn held(&mut self, number: usize) -> Option<&mut ModelBatch> {
        let batch_id = self.claims[number].batch_id.0;
        self.model
            .get_mut(&batch_id)
            .filter(|batch| matches!(batch.place, Place::Claimed { by, .. } if by == number))
    }

    async fn renew(&mut self, number: usize) {
        let renewed = self.fixture.state.renew_claim(&self.claims[number], LONG).await;
        match self.held(number) {
            Some(batch) => {
                renewed.unwrap();
                batch.place = Place::Claimed {
                    by: number,
                    expired: false,
                };
            }
            None => assert!(matches!(renewed, Err(StateError::LostClaim))),
        }
    }

    async fn finish(&mut self, number: usize) {
        let finished = self
            .fixture
            .state
            .finish_forms(&self.claims[number], &FormResults::default())
            .await;
        match self.held(number) {
            Some(batch) => {
                finished.unwrap();
                batch.place = Place::Done;
            }
            None => assert!(matches!(finished, Err(StateError::LostClaim))),
        }
    }

    async fn give_back(&mut self, number: usize, wait: bool) {
        let claim = self.claims[number].clone();
        if wait {
            self.fixture
                .state
                .retry_later(&claim, "C2S-1001", "away", LONG)
                .await
                .unwrap();
        } else {
            self.fixture.state.release_claim(&claim).await.unwrap();
        }
        if let Some(batch) = self.held(number) {
            batch.attempts -= 1;
            batch.place = Place::Ready { due: !wait };
        }
    }

    async fn fail(&mut self, number: usize) {
        let claim = self.claims[number].clone();
        let failed = self
            .fixture
            .state
            .fail_claim(&claim, "C2S-2301", "bad", MAX_ATTEMPTS)
            .await;
        if self.held(number).is_none() {
            assert!(matches!(failed, Err(StateError::LostClaim)));
            return;
        }
        assert_eq!(failed.unwrap(), self.failed(claim.batch_id.0).await);
    }

    /// What the protocol makes of a batch that failed.
    async fn failed(&mut self, batch_id: i64) -> AfterFailure {
        let batch = self.model.get_mut(&batch_id).unwrap();
        if batch.documents.len() > 1 && batch.attempts >= FAILURES_BEFORE_SPLIT {
            let whole = self.model.remove(&batch_id).unwrap();
            self.adopt_parts(batch_id, &whole.documents).await;
            return AfterFailure::Split;
        }
        if batch.attempts >= MAX_ATTEMPTS {
            batch.place = Place::Parked;
            return AfterFailure::Parked;
        }
        batch.place = Place::Ready { due: false };
        AfterFailure::Again
    }

    /// How a batch is split is not the protocol's business, but nothing may be lost, doubled, or left whole.
    async fn adopt_parts(&mut self, batch_id: i64, whole: &BTreeSet<String>) {
        let parts: Vec<(i64, Vec<String>)> = sqlx::query_as("select id, ids from batch where split_from = $1")
            .bind(batch_id)
            .fetch_all(&self.fixture.sql)
            .await
            .unwrap();
        assert!(parts.len() > 1);
        let count: usize = parts.iter().map(|(_, ids)| ids.len()).sum();
        assert_eq!(count, whole.len());
        let together: BTreeSet<String> = parts.iter().flat_map(|(_, ids)| ids.iter().cloned()).collect();
        assert_eq!(&together, whole);
        for (id, ids) in parts {
            let documents = ids.into_iter().collect();
            self.model.insert(
                id,
                ModelBatch {
                    documents,
                    attempts: 0,
                    place: Place::Ready { due: true },
                },
            );
        }
    }

    /// The lease of a claim runs out, without anyone having noticed yet.
    async fn run_out(&mut self, number: usize) {
        let batch_id = self.claims[number].batch_id;
        if let Some(batch) = self.held(number) {
            batch.place = Place::Claimed {
                by: number,
                expired: true,
            };
            self.fixture.let_expire(batch_id).await;
        }
    }

    async fn expire(&mut self) {
        let expired: Vec<i64> = self
            .model
            .iter()
            .filter(|(_, batch)| matches!(batch.place, Place::Claimed { expired: true, .. }))
            .map(|(id, _)| *id)
            .collect();
        assert_eq!(
            self.fixture
                .state
                .expire_claims(self.driven.id, MAX_ATTEMPTS)
                .await
                .unwrap(),
            expired.len()
        );
        for batch_id in expired {
            self.failed(batch_id).await;
        }
    }

    /// Holds the clock: waits must not end by themselves while the model thinks that they last.
    async fn stop_time(&self) {
        let waiting: Vec<i64> = self
            .model
            .iter()
            .filter(|(_, batch)| batch.place == (Place::Ready { due: false }))
            .map(|(id, _)| *id)
            .collect();
        sqlx::query("update batch set next_at = now() + interval '1 day' where id = any($1)")
            .bind(waiting)
            .execute(&self.fixture.sql)
            .await
            .unwrap();
    }

    async fn pass_time(&mut self) {
        self.fixture
            .execute("update batch set next_at = now() where state = 'ready'")
            .await;
        for batch in self.model.values_mut() {
            if let Place::Ready { due } = &mut batch.place {
                *due = true;
            }
        }
    }

    async fn unpark(&mut self) {
        let parked = self.model.values_mut().filter(|batch| batch.place == Place::Parked);
        let mut count = 0;
        for batch in parked {
            batch.place = Place::Ready { due: true };
            batch.attempts = 0;
            count += 1;
        }
        assert_eq!(self.fixture.state.unpark(self.driven.id).await.unwrap(), count);
    }

    async fn step(&mut self, random: &mut StdRng) {
        let claim = (0..self.claims.len()).choose(random);
        match (random.random_range(0..20), claim) {
            (0, _) => self.insert(random.random_range(1..30)).await,
            (1, _) => self.expire().await,
            (2, _) => self.pass_time().await,
            (3, _) if random.random_bool(0.2) => self.unpark().await,
            (4 | 5, Some(number)) => self.run_out(number).await,
            (6 | 7, Some(number)) => self.renew(number).await,
            (8, Some(number)) => self.finish(number).await,
            (9, Some(number)) => self.give_back(number, false).await,
            (10, Some(number)) => self.give_back(number, true).await,
            (11..=14, Some(number)) => self.fail(number).await,
            _ => {
                let known = self.model.keys().copied().choose(random).unwrap_or(0);
                self.claim(if random.random_bool(0.05) { 0 } else { known }).await;
            }
        }
    }

    /// The rows are what the model says.
    async fn compare(&self) {
        let rows: Vec<Row> = sqlx::query_as(
            "select id, ids, item_count, attempt, state, next_at <= now() as due, lease_until < now() as expired
             from batch order by id",
        )
        .fetch_all(&self.fixture.sql)
        .await
        .unwrap();
        assert_eq!(
            rows.iter().map(|row| row.id).collect::<Vec<_>>(),
            self.model.keys().copied().collect::<Vec<_>>()
        );
        for (row, batch) in rows.into_iter().zip(self.model.values()) {
            let expected = match &batch.place {
                Place::Ready { due } => ("ready", *due, None),
                Place::Claimed { expired, .. } => ("claimed", row.due, Some(*expired)),
                Place::Done => ("done", row.due, None),
                Place::Parked => ("parked", row.due, None),
            };
            assert_eq!((row.state.as_str(), row.due, row.expired), expected, "batch {}", row.id);
            assert_eq!(
                usize::try_from(row.item_count).unwrap(),
                batch.documents.len(),
                "batch {}",
                row.id
            );
            if batch.place != Place::Done {
                assert_eq!(row.attempt, batch.attempts, "batch {}", row.id);
                assert_eq!(
                    row.ids.into_iter().collect::<BTreeSet<_>>(),
                    batch.documents,
                    "batch {}",
                    row.id
                );
            }
        }
        let parked = self.model.values().filter(|batch| batch.place == Place::Parked);
        let expected: BTreeSet<String> = parked.flat_map(|batch| batch.documents.iter().cloned()).collect();
        let errors = self
            .fixture
            .strings("select doc_id from doc_error where migration_id = $1", &self.driven)
            .await;
        assert_eq!(
            errors.into_iter().collect::<BTreeSet<_>>(),
            expected,
            "errors are those of what is set aside"
        );
        let open = self
            .fixture
            .state
            .open_batches(self.driven.id, Stage::Form)
            .await
            .unwrap();
        let count = |wanted: fn(&Place) -> bool| {
            i64::try_from(self.model.values().filter(|batch| wanted(&batch.place)).count()).unwrap()
        };
        assert_eq!(open.ready, count(|place| matches!(place, Place::Ready { .. })));
        assert_eq!(open.claimed, count(|place| matches!(place, Place::Claimed { .. })));
        assert_eq!(open.parked, count(|place| *place == Place::Parked));
    }
}

#[tokio::test]
async fn batches_behave_as_the_protocol_says_whatever_the_order_of_events() {
    let seed = std::env::var("C2S_TEST_SEED").map_or_else(|_| rand::random(), |text| text.parse().expect("a number"));
    println!("C2S_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (fixture, driven) = Fixture::with_domain().await;
    let mut world = World {
        fixture,
        driven,
        model: BTreeMap::new(),
        claims: Vec::new(),
        documents: 0,
    };
    for _ in 0..4 {
        world.insert(random.random_range(1..40)).await;
    }
    for _ in 0..OPERATIONS {
        world.step(&mut random).await;
        world.stop_time().await;
        world.compare().await;
    }
}
