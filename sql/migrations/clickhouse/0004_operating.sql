-- Since when a letter waits, and who has closed it.
alter table platform.dead_letters add column if not exists parked_at DateTime64(6, 'UTC') default changed_at;
alter table platform.dead_letters add column if not exists changed_by String default '';

-- Where a load has moved a pipeline's checkpoint: what lies before it in the topic is of another log, or could not be followed.
create table if not exists platform.log_starts (
    pipeline     String,
    term         UInt64,
    log          UInt16,
    topic        String,
    first_offset Int64,
    set_at       DateTime64(6, 'UTC')
) engine = ReplacingMergeTree(term) order by pipeline
settings fsync_after_insert = 1, fsync_part_directory = 1;
