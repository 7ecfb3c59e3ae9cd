-- Every beat says which log it is in: after a restore or a promotion the next one differs, and the pipeline halts.
create function platform.identify_heartbeat() returns trigger
language plpgsql security definer set search_path = pg_catalog as $$
begin
    new.system_identifier := (select system_identifier::text from pg_control_system());
    -- The control file has the timeline of the last checkpoint: the old one for a moment after a promotion.
    new.timeline := ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int;
    return new;
end
$$;
create trigger identify_heartbeat before update on platform.heartbeat
    for each row execute function platform.identify_heartbeat();

-- False after `platform connector delete`: a connector that is gone otherwise is made again by the sink.
alter table platform.pipelines add column connector_wanted boolean not null default true;
grant update (connector_wanted) on platform.pipelines to platform_sink;
