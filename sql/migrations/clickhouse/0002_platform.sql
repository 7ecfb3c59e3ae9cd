-- Which log (system identifier and timeline of PostgreSQL) a number of versions and tokens means.
create table if not exists platform.logs (
    log               UInt16,
    system_identifier String,
    timeline          UInt32,
    first_load_lsn    UInt64,
    since             DateTime64(6, 'UTC')
) engine = ReplacingMergeTree order by log
settings fsync_after_insert = 1, fsync_part_directory = 1;

-- Where a pipeline stands. The row with the highest position (term << 64 | batch) is the checkpoint.
create table if not exists platform.checkpoints (
    pipeline      String,
    position      UInt128,
    term          UInt64,
    batch         UInt64,
    log           UInt16,
    topic         String,
    next_offset   Int64,
    watermark_lsn UInt64,
    record_hash   String,
    heartbeat     Int64,
    committed_at  DateTime64(6, 'UTC'),
    saved_at      DateTime64(6, 'UTC')
) engine = ReplacingMergeTree(position) order by pipeline
settings fsync_after_insert = 1, fsync_part_directory = 1;

-- Each table's lowest living version: raised by TRUNCATE and by the end of a load.
create table if not exists platform.floors (
    table  String,
    floor  UInt128,
    reason LowCardinality(String),
    set_at DateTime64(6, 'UTC')
) engine = ReplacingMergeTree(floor) order by table
settings fsync_after_insert = 1, fsync_part_directory = 1;

-- What each mirrored table is doing; the newest row counts.
create table if not exists platform.tables (
    table        String,
    state        LowCardinality(String),
    reason       String,
    load_version UInt128,
    snapshot_lsn UInt64,
    rows_loaded  UInt64,
    changed_at   DateTime64(6, 'UTC')
) engine = ReplacingMergeTree(changed_at) order by table
settings fsync_after_insert = 1, fsync_part_directory = 1;

-- Rows that could not be applied, with the raw message; `id` is topic/partition/offset.
create table if not exists platform.dead_letters (
    id        String,
    pipeline  String,
    table     String,
    key       String,
    version   UInt128,
    reason    LowCardinality(String),
    detail    String,
    message   String,
    state     LowCardinality(String),
    changed_at DateTime64(6, 'UTC')
) engine = ReplacingMergeTree(changed_at) order by id
settings fsync_after_insert = 1, fsync_part_directory = 1;

-- The build that readers see of each bucket of each aggregate.
create table if not exists platform.builds (
    aggregate   String,
    bucket      Date32,
    build_id    UUID,
    as_of_batch UInt64,
    as_of_lsn   UInt64,
    fingerprint String,
    rows_in     UInt64,
    rows_out    UInt64,
    built_at    DateTime64(6, 'UTC')
) engine = ReplacingMergeTree(built_at) order by (aggregate, bucket)
settings fsync_after_insert = 1, fsync_part_directory = 1;

-- History of the batch half.
create table if not exists platform.runs (
    run_id      UUID,
    job         LowCardinality(String),
    bucket      String,
    status      LowCardinality(String),
    detail      String,
    context     String,
    build_id    UUID,
    rows_in     UInt64,
    rows_out    UInt64,
    as_of_lsn   UInt64,
    started_at  DateTime64(6, 'UTC'),
    finished_at DateTime64(6, 'UTC')
) engine = ReplacingMergeTree(finished_at) order by (started_at, run_id)
settings fsync_after_insert = 1, fsync_part_directory = 1;

create table if not exists platform.migrations (
    name       String,
    sha256     String,
    applied_at DateTime64(6, 'UTC')
) engine = ReplacingMergeTree(applied_at) order by name
settings fsync_after_insert = 1, fsync_part_directory = 1;
