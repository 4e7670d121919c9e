//! A state schema with a domain whose migration has begun, and short words for what drivers and workers do to it.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use proto::doctype::DocType;
use proto::ids::{BatchId, Domain, Epoch};
use proto::message::{BatchBody, BatchMessage, VERSION};
use proto::topology::Stage;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;
use state::batch::Claim;
use state::case_stage::CaseResults;
use state::form_stage::{DocIntent, DocStanding, FormResults, StagedCase, StagedForm};
use state::look::{Look, LookedAt};
use state::migration::DriverLease;
use state::records::{DiffRecord, RecordFilter, RecordTable};
use state::run::Operator;
use state::scan::Cursor;
use state::{MigrationId, State};

use crate::database::{TestDatabase, soon};

/// Longer than any test.
pub const LONG: Duration = Duration::from_secs(3600);

/// A database with the schema in it.
pub struct Fixture {
    pub state: State,
    pub sql: PgPool,
    pub database: TestDatabase,
}

/// A domain that this test drives.
pub struct Driven {
    pub id: MigrationId,
    pub domain: Domain,
    pub epoch: Epoch,
    pub lease: DriverLease,
}

/// A row of the table `batch`, as far as tests look at it.
#[derive(Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct BatchRow {
    pub state: String,
    pub attempt: i32,
    pub retries: i32,
    pub ids: Vec<String>,
    pub published: bool,
    pub next_at: DateTime<Utc>,
    pub error_code: Option<String>,
}

pub fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

pub fn operator() -> Operator {
    Operator {
        who: "ada".to_owned(),
        host: "lab".to_owned(),
        pid: 7,
    }
}

/// A form as the form worker stages it.
pub fn staged_form(form_id: &str, rev: &str, cases: &[&str], standing: &DocStanding) -> StagedForm {
    let payload = format!("{form_id} {rev}").into_bytes();
    StagedForm {
        form_id: form_id.to_owned(),
        rev: rev.to_owned(),
        seen_before: standing.seen_before,
        begun: standing.begun,
        cases: cases
            .iter()
            .map(|case| StagedCase {
                case_id: (*case).to_owned(),
                payload: payload.clone(),
            })
            .collect(),
        has_noop_block: false,
        is_problem_form: false,
        diffs: None,
        kind: "XFormInstance".to_owned(),
    }
}

pub fn intent(form_id: &str, rev: &str) -> DocIntent {
    DocIntent {
        doc_id: form_id.to_owned(),
        doc_type: "XFormInstance".to_owned(),
        rev: rev.to_owned(),
    }
}

impl Fixture {
    pub async fn new() -> Self {
        let database = TestDatabase::create().await;
        database.unchecked().await.init().await.unwrap();
        let state = State::connect(&database.config()).await.unwrap();
        let sql = database.sql().await;
        Self { state, sql, database }
    }

    /// A fixture with one domain.
    pub async fn with_domain() -> (Self, Driven) {
        let fixture = Self::new().await;
        let driven = fixture.drive("clinic").await;
        (fixture, driven)
    }

    /// Records a domain's migration and takes its lease.
    pub async fn drive(&self, domain: &str) -> Driven {
        let migration = self.state.ensure_migration(&Domain::from(domain)).await.unwrap();
        let lease = self
            .state
            .take_lease(migration.id, "test", LONG)
            .await
            .unwrap()
            .expect("nobody else drives");
        Driven {
            id: migration.id,
            domain: migration.domain,
            epoch: migration.epoch,
            lease,
        }
    }

    /// Inserts a batch of any stage.
    pub async fn batch(&self, driven: &Driven, stage: Stage, ids: &[&str]) -> BatchId {
        let doc_type = if stage == Stage::Form {
            DocType::XFormInstance
        } else {
            DocType::CommCareCase
        };
        let id = sqlx::query_scalar(
            "insert into batch (migration_id, stage, doc_type, ids, item_count) values ($1, $2, $3, $4, cardinality($4)) returning id",
        )
        .bind(driven.id.0)
        .bind(stage.as_str())
        .bind(doc_type.as_str())
        .bind(strings(ids))
        .fetch_one(&self.sql)
        .await
        .unwrap();
        BatchId(id)
    }

    /// Inserts a batch and claims it.
    pub async fn claimed(&self, driven: &Driven, stage: Stage, ids: &[&str]) -> Claim {
        let batch_id = self.batch(driven, stage, ids).await;
        self.claim(driven, stage, batch_id)
            .await
            .expect("a fresh batch can be claimed")
    }

    /// Inserts a batch of cases to patch and claims it.
    pub async fn claimed_to_patch(&self, driven: &Driven, case_ids: &[&str]) -> Claim {
        let id = sqlx::query_scalar(
            "insert into batch (migration_id, stage, doc_type, ids, item_count)
             values ($1, 'form', 'CommCareCase', $2, cardinality($2)) returning id",
        )
        .bind(driven.id.0)
        .bind(strings(case_ids))
        .fetch_one(&self.sql)
        .await
        .unwrap();
        self.claim(driven, Stage::Form, BatchId(id)).await.unwrap()
    }

    /// A claim that a worker got a moment ago, whatever has happened to its migration since.
    pub async fn claimed_by_hand(&self, driven: &Driven) -> Claim {
        let batch_id = self.batch(driven, Stage::Form, &["late"]).await;
        let token = uuid::Uuid::new_v4();
        sqlx::query(
            "update batch set state = 'claimed', token = $2, lease_until = now() + interval '1 hour' where id = $1",
        )
        .bind(batch_id.0)
        .bind(token)
        .execute(&self.sql)
        .await
        .unwrap();
        Claim {
            batch_id,
            migration_id: driven.id,
            domain: driven.domain.clone(),
            epoch: driven.epoch,
            token,
            stage: Stage::Form,
            doc_type: DocType::XFormInstance,
            ids: strings(&["late"]),
            attempt: 1,
        }
    }

    pub async fn claim(&self, driven: &Driven, stage: Stage, batch_id: BatchId) -> Option<Claim> {
        self.state
            .claim(&message(driven, stage, batch_id), "worker", LONG)
            .await
            .unwrap()
    }

    /// Claims whatever is published or due in a stage, lowest row first.
    pub async fn claim_next(&self, driven: &Driven, stage: Stage) -> Option<Claim> {
        self.execute("update batch set next_at = now() where state = 'ready'")
            .await;
        let next: Option<i64> = sqlx::query_scalar(
            "select id from batch where migration_id = $1 and stage = $2 and state = 'ready' order by id limit 1",
        )
        .bind(driven.id.0)
        .bind(stage.as_str())
        .fetch_optional(&self.sql)
        .await
        .unwrap();
        self.claim(driven, stage, BatchId(next?)).await
    }

    /// Makes the lease of a claim run out.
    pub async fn let_expire(&self, batch_id: BatchId) {
        let changed = sqlx::query(
            "update batch set lease_until = now() - interval '1 second' where id = $1 and state = 'claimed'",
        )
        .bind(batch_id.0)
        .execute(&self.sql)
        .await
        .unwrap();
        assert_eq!(changed.rows_affected(), 1, "batch {batch_id} is claimed");
    }

    pub async fn batch_row(&self, batch_id: BatchId) -> Option<BatchRow> {
        sqlx::query_as(
            "select state, attempt, retries, ids, published_at is not null as published, next_at, error_code
             from batch where id = $1",
        )
        .bind(batch_id.0)
        .fetch_optional(&self.sql)
        .await
        .unwrap()
    }

    /// Takes forms of the given revisions through the form stage, each with the cases it touches.
    pub async fn stage(&self, driven: &Driven, forms: &[(&str, &str, &[&str])]) {
        let ids: Vec<&str> = forms.iter().map(|(id, _, _)| *id).collect();
        let claim = self.claimed(driven, Stage::Form, &ids).await;
        let intents: Vec<DocIntent> = forms.iter().map(|(id, rev, _)| intent(id, rev)).collect();
        let standings = self.state.begin_forms(&claim, &intents, &[]).await.unwrap();
        let staged = forms
            .iter()
            .map(|(id, rev, cases)| staged_form(id, rev, cases, &standings[*id]));
        let results = FormResults {
            forms: staged.collect(),
            ..FormResults::default()
        };
        self.state.finish_forms(&claim, &results).await.unwrap();
    }

    /// Takes documents through the form stage that are gone from Couch.
    pub async fn bury(&self, driven: &Driven, ids: &[&str]) {
        let claim = self.claimed(driven, Stage::Form, ids).await;
        let known = self.state.writings(&claim).await.unwrap();
        let results = self.buried(&claim, &known).await;
        self.state.finish_forms(&claim, &results).await.unwrap();
    }

    /// Begins to bury all documents of a batch, of which this was known before they were found gone.
    pub async fn buried(&self, claim: &Claim, known: &HashMap<String, i64>) -> FormResults {
        FormResults {
            gone: claim.ids.clone(),
            burials: self.state.begin_burials(claim, &claim.ids, known).await.unwrap(),
            ..FormResults::default()
        }
    }

    /// Replays cases: claims, reads, finishes.
    pub async fn replay(&self, driven: &Driven, case_ids: &[&str]) {
        let claim = self.claimed(driven, Stage::Case, case_ids).await;
        let inputs = self.state.case_inputs(&claim, &claim.ids).await.unwrap();
        let results = CaseResults {
            replayed: claim.ids.clone(),
            ..CaseResults::default()
        };
        self.state.finish_cases(&claim, &inputs.dirty, &results).await.unwrap();
    }

    /// Ids of the dirty cases, in byte order.
    pub async fn dirty(&self, driven: &Driven) -> Vec<String> {
        self.strings(
            "select distinct case_id from dirty_case where migration_id = $1 order by 1",
            driven,
        )
        .await
    }

    /// What is staged, as `case/form`, in order.
    pub async fn staged(&self, driven: &Driven) -> Vec<String> {
        self.strings(
            "select case_id || '/' || form_id from staged_update where migration_id = $1 order by case_id, form_id",
            driven,
        )
        .await
    }

    /// All recorded diffs, or changes.
    pub async fn records(&self, driven: &Driven, table: RecordTable) -> Vec<DiffRecord> {
        let all = RecordFilter::default();
        self.state
            .records_after(driven.id, table, &all, None, 100)
            .await
            .unwrap()
    }

    /// Errors on record, as `kind/id/code`, in order.
    pub async fn errors(&self, driven: &Driven) -> Vec<String> {
        let errors = self.state.error_records(driven.id, 1000).await.unwrap();
        errors
            .into_iter()
            .map(|error| format!("{}/{}/{}", error.kind, error.doc_id, error.code))
            .collect()
    }

    /// A column of texts of the domain's rows; `$1` is the migration.
    pub async fn strings(&self, sql: &'static str, driven: &Driven) -> Vec<String> {
        sqlx::query_scalar(sql)
            .bind(driven.id.0)
            .fetch_all(&self.sql)
            .await
            .unwrap()
    }

    /// A number of the domain's rows; `$1` is the migration.
    pub async fn number(&self, sql: &'static str, driven: &Driven) -> i64 {
        sqlx::query_scalar(sql)
            .bind(driven.id.0)
            .fetch_one(&self.sql)
            .await
            .unwrap()
    }

    pub async fn execute(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&self.sql)
            .await
            .unwrap();
    }

    /// Waits until this many sessions of the database wait for a lock.
    pub async fn until_waiting(&self, sessions: i64) {
        soon("waiting for a lock", async {
            loop {
                let waiting: i64 = sqlx::query_scalar(
                    "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
                )
                .fetch_one(&self.sql)
                .await
                .unwrap();
                if waiting >= sessions {
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// The message that the broker would carry for a batch.
pub fn message(driven: &Driven, stage: Stage, batch_id: BatchId) -> BatchMessage {
    let body = match stage {
        Stage::Form => BatchBody::Form {
            doc_type: DocType::XFormInstance,
            count: 1,
        },
        Stage::Case => BatchBody::Case { count: 1 },
        Stage::Diff => BatchBody::Diff { count: 1 },
    };
    BatchMessage {
        version: VERSION,
        domain: driven.domain.clone(),
        epoch: driven.epoch,
        batch_id,
        attempt: 0,
        body,
    }
}

/// What a look with one range has found of documents of a type.
pub fn looked_at(doc_type: DocType, cursor: Cursor, missing: &[&str]) -> LookedAt {
    LookedAt {
        look: Look::Couch(doc_type),
        range: "..".to_owned(),
        cursor,
        missing: missing
            .iter()
            .map(|id| (doc_type.as_str().to_owned(), (*id).to_owned()))
            .collect(),
    }
}
