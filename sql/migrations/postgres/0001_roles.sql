-- Roles are the cluster's, not the database's: another database of this cluster may have made them already.
do $$
declare
    role text;
begin
    foreach role in array array['platform_owner', 'platform_api', 'platform_sink', 'platform_etl', 'debezium'] loop
        begin
            execute format('create role %I nologin', role);
        exception when duplicate_object or unique_violation then
            null;
        end;
    end loop;
    alter role platform_api login;
    alter role platform_sink login;
    alter role platform_etl login;
    alter role debezium login replication;
    execute format('grant connect on database %I to platform_api, platform_sink, platform_etl, debezium', current_database());
end
$$;
