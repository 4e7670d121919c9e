-- The form that made the case dirty by being staged for the first time. None: something else has changed, perhaps among what
-- a replay has seen before.
alter table dirty_case add column form_id text collate "C";

-- What the inputs of a large case have come to, for the next replay to go on from. It stands for all inputs but those of the
-- case's dirty rows, and holds while the case has the generation of the replay that wrote it.
create table case_checkpoint (
    migration_id integer  not null references migration (id),
    bucket       smallint not null,
    case_id      text     not null collate "C",
    generation   bigint   not null,
    payload      bytea    not null,
    primary key (migration_id, bucket, case_id)
);

-- A case worker of the version before would take a case's new forms off the list without taking them into its checkpoint.
insert into schema_compatibility (minimum_version) values (21);
