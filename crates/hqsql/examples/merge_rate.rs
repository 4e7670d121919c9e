//! How fast forms and cases are merged over one connection: `merge_rate <url of an empty database> [forms]`.
//!
//! First into fresh tables, then the same rows again (nothing to write), then with every row changed.

use std::time::Instant;

use chrono::{DateTime, Utc};
use hqsql::{Alone, ConnectionConfig, MergeCounts, Target, TargetConfig};
use proto::ids::{Domain, Epoch};
use proto::rows::{CaseBundle, CaseRow, FormBundle, FormRow, OperationRow, TransactionRow};

type Failure = Box<dyn std::error::Error>;

const BATCH: usize = 500;

fn form(number: usize, domain: &Domain, at: DateTime<Utc>) -> FormBundle {
    // Ids of real forms are random; these are spread in the same way.
    let id = format!(
        "{:016x}{number:016x}",
        (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    );
    FormBundle {
        operations: number
            .is_multiple_of(20)
            .then(|| OperationRow {
                user_id: Some("admin".to_owned()),
                operation: "archive".to_owned(),
                date: at,
            })
            .into_iter()
            .collect(),
        form: FormRow {
            form_id: id,
            domain: domain.to_string(),
            app_id: Some("0123456789abcdef0123456789abcdef".to_owned()),
            xmlns: "http://openrosa.org/formdesigner/0123456789ABCDEF".to_owned(),
            user_id: Some("fedcba9876543210fedcba9876543210".to_owned()),
            orig_id: None,
            deprecated_form_id: None,
            server_modified_on: Some(at),
            received_on: at,
            edited_on: None,
            deleted_on: None,
            deletion_id: None,
            auth_context: r#"{"doc_type":"AuthContext","user_id":null,"authenticated":false}"#.to_owned(),
            openrosa_headers: r#"{"HTTP_X_OPENROSA_VERSION":"1.0","HTTP_DATE":"today"}"#.to_owned(),
            partial_submission: false,
            submit_ip: Some("10.1.2.3".to_owned()),
            last_sync_token: Some("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".to_owned()),
            problem: None,
            date_header: Some(at),
            build_id: Some("bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb".to_owned()),
            state: 1,
            initial_processing_complete: true,
        },
    }
}

fn case(form: &FormBundle, at: DateTime<Utc>) -> CaseBundle {
    CaseBundle {
        case: CaseRow {
            case_id: form.form.form_id.chars().rev().collect(),
            domain: form.form.domain.clone(),
            case_type: "person".to_owned(),
            name: Some("Amina".to_owned()),
            owner_id: "cccccccccccccccccccccccccccccccc".to_owned(),
            opened_on: Some(at),
            opened_by: form.form.user_id.clone(),
            modified_on: at,
            server_modified_on: at,
            modified_by: "fedcba9876543210fedcba9876543210".to_owned(),
            closed: false,
            closed_on: None,
            closed_by: None,
            deleted: false,
            deleted_on: None,
            deletion_id: None,
            external_id: None,
            location_id: None,
            case_json: format!(r#"{{"note":"{}"}}"#, "n".repeat(400)),
        },
        indices: Vec::new(),
        attachments: Vec::new(),
        transactions: (0..3)
            .map(|visit| TransactionRow {
                form_id: Some(format!("{visit}{}", form.form.form_id)),
                sync_log_id: None,
                server_date: at,
                client_date: Some(at),
                kind: 1,
                revoked: false,
                details: "{}".to_owned(),
            })
            .collect(),
        ledger_values: Vec::new(),
        ledger_transactions: Vec::new(),
    }
}

async fn run(
    target: &Target,
    domain: &Domain,
    epoch: Epoch,
    what: &str,
    forms: &[FormBundle],
    cases: &[CaseBundle],
) -> Result<(), Failure> {
    let shard = target.shard_of("");
    let started = Instant::now();
    let mut counts = MergeCounts::default();
    for batch in forms.chunks(BATCH) {
        let ids: Vec<String> = batch.iter().map(|bundle| bundle.form.form_id.clone()).collect();
        let tx = target.begin(shard, domain, epoch).await?;
        tx.lock_form_rows(&ids).await?;
        counts += tx.merge_forms(batch).await?;
        tx.commit().await?;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{what}: {:.0} forms/s  {counts:?}", forms.len() as f64 / seconds);
    let started = Instant::now();
    let mut counts = MergeCounts::default();
    for batch in cases.chunks(BATCH) {
        let tx = target.begin(shard, domain, epoch).await?;
        counts += tx.merge_cases(batch, &[]).await?;
        tx.commit().await?;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{what}: {:.0} cases/s (3 transactions each)  {counts:?}",
        cases.len() as f64 / seconds
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments
        .next()
        .ok_or("usage: merge_rate <url of an empty database> [forms]")?;
    let count = arguments.next().map_or(Ok(50_000), |count| count.parse())?;
    let target = Target::connect(&TargetConfig::new(ConnectionConfig::new(url))).await?;
    target.create_tables().await?;
    let domain = Domain::from("bench");
    if target.has_rows(&domain).await? {
        return Err("the database holds rows of an earlier run: take an empty one".into());
    }
    let epoch = Epoch(0).next(1);
    target.open_fence(&Alone, &domain, epoch).await?;
    let at: DateTime<Utc> = "2019-05-06T07:08:09.123456Z".parse()?;
    let mut forms: Vec<_> = (0..count).map(|number| form(number, &domain, at)).collect();
    let mut cases: Vec<_> = forms.iter().map(|form| case(form, at)).collect();
    run(&target, &domain, epoch, "fresh", &forms, &cases).await?;
    run(&target, &domain, epoch, "again", &forms, &cases).await?;
    for form in &mut forms {
        form.form.app_id = None;
    }
    for case in &mut cases {
        case.case.closed = true;
    }
    run(&target, &domain, epoch, "changed", &forms, &cases).await
}
