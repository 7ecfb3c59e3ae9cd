grant usage on schema public, platform to platform_api, platform_sink, platform_etl, debezium;

grant select, insert, update, delete on public.sentiment_social to platform_api, platform_etl;
grant select on platform.api_keys to platform_api;
grant select, insert, update, delete on platform.idempotency_keys to platform_api;
grant select, insert on platform.requests to platform_api, platform_etl;

-- The sink reads rows again by their key, and serves requests.
grant select on all tables in schema public to platform_sink, platform_etl;
alter default privileges in schema public grant select on tables to platform_sink, platform_etl;
grant select, update on platform.heartbeat to platform_sink;
grant select, update on platform.requests to platform_sink;

-- Debezium: what it needs to stream, and the heartbeat's counter.
grant select on public.sentiment_social, platform.heartbeat to debezium;
alter default privileges in schema public grant select on tables to debezium;
grant update on platform.heartbeat to debezium;
grant select on platform.pipelines to platform_sink;
