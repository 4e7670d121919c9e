-- Blob metadata without bytes is removed where HQ's readers need exactly one row; reset puts it back as it was.
alter table blob_change drop constraint blob_change_kind_check;
alter table blob_change add constraint blob_change_kind_check check (kind in ('insert', 'remove', 'retype'));
-- The whole row, as JSON, so that columns that we do not know come back too.
alter table blob_change add column removed_row text;
alter table blob_change add constraint blob_change_removed_row_check check ((kind = 'remove') = (removed_row is not null));
-- Where the blob of an inserted row came from.
alter table blob_change add column origin text
    check (origin in ('reference', 'inline', 'copy', 'xml_property', 'form_json'));
create index blob_change_restored_xml on blob_change (migration_id, parent_id) where origin in ('xml_property', 'form_json');
