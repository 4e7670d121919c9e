-- How long the work of runs took: what forecasts are made of. A reset keeps it, as it keeps the runs.
create table pace (
    id           bigint generated always as identity primary key,
    migration_id integer          not null references migration (id),
    run_id       bigint references run (id),
    work         text             not null check (work in ('forms', 'replay', 'list', 'diff', 'missing')),
    documents    bigint           not null,
    seconds      double precision not null,
    at           timestamptz      not null default now()
);
create index pace_recent on pace (migration_id, work, id);

-- A run that took longer than its limit of downtime: the migration is live again by our record since then. HQ's row
-- follows, and then the run ends. Whoever takes such a run up does that and nothing else.
alter table run add column back_to_live_at timestamptz;

-- Forms that reached CouchDB after the last scan of a domain that is on SQL: they are not in SQL.
create table late_form (
    migration_id integer     not null references migration (id),
    form_id      text        not null,
    kind         text        not null,
    found_at     timestamptz not null default now(),
    primary key (migration_id, form_id)
);

-- Sequence of the source database when the last look at all documents began; opaque. COMMIT looks at what came after.
alter table migration add column looked_seq text;

alter table migration add column committed_at timestamptz;
-- Whether it was the COMMIT that completed HQ's time-zone row: then an uncommit takes that back too.
alter table migration add column commit_time_zones boolean not null default false;
-- Steps of an uncommit; while not null, only that may go on.
alter table migration add column uncommit_step text check (uncommit_step in ('intent', 'blocked', 'switched'));

-- The domain's documents in SQL as COMMIT left them: ids in order, each with a digest of all rows of the document.
create table commit_snapshot (
    migration_id integer not null references migration (id),
    kind         text    not null check (kind in ('form', 'case')),
    shard        integer not null,
    part         integer not null,
    ids          text[]  not null,
    digests      bigint[] not null,
    primary key (migration_id, kind, shard, part)
);
