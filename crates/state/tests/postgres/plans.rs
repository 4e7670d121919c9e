//! Statements that run many times a second do not get slower with the number of documents: their plans, as the server
//! reports them for the calls themselves, read few pages of the large tables.

use std::sync::{Arc, Mutex};

use proto::doctype::DocType;
use proto::ids::BatchId;
use proto::topology::Stage;
use state::State;
use state::case_stage::CaseResults;
use state::diff_stage::CaseComparison;
use state::form_stage::{FailedDoc, FormResults};
use state::records::{RecordFilter, RecordTable};
use state::scan::CutLimits;
use tracing::field::{Field, Visit};
use tracing::span;

use crate::fixture::{Driven, Fixture, LONG, intent, message, staged_form};

/// Forms of each of two domains; there are half as many cases.
const DOCUMENTS: i64 = 200_000;

/// Collects what the server says.
#[derive(Clone, Default)]
struct Notices(Arc<Mutex<Vec<String>>>);

struct Message<'a>(&'a mut Vec<String>);

impl Visit for Message<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.0.push(value.to_owned());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0.push(format!("{value:?}"));
        }
    }
}

impl tracing::Subscriber for Notices {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "sqlx::postgres::notice"
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut Message(&mut self.0.lock().unwrap()));
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// The plans of a call, as text.
struct Plans(Vec<String>);

impl Plans {
    /// Pages that the statements touched.
    fn pages(&self) -> u64 {
        let count = |plan: &String| -> u64 {
            let line = plan
                .lines()
                .find(|line| line.trim_start().starts_with("Buffers:"))
                .unwrap_or_default();
            let after = |name: &str| {
                let number = line.split(name).nth(1).and_then(|rest| rest.split([' ', ',']).next());
                number.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
            };
            after("hit=") + after("read=")
        };
        self.0.iter().map(count).sum()
    }

    fn assert_at_most(&self, what: &str, pages: u64) {
        println!("{what}: {} pages", self.pages());
        assert!(!self.0.is_empty(), "{what}: the server reported no plan");
        assert!(
            self.pages() <= pages,
            "{what} touches {} pages, not {pages}:\n{}",
            self.pages(),
            self.0.join("\n")
        );
    }
}

/// Fills the tables of migration `$id` for `$n` forms.
const FILL: &str = "
    insert into staged_update (migration_id, bucket, case_id, form_id, rules, payload)
    select s.migration_id, s.bucket, s.case_id, md5(s.case_id || f.n), 1, decode(repeat(md5(s.case_id), 8), 'hex')
    from case_state s cross join generate_series(1, 2) f(n) where s.migration_id = $id;
    insert into dirty_case (migration_id, bucket, case_id)
    select migration_id, bucket, case_id from staged_update where migration_id = $id order by md5(form_id);
    insert into doc_revision (migration_id, doc_id, doc_type, rev_number, rev)
    select $id, form_id, 'XFormInstance', 1, '1-a' from staged_update where migration_id = $id;
    insert into batch (migration_id, stage, doc_type, ids, item_count)
    select $id, 'form', 'XFormInstance', array_agg(form_id), count(*)
    from (select form_id, row_number() over () as n from staged_update where migration_id = $id) f group by n / 50;
    insert into batch (migration_id, stage, doc_type, ids, item_count, state)
    select $id, 'form', 'XFormInstance', '{}', 50, 'done' from generate_series(1, 2000) n;
    insert into doc_diff (migration_id, kind, doc_id, diffs)
    select $id, 'XFormInstance', md5(n::text), '[]' from generate_series(1, $n / 4) n;
    insert into doc_error (migration_id, kind, doc_id, code, message)
    select $id, 'XFormInstance', md5(n::text), 'C2S-1', 'x' from generate_series(1, $n / 4) n;
    insert into missing_doc (migration_id, kind, doc_id)
    select $id, 'XFormInstance', md5(n::text) from generate_series(1, $n / 4) n;
";

/// A fixture with two domains of that many documents, on whose connections the server reports every plan.
async fn large() -> (Fixture, Driven, Notices) {
    let (mut fixture, driven) = Fixture::with_domain().await;
    let other = fixture.drive("other").await;
    let cases: Vec<String> = (0..DOCUMENTS / 2)
        .map(|n| format!("{:08x}", (n * 2_654_435_761) % (1 << 32)))
        .collect();
    let buckets: Vec<i16> = cases.iter().map(|id| proto::bucket::of(id)).collect();
    for id in [driven.id.0, other.id.0] {
        sqlx::query(
            "insert into case_state (migration_id, bucket, case_id)
             select $1, bucket, case_id from unnest($2::smallint[], $3::text[]) i(bucket, case_id)",
        )
        .bind(id)
        .bind(&buckets)
        .bind(&cases)
        .execute(&fixture.sql)
        .await
        .unwrap();
        fixture
            .execute(
                &FILL
                    .replace("$id", &id.to_string())
                    .replace("$n", &DOCUMENTS.to_string()),
            )
            .await;
    }
    // The server sends its plans as log messages, to this client only.
    fixture
        .execute(
            "analyze;
             do $$ begin
                 execute format('alter database %I set session_preload_libraries = auto_explain', current_database());
                 execute format('alter database %I set auto_explain.log_min_duration = 0', current_database());
                 execute format('alter database %I set auto_explain.log_analyze = on', current_database());
                 execute format('alter database %I set auto_explain.log_buffers = on', current_database());
                 execute format('alter database %I set auto_explain.log_timing = off', current_database());
                 execute format('alter database %I set client_min_messages = log', current_database());
             end $$",
        )
        .await;
    fixture.state = State::connect(&fixture.database.config()).await.unwrap();
    (fixture, driven, Notices::default())
}

impl Notices {
    /// What the server said since the last time.
    fn plans(&self) -> Plans {
        let said = std::mem::take(&mut *self.0.lock().unwrap());
        Plans(said.into_iter().filter(|text| text.contains("Query Text")).collect())
    }
}

#[tokio::test]
async fn what_runs_often_reads_little_of_large_tables() {
    let (fixture, driven, notices) = large().await;
    let _listening = tracing::subscriber::set_default(notices.clone());
    let state = &fixture.state;

    let due = state.publishable(driven.id, Stage::Form, 20).await.unwrap();
    assert_eq!(due.len(), 20);
    notices.plans().assert_at_most("publishable", 100);
    let ids: Vec<BatchId> = due.iter().map(|row| row.batch_id).collect();
    state.mark_published(&ids).await.unwrap();
    notices.plans().assert_at_most("mark_published", 1000);
    let claim = state
        .claim(&message(&driven, Stage::Form, ids[0]), "w", LONG)
        .await
        .unwrap()
        .unwrap();
    notices.plans().assert_at_most("claim", 100);
    state.renew_claim(&claim, LONG).await.unwrap();
    notices.plans().assert_at_most("renew_claim", 100);
    assert_eq!(state.expire_claims(driven.id, 3).await.unwrap(), 0);
    notices.plans().assert_at_most("expire_claims", 100);
    // The open rows of a stage are some hundreds a million documents.
    assert_eq!(state.open_batches(driven.id, Stage::Form).await.unwrap().claimed, 1);
    notices.plans().assert_at_most("open_batches", 5000);

    let forms: Vec<String> = claim.ids.clone();
    let intents: Vec<_> = forms.iter().map(|id| intent(id, "2-b")).collect();
    let standings = state.begin_forms(&claim, &intents, &[]).await.unwrap();
    notices.plans().assert_at_most("begin_forms", 3000);
    let mut staged: Vec<_> = forms
        .iter()
        .map(|id| staged_form(id, "2-b", &["x", "y"], &standings[id]))
        .collect();
    staged.pop();
    let failed = FailedDoc {
        kind: "XFormInstance".to_owned(),
        doc_id: forms.last().unwrap().clone(),
        rev: Some("2-b".to_owned()),
        code: "C2S-2301".to_owned(),
        message: "bad".to_owned(),
        missing: true,
    };
    let results = FormResults {
        forms: staged,
        failed: vec![failed],
        ..FormResults::default()
    };
    state.finish_forms(&claim, &results).await.unwrap();
    notices.plans().assert_at_most("finish_forms", 6500);

    let limits = CutLimits {
        cases: 200,
        weight: 4000,
        batches: 4,
    };
    assert!(state.cut_case_batches(&driven.lease, &limits).await.unwrap() > 0);
    notices.plans().assert_at_most("cut_case_batches", 20_000);
    assert!(state.cut_diff_batches(&driven.lease, &limits).await.unwrap() > 0);
    notices.plans().assert_at_most("cut_diff_batches", 5000);

    let claim = fixture.claim_next(&driven, Stage::Case).await.unwrap();
    notices.plans();
    let inputs = state.case_inputs(&claim, &claim.ids).await.unwrap();
    assert!(inputs.staged.len() >= claim.ids.len());
    notices.plans().assert_at_most("case_inputs", 10_000);
    let results = CaseResults {
        replayed: claim.ids.clone(),
        ..CaseResults::default()
    };
    state.finish_cases(&claim, &inputs.dirty, &results).await.unwrap();
    notices.plans().assert_at_most("finish_cases", 20_000);

    let diff = fixture.claim_next(&driven, Stage::Diff).await.unwrap();
    notices.plans();
    let cases = state.cases_to_diff(&diff).await.unwrap().cases;
    notices.plans().assert_at_most("cases_to_diff", 5000);
    let found: Vec<_> = cases
        .into_iter()
        .map(|case| CaseComparison {
            case_id: case.case_id,
            generation: case.generation,
            couch_rev: None,
            kind: "CommCareCase".to_owned(),
            diffs: None,
            changes: None,
            order: state::case_order::FormOrder::Agreed,
        })
        .collect();
    state.finish_diffs(&diff, &found).await.unwrap();
    notices.plans().assert_at_most("finish_diffs", 20_000);
    let records = state
        .records_after(
            driven.id,
            RecordTable::Diffs,
            &RecordFilter::default(),
            Some((DocType::XFormInstance.as_str(), "5")),
            50,
        )
        .await
        .unwrap();
    assert_eq!(records.len(), 50);
    notices.plans().assert_at_most("records_after", 500);
    purge(&fixture, &driven, &notices).await;
}

/// A purge finds what it deletes without reading everything again.
async fn purge(fixture: &Fixture, driven: &Driven, notices: &Notices) {
    fixture.state.begin_reset(driven.id).await.unwrap();
    notices.plans();
    for chunk in 0..4 {
        assert_eq!(fixture.state.purge_chunk(driven.id, 1000).await.unwrap(), 1000);
        notices
            .plans()
            .assert_at_most(&format!("purge of staged updates, chunk {chunk}"), 60_000);
    }
}
