-- Ignore rules that an operator has added for one domain.
create table operator_rule (
    migration_id integer     not null references migration (id),
    name         text        not null,
    -- As JSON text.
    rule         text        not null,
    added_by     text        not null,
    added_at     timestamptz not null default now(),
    primary key (migration_id, name)
);

-- Differences that such a rule set aside, as they would stand in doc_diff or doc_change: they are counted apart, and come
-- back when the rule is removed.
create table ignored_diff (
    migration_id integer not null,
    kind         text    not null,
    doc_id       text    not null,
    rule         text    not null,
    is_change    boolean not null,
    diffs        text    not null,
    diff_count   integer not null,
    -- Reasons of changes.
    reason       text    not null default '',
    primary key (migration_id, kind, doc_id, rule, is_change)
);
create index ignored_diff_doc on ignored_diff (migration_id, doc_id);
create index ignored_diff_rule on ignored_diff (migration_id, rule);

-- A worker that knows nothing of these rules would report what they set aside.
insert into schema_compatibility (minimum_version) values (9);
