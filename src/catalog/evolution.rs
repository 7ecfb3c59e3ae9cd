//! How a mirror follows a change of its table's structure: columns are known by their attribute numbers. Pure.
//!
//! A new column is added with what older rows hold in it; a dropped one stays as history and leaves the view; a renamed one
//! is renamed; a wider type alters. Whatever else changed cannot be followed: the table is loaded anew.

use super::ddl::quote_text;
use super::{Codec, META_COLUMNS, PgType, Relation, Table, TableColumn, decimal};
use crate::domain::{TableName, quote_clickhouse};

/// A mirror table as ClickHouse describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirror {
    /// The table's comment.
    pub comment: String,
    /// Its columns in order, with those that the mirror adds; empty: there is no such table.
    pub columns: Vec<MirrorColumn>,
}

/// A column of a mirror table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorColumn {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: String,
    /// Its comment: which column of which type in PostgreSQL it mirrors.
    pub comment: String,
}

/// How a mirror stands to its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// There is no mirror yet.
    Absent,
    /// The mirror is of another table, or of the time before this one was out of the publication: it must be loaded.
    Replaced(&'static str),
    /// It can follow.
    Follows(Box<Evolution>),
    /// It cannot: what has changed.
    Incompatible(String),
}

/// What makes a mirror follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evolution {
    /// The table, with columns that may be NULL because their mirror may.
    pub table: Table,
    /// Statements for ClickHouse, in this order; each may be interrupted, and a new comparison goes on from there.
    pub statements: Vec<String>,
    /// Why the rows must be loaded again although the structure follows: they changed without a word in the log.
    pub reload: Option<String>,
}

/// Behind the type in the comment of a column: the connector may take it for one that is never NULL.
const NOT_NULL: &str = " not null";

/// The comment of a mirror's column.
pub(super) fn column_comment(column: &TableColumn) -> String {
    comment(column, column.is_not_null())
}

fn comment(column: &TableColumn, not_null: bool) -> String {
    format!("column {}: {}{}", column.attnum(), column.type_text(), if not_null { NOT_NULL } else { "" })
}

fn read_comment(comment: &str) -> Option<(i16, &str, bool)> {
    let (attnum, type_text) = comment.strip_prefix("column ")?.split_once(": ")?;
    let bare = type_text.strip_suffix(NOT_NULL);
    Some((attnum.parse().ok()?, bare.unwrap_or(type_text), bare.is_some()))
}

/// Compares a mirror with its table as it is now.
pub fn compare(mirror: &Mirror, table: &Table) -> Comparison {
    if mirror.columns.is_empty() {
        return Comparison::Absent;
    }
    let Some((then, _)) = Relation::from_comment(&mirror.comment) else {
        return Comparison::Replaced("its mirror does not say which table it was made from");
    };
    let now = table.relation();
    if then.oid != now.oid {
        return Comparison::Replaced("the table was dropped and made anew");
    }
    if then.membership != now.membership {
        return Comparison::Replaced("it has left the publication and joined it again");
    }
    // Until a load has mended it, the mirror remembers it.
    let loosened = loosened(mirror, table);
    match statements(mirror, table, &loosened) {
        Ok(mut evolution) => {
            if let Some(column) = loosened.first() {
                let why = format!("its column {column} may be NULL now, for which the log may still have its default");
                evolution.reload = Some(why);
            }
            if now.is_rewritten_since(&then) {
                evolution.reload = Some("a change of its columns wrote its rows anew".to_owned());
            }
            Comparison::Follows(Box::new(evolution))
        }
        Err(why) => Comparison::Incompatible(why),
    }
}

/// The columns that may be NULL now, and for which the connector may still write a default instead: under their name or number there
/// was one that was never NULL. Debezium asks the catalog whether a column may be NULL when it meets the first row behind a change, and
/// commits are streamed before they are visible there; it asks again when its session begins anew.
pub fn loosened<'a>(mirror: &Mirror, table: &'a Table) -> Vec<&'a str> {
    let never_null: Vec<Present<'_>> =
        mirror.columns.iter().filter_map(Present::of).filter(|there| there.not_null).collect();
    let was = |column: &TableColumn| {
        never_null.iter().any(|there| there.name == column.name() || there.attnum == column.attnum())
    };
    let columns = table.columns().iter().filter(|column| !column.is_not_null() && was(column));
    columns.map(TableColumn::name).collect()
}

/// As `compare`, for the structure alone: whether the mirror can take the table's rows after some statements. For a load, which begins
/// with a connector that knows the table as it is.
///
/// # Errors
/// What has changed so that it cannot.
pub fn follow(mirror: &Mirror, table: &Table) -> Result<Evolution, String> {
    statements(mirror, table, &[])
}

fn statements(mirror: &Mirror, table: &Table, loosened: &[&str]) -> Result<Evolution, String> {
    let key = Relation::from_comment(&mirror.comment).map(|(_, key)| key);
    if key != Some(table.key_attnums()) {
        return Err("its primary key has changed".to_owned());
    }
    let mut plan = Plan {
        target: table.name().quoted_clickhouse("mirror"),
        names: mirror.columns.iter().map(|column| column.name.clone()).collect(),
        loosened,
        evolution: Evolution { table: table.clone(), statements: Vec::new(), reload: None },
    };
    let present: Vec<Present<'_>> = mirror.columns.iter().filter_map(Present::of).collect();
    plan.evolution.reload = ambiguous(&present, table);
    let find = |column: &TableColumn| present.iter().find(|there| there.attnum == column.attnum());
    plan.make_room(&present, table);
    plan.rename(&present, table)?;
    for (position, column) in table.columns().iter().enumerate() {
        match find(column) {
            Some(there) => plan.adapt(there, column, position)?,
            None => plan.add(column, position),
        }
    }
    Ok(plan.evolution)
}

/// Why values of recent events may stand under the wrong column, if they may. Events have names and no numbers: one that
/// came before the look at the catalog may mean another column by a name.
fn ambiguous(present: &[Present<'_>], table: &Table) -> Option<String> {
    let named = |column: &TableColumn| present.iter().find(|there| there.name == column.name());
    let other =
        table.columns().iter().find(|column| named(column).is_some_and(|there| there.attnum != column.attnum()));
    if let Some(column) = other {
        return Some(format!("its column {} is another one than before", column.name()));
    }
    // Names that came and went between two looks are not known: only one change can have been made, and no column of it is
    // gone already.
    let seen = present.iter().map(|there| there.attnum).max().unwrap_or(0);
    let live = |attnum: &i16| table.columns().iter().any(|column| column.attnum() == *attnum);
    let newest = table.columns().iter().map(TableColumn::attnum).max().unwrap_or(0);
    if !(seen.saturating_add(1)..=newest).all(|attnum| live(&attnum)) {
        return Some("a column came and went".to_owned());
    }
    let mut changes = table.columns().iter().filter(|column| named(column).is_none()).map(TableColumn::xmin);
    let first = changes.next()?;
    changes.any(|other| other != first).then(|| "several changes gave its columns names".to_owned())
}

/// A mirror's column that mirrors one of PostgreSQL's.
struct Present<'a> {
    attnum: i16,
    type_text: &'a str,
    not_null: bool,
    name: &'a str,
    kind: &'a str,
    comment: &'a str,
}

impl<'a> Present<'a> {
    fn of(column: &'a MirrorColumn) -> Option<Self> {
        if META_COLUMNS.iter().any(|(own, _)| *own == column.name) {
            return None;
        }
        let (attnum, type_text, not_null) = read_comment(&column.comment)?;
        let MirrorColumn { name, kind, comment } = column;
        Some(Self { attnum, type_text, not_null, name, kind, comment })
    }
}

struct Plan<'a> {
    target: String,
    /// Names that are taken in the mirror after the statements so far.
    names: Vec<String>,
    /// Names of columns for which the connector may write a default instead of NULL.
    loosened: &'a [&'a str],
    evolution: Evolution,
}

impl Plan<'_> {
    fn comment(&self, column: &TableColumn) -> String {
        comment(column, column.is_not_null() || self.loosened.contains(&column.name()))
    }

    fn say(&mut self, what: impl std::fmt::Display) {
        self.evolution.statements.push(format!("alter table {} {what}", self.target));
    }

    fn rename_column(&mut self, from: &str, to: &str) {
        self.say(format_args!("rename column {} to {}", quote_clickhouse(from), quote_clickhouse(to)));
        self.names.retain(|name| name != from);
        self.names.push(to.to_owned());
    }

    /// Dropped columns give way when their name is used again.
    fn make_room(&mut self, present: &[Present<'_>], table: &Table) {
        let lives = |there: &Present<'_>| table.columns().iter().any(|column| column.attnum() == there.attnum);
        for there in present.iter().filter(|there| !lives(there)) {
            if table.position(there.name).is_some() {
                self.rename_column(there.name, &format!("{}_dropped_{}", there.name, there.attnum));
            }
        }
    }

    /// Renames, through other names when the names change places.
    fn rename(&mut self, present: &[Present<'_>], table: &Table) -> Result<(), String> {
        let mut waiting = Vec::new();
        for column in table.columns() {
            let Some(there) = present.iter().find(|there| there.attnum == column.attnum()) else { continue };
            if there.name == column.name() {
                continue;
            }
            if column.is_key() {
                return Err(format!("the column {} of its primary key was renamed to {}", there.name, column.name()));
            }
            if self.names.iter().any(|name| name == column.name()) {
                let between = format!("{}_renamed_{}", there.name, there.attnum);
                self.rename_column(there.name, &between);
                waiting.push((between, column.name().to_owned()));
            } else {
                self.rename_column(there.name, column.name());
            }
        }
        for (from, to) in waiting {
            self.rename_column(&from, &to);
        }
        Ok(())
    }

    /// The types of a column that is on both sides.
    fn adapt(&mut self, there: &Present<'_>, column: &TableColumn, position: usize) -> Result<(), String> {
        let name = quote_clickhouse(column.name());
        let wanted = self.comment(column);
        let comment = quote_text(&wanted);
        let nullable = column.codec().nullable();
        // A type that the configuration asks for is what the next load makes.
        let may_stay = !column.is_key() && !column.is_overridden();
        if there.kind == nullable.clickhouse_type() && may_stay {
            self.evolution.table.relax(position);
        } else if there.kind != column.codec().clickhouse_type() {
            let wider =
                [column.codec(), &nullable].into_iter().find(|codec| widens(there.kind, &codec.clickhouse_type()));
            let Some(codec) = wider.filter(|_| !column.is_key()) else {
                let (then, now) = (there.type_text, column.type_text());
                if then == now {
                    let (is, wanted) = (there.kind, column.codec().clickhouse_type());
                    return Err(format!("its column {} is {is} in the mirror and is to be {wanted}", column.name()));
                }
                return Err(format!("its column {} has changed from {then} to {now}", column.name()));
            };
            self.say(format_args!("modify column {name} {} comment {comment}", codec.clickhouse_type()));
            if *codec == nullable {
                self.evolution.table.relax(position);
            }
            return Ok(());
        }
        if there.comment != wanted {
            self.say(format_args!("comment column {name} {comment}"));
        }
        Ok(())
    }

    /// A new column, behind the one before it in the table.
    fn add(&mut self, column: &TableColumn, position: usize) {
        let default = match column.missing_value().map(|text| constant(column.codec(), text)) {
            // NULL; a NOT NULL column without one means that the table was empty or is written anew.
            None => String::new(),
            Some(Some(expression)) => format!(" default {expression}"),
            Some(None) => {
                let why =
                    format!("its new column {} has a default that cannot be written as a constant", column.name());
                self.evolution.reload.get_or_insert(why);
                String::new()
            }
        };
        let before = position.checked_sub(1).and_then(|before| self.evolution.table.columns().get(before));
        let place =
            before.map_or_else(|| " first".to_owned(), |before| format!(" after {}", quote_clickhouse(before.name())));
        let (name, kind) = (quote_clickhouse(column.name()), column.codec().clickhouse_type());
        let comment = quote_text(&self.comment(column));
        self.say(format_args!("add column {name} {kind}{default} comment {comment}{place}"));
    }
}

/// Whether every value of type `from` is the same value of type `to`.
pub(super) fn widens(from: &str, to: &str) -> bool {
    let bare = |kind: &str| {
        let kind =
            kind.strip_prefix("LowCardinality(").and_then(|kind| kind.strip_suffix(')')).unwrap_or(kind).to_owned();
        match kind.strip_prefix("Nullable(").and_then(|kind| kind.strip_suffix(')')) {
            Some(kind) => (kind.to_owned(), true),
            None => (kind, false),
        }
    };
    let ((from, was_nullable), (to, is_nullable)) = (bare(from), bare(to));
    let order = |kind: &str| ["Int16", "Int32", "Int64"].iter().position(|name| *name == kind);
    let wider = match (order(&from), order(&to)) {
        (Some(from), Some(to)) => from <= to,
        _ => match (digits(&from), digits(&to)) {
            (Some((precision, scale)), Some((to_precision, to_scale))) => {
                scale <= to_scale && precision - scale <= to_precision - to_scale
            }
            _ => from == to || (from == "Float32" && to == "Float64"),
        },
    };
    wider && (is_nullable || !was_nullable)
}

/// Precision and scale of `Decimal(P, S)`.
fn digits(kind: &str) -> Option<(i16, i16)> {
    let (precision, scale) = kind.strip_prefix("Decimal(")?.strip_suffix(')')?.split_once(", ")?;
    Some((precision.parse().ok()?, scale.parse().ok()?))
}

/// PostgreSQL's text of a value as an expression of ClickHouse, for the types where that is plain.
fn constant(codec: &Codec, text: &str) -> Option<String> {
    match codec.pg() {
        PgType::Bool => Some(if text == "t" { "true" } else { "false" }.to_owned()),
        PgType::AsText(inner) if **inner == PgType::Bool => {
            Some(quote_text(if text == "t" { "true" } else { "false" }))
        }
        PgType::Int2 | PgType::Int4 | PgType::Int8 | PgType::Oid => {
            text.parse::<i64>().ok().map(|value| value.to_string())
        }
        PgType::Numeric { precision, scale } => {
            decimal::parse(text, *precision, *scale)?;
            Some(format!("cast({}, 'Decimal({precision}, {scale})')", quote_text(text)))
        }
        PgType::Text { .. } | PgType::AsText(_) | PgType::TextOnly(_) | PgType::TextForm | PgType::NumericText => {
            Some(quote_text(text))
        }
        _ => None,
    }
}

/// `COMMENT` of the mirror for the table as it is now.
pub fn comment_relation(table: &Table) -> String {
    let comment = quote_text(&table.relation().to_comment(&table.key_attnums()));
    format!("alter table {} modify comment {comment}", table.name().quoted_clickhouse("mirror"))
}

/// `DROP TABLE` of a mirror.
pub fn drop_mirror(name: &TableName) -> String {
    format!("drop table if exists {} sync", name.quoted_clickhouse("mirror"))
}
