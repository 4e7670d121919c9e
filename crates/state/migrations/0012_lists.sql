-- Lists of domains. Whoever works on a domain of a list holds it here, so that two lists share their domains; what came of
-- it stays, so that the other list knows.
create table listed_domain (
    domain   text        primary key,
    token    uuid        not null,
    holder   text        not null,
    until    timestamptz not null,
    outcome  text,
    ended_at timestamptz
);

-- Runs that a list gave: only what a list has begun may a list reset.
alter table run add column from_list boolean not null default false;
-- Share of the run's domain among the domains that are driven at the same time.
alter table run add column weight smallint not null default 4 check (weight > 0);

-- What first runs took, for estimates; the wait for HQ's caches is not counted.
create table run_rate (
    run_id  bigint           primary key references run (id),
    forms   bigint           not null check (forms > 0),
    seconds double precision not null check (seconds > 0)
);

create index migration_driven on migration (driver_until) where driver_until is not null;
