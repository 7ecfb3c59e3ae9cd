//! Row-by-row, column-by-column comparison. Shares no codec with the product: both databases print canonical texts.

use std::collections::BTreeMap;

use platform::domain::{TableName, quote_clickhouse, quote_postgres};

use super::Hands;
use crate::support::wait::wait_until;

/// How one column is printed by each side.
struct Printed {
    name: String,
    postgres: String,
    clickhouse: String,
}

struct Shape {
    table: TableName,
    key: Vec<usize>,
    columns: Vec<Printed>,
}

/// The tables to compare, as PostgreSQL's catalog describes them.
pub(super) struct Tables(Vec<Shape>);

impl Tables {
    pub(super) async fn read(hands: &Hands, tables: &[TableName]) -> Self {
        let sql = "select a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, \
                   coalesce(a.attnum = any((select indkey from pg_index i where i.indrelid = a.attrelid and indisprimary)::int2[]), false) \
                   from pg_attribute a where a.attrelid = $1::text::regclass and a.attnum > 0 and not a.attisdropped order by a.attnum";
        let mut shapes = Vec::new();
        for table in tables {
            let rows = hands.postgres.query(sql, &[&table.to_string()]).await.expect("the catalog");
            let column = |row: &tokio_postgres::Row| printed(row.get(0), row.get(1), row.get(2));
            let key = rows.iter().enumerate().filter(|(_, row)| row.get(3)).map(|(at, _)| at).collect();
            shapes.push(Shape { table: table.clone(), key, columns: rows.iter().map(column).collect() });
        }
        Self(shapes)
    }

    pub(super) async fn assert_equal(&self, hands: &Hands, when: &str) {
        let difference = self.difference(hands).await;
        assert!(difference.is_none(), "{when}: {}", difference.unwrap_or_default());
    }

    /// Waits until the tables are equal, whatever their columns are by then; panics with the last difference.
    pub(super) async fn become_equal(hands: &Hands, tables: &[TableName], when: &str) {
        let last = std::cell::RefCell::new(String::new());
        let equal = || async {
            let difference = Self::read(hands, tables).await.difference(hands).await;
            last.replace(difference.clone().unwrap_or_default());
            difference.is_none()
        };
        let end = std::time::Instant::now() + super::CATCH_UP;
        wait_until("the tables are equal", super::CATCH_UP * 2, || async {
            assert!(std::time::Instant::now() < end, "{when}: {}", last.borrow());
            equal().await
        })
        .await;
    }

    /// The first few cells that differ.
    async fn difference(&self, hands: &Hands) -> Option<String> {
        for shape in &self.0 {
            let expected = shape.in_postgres(hands).await;
            let found = match shape.in_clickhouse(hands).await {
                Ok(found) => found,
                Err(error) => return Some(format!("{}: {error}", shape.table)),
            };
            if expected.is_empty() {
                return Some(format!("an empty {} proves nothing", shape.table));
            }
            let differing: Vec<&Vec<Option<String>>> = expected
                .keys()
                .chain(found.keys())
                .filter(|key| expected.get(*key) != found.get(*key))
                .take(3)
                .collect();
            let mut said = Vec::new();
            for key in &differing {
                for (at, column) in shape.columns.iter().enumerate() {
                    let cell = |rows: &BTreeMap<_, Vec<Option<String>>>| rows.get(*key).map(|row| row[at].clone());
                    let (name, expected, found) = (&column.name, cell(&expected), cell(&found));
                    if expected != found {
                        said.push(format!("{} {key:?} {name}: {expected:?} became {found:?}", shape.table));
                    }
                }
            }
            if !said.is_empty() {
                let (expected, found) = (expected.len(), found.len());
                return Some(format!("{} ({expected} and {found} rows)", said.join("; ")));
            }
        }
        None
    }
}

type Rows = BTreeMap<Vec<Option<String>>, Vec<Option<String>>>;

impl Shape {
    fn by_key(&self, rows: impl Iterator<Item = Vec<Option<String>>>) -> Rows {
        let mut keyed = Rows::new();
        for row in rows {
            let key: Vec<_> = self.key.iter().map(|at| row[*at].clone()).collect();
            assert!(keyed.insert(key, row).is_none(), "two rows with one key in {}", self.table);
        }
        keyed
    }

    async fn in_postgres(&self, hands: &Hands) -> Rows {
        let list: Vec<&str> = self.columns.iter().map(|column| column.postgres.as_str()).collect();
        let sql = format!("select {} from {}", list.join(", "), self.table.quoted_postgres());
        let rows = hands.postgres.query(&sql, &[]).await.expect("PostgreSQL's rows");
        self.by_key(rows.iter().map(|row| (0..row.len()).map(|at| row.get(at)).collect()))
    }

    async fn in_clickhouse(&self, hands: &Hands) -> Result<Rows, platform::store::clickhouse::Error> {
        let list: Vec<&str> = self.columns.iter().map(|column| column.clickhouse.as_str()).collect();
        let sql = format!("select [{}] as cells from {}", list.join(", "), self.table.quoted_clickhouse("analytics"));
        #[derive(serde::Deserialize)]
        struct Row {
            cells: Vec<Option<String>>,
        }
        let rows: Vec<Row> = hands.clickhouse.fetch_all(&sql, &[]).await?;
        Ok(self.by_key(rows.into_iter().map(|row| row.cells)))
    }
}

fn printed(name: String, kind: String, not_null: bool) -> Printed {
    let (pg, ch) = (quote_postgres(&name), quote_clickhouse(&name));
    let micros = |expression: &str| format!("(extract(epoch from {expression}) * 1000000)::bigint::text");
    let (postgres, clickhouse) = match kind.as_str() {
        "timestamp with time zone" | "timestamp without time zone" => {
            (micros(&pg), format!("toString(toUnixTimestamp64Micro({ch}))"))
        }
        kind if kind.starts_with("numeric(") => {
            let scale = kind.trim_end_matches(')').rsplit(',').next().expect("a scale");
            (format!("{pg}::text"), format!("toDecimalString({ch}, {scale})"))
        }
        // A cast to text would drop the padding, which is part of the value.
        kind if kind.starts_with("character(") => (format!("convert_from(bpcharsend({pg}), 'UTF8')"), ch.clone()),
        "bytea" => (format!("encode({pg}, 'hex')"), format!("lower(hex({ch}))")),
        "double precision" => (
            format!("encode(float8send({pg}), 'hex')"),
            format!("leftPad(lower(hex(reinterpretAsUInt64({ch}))), 16, '0')"),
        ),
        // JSON text is what both sides can print; one that may be NULL is stored as such.
        kind if kind.ends_with("[]") && not_null => {
            (format!("to_jsonb({pg})::text"), format!("replaceAll(toJSONString({ch}), ',', ', ')"))
        }
        kind if kind.ends_with("[]") => (format!("to_jsonb({pg})::text"), format!("replaceAll({ch}, ',', ', ')")),
        _ => (format!("{pg}::text"), format!("toString({ch})")),
    };
    let clickhouse = format!("cast({clickhouse}, 'Nullable(String)')");
    Printed { name, postgres, clickhouse }
}
