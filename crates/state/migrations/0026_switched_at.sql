-- When a COMMIT switched the Domain document: the wait for HQ's caches counts from there, whoever goes on with it.
alter table migration add column switched_at timestamptz;
