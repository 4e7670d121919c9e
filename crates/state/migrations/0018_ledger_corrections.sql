-- The correction of ledgers that goes with a patch stands under the patch form's id, so that a patch that is given up takes
-- its own along and no other.
update case_event e set kind = 'ledger_correction/' || p.form_id
from (select distinct on (migration_id, case_id) migration_id, case_id, form_id from patch_form
      where staged order by migration_id, case_id, begun_at desc, form_id) p
where e.kind = 'ledger_correction' and e.migration_id = p.migration_id and e.case_id = p.case_id;

-- A worker of the version before would write one correction for all patches of a case, and remove all of them.
insert into schema_compatibility (minimum_version) values (18);
