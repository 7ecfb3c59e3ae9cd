//! Reads the shapes of the published tables from PostgreSQL's catalog.

use std::collections::BTreeMap;

use anyhow::Context as _;
use tokio_postgres::{Client, Row, Statement, ToStatement};

use crate::catalog::{ColumnRow, Inexact, Refusal, Relation, Rules, Table, TableRow, TypeRow};
use crate::config;
use crate::domain::{Failure, TableName};
use crate::store::postgres;

/// Schema of the tables that are the platform's own: published, never mirrored.
pub const OWN_SCHEMA: &str = "platform";

/// The published tables, sorted by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Those that can be mirrored.
    pub tables: Vec<Table>,
    /// Those that cannot, with the reason.
    pub refused: Vec<(TableName, Refusal)>,
}

/// `Relation::attributes` of the row `c` of `pg_class`: one text, because what was read once is compared with what is read later.
macro_rules! attributes_hash {
    () => {
        "(select left(md5(string_agg(x.attnum || ':' || x.xmin::text, ',' order by x.attnum)), 16) \
         from pg_attribute x where x.attrelid = c.oid and x.attnum > 0)"
    };
}

/// Columns of every table of a publication, in order of `attnum`. Domains are followed to their base type.
///
/// `relfilenode` as the row of `pg_class` has it, not as `pg_relation_filenode` does: the function sees what was committed
/// after the statement's snapshot, and a rewritten table would show in two parts.
const COLUMNS: &str = concat!(
    "
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
       coalesce(member.oid, member_schema.oid, 0::oid), c.relfilenode,
       ",
    attributes_hash!(),
    ",
       er.modifier, a.attgenerated <> '', a.xmin::text, p.rowfilter is not null
from pg_publication_tables p
join pg_publication publication on publication.pubname = p.pubname
join pg_namespace n on n.nspname = p.schemaname
join pg_class c on c.relnamespace = n.oid and c.relname = p.tablename
left join pg_publication_rel member on member.prpubid = publication.oid and member.prrelid = c.oid
left join pg_publication_namespace member_schema on member_schema.pnpubid = publication.oid and member_schema.pnnspid = n.oid
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join resolved r on r.oid = a.atttypid
join pg_type t on t.oid = r.base_oid
left join pg_type et on et.oid = t.typelem and t.typcategory = 'A'
left join resolved er on er.oid = et.oid
left join pg_type e on e.oid = er.base_oid
left join pg_index i on i.indrelid = c.oid and i.indisprimary
where p.pubname = $1 and n.nspname <> $2
order by n.nspname, c.relname, a.attnum"
);

/// What the tables with these OIDs are now; those that are gone are missing. Opens none of them, so that it never waits for
/// somebody's lock.
///
/// # Errors
/// PostgreSQL's.
pub async fn relations(client: &Client, publication: &str, oids: &[u32]) -> anyhow::Result<Vec<Relation>> {
    let sql = concat!(
        "select c.oid, coalesce(member.oid, member_schema.oid, 0::oid), c.relfilenode, ",
        attributes_hash!(),
        " from pg_class c join pg_publication publication on publication.pubname = $1 \
               left join pg_publication_rel member on member.prpubid = publication.oid and member.prrelid = c.oid \
               left join pg_publication_namespace member_schema \
               on member_schema.pnpubid = publication.oid and member_schema.pnnspid = c.relnamespace \
               where c.oid = any($2)"
    );
    let rows = client.query(sql, &[&publication, &oids]).await.context("looking at the tables again")?;
    let relation = |row: &Row| {
        Ok(Relation {
            oid: row.try_get(0)?,
            membership: row.try_get(1)?,
            file_node: row.try_get(2)?,
            attributes: row.try_get(3)?,
        })
    };
    rows.iter().map(relation).collect()
}

/// Reads the tables of `publication`.
///
/// `configured` is the section `[tables]`.
///
/// # Errors
/// PostgreSQL's; `Failure::Config` for a column that the configuration gives a type that it cannot have.
pub async fn published(
    client: &Client,
    publication: &str,
    configured: &BTreeMap<String, config::Table>,
) -> anyhow::Result<Published> {
    read(client, COLUMNS, publication, configured).await
}

/// A session for who reads the published tables again and again: planning the statement alone costs PostgreSQL more than the
/// answer, 10 and 7 ms, and beginning a session comes on top.
#[derive(Debug)]
pub struct CatalogSession {
    client: Client,
    columns: Statement,
}

impl CatalogSession {
    /// Begins it.
    ///
    /// # Errors
    /// Those of `postgres::connect`; PostgreSQL's.
    pub async fn begin(settings: &config::Postgres, application_name: &str) -> anyhow::Result<Self> {
        let client = postgres::connect(settings, application_name).await?;
        let columns = client.prepare(COLUMNS).await.context("preparing to read the published tables")?;
        Ok(Self { client, columns })
    }

    /// Whether its connection has ended.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// As the function of this name.
    ///
    /// # Errors
    /// Those of `published`.
    pub async fn published(
        &self,
        publication: &str,
        configured: &BTreeMap<String, config::Table>,
    ) -> anyhow::Result<Published> {
        read(&self.client, &self.columns, publication, configured).await
    }
}

async fn read(
    client: &Client,
    columns: &(impl ToStatement + ?Sized + Sync),
    publication: &str,
    configured: &BTreeMap<String, config::Table>,
) -> anyhow::Result<Published> {
    let rows = client.query(columns, &[&publication, &OWN_SCHEMA]).await.context("reading the published tables")?;
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
            let (kind, filtered) = (character(row, 3)?, row.try_get(22)?);
            tables.push(TableRow { name, relation, kind, filtered, identity, columns: Vec::new() });
        }
        if let Some(table) = tables.last_mut() {
            table.columns.push(column(row)?);
        }
    }
    let mut published = Published::default();
    for row in tables {
        let name = row.name.clone();
        match Table::from_row(row, &rules(configured, &name)) {
            Ok(table) => published.tables.push(table),
            Err(error @ Refusal::Mapping(..)) => return Err(Failure::Config(error.to_string()).into()),
            Err(refusal) => published.refused.push((name, refusal)),
        }
    }
    Ok(published)
}

/// What the configuration says of a table, which it may name without the schema `public`.
fn rules(configured: &BTreeMap<String, config::Table>, name: &TableName) -> Rules {
    let named = configured.iter().find(|(key, _)| TableName::from_argument(key) == *name);
    let Some((_, table)) = named else { return Rules::default() };
    Rules {
        inexact: match table.inexact {
            config::Inexact::Reread => Inexact::Reread,
            config::Inexact::Park => Inexact::Park,
        },
        types: table.columns.iter().map(|(name, column)| (name.clone(), column.r#type.clone())).collect(),
    }
}

fn column(row: &Row) -> anyhow::Result<ColumnRow> {
    let modifier: i32 = row.try_get(10)?;
    let element = match row.try_get::<_, Option<String>>(11)? {
        Some(name) => {
            // A modifier of the array is one of its elements.
            let modifier = if modifier >= 0 { modifier } else { row.try_get(19)? };
            Some(Box::new(TypeRow { name, kind: character(row, 12)?, modifier, element: None }))
        }
        None => None,
    };
    let type_row = TypeRow { name: row.try_get(8)?, kind: character(row, 9)?, modifier, element };
    // `indkey` is an int2vector, which counts from 0.
    let key_position = row.try_get::<_, Option<i32>>(13)?.and_then(|position| usize::try_from(position).ok());
    Ok(ColumnRow {
        attnum: row.try_get(14)?,
        xmin: row.try_get(21)?,
        missing_value: row.try_get(15)?,
        name: row.try_get(5)?,
        not_null: row.try_get(6)?,
        generated: row.try_get(20)?,
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
