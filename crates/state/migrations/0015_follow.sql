-- The feed of changes of a source database: one reader for all domains that are followed, whichever process it is in.
create table change_feed (
    -- Address, without credentials.
    source       text primary key,
    -- What tells the database from one made later under the same name.
    identity     text        not null,
    -- Rises whenever changes may have been missed: the domains look at everything again.
    generation   bigint      not null default 1,
    -- Where the reader goes on; opaque.
    seq          text        not null,
    -- Changes behind it, if the server counts them.
    pending      bigint,
    -- When a page was asked for that had nothing behind it: every change until then has been read.
    caught_up_at timestamptz,
    read_at      timestamptz,
    reader_token uuid,
    reader_until timestamptz,
    reader_name  text
);

-- Domains whose changes are kept.
create table followed (
    migration_id     integer primary key references migration (id),
    source           text        not null references change_feed (source),
    -- Generation of the feed under which everything was looked at: since then no change was missed.
    whole_generation bigint,
    since            timestamptz not null default now()
);

-- Documents that have changed, until they have been migrated or compared anew and found in the target.
create table changed_doc (
    migration_id integer     not null,
    doc_id       text        not null collate "C",
    -- None: it is gone, or no document of this domain any more.
    doc_type     text,
    rev          text,
    -- The date by which the view lists it, as text.
    dated        text        collate "C",
    -- It has been sent through its stage.
    taken        boolean     not null default false,
    seen_at      timestamptz not null default now(),
    primary key (migration_id, doc_id)
);
create index changed_doc_waiting on changed_doc (migration_id, doc_id) where not taken;

alter table migration drop constraint migration_phase_check;
alter table migration add constraint migration_phase_check
    check (phase in ('idle', 'scan', 'replay', 'settle', 'diff', 'patch', 'missing', 'follow', 'finished'));

-- Couch has changed the case at this time, which was later than the cut-off: it is not compared before the cut-off has
-- come there.
alter table case_state add column late_until timestamptz;

-- The database that `looked_seq` belongs to.
alter table migration add column looked_identity text;

-- For dashboards: how far the feeds are behind.
create view feed_overview as
select f.source, f.reader_name, f.reader_until > now() as is_read, f.read_at, f.caught_up_at, f.pending,
       (select count(*) from followed d where d.source = f.source) as domains
from change_feed f;

-- A program that does not know the phase cannot read the migration's row.
insert into schema_compatibility (minimum_version) values (15);
