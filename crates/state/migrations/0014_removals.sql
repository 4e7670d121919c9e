-- A refused form whose row is about to be removed from the target, and which is not refused yet: put on record first, so
-- that a process that dies in between leaves behind which form has perhaps lost its row.
alter table form_verdict add column removing boolean not null default false;

-- A case worker of the version before would take such a form for a refused one.
insert into schema_compatibility (minimum_version) values (14);
