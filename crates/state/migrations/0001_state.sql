-- The state of every migration. One schema, couch_sql_migration; the connection's search_path names it.
-- Its views at the end are an interface: dashboards read them through a read-only role.

-- Oldest version of this schema that a program must know to work with it (expand, then contract).
create table schema_compatibility (
    minimum_version bigint not null
);
insert into schema_compatibility (minimum_version) values (1);

create table migration (
    id              integer generated always as identity primary key,
    domain          text        not null unique,
    epoch           bigint      not null,
    status          text        not null default 'not_started'
        check (status in ('not_started', 'dry_run', 'in_progress', 'complete')),
    phase           text        not null default 'idle'
        check (phase in ('idle', 'scan', 'replay', 'settle', 'diff', 'missing', 'finished')),
    -- A reset has begun to delete rows and has not finished: nothing but reset may run.
    purging         boolean     not null default false,
    -- Domain options that decide behaviour, frozen at the first start.
    options         jsonb       not null default '{}',
    -- When HQ's progress flag was set: its caches may let submissions through for a while after.
    progress_set_at timestamptz,
    -- Sequence of the source database when the first scan began; opaque.
    source_seq      text,
    started_at      timestamptz,
    finished_at     timestamptz,
    -- Steps of COMMIT; once not null, forward is the only way but for an explicit abort.
    commit_step     text check (commit_step in ('intent', 'fenced', 'switched', 'done')),
    commit_rev      text,
    -- The one driver of this domain.
    driver_token    uuid,
    driver_until    timestamptz,
    driver_name     text,
    created_at      timestamptz not null default now()
);

create table run (
    id           bigint generated always as identity primary key,
    migration_id integer     not null references migration (id),
    command      text        not null,
    arguments    jsonb       not null default '{}',
    who          text        not null,
    host         text        not null,
    pid          integer     not null,
    state        text        not null default 'queued'
        check (state in ('queued', 'running', 'stopping', 'finished', 'failed', 'stopped')),
    outcome      text,
    queued_at    timestamptz not null default now(),
    started_at   timestamptz,
    ended_at     timestamptz
);
create index run_open on run (migration_id, id) where state in ('queued', 'running', 'stopping');

-- Processes that are alive: `serve` and workers.
create table instance (
    id         uuid primary key,
    kind       text        not null,
    host       text        not null,
    pid        integer     not null,
    started_at timestamptz not null default now(),
    seen_at    timestamptz not null default now()
);

-- How far each scan has come. The cursor moves in the transaction that inserts what the scan found.
create table scan_cursor (
    migration_id integer not null references migration (id),
    scan         text    not null,
    after_key    text,
    after_id     text,
    complete     boolean not null default false,
    scanned      bigint  not null default 0,
    primary key (migration_id, scan)
);

create table batch (
    id           bigint generated always as identity primary key,
    migration_id integer     not null references migration (id),
    stage        text        not null check (stage in ('form', 'case', 'diff')),
    doc_type     text        not null,
    state        text        not null default 'ready'
        check (state in ('ready', 'claimed', 'done', 'parked')),
    ids          text[]      not null,
    item_count   integer     not null,
    -- Claims so far that did not end in a transient failure; counted before the work starts.
    attempt      integer     not null default 0,
    -- Transient failures in a row, for the back-off.
    retries      integer     not null default 0,
    next_at      timestamptz not null default now(),
    published_at timestamptz,
    token        uuid,
    lease_until  timestamptz,
    worker       text,
    error_code   text,
    error_text   text,
    split_from   bigint,
    check ((state = 'claimed') = (token is not null)),
    check ((state = 'claimed') = (lease_until is not null))
);
create index batch_open on batch (migration_id, stage, state, id);

-- Finished batches, folded.
create table stage_total (
    migration_id integer not null references migration (id),
    stage        text    not null,
    doc_type     text    not null,
    batches      bigint  not null,
    items        bigint  not null,
    primary key (migration_id, stage, doc_type)
);

-- The newest revision of each document that anyone has begun to write. Written before the target is, so that an older
-- revision can never overwrite a newer one.
create table doc_revision (
    migration_id    integer     not null,
    doc_id          text        not null collate "C",
    doc_type        text        not null,
    rev_number      integer     not null,
    rev             text        not null,
    deleted         boolean     not null default false,
    first_staged_at timestamptz not null default now(),
    primary key (migration_id, doc_id)
) with (fillfactor = 90);

-- What each form does to each case: one row per (case, form), replaced as a set with the form.
create table staged_update (
    migration_id integer  not null,
    bucket       smallint not null,
    case_id      text     not null collate "C",
    form_id      text     not null collate "C",
    rules        smallint not null,
    payload      bytea    not null,
    primary key (migration_id, bucket, case_id, form_id)
) partition by range (bucket);
create table staged_update_0 partition of staged_update for values from (0) to (32);
create table staged_update_1 partition of staged_update for values from (32) to (64);
create table staged_update_2 partition of staged_update for values from (64) to (96);
create table staged_update_3 partition of staged_update for values from (96) to (128);
create table staged_update_4 partition of staged_update for values from (128) to (160);
create table staged_update_5 partition of staged_update for values from (160) to (192);
create table staged_update_6 partition of staged_update for values from (192) to (224);
create table staged_update_7 partition of staged_update for values from (224) to (256);
create index staged_update_form on staged_update (migration_id, form_id);
-- A commit asks for effects of other rules among millions; one key value, so that the index stays small.
create index staged_update_rules on staged_update (migration_id, rules);

-- Inputs of a replay that are not a form's.
create table case_event (
    migration_id integer     not null,
    bucket       smallint    not null,
    case_id      text        not null collate "C",
    kind         text        not null,
    payload      bytea       not null,
    created_at   timestamptz not null default now(),
    primary key (migration_id, bucket, case_id, kind)
);

-- Insert-only: whoever replays a case deletes exactly the rows it had read before the inputs.
create table dirty_case (
    id           bigint generated always as identity primary key,
    migration_id integer  not null,
    bucket       smallint not null,
    case_id      text     not null collate "C"
);
create index dirty_case_place on dirty_case (migration_id, bucket, case_id);

-- Every case that anyone has seen, on either side, with the generation of its rows and of its last diff.
create table case_state (
    migration_id      integer  not null,
    bucket            smallint not null,
    case_id           text     not null collate "C",
    generation        bigint   not null default 0,
    diffed_generation bigint,
    diffed_rev        text,
    primary key (migration_id, bucket, case_id)
) with (fillfactor = 80);
create index case_state_undiffed on case_state (migration_id, bucket, case_id)
    where diffed_generation is distinct from generation;

-- Forms refused by a replay.
create table form_verdict (
    migration_id integer     not null,
    form_id      text        not null,
    rev          text        not null,
    case_id      text        not null,
    code         text        not null,
    created_at   timestamptz not null default now(),
    primary key (migration_id, form_id)
);

-- What was done to blob metadata, so that reset can undo exactly that. Written before the target is.
create table blob_change (
    migration_id integer     not null,
    kind         text        not null check (kind in ('insert', 'retype')),
    key          text        not null,
    parent_id    text        not null,
    name         text        not null,
    old_type     smallint,
    new_type     smallint    not null,
    created_on   timestamptz not null,
    primary key (migration_id, kind, key)
);

create table doc_count (
    migration_id integer not null references migration (id),
    kind         text    not null,
    value        bigint  not null,
    primary key (migration_id, kind)
);

-- Diffs and changes hold health data, and text that jsonb refuses: JSON as text, with escapes.
create table doc_diff (
    migration_id integer     not null,
    kind         text        not null,
    doc_id       text        not null,
    diffs        text        not null,
    generation   bigint,
    couch_rev    text,
    compared_at  timestamptz not null default now(),
    primary key (migration_id, kind, doc_id)
);
create index doc_diff_doc on doc_diff (migration_id, doc_id);

create table doc_change (
    migration_id integer     not null,
    kind         text        not null,
    doc_id       text        not null,
    diffs        text        not null,
    reason       text        not null,
    generation   bigint,
    couch_rev    text,
    compared_at  timestamptz not null default now(),
    primary key (migration_id, kind, doc_id)
);
create index doc_change_doc on doc_change (migration_id, doc_id);

create table missing_doc (
    migration_id integer not null,
    kind         text    not null,
    doc_id       text    not null,
    primary key (migration_id, kind, doc_id)
);
create index missing_doc_doc on missing_doc (migration_id, doc_id);

create table doc_error (
    migration_id integer     not null,
    kind         text        not null,
    doc_id       text        not null,
    code         text        not null,
    message      text        not null,
    rev          text,
    first_at     timestamptz not null default now(),
    last_at      timestamptz not null default now(),
    primary key (migration_id, kind, doc_id)
);
create index doc_error_doc on doc_error (migration_id, doc_id);

create table problem_form (
    migration_id integer not null,
    form_id      text    not null,
    primary key (migration_id, form_id)
);

create table no_action_case_form (
    migration_id integer not null,
    form_id      text    not null,
    primary key (migration_id, form_id)
);

create table patched_case (
    migration_id integer not null,
    case_id      text    not null,
    primary key (migration_id, case_id)
);

create table audit_log (
    id     bigint generated always as identity primary key,
    at     timestamptz not null default now(),
    domain text        not null,
    who    text        not null,
    host   text        not null,
    action text        not null,
    detail jsonb       not null default '{}'
);
create index audit_log_domain on audit_log (domain, id);

-- For dashboards: one row per domain.
create view domain_overview as
select
    m.domain,
    m.status,
    m.phase,
    m.driver_name,
    m.driver_until > now()                                                                        as driven,
    m.started_at,
    m.finished_at,
    coalesce((select sum(c.scanned) from scan_cursor c
              where c.migration_id = m.id and c.scan like 'form:%'), 0)::bigint                   as forms_scanned,
    (coalesce((select sum(t.items) from stage_total t
               where t.migration_id = m.id and t.stage = 'form'), 0)
        + coalesce((select sum(b.item_count) from batch b
                    where b.migration_id = m.id and b.stage = 'form' and b.state = 'done'), 0))::bigint as forms_done,
    (select count(*) from doc_diff d where d.migration_id = m.id)                                 as documents_with_diffs,
    (select count(*) from doc_change d where d.migration_id = m.id)                               as documents_with_changes,
    (select count(*) from missing_doc d where d.migration_id = m.id)                              as documents_missing,
    (select count(*) from doc_error d where d.migration_id = m.id)                                as documents_with_errors
from migration m;

-- For dashboards: open batches by stage and state.
create view batch_overview as
select m.domain, b.stage, b.doc_type, b.state, count(*) as batches, sum(b.item_count) as items,
       min(b.lease_until) as oldest_lease
from batch b join migration m on m.id = b.migration_id
group by m.domain, b.stage, b.doc_type, b.state;

-- For dashboards: errors by code; no document ids.
create view error_overview as
select m.domain, e.kind, e.code, count(*) as documents, max(e.last_at) as last_at
from doc_error e join migration m on m.id = e.migration_id
group by m.domain, e.kind, e.code;
