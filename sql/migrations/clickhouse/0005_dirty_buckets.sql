-- Buckets of aggregates whose rows changed. The sink writes a mark before the rows of the batch that it names; a build is
-- fresh when its as_of_batch is at least the newest mark of its bucket, and of the whole aggregate (`whole = 1`, with the
-- bucket 1970-01-01: after a TRUNCATE or a load every bucket counts as changed).
create table if not exists platform.dirty_buckets (
    aggregate String,
    whole     UInt8,
    bucket    DateTime64(0, 'UTC'),
    batch     UInt64,
    marked_at DateTime64(6, 'UTC')
) engine = ReplacingMergeTree(batch) order by (aggregate, whole, bucket)
settings fsync_after_insert = 1, fsync_part_directory = 1;
