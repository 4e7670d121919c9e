//! Plans are cached, and the first ones are made while the tables are still empty. They must go by the index even then.

use crate::database::Fixture;
use crate::rows::{case, form, ids};

#[tokio::test]
async fn cached_plans_made_on_empty_tables_go_by_the_index() {
    let fixture = Fixture::new().await;
    let session = fixture.session().await;
    for (table, key) in [
        ("form_processor_xforminstancesql", "form_id"),
        ("form_processor_xformoperationsql", "form_id"),
        ("form_processor_commcarecasesql", "case_id"),
        ("form_processor_commcarecaseindexsql", "case_id"),
        ("form_processor_caseattachmentsql", "case_id"),
        ("form_processor_casetransaction", "case_id"),
        ("form_processor_ledgervalue", "case_id"),
        ("form_processor_ledgertransaction", "case_id"),
        ("blobs_blobmeta", "parent_id"),
        ("blobs_blobmeta", "key"),
    ] {
        for last in ["offset 0", "for update"] {
            let plan = crate::database::rows(
                &session,
                &format!(
                    "set plan_cache_mode = force_generic_plan; deallocate all; \
                     prepare probe (text[]) as select found.* from unnest($1::text[]) as wanted (key) \
                     cross join lateral (select * from {table} where {key} = wanted.key {last}) found; \
                     explain execute probe (array['a'])"
                ),
            )
            .await
            .join("\n");
            assert!(!plan.contains("Seq Scan"), "{table}\n{plan}");
        }
    }
}

/// What the server itself counted while a merge ran on tables that had grown since its plans were made.
#[tokio::test]
async fn a_merge_scans_no_table() {
    let fixture = Fixture::with(|config| config.max_connections = 2).await;
    let merge = async |from: usize, to: usize| {
        let tx = fixture.begin().await;
        let forms: Vec<_> = (from..to).map(|number| form(&format!("f{number}"))).collect();
        let cases: Vec<_> = (from..to).map(|number| case(&format!("c{number}"))).collect();
        tx.lock_form_rows(&ids(&["f0"])).await.unwrap();
        tx.merge_forms(&forms).await.unwrap();
        tx.merge_cases(&cases, &[]).await.unwrap();
        tx.commit().await.unwrap();
    };
    merge(0, 1).await;
    for batch in 0..8 {
        merge(batch * 100, batch * 100 + 100).await;
    }
    let scans = "select relname, seq_scan from pg_stat_user_tables where relname like 'form_processor%' order by 1";
    let session = fixture.session().await;
    session
        .batch_execute("select pg_stat_force_next_flush()")
        .await
        .unwrap();
    // One merge of what is there and what is not, in a connection whose statistics are flushed before we look.
    let client = fixture.begin().await;
    drop(client);
    let before = settled(&fixture, scans).await;
    merge(700, 900).await;
    let after = settled(&fixture, scans).await;
    assert_eq!(before, after);
}

/// Statistics reach the shared view when their session has ended: end all of the target's sessions first.
async fn settled(fixture: &Fixture, query: &str) -> Vec<String> {
    let session = fixture.session().await;
    session
        .batch_execute(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity \
             where datname = current_database() and pid <> pg_backend_pid()",
        )
        .await
        .unwrap();
    crate::database::rows(&session, query).await
}

/// The rows of a form are few, those of a case may be very many: whatever the planner believes, it goes by the form.
#[tokio::test]
async fn rows_of_given_forms_are_found_by_the_form() {
    let fixture = Fixture::new().await;
    let session = fixture.session().await;
    for table in ["form_processor_casetransaction", "form_processor_ledgertransaction"] {
        let plan = crate::database::rows(
            &session,
            &format!(
                "set plan_cache_mode = force_generic_plan; deallocate all; \
                 prepare probe (text[], text[]) as select id from unnest($1, $2) as wanted (document, form) \
                 cross join lateral (select * from {table} where form_id = wanted.form offset 0) found \
                 where case_id = wanted.document; \
                 explain execute probe (array['a'], array['f'])"
            ),
        )
        .await
        .join("\n");
        assert!(
            plan.contains("Index Cond: ((form_id)::text = wanted.form)"),
            "{table}\n{plan}"
        );
        assert!(!plan.contains("Seq Scan"), "{table}\n{plan}");
    }
}
