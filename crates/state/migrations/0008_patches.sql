-- Patch forms. Their ids are on record before they are used; Couch does not have these forms, and no look at Couch may miss
-- them there.
create table patch_form (
    migration_id integer     not null references migration (id),
    form_id      text        not null collate "C",
    case_id      text        not null collate "C",
    -- The record that it is made for.
    record       text        not null check (record in ('diffs', 'changes')),
    -- Whether its effects are staged: a form that is not may have rows in the target, which whoever gives it up must remove.
    staged       boolean     not null default false,
    begun_at     timestamptz not null default now(),
    primary key (migration_id, form_id)
);
create index patch_form_case on patch_form (migration_id, case_id);

-- Why a record was not patched when somebody tried last.
create table patch_refusal (
    migration_id integer     not null references migration (id),
    doc_id       text        not null collate "C",
    record       text        not null check (record in ('diffs', 'changes')),
    kind         text        not null,
    code         text        not null,
    message      text        not null,
    refused_at   timestamptz not null default now(),
    primary key (migration_id, doc_id, record)
);

-- Refusals whose records still stand.
create view standing_patch_refusal as
select p.* from patch_refusal p
where (p.record = 'diffs' and exists (
           select 1 from doc_diff d
           where d.migration_id = p.migration_id and d.doc_id = p.doc_id and d.kind = p.kind))
   or (p.record = 'changes' and exists (
           select 1 from doc_change c
           where c.migration_id = p.migration_id and c.doc_id = p.doc_id and c.kind = p.kind));

alter table blob_change drop constraint blob_change_origin_check;
alter table blob_change add constraint blob_change_origin_check
    check (origin in ('reference', 'inline', 'copy', 'xml_property', 'form_json', 'patch'));

alter table migration drop constraint migration_phase_check;
alter table migration add constraint migration_phase_check
    check (phase in ('idle', 'scan', 'replay', 'settle', 'diff', 'patch', 'missing', 'finished'));

-- A form worker of a version before would take a batch of cases to patch for one of documents.
insert into schema_compatibility (minimum_version) values (8);
