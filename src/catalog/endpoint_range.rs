//! `-- range: COLUMN FROM TO`: the rows that `{rows}` stands for in an endpoint's SELECT.

use super::endpoint::Endpoint;
use super::endpoint_parameter::{Parameter, Presence, Type};
use super::endpoint_sql::{reads_rows, with_rows};
use crate::domain::{TableName, quote_clickhouse};

/// Rows of the endpoint's first table whose column is at or after one parameter and before another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The column.
    pub column: String,
    /// Parameter of the first moment that counts.
    pub from: String,
    /// Parameter of the first moment that no longer counts.
    pub to: String,
    /// Line of the file, counted from 1.
    pub line: usize,
    /// Type of both in the SELECT; known after `check`.
    kind: &'static str,
}

impl Range {
    /// Reads what stands behind `range:`.
    pub(super) fn parse(text: &str, line: usize) -> Result<Self, String> {
        match text.split_whitespace().collect::<Vec<_>>().as_slice() {
            [column, from, to] => Ok(Self {
                column: (*column).to_owned(),
                from: (*from).to_owned(),
                to: (*to).to_owned(),
                line,
                kind: "",
            }),
            _ => Err("write `-- range: COLUMN FROM TO`, a column of the table and two parameters".to_owned()),
        }
    }

    /// Looks at the parameters that it names.
    pub(super) fn check(&mut self, parameters: &[Parameter]) -> Result<(), String> {
        let Self { from, to, .. } = &*self;
        let find = |name: &String| parameters.iter().find(|known| known.name == *name);
        let (Some(first), Some(end)) = (find(from), find(to)) else {
            return Err(format!("the range's {from} and {to} must both be parameters"));
        };
        if first.kind != end.kind || !matches!(first.kind, Type::Date | Type::DateTime) || from == to {
            return Err(format!("the range's {from} and {to} must be two parameters of type Date, or two of DateTime"));
        }
        if let Some(open) = [first, end].into_iter().find(|parameter| parameter.presence == Presence::Optional) {
            return Err(format!(
                "{} may be left out: the ends of a range must be required, or have a default",
                open.name
            ));
        }
        self.kind = first.kind.clickhouse();
        Ok(())
    }

    /// Whether a row is in the range.
    pub fn condition(&self) -> String {
        let Self { from, to, kind, .. } = self;
        let column = quote_clickhouse(&self.column);
        format!("{column} >= {{{from}:{kind}}} and {column} < {{{to}:{kind}}}")
    }
}

impl Endpoint {
    /// The range fits its parameters, the span and the SELECT, and where there is no span it is one.
    pub(super) fn check_range(&mut self, text: &str, header_lines: usize) -> Result<(), (usize, String)> {
        let reads = text.lines().skip(header_lines).position(reads_rows).map(|at| header_lines + at + 1);
        let Some(range) = &mut self.range else {
            let missing = "{rows} has no `-- range: COLUMN FROM TO` in the header".to_owned();
            return reads.map_or(Ok(()), |line| Err((line, missing)));
        };
        let line = range.line;
        range.check(&self.parameters).map_err(|text| (line, text))?;
        let ends = (range.from.clone(), range.to.clone());
        if self.span.get_or_insert_with(|| ends.clone()) != &ends {
            return Err((
                line,
                "the span and the range must name the same two parameters; a range alone is enough".to_owned(),
            ));
        }
        match reads {
            Some(_) => Ok(()),
            None => Err((line, "the SELECT does not read {rows}, the rows of the range".to_owned())),
        }
    }

    /// The table that the range is of, and the range.
    pub fn ranged_table(&self) -> Option<(TableName, &Range)> {
        Some((TableName::from_argument(self.tables.first()?), self.range.as_ref()?))
    }

    /// The SELECT as ClickHouse gets it, with `rows` of a table and its range, in one line, in place of `{rows}`.
    pub fn statement(&self, rows: impl FnOnce(&TableName, &Range) -> String) -> String {
        match self.ranged_table() {
            Some((table, range)) => with_rows(&self.sql, &rows(&table, range)),
            None => self.sql.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGED: &str = "-- summary: Posts\n-- table: shop.posts\n-- range: sold at from to\n-- param from Date required: first\n\
        -- param to Date required: end\n\nselect count()\nfrom {rows} as r\n";

    #[test]
    fn a_range_stands_for_rows() {
        let text = RANGED.replace("sold at", "sold`at");
        let endpoint = Endpoint::parse("sold", &text).expect("good");
        assert_eq!(endpoint.span, Some(("from".to_owned(), "to".to_owned())));
        let sql = endpoint.statement(|table, range| format!("(t of {table} where {})", range.condition()));
        assert_eq!(
            sql,
            "select count()\nfrom (t of shop.posts where `sold\\`at` >= {from:Date32} and `sold\\`at` < {to:Date32}) as r"
        );
        let spanned = text.replace("-- range", "-- span: from to\n-- range");
        assert_eq!(
            Endpoint::parse("sold", &spanned).expect("good").statement(|_, _| "x".to_owned()).lines().count(),
            2
        );
    }

    #[test]
    fn a_wrong_range_is_refused_with_its_line() {
        let good = RANGED.replace("sold at", "sold_at");
        let cases: [(&str, &str, usize, &str); 10] = [
            ("sold_at from to", "from to", 3, "COLUMN FROM TO"),
            ("sold_at from to", "sold_at from end", 3, "must both be parameters"),
            ("sold_at from to", "sold_at from from", 3, "two parameters"),
            ("from Date required", "from DateTime required", 3, "two of DateTime"),
            ("from Date required", "from Date optional", 3, "may be left out"),
            ("-- range: sold_at from to\n", "-- range: a from to\n-- range: b from to\n", 4, "already a range"),
            ("-- range: sold_at from to\n", "-- span: to from\n-- range: sold_at from to\n", 4, "same two parameters"),
            ("-- range: sold_at from to\n", "", 7, "has no `-- range"),
            ("{rows}", "analytics.posts", 3, "does not read {rows}"),
            ("{rows}", "'{rows}'", 3, "does not read {rows}"),
        ];
        for (from, to, line, text) in cases {
            assert!(good.contains(from), "{from}");
            let error = Endpoint::parse("sold", &good.replacen(from, to, 1)).expect_err(to);
            assert!(error.line == line && error.text.contains(text), "{to:?}: {error}");
        }
    }
}
