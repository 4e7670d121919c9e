-- The last documents that were read from a feed, as [[id, revision], ...]: when the database has older ones, it was restored.
alter table change_feed add column witnesses jsonb not null default '[]';
-- The same for `looked_seq`.
alter table migration add column looked_witnesses jsonb not null default '[]';

-- How long commits took to take their snapshots: the next one is forecast from those of all domains.
alter table pace drop constraint pace_work_check;
alter table pace add constraint pace_work_check
    check (work in ('forms', 'replay', 'list', 'diff', 'missing', 'snapshot'));
create index pace_snapshots on pace (documents, id) where work = 'snapshot';

-- A program that does not know this work cannot read a measurement of it.
insert into schema_compatibility (minimum_version) values (23);
