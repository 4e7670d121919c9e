-- Forms that Couch has lost, and that are made of the XML that HQ still has, since a case in Couch, or an operator, names them.
create table lost_form (
    migration_id integer     not null references migration (id),
    form_id      text        not null collate "C",
    -- When the case says that the form was received; null: when its blob was made.
    received_on  timestamptz,
    found_at     timestamptz not null default now(),
    primary key (migration_id, form_id)
);

-- A form worker of a version before would bury such a form, as one that Couch has deleted.
insert into schema_compatibility (minimum_version) values (22);

-- The other way round: a form that is not applied, although it was, since no case in Couch has it.
alter table forced_form add column applied boolean not null default true;
