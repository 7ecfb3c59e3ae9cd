//! Reads the shapes of the published tables from PostgreSQL's catalog.

use anyhow::Context as _;
use tokio_postgres::{Client, Row};

use crate::catalog::{ColumnRow, Refusal, Relation, Table, TableRow, TypeRow};
use crate::domain::TableName;

/// Schema of the tables that are the platform's own: published, never mirrored.
pub const OWN_SCHEMA: &str = "platform";

/// The published tables, sorted by name.
#[derive(Debug, Default)]
pub struct Published {
    /// Those that can be mirrored.
    pub tables: Vec<Table>,
    /// Those that cannot, with the reason.
    pub refused: Vec<(TableName, Refusal)>,
}

/// Columns of every table of a publication, in order of `attnum`; generated columns are left out because the
/// log has none. Domains are followed to their base type.
const COLUMNS: &str = "
with recursive base as (
    select t.oid, t.oid as base_oid, t.typtypmod as modifier, t.typtype, t.typbasetype from pg_type t
    union all
    select base.oid, t.oid, case when base.modifier >= 0 then base.modifier else t.typtypmod end, t.typtype, t.typbasetype
    from base join pg_type t on t.oid = base.typbasetype where base.typtype = 'd'
), resolved as (select oid, base_oid, modifier from base where typtype <> 'd')
select n.nspname, c.relname, c.oid, c.relkind, c.relreplident, a.attname, a.attnotnull,
       format_type(a.atttypid, a.atttypmod), t.typname, t.typtype,
       case when a.atttypmod >= 0 then a.atttypmod else r.modifier end,
       e.typname, e.typtype,
       case when i.indisprimary and i.indimmediate then array_position(i.indkey::int2[], a.attnum) end,
       a.attnum, case when a.atthasmissing then (a.attmissingval::text::text[])[1] end,
       coalesce(member.oid, member_schema.oid, 0::oid), coalesce(pg_relation_filenode(c.oid), 0::oid),
       (select left(md5(string_agg(x.attnum || ':' || x.xmin::text, ',' order by x.attnum)), 16)
        from pg_attribute x where x.attrelid = c.oid and x.attnum > 0)
from pg_publication_tables p
join pg_publication publication on publication.pubname = p.pubname
join pg_namespace n on n.nspname = p.schemaname
join pg_class c on c.relnamespace = n.oid and c.relname = p.tablename
left join pg_publication_rel member on member.prpubid = publication.oid and member.prrelid = c.oid
left join pg_publication_namespace member_schema on member_schema.pnpubid = publication.oid and member_schema.pnnspid = n.oid
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
join resolved r on r.oid = a.atttypid
join pg_type t on t.oid = r.base_oid
left join pg_type et on et.oid = t.typelem and t.typcategory = 'A'
left join resolved er on er.oid = et.oid
left join pg_type e on e.oid = er.base_oid
left join pg_index i on i.indrelid = c.oid and i.indisprimary
where p.pubname = $1 and n.nspname <> $2
order by n.nspname, c.relname, a.attnum";

/// Reads the tables of `publication`.
///
/// # Errors
/// PostgreSQL's.
pub async fn published(client: &Client, publication: &str) -> anyhow::Result<Published> {
    let rows = client.query(COLUMNS, &[&publication, &OWN_SCHEMA]).await.context("reading the published tables")?;
    let mut tables: Vec<TableRow> = Vec::new();
    for row in &rows {
        let name = TableName::new(row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?);
        if tables.last().is_none_or(|table| table.name != name) {
            let identity = character(row, 4)?;
            let relation = Relation {
                oid: row.try_get(2)?,
                membership: row.try_get(16)?,
                file_node: row.try_get(17)?,
                attributes: row.try_get(18)?,
            };
            tables.push(TableRow { name, relation, kind: character(row, 3)?, identity, columns: Vec::new() });
        }
        if let Some(table) = tables.last_mut() {
            table.columns.push(column(row)?);
        }
    }
    let mut published = Published::default();
    for row in tables {
        let name = row.name.clone();
        match Table::from_row(row) {
            Ok(table) => published.tables.push(table),
            Err(refusal) => published.refused.push((name, refusal)),
        }
    }
    Ok(published)
}

fn column(row: &Row) -> anyhow::Result<ColumnRow> {
    let element = match row.try_get::<_, Option<String>>(11)? {
        Some(name) => Some(Box::new(TypeRow { name, kind: character(row, 12)?, modifier: -1, element: None })),
        None => None,
    };
    let type_row = TypeRow { name: row.try_get(8)?, kind: character(row, 9)?, modifier: row.try_get(10)?, element };
    // `indkey` is an int2vector, which counts from 0.
    let key_position = row.try_get::<_, Option<i32>>(13)?.and_then(|position| usize::try_from(position).ok());
    Ok(ColumnRow {
        attnum: row.try_get(14)?,
        missing_value: row.try_get(15)?,
        name: row.try_get(5)?,
        not_null: row.try_get(6)?,
        key_position,
        type_text: row.try_get(7)?,
        type_row,
    })
}

/// PostgreSQL's type "char".
fn character(row: &Row, at: usize) -> anyhow::Result<char> {
    let byte: i8 = row.try_get(at)?;
    Ok(char::from(byte.to_be_bytes()[0]))
}
