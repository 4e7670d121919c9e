//! HQ's tables as its Django migrations leave them in 2020: columns, lengths, nullability, checks, unique and foreign keys,
//! indexes. There are no defaults but those of `id`. Where HQ's index has a fixed name, it has that name here; the other
//! names differ from install to install.
//!
//! Each entry is a table and the statements that make it, parents before children.

/// Tables of every database that holds forms and cases.
pub(crate) const ON_SHARDS: &[(&str, &str)] = &[
    ("form_processor_xforminstancesql", FORMS),
    ("form_processor_xformoperationsql", OPERATIONS),
    ("form_processor_commcarecasesql", CASES),
    ("form_processor_commcarecaseindexsql", INDICES),
    ("form_processor_caseattachmentsql", ATTACHMENTS),
    ("form_processor_casetransaction", TRANSACTIONS),
    ("form_processor_ledgervalue", LEDGER_VALUES),
    ("form_processor_ledgertransaction", LEDGER_TRANSACTIONS),
    ("blobs_blobmeta", BLOBMETA),
    ("blobs_deletedblobmeta", DELETED_BLOBMETA),
];

/// Tables of the default database: HQ's progress rows, and the tables in which it keeps stock beside Couch's forms and
/// cases. The types of locations are left out: nothing here depends on them, and `location_type_id` is a plain number.
pub(crate) const IN_DEFAULT: &[(&str, &str)] = &[
    ("domain_migration_flags_domainmigrationprogress", PROGRESS),
    ("products_sqlproduct", PRODUCTS),
    ("locations_sqllocation", LOCATIONS),
    ("stock_stockreport", STOCK_REPORTS),
    ("stock_stocktransaction", STOCK_TRANSACTIONS),
    ("commtrack_stockstate", STOCK_STATES),
    ("stock_docdomainmapping", DOC_DOMAINS),
];

const FORMS: &str = "
create table form_processor_xforminstancesql (
    id serial primary key,
    form_id varchar(255) not null unique,
    domain varchar(255) not null,
    app_id varchar(255),
    xmlns varchar(255) not null,
    user_id varchar(255),
    orig_id varchar(255),
    deprecated_form_id varchar(255),
    server_modified_on timestamp with time zone,
    received_on timestamp with time zone not null,
    edited_on timestamp with time zone,
    deleted_on timestamp with time zone,
    deletion_id varchar(255),
    auth_context text not null,
    openrosa_headers text not null,
    partial_submission boolean not null,
    submit_ip varchar(255),
    last_sync_token varchar(255),
    problem text,
    date_header timestamp with time zone,
    build_id varchar(255),
    state smallint not null check (state >= 0),
    initial_processing_complete boolean not null,
    time_end timestamp with time zone,
    time_start timestamp with time zone,
    commcare_version varchar(8),
    app_version integer check (app_version >= 0)
);
create index on form_processor_xforminstancesql (server_modified_on);
create index on form_processor_xforminstancesql (received_on);
create index on form_processor_xforminstancesql (domain, state);
create index on form_processor_xforminstancesql (domain, user_id);
create index form_proces_xmlns_8d851e_idx on form_processor_xforminstancesql (xmlns);
";

const OPERATIONS: &str = "
create table form_processor_xformoperationsql (
    id serial primary key,
    form_id varchar(255) not null
        references form_processor_xforminstancesql (form_id) deferrable initially deferred,
    user_id varchar(255),
    operation varchar(255) not null,
    date timestamp with time zone not null
);
create index on form_processor_xformoperationsql (form_id);
";

const CASES: &str = "
create table form_processor_commcarecasesql (
    id serial primary key,
    case_id varchar(255) not null unique,
    domain varchar(255) not null,
    type varchar(255) not null,
    name varchar(255),
    owner_id varchar(255) not null,
    opened_on timestamp with time zone,
    opened_by varchar(255),
    modified_on timestamp with time zone not null,
    server_modified_on timestamp with time zone not null,
    modified_by varchar(255) not null,
    closed boolean not null,
    closed_on timestamp with time zone,
    closed_by varchar(255),
    deleted boolean not null,
    deleted_on timestamp with time zone,
    deletion_id varchar(255),
    external_id varchar(255),
    location_id varchar(255),
    case_json text not null
);
create index on form_processor_commcarecasesql (server_modified_on);
create index form_processor_commcarecasesql_owner_id_3a402c4e_idx
    on form_processor_commcarecasesql (owner_id, server_modified_on);
create index on form_processor_commcarecasesql (domain, owner_id, closed);
create index on form_processor_commcarecasesql (domain, external_id, type);
create index on form_processor_commcarecasesql (domain, type);
create index form_processor_commcarecasesql_supply_point_location
    on form_processor_commcarecasesql (domain, location_id) where type = 'supply-point';
";

const INDICES: &str = "
create table form_processor_commcarecaseindexsql (
    id serial primary key,
    case_id varchar(255) not null
        references form_processor_commcarecasesql (case_id) deferrable initially deferred,
    domain varchar(255) not null,
    identifier varchar(255) not null,
    referenced_id varchar(255) not null,
    referenced_type varchar(255) not null,
    relationship_id smallint not null check (relationship_id >= 0),
    unique (case_id, identifier)
);
create index on form_processor_commcarecaseindexsql (domain, case_id);
create index on form_processor_commcarecaseindexsql (domain, referenced_id);
";

const ATTACHMENTS: &str = "
create table form_processor_caseattachmentsql (
    id serial primary key,
    case_id varchar(255) not null
        references form_processor_commcarecasesql (case_id) deferrable initially deferred,
    attachment_id uuid not null unique,
    name varchar(255) not null,
    content_type varchar(255),
    content_length integer,
    properties text not null,
    blob_id varchar(255) not null,
    blob_bucket varchar(255),
    md5 varchar(255) not null
);
create index on form_processor_caseattachmentsql (case_id, name);
";

const TRANSACTIONS: &str = "
create table form_processor_casetransaction (
    id serial primary key,
    case_id varchar(255) not null
        references form_processor_commcarecasesql (case_id) deferrable initially deferred,
    form_id varchar(255),
    sync_log_id varchar(255),
    server_date timestamp with time zone not null,
    client_date timestamp with time zone,
    type smallint not null check (type >= 0),
    revoked boolean not null,
    details text not null,
    unique (case_id, form_id, type)
);
create index on form_processor_casetransaction (case_id, server_date, sync_log_id);
create index fp_casetrans_formid_05e599_idx on form_processor_casetransaction (form_id);
";

const LEDGER_VALUES: &str = "
create table form_processor_ledgervalue (
    id serial primary key,
    domain varchar(255) not null,
    case_id varchar(255) not null constraint cd40c15ceaad5d793e09d0b69eb4ed88
        references form_processor_commcarecasesql (case_id) deferrable initially deferred,
    entry_id varchar(100) not null,
    section_id varchar(100) not null,
    balance integer not null,
    last_modified timestamp with time zone not null,
    last_modified_form_id varchar(100),
    daily_consumption numeric(20, 5),
    unique (case_id, section_id, entry_id)
);
create index on form_processor_ledgervalue (last_modified);
";

const LEDGER_TRANSACTIONS: &str = "
create table form_processor_ledgertransaction (
    id serial primary key,
    form_id varchar(255) not null,
    server_date timestamp with time zone not null,
    report_date timestamp with time zone not null,
    type smallint not null check (type >= 0),
    case_id varchar(255) not null constraint \"D35e6052ba235dcd116c9c37ba096e19\"
        references form_processor_commcarecasesql (case_id) deferrable initially deferred,
    entry_id varchar(100) not null,
    section_id varchar(100) not null,
    user_defined_type varchar(20),
    delta bigint not null,
    updated_balance bigint not null
);
create index on form_processor_ledgertransaction (case_id, section_id, entry_id);
create index fp_ledgtrans_formid_0fe795_idx on form_processor_ledgertransaction (form_id);
";

const BLOBMETA: &str = "
create table blobs_blobmeta (
    id serial primary key,
    domain varchar(255) not null,
    parent_id varchar(255) not null,
    name varchar(255) not null,
    key varchar(255) not null unique,
    type_code smallint not null check (type_code >= 0),
    content_length bigint not null,
    compressed_length bigint,
    content_type varchar(255),
    properties text,
    created_on timestamp with time zone not null,
    expires_on timestamp with time zone
);
create index on blobs_blobmeta (parent_id, type_code, name);
create index blobs_blobm_expires_64b92d_partial on blobs_blobmeta (expires_on) where expires_on is not null;
";

const DELETED_BLOBMETA: &str = "
create table blobs_deletedblobmeta (
    id integer primary key,
    domain varchar(255) not null,
    parent_id varchar(255) not null,
    name varchar(255) not null,
    key varchar(255) not null,
    type_code smallint not null check (type_code >= 0),
    created_on timestamp with time zone not null,
    deleted_on timestamp with time zone not null
);
";

const PROGRESS: &str = "
create table domain_migration_flags_domainmigrationprogress (
    id serial primary key,
    domain varchar(256) not null,
    migration_slug varchar(256) not null,
    migration_status varchar(11) not null,
    started_on timestamp with time zone,
    completed_on timestamp with time zone,
    unique (domain, migration_slug)
);
";

const PRODUCTS: &str = "
create table products_sqlproduct (
    id serial primary key,
    domain varchar(255) not null,
    product_id varchar(100) not null unique,
    name varchar(100),
    is_archived boolean not null,
    code varchar(100),
    description text,
    category varchar(100),
    program_id varchar(100),
    cost numeric(20, 5),
    units varchar(100),
    product_data text not null,
    created_at timestamp with time zone not null,
    last_modified timestamp with time zone not null
);
create index on products_sqlproduct (domain);
";

const LOCATIONS: &str = "
create table locations_sqllocation (
    id serial primary key,
    domain varchar(255) not null,
    name varchar(255),
    location_id varchar(100) not null unique,
    site_code varchar(255) not null,
    external_id varchar(255),
    metadata text not null,
    created_at timestamp with time zone not null,
    last_modified timestamp with time zone not null,
    is_archived boolean not null,
    latitude numeric(20, 10),
    longitude numeric(20, 10),
    stocks_all_products boolean not null,
    supply_point_id varchar(255) unique,
    location_type_id integer not null,
    parent_id integer references locations_sqllocation (id) deferrable initially deferred,
    user_id varchar(255) not null,
    unique (domain, site_code)
);
create index on locations_sqllocation (domain);
create index on locations_sqllocation (location_type_id);
create index on locations_sqllocation (parent_id);
";

const STOCK_REPORTS: &str = "
create table stock_stockreport (
    id serial primary key,
    form_id varchar(100) not null,
    date timestamp with time zone not null,
    type varchar(20) not null,
    domain varchar(255),
    server_date timestamp with time zone
);
create index on stock_stockreport (form_id);
create index on stock_stockreport (date);
";

const STOCK_TRANSACTIONS: &str = "
create table stock_stocktransaction (
    id serial primary key,
    report_id integer not null references stock_stockreport (id) deferrable initially deferred,
    sql_product_id integer not null references products_sqlproduct (id) deferrable initially deferred,
    section_id varchar(100) not null,
    case_id varchar(100) not null,
    product_id varchar(100) not null,
    type varchar(20) not null,
    subtype varchar(20),
    quantity numeric(20, 5),
    stock_on_hand numeric(20, 5) not null
);
create index on stock_stocktransaction (report_id);
create index on stock_stocktransaction (sql_product_id);
create index on stock_stocktransaction (section_id);
create index on stock_stocktransaction (case_id);
create index on stock_stocktransaction (product_id);
create index on stock_stocktransaction (case_id, product_id, section_id);
";

const STOCK_STATES: &str = "
create table commtrack_stockstate (
    id serial primary key,
    section_id varchar(100) not null,
    case_id varchar(100) not null,
    product_id varchar(100) not null,
    stock_on_hand numeric(20, 5) not null,
    daily_consumption numeric(20, 5),
    last_modified_date timestamp with time zone not null,
    last_modified_form_id varchar(100),
    sql_product_id integer not null references products_sqlproduct (id) deferrable initially deferred,
    sql_location_id integer references locations_sqllocation (id) deferrable initially deferred,
    unique (section_id, case_id, product_id)
);
create index on commtrack_stockstate (section_id);
create index on commtrack_stockstate (case_id);
create index on commtrack_stockstate (product_id);
create index on commtrack_stockstate (sql_product_id);
create index on commtrack_stockstate (sql_location_id);
";

const DOC_DOMAINS: &str = "
create table stock_docdomainmapping (
    doc_id varchar(100) primary key,
    doc_type varchar(100) not null,
    domain_name varchar(100) not null
);
";
