-- Forms that a case in Couch proves to have been applied, although the form says otherwise: they are applied from now on.
create table forced_form (
    migration_id integer     not null references migration (id),
    form_id      text        not null,
    forced_at    timestamptz not null default now(),
    primary key (migration_id, form_id)
);

-- A program that knows nothing of writings (0005) or of these forms would stage by rules of its own.
insert into schema_compatibility (minimum_version) values (6);
