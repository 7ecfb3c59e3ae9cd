-- One number a table that changes when what the table shows may have changed, and never otherwise but by a merge: over its
-- definition, its parts (name and checksum) and its floor. A view, so that whoever may read this database needs no rights on others.
create or replace view platform.table_versions as
select
    t.database as database,
    t.name as table,
    cityHash64(t.uuid, t.create_table_query, p.parts, p.hash, f.highest) as version
from (select database, name, uuid, create_table_query from system.tables where database in ('mirror', 'analytics')
        or (database = 'platform' and name in ('builds', 'dirty_buckets'))) as t
left join (
    select database, table, count() as parts, groupBitXor(cityHash64(name, hash_of_all_files)) as hash
    from system.parts where active and (database in ('mirror', 'analytics')
        or (database = 'platform' and table in ('builds', 'dirty_buckets')))
    group by database, table
) as p on p.database = t.database and p.table = t.name
left join (select table, max(floor) as highest from platform.floors group by table) as f on f.table = t.name;
