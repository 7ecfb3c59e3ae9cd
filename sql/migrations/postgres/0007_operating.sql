-- A request that a sink has begun is not withdrawn any more; who asked is part of the record.
alter table platform.requests
    add column requested_by text not null default session_user,
    add column started_at   timestamptz;

-- The sink looks for requests several times a second.
create index requests_unfinished on platform.requests (pipeline, id) where finished_at is null;

-- A pause lasts over restarts of the sink.
alter table platform.pipelines
    add column paused_at timestamptz,
    add column paused_by text;

-- What the sink of a pipeline is doing, written by the holder of its lease when it changes.
create table platform.sinks (
    pipeline text primary key,
    state    text not null,
    reason   text,
    detail   text,
    remedy   text,
    since    timestamptz not null,
    holder   text not null
);

grant update (paused_at, paused_by) on platform.pipelines to platform_sink;
grant select, insert, update on platform.sinks to platform_sink;
grant select on platform.sinks to platform_api, platform_etl;
grant select (name, paused_at, paused_by) on platform.pipelines to platform_api, platform_etl;
-- Who asked may take it back.
grant update (finished_at, outcome) on platform.requests to platform_api, platform_etl;
