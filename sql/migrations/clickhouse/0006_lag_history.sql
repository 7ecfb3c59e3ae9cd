-- How far behind the mirror was, for charts: one row every ten seconds while a sink runs.
create table if not exists platform.lag_history (
    pipeline       LowCardinality(String),
    at             DateTime64(3, 'UTC'),
    lag_ms         Int64,
    lag_bytes      UInt64,
    retained_bytes UInt64
) engine = MergeTree order by (pipeline, at)
ttl toDateTime(at) + toIntervalDay(8);
