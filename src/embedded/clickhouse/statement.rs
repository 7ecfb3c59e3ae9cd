//! What the front must know of a statement before the engine sees it: where its data begin, its output format, and
//! whether it would leave the engine or need a session.

use super::exception::{self, Exception};
use super::lexer::{Kind, Lexer, Token};

/// A statement, with positions in its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    /// INSERT whose rows follow the statement.
    InsertData(InsertData),
    /// Everything else.
    Whole(Whole),
}

/// `INSERT INTO t (a, b) [SETTINGS …] {FORMAT x | VALUES} data`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InsertData {
    /// End of the statement without its FORMAT clause.
    pub(super) sql_end: usize,
    /// The data's format.
    pub(super) format: String,
    /// First byte of the data.
    pub(super) data_start: usize,
}

/// A statement that the engine gets as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Whole {
    /// The FORMAT clause at its end.
    pub(super) format: Option<String>,
    /// It begins as a SELECT does; only these can be streamed.
    pub(super) select: bool,
    /// It may answer totals or extremes behind the rows, which a streamed answer would put in the wrong place.
    pub(super) extra_rows: bool,
}

/// Reads the beginning of a statement. `complete`: nothing follows `text`.
///
/// `None`: the place where data begin, if there are any, lies behind `text`.
///
/// # Errors
/// Statements that this front refuses, whoever asks.
pub(super) fn parse(text: &[u8], complete: bool) -> Result<Option<Statement>, Exception> {
    let mut tokens = Lexer::new(text).peekable();
    if tokens.peek().is_some_and(|first| first.is("INSERT"))
        && let Some(insert) = insert_data(text, complete)?
    {
        return Ok(Some(Statement::InsertData(insert)));
    }
    if !complete {
        return Ok(None);
    }
    whole(text).map(|whole| Some(Statement::Whole(whole)))
}

fn insert_data(text: &[u8], complete: bool) -> Result<Option<InsertData>, Exception> {
    let mut tokens = Lexer::new(text).skip(1).peekable();
    for optional in ["INTO", "TABLE", "FUNCTION"] {
        tokens.next_if(|token| token.is(optional));
    }
    skip_name(&mut tokens);
    let mut depth = 0_u32;
    let mut previous_end = 0;
    while let Some(token) = tokens.next() {
        match token.kind {
            Kind::Symbol(b'(' | b'[' | b'{') => depth += 1,
            Kind::Symbol(b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            Kind::Word if depth == 0 && token.is("VALUES") => {
                let (sql_end, data_start) = (token.start, token.end);
                return Ok(Some(InsertData { sql_end, format: "Values".into(), data_start }));
            }
            // Another statement: the engine's parser will count it.
            Kind::Symbol(b';') => return Ok(None),
            // What follows is a query, not data.
            Kind::Word if depth == 0 && ["SELECT", "WITH", "WATCH"].iter().any(|word| token.is(word)) => {
                return Ok(None);
            }
            Kind::Word if depth == 0 && token.is("INFILE") => return Err(outside("FROM INFILE")),
            Kind::Word if depth == 0 && token.is("FORMAT") => {
                let Some(name) = tokens.next().filter(|name| name.kind == Kind::Word) else { return Ok(None) };
                // The name may go on behind a text that was cut here.
                if name.end == text.len() && !complete {
                    return Ok(None);
                }
                let format = String::from_utf8_lossy(name.text).into_owned();
                let data_start = name.end + blank_before_data(text.get(name.end..).unwrap_or_default())?;
                let sql_end = if previous_end == 0 { token.start } else { previous_end };
                return Ok(Some(InsertData { sql_end, format, data_start }));
            }
            _ => {}
        }
        previous_end = token.end;
    }
    Ok(None)
}

/// `t`, `d.t`, `` `d`.`t` ``, `{d:Identifier}.{t:Identifier}`, `f(…)`: so that a table named `values` is a name.
fn skip_name<'a>(tokens: &mut std::iter::Peekable<impl Iterator<Item = Token<'a>>>) {
    loop {
        match tokens.next() {
            Some(token) if token.kind == Kind::Symbol(b'{') => {
                while tokens.next().is_some_and(|token| token.kind != Kind::Symbol(b'}')) {}
            }
            Some(_) => {}
            None => return,
        }
        if tokens.next_if(|token| token.kind == Kind::Symbol(b'.')).is_none() {
            return;
        }
    }
}

/// Blanks between the format's name and the data: up to and with the first newline, as ClickHouse's parser takes them.
/// Whatever follows belongs to the data.
fn blank_before_data(rest: &[u8]) -> Result<usize, Exception> {
    let mut at = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t' | 0x0c)).unwrap_or(rest.len());
    if rest.get(at) == Some(&b';') {
        return Err(Exception::new(
            exception::SYNTAX_ERROR,
            "You have excessive ';' symbol before data for INSERT. Here are two examples of correct usage: \
             INSERT INTO t FORMAT CSV followed by a line feed and the data, and INSERT INTO t VALUES (1), (2)",
        ));
    }
    at += usize::from(rest.get(at) == Some(&b'\r'));
    at += usize::from(rest.get(at) == Some(&b'\n'));
    Ok(at)
}

fn whole(text: &[u8]) -> Result<Whole, Exception> {
    let mut statement = Whole::default();
    let mut depth = 0_u32;
    let mut previous: Option<Token<'_>> = None;
    let mut tokens = Lexer::new(text).peekable();
    let first: Vec<Token<'_>> = tokens.clone().take(4).collect();
    refuse_sessions(&first)?;
    statement.select = first
        .iter()
        .find(|token| token.kind != Kind::Symbol(b'('))
        .is_some_and(|token| ["SELECT", "WITH", "FROM"].iter().any(|word| token.is(word)));
    let insert = first.first().is_some_and(|token| token.is("INSERT"));
    while let Some(token) = tokens.next() {
        let after = |word: &str| previous.is_some_and(|token| token.is(word));
        match token.kind {
            Kind::Symbol(b'(' | b'[' | b'{') => depth += 1,
            Kind::Symbol(b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            Kind::Word if token.is("OUTFILE") && after("INTO") => return Err(outside("INTO OUTFILE")),
            Kind::Word if token.is("INFILE") && after("FROM") => return Err(outside("FROM INFILE")),
            Kind::Word if insert && token.is("input") && next_is(&mut tokens, b'(') => {
                return Err(Exception::new(
                    exception::NOT_IMPLEMENTED,
                    "the embedded engine has no INSERT … SELECT FROM input(): insert into the table itself",
                ));
            }
            Kind::Word if token.is("TOTALS") => statement.extra_rows = true,
            Kind::Word if depth == 0 && token.is("FORMAT") && !names_a_thing(previous) => {
                statement.format = output_format(tokens.clone());
            }
            Kind::Word if depth == 0 && token.is("SETTINGS") => {
                statement.extra_rows |= tokens.clone().any(|token| token.is("extremes"));
            }
            _ => {}
        }
        previous = Some(token);
    }
    Ok(statement)
}

/// The name behind FORMAT, if it is the clause at the end: only SETTINGS and the semicolon may follow it.
fn output_format<'a>(mut tokens: impl Iterator<Item = Token<'a>>) -> Option<String> {
    let name = tokens.next().filter(|name| name.kind == Kind::Word)?;
    let last = tokens.next().is_none_or(|next| next.kind == Kind::Symbol(b';') || next.is("SETTINGS"));
    last.then(|| String::from_utf8_lossy(name.text).into_owned())
}

fn next_is<'a>(tokens: &mut std::iter::Peekable<impl Iterator<Item = Token<'a>>>, symbol: u8) -> bool {
    tokens.peek().is_some_and(|token| token.kind == Kind::Symbol(symbol))
}

/// Whether a word behind this token is a name, not the FORMAT keyword.
fn names_a_thing(previous: Option<Token<'_>>) -> bool {
    previous.is_none_or(|token| {
        matches!(token.kind, Kind::Symbol(b',' | b'.'))
            || ["SELECT", "FROM", "JOIN", "AS", "BY", "INTO", "TABLE"].iter().any(|word| token.is(word))
    })
}

fn outside(clause: &str) -> Exception {
    Exception::new(
        exception::QUERY_IS_PROHIBITED,
        format_args!(
            "{clause} is refused: it would name a file of the machine that runs this engine; use the HTTP body"
        ),
    )
}

/// Statements whose only effect is on a session. Accepting them would promise what the next request does not find.
fn refuse_sessions(first: &[Token<'_>]) -> Result<(), Exception> {
    let word = |at: usize, word: &str| first.get(at).is_some_and(|token| token.is(word));
    let advice = if word(0, "SET") && !word(1, "TRANSACTION") {
        "SET: give settings as URL parameters or in a SETTINGS clause"
    } else if word(0, "USE") {
        "USE: give the URL parameter `database`"
    } else if word(0, "CREATE") && (word(1, "TEMPORARY") || word(3, "TEMPORARY")) {
        "CREATE TEMPORARY TABLE: create an ordinary table"
    } else if word(0, "BEGIN") || word(0, "START") && word(1, "TRANSACTION") {
        "transactions"
    } else {
        return Ok(());
    };
    Err(Exception::new(exception::NOT_IMPLEMENTED, format_args!("this front keeps no sessions, so it has no {advice}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Statement, format and data of an INSERT.
    fn split(text: &[u8]) -> Option<(&[u8], String, &[u8])> {
        match parse(text, true).expect("accepted") {
            Some(Statement::InsertData(insert)) => {
                Some((&text[..insert.sql_end], insert.format, &text[insert.data_start..]))
            }
            _ => None,
        }
    }

    fn format_of(text: &str) -> Option<String> {
        match parse(text.as_bytes(), true).expect("accepted") {
            Some(Statement::Whole(whole)) => whole.format,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn data_begin_behind_the_format_and_one_newline_whatever_they_are() {
        for data in [&b"\n\n \x00'"[..], b" \t\n", b"\x00\xff", b"'", b"/*", b"--", b";x", b"", b"\r\n"] {
            let mut text = b"INSERT INTO d.t (a, `b)`) FORMAT Native\n".to_vec();
            text.extend_from_slice(data);
            let (sql, format, found) = split(&text).expect("data");
            assert_eq!((sql, format.as_str(), found), (&b"INSERT INTO d.t (a, `b)`)"[..], "Native", data));
        }
    }

    #[test]
    fn words_that_only_look_like_the_clause_are_passed_over() {
        let (sql, format, data) =
            split(b"insert into values settings x = 'FORMAT CSV' /* FORMAT TSV */ format JSONEachRow {\"a\":1}")
                .expect("data");
        assert_eq!(
            (sql, format.as_str(), data),
            (&b"insert into values settings x = 'FORMAT CSV'"[..], "JSONEachRow", &b"{\"a\":1}"[..])
        );
        assert_eq!(split(b"INSERT INTO t (format, values) VALUES (1)").expect("data").2, b" (1)");
        assert_eq!(split(b"INSERT INTO {d:Identifier}.{t:Identifier} VALUES (1)").expect("data").1, "Values");
        assert_eq!(split(b"INSERT INTO t SELECT * FROM s FORMAT Null"), None);
        assert_eq!(split(b"INSERT INTO t; INSERT INTO u FORMAT CSV 1"), None);
        assert_eq!(split(b"INSERT INTO t WITH 1 AS x SELECT x"), None);
    }

    #[test]
    fn a_cut_text_waits_for_the_rest() {
        assert_eq!(parse(b"INSERT INTO t FORMAT Nat", false).expect("accepted"), None);
        assert_eq!(parse(b"INSERT INTO t (a", false).expect("accepted"), None);
        assert_eq!(parse(b"SELECT 1", false).expect("accepted"), None);
    }

    #[test]
    fn the_output_format_stands_at_the_end() {
        assert_eq!(format_of("SELECT 1 FORMAT JSON"), Some("JSON".into()));
        assert_eq!(format_of("SELECT 1\n FORMAT Native;"), Some("Native".into()));
        assert_eq!(format_of("SELECT 1 FORMAT CSV SETTINGS max_threads = 1"), Some("CSV".into()));
        assert_eq!(format_of("SELECT format('{}', a) FROM t"), None);
        assert_eq!(format_of("SELECT 'FORMAT JSON'"), None);
        assert_eq!(format_of("SELECT format FROM t"), None);
        assert_eq!(format_of("SELECT * FROM format f"), None);
        assert_eq!(format_of("SELECT a format FROM t"), None);
    }

    #[test]
    fn what_would_leave_the_engine_or_needs_a_session_is_refused() {
        for (text, code) in [
            ("SELECT 1 INTO OUTFILE 'x'", exception::QUERY_IS_PROHIBITED),
            ("EXPLAIN SELECT 1 into /* */ outfile 'x'", exception::QUERY_IS_PROHIBITED),
            ("INSERT INTO t FROM INFILE 'x' FORMAT CSV", exception::QUERY_IS_PROHIBITED),
            ("INSERT INTO t SELECT * FROM input('a Int8') FORMAT CSV 1", exception::NOT_IMPLEMENTED),
            ("SET a = 1", exception::NOT_IMPLEMENTED),
            ("use x", exception::NOT_IMPLEMENTED),
            ("CREATE OR REPLACE TEMPORARY TABLE t (a Int8)", exception::NOT_IMPLEMENTED),
            ("INSERT INTO t FORMAT CSV; 1", exception::SYNTAX_ERROR),
        ] {
            assert_eq!(parse(text.as_bytes(), true).expect_err(text).code, code, "{text}");
        }
    }
}
