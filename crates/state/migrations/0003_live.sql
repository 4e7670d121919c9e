-- Live migrations. The cut-off that every scan of one run shares, whoever drives it.
alter table run add column cutoff timestamptz;
-- The cut-off of the last live run: cases changed later are not compared. Null once submissions are refused.
alter table migration add column live_cutoff timestamptz;
