-- How often somebody has begun to write a document. What is staged carries the number of its writing, so that a replay of
-- something older neither removes nor condemns what somebody has begun to write since.
alter table doc_revision add column begun bigint not null default 1;
alter table staged_update add column begun bigint not null default 1;
