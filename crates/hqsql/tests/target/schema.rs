use hqsql::{Alone, ConnectionConfig, Error, ErrorKind, Role, StockStates, Target, TargetConfig, role_grants};

use crate::database::{EPOCH, Fixture, SHARD, TestDatabase, domain, rows};
use crate::rows::{blob, case, form, ids, operation};

/// `table: column type null?`, as the reference lists them. `v255` is varchar(255), `time` timestamptz, `!` not null.
const REFERENCE: &str = "
form_processor_xforminstancesql: id int! form_id v255! domain v255! app_id v255 xmlns v255! user_id v255 orig_id v255
  deprecated_form_id v255 server_modified_on time received_on time! edited_on time deleted_on time deletion_id v255
  auth_context text! openrosa_headers text! partial_submission bool! submit_ip v255 last_sync_token v255 problem text
  date_header time build_id v255 state small! initial_processing_complete bool! time_end time time_start time
  commcare_version v8 app_version int;
form_processor_xformoperationsql: id int! form_id v255! user_id v255 operation v255! date time!;
form_processor_commcarecasesql: id int! case_id v255! domain v255! type v255! name v255 owner_id v255! opened_on time
  opened_by v255 modified_on time! server_modified_on time! modified_by v255! closed bool! closed_on time closed_by v255
  deleted bool! deleted_on time deletion_id v255 external_id v255 location_id v255 case_json text!;
form_processor_commcarecaseindexsql: id int! case_id v255! domain v255! identifier v255! referenced_id v255!
  referenced_type v255! relationship_id small!;
form_processor_caseattachmentsql: id int! case_id v255! attachment_id uuid! name v255! content_type v255
  content_length int properties text! blob_id v255! blob_bucket v255 md5 v255!;
form_processor_casetransaction: id int! case_id v255! form_id v255 sync_log_id v255 server_date time! client_date time
  type small! revoked bool! details text!;
form_processor_ledgervalue: id int! domain v255! case_id v255! entry_id v100! section_id v100! balance int!
  last_modified time! last_modified_form_id v100 daily_consumption numeric(20,5);
form_processor_ledgertransaction: id int! form_id v255! server_date time! report_date time! type small! case_id v255!
  entry_id v100! section_id v100! user_defined_type v20 delta big! updated_balance big!;
blobs_blobmeta: id int! domain v255! parent_id v255! name v255! key v255! type_code small! content_length big!
  compressed_length big content_type v255 properties text created_on time! expires_on time;
blobs_deletedblobmeta: id int! domain v255! parent_id v255! name v255! key v255! type_code small! created_on time!
  deleted_on time!;
domain_migration_flags_domainmigrationprogress: id int! domain v256! migration_slug v256! migration_status v11!
  started_on time completed_on time;
products_sqlproduct: id int! domain v255! product_id v100! name v100 is_archived bool! code v100 description text
  category v100 program_id v100 cost numeric(20,5) units v100 product_data text! created_at time! last_modified time!;
locations_sqllocation: id int! domain v255! name v255 location_id v100! site_code v255! external_id v255 metadata text!
  created_at time! last_modified time! is_archived bool! latitude numeric(20,10) longitude numeric(20,10)
  stocks_all_products bool! supply_point_id v255 location_type_id int! parent_id int user_id v255!;
stock_stockreport: id int! form_id v100! date time! type v20! domain v255 server_date time;
stock_stocktransaction: id int! report_id int! sql_product_id int! section_id v100! case_id v100! product_id v100!
  type v20! subtype v20 quantity numeric(20,5) stock_on_hand numeric(20,5)!;
commtrack_stockstate: id int! section_id v100! case_id v100! product_id v100! stock_on_hand numeric(20,5)!
  daily_consumption numeric(20,5) last_modified_date time! last_modified_form_id v100 sql_product_id int!
  sql_location_id int;
stock_docdomainmapping: doc_id v100! doc_type v100! domain_name v100!
";

/// Unique keys and indexes by their columns, and checks, as the reference lists them.
const KEYS: &[(&str, &[&str])] = &[
    (
        "form_processor_xforminstancesql",
        &[
            "!id",
            "!form_id",
            "server_modified_on",
            "received_on",
            "domain, state",
            "domain, user_id",
            "xmlns",
        ],
    ),
    ("form_processor_xformoperationsql", &["!id", "form_id"]),
    (
        "form_processor_commcarecasesql",
        &[
            "!id",
            "!case_id",
            "server_modified_on",
            "owner_id, server_modified_on",
            "domain, owner_id, closed",
            "domain, external_id, type",
            "domain, type",
            "domain, location_id where ((type)::text = 'supply-point'::text)",
        ],
    ),
    (
        "form_processor_commcarecaseindexsql",
        &[
            "!id",
            "!case_id, identifier",
            "domain, case_id",
            "domain, referenced_id",
        ],
    ),
    (
        "form_processor_caseattachmentsql",
        &["!id", "!attachment_id", "case_id, name"],
    ),
    (
        "form_processor_casetransaction",
        &[
            "!id",
            "!case_id, form_id, type",
            "case_id, server_date, sync_log_id",
            "form_id",
        ],
    ),
    (
        "form_processor_ledgervalue",
        &["!id", "!case_id, section_id, entry_id", "last_modified"],
    ),
    (
        "form_processor_ledgertransaction",
        &["!id", "case_id, section_id, entry_id", "form_id"],
    ),
    (
        "blobs_blobmeta",
        &[
            "!id",
            "!key",
            "parent_id, type_code, name",
            "expires_on where (expires_on IS NOT NULL)",
        ],
    ),
    ("blobs_deletedblobmeta", &["!id"]),
    (
        "domain_migration_flags_domainmigrationprogress",
        &["!id", "!domain, migration_slug"],
    ),
    ("products_sqlproduct", &["!id", "!product_id", "domain"]),
    (
        "locations_sqllocation",
        &[
            "!id",
            "!location_id",
            "!supply_point_id",
            "!domain, site_code",
            "domain",
            "location_type_id",
            "parent_id",
        ],
    ),
];

fn sql_type(short: &str) -> String {
    match short {
        "int" => "integer".to_owned(),
        "big" => "bigint".to_owned(),
        "small" => "smallint".to_owned(),
        "bool" => "boolean".to_owned(),
        "time" => "timestamp with time zone".to_owned(),
        _ => match short.strip_prefix('v') {
            Some(length) => format!("character varying({length})"),
            None => short.to_owned(),
        },
    }
}

#[tokio::test]
async fn columns_are_those_of_the_reference() {
    let fixture = Fixture::new().await;
    let mut tables = 0;
    for entry in REFERENCE.split(';') {
        let (table, columns) = entry.trim().split_once(':').unwrap();
        let words: Vec<&str> = columns.split_whitespace().collect();
        let mut expected: Vec<String> = words
            .chunks(2)
            .map(|pair| {
                let (short, null) = pair[1].strip_suffix('!').map_or((pair[1], "f"), |short| (short, "t"));
                format!("{}|{}|{null}", pair[0], sql_type(short))
            })
            .collect();
        expected.sort_unstable();
        let mut found = fixture
            .rows(&format!(
                "select attname, format_type(atttypid, atttypmod), attnotnull from pg_attribute \
                 where attrelid = '{table}'::regclass and attnum > 0 and not attisdropped"
            ))
            .await;
        found.sort_unstable();
        assert_eq!(found, expected, "{table}");
        tables += 1;
    }
    let all = fixture
        .rows("select count(*) from pg_tables where schemaname = 'public'")
        .await;
    assert_eq!(all, [(tables + 1).to_string()], "and the fence table");
    // No default but that of id.
    let defaults = "select table_name || '.' || column_name from information_schema.columns \
         where table_schema = 'public' and column_default is not null and column_name <> 'id'";
    assert_eq!(fixture.rows(defaults).await, Vec::<String>::new());
    let serial = "select count(*) from information_schema.columns where table_schema = 'public' \
         and column_name = 'id' and column_default = 'nextval(''' || table_name || '_id_seq''::regclass)'";
    // All that have an id, but for the deleted blobs, whose ids are copied.
    assert_eq!(fixture.rows(serial).await, ["15"]);
}

#[tokio::test]
async fn keys_and_indexes_are_those_of_the_reference() {
    let fixture = Fixture::new().await;
    for (table, keys) in KEYS {
        let mut found = fixture
            .rows(&format!(
                "select case when indisunique then '!' else '' end \
                 || (select string_agg(pg_get_indexdef(indexrelid, place, true), ', ' order by place) \
                     from generate_series(1, indnkeyatts) as place) \
                 || coalesce(' where ' || pg_get_expr(indpred, indrelid), '') \
                 from pg_index where indrelid = '{table}'::regclass"
            ))
            .await;
        found.sort_unstable();
        let mut expected = keys.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{table}");
    }
    let names = fixture
        .rows(
            "select relname from pg_class where relname in ('form_proces_xmlns_8d851e_idx', \
             'form_processor_commcarecasesql_owner_id_3a402c4e_idx', 'fp_casetrans_formid_05e599_idx', \
             'form_processor_commcarecasesql_supply_point_location', 'fp_ledgtrans_formid_0fe795_idx', \
             'blobs_blobm_expires_64b92d_partial')",
        )
        .await;
    assert_eq!(names.len(), 6);
    let foreign = fixture
        .rows(
            "select conrelid::regclass, confrelid::regclass, condeferrable and condeferred from pg_constraint \
             where contype = 'f' order by conrelid::regclass::text, confrelid::regclass::text",
        )
        .await;
    assert_eq!(
        foreign,
        [
            "commtrack_stockstate|locations_sqllocation|t",
            "commtrack_stockstate|products_sqlproduct|t",
            "form_processor_caseattachmentsql|form_processor_commcarecasesql|t",
            "form_processor_casetransaction|form_processor_commcarecasesql|t",
            "form_processor_commcarecaseindexsql|form_processor_commcarecasesql|t",
            "form_processor_ledgertransaction|form_processor_commcarecasesql|t",
            "form_processor_ledgervalue|form_processor_commcarecasesql|t",
            "form_processor_xformoperationsql|form_processor_xforminstancesql|t",
            "locations_sqllocation|locations_sqllocation|t",
            "stock_stocktransaction|products_sqlproduct|t",
            "stock_stocktransaction|stock_stockreport|t",
        ]
    );
    let checks = fixture
        .rows(
            "select conrelid::regclass || '.' || attname from pg_constraint \
             join pg_attribute on attrelid = conrelid and attnum = conkey[1] \
             where contype = 'c' and pg_get_constraintdef(pg_constraint.oid) like '%>= 0%' order by 1",
        )
        .await;
    assert_eq!(
        checks,
        [
            "blobs_blobmeta.type_code",
            "blobs_deletedblobmeta.type_code",
            "form_processor_casetransaction.type",
            "form_processor_commcarecaseindexsql.relationship_id",
            "form_processor_ledgertransaction.type",
            "form_processor_xforminstancesql.app_version",
            "form_processor_xforminstancesql.state",
        ]
    );
}

#[tokio::test]
async fn creating_again_changes_nothing_and_found_tables_are_used() {
    let fixture = Fixture::new().await;
    let look = "select oid, relname from pg_class where relnamespace = 'public'::regnamespace order by 1";
    let before = fixture.rows(look).await;
    let (one, two) = tokio::join!(fixture.target.create_tables(), fixture.target.create_tables());
    one.unwrap();
    two.unwrap();
    assert_eq!(fixture.rows(look).await, before);
    fixture.target.check_tables().await.unwrap();
}

#[tokio::test]
async fn missing_parts_are_named() {
    let fixture = Fixture::new().await;
    fixture
        .session()
        .await
        .batch_execute(
            "drop table form_processor_ledgervalue; \
             alter table form_processor_casetransaction drop column revoked; \
             alter table form_processor_ledgertransaction alter delta type integer",
        )
        .await
        .unwrap();
    let error = fixture.target.check_tables().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stop);
    let Error::Tables { problems, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(
        problems,
        [
            "column form_processor_casetransaction.revoked is missing",
            "table form_processor_ledgervalue is missing",
            "column form_processor_ledgertransaction.delta is integer, not bigint",
        ]
    );
    let empty = TestDatabase::create().await;
    let target = Target::connect(&TargetConfig::new(ConnectionConfig::new(&empty.url)))
        .await
        .unwrap();
    let Err(Error::Tables { problems, .. }) = target.check_tables().await else {
        panic!("not refused")
    };
    assert_eq!(problems.len(), 10);
}

#[tokio::test]
async fn an_unreachable_database_is_one_clear_error() {
    let database = TestDatabase::create().await;
    let absent = database.url.replace(&database.name, "hqsql_test_no_such_database");
    let error = Target::connect(&TargetConfig::new(ConnectionConfig::new(absent)))
        .await
        .unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Stop, "C2S-1402"));
    let nowhere = ConnectionConfig::new("postgres://nobody:secret@127.0.0.1:1/nothing");
    let error = Target::connect(&TargetConfig::new(nowhere)).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Retry, "C2S-1402"));
    assert!(!format!("{error:?} {error}").contains("secret"));
}

/// A role with the printed grants, and no others, can do its work.
#[tokio::test]
async fn grants_suffice() {
    /// Servers may ask for one; the roles live as long as this test.
    const PASSWORD: &str = "of-a-test-role";
    let fixture = Fixture::new().await;
    let admin = fixture.session().await;
    for (role, suffix) in [(Role::Writer, "w"), (Role::Reader, "r")] {
        let name = format!("{}_{suffix}", fixture.database.name);
        admin
            .batch_execute(&format!(
                "create role {name} login password '{PASSWORD}'; revoke temporary on database {} from public; {}",
                fixture.database.name,
                role_grants(role, &name)
            ))
            .await
            .unwrap();
        let (before, host) = fixture.database.url.split_once('@').unwrap();
        let scheme = before.split_once("//").unwrap().0;
        let url = format!("{scheme}//{name}:{PASSWORD}@{host}");
        let target = Target::connect(&TargetConfig::new(ConnectionConfig::new(url)))
            .await
            .unwrap();
        target.check_tables().await.unwrap();
        if role == Role::Writer {
            write_everything(&target).await;
        } else {
            assert!(target.begin(SHARD(&target), &domain(), EPOCH).await.is_err());
        }
        assert_eq!(
            target.read_cases(&ids(&["a"])).await.unwrap().len(),
            usize::from(role == Role::Reader)
        );
        assert_eq!(target.fence(&domain()).await.unwrap(), Some((EPOCH, true)));
        target.progress(&domain()).await.unwrap();
        assert!(!target.has_stock(&domain()).await.unwrap());
        let states = target.stock_states(&ids(&["a"]), StockStates::Shown).await.unwrap();
        assert_eq!(states, []);
        assert_eq!(target.latest_stock_transactions(&ids(&["a"])).await.unwrap(), []);
        assert!(target.daily_consumptions(&ids(&["a"])).await.unwrap().is_empty());
        if role == Role::Writer {
            // For the reader to find.
            let tx = target.begin(SHARD(&target), &domain(), EPOCH).await.unwrap();
            tx.merge_cases(&[case("a")], &[]).await.unwrap();
            tx.commit().await.unwrap();
        }
        drop(target);
    }
    for suffix in ["w", "r"] {
        let name = format!("{}_{suffix}", fixture.database.name);
        admin
            .batch_execute(&format!("drop owned by {name}; drop role {name}"))
            .await
            .unwrap();
    }
    assert_eq!(
        rows(&admin, "select count(*) from form_processor_commcarecasesql").await,
        ["1"]
    );
}

async fn write_everything(target: &Target) {
    for state in [1, 2] {
        let tx = target.begin(SHARD(target), &domain(), EPOCH).await.unwrap();
        let mut form = form("a");
        form.form.state = state;
        form.operations = vec![operation("archive", i64::from(state))];
        tx.lock_form_rows(&ids(&["a"])).await.unwrap();
        tx.merge_forms(&[form]).await.unwrap();
        tx.merge_blobmeta(&[blob("a", "k", 2)], &[]).await.unwrap();
        let mut case = case("a");
        case.transactions[0].kind = state;
        tx.merge_cases(&[case], &[]).await.unwrap();
        tx.commit().await.unwrap();
    }
    target
        .set_started(&Alone, &domain(), hqsql::Status::DryRun, crate::rows::at(1))
        .await
        .unwrap();
    target.close_fence(&Alone, &domain(), EPOCH).await.unwrap();
    while target.purge_chunk(&Alone, &domain(), 10).await.unwrap() > 0 {}
    target.set_not_started(&Alone, &domain()).await.unwrap();
    target.open_fence(&Alone, &domain(), EPOCH).await.unwrap();
}
