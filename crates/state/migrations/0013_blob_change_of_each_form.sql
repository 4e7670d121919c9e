-- Two forms may claim one key: each of them has its own change to undo.
alter table blob_change drop constraint blob_change_pkey;
alter table blob_change add primary key (migration_id, kind, key, parent_id);
