-- Orders of forms that a comparison proposed for a case: the replay tries them as an event of the case, the next comparison
-- keeps or withdraws them. One row for a case, of the last order; an order that was withdrawn is not proposed again.
create table case_order (
    migration_id integer     not null references migration (id),
    bucket       smallint    not null,
    case_id      text        not null collate "C",
    standing     text        not null check (standing in ('proposed', 'kept', 'withdrawn')),
    -- SHA-256 of the event's payload.
    digest       bytea       not null,
    decided_at   timestamptz not null default now(),
    primary key (migration_id, bucket, case_id)
);

-- A diff worker that knows nothing of orders would settle a case whose order is being tried.
insert into schema_compatibility (minimum_version) values (7);
