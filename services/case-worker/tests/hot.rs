//! Hot cases against real databases: with checkpoints the rows are those of a replay from the first form, whatever comes in
//! whatever order, and a touch reads what is new. A failing run prints its seed; `C2S_TEST_SEED` repeats it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use case_worker::CaseHandler;
use casemodel::{Mode, Options, ReplayInput, replay};
use chrono::{DateTime, TimeDelta, Utc};
use hqsql::{Alone, ConnectionConfig, Target, TargetConfig};
use proto::doctype::DocType;
use proto::effects::{BlockVersion, CaseAction, CaseUpdate, FormEffects, FormFacts, PropertyValue};
use proto::effects::{LedgerKind, LedgerUpdate};
use proto::ids::{BatchId, CaseId};
use proto::message::{BatchBody, BatchMessage, VERSION};
use proto::rows::CaseBundle;
use proto::topology::Stage;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use service::worker::BatchHandler;
use state::batch::Claim;
use state::form_stage::{DocIntent, FormResults, StagedCase, StagedForm};
use state::{Migration, State, StateConfig};
use tokio_postgres::{Client, NoTls};

const LONG: Duration = Duration::from_secs(3600);
/// Small, so that checkpoints are in use from the start.
const CHECKPOINT_FROM: usize = 2;

fn at(minute: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
}

async fn session(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .expect("the test server answers");
    tokio::spawn(connection);
    client
}

/// A database with the state schema and HQ's tables, and a domain in both.
struct World {
    server: String,
    name: String,
    sql: Client,
    state: State,
    target: Target,
    migration: Migration,
}

impl World {
    async fn new(name: &str) -> Self {
        let server = std::env::var("C2S_TEST_PG_URL").expect("C2S_TEST_PG_URL must name a PostgreSQL server");
        let name = format!("case_worker_{}_{name}", std::process::id());
        session(&server)
            .await
            .batch_execute(&format!("create database {name}"))
            .await
            .unwrap();
        let start = server.find("://").unwrap() + 3;
        let end = server[start..].find('/').map_or(server.len(), |slash| start + slash);
        let url = format!("{}/{name}", &server[..end]);
        let config = StateConfig {
            url: url.clone(),
            password: None,
            ca_file: None,
            max_connections: 4,
        };
        State::connect_unchecked(&config).await.unwrap().init().await.unwrap();
        let state = State::connect(&config).await.unwrap();
        let target = Target::connect(&TargetConfig::new(ConnectionConfig::new(&url)))
            .await
            .unwrap();
        target.create_tables().await.unwrap();
        let migration = state.ensure_migration(&"clinic".into()).await.unwrap();
        target
            .open_fence(&Alone, &migration.domain, migration.epoch)
            .await
            .unwrap();
        let sql = session(&url).await;
        sql.batch_execute("set search_path = couch_sql_migration, public")
            .await
            .unwrap();
        Self {
            server,
            name,
            sql,
            state,
            target,
            migration,
        }
    }

    async fn end(self) {
        let drop = format!("drop database {} with (force)", self.name);
        session(&self.server).await.batch_execute(&drop).await.unwrap();
    }

    async fn claimed(&self, stage: Stage, ids: &[String]) -> Claim {
        let (doc_type, body) = match stage {
            Stage::Form => (
                DocType::XFormInstance,
                BatchBody::Form {
                    doc_type: DocType::XFormInstance,
                    count: 1,
                },
            ),
            _ => (DocType::CommCareCase, BatchBody::Case { count: 1 }),
        };
        let row = self
            .sql
            .query_one(
                "insert into batch (migration_id, stage, doc_type, ids, item_count) values ($1, $2, $3, $4, 1) returning id",
                &[&self.migration.id.0, &stage.as_str(), &doc_type.as_str(), &ids],
            )
            .await
            .unwrap();
        let message = BatchMessage {
            version: VERSION,
            domain: self.migration.domain.clone(),
            epoch: self.migration.epoch,
            batch_id: BatchId(row.get(0)),
            attempt: 0,
            body,
        };
        self.state
            .claim(&message, "worker", LONG)
            .await
            .unwrap()
            .expect("a fresh batch")
    }

    /// Takes a revision of a form through the form stage.
    async fn stage(&self, effects: &FormEffects, rev: u32, cases: &[String]) {
        let form_id = effects.form.form_id.as_str().to_owned();
        let claim = self.claimed(Stage::Form, std::slice::from_ref(&form_id)).await;
        let intent = DocIntent {
            doc_id: form_id.clone(),
            doc_type: "XFormInstance".to_owned(),
            rev: format!("{rev}-x"),
        };
        let standing = self
            .state
            .begin_forms(&claim, &[intent], &[])
            .await
            .unwrap()
            .remove(&form_id)
            .unwrap();
        let staged = cases.iter().map(|case_id| StagedCase {
            case_id: case_id.clone(),
            payload: rmp_serde::to_vec_named(effects).unwrap(),
        });
        let form = StagedForm {
            form_id,
            rev: format!("{rev}-x"),
            seen_before: standing.seen_before,
            begun: standing.begun,
            cases: staged.collect(),
            has_noop_block: false,
            is_problem_form: false,
            diffs: None,
            kind: "XFormInstance".to_owned(),
        };
        let results = FormResults {
            forms: vec![form],
            ..FormResults::default()
        };
        self.state.finish_forms(&claim, &results).await.unwrap();
    }

    async fn bury(&self, form_id: &str) {
        let claim = self.claimed(Stage::Form, &[form_id.to_owned()]).await;
        let known = self.state.writings(&claim).await.unwrap();
        let results = FormResults {
            gone: claim.ids.clone(),
            burials: self.state.begin_burials(&claim, &claim.ids, &known).await.unwrap(),
            ..FormResults::default()
        };
        self.state.finish_forms(&claim, &results).await.unwrap();
    }

    async fn replay(&self, cases: &[String]) -> Result<(), service::worker::BatchFailure> {
        let handler = CaseHandler::new(self.state.clone(), self.target.clone(), CHECKPOINT_FROM);
        handler.handle(&self.claimed(Stage::Case, cases).await).await
    }

    async fn dirty(&self) -> Vec<String> {
        let rows = self
            .sql
            .query("select distinct case_id from dirty_case order by 1", &[])
            .await
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    async fn number(&self, sql: &str) -> i64 {
        self.sql.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// The rows of a case as a replay of all of its forms gives them.
    async fn expected(&self, case_id: &str) -> Option<CaseBundle> {
        let claim = self.claimed(Stage::Case, &[case_id.to_owned()]).await;
        let inputs = self.state.all_case_inputs(&claim, &claim.ids).await.unwrap();
        let payloads = inputs.staged.iter().chain(&inputs.refused);
        let bundle = replay(ReplayInput {
            domain: &self.migration.domain,
            case_id: &CaseId::new(case_id),
            forms: payloads
                .map(|(_, _, bytes)| rmp_serde::from_slice(bytes).unwrap())
                .collect(),
            events: inputs
                .events
                .iter()
                .map(|(_, bytes)| rmp_serde::from_slice(bytes).unwrap())
                .collect(),
            options: Options::default(),
            mode: Mode::AsProcessed,
        })
        .bundle;
        self.state.release_claim(&claim).await.unwrap();
        bundle.map(sorted)
    }

    async fn found(&self, case_id: &str) -> Option<CaseBundle> {
        self.target
            .read_cases(&[case_id.to_owned()])
            .await
            .unwrap()
            .pop()
            .map(sorted)
    }
}

/// Rows of one table have no order of their own.
fn sorted(mut case: CaseBundle) -> CaseBundle {
    case.indices.sort_by_key(|row| format!("{row:?}"));
    case.transactions.sort_by_key(|row| format!("{row:?}"));
    case.ledger_values.sort_by_key(|row| format!("{row:?}"));
    case.ledger_transactions.sort_by_key(|row| format!("{row:?}"));
    case
}

/// A form that writes itself into the case, and changes its ledger if it is told how.
fn form(form_id: &str, minute: i64, property: &str, quantity: Option<&str>) -> FormEffects {
    let dynamic = vec![(
        property.to_owned(),
        PropertyValue::Text(format!("{form_id} at {minute}")),
    )];
    FormEffects {
        form: FormFacts {
            form_id: form_id.into(),
            xmlns: String::new(),
            user_id: None,
            received_on: at(minute),
            sync_token: None,
            attachments: Vec::new(),
        },
        updates: vec![CaseUpdate {
            version: BlockVersion::V2,
            user_id: Some("u".to_owned()),
            modified_on: None,
            actions: vec![CaseAction::Update {
                known: Vec::new(),
                dynamic,
            }],
        }],
        ledgers: quantity
            .iter()
            .map(|quantity| LedgerUpdate {
                section_id: "stock".to_owned(),
                entry_id: "p".to_owned(),
                kind: LedgerKind::TransferIn,
                quantity: (*quantity).to_owned(),
                report_date: at(minute),
                user_defined_type: None,
            })
            .collect(),
    }
}

#[tokio::test]
async fn a_touch_reads_and_writes_what_is_new() {
    let world = World::new("touch").await;
    let case = [String::from("hot")];
    for n in 0..60 {
        world
            .stage(&form(&format!("f{n:02}"), n, "x", Some("1")), 1, &case)
            .await;
    }
    world.replay(&case).await.unwrap();
    // A row of an old form goes behind everybody's back: whoever reads the old rows would put it back.
    let gone = "delete from public.form_processor_casetransaction where form_id = 'f07'";
    assert_eq!(world.sql.execute(gone, &[]).await.unwrap(), 1);
    for n in 60..63 {
        world
            .stage(&form(&format!("f{n:02}"), n, "y", Some("2")), 1, &case)
            .await;
        let claim = world.claimed(Stage::Case, &case).await;
        assert_eq!(world.state.case_inputs(&claim, &case).await.unwrap().forms(), 1);
        world.state.release_claim(&claim).await.unwrap();
        world.replay(&case).await.unwrap();
        assert!(world.dirty().await.is_empty());
        let rows = "select count(*) from public.form_processor_casetransaction";
        assert_eq!(world.number(rows).await, n, "the new form's row came, and no old row");
    }
    world.bury("f03").await;
    world.replay(&case).await.unwrap();
    assert_eq!(
        world.found("hot").await,
        world.expected("hot").await,
        "a replay of everything mends it"
    );
    world.end().await;
}

/// Operations at random on three cases: appended, late, edited, moved and buried forms, forms that are refused, workers that
/// die after their target commit, checkpoints of other rules. After each replay the rows are those of all forms.
#[tokio::test]
async fn rows_are_those_of_a_replay_from_the_first_form() {
    let seed = std::env::var("C2S_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("C2S_TEST_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::new("random").await;
    world
        .sql
        .batch_execute(
            "create table failing (); create function fail() returns trigger language plpgsql as $$ begin
                 if exists (select from couch_sql_migration.failing) then raise 'the worker died'; end if;
                 return new;
             end $$; create trigger fail before insert on case_state for each row execute function fail()",
        )
        .await
        .unwrap();
    let cases: Vec<String> = ["a", "b", "c"].map(str::to_owned).into();
    // Revision of each form.
    let mut forms: BTreeMap<String, u32> = BTreeMap::new();
    let (mut now, mut grown) = (1000, 0);
    for step in 0..150 {
        let touched: Vec<String> = cases.iter().filter(|_| rng.random_bool(0.6)).cloned().collect();
        let known = forms.keys().nth(rng.random_range(0..forms.len().max(1))).cloned();
        let quantity = match rng.random_range(0..30) {
            0 => Some("many"),
            1..10 => Some("3"),
            _ => None,
        };
        now += rng.random_range(0..3);
        match (rng.random_range(0..20), known) {
            (0, Some(form_id)) => {
                world.bury(&form_id).await;
                *forms.get_mut(&form_id).unwrap() += 1;
            }
            (1, Some(form_id)) => {
                let rev = forms.get_mut(&form_id).unwrap();
                *rev += 1;
                let minute = rng.random_range(900..=now + 2);
                world
                    .stage(&form(&form_id, minute, "edited", quantity), *rev, &touched)
                    .await;
            }
            (2, Some(_)) => {
                world
                    .sql
                    .execute("update case_checkpoint set payload = '{}'", &[])
                    .await
                    .unwrap();
            }
            (choice, _) => {
                let form_id = format!("f{step:03}");
                let minute = if choice == 3 { rng.random_range(900..now) } else { now };
                let property = ["x", "y", "z"][rng.random_range(0..3)];
                world
                    .stage(&form(&form_id, minute, property, quantity), 1, &touched)
                    .await;
                forms.insert(form_id, 1);
            }
        }
        if rng.random_bool(0.4) {
            continue;
        }
        let dirty: Vec<String> = world
            .dirty()
            .await
            .into_iter()
            .filter(|_| rng.random_bool(0.8))
            .collect();
        if dirty.is_empty() {
            continue;
        }
        if rng.random_bool(0.1) {
            world
                .sql
                .batch_execute("insert into failing default values")
                .await
                .unwrap();
            assert!(world.replay(&dirty).await.is_err());
            world.sql.batch_execute("delete from failing").await.unwrap();
            continue;
        }
        let claim = world.claimed(Stage::Case, &dirty).await;
        grown += world.state.case_inputs(&claim, &dirty).await.unwrap().checkpoints.len();
        world.state.release_claim(&claim).await.unwrap();
        world.replay(&dirty).await.unwrap();
        let clean = world.dirty().await;
        for case_id in dirty.iter().filter(|case_id| !clean.contains(case_id)) {
            let (found, expected) = (world.found(case_id).await, world.expected(case_id).await);
            assert_eq!(found, expected, "case {case_id} after step {step}, seed {seed}");
        }
    }
    world
        .sql
        .batch_execute(
            "insert into dirty_case (migration_id, bucket, case_id) select distinct migration_id, bucket, case_id from staged_update",
        )
        .await
        .unwrap();
    for _ in 0..5 {
        let dirty = world.dirty().await;
        if !dirty.is_empty() {
            world.replay(&dirty).await.unwrap();
        }
    }
    assert!(world.dirty().await.is_empty());
    for case_id in &cases {
        assert_eq!(
            world.found(case_id).await,
            world.expected(case_id).await,
            "case {case_id}, seed {seed}"
        );
    }
    assert!(
        grown > 10,
        "only {grown} replays went on from a checkpoint: seed {seed}"
    );
    world.end().await;
}
