-- Whether HQ has stock of the domain, as the driver found when it last began to compare cases. Diff workers look at HQ's
-- stock tables only then, or when a case has ledgers in SQL.
alter table migration add column couch_stock boolean not null default false;

-- A diff worker of the version before would compare cases and leave out their ledgers.
insert into schema_compatibility (minimum_version) values (4);
